"""Raw HTTP against one server: no client library of ours between the test and the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from aurora_pool import AgentEndpoint
from aurora_pool.engine_names import ENGINE_TAG
from aurora_pool.wire.dialect import Dialect, dialect_of, written


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a vLLM error body."""
        body = self.json
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"message", "type", "param", "code"}, body
        assert body["error"]["code"] == self.status
        error: dict[str, Any] = body["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The events of a stream that ended with ``[DONE]``."""
        assert self.status == 200, self.text
        assert self.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert self.text.endswith("data: [DONE]\n\n")
        lines = self.text.removesuffix("data: [DONE]\n\n").split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines)
        return [msgspec.json.decode(line.removeprefix("data: ")) for line in lines]


Asking = Callable[[], Awaitable[Reply]]


@dataclass(frozen=True)
class Server:
    """The server under test, and what its ``/v1/models`` says of it; ``simulated`` if its time and its load are."""

    session: aiohttp.ClientSession
    endpoint: AgentEndpoint
    card: dict[str, Any]
    simulated: bool = False

    @classmethod
    async def find(cls, session: aiohttp.ClientSession, endpoint: AgentEndpoint, *, simulated: bool = False) -> Server:
        """See what it serves first."""
        async with session.get(endpoint.base_url + "/v1/models") as reply:
            return cls(session, endpoint, (await reply.json())["data"][0], simulated)

    @property
    def model(self) -> str:
        name: str = self.card["id"]
        return name

    @property
    def max_model_len(self) -> int:
        length: int = self.card["max_model_len"]
        return length

    @property
    def dialect(self) -> Dialect:
        """What it is known to take, by the tag of its line."""
        return dialect_of(self.endpoint.tags.get(ENGINE_TAG, "vllm"))

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        async with self.session.request(method, self.endpoint.base_url + path, **options) as reply:
            text = await reply.text()
            return Reply(reply.status, {name.lower(): value for name, value in reply.headers.items()}, text)

    async def get(self, path: str) -> Reply:
        return await self.request("GET", path)

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return await self.request("POST", path, json=body, headers=headers)

    async def ask(self, path: str, body: dict[str, Any], dialect: Dialect | None = None) -> Reply:
        """Ask in a dialect, the server's own if none is given."""
        return await self.post(path, written(dialect or self.dialect, path, {"model": self.model, **body}))

    async def complete(self, prompt: Any, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        """Ask ``/v1/completions``: 4 tokens at temperature 0 if nothing else is said."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": 4, "temperature": 0, **fields}
        return await self.post("/v1/completions", body, headers)

    async def stream(self, prompt: Any, **fields: Any) -> Reply:
        """Ask for a stream of two events for each choice."""
        return await self.complete(prompt, **{"stream": True, "stream_interval": 1_000_000, **fields})

    async def events(self, count: int, ask: Asking) -> list[Any]:
        """Ask for a stream of ``count`` events, and never more."""

        def right(reply: Reply) -> bool:
            assert len(reply.events) <= count
            return len(reply.events) == count

        return (await self.ask_until(right, ask)).events

    async def steps(self, expected: list[int], counts: Callable[[list[Any]], list[int]], ask: Asking) -> None:
        """See that an event ends after each of these tokens and no other; ``counts`` tells after which they did."""
        seen: set[int] = set()

        def right(reply: Reply) -> bool:
            found = counts(reply.events)
            assert found == sorted(set(found)), "each event has more than the one before"
            assert set(found) <= set(expected), found
            assert found[-1] == expected[-1], found
            seen.update(found)
            return seen == set(expected)

        await self.ask_until(right, ask)

    async def ask_until(self, right: Callable[[Reply], bool], ask: Asking) -> Reply:
        """Ask until an answer is right.

        A vLLM whose API process gets no CPU for a while sends what its engine gives meanwhile as one event, so a real
        server is asked again. The simulated one has to be right at once.
        """
        for _ in range(1 if self.simulated else 50):
            reply = await ask()
            if right(reply):
                return reply
        raise AssertionError(reply.text)

    async def chat(self, *messages: dict[str, Any], path: str = "", **fields: Any) -> Reply:
        body = {"model": self.model, "messages": list(messages), "max_tokens": 4, "temperature": 0, **fields}
        return await self.post("/v1/chat/completions" + path, body)

    async def tokens(self, count: int) -> list[int]:
        """Make a prompt of exactly ``count`` tokens."""
        found = (await self.post("/tokenize", {"prompt": " a" * 64})).json["tokens"]
        return [found[-1]] * count

    async def metric(self, name: str) -> float:
        """Read one of its metrics, all its series added."""
        page = (await self.get("/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name + "{"))

    async def running(self) -> float:
        """Tell how many sequences the server works on."""
        return await self.metric("vllm:num_requests_running")

    async def reaches(self, wanted: object, read: Callable[[], Awaitable[object]]) -> None:
        """Wait until what is read of it is what is wanted, for a minute and more."""
        for _ in range(1200):
            found = await read()
            if found == wanted:
                return
            await asyncio.sleep(0.05)
        assert found == wanted


def user(text: str) -> dict[str, Any]:
    """Make a message of a user."""
    return {"role": "user", "content": text}
