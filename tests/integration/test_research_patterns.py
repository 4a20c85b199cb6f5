"""Each of the larger patterns runs on real servers, and accounts for everything it was given."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aurora_pool import AgentEndpoint, Sampling, VLLMPool
from aurora_pool.aggregators import failure_report, majority_vote
from aurora_pool.patterns import (
    Blackboard,
    Role,
    Stage,
    broadcast_and_reduce,
    fan_out_fan_in,
    map_gather,
    map_reduce,
    run_pipeline,
    sample_many,
    summarize,
    tree_reduce,
)

PLACES = ["a mill", "a harbour", "an orchard", "a railway", "a lighthouse"]


@pytest.fixture
async def pool(endpoints: list[AgentEndpoint]) -> AsyncIterator[VLLMPool]:
    async with VLLMPool(endpoints, max_tokens_aggregation=24, sampling=Sampling(temperature=0.0)) as opened:
        yield opened


async def test_map_gather(pool: VLLMPool) -> None:
    responses = await map_gather(pool, "Name one thing that is found in {item}.", PLACES, 12)

    assert str(failure_report(responses)) == "all 5 prompts were answered"


async def test_broadcast_and_reduce(pool: VLLMPool) -> None:
    result = await broadcast_and_reduce(pool, "Name a colour.", "Answers:\n{responses}\nThe consensus:", max_tokens=8)

    assert result.success, result.error
    assert (result.leaves, result.calls) == (pool.size, pool.size + (pool.size > 1))


async def test_map_reduce(pool: VLLMPool) -> None:
    results = await map_reduce(
        pool, PLACES, "Describe {item}.", "Merge:\n{responses}", key=lambda place: len(place) % 2, max_tokens=12
    )

    assert sum(result.leaves for result in results.values()) == len(PLACES)
    assert all(result.success for result in results.values())


async def test_fan_out_fan_in(pool: VLLMPool) -> None:
    prompts = {"sound": "What is heard in {item}?", "smell": "What is smelt in {item}?"}
    results = await fan_out_fan_in(pool, PLACES, prompts, "{item}:\n{responses}\nIn one sentence:", max_tokens=12)

    assert [result.success for result in results] == [True] * len(PLACES)


async def test_run_pipeline(pool: VLLMPool) -> None:
    stages = [Stage("draft", "Describe {item}.", max_tokens=12), Stage("title", "A title for: {draft}", max_tokens=6)]
    results = await run_pipeline(pool, stages, PLACES)

    assert [list(result.outputs) for result in results] == [["draft", "title"]] * len(PLACES)


async def test_sample_many(pool: VLLMPool) -> None:
    [samples] = await sample_many(pool, ["Name a fruit."], 6, 8, sampling=Sampling(temperature=1.0, seed=1))

    assert majority_vote(samples).winner
    assert {sample.agent_index for sample in samples} == set(range(pool.size))


async def test_blackboard(pool: VLLMPool) -> None:
    roles = [
        Role("poet", "poem", "A line on the sea, after:\n{poem}\n{advice}", max_tokens=12),
        Role("critic", "advice", "One word of advice on:\n{poem}", replace=True, max_tokens=6),
    ]
    result = await Blackboard({"poem": "The sea is wide.", "advice": ""}, roles).run(pool, rounds=2)

    assert result.lost == ()
    assert result.sections["poem"].startswith("The sea is wide.")


async def test_summarize_in_a_small_context(pool: VLLMPool) -> None:
    text = "\n\n".join(f"In the year {year} the mill ground {year % 7 + 3} tons of corn." for year in range(1800, 1900))
    result = await summarize(pool, [text], max_tokens=16, chunk_tokens=600)

    assert result.success, result.error
    assert result.leaves > 1


async def test_reduce_prompts_are_kept_to_the_context(pool: VLLMPool) -> None:
    pages = [f"Page {n} is about the number {n}." for n in range(12)]
    reduce_prompt = "word " * 1500 + "\nMerge:\n{responses}"  # leaves room for only some of the 2,048 tokens
    # So small a model answers 1,500 times "word" with nothing now and then: what counts here is that all fits.
    result = await tree_reduce(pool, "Summarise:\n{item}", reduce_prompt, 12, pages, max_tokens=40, keep_blank=True)

    assert result.success, result.error
    assert result.leaves == 12
