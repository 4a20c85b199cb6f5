"""The online endpoints: requests go to the fleet unchanged, and replies come back unchanged."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from aurora_pool.errors import PoolError
from aurora_pool.runtime.forward import HOP_HEADERS, ONLINE, OWN_HEADERS, Forwarder
from aurora_pool.serve.access import caller_of
from aurora_pool.serve.bodies import read_body
from aurora_pool.serve.described import EVENTS, JSON, OBJECT, described
from aurora_pool.serve.errors import ApiError, error_body, unavailable
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.http_json import encode_reply
from aurora_pool.serve.keys import Caller
from aurora_pool.serve.limits import Limiter
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.replies import SlowClient, write_within
from aurora_pool.serve.request_ids import REQUEST_ID, request_id_of
from aurora_pool.serve.spread import ListStream, PromptList, answer_list

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

_PRIVATE = OWN_HEADERS | frozenset(
    {
        "cookie",
        "expect",
        "forwarded",
        "origin",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "x-api-key",
        "x-real-ip",
    }
)
"""Headers of the request that are this server's business only; so are all that begin with :data:`_OF_PROXIES`."""
_OF_PROXIES = "x-forwarded-"
_OWN_REPLY = HOP_HEADERS | frozenset({"server", "date", "x-request-id", "set-cookie"})
_LATENCIES = 10_000
"""How many are kept between two reads of them."""
_DONE = b"data: [DONE]\n\n"
_JSON = {"Content-Type": JSON}
_EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}

logger = logging.getLogger("aurora_pool")


class _Asked(msgspec.Struct, gc=False):
    """What the gateway needs to know of a request; the server judges the rest."""

    model: Any = None
    stream: Any = None
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode_asked = msgspec.json.Decoder(_Asked).decode


_MODELS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": "types:Model"}},
}


