"""One answer per prompt, per item, per agent: scatter, map, broadcast, sample."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aurora_pool.arguments import check_many, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.messages import AnyPrompt, Prompt, Response, Sampling
from aurora_pool.patterns.templates import render, require_placeholder
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.pool_options import CallOptions, listed
from aurora_pool.progress import OnCallProgress

__all__ = ["broadcast", "map_gather", "sample_many", "scatter_gather"]


async def scatter_gather(
    pool: TextPool,
    prompts: Iterable[AnyPrompt],
    max_tokens: int | None = None,
    *,
    sampling: Sampling | None = None,
    on_progress: OnCallProgress | None = None,
    progress: bool = False,
) -> list[Response]:
    """Answer every prompt, spread over the fleet; responses come back in the order of the prompts.

    ::

        responses = await scatter_gather(pool, [f"Analyze gene {g}" for g in genes], progress=True)

    ``max_tokens`` is the most tokens to generate per prompt; ``on_progress`` and ``progress`` tell how far it is, as in
    :meth:`VLLMPool.send_all_batched`. One prompt's failure is in its response.
    """
    return await pool.send_all_batched(
        prompts, max_tokens, sampling=sampling, on_progress=on_progress, progress=progress
    )


async def map_gather(
    pool: TextPool,
    template: str,
    items: Iterable[object],
    max_tokens: int | None = None,
    *,
    sampling: Sampling | None = None,
) -> list[Response]:
    """Answer one template for every item, which takes the place of ``{item}``.

    ::

        responses = await map_gather(pool, "Name the function of {item}.", ["TP53", "BRCA1"])

    Raises :class:`~aurora_pool.errors.ConfigError` if the template has no ``{item}``.
    """
    require_placeholder("template", template, "item")
    check_many(items=items)
    return await scatter_gather(pool, [render(template, item=item) for item in items], max_tokens, sampling=sampling)


async def broadcast(pool: TextPool, prompt: AnyPrompt, max_tokens: int | None = None) -> list[Response]:
    """Ask every agent the same; one response per agent, in the order of the agents.

    ::

        versions = await broadcast(pool, "Which model are you?")
    """
    return await pool.broadcast_prompt(prompt, max_tokens)


async def sample_many(
    pool: TextPool,
    prompts: Iterable[AnyPrompt],
    n: int,
    max_tokens: int | None = None,
    *,
    sampling: Sampling | None = None,
) -> list[list[Response]]:
    """Answer every prompt ``n`` times, the answers to one prompt spread over the agents.

    ::

        answers = await sample_many(pool, questions, n=5, sampling=Sampling(temperature=0.8))
        votes = [majority_vote(samples) for samples in answers]

    A ``seed`` is counted up from answer to answer: the same seed would give the same text ``n`` times over.
    ``Sampling(n=...)`` asks one agent for all of them, in one response.
    Raises :class:`~aurora_pool.errors.ConfigError` if ``n`` is less than 1, or if the temperature is 0.
    """
    check_whole(1, optional=False, n=n)
    CallOptions(max_tokens, sampling, batched=True)
    prompts = listed(prompts)
    copies = [copy for prompt in prompts for copy in _copies(prompt, n, sampling)]
    responses = await pool.send_all_batched(copies, max_tokens, sampling=sampling)
    return [responses[start : start + n] for start in range(0, len(responses), n)]


def _copies(prompt: AnyPrompt, n: int, sampling: Sampling | None) -> list[Prompt]:
    prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    sampling = prompt.sampling or sampling
    if sampling is not None and sampling.temperature == 0 and n > 1:
        raise ConfigError(f"{n} samples at temperature 0 are all the same: set a higher temperature")
    if sampling is None or sampling.seed is None:
        return [prompt] * n
    replace = msgspec.structs.replace
    return [replace(prompt, sampling=replace(sampling, seed=sampling.seed + number)) for number in range(n)]
