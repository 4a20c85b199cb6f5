"""Where ``submit`` and ``fetch`` put a batch's records: never in place of a file that is something else."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from aurora_pool.errors import JobError
from aurora_pool.own_files import replacement
from aurora_pool.terminal import is_terminal, printable

LONGEST = 64 << 20
"""The bytes of a first line from which on it is no record."""


class Writable(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take some."""


def check_output(output: Path, source: Path | None = None) -> None:
    """Refuse an output that is the ``source``, is something else than records, or can't be written.

    A file with records is what was fetched before, and will be replaced; ``-`` is standard output.
    Raises :class:`~aurora_pool.errors.PoolError`.
    """
    if str(output) == "-":
        _check_standard_output(output)
        return
    from aurora_pool.jobs.paths import check_apart
    from aurora_pool.jobs.records import BEGINNING, decode_record

    check_apart([output], [source])
    try:
        path = _place_of(output)
        kind = _kind_of(path)
        if kind is not None and stat.S_ISDIR(kind):
            raise IsADirectoryError(0, "it is a folder")
        if kind is not None and not stat.S_ISREG(kind):
            return
        if kind is not None:
            with path.open("r+b") as file:
                first = file.readline(LONGEST)
            if first and not first.startswith(BEGINNING) and decode_record(first) is None:
                raise JobError(f"{output}: it does not begin with a record, so it is something else; name another")
        path.parent.stat()
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(0, "no file can be made in its folder")
    except OSError as error:
        raise failure(output, error) from error


@contextmanager
def opened_output(output: Path) -> Iterator[Writable]:
    """Write an output, which is there as a whole or not at all; a pipe or a device is written to.

    Raises :class:`OSError`, and what :func:`check_output` raises.
    """
    check_output(output)
    if str(output) == "-":
        with _standard_output() as shown:
            yield shown
        return
    path = _place_of(output)
    kind = _kind_of(path)
    if kind is not None and not stat.S_ISREG(kind):
        with output.open("wb") as file:
            yield _Terminal(lambda text: file.write(text.encode())) if file.isatty() else file
    else:
        with replacement(path) as file:
            yield file


def failure(output: Path, error: OSError) -> JobError:
    """Say that an output can't be written."""
    return JobError(f"{output}: the output can't be written ({error.strerror or error})")


class _Terminal:
    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def write(self, data: bytes, /) -> object:
        return self._write(printable(self._decode(data)))


def _check_standard_output(output: Path) -> None:
    from aurora_pool.jobs.journal import standard_output

    try:
        os.close(standard_output())
    except OSError as error:
        raise failure(output, error) from error


@contextmanager
def _standard_output() -> Iterator[Writable]:
    if is_terminal(sys.stdout):
        yield _Terminal(sys.stdout.write)
        return
    from aurora_pool.jobs.journal import standard_output

    with os.fdopen(standard_output(), "wb") as file:
        yield file


def _place_of(output: Path) -> Path:
    """The file itself: a link stays, and what it points to is replaced; a device or a pipe keeps its name."""
    kind = _kind_of(output)
    return output if kind is not None and not stat.S_ISREG(kind) else Path(os.path.realpath(output))


def _kind_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
