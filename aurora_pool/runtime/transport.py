"""HTTP to the agents, by aiohttp. The only module that opens client connections; it translates aiohttp's errors.

The settings follow what vLLM's server does: it closes idle connections after exactly 5.0 s, so ours are kept for 4; no
limit on connections and none on the total time of a request, for a list may take hours; and a request whose kept-alive
connection turns out to be closed already is sent again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import select
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
from yarl import URL

from aurora_pool.errors import BadReply, ConfigError, ConnectFailed, ConnectionLost, PoolError, ServerError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.runtime.unpacking import unpacker
from aurora_pool.wire.bounds import ERROR_BODY, OTHER_BODY
from aurora_pool.wire.errors import parse_error, redirected, shortened

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

AnyError = TypeVar("AnyError", bound=PoolError)

_reused: ContextVar[bool] = ContextVar("reused", default=False)
_on_sent: ContextVar[Callable[[], None] | None] = ContextVar("on_sent", default=None)


class Reply:
    """One reply: ``status`` and ``headers`` are here, the body comes on demand.

    It is a context: leaving it before the body has ended closes the connection, and the server aborts what it does.
    """

    __slots__ = ("_response", "_secret", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, secret: str = "") -> None:
        self._response = response
        self._secret = secret
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    async def read(self, limit: int = OTHER_BODY) -> bytes:
        """The whole body, of at most so many bytes. Raises :class:`ConnectionLost` and :class:`BadReply`."""
        return b"".join([chunk async for chunk in self.chunks(limit)])

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces of any size. Raises :class:`ConnectionLost` and :class:`BadReply`."""
        read = self._response.content.readany
        unpack = unpacker(self.headers.get("Content-Encoding", ""))
        received = 0
        while True:
            lost = ""
            try:
                packed = await read()
            except (aiohttp.ClientError, OSError) as error:
                lost = _words(error)
            if lost:  # not raised from aiohttp's own error, which shows the headers of the request
                raise ConnectionLost(lost, received=True)
            if not packed:
                return
            for chunk in (packed,) if unpack is None else unpack(packed):
                received += len(chunk)
                if received > limit:
                    raise BadReply(f"a reply of more than {limit} bytes, far more than was asked for")
                yield chunk
                if unpack is not None:
                    await asyncio.sleep(0)  # one read may unpack to a thousand times its size: others want their turn

    async def start(self) -> bytes:
        """As much of the body as an error may have, without the agent's own key. Raises :class:`ConnectionLost`."""
        start = b""
        async for chunk in self.chunks(sys.maxsize):
            start += chunk
            if len(start) >= ERROR_BODY:
                break
        start = start[:ERROR_BODY]
        return start.replace(self._secret.encode(), b"***") if self._secret else start

    async def error(self, start: bytes | None = None) -> ServerError:
        """What a status other than 200 means; ``start`` is the start of the body where it has been read already."""
        if 300 <= self.status < 400:
            return redirected(self.status, _origin(self._response.url, self.headers.get("Location", "")))
        return parse_error(self.status, await self.start() if start is None else start)

    def redacted(self, error: AnyError) -> AnyError:
        """An error without the agent's own key, should the server have repeated it."""
        if self._secret and self._secret in str(error):
            error.args = tuple(a.replace(self._secret, "***") if isinstance(a, str) else a for a in error.args)
            if isinstance(error, ServerError):
                error.message = error.message.replace(self._secret, "***")
            error.__cause__ = error.__context__ = None
        return error


def _origin(asked: URL, location: str) -> str | None:
    """Where a redirect leads, without path and secrets."""
    try:
        return str(asked.join(URL(location)).origin())
    except ValueError:
        return None


class Transport:
    """Connections to a fleet of agents; one per event loop, opened by :meth:`open` and closed by :meth:`close`.

    ``connector_limit`` bounds the connections that are open, idle ones included. One more is there for looking at
    agents, so that it never has to wait for the very reply that does not come.
    """

    def __init__(
        self, endpoints: Sequence[AgentEndpoint], *, connect_timeout: float, connector_limit: int | None
    ) -> None:
        self._agents: list[tuple[str, dict[str, str]]] = []
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
        """Say which agent has which index. Raises :class:`ConfigError` if a key's environment variable is not set."""
        self._agents = [(endpoint.base_url, _headers(endpoint)) for endpoint in endpoints]
        self._secrets = [headers.get("Authorization", "").removeprefix("Bearer ") for _, headers in self._agents]
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
        reply = Reply(await self._send(method, url, body, sent), self._secrets[agent])
        if on_sent is not None:
            on_sent()  # test doubles for aiohttp answer without a connection
        return reply

    async def _send(self, method: str, url: URL, body: bytes | None, headers: dict[str, str]) -> aiohttp.ClientResponse:
        lost: ConnectionLost | None = None
        while True:
            try:
                return await self._send_once(method, url, body, headers)
            except ConnectionLost as error:
                if not _reused.get():
                    raise
                # The server had closed this kept-alive connection while it was idle: nothing is done yet, so again at
                # once. The next one may be as old; the first that is new tells the truth.
                lost = error
            except ConnectFailed:
                if lost is None:
                    raise
                raise lost from None  # nobody is there any more: it died, perhaps of this very request

    async def _send_once(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        data = io.BytesIO(body) if body is not None and len(body) >= LARGE_BODY else body
        lost = unreached = ""
        try:
            return await self._session.request(method, url, data=data, headers=headers, allow_redirects=False)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            unreached = _words(error)
        except (aiohttp.ClientError, OSError) as error:
            lost = _words(error)
        if lost:  # not raised from aiohttp's own error, which shows the headers of the request
            raise ConnectionLost(lost, received=False)
        raise ConnectFailed(unreached)

    def _address(self, agent: int, path: str) -> tuple[URL, dict[str, str]]:
        base, headers = self._agents[agent]
        url = self._urls.get((agent, path))
        if url is None:
            url = self._urls[agent, path] = URL(base + path)
        return url, headers


class _Connector(aiohttp.TCPConnector):
    """Tells the request in :data:`_reused` whether its connection had served another one before.

    At most ``most_open`` connections are open, where that is given: an idle one is closed to make room.
    """

    def __init__(self, most_open: int | None, **options: Any) -> None:
        super().__init__(**options)
        self._most_open = most_open
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()
        self._turn = asyncio.Semaphore(CONNECTING)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> Connection:
        while True:
            async with self._turn:
                connection = await super().connect(req, traces, timeout)
            reused = connection.protocol in self._used
            if not reused or not _has_unread(connection):
                break
            connection.close()
        _reused.set(reused)
        self._used.add(connection.protocol)
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
        while self._most_open and self._conns and len(self._acquired) + self._idle() > self._most_open:
            key = min(self._conns, key=lambda key: self._conns[key][0][1])
            protocol, _ = self._conns[key].popleft()
            if not self._conns[key]:
                del self._conns[key]
            protocol.close()
        return await super()._create_connection(req, traces, timeout)

    def _idle(self) -> int:
        return sum(map(len, self._conns.values()))


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


def _headers(endpoint: AgentEndpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key_env:
        key = os.environ.get(endpoint.api_key_env)
        if not key:
            raise ConfigError(
                f"{endpoint}: the environment variable {endpoint.api_key_env} with its API key is not set"
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _words(error: BaseException) -> str:
    """What happened, in words without objects' representations, which could show headers."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection broke in the middle of the reply"
    if isinstance(error, TimeoutError):
        return "can't connect in time"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the reply is no HTTP"
    return shortened(str(error), 200) or type(error).__name__