class Gateway:
    """The handlers."""

    def __init__(self, fleet: ServedFleet, limiter: Limiter, options: ServerOptions) -> None:
        self._fleet = fleet
        self._limiter = limiter
        self._options = options
        self.requests = 0
        self.streams = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def take_latencies(self) -> list[float]:
        """Give the seconds that requests took since the last call, and forget them."""
        taken = list(self._latencies)
        self._latencies.clear()
        return taken

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            *(web.post(path, self.forward) for path in ENDPOINTS),
            web.get("/v1/models", self.models, allow_head=False),
            web.get("/v1/models/{model:.+}", self.model, allow_head=False),
        ]

    @described(reply=_MODELS)
    async def models(self, request: web.Request) -> web.Response:
        """List all models of the fleet, as its servers describe them."""
        if not self._fleet.models:
            raise unavailable("No server of the fleet has answered yet.")
        return encode_reply({"object": "list", "data": [model.described for model in self._fleet.models.values()]})

    @described(reply="types:Model")
    async def model(self, request: web.Request) -> web.Response:
        """Describe one model."""
        name = request.match_info["model"]
        found = self._fleet.models.get(name)
        if found is None:
            raise _no_such_model(name)
        return encode_reply(found.described)

    @described(body=OBJECT, reply=OBJECT, reply_types=(JSON, EVENTS))
    async def forward(self, request: web.Request, path: str = "") -> web.StreamResponse:
        """Send a request to the fleet, unchanged; ``path`` is its servers', if not the request's own."""
        path = path or request.path
        caller = caller_of(request)
        await self._limiter.check(caller)
        body = await read_body(request)
        try:
            asked = _decode_asked(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            asked = _Asked()  # the server says what is wrong with it, in its own words
        forwarder = self._forwarder(asked.model)
        self.requests += 1
        began = time.monotonic()
        headers = _forwarded_headers(request)
        try:
            if asked.prompt and path == "/v1/completions":
                listed = PromptList.read(body, asked.prompt)
                if listed is not None:
                    return await self._forward_list(request, caller, forwarder, listed, headers, bool(asked.stream))
            with await forwarder.send("POST", path, headers, body, priority=ONLINE) as reply:
                try:
                    if reply.content is None:
                        return await self._stream(request, reply.chunks(), reply.headers)
                    return web.Response(
                        status=reply.status, body=reply.content, headers=_reply_headers(request, reply.headers)
                    )
                finally:
                    self._limiter.charge(caller, reply.usage)
        except PoolError as error:
            raise _lost(error) from error
        finally:
            self._latencies.append(time.monotonic() - began)

    async def _forward_list(
        self,
        request: web.Request,
        caller: Caller,
        forwarder: Forwarder,
        listed: PromptList,
        headers: Mapping[str, str],
        stream: bool,
    ) -> web.StreamResponse:
        """Spread a list of prompts over the fleet, one request each."""
        request_id = request_id_of(request)
        charge = functools.partial(self._limiter.charge, caller)
        if not stream:
            try:
                status, content = await answer_list(forwarder, listed, headers, request_id, charge)
            except PoolError as error:
                raise _lost(error) from error
            return web.Response(status=status, body=content, headers=_reply_headers(request, _JSON))
        stream_of_all = ListStream(forwarder, listed, headers, request_id, charge)
        try:
            refusal = await stream_of_all.refusal()
            if refusal is None:
                return await self._stream(request, stream_of_all.events(), _EVENT_STREAM)
        finally:
            await stream_of_all.close()
        return web.Response(status=refusal[0], body=refusal[1], headers=_reply_headers(request, _JSON))

    async def _stream(
        self, request: web.Request, chunks: AsyncIterator[bytes], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Hand on a stream as it comes; if it breaks off, say so in an event of its own."""
        response = web.StreamResponse(headers={**_reply_headers(request, headers), "X-Accel-Buffering": "no"})
        limit = self._options.write_timeout
        ended = True
        self.streams += 1
        try:
            async with aclosing(chunks) as pieces:  # type: ignore[type-var]
                await response.prepare(request)
                try:
                    async for chunk in pieces:
                        ended = chunk.endswith(b"\n\n")
                        await write_within(request, response, chunk, limit)
                except PoolError as error:
                    logger.warning("a stream broke off: %s", error)
                    problem = error_body(f"The reply broke off: {error}", kind="InternalServerError", code=502)
                    await write_within(
                        request, response, (b"" if ended else b"\n\n") + b"data: " + problem + b"\n\n" + _DONE, limit
                    )
            await response.write_eof()
        except SlowClient as error:
            logger.warning("a stream was cut: %s", error)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.streams -= 1
        return response

    def _forwarder(self, name: Any) -> Forwarder:
        models = self._fleet.models
        if isinstance(name, str):
            model = models.get(name)
            if model is not None:
                return model.forwarder
        if not models:
            raise unavailable("No server of the fleet has answered yet.")
        if isinstance(name, str):
            raise _no_such_model(name)
        # Without a model's name, or with something that is none: the server judges it.
        pools = self._fleet.pools()
        if len(pools) > 1 and name is None:
            raise ApiError(400, f"you must provide a model: one of {', '.join(sorted(models)[:5])}", param="model")
        return next(iter(models.values())).forwarder


def _forwarded_headers(request: web.Request) -> dict[str, str]:
    headers = {
        name: value
        for name, value in request.headers.items()
        if (plain := name.lower()) not in _PRIVATE and not plain.startswith(_OF_PROXIES)
    }
    headers[REQUEST_ID] = request_id_of(request)
    return headers


def _reply_headers(request: web.Request, headers: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in headers.items() if name.lower() not in _OWN_REPLY}
    kept[REQUEST_ID] = request_id_of(request)
    return kept


def _no_such_model(name: str) -> ApiError:
    # As vLLM words it, and the client finds its NotFoundError.
    return ApiError(404, f"The model `{name[:200]}` does not exist.", param="model", code=404, kind="NotFoundError")


def _lost(error: PoolError) -> ApiError:
    return ApiError(502, f"The fleet could not answer: {error}", kind="service_unavailable_error", code="upstream_lost")
