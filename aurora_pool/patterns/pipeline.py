"""Items that go through several prompts: one after another (run_pipeline), or side by side (fan_out_fan_in)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aurora_pool.arguments import check_callable, check_instance, check_many
from aurora_pool.errors import ConfigError
from aurora_pool.messages import ErrorKind, Prompt, Response, Sampling
from aurora_pool.patterns.growing import Work, grow
from aurora_pool.patterns.reduce import Clean, check_answers, merging, reduce_budget, reduce_forest
from aurora_pool.patterns.templates import render, require_placeholder
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.patterns.tree import ReduceResult, ReduceTree, why_not
from aurora_pool.pool_options import CallOptions

__all__ = ["PipelineResult", "Stage", "fan_out_fan_in", "run_pipeline"]


@dataclass(frozen=True, slots=True)
class Stage:
    r"""One step of a pipeline: a prompt, and how to take its answer.

    >>> facts = Stage("facts", "List the facts in:\n{item}", max_tokens=200)
    >>> check = Stage("check", "Does this text:\n{input}\nsupport these facts?\n{facts}")

    In ``prompt``, ``{item}`` stands for what the stage before made of the item (in the first stage, the item itself),
    ``{input}`` for the item as it came, and ``{<name of an earlier stage>}`` for what that one made of it.

    ``read`` turns the answer into what is handed on, by default its text. A ValueError that it raises marks the item as
    failed: the way to refuse an answer that is not what was asked for. ``max_tokens`` and ``sampling`` are for this
    stage's prompts. Raises :class:`~aurora_pool.errors.ConfigError` for arguments of another type.
    """

    name: str
    prompt: str
    max_tokens: int | None = None
    sampling: Sampling | None = None
    read: Callable[[Response], str] = lambda response: response.text

    def __post_init__(self) -> None:
        check_instance("name", self.name, str, optional=False)
        check_instance("prompt", self.prompt, str, optional=False)
        CallOptions(self.max_tokens, self.sampling, batched=True)
        check_callable(read=self.read)


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What became of one item. ``success`` means that it went through every stage.

    ``outputs`` holds what each stage made of it, by the stage's name, as far as it came; ``text`` is the last of them.
    Of a failed item, ``failed_stage`` and ``error`` say where and why (``error_kind`` if its prompt got no answer).
    """

    success: bool
    text: str
    outputs: Mapping[str, str]
    failed_stage: str | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None


@dataclass(slots=True)
class _Item:
    input: str
    outputs: dict[str, str] = field(default_factory=dict)
    result: PipelineResult | None = None


async def run_pipeline(
    pool: TextPool, stages: Sequence[Stage], items: Iterable[object], *, sampling: Sampling | None = None
) -> list[PipelineResult]:
    """Take every item through all stages; the results are in the order of the items.

    ::

        results = await run_pipeline(pool, [facts, check], documents)

    No item waits for another: the second stage works on the first item while the first stage works on the second. An
    item that fails goes no further, and the others go on.

    Raises :class:`~aurora_pool.errors.ConfigError` before anything is sent: no stages, two with the same name, or a
    prompt without any placeholder.
    """
    _check(stages)
    check_many(items=items)
    CallOptions(None, sampling, batched=True)
    taken: list[_Item] = []

    def work(number: int, step: int) -> Work[tuple[int, int]]:
        stage, item = stages[step], taken[number]
        handed_on = item.outputs[stages[step - 1].name] if step else item.input
        text = render(stage.prompt, **item.outputs, item=handed_on, input=item.input)
        return (number, step), Prompt(text, stage.sampling or sampling, stage.max_tokens)

    def start() -> Iterable[Work[tuple[int, int]]]:
        for number, item in enumerate(items):
            taken.append(_Item(str(item)))
            yield work(number, 0)

    def follow(key: tuple[int, int], response: Response) -> list[Work[tuple[int, int]]]:
        number, step = key
        item, stage = taken[number], stages[step]
        error, error_kind = response.error, response.error_kind
        if response.blank:
            error = why_not(response)
        elif response.success:
            try:
                item.outputs[stage.name] = stage.read(response)
            except ValueError as refused:
                error = f"the answer was refused: {refused}"
        done = stage.name in item.outputs
        if done and step + 1 < len(stages):
            return [work(number, step + 1)]
        text = next(reversed(item.outputs.values()), "")
        if done:
            item.result = PipelineResult(True, text, item.outputs)
        else:
            item.result = PipelineResult(False, text, item.outputs, stage.name, error, error_kind)
        return []

    await grow(pool, start(), follow)
    return [item.result for item in taken if item.result is not None]


