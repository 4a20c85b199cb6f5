"""Listens, serves, and ends well: limits on clients that are slow or many, TLS, and a graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from aurora_pool.errors import ConfigError
from aurora_pool.hostfile import AnyEndpoint, as_endpoints
from aurora_pool.options import Timeouts
from aurora_pool.serve.app import EXECUTOR, NEEDS_KEY, open_app
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.options import ServerOptions

__all__ = ["Server", "serving"]

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept: more than what proxies keep theirs for."""
LINGER = 10.0
"""Seconds in which the rest of a body is thrown away after its reply, so that the client gets to read that."""

logger = logging.getLogger("aurora_pool")


class Server:
    """A server that listens. ``address`` is its URL, ``fleet`` what it serves.

    ``needs_key`` tells whether it began with keys: without any, a server of this machine only asks for none.
    """

    def __init__(self, address: str, port: int, fleet: ServedFleet, *, needs_key: bool) -> None:
        self.address = address
        self.port = port
        self.fleet = fleet
        self.needs_key = needs_key


@asynccontextmanager
async def serving(
    endpoints: Iterable[AnyEndpoint], options: ServerOptions, *, timeouts: Timeouts | None = None
) -> AsyncIterator[Server]:
    """Serve a fleet for as long as the context lasts; port 0 takes a free one.

    At the end nothing new is accepted, what is in flight has ``options.grace`` seconds, and batches that are not done
    go on when the server is started again. Raises :class:`~aurora_pool.errors.ConfigError`.

    >>> async with serving(endpoints, ServerOptions(data=Path("data"))) as server:  # doctest: +SKIP
    ...     print(server.address)
    """
    context = _tls(options)
    fleet = ServedFleet(as_endpoints(endpoints), timeouts)
    gate = _Gate(options)
    async with open_app(options, fleet, arrived=gate.arrived) as app:
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=options.header_bytes,
            max_field_size=options.header_bytes,
            shutdown_timeout=options.grace,
            lingering_time=min(LINGER, options.read_timeout),
            auto_decompress=False,
        )
        await runner.setup()
        loop = asyncio.get_running_loop()
        try:
            assert runner.server is not None
            listening = await loop.create_server(
                gate.factory(runner.server), options.host, options.port, ssl=context, backlog=1024
            )
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(f"{options.host}:{options.port}: can't listen there ({error.strerror})") from error
        port = listening.sockets[0].getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            yield Server(f"{'https' if context else 'http'}://{host}:{port}", port, fleet, needs_key=app[NEEDS_KEY])
        finally:
            listening.close()
            await asyncio.gather(app[EXECUTOR].stop(options.grace), runner.cleanup())


class _Gate:
    """Turns away connections that are too many, and those that bring no whole request in time."""

    def __init__(self, options: ServerOptions) -> None:
        self._limit = options.connections
        self._within = options.read_timeout
        self._awaited: dict[Any, asyncio.TimerHandle] = {}

    def factory(self, server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
        """How a protocol is made for a new connection."""

        def make() -> asyncio.BaseProtocol:
            if len(server.connections) >= self._limit:
                return _Refusal()
            protocol = server()
            self._awaited[protocol] = asyncio.get_running_loop().call_later(self._within, self._give_up, protocol)
            return protocol

        return make

    def _give_up(self, protocol: Any) -> None:
        del self._awaited[protocol]
        protocol.force_close()

    def arrived(self, request: web.Request) -> None:
        """Record that a connection has brought a whole request."""
        timer = self._awaited.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        transport.close()


def _tls(options: ServerOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{options.tls_cert}: the certificate and its key can't be used ({error})") from error
    return context
