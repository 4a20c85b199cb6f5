"""How often a streamed answer should send an event: rarely, for events cost; often enough that no proxy cuts it.

A proxy cuts a connection on which nothing has come for 60 s (nginx's default). An event for every few tokens keeps
it alive, if the server is fast enough; its measured speed says for how many. An answer of a usual length still has
about two events: its first token, and the rest.
"""

from __future__ import annotations

SHOW_EVERY = 10.0
"""Seconds between events of a stream."""
UNKNOWN_SPEED = 10.0
"""Tokens per second of one prompt that are assumed while nothing is known."""
SLOW = 1.0
"""The same, for an agent whose connections were cut before it had answered anything."""
LONG = 20.0
"""An answer that may take this many seconds is streamed, even if it is the only one of its request."""
OF_THE_CUT = 1 / 3
"""Part of the time without a byte after which a proxy has been seen to cut."""
MOST = 1_000_000


def stream_interval(speed: float, idle_timeout: float = 0.0) -> int:
    """Return how many tokens an event should hold; ``speed`` is tokens per second of one prompt (0: unknown).

    ``idle_timeout`` is after how many idle seconds connections to this agent were seen to be cut; 0 if none was.

    >>> [stream_interval(speed) for speed in (50.0, 0.0, float("inf"))], stream_interval(0.5, idle_timeout=15.0)
    ([500, 100, 1000000], 2)
    """
    seconds = min(SHOW_EVERY, idle_timeout * OF_THE_CUT) if idle_timeout else SHOW_EVERY
    return max(1, int(min(MOST, (speed or (SLOW if idle_timeout else UNKNOWN_SPEED)) * seconds)))


def may_be_long(token_budget: int, speed: float, idle_timeout: float = 0.0) -> bool:
    """Return whether an answer of up to ``token_budget`` tokens (0: no limit) may take long at that speed.

    >>> may_be_long(64, 50.0), may_be_long(4096, 50.0), may_be_long(0, 50.0)
    (False, True, True)
    """
    seconds = min(LONG, idle_timeout * OF_THE_CUT) if idle_timeout else LONG
    return not token_budget or token_budget > seconds * (speed or (SLOW if idle_timeout else UNKNOWN_SPEED))
