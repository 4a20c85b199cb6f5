"""What a type checker sees of the API: read by mypy in ``make check``, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import assert_type

import openai

from aurora_pool import (
    AgentEndpoint,
    EmbeddingPool,
    Prompt,
    Response,
    Sampling,
    VLLMPool,
    format_hostfile,
    parse_hostfile,
)
from aurora_pool.contrib.frames import answer_batch
from aurora_pool.contrib.rows import RowPool
from aurora_pool.engines import EnginePool
from aurora_pool.patterns import ReduceResult, map_gather, scatter_gather, tree_reduce
from aurora_pool.serve import ServerOptions, serving


def hostfiles() -> None:
    assert_type(parse_hostfile("fleet.hostfile"), list[AgentEndpoint])
    assert_type(format_hostfile([AgentEndpoint("gpu01", 8001, {"tier": "large"})]), str)


async def prompts_of_every_kind(pool: VLLMPool) -> None:
    text = "Name a colour."
    ids = [1, 2, 3]
    chat = [{"role": "user", "content": "Hello"}]
    whole = Prompt(text, Sampling(temperature=0.0), max_tokens=8)
    assert_type(await pool.send_all_batched([text, ids, chat, whole], 8, sampling=Sampling(n=2)), list[Response])
    assert_type(await pool.send_all([text, chat]), list[Response])
    assert_type(await pool.post(0, text), Response)
    assert_type(await pool.post_batch(0, [text, ids]), list[Response])
    assert_type(await pool.broadcast_prompt(chat), list[Response])
    assert_type(await pool.ask(chat), Response)
    assert_type((await pool.ask(text)).raise_for_status(), Response)
    assert_type(pool.iter_responses(text for _ in range(3)), AsyncGenerator[tuple[int, Response], None])


async def views_are_pools_of_the_same_kind(pool: VLLMPool) -> None:
    assert_type(pool.by_tag("tier", "large"), VLLMPool)
    assert_type(pool.sample(2), VLLMPool)
    assert_type(pool.select([0, 1]), VLLMPool)
    assert_type(pool.slice(0, 2), VLLMPool)
    assert_type(VLLMPool.from_hostfile("fleet.hostfile", max_tokens=8), VLLMPool)
    assert_type(EmbeddingPool.from_hostfile("fleet.hostfile", dimensions=8), EmbeddingPool)
    VLLMPool.from_hostfile("fleet.hostfile", max_token=8)  # type: ignore[call-arg]
    VLLMPool.from_hostfile("fleet.hostfile", max_tokens="8")  # type: ignore[arg-type]
    assert_type(VLLMPool(["gpu01", ("gpu02", 8001), AgentEndpoint("gpu03")]), VLLMPool)
    assert_type(pool.openai_client(), openai.AsyncOpenAI)


async def patterns_in_process(pool: EnginePool) -> None:
    assert_type(await scatter_gather(pool, ["Name a colour."]), list[Response])
    assert_type(await tree_reduce(pool, "{item}", "{responses}", items=["one"]), ReduceResult)
    assert_type(pool.by_tag("tier", "large"), EnginePool)
    assert_type(pool.max_tokens, int | None)
    EmbeddingPool(["gpu01"]).sync().run(scatter_gather, ["a text"])  # type: ignore[arg-type]


def other_frameworks() -> None:
    RowPool(["gpu[01-02]:8000", ("gpu03", 8001)], max_tokens=8)
    RowPool("fleet.hostfile", max_token=8)  # type: ignore[call-arg]
    answer_batch("fleet.hostfile", template="Name {a}.", max_tokens=8)
    answer_batch("fleet.hostfile", templates="Name {a}.")  # type: ignore[call-arg]
    serving(["gpu[01-02]:8000"], ServerOptions(data=Path("data")))


def without_await(pool: VLLMPool, engine: EnginePool) -> None:
    assert_type(pool.sync().run(scatter_gather, ["Name a colour."]), list[Response])
    assert_type(engine.sync().run(scatter_gather, ["Name a colour."]), list[Response])
    assert_type(pool.sync().run(VLLMPool.post, 0, "Name a colour."), Response)
    assert_type(pool.sync().run(lambda pool: pool.by_tag("tier", "large").ask("Name a colour.")), Response)


async def patterns(pool: VLLMPool) -> None:
    assert_type(await scatter_gather(pool, ["Name a colour."]), list[Response])
    assert_type(await map_gather(pool, "Name a {item}.", ["colour"]), list[Response])
    reduced = await tree_reduce(pool, "Summarise:\n{item}", "Merge:\n{responses}", items=["one", "two"])
    assert_type(reduced, ReduceResult)
