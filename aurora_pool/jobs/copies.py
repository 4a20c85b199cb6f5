"""Copies of what can be read only once (standard input, pipes, remote files), to be read as often as needed."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from aurora_pool.errors import BadRecord

_CHUNK = 1 << 20


class TemporaryCopy:
    """A temporary copy of a stream, which nobody else sees; every :meth:`open` reads it from its beginning.

    Raises :class:`~aurora_pool.errors.BadRecord` if the stream can't be read, or there is no space for the copy.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - kept until close()
        except OSError as error:
            raise _disk_full(name, error) from error
        try:
            _copy(stream, self._file, name)
        except BaseException:
            self._file.close()
            raise

    @property
    def head(self) -> bytes:
        """Its first bytes."""
        return os.pread(self._file.fileno(), 1 << 16, 0)

    def open(self) -> IO[bytes]:
        """Read it, independently of anybody else who does."""
        return io.BufferedReader(_Reading(self._file.fileno()), 1 << 18)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def is_remote(path: str | Path) -> bool:
    """Whether a path names a file elsewhere, such as ``s3://bucket/prompts.jsonl``.

    >>> is_remote("s3://bucket/in.jsonl"), is_remote("in.jsonl")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def copied(path: str | Path, stdin: IO[bytes] | None) -> TemporaryCopy | None:
    """Copy an input that is no regular file; None for one that is. ``-`` is standard input.

    Raises :class:`~aurora_pool.errors.BadRecord`.
    """
    if str(path) == "-":
        return TemporaryCopy(stdin or standard_input(), "<stdin>")
    try:
        if is_remote(path):
            with open_remote(str(path), "rb") as stream:
                return TemporaryCopy(stream, str(path))
        if Path(path).is_file() or Path(path).is_dir():
            return None
        with Path(path).open("rb", buffering=0) as stream:
            return TemporaryCopy(stream, str(path))
    except OSError as error:
        raise unreadable(path, error) from error


def standard_input() -> IO[bytes]:
    """Give standard input as bytes, whatever replaces it in a notebook.

    Raises :class:`~aurora_pool.errors.BadRecord` if it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise BadRecord("standard input is closed", path="<stdin>")
    binary: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(sys.stdin.read().encode()) if binary is None else binary


def open_remote(url: str, mode: str) -> Any:
    """Open a file that fsspec knows how to reach.

    Raises :class:`~aurora_pool.errors.BadRecord` if the package for it is not installed, and :class:`OSError`.
    """
    try:
        import fsspec  # noqa: PLC0415 - an extra

        return fsspec.open(url, mode)
    except ImportError as error:
        reason = f"it needs a package ({error}): pip install 'aurora-pool[tables]', and s3fs for s3://"
        raise BadRecord(reason, path=url) from error
    except ValueError as error:
        raise BadRecord(str(error), path=url) from error


def unreadable(path: str | Path, error: Exception) -> BadRecord:
    """Say that an input can't be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return BadRecord(f"the input can't be read ({reason})", path=path)


def _copy(stream: IO[bytes], file: IO[bytes], name: str) -> None:
    while True:
        try:
            rest = stream.read(_CHUNK)
        except (OSError, ValueError) as error:
            raise unreadable(name, error) from error
        if not rest:
            return
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise _disk_full(name, error) from error


def _disk_full(name: str, error: OSError) -> BadRecord:
    where = tempfile.gettempdir()
    return BadRecord(f"no copy of it can be made in {where} ({error.strerror}); TMPDIR names another folder", path=name)


class _Reading(io.RawIOBase):
    """Reads a descriptor at a place of its own: others read it too."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: os.fstat(self._fd).st_size}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._fd, len(buffer), self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
