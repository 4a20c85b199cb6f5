"""The HTTP side of one simulated agent: it takes requests, and answers as its profile and its conditions have it."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import msgspec
from aiohttp import web

from aurora_pool.testing.backend import Backend
from aurora_pool.testing.exchange import Exchange, ReceivedRequest, json_reply, reply
from aurora_pool.testing.instant import InstantAnswers
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import Refusal
from aurora_pool.testing.routes import routes_of

_GUARDED = re.compile(r"/(v1|v2|inference|cohere)(/|$)")
_GARBLED = {
    "noise": (b"\x00\x17\x2a not what you asked for", 200, None, "application/octet-stream"),
    "html": (b"<html><body>Welcome to the proxy</body></html>", 200, None, "text/html"),
}
_DECODE = msgspec.json.Decoder().decode


class AgentServer(Backend):
    """What lies behind one port, from the start of a process to its end.

    ``on_request`` hears of every request as it comes in, ``on_poison`` when a prompt is computed that kills the server.
    """

    def __init__(
        self,
        profile: AgentProfile,
        *,
        chance: random.Random,
        time_scale: float,
        on_request: Callable[[ReceivedRequest], None],
        on_poison: Callable[[], None],
    ) -> None:
        super().__init__(profile, chance=chance, time_scale=time_scale, on_poison=on_poison)
        self._on_request = on_request
        self._routes = routes_of(profile)
        self._instant = InstantAnswers(self) if profile.instant and not callable(profile.reply) else None
        self._responsive = asyncio.Event()
        """Set while the server does not hang."""
        self._responsive.set()
        self._busy: set[asyncio.BaseTransport] = set()
        self.http = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=profile.keep_alive,
            timeout_ceil_threshold=1e9,  # no rounding: uvicorn's 5 s are 5.000 s
            handler_cancellation=True,
            tcp_keepalive=False,
            lingering_time=0,
        )

    def hang(self) -> None:
        """Answer nothing, and make no progress, until :meth:`revive`."""
        self.conditions.hung = True
        self._responsive.clear()
        self.engine_loop.pause()

    def revive(self) -> None:
        """Go on where :meth:`hang` stopped."""
        self.conditions.hung = False
        self._responsive.set()
        self.engine_loop.resume()

    def cut_connections(self, *, idle_only: bool = False) -> None:
        """Break connections as a killed process does, or close only those without a request."""
        for connection in self.http.connections:
            transport = connection.transport
            if transport is None:
                continue
            if not idle_only:
                transport.abort()
            elif transport not in self._busy:
                transport.close()

    @property
    def is_busy(self) -> bool:
        """Whether any connection or request is left."""
        return bool(self.http.connections or self.requests_in_flight)

    async def close(self) -> None:
        """End: cut all connections, and wait until nothing runs any more."""
        self.engine_loop.close()
        self.cut_connections()
        while self.is_busy:  # noqa: ASYNC110 - it is a few turns
            await asyncio.sleep(0)
        # The tasks of the last requests end a few turns of the loop after their connections.
        for _ in range(5):
            await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = await self._receive(request)
        self.requests_in_flight += 1
        transport = request.transport
        if transport is not None:
            self._busy.add(transport)
        try:
            await self._responsive.wait()
            try:
                response = await self._answer(exchange)
            except ConnectionResetError:  # it was cut before the head of the answer: nobody reads this one
                response = reply(b"", 499)
            if self.conditions.headers and not response.prepared:
                response.headers.update(self.conditions.headers)
        finally:
            self.requests_in_flight -= 1
            if transport is not None:
                self._busy.discard(transport)
        key = (exchange.received.path, request.method, f"{response.status // 100}xx")
        self.counters.http[key] += 1
        return response

    async def _receive(self, request: web.BaseRequest) -> Exchange:
        raw = await request.content.read() if request.body_exists else b""
        body: object = None
        if raw:
            try:
                body = _DECODE(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                body = None
        headers = {name.lower(): value for name, value in request.headers.items()}
        now = asyncio.get_running_loop().time()
        path = request.path.removeprefix(self.profile.root_path)
        received = ReceivedRequest(request.method, path, body, headers, now)
        self._on_request(received)
        return Exchange(request, received)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        path, method = exchange.received.path, exchange.received.method
        if self.profile.api_keys and method != "OPTIONS" and _GUARDED.match(path):
            scheme, _, key = exchange.received.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or key not in self.profile.api_keys:
                return json_reply({"error": "Unauthorized"}, 401)
        methods = self._routes.get(path)
        if methods is None:
            return json_reply({"detail": "Not Found"}, 404)
        if self.conditions.garble in ("noise", "html") and method == "POST":
            return reply(*_GARBLED[self.conditions.garble])
        route = methods.get(method)
        if route is None:
            return json_reply({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(methods)})
        if self._instant is not None and method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            answer = self._instant.answer(exchange)
            if answer is not None:
                return answer
        try:
            return await route(self, exchange)
        except Refusal as refusal:
            if self.conditions.engine_dead and not self.profile.at_least(0, 18):
                return reply(b"", 500)
            return json_reply(refusal.body(nested=self.profile.at_least(0, 10, 1)), refusal.status)
