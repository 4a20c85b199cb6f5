"""The online endpoints: what goes through, what comes back, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from aurora_pool.serve.blobs import FolderBlobs
from aurora_pool.serve.history import History
from aurora_pool.serve.storage import Storage
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import running_sequences
from tests.serve.running import MODEL, ended, line, running, submit, until

LONG = AgentProfile(slots=32, reply="word " * 400)
PRIVATE = ("Cookie", "X-Api-Key", "X-Forwarded-For", "X-Forwarded-Prefix", "X-Real-IP", "Proxy-Authorization")
HELLO: Any = [{"role": "user", "content": "Hello"}]


async def test_chats_and_completions(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        extra = {"top_k": 3, "min_p": 0.1, "vllm_xargs": {"a": 1}}
        raw = await run.client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=16,
            extra_body=extra,
            extra_headers={"X-Request-Id": "mine-7", **dict.fromkeys(PRIVATE, "mine")},
        )
        assert raw.parse().choices[0].message.content == "You said: Hello"
        assert raw.headers["X-Request-Id"] == "mine-7"
        request = next(r for r in run.fleet.requests if r.path == "/v1/chat/completions" and "top_k" in r.body)
        assert request.body == {"model": MODEL, "messages": HELLO, "max_tokens": 16, **extra}
        assert request.headers["x-request-id"] == "mine-7"
        assert {"authorization", *map(str.lower, PRIVATE)}.isdisjoint(request.headers)
        one = await run.client.completions.create(model=MODEL, prompt=[1, 2, 3], max_tokens=4)
        assert len(one.choices) == 1
        vectors = await run.client.embeddings.create(model=MODEL, input=["a", "b"])
        assert len(vectors.data) == 2
        assert [model.id for model in (await run.client.models.list()).data] == [MODEL]
        assert (await run.client.models.retrieve(MODEL)).id == MODEL


async def test_streams(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        stream = await run.client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=16, stream=True)
        assert "".join([event.choices[0].delta.content or "" async for event in stream]) == "You said: Hello"


async def test_tokens_of_online_requests_are_counted_by_the_agents(tmp_path: Path) -> None:
    async with running(tmp_path, agents=1) as run:
        whole = await run.client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=16)
        assert whole.usage is not None
        stream = await run.client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=16, stream=True, stream_options={"include_usage": True}
        )
        *_, last = [event async for event in stream]
        assert last.usage is not None
        told = whole.usage.completion_tokens + last.usage.completion_tokens
        await until(lambda: run.server.fleet.statistics()[0].tokens_done == told)


async def test_batches_of_a_user_and_a_priority_share_as_one_caller(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        fleet = run.server.fleet
        model = fleet.models[MODEL]
        ann = fleet.share(model, "ann", weight=2.0, priority=0)
        assert ann is fleet.share(model, "ann", weight=2.0, priority=0)
        assert ann is not fleet.share(model, "ann", weight=2.0, priority=1)
        assert ann is not fleet.share(model, "bob", weight=2.0, priority=0)
        assert ann.endpoints == model.pool.endpoints


async def test_agents_that_are_kept_for_online_requests_take_no_batches(tmp_path: Path) -> None:
    async with running(tmp_path, agents=2, tags={0: {"batches": "no"}}) as run:
        kept, other = run.fleet.agents
        at_first = [kept.prompts_received, other.prompts_received]  # what the pool finds out by

        def received() -> tuple[int, int]:
            return kept.prompts_received - at_first[0], other.prompts_received - at_first[1]

        done = await ended(run.client, await submit(run.client, [line(f"r{i}") for i in range(30)]))
        assert done.status == "completed"
        assert received() == (0, 30)
        for _ in range(4):
            await run.client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8)
        assert received() == (4, 30)
        kept.die()
        for _ in range(4):  # while it is out, the others serve online requests as well
            await run.client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8)
        assert received()[1] == 34


async def test_a_list_is_spread_over_the_fleet_prompt_by_prompt(tmp_path: Path) -> None:
    prompts = [f"p{i:02}" for i in range(20)]
    async with running(tmp_path, agents=4) as run:
        whole = await run.client.completions.create(
            model=MODEL, prompt=prompts, max_tokens=16, n=2, extra_headers={"X-Request-Id": "listed"}
        )
        assert [(c.index, c.text) for c in whole.choices] == [(i, f"You said: p{i // 2:02}") for i in range(40)]
        assert whole.usage is not None
        alone = await run.client.completions.create(model=MODEL, prompt="p00", max_tokens=16, n=2)
        assert alone.usage is not None
        assert whole.usage.prompt_tokens == 20 * alone.usage.prompt_tokens
        assert whole.id == "cmpl-listed"
        asked = [[r for r in agent.requests if r.body and r.body.get("n") == 2] for agent in run.fleet.agents]
        assert all(asked)
        stream = await run.client.completions.create(
            model=MODEL, prompt=prompts, max_tokens=16, stream=True, stream_options={"include_usage": True}
        )
        texts = dict.fromkeys(range(20), "")
        usages = []
        async for event in stream:
            for choice in event.choices:
                texts[choice.index] += choice.text
            if event.usage is not None:
                usages.append(event.usage)
        assert list(texts.values()) == [f"You said: p{i:02}" for i in range(20)]
        assert len(usages) == 1


async def test_errors_are_the_servers_own(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        with pytest.raises(openai.BadRequestError) as refused:
            await run.client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
        assert "temperature" in str(refused.value)
        with pytest.raises(openai.BadRequestError, match="empty"):
            await run.client.completions.create(model=MODEL, prompt=["fine", ""])
        with pytest.raises(openai.APIError, match="empty"):
            async for _ in await run.client.completions.create(model=MODEL, prompt=["fine", ""], stream=True):
                pass
        with pytest.raises(openai.NotFoundError) as unknown:
            await run.client.chat.completions.create(model="nope", messages=HELLO)
        assert unknown.value.body == {
            "message": "The model `nope` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
        for body in (b"{", b"[]", b'{"model": 7}', b"\xff"):
            headers = {"Content-Type": "application/json"}
            async with run.http.post(f"{run.server.address}/v1/completions", data=body, headers=headers) as reply:
                assert 400 <= reply.status < 500, body
                assert "error" in await reply.json()
        async with run.http.get(f"{run.server.address}/v1/nothing") as reply:
            assert (reply.status, set((await reply.json())["error"])) == (404, {"message", "type", "param", "code"})
        async with run.http.put(f"{run.server.address}/v1/completions") as reply:
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")


async def test_bodies_and_headers_have_limits(tmp_path: Path) -> None:
    async with running(tmp_path, body_bytes=1000, header_bytes=2000) as run:
        with pytest.raises(openai.APIStatusError) as refused:
            await run.client.completions.create(model=MODEL, prompt="x" * 1000)
        assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
        async with run.http.get(f"{run.server.address}/v1/models", headers={"X": "y" * 3000}) as reply:
            assert reply.status == 400


async def test_an_agents_death_before_the_first_byte_is_not_seen(tmp_path: Path) -> None:
    async with running(tmp_path, agents=2, profile=LONG) as run:
        requests = [
            asyncio.create_task(run.client.completions.create(model=MODEL, prompt=f"p{i}", max_tokens=60))
            for i in range(8)
        ]
        await until(lambda: all(agent.prompts_received >= 4 for agent in run.fleet.agents))
        run.fleet.agents[0].die()
        assert {len(reply.choices) for reply in await asyncio.gather(*requests)} == {1}


async def test_after_the_first_byte_the_stream_ends_with_an_error_event(tmp_path: Path) -> None:
    async with running(tmp_path, agents=1, profile=LONG) as run:
        body = {"model": MODEL, "prompt": "p", "max_tokens": 300, "stream": True}
        async with run.http.post(f"{run.server.address}/v1/completions", json=body) as reply:
            events = []
            async for raw in reply.content:
                if raw.strip():
                    events.append(raw.removeprefix(b"data: ").strip())
                if len(events) == 5:
                    run.fleet.agents[0].die()
        assert events[-1] == b"[DONE]"
        assert json.loads(events[-2])["error"]["type"] == "InternalServerError"
        run.fleet.agents[0].revive()
        stream = await run.client.completions.create(model=MODEL, prompt="p", max_tokens=300, stream=True)
        run.fleet.agents[0].die()
        with pytest.raises(openai.APIError, match="broke off"):
            _ = [event async for event in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_stops_the_work_at_the_server(tmp_path: Path, stream: bool) -> None:
    async with running(tmp_path, profile=LONG) as run:
        body = {"model": MODEL, "prompt": ["p", "q"], "max_tokens": 300, "stream": stream}
        request = asyncio.create_task(run.http.post(f"{run.server.address}/v1/completions", json=body))
        await until(lambda: running_sequences(run.fleet) == 2)
        if stream:
            (await request).close()
        request.cancel()
        await until(lambda: running_sequences(run.fleet) == 0)


async def test_several_models_on_one_fleet(tmp_path: Path) -> None:
    profiles = [AgentProfile(model="small", instant=True), AgentProfile(model="large", instant=True)]
    async with SimulatedFleet(2, profile=profiles) as fleet, running(tmp_path, fleet=fleet) as run:
        await until(lambda: len(run.server.fleet.models) == 2)
        for number, model in enumerate(("small", "large")):
            await run.client.completions.create(model=model, prompt="p", max_tokens=1)
            asked = [r.body["model"] for r in fleet.agents[number].requests if r.body]
            assert set(asked) == {model}
        assert {model.id for model in (await run.client.models.list()).data} == {"small", "large"}
        async with run.http.post(f"{run.server.address}/v1/completions", json={"prompt": "p"}) as reply:
            assert (reply.status, (await reply.json())["error"]["param"]) == (400, "model")


async def test_a_fleet_of_which_nobody_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with SimulatedFleet(1) as fleet:
        fleet.agents[0].die()
        async with running(tmp_path, fleet=fleet, waits=False) as run:
            address = run.server.address
            async with run.http.get(f"{address}/ready") as reply:
                assert reply.status == 503
            async with run.http.get(f"{address}/health") as reply:
                assert reply.status == 200
            with pytest.raises(openai.InternalServerError) as refused:
                await run.client.chat.completions.create(model=MODEL, messages=HELLO)
            assert refused.value.status_code == 503
            await until(lambda: "no agent serves a model yet" in caplog.text)
            fleet.agents[0].revive()
            await until(lambda: run.server.fleet.ready)
            async with run.http.get(f"{address}/ready") as reply:
                assert reply.status == 200
            async with run.http.get(f"{address}/metrics") as reply:
                assert b"aurora_pool_agents_in_service 1.0" in await reply.read()


async def test_agents_that_join_and_leave(tmp_path: Path) -> None:
    async with SimulatedFleet(2, profile=AgentProfile(instant=True)) as fleet, running(tmp_path, fleet=fleet) as run:
        await until(lambda: len(run.server.fleet.pools()) == 1)
        run.server.fleet.update_endpoints(fleet.endpoints[1:])
        await until(lambda: run.server.fleet.pools()[0].statistics().agents_in_service == 1)
        before = fleet.agents[0].prompts_received
        for _ in range(6):
            await run.client.completions.create(model=MODEL, prompt="p", max_tokens=1)
        assert fleet.agents[0].prompts_received == before
        run.server.fleet.update_endpoints(fleet.endpoints)
        await until(lambda: run.server.fleet.statistics()[0].state == "in service")


async def test_a_database_that_refuses_connections_is_told_as_openai_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Storage) -> Any:
        raise ConnectionRefusedError(111, "Connect call failed")

    async with running(tmp_path) as run:
        with monkeypatch.context() as down:
            down.setattr(Storage, "read", refuse)
            with pytest.raises(openai.InternalServerError, match="storage can't be used") as caught:
                await run.client.batches.list()
            assert caught.value.status_code == 503
            assert caught.value.type == "service_unavailable_error"
            async with run.http.get(f"{run.server.address}/api/events") as reply:
                assert (reply.status, reply.content_type) == (503, "application/json")
        assert not (await run.client.batches.list()).data


@pytest.mark.simulated_clock
async def test_work_in_the_background_that_ends_by_a_defect_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: History) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(History, "take", fail)
    async with running(tmp_path):
        await until(lambda: "ended, because of a defect" in caplog.text)


async def test_every_reply_has_the_requests_id(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        batch = await ended(run.client, await submit(run.client, [line("a")]))
        paths = (
            *("/health", "/nope", "/v1/models", "/api/state", "/api/events", "/openapi.json"),
            *("/", "/ui/", "/ui/?live", "/ui/static/style.css", "/ui/nope"),
            *(f"/v1/files/{batch.input_file_id}/content", f"/v1/batches/{batch.id}/output", "/v1/files/nope/content"),
        )
        for path in paths:
            async with run.http.get(
                run.server.address + path, headers={"X-Request-Id": "mine"}, allow_redirects=False
            ) as reply:
                given = [reply.headers.get(name) for name in ("X-Request-Id", "Server", "X-Content-Type-Options")]
            assert given == ["mine", "aurora-pool", "nosniff"], path
        chat = {"model": MODEL, "prompt": "p", "max_tokens": 1, "stream": True}
        async with run.http.post(f"{run.server.address}/v1/completions", json=chat) as reply:
            assert len(reply.headers.getall("X-Request-Id")) == 1
            assert reply.headers["Server"] == "aurora-pool"


async def test_a_reply_that_fails_midway_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks(self: FolderBlobs, name: str, start: int = 0) -> AsyncIterator[bytes]:
        yield b"half"
        raise OSError("the disk is gone")

    monkeypatch.setattr(FolderBlobs, "chunks", chunks)
    async with running(tmp_path) as run:
        created = await run.client.files.create(file=("a.jsonl", b"x" * 2000), purpose="batch")
        async with run.http.get(f"{run.server.address}/v1/files/{created.id}/content") as reply:
            with pytest.raises(aiohttp.ClientError):
                await reply.read()
