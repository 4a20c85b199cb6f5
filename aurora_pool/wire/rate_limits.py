"""The rate-limit headers of an API: how many requests and tokens are left."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aurora_pool.hosted import Left
from aurora_pool.wire.errors import LONGEST_WAIT

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")


def left(headers: Mapping[str, str], of: str) -> Left | None:
    """Read what is left ``of`` requests or tokens; None where it is not said.

    >>> left({"x-ratelimit-remaining-tokens": "149", "x-ratelimit-reset-tokens": "6m0s"}, "tokens")
    Left(amount=149.0, reset=360.0)
    """
    text = headers.get(f"x-ratelimit-remaining-{of}", "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        return None
    return Left(float(text), _seconds(headers.get(f"x-ratelimit-reset-{of}", "")))


def _seconds(text: str) -> float:
    """Read ``1s``, ``6m0s``, ``20ms`` or a number of seconds; a minute for anything else."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return min(LONGEST_WAIT, sum(float(number) * _UNITS[unit] for number, unit in parts))
    try:
        seconds = float(text)
    except ValueError:
        return _UNITS["m"]
    return seconds if 0 <= seconds <= LONGEST_WAIT else _UNITS["m"]
