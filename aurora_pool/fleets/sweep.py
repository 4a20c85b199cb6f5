"""End everything of a fleet that runs on this machine, whatever started it: the last resort."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from aurora_pool.fleets.processes import MARK, kill_all, marked, process_of, reap
from aurora_pool.fleets.run_folder import RunFolder


def sweep(run: RunFolder, *, within: float) -> list[int]:
    """Ask this machine's supervisors to end, wait up to ``within`` seconds, then kill; gives what nothing could end.

    Processes are known by a variable that they inherit, so none is missed, and none of another fleet is hit.
    """

    def mine() -> list[int]:
        reap()
        return [pid for pid in marked(f"{run.path}:") if pid != os.getpid()]

    for pid in mine():
        if _is_supervisor(pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + within
    while mine() and time.monotonic() < deadline:
        time.sleep(0.1)
    return kill_all(mine)


def _is_supervisor(pid: int) -> bool:
    """Whether it is no leash and no engine: its parent does not belong to the fleet, or is the shell that began it."""
    process = process_of(pid)
    if process is None:
        return False
    with suppress(OSError):
        return MARK.encode() not in Path(f"/proc/{process.parent}/environ").read_bytes()
    return True
