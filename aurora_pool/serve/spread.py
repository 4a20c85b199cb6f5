"""Lists of prompts to ``/v1/completions``: each prompt is a request of its own, so that the whole fleet works on them.

The reply is what one server would have said: choices by prompt, usage in sum, and one bad prompt fails the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import msgspec

from aurora_pool.errors import BadReply, PoolError
from aurora_pool.messages import Usage
from aurora_pool.runtime.forward import ONLINE, Forwarder
from aurora_pool.serve.request_ids import REQUEST_ID
from aurora_pool.wire.sse import DONE, EventSplitter

PATH = "/v1/completions"
MOST_PROMPTS = 1024
"""vLLM's own limit."""
AT_ONCE = 256
_EVENTS_AHEAD = 256
_DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode

Charge: TypeAlias = Callable[[Usage | None], None]


class PromptList:
    """A request with several prompts: what they share, and each one."""

    def __init__(self, fields: dict[str, Any], prompts: Sequence[Any]) -> None:
        self._fields = fields
        self.prompts = prompts
        n = fields.get("n")
        self.samples = n if isinstance(n, int) and n > 0 else 1
        options = fields.get("stream_options")
        self.wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))

    @classmethod
    def read(cls, body: bytes, prompt: msgspec.Raw) -> Self | None:
        """Read a request; None if it has one prompt, or is not such a request at all."""
        if not bytes(prompt).startswith(b"["):
            return None
        fields = msgspec.json.decode(body)
        prompts = fields.pop("prompt")
        # What a server refuses it shall refuse itself: too many prompts, none, texts beside token ids.
        if not 1 < len(prompts) <= MOST_PROMPTS or len({type(each) for each in prompts}) > 1:
            return None
        if not all(isinstance(each, str | list) for each in prompts):
            return None
        return cls(fields, prompts)

    def body_of(self, number: int) -> bytes:
        """The body of one prompt's own request."""
        return _encode({**self._fields, "prompt": self.prompts[number]})


class _Refused(Exception):
    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.content = content


async def answer_list(
    forwarder: Forwarder, listed: PromptList, headers: Mapping[str, str], request_id: str, charge: Charge
) -> tuple[int, bytes]:
    """Answer a list; return the status and the body. ``charge`` is called with each reply's tokens.

    Raises :class:`PoolError`.
    """
    replies: list[dict[str, Any]] = [{}] * len(listed.prompts)
    numbers = iter(range(len(listed.prompts)))

    async def work() -> None:
        for number in numbers:
            own = {**headers, REQUEST_ID: f"{request_id}-{number}"}
            with await forwarder.send("POST", PATH, own, listed.body_of(number), priority=ONLINE) as reply:
                content = await reply.read()
                charge(reply.usage)
            if reply.status != 200:
                raise _Refused(reply.status, content)
            replies[number] = _read(content)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(listed.prompts))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        if isinstance(first, _Refused):
            return first.status, first.content
        raise first from None
    return 200, _encode(_merge(replies, listed.samples, request_id))


def _read(content: bytes) -> dict[str, Any]:
    """Read a reply, or an event of one. Raises :class:`BadReply` for what is none: its choices are to be numbered."""
    try:
        reply = msgspec.json.decode(content, type=dict[str, Any])
        msgspec.convert(reply, type=_Numbered)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"the reply is not what the API promises: {content[:120]!r}") from error
    return reply


class _Choice(msgspec.Struct, gc=False):
    index: int = 0


class _Numbered(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


def _merge(replies: Sequence[dict[str, Any]], samples: int, request_id: str) -> dict[str, Any]:
    choices = []
    usage: dict[str, Any] | None = None
    for number, reply in enumerate(replies):
        for choice in reply.get("choices") or ():
            choice["index"] = number * samples + choice.get("index", 0)
            choices.append(choice)
        usage = _add(usage, reply.get("usage"))
    return {**replies[0], "id": f"cmpl-{request_id}", "choices": choices, "usage": usage}


def _add(total: dict[str, Any] | None, more: Any) -> dict[str, Any] | None:
    """Add up counts of tokens, those inside of details too."""
    if not isinstance(more, dict):
        return total
    if total is None:
        return more
    merged = dict(total)
    for name, value in more.items():
        known = merged.get(name)
        if isinstance(value, dict):
            merged[name] = _add(known if isinstance(known, dict) else None, value)
        elif isinstance(value, int):
            merged[name] = value + (known if isinstance(known, int) else 0)
    return merged


class ListStream:
    """A list answered as a stream: every prompt's events, with its own index, as they come. Close it in the end."""

    def __init__(
        self, forwarder: Forwarder, listed: PromptList, headers: Mapping[str, str], request_id: str, charge: Charge
    ) -> None:
        self._forwarder = forwarder
        self._charge = charge
        self._listed = listed
        self._headers = headers
        self._request_id = request_id
        self._events: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_EVENTS_AHEAD)
        self._numbers = iter(range(len(listed.prompts)))
        self._usage: dict[str, Any] | None = None
        self._last: dict[str, Any] = {}
        self._first: bytes | BaseException | None = None
        self._working = asyncio.create_task(self._work_all())

    async def refusal(self) -> tuple[int, bytes] | None:
        """Wait for the first event; give the status and body of a server that refuses instead."""
        self._first = await self._events.get()
        if isinstance(self._first, _Refused) and self._first.status != 200:
            return self._first.status, self._first.content
        return None

    async def events(self) -> AsyncIterator[bytes]:
        """The events, after :meth:`refusal`. Raises :class:`PoolError` where the fleet fails."""
        event = self._first
        while event is not None:
            if isinstance(event, _Refused):
                yield b"data: " + event.content.replace(b"\n", b" ") + b"\n\n" + _DONE
                return
            if isinstance(event, BaseException):
                raise event if isinstance(event, PoolError) else PoolError(repr(event))
            yield event
            event = await self._events.get()
        if self._listed.wants_usage and self._usage is not None:
            yield _event({**self._last, "id": f"cmpl-{self._request_id}", "usage": self._usage})
        yield _DONE

    async def close(self) -> None:
        """Stop what is in flight."""
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)

    async def _work_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(self._listed.prompts))):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            await self._events.put(errors.exceptions[0])
        await self._events.put(None)

    async def _work(self) -> None:
        for number in self._numbers:
            own = {**self._headers, REQUEST_ID: f"{self._request_id}-{number}"}
            with await self._forwarder.send("POST", PATH, own, self._listed.body_of(number), priority=ONLINE) as reply:
                try:
                    if reply.status != 200 or reply.content is not None:
                        raise _Refused(reply.status, await reply.read())
                    splitter = EventSplitter()
                    async for chunk in reply.chunks():
                        for data in splitter.feed(chunk):
                            if data != DONE:
                                await self._take(number, data)
                finally:
                    self._charge(reply.usage)

    async def _take(self, number: int, data: bytes) -> None:
        """Put one prompt's event into its place in the list."""
        event = _read(data)
        if event.get("error") is not None:
            raise _Refused(200, data)
        choices = event.get("choices")
        if not choices and event.get("usage") is not None:
            self._usage, self._last = _add(self._usage, event["usage"]), event
            return
        for choice in choices or ():
            choice["index"] = number * self._listed.samples + choice.get("index", 0)
        event["id"] = f"cmpl-{self._request_id}"
        await self._events.put(_event(event))


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + _encode(content) + b"\n\n"
