"""Many texts to one: tree_reduce, broadcast_and_reduce, map_reduce."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from aurora_pool.arguments import check_callable, check_many, check_whole
from aurora_pool.errors import ConfigError, PoolError
from aurora_pool.messages import AnyPrompt, Prompt, Response, Sampling
from aurora_pool.patterns.growing import Work, grow
from aurora_pool.patterns.templates import SEPARATOR, render, require_placeholder
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.patterns.tree import OnLevel, ReduceCall, ReduceResult, ReduceTree, TokenBudget
from aurora_pool.pool_options import CallOptions
from aurora_pool.progress import OnCallProgress, ProgressReport

__all__ = ["Clean", "broadcast_and_reduce", "map_reduce", "tree_reduce"]

DEFAULT_FANIN = 8
SPARE_TOKENS = 128
"""Left free in reduce prompts: for the chat template, and what a pool leaves free because lengths are estimates."""

Item = TypeVar("Item")
Name = TypeVar("Name", bound=Hashable)
Clean: TypeAlias = Callable[[str], str]
"""What is made of an answer before it is used."""
Step: TypeAlias = tuple[Name, int | ReduceCall]
"""Which tree a prompt belongs to, and where: the position of a leaf, or a reduce call."""


async def tree_reduce(
    pool: TextPool,
    prompt: str,
    reduce_prompt: str,
    fanin: int = DEFAULT_FANIN,
    items: Iterable[object] = (),
    *,
    max_tokens: int | None = None,
    reduce_max_tokens: int | None = None,
    clean: Clean | None = None,
    sampling: Sampling | None = None,
    on_level: OnLevel | None = None,
    on_progress: OnCallProgress | None = None,
    progress: bool = False,
    keep_blank: bool = False,
) -> ReduceResult:
    r"""Answer ``prompt`` for every item, and merge the answers with ``reduce_prompt`` until one is left.

    ::

        summary = await tree_reduce(
            pool, prompt="Summarise:\n{item}", reduce_prompt="Merge:\n{responses}", items=pages
        )
        print(summary.text, summary.lost)

    ``{item}`` stands for the item; ``{responses}`` for at most ``fanin`` texts with a blank line in between, fewer
    where more would not fit the model's context; ``{level}`` for the level of the tree, from 1. Neighbouring texts are
    merged as soon as they are all in, and which texts form a group depends on nothing but their positions.

    Leaves get ``max_tokens`` tokens, reduce prompts ``reduce_max_tokens``, or else the pool's own
    ``max_tokens_aggregation``. ``clean`` is called with each answer, and what it returns is used in its place:
    :func:`~aurora_pool.patterns.strip_reasoning` leaves out what a model has thought aloud. A lost leaf does not stop
    the rest: it is named in the result, which is then no success. A reduce prompt that fails twice has its texts merged
    one level up. ``on_level(level, texts)`` sees each level once it is complete. ``on_progress`` and ``progress`` are
    those of :meth:`VLLMPool.send_all_batched`; the total counts the reduce prompts that are foreseen. A blank
    answer (of a reasoning model whose ``max_tokens`` were too few, say) is a lost leaf, unless ``keep_blank``.

    Raises :class:`~aurora_pool.errors.ConfigError` before anything is sent: no items, ``fanin`` below 2, a template
    without its placeholder, a reduce prompt that leaves no tokens for it in the model's context.
    """
    require_placeholder("prompt", prompt, "item")
    check_many(items=items)
    items = list(items)
    check_answers(max_tokens, sampling, clean)
    budget = await reduce_budget(pool, reduce_prompt, reduce_max_tokens)
    tree = ReduceTree(len(items), fanin, budget=budget, on_level=on_level, keep_blank=keep_blank)
    leaves = (Prompt(render(prompt, item=item), max_tokens=max_tokens) for item in items)
    merge: Callable[[None, ReduceCall], Prompt] = merging(pool, reduce_prompt, reduce_max_tokens)
    with ProgressReport(tree.calls_foreseen, on_progress=on_progress, progress=progress) as report:
        return await reduce_leaves(pool, tree, leaves, merge, sampling=sampling, clean=clean, report=report)


async def broadcast_and_reduce(
    pool: TextPool,
    prompt: AnyPrompt,
    reduce_prompt: str,
    fanin: int = DEFAULT_FANIN,
    *,
    max_tokens: int | None = None,
    reduce_max_tokens: int | None = None,
    clean: Clean | None = None,
    sampling: Sampling | None = None,
    on_level: OnLevel | None = None,
    keep_blank: bool = False,
) -> ReduceResult:
    r"""Ask every agent the same, and merge the answers into one; the leaves of the result are the agents, in order.

    ::

        verdict = await broadcast_and_reduce(pool, "Is 91 a prime?", "Answers:\n{responses}\nThe consensus:")

    Arguments and errors are those of :func:`tree_reduce`; ``sampling`` is for the reduce prompts.
    """
    check_answers(max_tokens, sampling, clean)
    budget = await reduce_budget(pool, reduce_prompt, reduce_max_tokens)
    tree = ReduceTree(
        pool.size,
        fanin,
        budget=budget,
        on_level=on_level,
        names=lambda index: f"agent {pool.endpoints[index]}",
        keep_blank=keep_blank,
    )
    responses = [_cleaned(response, clean) for response in await pool.broadcast_prompt(prompt, max_tokens)]
    calls = [call for agent, response in enumerate(responses) for call in tree.leaf_done(agent, response)]
    prompt_for: Callable[[None, ReduceCall], Prompt] = merging(pool, reduce_prompt, reduce_max_tokens)
    first = [((None, call), prompt_for(None, call)) for call in calls]
    return (await reduce_forest(pool, {None: tree}, first, prompt_for, sampling=sampling, clean=clean))[None]


async def map_reduce(
    pool: TextPool,
    items: Iterable[Item],
    prompt: str,
    reduce_prompt: str,
    key: Callable[[Item], Name],
    *,
    fanin: int = DEFAULT_FANIN,
    max_tokens: int | None = None,
    reduce_max_tokens: int | None = None,
    clean: Clean | None = None,
    sampling: Sampling | None = None,
    keep_blank: bool = False,
) -> dict[Name, ReduceResult]:
    r"""Answer ``prompt`` for every item, and merge the answers of items with the same key: one result per key.

    ::

        by_author = await map_reduce(
            pool, papers, "Main finding:\n{item}", "What {key} found:\n{responses}", key=lambda paper: paper.author
        )

    ``{item}`` stands for ``str(item)``, ``{key}`` for the key. Each key has a tree of its own, as in
    :func:`tree_reduce`, and none waits for another. Leaves are counted within their key. The results keep the order in
    which the keys first came. Raises what :func:`tree_reduce` raises.
    """
    require_placeholder("prompt", prompt, "item")
    check_many(items=items)
    check_callable(key=key)
    check_answers(max_tokens, sampling, clean)
    budget = await reduce_budget(pool, reduce_prompt, reduce_max_tokens)
    groups: dict[Name, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    if not groups:
        raise ConfigError("there are no items to reduce")
    trees = {
        name: ReduceTree(len(members), fanin, budget=budget, keep_blank=keep_blank) for name, members in groups.items()
    }
    leaves = (
        ((name, index), Prompt(render(prompt, item=item, key=name), max_tokens=max_tokens))
        for name, members in groups.items()
        for index, item in enumerate(members)
    )
    prompt_for = merging(pool, reduce_prompt, reduce_max_tokens, lambda name: {"key": name})
    return await reduce_forest(pool, trees, leaves, prompt_for, sampling=sampling, clean=clean)


def check_answers(max_tokens: int | None, sampling: Sampling | None, clean: Clean | None) -> None:
    """Refuse what can't be asked of answers, before anything is sent. Raises :class:`ConfigError`."""
    CallOptions(max_tokens, sampling, batched=True)
    check_callable(clean=clean)