async def fan_out_fan_in(
    pool: TextPool,
    items: Iterable[object],
    prompts: Mapping[str, str],
    reduce_prompt: str,
    *,
    max_tokens: int | None = None,
    reduce_max_tokens: int | None = None,
    clean: Clean | None = None,
    sampling: Sampling | None = None,
    keep_blank: bool = False,
) -> list[ReduceResult]:
    r"""Ask several prompts about every item at once, and merge the answers about it: one result per item, in order.

    ::

        reviews = await fan_out_fan_in(
            pool,
            papers,
            {"methods": "Check the methods:\n{item}", "statistics": "Check the statistics:\n{item}"},
            "Write one review of these:\n{responses}",
        )

    ``prompts`` are templates with ``{item}``, by a name that tells which of an item's answers was lost;
    ``reduce_prompt`` has ``{responses}``, in the order of ``prompts``, and may have ``{item}``. An item's answers are
    merged as soon as they are in. Where they would not fit the model's context together, they are merged in parts.
    ``max_tokens`` are those of ``prompts``; ``reduce_max_tokens``, ``clean`` and ``keep_blank`` those of
    :func:`~aurora_pool.patterns.tree_reduce`.

    Raises :class:`~aurora_pool.errors.ConfigError` before anything is sent: no prompts, a template without its
    placeholder.
    """
    check_instance("prompts", prompts, Mapping, optional=False)
    if not prompts:
        raise ConfigError("there are no prompts to fan out to")
    for name, template in prompts.items():
        require_placeholder(f"prompts[{name!r}]", template, "item")
    check_many(items=items)
    check_answers(max_tokens, sampling, clean)
    budget = await reduce_budget(pool, reduce_prompt, reduce_max_tokens)
    inputs = [str(item) for item in items]
    names = list(prompts)
    trees = {
        number: ReduceTree(
            len(names), max(2, len(names)), budget=budget, names=names.__getitem__, keep_blank=keep_blank
        )
        for number in range(len(inputs))
    }
    leaves = (
        ((number, branch), Prompt(render(prompts[name], item=text), max_tokens=max_tokens))
        for number, text in enumerate(inputs)
        for branch, name in enumerate(names)
    )

    def values_of(number: int) -> dict[str, object]:
        return {"item": inputs[number]}

    prompt_for = merging(pool, reduce_prompt, reduce_max_tokens, values_of)
    return list((await reduce_forest(pool, trees, leaves, prompt_for, sampling=sampling, clean=clean)).values())


def _check(stages: Sequence[Stage]) -> None:
    check_many(stages=stages)
    if not stages:
        raise ConfigError("a pipeline needs at least one stage")
    known = ["item", "input"]
    for number, stage in enumerate(stages):
        check_instance(f"stages[{number}]", stage, Stage, optional=False)
        if stage.name in known:
            raise ConfigError(f"stage name {stage.name!r} is taken: each stage needs one of its own")
        if not any(f"{{{name}}}" in stage.prompt for name in known):
            expected = " or ".join(f"{{{name}}}" for name in known)
            raise ConfigError(f"the prompt of stage {stage.name!r} has no {expected} in it")
        known.append(stage.name)
