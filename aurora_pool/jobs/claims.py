"""Pieces taken by drivers on a shared file system, each answered once, whichever driver dies, stops or wakes up.

In the folder of a plan::

    drivers/NAME          a driver's heartbeat: see aurora_pool.sharing.roster
    leases/00012.2        the second lease of piece 12: a link that says which driver's
    answers/00012.2.jsonl what was answered under that lease: the journal of a job
    done/00012            a link to the answers that count
    unusable/00012        why the piece can't be answered: a bad line

A piece is free if it has no lease, or if the driver that has the latest one is no longer alive. Whoever takes it over
makes the next lease, copies the answers that are there to a file of its own, and goes on with that. So no two drivers
write to one file, whatever each believes: a driver that was stopped and wakes up checks that its lease is still the
latest before it writes, and if it is stopped between the check and the write, the line lands in a file that no longer
counts. The check is an attempt to make the next lease for itself, which of two drivers only one can. Which file counts
is decided once, by who makes the link in ``done/``. No lock is needed for it, no time stamp, no clock in common.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from aurora_pool.errors import JobError
from aurora_pool.own_files import replacement
from aurora_pool.sharing.roster import Roster, claim_name, holder_of


class LeaseLost(JobError):
    """Another driver has taken the piece over: nothing more may be written for it."""


class Lease:
    """The right to answer one piece, held by this driver. As a journal's lock, it is checked before each record."""

    def __init__(self, claims: Claims, number: int, generation: int, on_record: Callable[[], None]) -> None:
        self._claims = claims
        self._on_record = on_record
        self._lapses = claims.roster.lapses
        self._generation = generation
        self.number = number
        self.output = claims.answers / f"{number:05}.{generation}.jsonl"
        self.records = 0

    def check(self) -> None:
        """See that a record may be written: it counts one. Raises :class:`LeaseLost` if it may not."""
        roster = self._claims.roster
        if not roster.safe:
            self._claims.renew()
        if self._lapses != roster.lapses:
            self._renew()
        self.records += 1
        self._on_record()

    def _renew(self) -> None:
        """After a time in which this driver may have been taken for dead, make the next lease its own, too."""
        lapses = self._claims.roster.lapses
        if not self._claims.extend(self.number, self._generation + 1):
            raise LeaseLost(f"{self.output}: another driver has taken over this piece")
        self._generation += 1
        self._lapses = lapses

    def release(self) -> None:
        """Nothing: a lease ends when its piece is done, or with its driver."""


