"""Which files a job may touch: none that it reads, none that is a link or no file, none that holds something else."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aurora_pool.errors import ConfigError

AnyPath = str | Path

SIDE_FILES = (".lock", ".runlog", ".superseded", ".damaged", ".rescued")
"""What stands beside an output, by what its name ends in."""


def written_by_job(output: AnyPath, *more: AnyPath | None) -> list[Path]:
    """Name every file that a job with this output may write: the output, what stands beside it, and ``more``."""
    if str(output) == "-":
        return [Path(path) for path in more if path is not None]
    path = Path(output)
    return [path, *(beside(path, ending) for ending in SIDE_FILES), *(Path(each) for each in more if each is not None)]


def beside(path: Path, ending: str) -> Path:
    """Name the file beside another.

    >>> beside(Path("answers.jsonl"), ".runlog").name
    'answers.jsonl.runlog'
    """
    return path.with_name(path.name + ending)


def check_apart(written: Iterable[AnyPath], read: Iterable[AnyPath | None]) -> None:
    """Refuse to write a file that is read, or one file twice, whatever names they go by.

    Files that are there are compared by what they are, so links count; others by their place.
    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    sources = {_identity(path): path for path in read if path is not None and str(path) != "-"}
    targets: dict[object, AnyPath] = {}
    for path in written:
        identity = _identity(path)
        if identity is None:
            continue
        if identity in sources:
            raise ConfigError(f"{path}: it would be written, and it is read ({sources[identity]}); name another output")
        if identity in targets:
            raise ConfigError(f"{path}: two things would be written to it ({targets[identity]}); name another output")
        targets[identity] = path


def _identity(path: AnyPath) -> object:
    """What makes two names one file; None for what is no file, such as a pipe or a device."""
    try:
        status = os.stat(path)  # noqa: PTH116 - of anything that may be a path
    except (OSError, ValueError):
        return os.path.realpath(path) if "\0" not in str(path) else None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else None


def open_beside(path: Path, flags: int, *, mode: int = 0o644) -> int:
    """Open a file that this package keeps beside an output, as :func:`os.open` does, and never anything else.

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

    It has the mode of the old one, or of the file ``like`` which it is made.

    The new file has a name of its own in the same folder until then. Raises :class:`OSError`.
    """
    mode = mode_of(like or path)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def mode_of(path: Path) -> int:
    """The permissions of a file; those of a new one if it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
