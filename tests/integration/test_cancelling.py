"""What is cancelled here stops there: the servers' own metrics tell."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from aurora_pool import AgentEndpoint, Prompt, Sampling, VLLMPool
from tests.integration.servers import Model, read_metrics, wait_until

ENDLESS = Sampling(temperature=0.0, extra={"ignore_eos": True})


async def wait_until_running(endpoints: list[AgentEndpoint]) -> None:
    """Wait until every server computes: what it has only been sent may look idle, and run later for one step."""
    await wait_until(endpoints, lambda seen: seen.running > 0)


async def assert_all_stop(endpoints: list[AgentEndpoint], requested: int) -> None:
    """Assert that every server runs idle long before it has generated the tokens that it was asked for."""
    before = [await read_metrics(endpoint) for endpoint in endpoints]
    after = await wait_until(endpoints, lambda seen: seen.idle)
    for was, now in zip(before, after, strict=True):
        assert now.tokens - was.tokens < requested / 2


@pytest.mark.parametrize("method", ["send_all_batched", "send_all"])
async def test_cancelling_a_call_stops_its_requests(
    pool: VLLMPool, endpoints: list[AgentEndpoint], model: Model, method: str
) -> None:
    prompts = [f"Chapter {n}." for n in range(16 * len(endpoints))]
    call = asyncio.create_task(getattr(pool, method)(prompts, model.context - 100, sampling=ENDLESS))
    await wait_until_running(endpoints)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    await assert_all_stop(endpoints, requested=16 * (model.context - 100))


async def test_leaving_an_iteration_stops_what_is_in_flight(
    pool: VLLMPool, endpoints: list[AgentEndpoint], model: Model
) -> None:
    long = [Prompt(f"Chapter {n}.", max_tokens=model.context - 100) for n in range(8 * len(endpoints))]

    async with aclosing(pool.iter_responses([*long, Prompt("Short.", max_tokens=1)], sampling=ENDLESS)) as responses:
        index, response = await anext(responses)
        await wait_until_running(endpoints)

    assert index == len(long)
    assert response.success
    await assert_all_stop(endpoints, requested=8 * (model.context - 100))
