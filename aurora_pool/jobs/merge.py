"""Joins what several drivers have answered, and proves that each request of the input is there exactly once."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aurora_pool.errors import BadRecord, JobError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.ordered import packed
from aurora_pool.jobs.pieces import PieceFile, Plan, read_plan
from aurora_pool.jobs.records import decode_record
from aurora_pool.jobs.requests import RequestError, RequestReader
from aurora_pool.jobs.shard import shard_output
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.tables import open_source
from aurora_pool.own_files import replacement
from aurora_pool.sharing.ranks import Part

SHOWN = 5
"""How many ids are named where many are wrong."""
BUCKETS = 256
"""Into how many parts the hashes of ids are divided, which are checked one after the other."""
IN_MEMORY = 1 << 20
"""How many hashes may wait for that in memory; more go to disk, a file for each part."""

OnPiece = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Merged:
    """What was joined: ``requests`` records, ``failed`` of which are no answers; ``skipped`` lines were bad ones."""

    requests: int
    failed: int
    skipped: int


def merge(
    folder: str | Path, output: str | Path, *, source: str | Path | None = None, on_piece: OnPiece | None = None
) -> Merged:
    """Join the records in the folder of a claimed or a sharded job into one output, and prove that it is whole.

    The input is read again, from where it was or from ``source``: every id of it must have one record, and no other id
    any. The records of a claimed job come in the order of the input. ``on_piece`` is called with the number of pieces
    that are joined, and of all. The output is there as a whole or not at all.

    Raises :class:`~aurora_pool.errors.BadRecord`, which names what is missing, there twice or foreign, or a folder
    without a shared job, and :class:`~aurora_pool.errors.JobError` if a file can't be read or written, or ``output``
    is there already.
    """
    folder, output = Path(folder), Path(output)
    if output.exists():
        raise JobError(f"{output}: it is there already; name another, or remove it")
    plan = read_plan(folder)
    if plan is None:
        raise BadRecord("no plan is in it, so no drivers have shared a job there", path=folder)
    path = Path(source or plan.source)
    try:
        size = path.stat().st_size
    except OSError as error:
        hint = "" if source else "; --input says where it is now"
        raise BadRecord(f"the input can't be read ({error.strerror}){hint}", path=path) from error
    if size != plan.size:
        reason = f"the input has {size} bytes, and had {plan.size} when {folder} was begun"
        raise BadRecord(f"{reason}; --input takes a copy of it as it was", path=path)
    try:
        with replacement(output) as file, packed(file, compression_of(output)) as target:
            if plan.shards:
                return _merge_shards(folder, plan, path, target, on_piece)
            return _merge_pieces(folder, plan, path, target, on_piece)
    except OSError as error:
        raise JobError(f"{output}: can't be merged ({error.strerror or error})") from error


class _Faults:
    """What is wrong, counted, with some examples."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: int | None = None
        self._said: dict[str, tuple[int, list[str]]] = {}

    def note(self, kind: str, name: str) -> None:
        count, names = self._said.setdefault(kind, (0, []))
        if len(names) < SHOWN:
            names.append(repr(name))
        self._said[kind] = count + 1, names

    def compare(self, name: str, key: int | None, digest: int) -> None:
        """See that a record answers what the input asks, and that all were asked of one model."""
        if key is None:
            return
        if self._asked is None:
            self._asked = key ^ digest  # what is left of it is the model
        if key ^ digest != self._asked:
            self.note("answers to other requests, or of another model", name)

    def check(self) -> None:
        if self._said:
            parts = [
                f"{kind}: {count} ({', '.join(names)}{', ...' if count > len(names) else ''})"
                for kind, (count, names) in self._said.items()
            ]
            raise BadRecord("; ".join(parts), path=self._folder)


# -- pieces ---------------------------------------------------------------------------------------------------------


def _merge_pieces(folder: Path, plan: Plan, source: Path, target: IO[bytes], on_piece: OnPiece | None) -> Merged:
    faults = _Faults(folder)
    reader = plan.reader()
    failed = requests = skipped = 0
    with tempfile.TemporaryDirectory() as scratch:
        seen = _Ids(Path(scratch))
        for number in range(len(plan.offsets)):
            digests, bad = _digests(reader, PieceFile(plan, plan.piece(number), path=source))
            skipped += bad
            records = _records(folder / "done" / f"{number:05}", digests, faults)
            for name in digests:
                record = records.get(name)
                if record is None:
                    faults.note("missing", name)
                    continue
                answered, line = record
                failed += not answered
                target.write(line)
            seen.add(digests)
            requests += len(digests)
            if on_piece is not None:
                on_piece(number + 1, len(plan.offsets))
        for name in seen.twice(lambda: _all_names(reader, plan, source)):
            faults.note("twice in the input", name)
    faults.check()
    return Merged(requests, failed, skipped)


