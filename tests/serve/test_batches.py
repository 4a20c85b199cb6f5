"""Batches, as the openai package's own client sees them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from aurora_pool.serve.folders import BatchFolders
from aurora_pool.serve.leases import Leases
from aurora_pool.testing import AgentProfile
from tests.pool.running import running_sequences
from tests.serve.running import COMPLETIONS, MODEL, ended, jsonl, line, records, running, submit, until

SLOW = AgentProfile(slots=4, median_length=400.0, speed=0.5)


async def test_a_batch_from_its_file_to_its_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        batch = await submit(run.client, [line(f"r{i}") for i in range(50)], metadata={"who": "ann"})
        assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", COMPLETIONS)
        done = await ended(run.client, batch)
        assert done.status == "completed"
        counts = done.request_counts
        assert counts is not None
        assert (counts.completed, counts.failed, counts.total) == (50, 0, 50)
        assert (done.metadata, done.model, done.error_file_id) == ({"who": "ann"}, MODEL, None)
        times = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
        assert list(times) == sorted(time for time in times if time is not None)
        output = await records(run.client, done.output_file_id)
        texts = {record["custom_id"]: record["response"]["body"]["choices"][0]["text"] for record in output}
        assert texts == {f"r{i}": f"You said: r{i}" for i in range(50)}
        assert all(record["error"] is None and record["response"]["status_code"] == 200 for record in output)
        assert all("aurora_pool" not in record for record in output)  # whose agent answered is nobody's business
        usage = done.usage
        assert usage is not None
        bodies = [record["response"]["body"]["usage"] for record in output]
        assert usage.input_tokens == sum(body["prompt_tokens"] for body in bodies)
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        file = await run.client.files.retrieve(str(done.output_file_id))
        assert (file.purpose, file.bytes) == ("batch_output", len((await run.client.files.content(file.id)).content))


async def test_chats_and_requests_that_fail_alone(tmp_path: Path) -> None:
    def chat(name: str, **more: Any) -> dict[str, Any]:
        body = {"model": MODEL, "messages": [{"role": "user", "content": name}], "max_tokens": 16, **more}
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    async with running(tmp_path) as run:
        lines = [chat("good"), chat("bad", temperature=-1.0), chat("also good")]
        done = await ended(run.client, await submit(run.client, lines, "/v1/chat/completions"))
        assert done.status == "completed"
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
        [failed] = await records(run.client, done.error_file_id)
        assert failed["custom_id"] == "bad"
        output = await records(run.client, done.output_file_id)
        answers = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in output}
        assert answers == {"good": "You said: good", "also good": "You said: also good"}


async def test_requests_that_a_job_cannot_rewrite_go_as_they_stand(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    calls = [{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}]
    lists = [line("l0"), line("l1", ["one", "two"])]
    vectors = [
        {"custom_id": f"e{i}", "method": "POST", "url": "/v1/embeddings", "body": {"model": MODEL, "input": f"t{i}"}}
        for i in range(5)
    ]
    async with running(tmp_path) as run:
        first = await ended(run.client, await submit(run.client, vectors, "/v1/embeddings"))
        output = await records(run.client, first.output_file_id)
        assert {record["custom_id"] for record in output} == {f"e{i}" for i in range(5)}
        assert {record["response"]["body"]["data"][0]["object"] for record in output} == {"embedding"}
        second = await ended(run.client, await submit(run.client, lists))
        output = await records(run.client, second.output_file_id)
        texts = {each["custom_id"]: [c["text"] for c in each["response"]["body"]["choices"]] for each in output}
        assert texts == {"l0": ["You said: l0"], "l1": ["You said: one", "You said: two"]}
        third = await ended(run.client, await submit(run.client, calls, "/v1/chat/completions"))
        [failed] = await records(run.client, third.error_file_id)
        # The simulated server takes no tools: what it says stands in the record, as OpenAI has it.
        assert failed["response"]["status_code"] == 400
        assert "tool" in failed["response"]["body"]["error"]["message"]
        sent = [r.body["tools"] for r in run.fleet.requests if "tools" in (r.body or {})]
        assert sent in ([tools], [tools, tools])  # what an agent that answered nothing yet rejects is shown to another


@pytest.mark.usefixtures("quick")
async def test_requests_that_go_as_they_stand_have_a_rate_and_an_end(tmp_path: Path) -> None:
    async with running(tmp_path, agents=1, profile=SLOW) as run:
        batch = await submit(run.client, [line(f"l{i}", ["one", "two"]) for i in range(1000)])

        async def told() -> bool:
            found = await run.client.batches.retrieve(batch.id)
            own = (found.model_extra or {})["aurora_pool"]
            return bool(own["eta_seconds"] and own["requests_per_second"])

        await until(told)


BAD_FILES = {
    "empty": (b"", "empty_file", None),
    "not JSON": (jsonl([line("a")]) + b"{nonsense\n", "invalid_json_line", 2),
    "no id": (jsonl([{**line("a"), "custom_id": ""}]), "missing_required_parameter", 1),
    "id of another type": (jsonl([{**line("a"), "custom_id": 7}]), "invalid_request", 1),
    "twice the same id": (jsonl([line("a"), line("b"), line("a")]), "duplicate_custom_id", 3),
    "another endpoint": (jsonl([{**line("a"), "url": "/v1/embeddings"}]), "invalid_url", 1),
    "another method": (jsonl([{**line("a"), "method": "GET"}]), "invalid_method", 1),
    "streamed": (jsonl([line("a", stream=True)]), "invalid_request", 1),
    "two models": (jsonl([line("a"), line("b", model="other")]), "mismatched_model", 2),
    "a model that nobody serves": (jsonl([line("a", model="other")]), "model_not_found", None),
    "no body": (jsonl([{"custom_id": "a", "method": "POST", "url": COMPLETIONS}]), "invalid_request", 1),
    "not UTF-8": (b'{"custom_id": "\xff"}\n', "invalid_request", 1),
}


async def test_a_bad_file_fails_and_its_errors_name_the_lines(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        batches = {name: await submit(run.client, content) for name, (content, _, _) in BAD_FILES.items()}
        for name, (_, code, number) in BAD_FILES.items():
            failed = await ended(run.client, batches[name])
            assert failed.status == "failed", name
            assert failed.failed_at is not None
            assert failed.errors is not None, name
            assert failed.errors.data, name
            error = failed.errors.data[0]
            assert (error.line, bool(error.message)) == (number, True), name
            assert error.code == code or name == "not UTF-8", name
            assert code != "model_not_found" or (error.message or "").endswith(f" The server has: {MODEL}.")


async def test_all_errors_of_a_file_are_listed_up_to_a_hundred(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        failed = await ended(run.client, await submit(run.client, b"\n" + b"x\n" * 500))
        assert failed.errors is not None
        assert [error.line for error in failed.errors.data or []] == list(range(2, 102))


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"endpoint": "/v1/moderations"}, "endpoint"),
    ({"endpoint": 7}, "endpoint"),
    ({"completion_window": "soon"}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"input_file_id": "file-none"}, "id"),
    ({"metadata": {"a": "x" * 600}}, "metadata"),
    ({"metadata": {f"k{i}": "" for i in range(17)}}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after"),
    ({"output_expires_after": {"anchor": "born", "seconds": 5000}}, "output_expires_after"),
    ({"priority": 1000}, "priority"),
    ({"no_such_thing": 1}, "no_such_thing"),
]


async def test_bad_requests_are_refused_in_openais_shape(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        file = await run.client.files.create(file=("in.jsonl", jsonl([line("a")])), purpose="batch")
        good = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "24h"}
        for change, param in BAD_REQUESTS:
            async with run.http.post(f"{run.server.address}/v1/batches", json={**good, **change}) as reply:
                error = (await reply.json())["error"]
                assert reply.status in (400, 404), change
            assert set(error) == {"message", "type", "param", "code"}
            assert str(error["param"]).startswith(param), (change, error)
        for name in good:
            body = {key: value for key, value in good.items() if key != name}
            async with run.http.post(f"{run.server.address}/v1/batches", json=body) as reply:
                assert (reply.status, (await reply.json())["error"]["param"]) == (400, name)
        async with run.http.post(f"{run.server.address}/v1/batches", data=b"{") as reply:
            assert reply.status == 400
        with pytest.raises(openai.NotFoundError):
            await run.client.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            await run.client.batches.cancel("batch_none")


async def test_batches_are_listed_by_pages(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        created = [(await submit(run.client, [line("a")])).id for _ in range(5)]
        page = await run.client.batches.list(limit=2)
        assert ([each.id for each in page.data], page.has_more) == (created[:2:-1], True)
        assert [each.id async for each in run.client.batches.list(limit=2)] == created[::-1]
        with pytest.raises(openai.NotFoundError):
            await run.client.batches.list(after="batch_none")
        with pytest.raises(openai.BadRequestError):
            await run.client.batches.list(limit=0)


@pytest.mark.usefixtures("quick")
async def test_cancelling_keeps_what_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, profile=SLOW) as run:
        batch = await submit(run.client, [line(f"r{i}", max_tokens=1 + 300 * (i % 2)) for i in range(300)])

        async def begun() -> bool:
            counts = (await run.client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed > 0

        await until(begun)
        async with run.http.get(f"{run.server.address}/v1/batches/{batch.id}/output") as reply:
            part = [json.loads(each) for each in (await reply.text()).splitlines()]
        assert (await run.client.batches.cancel(batch.id)).status == "cancelling"
        done = await ended(run.client, batch)
        assert done.status == "cancelled"
        assert None not in (done.cancelling_at, done.cancelled_at)
        output = await records(run.client, done.output_file_id)
        assert {record["custom_id"] for record in part} <= {record["custom_id"] for record in output}
        assert done.request_counts is not None
        assert 0 < len(output) == done.request_counts.completed < 300
        await until(lambda: not running_sequences(run.fleet))
        with pytest.raises(openai.ConflictError) as refused:
            await run.client.batches.cancel(batch.id)
        assert refused.value.response.headers["x-should-retry"] == "false"  # clients would else, after a pause


@pytest.mark.usefixtures("quick")
async def test_a_window_that_closes(tmp_path: Path) -> None:
    async with running(tmp_path, profile=SLOW) as run:
        lines = [line(f"r{i}", max_tokens=1 if i < 20 else 5000, ignore_eos=True) for i in range(60)]
        done = await ended(run.client, await submit(run.client, lines, completion_window="2s"))
        assert done.status == "expired"
        assert done.expired_at is not None
        late = await records(run.client, done.error_file_id)
        output = await records(run.client, done.output_file_id) if done.output_file_id else []
        names = [record["custom_id"] for record in [*late, *output]]
        assert sorted(names) == sorted(f"r{i}" for i in range(60))
        assert {record["error"]["code"] for record in late} == {"batch_expired"}
        assert done.request_counts is not None
        assert done.request_counts.failed == len(late) > 0


@pytest.mark.usefixtures("quick")
async def test_pausing_and_going_on(tmp_path: Path) -> None:
    async with running(tmp_path, profile=SLOW) as run:
        batch = await submit(run.client, [line(f"r{i}", max_tokens=5) for i in range(100)])
        address = f"{run.server.address}/v1/batches/{batch.id}"
        async with run.http.post(f"{address}/pause") as reply:
            assert (await reply.json())["aurora_pool"]["paused"] is True
        await until(lambda: not running_sequences(run.fleet))
        sent = run.fleet.prompts_received
        other = await ended(run.client, await submit(run.client, [line("other", max_tokens=1)]))
        assert other.status == "completed"
        assert run.fleet.prompts_received == sent + 1
        async with run.http.post(f"{address}/resume") as reply:
            assert (await reply.json())["aurora_pool"]["paused"] is False
        done = await ended(run.client, batch)
        output = await records(run.client, done.output_file_id)
        assert sorted(record["custom_id"] for record in output) == sorted(f"r{i}" for i in range(100))


@pytest.mark.usefixtures("quick")
async def test_a_restart_goes_on_with_what_it_finds(tmp_path: Path) -> None:
    lines = [line(f"r{i}", max_tokens=20) for i in range(200)]
    async with running(tmp_path / "data", profile=SLOW) as run:
        batch = await submit(run.client, lines)

        async def begun() -> bool:
            counts = (await run.client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed > 10

        await until(begun)
    async with running(tmp_path / "data") as run:
        done = await ended(run.client, batch)
        output = await records(run.client, done.output_file_id)
        assert sorted(record["custom_id"] for record in output) == sorted(each["custom_id"] for each in lines)
        assert run.fleet.prompts_received < 195  # what was answered before is not asked again


@pytest.mark.usefixtures("quick")
async def test_a_batch_that_ends_is_not_taken_for_another_replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renew, drop = Leases.renew, BatchFolders.drop
    polls = 0

    async def counted(leases: Leases, *arguments: Any) -> Any:
        nonlocal polls
        held = await renew(leases, *arguments)
        polls += 1
        return held

    async def late(folders: BatchFolders, batch_id: str) -> None:
        seen = polls
        await until(lambda: polls > seen + 1)
        await drop(folders, batch_id)

    monkeypatch.setattr(Leases, "renew", counted)
    monkeypatch.setattr(BatchFolders, "drop", late)
    async with running(tmp_path) as run:
        batch = await ended(run.client, await submit(run.client, [line("a")]))
        await until(lambda: not (tmp_path / "batches" / batch.id).exists() or "another replica" in caplog.text)
    assert "another replica" not in caplog.text


async def test_an_input_file_may_be_deleted_while_its_batch_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        batch = await submit(run.client, [line("a")])
        await run.client.files.delete(batch.input_file_id)
        assert (await ended(run.client, batch)).status == "completed"


async def test_a_fleet_that_comes_later(tmp_path: Path) -> None:
    async with running(tmp_path, agents=1, patience=1.0) as run:
        agent = run.fleet.agents[0]
        agent.die()
        batch = await submit(run.client, [line("a"), line("b")])
        await asyncio.sleep(0)
        assert (await run.client.batches.retrieve(batch.id)).status in ("validating", "in_progress")
        agent.revive()
        assert (await ended(run.client, batch)).status == "completed"
