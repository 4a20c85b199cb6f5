"""A server over a simulated fleet, in this process, and its clients."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
from openai.types import Batch

from aurora_pool import Timeouts
from aurora_pool.serve.keys import KeyRing, load_secret
from aurora_pool.serve.options import ServerOptions, UserLimits
from aurora_pool.serve.server import Server, serving
from aurora_pool.serve.storage import Storage
from aurora_pool.testing import AgentProfile, SimulatedFleet

MODEL = "simulated-model"
ECHO = AgentProfile(slots=32, instant=True, reply=lambda prompt: f"You said: {prompt}")
ENDED = {"completed", "failed", "expired", "cancelled"}
COMPLETIONS = "/v1/completions"
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""What clients are made with, for they would read all certificates of the system each: these servers have none."""


@dataclass
class Running:
    """A server that runs, and the fleet behind it."""

    server: Server
    fleet: SimulatedFleet
    client: openai.AsyncOpenAI
    http: aiohttp.ClientSession
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    def client_of(self, key: str) -> openai.AsyncOpenAI:
        """A client with another key."""
        client = _client(self.server, key)
        self.clients.append(client)
        return client


def _client(server: Server, key: str = "none") -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(verify=NO_AUTHORITIES)
    return openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0, http_client=http)


@asynccontextmanager
async def running(
    data: Path,
    agents: int = 2,
    profile: AgentProfile = ECHO,
    *,
    fleet: SimulatedFleet | None = None,
    patience: float = 5.0,
    waits: bool = True,
    tags: Mapping[int, Mapping[str, str]] | None = None,
    **options: Any,
) -> AsyncIterator[Running]:
    """Start a fleet, unless one is given, and a server over it; ``waits`` until it knows what the fleet serves.

    ``tags`` are those that agents have in the hostfile, by their numbers.
    """
    own = SimulatedFleet(agents, profile=profile)
    timeouts = Timeouts(connect=2.0, probe=2.0, patience=patience)
    if fleet is None:
        await own.start()
    try:
        there = fleet or own
        known: dict[str, Any] = {"data": data, "port": 0, "grace": 0.2, **options}
        chosen = ServerOptions(**known)
        endpoints = [replace(each, tags=(tags or {}).get(i, each.tags)) for i, each in enumerate(there.endpoints)]
        async with serving(endpoints, chosen, timeouts=timeouts) as server, aiohttp.ClientSession() as http:
            client = _client(server)
            run = Running(server, there, client, http, [client])
            if waits:
                await until(lambda: server.fleet.models)
            try:
                yield run
            finally:
                for each in run.clients:
                    await each.close()
    finally:
        await own.close()


async def until(what: Callable[[], Any], within: float = 100.0) -> Any:
    """Wait until something is true, and return it."""
    async with asyncio.timeout(within):
        while True:
            found = what()
            value: Any = await found if isinstance(found, Awaitable) else found
            if value:
                return value
            await asyncio.sleep(0.02)


def line(name: str, prompt: Any = None, **body: Any) -> dict[str, Any]:
    """A line of a batch file."""
    content = {"model": MODEL, "prompt": name if prompt is None else prompt, "max_tokens": 16, **body}
    return {"custom_id": name, "method": "POST", "url": COMPLETIONS, "body": content}


def jsonl(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a batch file."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def submit(
    client: openai.AsyncOpenAI, lines: Iterable[Mapping[str, Any]] | bytes, endpoint: Any = COMPLETIONS, **options: Any
) -> Batch:
    """Upload a file and create a batch."""
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    window: Any = options.pop("completion_window", "24h")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window, **options)


async def ended(client: openai.AsyncOpenAI, batch: Batch, within: float = 100.0) -> Batch:
    """Wait until a batch has ended."""

    async def read() -> Batch | None:
        found = await client.batches.retrieve(batch.id)
        return found if found.status in ENDED else None

    found: Batch = await until(read, within)
    return found


async def records(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Read an output or error file."""
    assert file_id is not None
    content = await client.files.content(file_id)
    return [json.loads(each) for each in content.text.splitlines()]


async def make_keys(data: Path, *users: str, **limits: int) -> list[str]:
    """Make a key for each user, as the command does; ``root`` is an administrator."""
    storage = Storage(f"sqlite:///{data / 'serve.db'}")
    await storage.open()
    ring = KeyRing(storage, load_secret(data), UserLimits())
    created = [(await ring.create(u, role="admin" if u == "root" else "user", limits=limits))[1] for u in users]
    await storage.close()
    return created
