"""A proxy before simulated agents, as odd as they come: it passes on what it is not told to answer itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from aurora_pool import AgentEndpoint

Answer = Callable[[], web.Response]
Refuse = Callable[[str, Any], web.Response | None]


def not_found() -> web.Response:
    return web.json_response({"detail": "Not Found"}, status=404)


def forbidden() -> web.Response:
    return web.Response(status=403, text="<html>403 Forbidden</html>", content_type="text/html")


def page() -> web.Response:
    return web.Response(text="<html>It works!</html>", content_type="text/html")


def bad_gateway() -> web.Response:
    return web.Response(status=502, text="<html>502 Bad Gateway</html>", content_type="text/html")


@asynccontextmanager
async def gateway(
    agent: AgentEndpoint, answers: Mapping[str, Answer], refuse: Refuse | None = None
) -> AsyncGenerator[AgentEndpoint]:
    """Run a proxy before an agent that answers these paths itself, and bodies that it refuses."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path in answers:
            return answers[request.path]()
        body = await request.read()
        refusal = refuse(request.path, msgspec.json.decode(body)) if refuse is not None and body else None
        if refusal is not None:
            return refusal
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        async with session.request(request.method, agent.base_url + request.path, data=body, headers=headers) as reply:
            passed = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.headers["Content-Type"]})
            await passed.prepare(request)
            async for chunk in reply.content.iter_any():
                await passed.write(chunk)
            return passed

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        async with aiohttp.ClientSession() as session:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield AgentEndpoint("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()
