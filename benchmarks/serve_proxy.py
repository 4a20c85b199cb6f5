"""The least a gateway can cost: a bare aiohttp.web proxy, round-robin, without retries, keys, limits or batches."""

from __future__ import annotations

import argparse
import asyncio
import itertools
from pathlib import Path

import aiohttp
from aiohttp import web

from aurora_pool import event_loop, parse_hostfile

HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "date", "server"}
)
OWN = frozenset({"host", "authorization", "content-length", "connection", "accept-encoding"})


async def serve(hostfile: Path, port: int) -> None:
    """Proxy for ever."""
    turns = itertools.cycle([endpoint.base_url for endpoint in parse_hostfile(hostfile)])
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OWN}
        async with session.request(request.method, next(turns) + request.path, data=body, headers=headers) as reply:
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in HOP}
            if not reply.content_type.startswith("text/event-stream"):
                return web.Response(status=reply.status, body=await reply.read(), headers=kept)
            response = web.StreamResponse(status=reply.status, headers=kept)
            await response.prepare(request)
            async for chunk in reply.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hostfile", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    event_loop.run(serve(arguments.hostfile, arguments.port))
