"""Replies that are handed on unread are bounded too, and what of them is read ends no request of anybody else."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, PoolError, PromptOptions, VLLMPool
from aurora_pool.serve.spread import ListStream, PromptList, answer_list
from aurora_pool.serve.verbatim import VerbatimRun
from tests.hostile.odd_server import Asked, OddServer, begin, choice, good, http, pool_of, sse, stream, text_for
from tests.hostile.test_boundary import DEEP, DEEPER
from tests.hostile.test_bounds import MIB, PIECE, Flood

pytestmark = pytest.mark.simulated_clock

PATH = "/v1/completions"
HEADERS = {"Content-Type": "application/json"}
LONG = {"Content-Length": str(1 << 34)}


def body(prompt: Any, **more: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, "max_tokens": 4, **more}).encode()


class Raw(Flood):
    """The same without chunks, after a head that promises much."""

    async def __call__(self, asked: Asked) -> None:
        asked.writer.write(self.head)
        while not asked.writer.is_closing() and self.sent < 400 * MIB:
            asked.writer.write(self.piece)
            self.sent += len(self.piece)
            await asked.writer.drain()


SPACES = b" " * PIECE
PACKED = gzip.compress(b" " * (40 * MIB))
LENGTHY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17179869184\r\n\r\n"
FLOODS = {
    "chunks": lambda: Flood(begin("application/json"), b"{", SPACES),
    "a length": lambda: Raw(LENGTHY, b"", SPACES),
    "events": lambda: Flood(begin(), sse(choice(0, "a")), sse(*[choice(0, "x" * 900)] * 60)),
    "gzip": lambda: Flood(begin("application/json", {"Content-Encoding": "gzip"}), b"", PACKED),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_that_is_handed_on_is_cut(flood: Any) -> None:
    odd = flood()
    async with pool_of(odd, good) as (pool, _):
        forwarder = pool.forwarder()
        failures = []
        for number in range(6):
            try:
                with await forwarder.send("POST", PATH, HEADERS, body(f"p{number}", stream=True)) as reply:
                    content = await reply.read()
                assert text_for(f"p{number}")[3:] in content.decode()
            except PoolError as error:
                failures.append(str(error))
        assert all("far more than was asked for" in failure for failure in failures)
        assert len(failures) < 3  # those that had begun to reach their callers when the agent went out
    assert 0 < odd.sent < 20 * MIB


async def test_a_long_reply_that_was_asked_for_is_handed_on_whole() -> None:
    vectors = json.dumps({"data": [{"index": i, "embedding": [0.123456789] * 4096} for i in range(400)]}).encode()
    assert len(vectors) > 16 * MIB
    async with pool_of(lambda _: http(vectors)) as (pool, _):
        asked = json.dumps({"model": "m", "input": [f"text {i}" for i in range(400)]}).encode()
        with await pool.forwarder().send("POST", "/v1/embeddings", HEADERS, asked) as reply:
            assert await reply.read() == vectors


async def test_headers_that_are_handed_on_hold_no_key_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-secret")

    def repeats(asked: Asked) -> bytes:
        return http(b"{}", headers={"X-Got": asked.headers.get("authorization", ""), "X-Other": "kept"})

    server = OddServer(repeats)
    await server.start()
    endpoint = AgentEndpoint("127.0.0.1", server.endpoint.port, {"api_key_env": "THE_KEY"})
    async with VLLMPool([endpoint], model="m", prompting=PromptOptions(prompt_format="raw")) as pool:
        with await pool.forwarder().send("POST", PATH, HEADERS, body("a")) as reply:
            assert (reply.headers["X-Got"], reply.headers["X-Other"]) == ("Bearer ***", "kept")
    await server.close()


ODD = {
    "deep": http(DEEP),
    "deeper": http(DEEPER),
    "no object": http(b"[1]"),
    "no choices": http(b'{"choices":[7]}'),
    "an index of text": http(b'{"choices":[{"index":"0","text":"a"}]}'),
    "an event that is none": stream(b"[1]"),
    "a deep event": stream(DEEP),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_a_list_over_a_server_that_answers_nonsense_ends_in_an_error_of_the_fleet(odd: bytes) -> None:
    async with pool_of(lambda _: odd) as (pool, _):
        streamed = b"event-stream" in odd
        listed = PromptList.read(body(["a", "b"], stream=streamed), b"[")  # type: ignore[arg-type]
        assert listed is not None
        if not streamed:
            with pytest.raises(PoolError, match="not what the API promises"):
                await answer_list(pool.forwarder(), listed, HEADERS, "r", lambda _: None)
            return
        events = ListStream(pool.forwarder(), listed, HEADERS, "r", lambda _: None)
        assert await events.refusal() is None
        with pytest.raises(PoolError, match="not what the API promises"):
            _ = [event async for event in events.events()]
        await events.close()


async def test_a_reply_that_is_nested_too_deep_is_one_failed_record_of_a_batch(tmp_path: Path) -> None:
    def sometimes(asked: Asked) -> bytes:
        return http(DEEPER) if asked.prompts == ["bad"] else good(asked)

    source, journal = tmp_path / "in.jsonl", tmp_path / "journal.jsonl"
    lines = [
        {"custom_id": prompt, "method": "POST", "url": PATH, "body": json.loads(body(prompt))}
        for prompt in ("a", "bad", "b")
    ]
    source.write_text("".join(json.dumps(each) + "\n" for each in lines))
    async with pool_of(sometimes, stream=False) as (pool, _):
        async with asyncio.timeout(1000):
            await VerbatimRun(pool.forwarder(), source, journal, progress=lambda *_: None).run()
    records = {each["custom_id"]: each for each in map(json.loads, journal.read_text().splitlines())}
    assert records["bad"]["error"]["code"] == "bad_reply"
    assert records["a"]["response"]["body"]["choices"][0]["text"] == text_for("a")
    assert records["b"]["error"] is None
