"""Which files a job may touch: none that it reads, and none twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from aurora_pool.errors import ConfigError

AnyPath = str | Path

SIDE_FILES = (".lock", ".runlog", ".superseded", ".damaged", ".rescued")
"""The files beside an output, by the ends of their names."""


def written_by_job(output: AnyPath, *more: AnyPath | None) -> list[Path]:
    """Name every file that a job with this output may write: the output, the files beside it, and ``more``.

    Raises :class:`~aurora_pool.errors.ConfigError` if the output can be no file's name.
    """
    if str(output) == "-":
        return [Path(path) for path in more if path is not None]
    if str(output).endswith(os.sep):
        raise _no_file(output)
    path = Path(output)
    return [path, *(beside(path, ending) for ending in SIDE_FILES), *(Path(each) for each in more if each is not None)]


def beside(path: Path, ending: str) -> Path:
    """Name the file beside another.

    >>> beside(Path("answers.jsonl"), ".runlog").name
    'answers.jsonl.runlog'

    Raises :class:`~aurora_pool.errors.ConfigError` for what has no name, such as ``.``.
    """
    if not path.name:
        raise _no_file(path)
    return path.with_name(path.name + ending)


def _no_file(path: AnyPath) -> ConfigError:
    return ConfigError(f"{str(path)!r}: expected the name of a file, got that of a folder")


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
