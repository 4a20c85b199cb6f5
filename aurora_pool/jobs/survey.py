"""The first pass over a job's input: everything that can be wrong with it is found before anything is sent."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Literal, TypeAlias

from aurora_pool.errors import BadRecord
from aurora_pool.jobs.files import InputFile
from aurora_pool.jobs.identity import IdTable
from aurora_pool.jobs.requests import Request, RequestError, RequestReader

OnBadLine: TypeAlias = Literal["stop", "skip"]


class Survey:
    """What the input holds, in about 30 bytes a line.

    - ``requests``: how many; ``model``: the one that they name, None if they name none;
    - ``skipped``: bad lines that are left out;
    - ``todo``: by line number, 1 for a line that is to be run; a resumed job clears what is done.
    """

    def __init__(
        self, source: InputFile, reader: RequestReader, *, model: str | None = None, on_bad_line: OnBadLine = "stop"
    ) -> None:
        """Read everything. ``model`` is the one that is asked for from outside.

        Raises :class:`~aurora_pool.errors.BadRecord` for a bad line unless they are to be skipped, for an id that
        stands there twice, and for a second model.
        """
        self._source = source
        self._reader = reader
        self.model = model
        self.skipped: list[BadRecord] = []
        self.todo = bytearray(1)
        self._ids = IdTable()
        self._digests = array("Q", [0])
        self._model_line: int | None = None
        self.requests = 0
        for number, line in source.lines():
            # Blank lines are not seen here, yet count.
            missing = number - len(self.todo)
            if missing:
                self.todo.extend(bytes(missing))
                self._digests.extend([0] * missing)
            request = self._check(line, number, on_bad_line)
            self.todo.append(request is not None)
            self._digests.append(0 if request is None else request.digest)
            self.requests += request is not None

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

    def pending(self) -> Iterator[Request | None]:
        """Read the requests that are to be run; None stands for one that is not.

        Raises :class:`~aurora_pool.errors.BadRecord` if the input is no longer what it was.
        """
        todo = self.todo
        for number, line in self._source.lines():
            if number >= len(todo):
                return  # appended since: the next run's
            if not todo[number]:
                yield None
                continue
            try:
                request = self._reader.read(line, number)
            except RequestError as error:
                raise BadRecord(f"the input changed while the job ran: {error}", path=self._source.name) from None
            if request.digest != self._digests[number] or self._ids.get(request.id) != number:
                raise BadRecord("the input changed while the job ran", path=self._source.name, line=number)
            yield request

    def _check(self, line: bytes, number: int, on_bad_line: OnBadLine) -> Request | None:
        try:
            request = self._reader.read(line, number)
        except RequestError as error:
            bad = BadRecord(str(error), path=self._source.name, line=number)
            if on_bad_line == "stop":
                raise bad from None
            self.skipped.append(bad)
            return None
        first = self._ids.add(request.id, number)
        if first is not None:
            raise BadRecord(
                f"the id {request.id!r} stands in line {first} already", path=self._source.name, line=number
            )
        if request.model is not None and request.model != self.model:
            self._check_model(request.model, number)
        return request

    def _check_model(self, model: str, number: int) -> None:
        if self.model is None:
            self.model = model
            self._model_line = number
            return
        asked = "the job asks" if self._model_line is None else f"line {self._model_line} asks"
        reason = f"it asks for the model {model!r}, {asked} for {self.model!r}; a job has one: give --model-map old=new"
        raise BadRecord(reason, path=self._source.name, line=number)
