"""Keeps a process running: one that is killed is started again, and nothing that it had started is left before that."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from aurora_pool.fleets.processes import adopt_orphans, descendants, end_with_parent, kill_all, reap

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BY_KERNEL = 0x80
"""``si_code`` of a signal that the terminal sends, to all processes of the group."""


def keep(work: Callable[[], int], *, restarts: int = 0, tidying: float = 0.0) -> int:
    """Run ``work`` in a child until it ends by itself, and give its exit code; up to ``restarts`` kills don't count.

    What it has started is killed after it, once it has had ``tidying`` seconds to end by itself.
    Signals that are meant to end this process are passed on. If it is killed, its child gets SIGTERM.
    """
    adopt_orphans()
    keeper = _Keeper(tidying)
    code = keeper.run(work)
    while code == 128 + signal.SIGKILL and restarts and not keeper.stopping:
        restarts -= 1
        code = keeper.run(work)
    return code


class _Keeper:
    def __init__(self, tidying: float) -> None:
        self.stopping = False
        self._tidying = tidying

    def run(self, work: Callable[[], int]) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
        parent = os.getpid()
        child = os.fork()
        if not child:
            code = 70  # EX_SOFTWARE
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                end_with_parent()
                if os.getppid() == parent:
                    code = work()
            except BaseException:  # noqa: BLE001 - shown here, as this copy of the process must not go on with its code
                traceback.print_exc()
            finally:
                os._exit(code)
        code = self._wait_for(child)
        deadline = time.monotonic() + self._tidying
        while descendants(parent) and time.monotonic() < deadline:
            reap()
            time.sleep(0.05)
        kill_all(lambda: descendants(parent))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return code

    def _wait_for(self, child: int) -> int:
        while True:
            told = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
            if told.si_signo != signal.SIGCHLD:
                self.stopping = True
                if told.si_code != _BY_KERNEL:
                    with suppress(ProcessLookupError):
                        os.kill(child, told.si_signo)
            code = reap().get(child)
            if code is not None:
                return code
