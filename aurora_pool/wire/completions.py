"""``/v1/completions``: a list of prompts in one request, its choices one by one.

Streamed with a large ``stream_interval``, each choice has two events: its first token, and all the rest at the moment
it finishes. Older servers send one event per token; a server or proxy that does not stream at all sends one JSON body.
All three are read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aurora_pool.messages import Sampling, Usage
from aurora_pool.wire import lenient
from aurora_pool.wire.answer import Answer, Finished
from aurora_pool.wire.assembly import Assembly
from aurora_pool.wire.bounds import UNBOUNDED, Bounds
from aurora_pool.wire.errors import error_of
from aurora_pool.wire.sse import DONE

PATH = "/v1/completions"
_USAGE = {"include_usage": True, "continuous_usage_stats": True}


class _Reply(msgspec.Struct, gc=False):
    choices: list[Answer]
    usage: Usage | None = None
    error: Any = None


class _NamedReply(_Reply, gc=False):
    model: str = ""


_DECODER = msgspec.json.Decoder(_Reply)
_NAMED = msgspec.json.Decoder(_NamedReply)
_ENCODER = msgspec.json.Encoder()


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The body fields of a sampling: only what is set.

    >>> sampling_fields(Sampling(temperature=0.0, extra={"min_tokens": 4}))
    {'temperature': 0.0, 'min_tokens': 4}
    """
    fields: dict[str, Any] = msgspec.to_builtins(sampling)
    fields.update(fields.pop("extra", {}))
    return fields


def streaming(interval: int) -> dict[str, Any]:
    """The body fields that ask for a stream with an event for every ``interval`` tokens of an answer."""
    return {"stream": True, "stream_interval": interval, "stream_options": _USAGE}


def encode_request(
    model: str, contents: Sequence[Any], fields: dict[str, Any], max_tokens: int | None, *, interval: int = 0
) -> bytes:
    """Write the body of a list request; with an ``interval`` above 0 it is streamed.

    >>> encode_request("m", ["a", "b"], {"seed": 1}, 8)
    b'{"model":"m","prompt":["a","b"],"max_tokens":8,"seed":1}'
    """
    body: dict[str, Any] = {"model": model, "prompt": contents}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if interval:
        body.update(streaming(interval))
    body.update(fields)
    return _ENCODER.encode(body)


class CompletionsReader:
    """Reads the reply to a list request of a number of prompts with ``n`` samples each."""

    __slots__ = ("_assembly", "_choices", "model", "take")

    def __init__(self, prompts: int, n: int = 1, bounds: Bounds = UNBOUNDED) -> None:
        self._choices = prompts * n
        self._assembly = Assembly(prompts, n, bounds)
        self.model: str | None = None
        self.take = self._assembly.take

    def events(self, events: Iterable[bytes]) -> None:
        """Take the data of events; see :class:`~aurora_pool.wire.answer.Reader`."""
        add, decode = self._assembly.add, _DECODER.decode
        for data in events:
            if data == DONE:
                self._assembly.done()
                continue
            try:
                reply: Any = decode(data)
            except Exception:  # noqa: BLE001 (the other reader says what is wrong)
                reply = lenient.read(data, "text", self._choices, self._assembly.has_begun)
                self.model = self.model or reply.model
            else:
                if reply.error is not None:
                    raise error_of(reply.error)
                if self.model is None:  # it is in all events, and read in one
                    self.model = _NAMED.decode(data).model
            add(reply.choices, reply.usage)
        self._assembly.check_size()

    def whole(self, body: bytes) -> Finished:
        """Take a body that was not streamed; see :class:`~aurora_pool.wire.answer.Reader`."""
        try:
            reply: Any = _NAMED.decode(body)
        except Exception:  # noqa: BLE001 (the other reader says what is wrong)
            reply = lenient.read(body, "text", self._choices)
        else:
            if reply.error is not None:
                raise error_of(reply.error)
        self.model = reply.model
        return self._assembly.whole(reply.choices, reply.usage)
