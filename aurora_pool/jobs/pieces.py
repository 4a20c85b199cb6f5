"""An input cut into pieces that several drivers take one by one, and the plan that all of them go by."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from aurora_pool.errors import BadRecord, ConfigError, JobError
from aurora_pool.jobs.columns import Columns, check_kind
from aurora_pool.jobs.copies import is_remote
from aurora_pool.jobs.files import InputFile, compression_of
from aurora_pool.jobs.formats import Kind
from aurora_pool.jobs.options import JobOptions
from aurora_pool.jobs.requests import Request, RequestError, RequestReader
from aurora_pool.jobs.tables import HUB
from aurora_pool.sharing.roster import claim_name

PLAN = "plan.json"
_BLOCK = 1 << 22
_SETTINGS = ("model", "model_map", "defaults", "prompt_format", "system_prompt", "input_format", "columns")
"""The options that must be equal for all drivers of one plan: they decide what is asked."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of the input: ``offset`` is the byte at which they begin, ``before`` how many lines are before it."""

    number: int
    offset: int
    before: int
    lines: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What drivers share: the input, how it is read, and where its pieces begin.

    ``shards`` is into how many parts the ids are divided instead, where there are no pieces.
    """

    source: str
    size: int
    kind: Kind
    settings: dict[str, Any]
    lines: int = 0
    piece_lines: int = 0
    offsets: list[int] = []
    shards: int = 0

    def piece(self, number: int) -> Piece:
        """The piece with this number, counted from 0."""
        before = number * self.piece_lines
        return Piece(number, self.offsets[number], before, min(self.piece_lines, self.lines - before))

    def lines_of(self, numbers: Collection[int]) -> int:
        """How many lines these pieces have together."""
        missing = -self.lines % self.piece_lines if len(self.offsets) - 1 in numbers else 0
        return len(numbers) * self.piece_lines - missing

    def reader(self) -> RequestReader:
        """A reader that makes of a line what every driver makes of it."""
        settings = self.settings
        system_prompt = settings["system_prompt"]
        return RequestReader(
            text=self.kind == "text",
            prompt_format="chat" if system_prompt is not None else settings["prompt_format"],
            system_prompt=system_prompt,
            defaults=settings["defaults"],
            model_map=settings["model_map"],
            columns=msgspec.convert(settings["columns"], Columns),
        )


class PieceFile(InputFile):
    """One piece as an input of its own, whose lines are numbered from 1; ``before`` says how many are before it."""

    def __init__(self, plan: Plan, piece: Piece, *, path: str | Path | None = None) -> None:
        super().__init__(path or plan.source, input_format=plan.kind)
        self._piece = piece
        self._where = Path(path or plan.source)
        self.before = piece.before

    def lines(self, first: int = 1) -> Iterator[tuple[int, bytes]]:
        """Read its lines, as :meth:`InputFile.lines` does."""
        try:
            with self._where.open("rb", buffering=1 << 18) as file:
                file.seek(self._piece.offset)
                for number, line in enumerate(islice(file, first - 1, self._piece.lines), start=first):
                    text = line.rstrip(b"\r\n")
                    if self.before == 0 and number == 1:
                        text = text.removeprefix(b"\xef\xbb\xbf")
                    if text and not text.isspace():
                        yield number, text
        except OSError as error:
            raise BadRecord(f"the input can't be read ({error.strerror})", path=self.name) from error


def settings_of(options: JobOptions) -> dict[str, Any]:
    """Give the options that must be equal for all drivers, as JSON has them."""
    settings = msgspec.json.encode({name: getattr(options, name) for name in _SETTINGS})
    return msgspec.json.decode(settings, type=dict[str, Any])  # a tuple comes back as a list


def agree_on_plan(
    folder: Path, source: str, options: JobOptions, *, name: str, piece_lines: int = 0, shards: int = 0
) -> Plan:
    """Read the plan in ``folder``; where there is none yet, make one. Of several that are made at once, one counts.

    ``name`` is the driver's. Raises :class:`~aurora_pool.errors.ConfigError` if the plan is for another input or asks
    for something else, :class:`~aurora_pool.errors.BadRecord` if the input can't be read or has no request, and
    :class:`~aurora_pool.errors.JobError` if the folder can't be used.
    """
    plan = read_plan(folder)
    if plan is None:
        if source == "-" or (piece_lines and compression_of(source) != "none"):
            kind = "a file that is not compressed" if piece_lines else "a file"
            raise ConfigError(f"{source}: drivers that share an input need it as {kind}")
        fresh = _make_plan(source, options, piece_lines=piece_lines, shards=shards)
        if piece_lines and not options.allow_empty:
            first_request(fresh)  # an input without any is refused before there is a folder that belongs to it
        try:
            folder.mkdir(parents=True, exist_ok=True)
            own = folder / f"plan.{name}.json"
            with own.open("xb") as file:
                file.write(msgspec.json.encode(fresh))
                file.flush()
                os.fsync(file.fileno())
            if not claim_name(folder / PLAN, own.name):
                own.unlink()
        except OSError as error:
            raise JobError(f"{folder}: the plan can't be written ({error.strerror})") from error
        plan = read_plan(folder)
        assert plan is not None
    _check(plan, folder, source, options, shards)
    return plan


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of a folder; None if it has none.

    Raises :class:`~aurora_pool.errors.JobError` for one that can't be read.
    """
    try:
        return msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JobError(f"{folder / PLAN}: the plan can't be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise JobError(f"{folder / PLAN}: this is no plan of drivers ({error})") from error


def first_request(plan: Plan) -> Request:
    """The input's first good request.

    Raises :class:`~aurora_pool.errors.BadRecord` if there is none, with the first bad line, if there are such.
    """
    reader = plan.reader()
    bad: BadRecord | None = None
    for number, line in InputFile(plan.source, input_format=plan.kind).lines():
        try:
            return reader.read(line, number)
        except RequestError as error:
            bad = bad or BadRecord(str(error), path=plan.source, line=number)
    raise bad or BadRecord("there is no request in it", path=plan.source)


def _make_plan(source: str, options: JobOptions, *, piece_lines: int, shards: int) -> Plan:
    if is_remote(source) or source.startswith(HUB) or Path(source).is_dir():
        raise ConfigError(f"{source}: drivers that share an input need it as a file that each of them can read")
    kind = InputFile(source, input_format=options.input_format).kind
    if piece_lines and kind not in {"jsonl", "text"}:
        raise ConfigError(f"{source}: --claim needs lines of JSON or text, got {kind}; --shard takes tables, too")
    check_kind(options.columns, kind)
    path = Path(source).resolve()
    try:
        offsets, lines, size = _cut(path, piece_lines) if piece_lines else ([], 0, path.stat().st_size)
    except OSError as error:
        raise BadRecord(f"the input can't be read ({error.strerror})", path=source) from error
    return Plan(
        source=str(path),
        size=size,
        kind=kind,
        settings=settings_of(options),
        lines=lines,
        piece_lines=piece_lines,
        offsets=offsets,
        shards=shards,
    )


def _cut(path: Path, piece_lines: int) -> tuple[list[int], int, int]:
    """Where each piece begins, how many lines there are, how many bytes."""
    offsets = array("Q", [0])
    lines = offset = 0
    last = b"\n"
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            found = block.count(b"\n")
            at = -1
            while found >= (needed := piece_lines - lines % piece_lines):
                for _ in range(needed):
                    at = block.index(b"\n", at + 1)
                lines += needed
                found -= needed
                offsets.append(offset + at + 1)
            lines += found
            offset += len(block)
            last = block[-1:]
    if last != b"\n":
        lines += 1
    if (len(offsets) > 1 and offsets[-1] == offset) or not offset:
        offsets.pop()
    return list(offsets), lines, offset


def _check(plan: Plan, folder: Path, source: str, options: JobOptions, shards: int) -> None:
    asked = settings_of(options)
    for name, value in plan.settings.items():
        if asked[name] != value:
            given = f"{name.replace('_', '-')} {value!r}, not {asked[name]!r}"
            raise ConfigError(f"{folder}: it was begun with {given}; use another folder for another job")
    if plan.shards != shards:
        begun = f"{plan.shards} shards" if plan.shards else "pieces that are claimed"
        raise ConfigError(f"{folder}: it was begun with {begun}; all drivers need the same options")
    try:
        size = Path(source).stat().st_size
    except OSError as error:
        raise BadRecord(f"the input can't be read ({error.strerror})", path=source) from error
    if size != plan.size:
        reason = f"it has {size} bytes, and had {plan.size} when {folder} was begun"
        way = "to keep its answers, merge it with --input and a copy as it was, then run this input with -o"
        raise BadRecord(f"the input has changed: {reason}; {way}; or use another folder", path=source)
