"""Clients that are slow, say nothing, or are too many."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.serve.running import MODEL, running


@pytest.mark.simulated_clock
async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout=0.3) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: lo")
        assert await reader.read() == b""
        writer.close()


def _head(path: str, length: int, kind: str = "application/json") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


@pytest.mark.simulated_clock
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/batches", "/v1/webhook_endpoints", "/v1/admin/keys", "/ui/playground/chat"]
)
async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, read_timeout=0.3) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.server.port)
        writer.write(_head(path, 1000) + b"{")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")  # to its end: the connection is closed
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in head
        assert json.loads(body)["error"]["code"] == "request_timeout"
        writer.close()


@pytest.mark.simulated_clock
async def test_a_form_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout=0.3) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.server.port)
        writer.write(_head("/ui/login", 1000, "application/x-www-form-urlencoded") + b"key=")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


_ASKED = json.dumps({"model": MODEL, "prompt": "p", "max_tokens": 1}).encode()


@pytest.mark.simulated_clock
@pytest.mark.parametrize(("pieces", "status"), [([b" "] * 1000, b"408"), ([b" " * 65536] * 12 + [_ASKED], b"200")])
async def test_a_body_may_take_long_if_it_comes_on(tmp_path: Path, pieces: list[bytes], status: bytes) -> None:
    async with running(tmp_path, read_timeout=5.0) as run:
        await (
            run.client.models.list()
        )  # whose key it is has been looked up then, in a thread, which has a clock of its own
        reader, writer = await asyncio.open_connection("127.0.0.1", run.server.port)
        writer.write(_head("/v1/completions", sum(map(len, pieces))))
        for second, piece in enumerate(pieces):
            asyncio.get_running_loop().call_later(second, writer.write, piece)
        assert (await reader.readuntil(b"\r\n"))[9:12] == status
        writer.close()


async def test_connections_have_a_limit(tmp_path: Path) -> None:
    async with running(tmp_path, connections=3) as run:
        opened = [await asyncio.open_connection("127.0.0.1", run.server.port) for _ in range(6)]
        answers = [await asyncio.wait_for(reader.read(12), 5) for reader, _ in opened[3:]]
        assert set(answers) == {b"HTTP/1.1 503"}
        for _, writer in opened:
            writer.close()
