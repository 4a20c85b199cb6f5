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
from aurora_pool.jobs.paths import beside
from aurora_pool.own_files import open_own

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

_NO_FILE = frozenset({0, errno.ELOOP, errno.ENXIO, errno.EISDIR})  # a link, a pipe, a folder
_OURS = b"process "

logger = logging.getLogger(__name__)


class Lock(Protocol):
    """What keeps others off an output while it is written."""

    def check(self) -> None:
        """See, before each record, that the output is still ours; raises :class:`~aurora_pool.errors.JobError`."""

    def release(self) -> None:
        """Let the next run in."""


def lock_file(fd: int) -> bool:
    """Lock an open file, whatever name it was opened by; returns False if another process has it locked.

    Where the file system has no locks, a warning is all there is. Raises :class:`OSError`.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        logger.warning("this file system has no locks: don't start a second run on one output")
    return True


class OutputLock:
    """Holds ``<output>.lock`` for as long as the process lives, or until :meth:`release`.

    Raises :class:`~aurora_pool.errors.JobError` if another run holds it, naming that run, and if it is something else.
    """

    def __init__(self, output: Path) -> None:
        self._path = beside(output, ".lock")
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
            try:
                fd = open_own(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise
                raise JobError(f"{self._path}: the lock can't be taken ({error.strerror})") from error
            holder = os.pread(fd, 200, 0)
            if not lock_file(fd):
                os.close(fd)
                who = holder.decode(errors="replace").strip() or "another process"
                raise JobError(f"{output}: another run is writing to it ({who})")
            if holder and not holder.startswith(_OURS):
                os.close(fd)
                raise JobError(f"{self._path}: it is no lock of a run; move it away, or name another output")
            # The run before may have removed the file between our opening and locking it; then the lock is on nothing.
            if self._is_ours(fd):
                break
            os.close(fd)
        os.ftruncate(fd, 0)
        os.write(fd, _OURS + f"{os.getpid()} on {socket.gethostname()}\n".encode())
        return fd

    def _is_ours(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False