async def reduce_budget(pool: TextPool, reduce_prompt: str, max_tokens: int | None) -> TokenBudget | None:
    """Work out how many tokens of texts one reduce prompt can hold; None if the model's context is not known.

    Raises :class:`~aurora_pool.errors.ConfigError` if it has no ``{responses}``, or leaves no room for any.
    """
    check_whole(1, reduce_max_tokens=max_tokens)
    longest = max_tokens or pool.max_tokens_aggregation
    return await context_budget(pool, "reduce_prompt", reduce_prompt, "responses", longest)


async def context_budget(
    pool: TextPool, argument: str, template: str, placeholder: str, max_tokens: int | None
) -> TokenBudget | None:
    """Work out how many tokens may take a placeholder's place, so that prompt and answer fit the model's context.

    Raises :class:`~aurora_pool.errors.ConfigError`, naming the argument, if it has no placeholder or no room.
    """
    require_placeholder(argument, template, placeholder)
    await pool.start()
    if pool.max_context is None:
        return None
    used = await _count(pool, render(template, **{placeholder: ""}))
    answer = max_tokens or pool.max_context // 4
    budget = pool.max_context - SPARE_TOKENS - used - answer
    if budget < 1:
        raise ConfigError(
            f"{argument} is too long: {used} tokens of template and {answer} for the answer leave no room "
            f"for {{{placeholder}}} in the model's context of {pool.max_context}"
        )
    return TokenBudget(budget, pool.estimate_tokens)


