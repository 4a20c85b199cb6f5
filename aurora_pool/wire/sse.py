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

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of each event that they complete, in order."""
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r", b"")  # raw carriage returns can't be part of JSON text
        parts = self._parts
        if parts:
            if b"\n\n" not in chunk and not (chunk.startswith(b"\n") and parts[-1].endswith(b"\n")):
                if chunk:
                    parts.append(chunk)
                return []
            parts.append(chunk)
            chunk = b"".join(parts)
            parts.clear()
        events = chunk.split(b"\n\n")
        rest = events.pop()
        if rest:
            parts.append(rest)
        # Nearly always each event is one line, and one count tells so of all of them.
        plain = chunk.count(b"\n") - rest.count(b"\n") == 2 * len(events)
        return [
            data for event in events if (data := event[6:] if plain and event.startswith(b"data: ") else _data(event))
        ]

    @property
    def cut(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._parts)


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line.removeprefix(b"data:").removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