def _digests(reader: RequestReader, piece: PieceFile) -> tuple[dict[str, int], int]:
    """What the ids of a piece ask, in its order, and how many lines are bad."""
    digests: dict[str, int] = {}
    bad = 0
    for number, line in piece.lines():
        try:
            request = reader.read(line, piece.before + number)
        except RequestError:
            bad += 1
        else:
            if request.id in digests:
                bad += 1  # as a job that skips bad lines does, of which this is one
            else:
                digests[request.id] = request.digest
    return digests, bad


def _all_names(reader: RequestReader, plan: Plan, source: Path) -> Iterator[str]:
    for number in range(len(plan.offsets)):
        yield from _digests(reader, PieceFile(plan, plan.piece(number), path=source))[0]


def _records(path: Path, wanted: dict[str, int], faults: _Faults) -> dict[str, tuple[bool, bytes]]:
    """The records of a piece that is done, by id, each with whether it is an answer; none of one that is not."""
    found: dict[str, tuple[bool, bytes]] = {}
    lines = Lines(path, "none")
    try:
        for line in lines:
            record = decode_record(line)
            if record is None:
                faults.note("no records", f"{path}")
            elif record.custom_id not in wanted:
                faults.note("not in the input", record.custom_id)
            elif record.custom_id in found:
                faults.note("twice", record.custom_id)
            else:
                faults.compare(record.custom_id, record.key, wanted[record.custom_id])
                found[record.custom_id] = record.answered, line
    except FileNotFoundError:
        faults.note("pieces not done", path.name)
        return {}
    if lines.torn:
        faults.note("torn", f"{path}")
    return found


class _Ids:
    """Which ids come twice among any number of them: 64 bits of each; of many, all but a part of them is on disk."""

    def __init__(self, scratch: Path) -> None:
        self._paths = [scratch / f"{number}" for number in range(BUCKETS)]
        self._waiting = [array("Q") for _ in range(BUCKETS)]
        self._count = 0

    def add(self, names: Collection[str]) -> None:
        """Note ids that are different among themselves."""
        waiting = self._waiting
        for name in names:
            key = _key(name)
            waiting[key % BUCKETS].append(key)
        self._count += len(names)
        if self._count >= IN_MEMORY:
            self._write()

    def _write(self) -> None:
        for path, keys in zip(self._paths, self._waiting, strict=True):
            with path.open("ab") as file:
                keys.tofile(file)
            del keys[:]
        self._count = 0

    def twice(self, names: Callable[[], Iterator[str]]) -> list[str]:
        """The ids that were added more than once; ``names`` gives all of them again, if need be."""
        shared_keys: set[int] = set()
        for path, waiting in zip(self._paths, self._waiting, strict=True):
            keys = array("Q", waiting)
            if path.exists():
                keys.frombytes(path.read_bytes())
            if len(set(keys)) == len(keys):
                continue
            once: set[int] = set()
            for key in keys:
                (shared_keys if key in once else once).add(key)
        if not shared_keys:
            return []
        seen: set[str] = set()
        double: list[str] = []
        for name in names():  # two ids may share a hash: only the names themselves tell
            if _key(name) in shared_keys:
                (double.append if name in seen else seen.add)(name)
        return double


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


# -- shards ---------------------------------------------------------------------------------------------------------


def _merge_shards(folder: Path, plan: Plan, source: Path, target: IO[bytes], on_piece: OnPiece | None) -> Merged:
    file = open_source(source, input_format=plan.kind)
    survey = Survey(file, plan.reader(), on_bad_line="skip", allow_empty=True)
    faults = _Faults(folder)
    failed = 0
    for index in range(plan.shards):
        lines = Lines(shard_output(folder, Part(index, plan.shards)), "none")
        try:
            for line in lines:
                record = decode_record(line)
                number = None if record is None else survey.line_of(record.custom_id)
                if record is None:
                    faults.note("no records", f"shard {index}")
                elif number is None:
                    faults.note("not in the input", record.custom_id)
                elif not survey.todo[number]:
                    faults.note("twice", record.custom_id)
                else:
                    faults.compare(record.custom_id, record.key, survey.digest_of(number))
                    survey.todo[number] = 0
                    failed += not record.answered
                    target.write(line)
        except FileNotFoundError:
            faults.note("shards not begun", f"{index}/{plan.shards}")
        if lines.torn:
            faults.note("torn", f"shard {index}")
        if on_piece is not None:
            on_piece(index + 1, plan.shards)
    for request in survey.pending():
        faults.note("missing", request.id)
    faults.check()
    return Merged(survey.requests, failed, survey.skipped)
