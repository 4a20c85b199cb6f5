"""What a pool does with real servers of other engines: every prompt one answer, whatever they lack."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aurora_pool import PromptOptions, Sampling, Timeouts, VLLMPool
from aurora_pool.jobs import run_job
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.other_engines.servers import Engine

pytestmark = pytest.mark.timeout(1200)

RAW = PromptOptions(prompt_format="raw")
TIMEOUTS = Timeouts(probe=60.0, stall=120.0)


def prompts_for(engine: Engine) -> list[str]:
    return [f"Item {number} is" for number in range(engine.prompts)]


@pytest.mark.parametrize("told", [True, False], ids=["told", "found-out"])
async def test_texts_are_completed(engine: Engine, told: bool) -> None:
    line = f"{engine.address} engine={engine.name}" if told else engine.address
    async with VLLMPool([line], model=engine.model, max_tokens=6, prompting=RAW, timeouts=TIMEOUTS) as pool:
        responses = await pool.send_all_batched(prompts_for(engine))
        assert [response.error for response in responses] == [None] * engine.prompts
        assert all(1 <= (response.completion_tokens or 0) <= 6 for response in responses)
        assert pool.statistics().agents[0].failures == {}


async def test_texts_are_completed_without_streams(engine: Engine) -> None:
    prompting = PromptOptions(prompt_format="raw", stream=False)
    async with VLLMPool(
        [engine.address], model=engine.model, max_tokens=6, prompting=prompting, timeouts=TIMEOUTS
    ) as pool:
        responses = await pool.send_all_batched(prompts_for(engine))
        assert [response.error for response in responses] == [None] * engine.prompts


async def test_conversations_are_answered(engine: Engine) -> None:
    async with VLLMPool([engine.address], model=engine.model, max_tokens=6, timeouts=TIMEOUTS) as pool:
        texts = prompts_for(engine)[:3]
        for prompts in ([[{"role": "user", "content": text}] for text in texts], texts):
            responses = await pool.send_all_batched(prompts)
            assert [response.error for response in responses] == [None] * 3
            assert all(response.text for response in responses)


async def test_a_prompt_that_is_too_long_fails_alone(engine: Engine) -> None:
    if engine.context is None:
        pytest.xfail("transformers tells no context length, and refuses no prompt for its length")
    async with VLLMPool([engine.address], model=engine.model, prompting=RAW, timeouts=TIMEOUTS) as pool:
        long, short = await pool.send_all_batched(["word " * 3000, "One word:"], sampling=Sampling(stop=" "))
        assert (long.error_kind, short.error_kind) == ("rejected", None)
        assert f"maximum context length is {engine.context}" in str(long.error)


async def test_log_probabilities_come_in_one_form(engine: Engine) -> None:
    async with VLLMPool([engine.address], model=engine.model, max_tokens=4, prompting=RAW, timeouts=TIMEOUTS) as pool:
        response = await pool.ask("Once upon a", sampling=Sampling(logprobs=2))
        assert response.success
        if engine.name == "llamacpp":  # transformers takes the field and ignores it
            assert response.logprobs is not None
            assert all(logprob is not None and logprob <= 0 for logprob in response.logprobs.token_logprobs)


async def test_a_job_on_a_mixed_fleet_has_one_record_for_each_line(engine: Engine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(
        b"".join(msgspec.json.encode({"id": str(n), "prompt": f"Item {n} is"}) + b"\n" for n in range(24))
    )
    profile = AgentProfile(model=engine.model, instant=True)
    async with (
        SimulatedFleet(1, profile=profile) as fleet,
        VLLMPool([engine.address, *fleet.endpoints], model=engine.model, max_tokens=4, timeouts=TIMEOUTS) as pool,
    ):
        summary = await run_job(pool, source, output)
        assert (summary.answered, summary.failed) == (24, 0)
        assert sum(share.prompts for share in summary.agents) == 24
    assert len(output.read_bytes().splitlines()) == 24
