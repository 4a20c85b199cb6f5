"""What the dashboard shows, as JSON: ``/api/state``, and the same again and again at ``/api/events``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web
from sqlalchemy import select

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.batch_rows import batch_object
from aurora_pool.serve.described import EVENTS, OBJECT, described
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.gateway import Gateway
from aurora_pool.serve.http_json import encode_reply
from aurora_pool.serve.keys import Caller
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches
from aurora_pool.serve.waits import Waits

EVERY = 1.0
SHOWN = 50
"""How many of the newest batches are shown."""


class StateApi:
    """The handlers. Users see the fleet and their own batches, administrators everybody's."""

    def __init__(self, fleet: ServedFleet, storage: Storage, gateway: Gateway, waits: Waits) -> None:
        self._fleet = fleet
        self._storage = storage
        self._gateway = gateway
        self._waits = waits
        self._closing = asyncio.Event()

    async def close(self, _: web.Application) -> None:
        """End all streams of events: the server shuts down."""
        self._closing.set()

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            web.get("/api/state", self.state, allow_head=False),
            web.get("/api/events", self.events, allow_head=False),
        ]

    @described(reply=OBJECT)
    async def state(self, request: web.Request) -> web.Response:
        """Give the state now."""
        return encode_reply(await self._state(caller_of(request)))

    @described(reply_types=(EVENTS,))
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Give the state every second, as server-sent events."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        caller = caller_of(request)
        state = await self._state(caller)  # before the reply begins: what fails here can still be reported
        await response.prepare(request)
        while not self._closing.is_set():
            await response.write(b"event: state\ndata: " + msgspec.json.encode(state) + b"\n\n")
            try:
                async with asyncio.timeout(EVERY):
                    await self._closing.wait()
            except TimeoutError:
                state = await self._state(caller)
        return response

    async def _state(self, caller: Caller) -> dict[str, Any]:
        chosen = select(batches).order_by(batches.c.seq.desc()).limit(SHOWN)
        if not caller.admin:
            chosen = chosen.where(batches.c.user == caller.user)
        async with self._storage.read() as connection:
            rows = (await connection.execute(chosen)).mappings().all()
        waits = await self._waits.reasons(rows, caller)
        agents = self._fleet.statistics()
        return {
            "time": time.time(),
            "user": caller.user,
            "admin": caller.admin,
            "models": sorted(self._fleet.models),
            "streams": self._gateway.streams,
            "requests": self._gateway.requests,
            "agents": [
                {
                    "name": str(agent.endpoint),
                    "state": agent.state,
                    "in_flight": agent.in_flight,
                    "window": agent.window,
                    "prompts": agent.prompts_done,
                    "tokens": agent.tokens_done,
                    "tokens_per_second": round(agent.tokens_per_second, 1),
                    "prefix_hit_share": agent.prefix_hit_share,
                    "failures": sum(agent.failures.values()),
                    "last_error": agent.last_error,
                }
                for agent in agents
            ],
            "queued": sum(pool.statistics().queued for pool in self._fleet.pools()),
            "batches": [batch_object(row, waits.get(row["user"])) for row in rows],
        }
