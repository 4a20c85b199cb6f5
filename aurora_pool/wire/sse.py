"""Split a stream of server-sent events into their data, whatever the chunks and however long the events.

Reading by lines has a limit in aiohttp (a 600 kB event fails), so the bytes are split here. Only what vLLM and
OpenAI-like servers send is understood: ``data:`` fields, comments (``: keep-alive``), and the final ``[DONE]``. The
format's other fields are skipped; any other line is an error, for a piece of an answer may be lost in it. The format:
https://html.spec.whatwg.org/multipage/server-sent-events.html

A line of data that is a whole JSON object is an event, with or without the empty line that should follow it.
"""

from __future__ import annotations

from aurora_pool.errors import BadReply
from aurora_pool.wire.bounds import UNBOUNDED

DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"
_CLOSING = ord("}")
_OTHERS = (b":", b"event:", b"id:", b"retry:")


class EventSplitter:
    r"""Takes chunks, gives the data of the events that are complete.

    >>> splitter = EventSplitter()
    >>> splitter.feed(b'data: {"a":1}\n\n: keep-alive\n\nda'), splitter.feed(b"ta: [DONE]\n\n")
    ([b'{"a":1}'], [b'[DONE]'])

    ``limit`` is how many bytes of an event that has not ended are kept; more is a :class:`BadReply`.
    """

    __slots__ = ("_after_return", "_begun", "_in_lines", "_kept", "_limit", "_lines", "_rest")

    def __init__(self, limit: int = UNBOUNDED.event) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._lines: list[bytes] = []
        self._kept = self._in_lines = 0
        self._begun = False
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of each event that they complete, in order."""
        if self._after_return or b"\r" in chunk:
            chunk = self._with_newlines(chunk)
        rest = self._rest
        if rest:
            rest.append(chunk)
            if b"\n" not in chunk:
                self._keep(len(chunk))
                return []
            chunk = b"".join(rest)
            rest.clear()
        if not self._begun:
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                rest.append(chunk)
                return []
            self._begun = True
            chunk = chunk.removeprefix(BOM)
        events = self._split(chunk)
        self._keep(0)
        return events

    def _split(self, chunk: bytes) -> list[bytes]:
        lines = self._lines
        events: list[bytes] = []
        append = events.append
        start = 0
        # Looking for one byte is far quicker than looking for two, and than splitting.
        while (end := chunk.find(b"\n", start)) >= 0:
            if end == start:
                if lines:
                    append(b"\n".join(lines))
                    lines.clear()
                    self._in_lines = 0
            elif chunk.startswith(b"data: {", start) and chunk[end - 1] == _CLOSING and not lines:
                append(chunk[start + 6 : end])
            elif chunk.startswith(b"data:", start):
                self._add_line(chunk[start + 5 : end], events)
            elif not chunk.startswith(_OTHERS, start):
                raise BadReply(f"a line that is none of an event: {chunk[start : min(end, start + 60)]!r}")
            start = end + 1
        if start < len(chunk):
            self._rest.append(chunk[start:])
        self._kept = len(chunk) - start + (self._in_lines if lines else 0)
        return events

    def end(self) -> list[bytes]:
        """Take the end of the stream; return the data of an event that lacks no more than its empty line."""
        return self.feed(b"\n\n") if self._rest or self._lines else []

    def _add_line(self, data: bytes, events: list[bytes]) -> None:
        data = data.removeprefix(b" ")
        if self._lines or not (data == DONE or (data.startswith(b"{") and data.endswith(b"}"))):
            self._lines.append(data)
            self._in_lines += len(data) + 50  # and what a line costs besides
            if self._in_lines > self._limit:
                self._keep(self._in_lines)
        else:
            events.append(data)

    def _keep(self, size: int) -> None:
        self._kept += size
        if self._kept > self._limit:
            raise BadReply(f"an event of more than {self._limit} bytes")

    def _with_newlines(self, chunk: bytes) -> bytes:
        """Write carriage returns, which can't be part of JSON text, as newlines, also where a pair of both is cut."""
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def begins_events(start: bytes, *, named_so: bool) -> bool:
    """Whether a body that begins like this is events; ``named_so`` is what its type says. It is JSON otherwise.

    >>> begins_events(b"data: {", named_so=False), begins_events(b'{"choices":', named_so=True)
    (True, False)
    """
    start = start.removeprefix(BOM).lstrip()
    if named_so:
        return bool(start) and not BOM.startswith(start) and not start.startswith(b"{")
    return start.startswith((b"data:", b"event:", b":"))
