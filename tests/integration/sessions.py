"""Processes that lead a session of their own: all their descendants can be found and ended, whoever started them.

vLLM's API server starts engine and worker processes that outlive it and keep computing when it is killed. They stay in
its session, and the session keeps its number, which the kernel does not hand out again while a member lives.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn


@dataclass(frozen=True)
class Session:
    """A process started by :meth:`start`, with its descendants; made of numbers, so it can be kept in a file.

    ``started`` is the leader's start in clock ticks since boot: it tells it from a later process of the same pid.

    >>> session = Session.start(["sh", "-c", "sleep 60 & sleep 60"], log=Path("/dev/null"))
    >>> session.alive
    True
    >>> session.end(grace=1)
    >>> session.members()
    []
    """

    pid: int
    started: int

    @classmethod
    def start(cls, command: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None) -> Session:
        """Start a command in a session of its own; with ``log``, its output goes there and its input is empty."""
        redirections: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = []
        if log is not None:
            redirections = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ]
        pid = os.posix_spawnp(
            command[0], list(command), os.environ if env is None else env, file_actions=redirections, setsid=True
        )
        process = _process(pid)
        assert process is not None, "a child stays in the process table until it is waited for"
        return cls(pid, process.started)

    @property
    def alive(self) -> bool:
        """Whether the leader itself still runs."""
        self._reap()
        process = _process(self.pid)
        return process is not None and process.started == self.started and process.running

    def members(self) -> list[int]:
        """The pids of all running processes of the session, its leader's included."""
        self._reap()
        leader = _process(self.pid)
        if leader is not None and leader.started != self.started:
            return []  # the number was handed out again: nothing of ours lives
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                process = _process(int(entry.name))
                if process is not None and process.session == self.pid and process.running:
                    found.append(int(entry.name))
        return found

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the session, except multiprocessing's resource trackers.

        They end by themselves after the others, and then remove the shared memory that killed processes leave behind.
        """
        self._send(signum, [pid for pid in self.members() if not _is_resource_tracker(pid)])

    def wait(self) -> int:
        """Wait until the leader, a child of this process, ends; return its code as a shell does (128 + signal)."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code

    def end(self, *, grace: float) -> None:
        """End every process of the session: SIGTERM, and SIGKILL for what is left after ``grace`` seconds."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a paused process takes SIGTERM only once it goes on
        self._wait_until_empty(grace)
        self.signal(signal.SIGKILL)
        self._wait_until_empty(2.0)
        while members := self.members():  # started between the look and the signal, or a tracker that others hold up
            self._send(signal.SIGKILL, members)
            time.sleep(0.05)

    def _send(self, signum: int, pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def _wait_until_empty(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        while self.members() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _reap(self) -> None:
        """Take a dead leader out of the process table, if it was this process that started it."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


@dataclass(frozen=True)
class _Process:
    running: bool
    session: int
    started: int


def _process(pid: int) -> _Process | None:
    """What the kernel tells of a process, or None if there is none; a zombie counts as not running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # after the command's name, which may hold anything
    return _Process(running=fields[0] not in "ZX", session=int(fields[3]), started=int(fields[19]))


def _is_resource_tracker(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Interruptions:
    """SIGINT, SIGTERM and SIGHUP as one :class:`SystemExit`, held back where it would leave a process behind.

    >>> with Interruptions() as interruptions:
    ...     with interruptions.held():
    ...         pass  # start a process and write down its number; only afterwards a signal takes effect
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._holds = 0
        self._previous = {signum: signal.getsignal(signum) for signum in self.SIGNALS}
        if self._previous[signal.SIGHUP] == signal.SIG_IGN:  # started by nohup
            del self._previous[signal.SIGHUP]

    def __enter__(self) -> Interruptions:
        for signum in self._previous:
            signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the end of the block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self.signum is not None and not self._holds:
            self._exit(self.signum)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is None:  # one is enough: a second Ctrl-C must not stop the cleaning up
            self.signum = signum
            if not self._holds:
                self._exit(signum)

    def _exit(self, signum: int) -> NoReturn:
        raise SystemExit(128 + signum)
