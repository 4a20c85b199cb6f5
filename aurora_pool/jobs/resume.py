"""What an output from earlier runs means for this one."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from aurora_pool.errors import JobError
from aurora_pool.jobs.answers import texts_of
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.records import BEGINNING, Seen, decode_record, request_key
from aurora_pool.jobs.requests import generated_id, is_generated_id
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.validation import Expectation

_FAILED, _ANSWERED, _UNFIT = range(3)
"""What a record says of its request; the last has an answer that will not do."""

__all__ = ["OnResume", "Resumed"]


@dataclass(slots=True)
class Resumed:
    """What was found in the output.

    - ``answered``, ``failed``: records that stand, and will not be run again;
    - ``retried``: failed ones that are run again;
    - ``unfit``: answers that will not do by what is expected now; they count as failed, or as retried, and then the old
      records are in ``<output>.superseded``;
    - ``changed``: ids whose request is no longer the one that was answered; they are run again, and the old records are
      in ``<output>.superseded``; ``examples`` names some;
    - ``moved``: records of lines without ids that stand elsewhere in the input now; they have the new line's id;
    - ``unchecked``: records without a request's key, which another program wrote; they are taken unchanged;
    - ``foreign``: records whose id is not in the input; they are left alone;
    - ``damaged``: lines that are no records, and second records of one id; they are in ``<output>.superseded``;
    - ``torn``: whether the last run was killed in the middle of writing, or a compressed output is damaged; what there
      was of a record is in ``<output>.superseded``;
    - ``unreadable``: bytes of a compressed output that could not be unpacked; they are in ``<output>.damaged``.
    """

    answered: int = 0
    failed: int = 0
    retried: int = 0
    unfit: int = 0
    changed: int = 0
    moved: int = 0
    unchecked: int = 0
    foreign: int = 0
    damaged: int = 0
    torn: bool = False
    unreadable: int = 0
    examples: list[str] = field(default_factory=list)


OnResume: TypeAlias = Callable[[Resumed], Awaitable[None]]
"""Is called with what an output has, before the run changes it or adds to it; what it raises ends the run."""


async def resume(
    journal: Journal,
    survey: Survey,
    *,
    model: str,
    retry_failed: bool = False,
    expect: Expectation | None = None,
    before: OnResume | None = None,
    repair: bool = True,
) -> Resumed:
    """Read the output, clear what is done in ``survey.todo``, and repair the output for appending.

    Answers that are not what ``expect`` says count as failed; its check is asked about those of lines without ids, too,
    whose line may be gone, and what it raises is raised. ``before`` is called with what was found before anything
    is repaired, and may raise; without ``repair``, nothing is.
    Other tasks get their turns: a call that is cancelled stops reading, or ends a repair, and nothing has changed.
    Raises :class:`~aurora_pool.errors.JobError` if the output can't be read or repaired, or is something else.
    """
    found = Resumed()
    lines = journal.lines()
    reading = _Reading(survey, found, request_key(0, model), expect or Expectation(), retry_failed=retry_failed)
    for batch in lines.batches():
        for line in batch:
            reading.take(line)
        await asyncio.sleep(0)
    reading.find_moved()
    found.torn = lines.torn
    found.unreadable = sum(end - begin for begin, end in lines.damage)
    # A wrong name on the command line must not cost a file that is something else. Only the beginning of a first
    # record, as a kill leaves it, is known for what it is.
    if found.damaged == reading.lines and not journal.is_empty and not lines.rest.startswith(BEGINNING):
        raise JobError(f"{journal.name}: there is no record in it, so it is not the output of a job; name another")
    if before is not None and survey.remaining:
        await before(found)
    if repair:
        await journal.repair(lines, reading.drop, aside=reading.aside, renamed=reading.renamed)
    return found


class _Reading:
    """Takes an output line by line; ``drop`` and ``aside`` are the numbers of lines, ``renamed`` records' new ids."""

    def __init__(
        self, survey: Survey, found: Resumed, model_key: int, expect: Expectation, *, retry_failed: bool
    ) -> None:
        self._survey = survey
        self._found = found
        self._model_key = model_key
        self._retry_failed = retry_failed
        self._expect = expect
        self._checks = expect.checks
        self.lines = 0
        # It may be all of them: a set would take ten times the memory.
        self.drop, self.aside = array("Q"), array("Q")
        self._renamed, self._new_lines = array("Q"), array("Q")
        # Records of lines without ids whose line is another now: number in the output, digest, line then, state.
        self._strays, self._digests, self._old_lines = array("Q"), array("Q"), array("Q")
        self._states = bytearray()

    def take(self, line: bytes) -> None:
        found, place = self._found, self.lines
        self.lines += 1
        record = decode_record(line)
        if record is None:
            found.damaged += 1
            self._set_aside(place)
            return
        number = self._survey.line_of(record.custom_id)
        key = record.key
        if key is not None and (number is None or key != self._survey.digest_of(number) ^ self._model_key):
            if is_generated_id(record.custom_id):
                self._strays.append(place)
                self._digests.append(key ^ self._model_key)
                self._old_lines.append(int(record.custom_id[5:]))
                self._states.append(self._state(record, line))
                return
            self._misses(place, number, record.custom_id)
        elif number is None:
            found.foreign += 1
        elif not self._survey.todo[number]:
            found.damaged += 1
            self._set_aside(place)
        else:
            found.unchecked += key is None
            self._fits(place, number, self._state(record, line))

    def _state(self, record: Seen, line: bytes) -> int:
        if not record.answered or not self._checks:
            return _ANSWERED if record.answered else _FAILED
        try:
            texts, finish_reason = texts_of(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _ANSWERED  # another program's, of another form
        return _ANSWERED if self._expect.why_not_texts(record.custom_id, texts, finish_reason) is None else _UNFIT

    @property
    def renamed(self) -> Iterator[tuple[int, str]]:
        """The numbers of records whose line has moved, ascending, and their new ids."""
        before = self._survey.before
        return zip(self._renamed, (generated_id(before + number) for number in self._new_lines), strict=True)

    def find_moved(self) -> None:
        """Find the lines of records whose line has moved: those without ids that ask for the same."""
        if not self._strays:
            return
        lines = self._survey.unnamed_with(set(self._digests))
        for place, digest, old, state in zip(self._strays, self._digests, self._old_lines, self._states, strict=True):
            fitting = lines.get(digest)
            if not fitting:
                name = generated_id(old)
                self._misses(place, self._survey.line_of(name), name)
                continue
            number = fitting.pop()
            if state == _ANSWERED or not self._retry_failed:
                self._renamed.append(place)
                self._new_lines.append(number)
                self._found.moved += 1
            self._fits(place, number, state)
        self.drop, self.aside = array("Q", sorted(self.drop)), array("Q", sorted(self.aside))

    def _fits(self, place: int, number: int, state: int) -> None:
        """Count a record that is a line's."""
        self._found.unfit += state == _UNFIT
        if state == _ANSWERED:
            self._found.answered += 1
        elif self._retry_failed:
            self._found.retried += 1
            self.drop.append(place)
            if state == _UNFIT:
                self.aside.append(place)
            return
        else:
            self._found.failed += 1
        self._survey.todo[number] = 0

    def _misses(self, place: int, number: int | None, name: str) -> None:
        """Count a record of this package that is of no line as it is now."""
        found = self._found
        if number is None:
            found.foreign += 1
            return
        found.changed += 1
        self._set_aside(place)
        if len(found.examples) < 3:
            found.examples.append(name)

    def _set_aside(self, place: int) -> None:
        self.drop.append(place)
        self.aside.append(place)
