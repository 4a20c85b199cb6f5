"""The process between a supervisor and an engine: whichever is killed, it ends all processes of the engine.

::

    supervisor -- leash -- shell -- engine -- the engine's workers

Engines start workers that outlive them and keep computing. The leash is the parent of every orphan below it, so it
finds them all, in whatever group or session they are. It holds one end of a pipe whose other end its supervisor holds:

- a byte in the pipe, or SIGTERM, asks it to end the engine: SIGTERM, and SIGKILL after :data:`GRACE` seconds;
- the end of the pipe is the supervisor's death: it takes the agent's line out of the hostfile and kills at once;
- when the engine ends by itself, it kills what is left of it, and ends with its exit code.

If the leash itself is killed, the supervisor is the next to adopt what is below, and kills it.
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from aurora_pool.fleets.processes import adopt_orphans, descendants, kill_all, reap
from aurora_pool.own_files import open_own

GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL: a server with requests in flight never ends by itself."""


def start(
    command: str, *, log: Path, environment: Mapping[str, str], orphaned: Callable[[], None], close: Collection[int]
) -> tuple[int, int]:
    """Start a shell command on a leash. Gives the leash's process and the end of the pipe that holds it.

    ``orphaned`` is called in the leash when its supervisor has died. ``close`` are the pipes of other leashes, which
    must not be held open by this one.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid, writing
    try:
        for other in (writing, *close):
            os.close(other)
        code = _Leash(reading, log, orphaned).run(command, environment)
    except BaseException:  # noqa: BLE001 - shown here, as this copy of the process must not go on with its code
        traceback.print_exc()
        code = 70  # EX_SOFTWARE
    os._exit(code)


def open_log(log: Path) -> int:
    """Open an agent's log to append to it. Raises :class:`OSError`."""
    return open_own(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class _Leash:
    def __init__(self, pipe: int, log: Path, orphaned: Callable[[], None]) -> None:
        os.setpgid(0, 0)  # what is sent to the supervisor's group is not meant for it
        adopt_orphans()
        output = open_log(log)
        for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(number, target)
        self._pipe = pipe
        self._orphaned = orphaned
        self._asked = False
        self._wakeup, bell = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(bell)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def run(self, command: str, environment: Mapping[str, str]) -> int:
        engine = os.posix_spawn(
            "/bin/bash", ["bash", "-c", command], environment, setpgroup=0, setsigdef=[signal.SIGINT, signal.SIGHUP]
        )
        code: int | None = None
        deadline: float | None = None
        while True:
            readable, _, _ = select.select([self._pipe, self._wakeup], [], [], None if deadline is None else GRACE)
            if self._wakeup in readable:
                os.read(self._wakeup, 4096)
            if self._pipe in readable:
                if not os.read(self._pipe, 1):
                    self._orphaned()
                    self._kill()
                    return 0
                self._asked = True
            if self._asked and deadline is None:
                deadline = time.monotonic() + GRACE
                with suppress(ProcessLookupError):
                    os.killpg(engine, signal.SIGTERM)
                    os.killpg(engine, signal.SIGCONT)  # a paused process takes SIGTERM only once it goes on
            code = reap().get(engine, code)
            late = deadline is not None and time.monotonic() >= deadline
            if late or (code is not None and (deadline is None or not descendants(os.getpid()))):
                self._kill()
                return 128 + signal.SIGKILL if code is None else code

    def _signalled(self, number: int, _: object) -> None:
        self._asked = self._asked or number != signal.SIGCHLD

    def _kill(self) -> None:
        kill_all(lambda: descendants(os.getpid()))
