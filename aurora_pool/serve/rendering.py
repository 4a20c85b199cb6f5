"""Pages: rendered from templates that escape everything, sent once, or again and again while they are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from aiohttp import web

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.errors import ApiError
from aurora_pool.serve.request_ids import REQUEST_ID, request_id_of

UI = "/ui/"
STATIC = f"{UI}static/"
LOGIN = f"{UI}login"

LIVE_EVERY = 1.0
LIVE_FOR = 300.0
"""Seconds after which a browser has to come again: then its key is checked again."""

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

Values = Mapping[str, Any]


class Pages:
    """Renders the templates. A template's block ``live`` is what changes while the page is open."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(clock=_clock, count=_count, duration=_duration, number=_number)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Where scripts and styles are."""
        return [web.static(STATIC, _HERE / "static")]

    async def close(self, _: web.Application) -> None:
        """End all pages that are live: the server shuts down."""
        self._closing.set()

    def render(self, request: web.Request, name: str, values: Values, status: int = 200) -> web.Response:
        """Render a page once."""
        text = self._templates.get_template(name).render({**_common(request), **values})
        return web.Response(text=text, status=status, content_type="text/html")

    async def show(
        self, request: web.Request, name: str, values_of: Callable[[], Awaitable[Values]]
    ) -> web.StreamResponse:
        """Render a page; with ``?live``, send its live part as server-sent events whenever it has changed."""
        values = await values_of()
        if "live" not in request.query:
            return self.render(request, name, values)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        await response.write(b"retry: 1000\n\n")
        template = self._templates.get_template(name)
        until = time.monotonic() + LIVE_FOR
        sent = ""
        while not self._closing.is_set() and time.monotonic() < until:
            text = "".join(template.blocks["live"](template.new_context({**_common(request), **values})))
            if text != sent:
                sent = text
                await response.write(b"data: " + msgspec.json.encode(text) + b"\n\n")
            try:
                async with asyncio.timeout(LIVE_EVERY):
                    await self._closing.wait()
            except TimeoutError:
                values = await values_of()
        return response

    def tell(self, request: web.Request, error: ApiError) -> web.Response:
        """Word an error as a page; who has no key is led to the form for it."""
        if error.status == 401 and request.path != LOGIN:
            return see_other(f"{_root(request)}login")
        return self.render(request, "error.html", {"status": error.status, "message": error.message}, error.status)


def see_other(where: str) -> web.Response:
    """Lead the browser on; ``where`` is relative, for a proxy may have put the pages under a path of its own."""
    return web.Response(status=303, headers={"Location": where})


async def protect(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id into every reply, and into a page's what a browser may do with it.

    It is an ``on_response_prepare`` signal: streamed replies are on their way when their handler ends.
    """
    if REQUEST_ID not in response.headers:
        response.headers[REQUEST_ID] = request_id_of(request)
    response.headers["Server"] = "aurora-pool"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if not request.path.startswith(UI):
        return
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cache-Control"] = "no-cache" if request.path.startswith(STATIC) else "no-store"


def _common(request: web.Request) -> dict[str, Any]:
    try:
        caller = caller_of(request)
    except KeyError:
        caller = None
    here = request.path.removeprefix(UI).partition("/")[0]
    return {"root": _root(request), "caller": caller, "here": here, "now": time.time()}


def _root(request: web.Request) -> str:
    """The way from this page to where all pages are."""
    return "../" * (request.path.count("/") - UI.count("/")) or "./"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"
