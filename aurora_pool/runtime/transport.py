"""HTTP to the agents, by aiohttp. The only module that opens client connections; it translates aiohttp's errors.

The settings follow what vLLM's server does: it closes idle connections after exactly 5.0 s, so ours are kept for 4; no
limit on connections and none on the total time of a request, for a list may take hours; and a request whose kept-alive
connection turns out to be closed already is sent again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import select
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from aurora_pool.errors import ConnectFailed, ConnectionLost
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.options import ConnectionOptions
from aurora_pool.runtime.credentials import Trust, headers_of, secrets_of
from aurora_pool.runtime.reply import Reply, words

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the server's 5.0."""

LARGE_BODY = 1 << 20
"""Bytes from which a body is written piece by piece, so that writing it does not hold up the event loop."""

CONNECTING = 256
"""How many connections may be opened at a time. Thousands at once keep the event loop so busy that the time limit on
connecting passes before it has seen that they are open."""

SHORTAGE_PAUSE = 0.05
"""Seconds before another try where no more files can be opened; doubled with each, up to 1."""
_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)

log = logging.getLogger("aurora_pool")

_reused: ContextVar[bool] = ContextVar("reused", default=False)
_on_sent: ContextVar[Callable[[], None] | None] = ContextVar("on_sent", default=None)


class Transport:
    """Connections to a fleet of agents; one per event loop, opened by :meth:`open` and closed by :meth:`close`.

    ``connector_limit`` bounds the connections that are open, idle ones included. One more is there for checking
    agents, so that it never has to wait for the reply that does not come.
    """

    def __init__(
        self,
        endpoints: Sequence[AgentEndpoint],
        *,
        connect_timeout: float,
        connector_limit: int | None,
        connection: ConnectionOptions,
    ) -> None:
        self._agents: list[tuple[str, dict[str, str]]] = []
        self._connection = connection
        self._trust = Trust(connection)
        self._connect_timeout = connect_timeout
        self._most_open = connector_limit + 1 if connector_limit else None
        self.turn: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(self._most_open) if self._most_open else contextlib.nullcontext()
        )
        """Entered for the whole of each exchange: the wait for a connection where they are limited."""
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[int, str], URL] = {}
        self.set_endpoints(endpoints)

    def set_endpoints(self, endpoints: Sequence[AgentEndpoint]) -> None:
        """Record which agent has which index.

        Raises :class:`ConfigError` if a key's environment variable is not set or a certificate can't be read.
        """
        self._agents = [
            (endpoint.base_url, {"Content-Type": "application/json"} | headers_of(endpoint, self._connection))
            for endpoint in endpoints
        ]
        self._secrets = [secrets_of(e, headers) for e, (_, headers) in zip(endpoints, self._agents, strict=True)]
        self._trust.set_endpoints(endpoints)
        self._urls.clear()

    def open(self) -> None:
        """Make the session; needs a running event loop."""
        if self._session is None:
            connector = _Connector(self._most_open, limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=300)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
                read_bufsize=1 << 18,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
            )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def request(
        self,
        agent: int,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "",
        headers: Mapping[str, str] | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Reply:
        """Make a request to an agent: POST with a JSON body, GET without one, or the ``method`` named.

        ``on_sent`` is called when there is a connection and the request begins to be written, and perhaps again later.

        Raises :class:`ConnectFailed` and :class:`ConnectionLost`.

        >>> with await transport.request(0, "/health") as reply:  # doctest: +SKIP
        ...     content = await reply.read()
        """
        if self._session is None:
            raise RuntimeError("the transport is not open")
        url, own_headers = self._address(agent, path)
        sent = own_headers if headers is None else {**headers, **own_headers}
        method = method or ("GET" if body is None else "POST")
        _on_sent.set(on_sent)
        reply = Reply(await self._send(method, url, body, sent, self._trust.of(agent)), self._secrets[agent])
        if on_sent is not None:
            on_sent()  # test doubles for aiohttp answer without a connection
        return reply

    async def _send(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str], trust: SSLContext | bool
    ) -> aiohttp.ClientResponse:
        lost: ConnectionLost | None = None
        while True:
            unreached = ""
            data = io.BytesIO(body) if body is not None and len(body) >= LARGE_BODY else body
            try:
                assert self._session is not None
                return await self._session.request(
                    method, url, data=data, headers=headers, allow_redirects=False, ssl=trust
                )
            except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
                unreached = words(error)
            except (aiohttp.ClientError, OSError) as error:
                lost = ConnectionLost(words(error), received=False)
            # Raised out here, not from aiohttp's own error, which shows the headers of the request.
            if lost is None:
                raise ConnectFailed(unreached)
            if unreached or not _reused.get():
                raise lost  # the server is gone: it died, perhaps of this request
            # The server had closed this kept-alive connection while it was idle: nothing is done yet, so again at
            # once. The next one may be as old; the first that is new tells the truth.

    def _address(self, agent: int, path: str) -> tuple[URL, dict[str, str]]:
        base, headers = self._agents[agent]
        url = self._urls.get((agent, path))
        if url is None:
            url = self._urls[agent, path] = URL(base + path)
        return url, headers


