"""Files that this package keeps under names of its own choice: never a link, a pipe, or somebody else's file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["mode_of", "open_own", "replacement"]

SHOWN = 50
"""How many characters of a file's name the one that is to take its place has in its own, which may not be too long."""


def open_own(path: Path, flags: int, *, mode: int = 0o644) -> int:
    """Open a file of this package's own, as :func:`os.open` does, and never anything else.

    A link is not followed, and a pipe or a device neither opened nor waited for. Raises :class:`OSError`.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise OSError(0, "it is no file of its own", str(path))
    return fd


@contextmanager
def replacement(path: Path, *, like: Path | None = None) -> Iterator[IO[bytes]]:
    """Write a file anew: what is written takes the old one's place once the block ends well.

    It has the mode of the old one, or, with ``like``, that of another file.

    The new file has a name of its own in the same folder until then. Raises :class:`OSError`.
    """
    mode = mode_of(like or path)
    fresh = path.with_name(f".{path.name[:SHOWN]}.{secrets.token_hex(8)}.tmp")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            if (like or path).exists():
                os.fchmod(file.fileno(), mode)  # whatever the mask of new files is
            yield file
            file.flush()
            os.fsync(file.fileno())
            fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def mode_of(path: Path) -> int:
    """The permissions of a file; if it is not there, what a new one is made with, less the mask."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666
