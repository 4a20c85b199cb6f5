"""Error bodies of vLLM and its relatives -> :class:`~aurora_pool.errors.ServerError`.

Four shapes are in use: ``{"error": {"message", "type", "param", "code"}}`` (since 0.10.2), the same at the top level
with ``"object": "error"`` (before), ``{"error": "Unauthorized"}`` (401), ``{"detail": "Not Found"}`` (unknown paths).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from aurora_pool.errors import ServerError

_CONTEXT = re.compile(r"maximum context length is (\d{1,9}) tokens")
_PROMPT_LENGTH = re.compile(
    r"prompt contains (\d{1,9}) input tokens"  # 0.24 to 0.31
    r"|request has (\d{1,9}) input tokens"  # 0.10.2 to 0.11.2
    r"|\((\d{1,9}) in the (?:messages|prompt)"  # 0.8
)
LONGEST_WAIT = 3600.0
"""The longest wait that a server may ask for, in seconds."""
_SHOWN = 500
"""Bytes of an unknown body that are shown."""
MESSAGE = 2000
"""Characters of a server's message that are kept."""


def parse_error(status: int, body: bytes) -> ServerError:
    """Read the body of a reply with a status that is not 200; any body will do.

    >>> parse_error(404, b'{"detail":"Not Found"}')
    ServerError('404: Not Found')
    """
    try:
        return error_of(msgspec.json.decode(body), status)
    except Exception:  # noqa: BLE001 (whatever it is, it is no JSON that can be read; see `answer.guarded`)
        return ServerError(status, body[:_SHOWN].decode("utf-8", "replace").strip())


def redirected(status: int, origin: str | None) -> ServerError:
    """The error that a redirect is: none is followed, for the key that goes with a request is the agent's alone.

    >>> redirected(301, "https://gpu01:8000").message
    'it redirects to https://gpu01:8000, and redirects are not followed: name that address in the hostfile'
    """
    where = shortened(origin, 200) if origin else "another address"
    advice = "redirects are not followed: name that address in the hostfile"
    return ServerError(status, f"it redirects to {where}, and {advice}")


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds after which a server says it may be asked again: ``retry-after-ms``, seconds, or a date.

    >>> [retry_after({"Retry-After": text}, datetime(2026, 1, 1)) for text in ("30", "soon")]
    [30.0, None]
    """
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        break
    else:
        try:
            seconds = (parsedate_to_datetime(headers.get("Retry-After", "")) - now).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(seconds, LONGEST_WAIT) if 0 <= seconds < math.inf else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """What a server says of sending the same request again, in the header that the openai client obeys.

    >>> should_retry({"x-should-retry": "false"}), should_retry({})
    (False, None)
    """
    return {"true": True, "false": False}.get(headers.get("x-should-retry", ""))


def shortened(text: str, most: int = MESSAGE) -> str:
    """A server's message, cut with a note where it is too long.

    >>> shortened("abcdef", 4)
    'abcd [... 2 more characters]'
    """
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most} more characters]"


def context_left(error: ServerError) -> int | None:
    """How many tokens a prompt leaves of the context, if a server up to 0.31 says so in refusing its ``max_tokens``.

    None for any other error, and where the prompt alone is too long. 0.32 does not refuse: it generates what fits.

    >>> context_left(ServerError(400, "This model's maximum context length is 2048 tokens. However, you requested 200 "
    ... "output tokens and your prompt contains 1900 input tokens, for a total of 2100 tokens."))
    148
    """
    context = _CONTEXT.search(error.message)
    prompt = _PROMPT_LENGTH.search(error.message)
    if error.status != 400 or context is None or prompt is None:
        return None
    left = int(context[1]) - int(next(filter(None, prompt.groups())))
    return left if left > 0 else None


def error_of(value: Any, status: int = 500) -> ServerError:
    """Read a decoded error body or the payload of an error event, whose own ``code`` wins over ``status``."""
    inner = (value.get("error") or value) if isinstance(value, dict) else value
    if not isinstance(inner, dict):
        return ServerError(status, shortened(str(inner)))
    message = inner.get("message", inner.get("detail", ""))
    code = inner.get("code")
    param = inner.get("param")
    reason = code if isinstance(code, str) else inner.get("type")
    return ServerError(
        code if isinstance(code, int) and 400 <= code <= 599 else status,
        shortened(message if isinstance(message, str) else msgspec.json.encode(message).decode()),
        param=shortened(param, 100) if isinstance(param, str) else None,
        reason=reason if isinstance(reason, str) else None,
    )


def refuses_streaming(error: ServerError) -> bool:
    """Whether a server or proxy says that it can't stream, and not that a prompt is at fault."""
    words = f"{error.message} {error.param or ''}".lower()
    return error.status in (400, 404, 405, 415, 422, 501) and re.search(r"\bstream", words) is not None
