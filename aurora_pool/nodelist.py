"""Lists of hosts as Slurm writes them: ``gpu[01-16,20]``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aurora_pool.errors import HostfileError

__all__ = ["MOST", "expand_hosts"]

MOST = 100_000
"""Hosts that one word may stand for."""

_RANGES = re.compile(r"([^\[\]]*[^\[\]/:])\[([0-9,-]+)\](.*)")


def expand_hosts(word: str) -> list[str]:
    """Write out a word that stands for several hosts; any other word stands for itself.

    >>> expand_hosts("gpu[08-10,12]:8001"), expand_hosts("gpu01"), expand_hosts("[fe80::1]:8000")
    (['gpu08:8001', 'gpu09:8001', 'gpu10:8001', 'gpu12:8001'], ['gpu01'], ['[fe80::1]:8000'])

    Raises :class:`~aurora_pool.errors.HostfileError` for ranges that are invalid.
    """
    match = _RANGES.fullmatch(word)
    if match is None:
        return [word]
    before, ranges, after = match.groups()
    found: list[str] = []
    for number in _numbers(ranges):
        found += expand_hosts(f"{before}{number}{after}")
        if len(found) > MOST:
            raise HostfileError(f"expected at most {MOST} hosts of {word!r}")
    return found


def _numbers(ranges: str) -> Iterator[str]:
    for part in ranges.split(","):
        first, dash, last = part.partition("-")
        if not first or (dash and not last) or "-" in last or int(last or first) < int(first):
            raise HostfileError(f"expected numbers and ranges as in gpu[01-16,20], got [{ranges}]")
        for number in range(int(first), int(last or first) + 1):
            yield str(number).zfill(len(first))
            if number - int(first) > MOST:
                return
