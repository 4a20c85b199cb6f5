"""Commands of ``aurora-pool`` in processes of their own, forked from one that has imported everything already."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import pty
import resource
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from aurora_pool.cli import main as run_command
from aurora_pool.cli.commands import command

PATIENCE = 300.0

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "aurora_pool.cli.serving",
        "aurora_pool.cli.session",
        "aurora_pool.runtime.transport",
        "aurora_pool.testing.fleet",
        "tests.forked",
        "typer._adapters",
        "uvloop",
    ]
)
for name in ("run", "sim"):
    command(name)


class Run:
    """A command that runs.

    What it writes goes to files in a folder, ``stdout`` and ``stderr``, or to a ``terminal``, the path of one.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        stdin: str | Path = os.devnull,
        terminal: str | None = None,
        environment: Mapping[str, str] | None = None,
        file_size: int | None = None,
    ) -> None:
        self._gave, self._said = folder / "stdout", folder / "stderr"
        for path in (self._gave, self._said):
            path.write_bytes(b"")  # one that is killed at once has not made it
        files = (str(stdin), str(self._gave), str(self._said)) if terminal is None else (terminal,) * 3
        target = ([*map(str, arguments)], files, {**os.environ, **(environment or {})}, file_size)
        self._process = FORKING.Process(target=_command, args=target)
        self._process.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    @property
    def gave(self) -> str:
        """Its standard output so far."""
        return self._gave.read_text(encoding="utf-8", errors="replace")

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has just ended."""
        assert self._process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something has become true; fails if the command ends before."""
        wait_until(lambda: true() or not self.alive, what)
        assert true(), f"it ended before {what}: {self.said}"

    def end(self) -> tuple[int, str]:
        """Wait for its end; gives the exit code, which is negative for a signal, and what it said."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, f"the command does not end: {self.said}"
        assert "Traceback" not in self.said, self.said
        return self._process.exitcode, self.said


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait until something has become true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what}: it does not happen"
        time.sleep(0.002)


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[Path]:
    """Run ``aurora-pool sim``; gives its hostfile."""
    hostfile = folder / "fleet.hostfile"
    own = folder / "fleet"
    own.mkdir(exist_ok=True)
    fleet = Run(own, "sim", "-o", hostfile, *options)
    try:
        fleet.wait_until(hostfile.exists, "the simulated fleet listens")
        yield hostfile
    finally:
        if fleet.alive:
            fleet.send(signal.SIGTERM)
        code, said = fleet.end()
        assert code == 0, f"the simulated fleet ended: {said}"


def on_terminal(
    folder: Path, *words: object, columns: int = 100, question: str = "", answer: str = "", **environment: str
) -> tuple[int, str]:
    """Run a command on a terminal of its own; gives its exit code and what the terminal got.

    When it asks the ``question``, the ``answer`` is typed.
    """
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    run = Run(folder, *words, terminal=os.ttyname(side), environment={"TERM": "xterm", **environment})
    said = b""
    while True:
        alive = run.alive  # asked before: what it wrote at its end is read, too
        if select.select([main], [], [], 0.01)[0]:
            said += os.read(main, 65536)
            if question and question.encode() in said:
                os.write(main, answer.encode())
                question = ""
        elif not alive:
            break
    os.close(main)
    os.close(side)
    return run.end()[0], said.decode(errors="replace")


def _command(
    arguments: list[str], files: tuple[str, str, str], environment: dict[str, str], file_size: int | None
) -> None:
    """Run a command in a process that has just been forked."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests, also with killed ones
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    for number, path in enumerate(files):
        os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    # As the interpreter makes them when it starts.
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = open(0, encoding=encoding)  # noqa: SIM115 - for the whole process, as are the others
    sys.stdout = open(1, "w", encoding=encoding, buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, buffering=1, errors="backslashreplace")  # noqa: SIM115
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.argv = ["aurora-pool", *arguments]
    run_command()
