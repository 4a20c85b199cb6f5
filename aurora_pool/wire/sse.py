"""Split a stream of server-sent events into their data, whatever the chunks and however long the events.

Reading by lines has a limit in aiohttp (a 600 kB event fails), so the bytes are split here. Only what vLLM and
OpenAI-like servers send is understood: ``data:`` fields, comments (``: keep-alive``), and the final ``[DONE]``; other
fields are skipped. The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

DONE = b"[DONE]"


class EventSplitter:
    r"""Takes chunks, gives the data of the events that are complete.

    >>> splitter = EventSplitter()
    >>> splitter.feed(b'data: {"a":1}\n\n: keep-alive\n\nda'), splitter.feed(b"ta: [DONE]\n\n")
    ([b'{"a":1}'], [b'[DONE]'])
    """

    __slots__ = ("_lines", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of each event that they complete, in order."""
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r", b"")  # raw carriage returns can't be part of JSON text
        rest, lines = self._rest, self._lines
        if rest:
            rest.append(chunk)
            if b"\n" not in chunk:
                return []
            chunk = b"".join(rest)
            rest.clear()
        events = []
        start = 0
        # Looking for one byte is far quicker than looking for two, and than splitting.
        while (end := chunk.find(b"\n", start)) >= 0:
            if end == start:
                if lines:
                    events.append(b"\n".join(lines))
                    lines.clear()
            elif chunk.startswith(b"data: ", start):
                lines.append(chunk[start + 6 : end])
            elif chunk.startswith(b"data:", start):
                lines.append(chunk[start + 5 : end])
            start = end + 1
        if start < len(chunk):
            rest.append(chunk[start:])
        return events

    @property
    def cut(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest or self._lines)
