"""Jobs from end to end, on simulated servers over real HTTP and a simulated clock."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from aurora_pool import Prompt, PromptOptions, Sampling, Timeouts
from aurora_pool.errors import ConfigError
from aurora_pool.jobs import Job, JobOptions, Progress, run_job
from aurora_pool.messages import AnyPrompt
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records, texts_of

pytestmark = pytest.mark.simulated_clock


async def test_every_request_gets_one_record(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(3) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS), output)
        assert sorted(received(fleet)) == sorted(prompt["prompt"] for prompt in PROMPTS)
    assert texts_of(output).keys() == {prompt["id"] for prompt in PROMPTS}
    assert (summary.ending, summary.total, summary.answered, summary.remaining) == ("finished", 200, 200, 0)
    assert sum(share.prompts for share in summary.agents) == 200
    assert sum(share.tokens for share in summary.agents) == summary.tokens > 0


async def test_records_are_written_as_requests_finish(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    counts = []

    def watch(progress: Progress) -> None:
        counts.append((progress.done, len(read_records(output))))

    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        options = JobOptions(interval=0.5)
        await run_job(pool, write_lines("in.jsonl", PROMPTS), output, options, on_progress=watch)
    assert all(done == written for done, written in counts)
    assert len({done for done, _ in counts}) > 3


async def test_chats_and_completions_go_where_they_belong(tmp_path: Path, write_lines: WriteLines) -> None:
    lines = [{"prompt": "a", "max_tokens": 3}, {"messages": [{"role": "user", "content": "b"}], "temperature": 0.5}]
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", lines), output)
        bodies = [request.body for request in fleet.requests if request.path == "/v1/completions"]
    plain, chat = sorted(bodies, key=lambda body: body.get("temperature", 0.0))
    assert (plain["prompt"], plain["max_tokens"]) == (["a"], 3)
    # A pool puts chats into the model's template, so that they travel in lists; the record is a chat's all the same.
    assert ("user\nb" in chat["prompt"][0], chat["temperature"]) == (True, 0.5)
    kinds = {record["custom_id"]: record["response"]["body"]["object"] for record in read_records(output)}
    assert kinds == {"line-1": "text_completion", "line-2": "chat.completion"}


async def test_a_standstill_names_the_agents_that_hold_the_oldest_prompts(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    standstills = []

    def watch(progress: Progress) -> None:
        if progress.standstill is not None:
            standstills.append(progress.standstill)

    async with fleet_of(1) as fleet, pool_of(fleet, timeouts=Timeouts(stall=600)) as pool:
        loop = asyncio.get_running_loop()
        loop.call_later(2, fleet.agents[0].hang)
        loop.call_later(100, fleet.agents[0].revive)
        await run_job(pool, write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl", on_progress=watch)
        assert re.match(
            rf"{fleet.endpoints[0]} \(\d+ prompts in flight, the oldest for 3\d s\)", standstills[0].agents[0]
        )
    assert 30 <= standstills[0].seconds < 32
    assert len(standstills) > 30


async def test_lines_for_completions_are_never_put_into_a_chat_template(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once upon a time"}},
        {"id": "b", "prompt": "What is a mill?"},
    ]
    async with fleet_of(1) as fleet, pool_of(fleet, prompting=PromptOptions(prompt_format="auto")) as pool:
        await run_job(pool, write_lines("in.jsonl", lines), tmp_path / "out.jsonl")
        sent = received(fleet)
    assert "Once upon a time" in sent
    assert any("user\nWhat is a mill?<" in prompt for prompt in sent)


async def test_the_sorted_copy_has_the_order_of_the_input(tmp_path: Path, write_lines: WriteLines) -> None:
    source = write_lines("in.jsonl", PROMPTS)
    for name in ("out.jsonl", "out.jsonl.gz", "out.jsonl.zst"):
        async with fleet_of(2) as fleet, pool_of(fleet) as pool:
            summary = await run_job(pool, source, tmp_path / name, JobOptions(ordered=True))
        assert summary.ordered == tmp_path / name.replace("out.", "out.ordered.")
        plain = summary.ordered
        if plain.suffix != ".jsonl":
            from aurora_pool.jobs.files import InputFile

            lines = [line.decode() for _, line in InputFile(plain).lines()]
            plain = write_lines("plain.jsonl", lines)
        assert [record["custom_id"] for record in read_records(plain)] == [prompt["id"] for prompt in PROMPTS]
    assert [record["custom_id"] for record in read_records(tmp_path / "out.jsonl")] != [p["id"] for p in PROMPTS]


async def test_requests_may_come_from_python(tmp_path: Path) -> None:
    requests: list[AnyPrompt | dict[str, str]] = [
        "Hi",
        Prompt("Ho", Sampling(temperature=0.5, stop=("x",), extra={"min_p": 0.1}), 4),
        [{"role": "user", "content": "Hu"}],
        {"custom_id": "mine", "prompt": "Ha"},
        Prompt([{"role": "user", "content": "He"}], Sampling(logprobs=2)),
        [1, 2, 3],
    ]
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, iter(requests), tmp_path / "out.jsonl")
        bodies = [request.body for request in fleet.agents[0].requests if request.method == "POST"]
    assert summary.answered == 6
    assert texts_of(tmp_path / "out.jsonl").keys() == {"line-1", "line-2", "line-3", "mine", "line-5", "line-6"}
    (sampled,) = [body for body in bodies if body.get("temperature") == 0.5]
    assert (sampled["min_p"], list(sampled["stop"]), sampled["max_tokens"]) == (0.1, ["x"], 4)
    assert any(2 in (body.get("top_logprobs"), body.get("logprobs")) for body in bodies)


async def test_the_output_is_never_the_input(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", PROMPTS)
    with pytest.raises(ConfigError, match="it would be written, and it is read"):
        Job(path, path)
