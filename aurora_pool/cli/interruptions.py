"""What Ctrl-C and SIGTERM do to a run, from its first moment to its last."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from aurora_pool.cli.exit_codes import ExitCode

_CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.TERMINATED,  # the terminal was closed
}

GOES_ON = "the same command goes on from here"


class Interruptions:
    """Has the signals from now on.

    Before there is an event loop, they end the process at once; while it starts, they are kept; then they are handed to
    a listener in the loop; and in the end they change nothing any more, as a process that is about to end keeps its
    exit code.
    """

    def __init__(self) -> None:
        self._hear: Callable[[ExitCode], None] = _exit
        self._kept: list[ExitCode] = []
        for number in _CODES:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, self._caught)

    def keep(self) -> None:
        """Keep signals for the listener to come: an event loop that is cut short while it starts can't be closed."""
        self._hear = self._kept.append

    def hand_to(self, listener: Callable[[ExitCode], None]) -> None:
        """Call ``listener`` in the running event loop from now on, with what has been kept first."""
        loop = asyncio.get_running_loop()
        self._hear = lambda code: _tell(loop, listener, code)
        for code in self._kept:
            listener(code)
        self._kept.clear()

    def ignore(self) -> None:
        """Let nothing happen any more."""
        self._hear = lambda _: None

    def _caught(self, number: int, _: FrameType | None) -> None:
        self._hear(_CODES[signal.Signals(number)])


def _exit(code: ExitCode) -> None:
    # Not by print, which may be what is being interrupted.
    with suppress(OSError):
        os.write(2, f"{code.name.lower()} before anything was sent; {GOES_ON}\n".encode())
    sys.exit(code)


def _tell(loop: asyncio.AbstractEventLoop, listener: Callable[[ExitCode], None], code: ExitCode) -> None:
    loop.call_soon_threadsafe(listener, code)