async def _count(pool: TextPool, text: str) -> int:
    """Count a text's tokens; what is rejected for its length must not be rejected by an estimate, if that can be."""
    try:
        return len(await pool.tokenize(text))
    except PoolError:
        return pool.estimate_tokens(text)


async def reduce_leaves(
    pool: TextPool,
    tree: ReduceTree,
    leaves: Iterable[Prompt],
    prompt_for: Callable[[None, ReduceCall], Prompt],
    *,
    sampling: Sampling | None,
    clean: Clean | None,
    report: ProgressReport,
) -> ReduceResult:
    """Carry out what one tree decides, from its leaves on."""
    first = (((None, index), prompt) for index, prompt in enumerate(leaves))
    results = await reduce_forest(pool, {None: tree}, first, prompt_for, sampling=sampling, clean=clean, report=report)
    return results[None]


async def reduce_forest(
    pool: TextPool,
    trees: Mapping[Name, ReduceTree],
    first: Iterable[Work[Step[Name]]],
    prompt_for: Callable[[Name, ReduceCall], Prompt],
    *,
    sampling: Sampling | None = None,
    clean: Clean | None = None,
    report: ProgressReport | None = None,
) -> dict[Name, ReduceResult]:
    """Carry out what several trees decide, all in one call to the pool.

    ``first`` holds their leaves; ``prompt_for`` writes the prompt of a reduce call.
    """

    def follow(step: Step[Name], response: Response) -> list[Work[Step[Name]]]:
        name, place = step
        response = _cleaned(response, clean)
        tree = trees[name]
        calls = tree.leaf_done(place, response) if isinstance(place, int) else tree.call_done(place, response)
        return [((name, call), prompt_for(name, call)) for call in calls]

    await grow(pool, first, follow, sampling=sampling, report=report)
    return {name: tree.result() for name, tree in trees.items()}


def _cleaned(response: Response, clean: Clean | None) -> Response:
    if clean is None or not response.success:
        return response
    return msgspec.structs.replace(response, text=clean(response.text))


def merging(
    pool: TextPool,
    reduce_prompt: str,
    max_tokens: int | None,
    values_of: Callable[[Name], Mapping[str, object]] = lambda _: {},
) -> Callable[[Name, ReduceCall], Prompt]:
    """Make the function that writes the prompts of reduce calls; ``values_of`` gives a tree's own placeholders."""

    def prompt_for(name: Name, call: ReduceCall) -> Prompt:
        values = {**values_of(name), "responses": SEPARATOR.join(call.texts), "level": call.level}
        return Prompt(render(reduce_prompt, **values), max_tokens=max_tokens or pool.max_tokens_aggregation)

    return prompt_for
