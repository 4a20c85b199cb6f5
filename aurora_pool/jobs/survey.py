"""The first pass over a job's input: everything that can be wrong with it is found before anything is sent."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from typing import Literal, TypeAlias

from aurora_pool.errors import BadRecord
from aurora_pool.jobs.files import InputFile
from aurora_pool.jobs.identity import IdTable
from aurora_pool.jobs.requests import Request, RequestError, RequestReader
from aurora_pool.sharing.ranks import Part

OnBadLine: TypeAlias = Literal["stop", "skip"]


def shard_of(name: str, shards: int) -> int:
    """Which of ``shards`` shards an id belongs to: the same in every process and on every machine.

    >>> [shard_of(name, 4) for name in ("a", "b", "c")]
    [3, 1, 3]
    """
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % shards


class Survey:
    """What the input holds, in about 30 bytes a line.

    - ``requests``: how many; ``model``: the one that they name, None if they name none;
    - ``skipped``: bad lines that are left out;
    - ``todo``: by line number, 1 for a line that is to be run; a resumed job clears what is done.
    """

    def __init__(
        self,
        source: InputFile,
        reader: RequestReader,
        *,
        model: str | None = None,
        on_bad_line: OnBadLine = "stop",
        shard: Part | None = None,
    ) -> None:
        """Read everything. ``model`` is the one that is asked for from outside; ``shard`` is all that is kept.

        Raises :class:`~aurora_pool.errors.BadRecord` for a bad line unless they are to be skipped, for an id that
        is listed twice, and for a second model.
        """
        self._source = source
        self._reader = reader
        self.model = model
        self.skipped: list[BadRecord] = []
        self.todo = bytearray(1)
        self._ids = IdTable()
        self._digests = array("Q", [0])
        self._model_line: int | None = None
        todo, digests, ids = self.todo, self._digests, self._ids
        before = source.before
        read = reader.read
        for number, line in source.lines():
            while len(todo) < number:
                self._note_none()  # a blank line: not seen here, yet it counts
            try:
                request = read(line, before + number)
            except RequestError as error:
                self._leave_out(BadRecord(str(error), path=source.name, line=before + number), on_bad_line)
                self._note_none()
                continue
            if shard is not None and shard_of(request.id, shard.count) != shard.index:
                self._note_none()
                continue
            if request.model is not None and request.model != self.model:
                self._check_model(request.model, before + number)
            todo.append(1)
            digests.append(request.digest)
            ids.append(request.id)
        self.requests = self.remaining
        self._check_ids()

    @property
    def remaining(self) -> int:
        """How many lines are still to be run."""
        return self.todo.count(1)

    def line_of(self, name: str) -> int | None:
        """The number of the line with this id."""
        return self._ids.get(name)

    def digest_of(self, number: int) -> int:
        """What a line asked for, as :attr:`Request.digest` tells it."""
        return self._digests[number]

    def pending(self) -> Iterator[Request]:
        """Read the requests that are to be run.

        Raises :class:`~aurora_pool.errors.BadRecord` if the input is no longer what it was.
        """
        todo, before = self.todo, self._source.before
        first = todo.find(1)
        if first < 0:
            return
        for number, line in self._source.lines(first):
            if number >= len(todo):
                return  # appended since: the next run's
            if not todo[number]:
                continue
            try:
                request = self._reader.read(line, before + number)
            except RequestError as error:
                raise BadRecord(f"the input changed while the job ran: {error}", path=self._source.name) from None
            if request.digest != self._digests[number] or self._ids.get(request.id) != number:
                raise BadRecord("the input changed while the job ran", path=self._source.name, line=before + number)
            yield request

    def _note_none(self) -> None:
        self.todo.append(0)
        self._digests.append(0)
        self._ids.append(None)

    def _leave_out(self, bad: BadRecord, on_bad_line: OnBadLine) -> None:
        if on_bad_line == "stop":
            raise bad from None
        self.skipped.append(bad)

    def _check_ids(self) -> None:
        pair = self._ids.index()
        if pair is not None:
            first, number = pair
            before = self._source.before
            _, line = next(self._source.lines(number))
            name = self._reader.read(line, before + number).id
            reason = f"the id {name!r} is in line {before + first} already"
            raise BadRecord(reason, path=self._source.name, line=before + number)

    def _check_model(self, model: str, number: int) -> None:
        if self.model is None:
            self.model = model
            self._model_line = number
            return
        asked = "the job asks" if self._model_line is None else f"line {self._model_line} asks"
        reason = f"it asks for the model {model!r}, {asked} for {self.model!r}; a job has one: give --model-map old=new"
        raise BadRecord(reason, path=self._source.name, line=number)
