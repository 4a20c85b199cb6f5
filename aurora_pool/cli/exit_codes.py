"""How commands end. What was answered is saved, whatever the code.

75 is ``EX_TEMPFAIL`` of sysexits.h: the same thing will work later. Anything that is not in the table, and a traceback,
is a fault of this program.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from aurora_pool.cli.console import say
from aurora_pool.errors import BadRecord, BadRecords, ConfigError, HostfileError, JobError, PoolError
from aurora_pool.terminal import one_line


class ExitCode(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    BAD_INPUT = 3
    BAD_HOSTFILE = 4
    FLEET = 5
    OUTPUT = 6
    TOO_MANY_FAILURES = 7
    BUDGET_SPENT = 8
    OUT_OF_TIME = 75
    INTERRUPTED = 130
    TERMINATED = 143


# Not in docstrings: there are none where Python runs with -OO.
TABLE = """\
code  meaning
0     every request has an answer
1     some requests failed; --retry-failed runs them again
2     an option or the configuration file is invalid
3     the input can't be used: a bad line, a duplicate id, an unreadable file
4     the hostfile can't be used
5     no agent answers, or none serves the model
6     the output can't be written, or another run is writing to it
7     stopped early: too many requests failed (--stop-after-failures)
8     stopped early: the tokens or the cost allowed are spent
75    out of time: submit the same command again
130   interrupted (Ctrl-C): the same command continues
143   terminated (SIGTERM, SIGHUP): the same command continues"""

SERVE_TABLE = """\
code  meaning
0     stopped by SIGTERM, SIGHUP or Ctrl-C
2     an option is invalid, or its port, folder or database can't be used
4     the hostfile can't be used"""

SUBMIT_TABLE = """\
code  meaning
0     the batch is queued; with --watch, all its requests have answers
1     with --watch: some requests have none
2     an option is invalid, or the server refused the batch
3     the file can't be used; with --watch, the server says why
5     the server can't be reached
6     the output can't be written
130   interrupted (Ctrl-C): what is queued goes on, and fetch gets its answers"""

_BY_KIND: tuple[tuple[type[PoolError], ExitCode], ...] = (
    (BadRecord, ExitCode.BAD_INPUT),
    (JobError, ExitCode.OUTPUT),
    (HostfileError, ExitCode.BAD_HOSTFILE),
    (ConfigError, ExitCode.USAGE),
    (PoolError, ExitCode.FLEET),
)


def code_of(error: PoolError) -> ExitCode:
    """Give the exit code for an error that ends a command.

    >>> code_of(HostfileError("no agent in it"))
    <ExitCode.BAD_HOSTFILE: 4>
    """
    return next(code for kind, code in _BY_KIND if isinstance(error, kind))


def told(work: Callable[[], int]) -> int:
    """Do something that gives an exit code; an error of this package is written to standard error, and gives its code.

    Its notes (:meth:`BaseException.add_note`) are written below it, a line each.
    """
    try:
        return work()
    except PoolError as error:
        first, *more = error.lines if isinstance(error, BadRecords) else (error, *getattr(error, "__notes__", ()))
        say("\n  ".join(map(one_line, (f"aurora-pool: {first}", *more))))
        return code_of(error)
