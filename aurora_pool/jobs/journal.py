"""The output file as a journal: a record is in it, whole, as soon as its prompt is finished, whatever happens then."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO

from aurora_pool.errors import JobError
from aurora_pool.jobs.codec import Lines, encoder
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.lock import Lock, OutputLock, lock_file
from aurora_pool.jobs.paths import beside
from aurora_pool.jobs.records import renamed_record
from aurora_pool.own_files import mode_of, open_own, replacement

_CHUNK = 1 << 20


class Journal:
    """One output, open for one run.

    Use it in this order: read :meth:`lines`, :meth:`repair`, then :meth:`append` and :meth:`sync` until :meth:`close`.
    ``-`` (standard output), pipes and devices have nothing to read or repair. Every method raises
    :class:`~aurora_pool.errors.JobError` if the file can't be used; what had been appended stays. ``lock`` keeps others
    off the file; without one, it is an :class:`OutputLock`.
    """

    def __init__(self, path: str | Path, *, fsync_every_record: bool = False, lock: Lock | None = None) -> None:
        self.name = "<stdout>" if str(path) == "-" else str(path)
        self.resumable = str(path) != "-" and _is_file(Path(path))
        # A link is followed once: what it points to is what is repaired, by a new file that takes the old one's place.
        self._path = Path(path).resolve() if self.resumable else Path(path)
        self._compression = compression_of(path)
        self._encoder = encoder(self._compression)
        self._fsync_every_record = fsync_every_record
        self._lock = lock
        self._locks_itself = lock is None
        self._fd = -1
        self._size = 0
        self._broken = False
        self._is_new = self.resumable and not self._path.exists()
        self.records = 0
        self.keeps_empty = False
        """Whether :meth:`close` leaves an empty file; a job that could not begin leaves nothing behind."""
        try:
            if self.resumable and self._locks_itself:
                self._lock = OutputLock(self._path)
            self._open()
        except OSError as error:
            self._release()
            raise self._failure(error) from error
        except JobError:
            self._release()
            raise

    def lines(self) -> Lines:
        """Read what is there: the whole lines, and whether something torn is behind them."""
        return Lines(self._path if self.resumable else Path(os.devnull), self._compression)

    @property
    def is_empty(self) -> bool:
        """Whether there is not a byte in it."""
        return not self._size

    async def repair(
        self,
        lines: Lines,
        drop: Sequence[int],
        *,
        aside: Sequence[int] = (),
        renamed: Iterable[tuple[int, str]] = (),
    ) -> None:
        """Make the output ready to be appended to, after ``lines`` have been read to their end.

        What is torn is cut off, and the lines whose numbers (from 0 on, ascending) are in ``drop`` are taken out. Of
        these, the ones in ``aside`` go to ``<output>.superseded``, and so does what is torn; what could not be
        unpacked goes to ``<output>.damaged``. ``renamed`` gives records, by their lines' numbers, other ids.

        The file is changed as a whole or not at all; other tasks get their turns, and cancelling the call leaves
        everything as it was.
        """
        renames = iter(renamed)
        rename = next(renames, None)
        try:
            if not drop and rename is None and not lines.torn:
                if lines.unended:
                    self._write(self._encoder.encode(b"\n"))
                return
            if not drop and rename is None and self._compression == "none":
                with self._appended(".superseded") as old:
                    old.write(lines.rest + b"\n")
                os.ftruncate(self._fd, lines.end)
                self._size = lines.end
                return
            await self._rewrite(lines, drop, aside, chain(() if rename is None else (rename,), renames))
            os.close(self._fd)
            self._fd = -1
            self._open()
        except OSError as error:
            raise self._failure(error) from error

    def append(self, record: bytes) -> None:
        """Write one record; when this returns, a kill of the process can't take it back."""
        if self._broken:
            raise JobError(f"{self.name}: the output failed before; nothing more is written to it")
        if self._lock is not None:
            self._lock.check()
        try:
            self._write(self._encoder.encode(record))
            if self._fsync_every_record:
                os.fsync(self._fd)
        except OSError as error:
            self._cut()
            raise self._failure(error) from error
        self.records += 1

    def sync(self) -> None:
        """Have the system write everything to the disk, and see that the file is still where it was."""
        if not self.resumable:
            return
        try:
            os.fsync(self._fd)
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        except OSError as error:
            raise self._failure(error) from error
        if there is None or not os.path.samestat(there, os.fstat(self._fd)):
            self._broken = True
            raise JobError(f"{self.name}: the output vanished while it was being written{self._rescue()}")

    def close(self) -> None:
        """End the file well and let the next run in."""
        try:
            if self._fd >= 0 and not self._broken:
                self._write(self._encoder.finish())
                self.sync()
                if self._is_new and not self._size and not self.keeps_empty:
                    self._path.unlink()
        except OSError as error:
            self._cut()
            raise self._failure(error) from error
        finally:
            self._release()

    def _open(self) -> None:
        if str(self._path) == "-":
            self._fd = standard_output()
        elif self.resumable:
            # Readable too: a file that vanishes is rescued through the descriptor.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            # By whatever name it is known: a second link to this file has a lock of its own name.
            if self._locks_itself and not lock_file(self._fd):
                raise JobError(f"{self.name}: another run is writing to this file, by another name")
            self._size = os.fstat(self._fd).st_size
        else:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)

    def _write(self, data: bytes) -> None:
        rest = data
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._size += len(data)

    def _cut(self) -> None:
        """After a failed write, take a half-written record off the end. The disk may refuse even that."""
        self._broken = True
        if self.resumable:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                return  # the next run drops a torn line anyway

    async def _rewrite(
        self, lines: Lines, drop: Sequence[int], aside: Sequence[int], renamed: Iterator[tuple[int, str]]
    ) -> None:
        with self._appended(".damaged") as damaged, self._appended(".superseded") as old:
            self._copy(lines.damage, damaged)
            with replacement(self._path) as file:
                await self._divide(drop, aside, renamed, file, old)
                if lines.rest:
                    old.write(lines.rest + b"\n")
                for each in (damaged, old):  # before the new file takes the old one's place
                    each.flush()
                    os.fsync(each.fileno())

    @contextmanager
    def _appended(self, ending: str) -> Iterator[IO[bytes]]:
        """Append to a file beside the output. If the block fails, the file is as it was; an empty one is removed."""
        path = beside(self._path, ending)
        fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=mode_of(self._path))
        before = os.fstat(fd).st_size
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
        except BaseException:
            # Only now: closing the file wrote what it had still held.
            with suppress(OSError):
                os.truncate(path, before)
            raise
        finally:
            if not path.stat().st_size:
                path.unlink()

    def _copy(self, ranges: Sequence[tuple[int, int]], file: IO[bytes]) -> None:
        for begin, end in ranges:
            for place in range(begin, end, _CHUNK):
                file.write(os.pread(self._fd, min(_CHUNK, end - place), place))

    async def _divide(
        self,
        drop: Sequence[int],
        aside: Sequence[int],
        renamed: Iterator[tuple[int, str]],
        kept: IO[bytes],
        old: IO[bytes],
    ) -> None:
        coder = encoder(self._compression)
        drops, asides = iter(drop), iter(aside)
        next_drop, next_aside = next(drops, -1), next(asides, -1)
        next_renamed, name = next(renamed, (-1, ""))
        number = -1
        for batch in self.lines().batches():
            for line in batch:
                number += 1
                if number != next_drop:
                    if number == next_renamed:
                        kept.write(coder.encode(renamed_record(line, name)))
                        next_renamed, name = next(renamed, (-1, ""))
                    else:
                        kept.write(coder.encode(line))
                    continue
                next_drop = next(drops, -1)
                if number == next_aside:
                    old.write(line)
                    next_aside = next(asides, -1)
            await asyncio.sleep(0)
        kept.write(coder.finish())

    def _rescue(self) -> str:
        """Save the records of a file that has been deleted, which live on as long as it is open."""
        if os.fstat(self._fd).st_nlink:
            return " (it was moved or replaced; its records are where it is now)"
        rescued = beside(self._path, ".rescued")
        try:
            mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
            with os.fdopen(open_own(rescued, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=mode), "wb") as file:
                offset = 0
                while chunk := os.pread(self._fd, _CHUNK, offset):
                    offset += file.write(chunk)
        except OSError as error:
            return f", and its records could not be saved as {rescued} ({error.strerror})"
        return f"; its records were saved as {rescued}"

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._lock is not None:
            self._lock.release()

    def _failure(self, error: OSError) -> JobError:
        return JobError(f"{self.name}: the output can't be written ({error.strerror or error})")


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # not there yet, or not to be looked at: opening it will tell


def standard_output() -> int:
    """Open standard output once more. Raises :class:`OSError` where there is none."""
    try:
        return os.dup(sys.stdout.fileno())
    except (AttributeError, ValueError) as error:  # closed, or replaced by something that is no file
        raise OSError(0, "standard output is closed, or no file") from error
