"""One HTTP request to a simulated server, and the two ways to answer it: at once, or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from aurora_pool.testing.refusal import Refusal

__all__ = ["ReceivedRequest"]

_ENCODE = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as a simulated agent received it.

    ``path`` has no query and no root path, ``body`` is the decoded JSON (None if there was none), the names in
    ``headers`` are in lower case, and ``at`` is the loop's time in seconds.
    """

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    at: float

    @property
    def prompts(self) -> int:
        """How many prompts it carried: the length of a list request, 1 for a chat, 0 for anything else."""
        return count_prompts(self.path, self.body)


class Exchange:
    """A request that is to be answered."""

    __slots__ = ("received", "request")

    def __init__(self, request: web.BaseRequest, received: ReceivedRequest) -> None:
        self.request = request
        self.received = received

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the request; raises :class:`Refusal` if there is none."""
        content_type = self.received.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            message = "Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(400, message, kind="Bad Request")
        body = self.received.body
        if not isinstance(body, dict):
            raise Refusal(400, "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body'}", kind="Bad Request")
        return body


def count_prompts(path: str, body: Any) -> int:
    """Count the prompts of a request by its path and decoded body."""
    if not isinstance(body, dict):
        return 0
    if path == "/v1/chat/completions":
        return 1
    values = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/v1/chat/completions/batch": "messages"}
    value = body.get(values.get(path, ""))
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        return len(value)
    return 0 if value is None else 1


def json_reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with a JSON body."""
    return reply(_ENCODE(body), status, headers)


def reply(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> web.Response:
    """Answer with bytes."""
    all_headers = {"Server": "uvicorn", "Content-Type": content_type}
    if headers:
        all_headers.update(headers)
    return web.Response(body=body, status=status, headers=all_headers)


class EventStream:
    """A ``text/event-stream`` answer, written straight to the connection.

    Engine events arrive in callbacks, thousands in a second; going through a task for each would cost several times the
    rest. aiohttp still writes the head and the end.
    """

    def __init__(self, request: web.BaseRequest, *, keep_alive: float = 0.0) -> None:
        self._request = request
        self._keep_alive = keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._response = web.StreamResponse(
            headers={"Server": "uvicorn", "Content-Type": "text/event-stream; charset=utf-8"}
        )
        self._pending: list[bytes] = []

    async def begin(self) -> None:
        """Send the status and the headers; from now on a comment every ``keep_alive`` idle seconds, unless it is 0."""
        await self._response.prepare(self._request)
        self._await_idleness()

    def event(self, body: Any) -> None:
        """Add an event with a JSON body."""
        self.add(b"data: %b\n\n" % _ENCODE(body))

    def add(self, data: bytes) -> None:
        """Add bytes unchanged."""
        self._pending.append(data)

    def flush(self) -> None:
        """Send what was added, as one chunk."""
        if not self._pending:
            return
        data = b"".join(self._pending)
        self._pending.clear()
        transport = self._request.transport
        if transport is not None:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        if self._timer is not None:
            self._await_idleness()

    def stop(self) -> None:
        """Send no more comments."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def end(self) -> web.StreamResponse:
        """Send what is left, and the end of the answer."""
        self.flush()
        self.stop()
        await self._response.write_eof()
        return self._response

    def _await_idleness(self) -> None:
        self.stop()
        if self._keep_alive > 0:
            self._timer = asyncio.get_running_loop().call_later(self._keep_alive, self._comment)

    def _comment(self) -> None:
        self.add(b": keep-alive\n\n")
        self.flush()
