"""No reply grows without end: what was asked bounds what is read, and the others are served meanwhile."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aurora_pool import BadReply, Timeouts
from aurora_pool.wire.bounds import Bounds
from aurora_pool.wire.chat import ChatReader
from tests.hostile.odd_server import Asked, begin, choice, chunk, good, http, pool_of, sse, text_for

pytestmark = pytest.mark.simulated_clock

PROMPTS = [f"prompt {number}" for number in range(16)]
PIECE = 1 << 16
MIB = 1 << 20


class Flood:
    """Sends a beginning and then the same piece without end, and counts how much of it got rid of."""

    def __init__(self, head: bytes, first: bytes, piece: bytes) -> None:
        self.head, self.first, self.piece = head, first, piece
        self.sent = 0

    async def __call__(self, asked: Asked) -> None:
        asked.writer.write(self.head + (chunk(self.first) if self.first else b""))  # an empty chunk would end it
        while not asked.writer.is_closing() and self.sent < 400 * MIB:
            asked.writer.write(chunk(self.piece))
            self.sent += len(self.piece)
            await asked.writer.drain()


def floods() -> Iterator[Any]:
    text = sse(*[choice(0, "x" * 1000)] * 60)
    spaces = b" " * PIECE
    yield pytest.param(Flood(begin("application/json"), b'{"choices":[', spaces), id="endless JSON")
    yield pytest.param(Flood(begin(), b'data: {"choices":[', spaces), id="an endless event")
    yield pytest.param(Flood(begin(), sse(choice(0, "a")), b": keep-alive\n\n" * 5000), id="endless comments")
    yield pytest.param(Flood(begin(), sse(choice(0, "a")), sse(*[choice(0, "")] * 800)), id="endless empty events")
    yield pytest.param(Flood(begin(), sse(choice(0, "a"), choice(1, "b")), text), id="endless text")
    yield pytest.param(Flood(begin(), b"data: a\n", b"data: b\n" * 8000), id="endless lines of one event")
    yield pytest.param(Flood(begin().replace(b"200 OK", b"500 No"), b"", spaces), id="an endless error")
    packed = gzip.compress(b" " * (40 * MIB))
    unpacked = begin("application/json", {"Content-Encoding": "gzip"})
    yield pytest.param(Flood(unpacked, b"", packed), id="gzip")
    yield pytest.param(Flood(begin(headers={"Content-Encoding": "gzip"}), b"", packed), id="gzip events")


@pytest.mark.parametrize("flood", list(floods()))
async def test_a_flood_is_cut_and_every_prompt_is_answered(flood: Flood) -> None:
    async with pool_of(flood, good, good, good) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
    assert [(r.success, r.text) for r in responses] == [(True, text_for(p)) for p in PROMPTS]
    assert flood.sent < 20 * MIB  # all its requests together, what lies in sockets included


def test_thoughts_without_end_are_cut_as_texts_are() -> None:
    thought = {"model": "m", "choices": [{"index": 0, "delta": {"reasoning": "x" * 1000}, "finish_reason": None}]}
    reader = ChatReader(bounds=Bounds(tokens=16, longest=5000, characters=50_000, event=MIB, body=MIB, stream=MIB))
    for _ in range(50):
        reader.events([msgspec.json.encode(thought)])
    with pytest.raises(BadReply, match="far more than was asked for"):
        reader.events([msgspec.json.encode(thought)])


async def test_what_is_packed_is_not_unpacked_at_once() -> None:
    packed = gzip.compress(b" " * (40 * MIB), 1)
    tracemalloc.start()
    try:
        async with pool_of(lambda _: http(packed, headers={"Content-Encoding": "gzip"}), good) as (pool, _):
            assert all(response.success for response in await pool.send_all_batched(PROMPTS))
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [400, 500])
async def test_a_long_message_is_cut_with_a_note(status: int) -> None:
    def odd(asked: Asked) -> bytes:
        return http(msgspec.json.encode({"error": {"message": "no " * 50_000, "code": status}}), status)

    async with pool_of(odd, timeouts=Timeouts(patience=3.0)) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        assert response.error is not None
        assert len(response.error) < 2200
        assert "more characters" in response.error


async def test_what_is_too_long_to_read_as_json_is_cut_as_well() -> None:
    def odd(asked: Asked) -> bytes:
        return http(msgspec.json.encode({"error": {"message": "no " * 2_000_000, "code": 400}}), 400)

    async with pool_of(odd) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        assert (response.error_kind, len(response.error or "") < 2200) == ("rejected", True)


async def test_models_without_end_are_no_answer() -> None:
    flood = Flood(begin("application/json"), b'{"data":[', b" " * PIECE)

    def odd(asked: Asked) -> Any:
        return flood(asked) if asked.path == "/v1/models" else good(asked)

    async with pool_of(odd, good, everything=True, model=None) as (pool, _):
        assert pool.model == "m"
        assert all(response.success for response in await pool.send_all_batched(PROMPTS))
    assert flood.sent < 60 * MIB


async def test_a_long_answer_that_was_asked_for_is_read_whole() -> None:
    text = "word " * 4000

    def odd(asked: Asked) -> bytes:
        pieces = [choice(0, text[at : at + 20]) for at in range(0, len(text), 20)]
        return http(sse(*pieces, choice(0, "", "length"), b"[DONE]"), content_type="text/event-stream")

    async with pool_of(odd, max_tokens=5000) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        assert (response.success, response.text) == (True, text)
