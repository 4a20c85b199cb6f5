"""``client`` speaks plain HTTP to simulated agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from aurora_pool.testing import SimulatedAgent


class Client:
    """A plain HTTP client, without any time limit of its own."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, agent: SimulatedAgent, path: str) -> tuple[int, str]:
        async with self.session.get(agent.endpoint.base_url + path) as reply:
            return reply.status, await reply.text()

    async def post(self, agent: SimulatedAgent, path: str, body: Any) -> tuple[int, Any]:
        async with self.session.post(agent.endpoint.base_url + path, json=body) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def complete(self, agent: SimulatedAgent, prompt: Any = "Hello", **options: Any) -> tuple[int, Any]:
        return await self.post(agent, "/v1/completions", {"prompt": prompt, "max_tokens": 2000, **options})

    async def stream(self, agent: SimulatedAgent, prompt: Any = "Hello", **options: Any) -> list[Any]:
        """All events of a streamed completion, the last one being ``"[DONE]"`` if it came."""
        body = {"prompt": prompt, "max_tokens": 2000, "stream": True, "stream_interval": 1_000_000, **options}
        async with self.session.post(agent.endpoint.base_url + "/v1/completions", json=body) as reply:
            assert reply.status == 200, await reply.text()
            return events_of(await reply.text())


def events_of(text: str) -> list[Any]:
    """Split the text of an event stream."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else msgspec.json.decode(line) for line in lines]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield Client(session)
