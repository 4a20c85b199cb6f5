"""The token usage that a reply reports, for a proxy that reads nothing else of it."""

from __future__ import annotations

import msgspec

from aurora_pool.messages import Usage

STREAM_END = 4096
"""Bytes at the end of a stream that are searched for its usage."""
_FIELD = b'"usage"'


class _Body(msgspec.Struct, gc=False):
    usage: Usage | None = None


_decode = msgspec.json.Decoder(_Body).decode


def usage_of(body: bytes) -> Usage | None:
    """The usage of a whole reply; None where it reports none.

    >>> usage_of(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}')
    Usage(prompt_tokens=3, completion_tokens=2)
    """
    try:
        return _decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def stream_usage_of(end: bytes) -> Usage | None:
    r"""The usage that a stream's last events report; None where they report none. In a text the quotes are escaped.

    >>> stream_usage_of(b'data: {"usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n')
    Usage(prompt_tokens=0, completion_tokens=2)
    """
    place = end.rfind(_FIELD)
    begin = end.rfind(b"data:", 0, max(0, place))
    if begin < 0:
        return None
    return usage_of(end[begin + 5 :].partition(b"\n")[0])
