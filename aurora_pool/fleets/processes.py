"""Trees of processes on Linux: find all descendants, and end them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_EVERY = 0.02
_TRACKERS_LIMIT = 2.0
"""Seconds that multiprocessing's resource trackers have to remove the shared memory of killed processes."""

MARK = "AURORA_POOL_AGENT"
"""The environment variable that all processes of an engine inherit; its value is the run folder and the agent."""


@dataclass(frozen=True, slots=True)
class Process:
    """What the kernel tells of a running process; ``started`` is in clock ticks since boot."""

    pid: int
    parent: int
    started: int


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none can get away."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def end_with_parent() -> None:
    """Have SIGTERM sent to this process when its parent dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def process_of(pid: int) -> Process | None:
    """Find one process; None if it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # after the command's name, which may hold anything
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]))


def all_pids() -> list[int]:
    """Give the ids of all processes that this machine shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - thousands of Paths are felt


def descendants(root: int, *, besides: Collection[int] = ()) -> list[int]:
    """Find all running descendants of a process, without those in ``besides`` and theirs."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        process = process_of(pid)
        if process is not None:
            children.setdefault(process.parent, []).append(pid)
    found: list[int] = []
    new = [root]
    while new:
        new = [child for pid in new for child in children.get(pid, ()) if child not in besides]
        found += new
    return found


def marked(value: str) -> list[int]:
    """Find the running processes of this user that were started with this value, or one that begins so, as mark."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for pid in all_pids():
        with suppress(OSError):
            content = Path(f"/proc/{pid}/environ").read_bytes()
            if any(entry.startswith(wanted) for entry in content.split(b"\0")) and process_of(pid) is not None:
                found.append(pid)
    return found


def kill_all(
    find: Callable[[], Iterable[int]], *, within: float = 10.0, ended: dict[int, int] | None = None
) -> list[int]:
    """Kill what ``find`` finds until it finds nothing; gives what is left after ``within`` seconds.

    Resource trackers come last: they end by themselves, and then remove what killed processes have left.
    ``ended`` gets the exit codes of the children that have ended on the way, whoever ended them.
    """
    ended = {} if ended is None else ended
    began = time.monotonic()
    while True:
        ended |= reap()
        left = list(find())
        waited = time.monotonic() - began
        if not left or waited > within:
            return left
        for pid in left:
            if waited > _TRACKERS_LIMIT or not _is_resource_tracker(pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_EVERY)


def reap() -> dict[int, int]:
    """Take all dead children out of the process table; gives their exit codes as a shell does (128 + signal)."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


def _is_resource_tracker(pid: int) -> bool:
    with suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
