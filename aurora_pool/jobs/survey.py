"""The first pass over a job's input: everything that can be wrong with it is found before anything is sent."""

from __future__ import annotations

import logging
import zlib
from array import array
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from aurora_pool.errors import BadRecord, BadRecords
from aurora_pool.jobs.identity import IdTable
from aurora_pool.jobs.requests import Request, RequestError, RequestReader
from aurora_pool.jobs.tables import Source
from aurora_pool.sharing.ranks import Part

__all__ = ["OnBadLine"]

OnBadLine: TypeAlias = Literal["stop", "skip"]
"""What a bad line of the input does: it stops the job before anything is sent, or is skipped."""

SHOWN = 20
"""Bad lines that are named; of more, only the count is given."""

logger = logging.getLogger(__name__)


def shard_of(name: str, shards: int) -> int:
    """Which of ``shards`` shards an id belongs to: the same in every process and on every machine.

    >>> [shard_of(name, 4) for name in ("a", "b", "c")]
    [3, 1, 3]
    """
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % shards


class Survey:
    """What the input holds, in about 30 bytes a line.

    - ``requests``: how many; ``model``: the one that they name, None if they name none;
    - ``skipped``: how many bad lines there are; ``bad_records``: the first of them;
    - ``todo``: by line number, 1 for a line that is to be run; a resumed job clears what is done;
    - ``embedding``: whether they ask for embeddings, of how many ``dimensions`` if they say.
    """

    def __init__(
        self,
        source: Source,
        reader: RequestReader,
        *,
        model: str | None = None,
        on_bad_line: OnBadLine = "stop",
        allow_empty: bool = False,
        shard: Part | None = None,
        told: dict[str, object] | None = None,
    ) -> None:
        """Read everything. ``model`` is the one that is asked for from outside; ``shard`` is all that is kept.

        ``told`` says in which input each hint was told first: several that share it are told each of them once.

        Raises :class:`~aurora_pool.errors.BadRecord` for a second model, for an input without requests unless those are
        allowed, and for bad lines unless they are to be skipped: an id that stands there already makes one.
        """
        self._source = source
        self._reader = reader
        self.model = model
        self.bad_records: list[BadRecord] = []
        self.skipped = 0
        self.todo = bytearray(1)
        self.embedding: bool | None = None
        self.dimensions: int | None = None
        self._unnamed = bytearray(1)
        self._ids = IdTable()
        self._digests = array("Q", [0])
        self._model_line: int | None = None
        self._elsewhere = 0
        self._read(shard)
        self._check_ids()
        told = {} if told is None else told
        for about, hint in reader.hints.items():
            if told.setdefault(about, source) is source:
                logger.warning("%s: %s", source.name, hint)
        if self.skipped and on_bad_line == "stop":
            raise self.bad_records[0] if self.skipped == 1 else self._all_bad()
        self.requests = self.remaining
        if not self.requests and not self._elsewhere and not allow_empty:
            raise BadRecord("there is no request in it", path=source.name)

    def _read(self, shard: Part | None) -> None:
        todo, unnamed, digests, ids = self.todo, self._unnamed, self._digests, self._ids
        read, before = self._reader.read, self._source.before
        for number, line in self._source.lines():
            while len(todo) < number:
                self._note_none()  # a blank line: not seen here, yet it counts
            try:
                request = read(line, before + number)
            except RequestError as error:
                self._skip(BadRecord(str(error), path=self._source.name, line=before + number))
                self._note_none()
                continue
            if shard is not None and shard_of(request.id, shard.count) != shard.index:
                self._elsewhere += 1
                self._note_none()
                continue
            if request.model is not None and request.model != self.model:
                self._check_model(request.model, before + number)
            if request.embedding is not self.embedding or request.embedding:
                self._check_kind(request, before + number)
            todo.append(1)
            unnamed.append(not request.named)
            digests.append(request.digest)
            ids.append(request.id)

    @property
    def remaining(self) -> int:
        """How many lines are still to be run."""
        return self.todo.count(1)

    @property
    def name(self) -> str:
        """The input's name."""
        return self._source.name

    @property
    def before(self) -> int:
        """How many lines of the input are before the one that is number 1 here."""
        return self._source.before

    @property
    def kind(self) -> str:
        """What the input was read as."""
        return self._source.kind

    def line_of(self, name: str) -> int | None:
        """The number of the line with this id."""
        return self._ids.get(name)

    def digest_of(self, number: int) -> int:
        """What a line asked for, as :attr:`Request.digest` tells it."""
        return self._digests[number]

    def unnamed_with(self, digests: Collection[int]) -> dict[int, list[int]]:
        """Give the lines without an id of their own that are to be run and ask for one of these, the last first."""
        found: dict[int, list[int]] = {}
        for number in range(len(self.todo) - 1, 0, -1):
            if self.todo[number] and self._unnamed[number] and self._digests[number] in digests:
                found.setdefault(self._digests[number], []).append(number)
        return found

    def pending(self) -> Iterator[Request]:
        """Read the requests that are to be run.

        Raises :class:`~aurora_pool.errors.BadRecord` if the input is no longer what it was.
        """
        todo, before = self.todo, self._source.before
        place = todo.find(1)
        if place < 0:
            return
        for number, line in self._source.lines(place):
            if number >= len(todo):
                return  # appended since: the next run's
            if not todo[number]:
                continue
            if number != place:
                break  # the line that was there is blank now
            try:
                request = self._reader.read(line, before + number)
            except RequestError as error:
                raise BadRecord(f"the input changed while the job ran: {error}", path=self._source.name) from None
            if request.digest != self._digests[number] or self._ids.get(request.id) != number:
                raise BadRecord("the input changed while the job ran", path=self._source.name, line=before + number)
            yield request
            place = todo.find(1, number + 1)
            if place < 0:
                return
        raise BadRecord(
            "the input changed while the job ran: this line is gone", path=self._source.name, line=before + place
        )

    @property
    def kept_schema(self) -> Mapping[str, Any] | None:
        """The types of the columns that are kept, where the input has types."""
        schema = getattr(self._source, "schema", None)
        return (
            None if schema is None else {field.name: field.type for field in schema if self._reader.keeps(field.name)}
        )

    def rows(self) -> Iterator[tuple[int, Request]]:
        """Read all requests again, each with its line's number."""
        for number, line in self._source.lines():
            if number >= len(self.todo):
                return
            try:
                yield number, self._reader.read(line, self._source.before + number)
            except RequestError:
                continue  # skipped before

    def _note_none(self) -> None:
        self.todo.append(0)
        self._unnamed.append(0)
        self._digests.append(0)
        self._ids.append(None)

    def _skip(self, bad: BadRecord) -> None:
        self.skipped += 1
        if len(self.bad_records) < SHOWN:
            self.bad_records.append(bad)

    def _all_bad(self) -> BadRecords:
        return BadRecords(self.bad_records, count=self.skipped, path=self._source.name)

    def _check_ids(self) -> None:
        pairs, before = self._ids.index(), self._source.before
        firsts = {number: first for first, number in pairs[:SHOWN]}
        names = {}
        if firsts:
            last = max(firsts)
            for number, line in self._source.lines(min(firsts)):
                if number in firsts:
                    names[number] = self._reader.read(line, before + number).id
                if number >= last:
                    break
        for first, number in pairs:
            self.todo[number] = 0
            name = names.get(number, "")
            reason = f"the id {name!r} is in line {before + first} already"
            self._skip(BadRecord(reason, path=self._source.name, line=before + number))

    def _check_model(self, model: str, number: int) -> None:
        if self.model is None:
            self.model = model
            self._model_line = number
            return
        asked = "the job asks" if self._model_line is None else f"line {self._model_line} asks"
        reason = f"it asks for the model {model!r}, {asked} for {self.model!r}; a job has one: give --model-map old=new"
        raise BadRecord(reason, path=self._source.name, line=number)

    def _check_kind(self, request: Request, number: int) -> None:
        dimensions = request.body.get("dimensions") if request.embedding else None
        if self.embedding is None:
            self.embedding, self.dimensions = request.embedding, dimensions
        if request.embedding is not self.embedding:
            reason = "a job asks either for embeddings or for answers, and the lines before ask for the other"
            raise BadRecord(reason, path=self._source.name, line=number)
        if dimensions != self.dimensions:
            reason = f"it asks for {dimensions} dimensions, the lines before for {self.dimensions}; a job has one kind"
            raise BadRecord(reason, path=self._source.name, line=number)