class Claims:
    """All pieces of a folder, as one driver sees them. Every method may block for as long as the file system takes.

    Raises :class:`~aurora_pool.errors.JobError` where the folder can't be used.
    """

    def __init__(
        self,
        folder: Path,
        pieces: int,
        roster: Roster,
        *,
        retry_unusable: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.folder = folder
        self.roster = roster
        self.leases, self.answers, self.done = (folder / name for name in ("leases", "answers", "done"))
        self.unusable = folder / "unusable"
        self._pieces = pieces
        self._retry_unusable = retry_unusable
        # Drivers that begin at different places seldom try for the same piece.
        self._next = (rng or random.Random()).randrange(max(1, pieces))
        self._latest: dict[int, int] = {}
        self._finished: set[int] = set()
        self._refused: set[int] = set()
        self._refused_here: set[int] = set()
        self._mine: set[int] = set()
        try:
            for each in (self.leases, self.answers, self.done, self.unusable):
                each.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from error

    def renew(self) -> None:
        """Say that this driver is alive."""
        try:
            self.roster.beat()
        except OSError as error:
            raise self._failure(error) from error

    def take(self, on_record: Callable[[], None]) -> Lease | None:
        """Take a piece that is free; None if there is none now."""
        if not self.roster.safe:
            self.renew()
        try:
            # By the lists of before, while they are good for anything: reading them is the dearest thing here.
            lease = self._first_lease(self._fresh(), on_record, tries=1)
            if lease is None:
                self._list()
                lease = self._first_lease(self._fresh(), on_record)
            if lease is None:
                self.roster.refresh()  # after the lists: who has taken a piece since is alive in what is seen now
                lease = self._first_lease(filter(self._is_orphan, self._leased()), on_record)
        except OSError as error:
            raise self._failure(error) from error
        return lease

    def extend(self, number: int, generation: int) -> bool:
        """Make the next lease of a piece this driver's; tell whether nobody else has."""
        try:
            extended = claim_name(self.leases / f"{number:05}.{generation}", self.roster.name)
            return extended and holder_of(self.done / f"{number:05}") is None
        except OSError as error:
            raise self._failure(error) from error

    def refresh(self) -> None:
        """Read anew which pieces are done, and which can't be."""
        try:
            self._list()
        except OSError as error:
            raise self._failure(error) from error

    def finish(self, lease: Lease) -> bool:
        """Say that the output of a lease is whole; tells whether it is the one that counts."""
        self._mine.discard(lease.number)
        self._finished.add(lease.number)
        try:
            return claim_name(self.done / f"{lease.number:05}", os.path.relpath(lease.output, self.done))
        except OSError as error:
            raise self._failure(error) from error

    def give_up(self, lease: Lease) -> None:
        """Say that this driver no longer has a piece that another has taken over."""
        self._mine.discard(lease.number)

    def refuse(self, lease: Lease, reason: str) -> None:
        """Say why a piece can't be answered, so that no other driver tries."""
        self._mine.discard(lease.number)
        self._refused_here.add(lease.number)
        try:
            with replacement(self.unusable / f"{lease.number:05}") as file:
                file.write(f"{reason}\n".encode())
        except OSError as error:
            raise self._failure(error) from error

    def refusals(self) -> list[str]:
        """Why pieces can't be answered, as far as any driver knows; a piece that was answered since is not told."""
        paths = sorted(self.unusable.glob("[0-9]*"))
        return [path.read_text(encoding="utf-8").strip() for path in paths if int(path.name) not in self._finished]

    @property
    def finished(self) -> frozenset[int]:
        """The pieces that were done at the last refresh."""
        return frozenset(self._finished)

    @property
    def open_pieces(self) -> list[int]:
        """The pieces that were neither done nor unusable at the last refresh, nor refused by this driver."""
        closed = self._closed()
        return [number for number in range(self._pieces) if number not in closed]

    # -- the folder ---------------------------------------------------------------------------------------------

    def _list(self) -> None:
        latest: dict[int, int] = {}
        for name in os.listdir(self.leases):  # noqa: PTH208 - names are all that is wanted
            number, _, generation = name.partition(".")
            if number.isdigit() and generation.isdigit():
                latest[int(number)] = max(latest.get(int(number), 0), int(generation))
        self._latest = latest
        self._finished |= {int(name) for name in os.listdir(self.done) if name.isdigit()}  # noqa: PTH208
        self._refused = {int(name) for name in os.listdir(self.unusable) if name.isdigit()}  # noqa: PTH208

    def _closed(self) -> set[int]:
        # What others refused may be tried again, what this driver has refused would be refused again.
        return self._finished | self._refused_here | (set() if self._retry_unusable else self._refused)

    def _fresh(self) -> Iterator[int]:
        """The pieces that nobody has had, from where this driver was last."""
        closed = self._closed()
        numbers = (number % self._pieces for number in range(self._next, self._next + self._pieces))
        return (number for number in numbers if number not in self._latest and number not in closed)

    def _leased(self) -> Iterator[int]:
        """The pieces that somebody else has, or had."""
        closed = self._closed() | self._mine
        return (number for number in sorted(self._latest) if number not in closed)

    def _is_orphan(self, number: int) -> bool:
        holder = holder_of(self.leases / f"{number:05}.{self._latest[number]}")
        return holder is not None and not self.roster.is_alive(holder)

    def _first_lease(
        self, numbers: Iterable[int], on_record: Callable[[], None], *, tries: int | None = None
    ) -> Lease | None:
        for number in islice(numbers, tries):
            generation = self._latest.get(number, 0) + 1
            lease = Lease(self, number, generation, on_record)
            self._next = (number + 1) % self._pieces
            if not claim_name(self.leases / f"{number:05}.{generation}", self.roster.name):
                continue
            self._latest[number] = generation
            # The lists may be older than they look: network file systems keep them for a while.
            if holder_of(self.done / f"{number:05}") is not None:
                self._finished.add(number)
                continue
            self._take_over(lease, generation)
            self._mine.add(number)
            return lease
        return None

    def _take_over(self, lease: Lease, generation: int) -> None:
        """Copy what the latest lease before this one has answered, if any has, as a whole."""
        for earlier in range(generation - 1, 0, -1):
            before = self.answers / f"{lease.number:05}.{earlier}.jsonl"
            try:
                with before.open("rb") as source, replacement(lease.output, like=before) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except FileNotFoundError:
                continue  # it died before its first record
            return

    def _failure(self, error: OSError) -> JobError:
        return JobError(f"{self.folder}: the drivers' folder can't be used ({error.strerror or error})")
