"""The exception tree.

::

    PoolError
    |-- HostfileError          a hostfile can't be read: path, line, what was expected
    |-- ConfigError            an argument or option is invalid, or the fleet can't serve it
    |-- NoAgentsError          the pool or view has no agent to send to, or none came into service in time
    |-- PoolClosedError        the pool was closed
    |-- TransportError         no usable HTTP reply came
    |   |-- ConnectFailed      no connection: refused, unreachable, unresolved, not in time
    |   |-- ConnectionLost     the connection broke before the reply was whole
    |   `-- TimedOut           the time allowed for one exchange ran out
    |-- ServerError            a reply with another HTTP status than 200, or an error event in a stream
    |-- BadReply               a reply with a good status that is not what the API promises
    |   `-- WrongModel         a reply of another model than was asked for
    |-- PromptFailed           one prompt has no answer: raised by Response.raise_for_status() only
    |   |-- PromptRejected     this prompt was rejected, by a server or before it was sent
    |   |-- PromptPoisoned     the agents that served this prompt died of it
    |   |-- PromptTimedOut     the time that the caller allows for one prompt ran out
    |   `-- AttemptsExhausted  every attempt that the retry policy allows has failed
    `-- JobError               a job can't be started or go on
        `-- BadRecord          one line of a job's input: file, line and why
            `-- BadRecords     several of them

Methods that answer many prompts raise only for misuse (bad arguments, an empty pool). What happens to one prompt
is in its :class:`~aurora_pool.messages.Response`, whose ``raise_for_status()`` makes an error of a failure; those
that only it raises are defined beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "BadRecord",
    "BadRecords",
    "BadReply",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "HostfileError",
    "JobError",
    "NoAgentsError",
    "PoolClosedError",
    "PoolError",
    "ServerError",
    "TimedOut",
    "TransportError",
    "WrongModel",
]


class PoolError(Exception):
    """Base of every error that this package raises on purpose."""


class HostfileError(PoolError):
    """A hostfile can't be used.

    ``path`` and ``line`` (counted from 1, or None when the whole file is meant) say where.

    >>> print(HostfileError("expected a port from 1 to 65535, got '99999'", path="fleet.hostfile", line=3))
    fleet.hostfile:3: expected a port from 1 to 65535, got '99999'
    """

    def __init__(self, reason: str, *, path: str | Path = "<hostfile>", line: int | None = None) -> None:
        self.reason = reason
        self.path = str(path)
        self.line = line
        super().__init__(f"{located(path, line)}: {reason}")


class ConfigError(PoolError):
    """An argument, option or configuration file is invalid, or the fleet can't serve what it asks for."""


class NoAgentsError(PoolError):
    """The pool, or the view of it, has no agent to send to, or none came into service in time."""


class PoolClosedError(PoolError):
    """The pool was closed: while prompts were in flight, or before it was asked."""


class TransportError(PoolError):
    """No usable HTTP reply came from an agent."""


class ConnectFailed(TransportError):
    """No connection could be made: refused, unreachable, unresolved, or not within the connect timeout."""


class ConnectionLost(TransportError):
    """The connection broke before the reply was whole.

    ``received`` tells whether any byte of the reply had come. With none on a kept-alive connection, the server had
    most likely closed it while it was idle, and the request may be sent again at once. ``idle_seconds`` is how long
    nothing had come.
    """

    def __init__(self, reason: str, *, received: bool, idle_seconds: float = 0.0) -> None:
        self.received = received
        self.idle_seconds = idle_seconds
        super().__init__(reason)


class TimedOut(TransportError):
    """The time allowed for one exchange ran out."""


class ServerError(PoolError):
    """The server answered with an error: another HTTP status than 200, or an error event inside a stream.

    ``status`` is the HTTP status or the event's code; ``message`` the server's own words; ``param`` the request
    field that it names, if it names one; ``retry_after`` the seconds after which it may be asked again, if it says so;
    ``reason`` its word for the error, such as ``insufficient_quota``; ``should_retry`` what it says of sending the same
    request again (``x-should-retry``).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        reason: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        self.status = status
        self.should_retry = should_retry
        self.reason = reason
        self.retry_after = retry_after
        self.message = message
        self.param = param
        super().__init__(f"{status}: {message}")


class BadReply(PoolError):
    """A reply with a good status that is not what the API promises: no JSON, a missing choice, a cut stream."""


class WrongModel(BadReply):
    """A reply of another model than was asked for: the agent was restarted with it, perhaps."""


class JobError(PoolError):
    """A job can't be started or can't go on."""


class BadRecord(JobError):
    """One line of a job's input can't be used.

    >>> print(BadRecord("expected an object with 'prompt'", path="in.jsonl", line=7))
    in.jsonl:7: expected an object with 'prompt'
    """

    def __init__(self, reason: str, *, path: str | Path, line: int | None = None) -> None:
        self.reason = reason
        self.path = str(path)
        self.line = line
        super().__init__(f"{located(path, line)}: {reason}")


class BadRecords(BadRecord):
    """Several lines of a job's input can't be used: the first of them, and how many there are.

    >>> first, second = (BadRecord("expected a JSON object", path="in.jsonl", line=line) for line in (7, 9))
    >>> print(BadRecords([first, second], count=25, path="in.jsonl"))
    in.jsonl: 25 bad lines
      in.jsonl:7: expected a JSON object (and line 9)
      and 23 more
    """

    def __init__(self, records: Sequence[BadRecord], *, count: int, path: str | Path) -> None:
        self.records = tuple(records)
        self.count = count
        alike: dict[str, list[BadRecord]] = {}
        for record in records:
            alike.setdefault(record.reason, []).append(record)
        lines = [f"{count} bad lines", *map(_together, alike.values())]
        if count > len(records):
            lines.append(f"and {count - len(records)} more")
        super().__init__("\n  ".join(lines), path=path)
        self.lines = (f"{located(path, None)}: {lines[0]}", *lines[1:])


def _together(alike: Sequence[BadRecord]) -> str:
    """Name lines that have one thing wrong."""
    first, *others = alike
    lines = ", ".join(str(each.line) for each in others)
    return f"{first} (and {'lines' if len(others) > 1 else 'line'} {lines})" if others else str(first)


def located(path: str | Path, line: int | None) -> str:
    """Write a place in a file the way compilers do: ``path:line``, or ``path`` alone."""
    return str(path) if line is None else f"{path}:{line}"


def counted(count: int, one: str, many: str = "") -> str:
    """Write how many there are of something, with a verb or without.

    >>> counted(1, "agent"), counted(2, "agent"), counted(1, "agent answers", "agents answer")
    ('1 agent', '2 agents', '1 agent answers')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