class _Connector(aiohttp.TCPConnector):
    """Tells the request in :data:`_reused` whether its connection had served another one before.

    At most ``most_open`` connections are open, where that is given: an idle one is closed for a new one. Names are
    looked up again after a failure, and a shortage of open files slows the sending down.
    """

    def __init__(self, most_open: int | None, **options: Any) -> None:
        super().__init__(**options)
        self._most_open = most_open
        self._shortage_logged = False
        self._turn = asyncio.Semaphore(CONNECTING)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> Connection:
        while True:
            _reused.set(True)
            connection = await super().connect(req, traces, timeout)
            if not _reused.get() or not _has_unread(connection):
                break
            connection.close()
        on_sent = _on_sent.get()
        if on_sent is not None:
            try:
                on_sent()
            except BaseException:
                connection.close()
                raise
        return connection

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        _reused.set(False)
        async with self._turn:
            return await self._open_connection(req, traces, timeout)

    async def _open_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        while self._most_open and len(self._acquired) + sum(map(len, self._conns.values())) > self._most_open:
            if not self._close_oldest():
                break
        pause = SHORTAGE_PAUSE
        while True:
            try:
                return await super()._create_connection(req, traces, timeout)
            except BaseException as error:
                # The name may belong to another machine by now: next time it is looked up again. One that is gone
                # refuses nothing, so this is often the cancellation by a time limit.
                self.clear_dns_cache(req.connection_key.host, req.connection_key.port or 0)
                if not isinstance(error, aiohttp.ClientConnectorError) or error.os_error.errno not in _NO_MORE_FILES:
                    raise
            # It is this process that is short of something, and no agent's fault: idle connections are closed, and the
            # request waits, unsent, until another has ended.
            if not self._shortage_logged:
                self._shortage_logged = True
                log.warning("no more files can be opened for connections: requests wait for others to end (ulimit -n)")
            while self._close_oldest():
                pass
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _close_oldest(self) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        key = min(self._conns, key=lambda key: self._conns[key][0][1], default=None)
        if key is None:
            return False
        protocol, _ = self._conns[key].popleft()
        if not self._conns[key]:
            del self._conns[key]
        protocol.close()
        return True


def _has_unread(connection: Connection) -> bool:
    """Whether an idle connection has something to say: its end, or a second reply, which would answer the next request.

    It may have been read already, or still lie in the socket.
    """
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return True
    waiting = transport.get_extra_info("socket")
    if waiting is None:
        return False
    poll = select.poll()
    poll.register(waiting.fileno(), select.POLLIN)
    return bool(poll.poll(0))
