"""A server made by hand: it answers what a test says, byte by byte, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aurora_pool import AgentEndpoint, Prompt, PromptOptions, VLLMPool

CRLF = b"\r\n"


@dataclass
class Asked:
    """One request, and the connection to answer on."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    writer: asyncio.StreamWriter
    number: int
    """How many of this path came before, probes left out."""

    @property
    def prompts(self) -> list[Any]:
        """The prompts of a list request, or the last message of a chat."""
        if self.path.endswith("/chat/completions"):
            return [self.body["messages"][-1]["content"]]
        prompt = self.body.get("prompt", self.body.get("input"))
        return prompt if isinstance(prompt, list) else [prompt]

    @property
    def is_probe(self) -> bool:
        """Whether the pool only asks how the server is."""
        return isinstance(self.body, dict) and self.prompts in (["ping"], [None])


Behaviour = Callable[[Asked], bytes | Awaitable[None]]


def http(
    body: bytes = b"",
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A whole reply, on a connection that stays open."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def begin(content_type: str = "text/event-stream", headers: Mapping[str, str] | None = None) -> bytes:
    """The head of a reply in chunks."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()


def chunk(data: bytes) -> bytes:
    """One chunk; an empty one ends the body."""
    return f"{len(data):x}".encode() + CRLF + data + CRLF


def sse(*events: Any) -> bytes:
    """Events as they stand in a stream; bytes stay unchanged."""
    return b"".join(b"data: " + (e if isinstance(e, bytes) else msgspec.json.encode(e)) + b"\n\n" for e in events)


def stream(*events: Any) -> bytes:
    """A whole reply of events, ``[DONE]`` among them."""
    return http(sse(*events, b"[DONE]"), content_type="text/event-stream")


def text_for(prompt: Any) -> str:
    """What a good server answers to a prompt: it can be told from any other prompt's."""
    return f"<answer to {prompt}>"


def choice(index: Any, text: Any, reason: Any = None, *, model: str = "m", **more: Any) -> dict[str, Any]:
    """An event with a piece of one choice."""
    return {"model": model, "choices": [{"index": index, "text": text, "finish_reason": reason, **more}]}


def good(asked: Asked, model: str = "m") -> bytes:
    """Answer as a good server does."""
    if asked.path == "/v1/models":
        return http(msgspec.json.encode({"data": [{"id": model, "max_model_len": 4096}]}))
    if asked.path == "/v1/embeddings":
        data = [{"index": i, "embedding": [float(i), 1.0]} for i, _ in enumerate(asked.prompts)]
        return http(msgspec.json.encode({"model": model, "data": data}))
    if asked.path not in ("/v1/completions", "/v1/chat/completions"):
        return http(b'{"detail":"Not Found"}', 404)
    texts = [text_for(prompt) for prompt in asked.prompts]
    chat, streamed = "chat" in asked.path, asked.body.get("stream")
    if chat and not streamed:
        return reply_of([{"index": 0, "message": {"content": texts[0]}, "finish_reason": "stop"}], model)
    if not streamed:
        return reply_of([{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)], model)
    if chat:
        begun = {"index": 0, "delta": {"role": "assistant", "content": texts[0][:3]}, "finish_reason": None}
        ended = {"index": 0, "delta": {"content": texts[0][3:]}, "finish_reason": "stop"}
        return stream({"model": model, "choices": [begun]}, {"model": model, "choices": [ended]})
    first = [choice(index, text[:3], model=model) for index, text in enumerate(texts)]
    return stream(*first, *(choice(index, text[3:], "stop", model=model) for index, text in enumerate(texts)))


def reply_of(choices: Sequence[Mapping[str, Any]], model: str = "m") -> bytes:
    """A whole reply that is not streamed."""
    return http(msgspec.json.encode({"model": model, "choices": choices}))


@dataclass
class OddServer:
    """Listens on a port of its own; requests for completions, chats and embeddings get what ``behaviour`` says.

    Everything else, probes among it, is answered as a good server would, unless ``everything`` is set.
    """

    behaviour: Behaviour
    everything: bool = False
    asked: list[Asked] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def endpoint(self) -> AgentEndpoint:
        """Where it listens."""
        assert self._server is not None
        return AgentEndpoint("127.0.0.1", self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._tasks)

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        """Cut all connections, and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(CRLF + CRLF)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines) if n}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        body = msgspec.json.decode(raw) if raw else None
        asked = Asked(method, path, headers, body, writer, 0)
        counts = not asked.is_probe
        asked.number = sum(other.path == path and not other.is_probe for other in self.asked)
        self.asked.append(asked)
        generates = path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings") and counts
        answer = self.behaviour(asked) if generates or self.everything else good(asked)
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
            return True
        await answer
        return not writer.is_closing()


@asynccontextmanager
async def pool_of(
    *behaviours: Behaviour, everything: bool = False, **options: Any
) -> AsyncGenerator[tuple[VLLMPool, Sequence[OddServer]]]:
    """Run a pool over one server for each behaviour; prompts are sent unchanged."""
    servers = [OddServer(behaviour, everything) for behaviour in behaviours]
    prompting = PromptOptions(prompt_format="raw", stream=options.pop("stream", True))
    options = {"model": "m", "prompting": prompting, "max_tokens": 16, "rng": random.Random(1), **options}
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.close)
        pool = await stack.enter_async_context(VLLMPool([server.endpoint for server in servers], **options))
        yield pool, servers


def as_chats(texts: Sequence[str]) -> list[Prompt]:
    """Texts to be sent as chats, by a pool that sends prompts unchanged otherwise."""
    return [Prompt(text, format="chat") for text in texts]
