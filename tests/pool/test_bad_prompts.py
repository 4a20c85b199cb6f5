"""One bad prompt: named before anything is sent where that can be seen, else one failed response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from aurora_pool import ConfigError, Prompt, Sampling
from aurora_pool.embeddings import EmbeddingPool
from aurora_pool.testing import SimulatedFleet
from tests.pool.running import lists_at, prompts_at, running

pytestmark = pytest.mark.simulated_clock


class Odd:
    """What no encoder knows."""

    def __repr__(self) -> str:
        return "Odd()"


HALF = "half an emoji: \ud83d"
MISUSE: list[Any] = [
    None,
    7,
    b"bytes",
    {},
    [],
    [1, "a"],
    [1, None],
    [1.5],
    [True],
    [{"role": "user", "content": Odd()}],
    [{"role": "user", "content": "a"}, "b"],
    Prompt("a", Sampling(extra={"f": Odd()})),
    Prompt("a", {"temperature": 0}),  # type: ignore[arg-type]
    Prompt("a", Sampling(temperature="hot")),  # type: ignore[arg-type]
    Prompt("a", Sampling(seed=1.5)),  # type: ignore[arg-type]
    Prompt("a", Sampling(temperature=float("nan"))),
    Prompt("a", Sampling(extra=[1])),  # type: ignore[arg-type]
    Prompt("a", max_tokens=0),
    Prompt("a", format="html"),  # type: ignore[arg-type]
    Prompt(None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("bad", MISUSE, ids=repr)
async def test_a_list_is_checked_whole_before_anything_is_sent(bad: Any) -> None:
    async with running(2) as (fleet, pool):
        for send in (pool.send_all_batched, pool.send_all):
            with pytest.raises(ConfigError, match="prompt 49"):
                await send(["good"] * 49 + [bad] + ["good"], max_tokens=8)
        assert [prompts_at(agent) for agent in fleet.agents] == [[], []]
        assert (pool.statistics().queued, pool.statistics().in_flight) == (0, 0)


@pytest.mark.parametrize("bad", MISUSE, ids=repr)
async def test_from_an_iterator_it_is_one_failed_response(bad: Any) -> None:
    def prompts() -> Iterator[Any]:
        yield from ["good"] * 49
        yield bad
        yield "good"

    async def one_by_one() -> AsyncIterator[Any]:
        for prompt in prompts():
            yield prompt

    async with running(2) as (_, pool):
        for given in (prompts(), one_by_one()):
            found = {index: response async for index, response in pool.iter_responses(given, max_tokens=8)}
            assert [index for index in range(51) if not found[index].success] == [49]
            assert found[49].error_kind == "rejected"


@pytest.mark.parametrize(
    "bad", [HALF, Prompt(HALF), [{"role": "user", "content": HALF}], [{"role": "user", "content": [{"text": HALF}]}]]
)
async def test_text_that_is_no_unicode_is_one_failed_response(bad: Any) -> None:
    prompts = ["good é"] * 49 + [bad] + ["good"]
    for prompt_format in ("raw", "auto"):
        async with running(2, prompt_format=prompt_format) as (_, pool):
            for send in (pool.send_all_batched, pool.send_all):
                responses = await send(prompts, max_tokens=8)
                assert [index for index, response in enumerate(responses) if not response.success] == [49]
                assert "lone surrogate" in (responses[49].error or "")
                assert "d83d" in (responses[49].error or "")


async def test_one_in_fifty_thousand_costs_none_of_the_others() -> None:
    prompts = [f"p{i}" for i in range(50_000)]
    prompts[49_000] = HALF
    async with running(2) as (_, pool):
        responses = await pool.send_all_batched(prompts, max_tokens=8)
        assert [index for index, response in enumerate(responses) if not response.success] == [49_000]


@pytest.mark.parametrize(
    "ids", [[5, np.int64(6)], np.array([5, 6]), np.array([5, 6], dtype=np.uint16), range(5, 7), (5, 6)], ids=repr
)
async def test_token_ids_of_any_kind_of_integer(ids: Any) -> None:
    async with running(1) as (fleet, pool):
        (response,) = await pool.send_all_batched([ids], max_tokens=8)
        assert response.success
        assert prompts_at(fleet.agents[0]) == [[5, 6]]


async def test_numpys_numbers_in_a_sampling() -> None:
    sampling = Sampling(temperature=np.float32(0.5), seed=np.int64(3), extra={"min_p": np.float64(0.25)})  # type: ignore[arg-type]
    async with running(1) as (fleet, pool):
        await pool.send_all_batched(["a", Prompt("b", sampling)], max_tokens=8, sampling=sampling)
        for request in lists_at(fleet.agents[0]):
            assert (request.body["temperature"], request.body["seed"], request.body["min_p"]) == (0.5, 3, 0.25)


async def test_numpys_numbers_and_texts_as_prompts_and_in_messages() -> None:
    messages: Any = [{"role": "user", "content": np.str_("Hi"), "number": np.int64(3)}]
    async with running(1) as (_, pool):
        responses = await pool.send_all_batched(np.array(["a", "b"]), max_tokens=8)
        responses += await pool.send_all_batched([messages], max_tokens=8)
        assert all(response.success for response in responses)


async def test_a_bad_sampling_of_a_call_is_misuse() -> None:
    async with running(1) as (fleet, pool):
        with pytest.raises(ConfigError, match="sampling"):
            await pool.send_all_batched(["a"], sampling=Sampling(extra={"f": Odd()}))
        assert prompts_at(fleet.agents[0]) == []


async def test_embeddings_alike() -> None:
    async with SimulatedFleet(1) as fleet, EmbeddingPool(fleet.endpoints) as pool:
        with pytest.raises(ConfigError, match="prompt 1"):
            await pool.send_all_batched(["a", None])  # type: ignore[list-item]
        prompts: list[Any] = ["a", HALF, np.array([5, 6]), [{"role": "user", "content": "Hi"}]]
        responses = await pool.send_all_batched(prompts)
        assert [response.success for response in responses] == [True, False, True, False]
