"""Keeps two runs off one output, with a lock that a kill releases."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Protocol

from aurora_pool.errors import JobError

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

logger = logging.getLogger(__name__)


class Lock(Protocol):
    """What keeps others off an output while it is written."""

    def check(self) -> None:
        """See, before each record, that the output is still ours; raises :class:`~aurora_pool.errors.JobError`."""

    def release(self) -> None:
        """Let the next run in."""


class OutputLock:
    """Holds ``<output>.lock`` for as long as the process lives, or until :meth:`release`.

    Raises :class:`~aurora_pool.errors.JobError` if another run holds it, naming that run.
    """

    def __init__(self, output: Path) -> None:
        self._path = output.with_name(output.name + ".lock")
        self._fd = self._acquire(output)

    def check(self) -> None:
        """Nothing: the lock is ours for as long as the process lives."""

    def release(self) -> None:
        """Let the next run in."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _acquire(self, output: Path) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 200).decode(errors="replace").strip() or "another process"
                os.close(fd)
                raise JobError(f"{output}: another run is writing to it ({holder})") from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    os.close(fd)
                    raise
                logger.warning("%s: this file system has no locks; don't start a second run on it", output)
            # The run before may have removed the file between our opening and locking it; then the lock is on nothing.
            if self._is_ours(fd):
                break
            os.close(fd)
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return fd

    def _is_ours(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False
