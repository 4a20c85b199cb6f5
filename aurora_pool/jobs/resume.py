"""What an output from earlier runs means for this one."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field

from aurora_pool.errors import JobError
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.records import decode_record, request_key
from aurora_pool.jobs.survey import Survey


@dataclass(slots=True)
class Resumed:
    """What was found in the output.

    - ``answered``, ``failed``: records that stand, and will not be run again;
    - ``retried``: failed ones that are run again;
    - ``changed``: ids whose request is no longer the one that was answered; they are run again, and the old records are
      in ``<output>.superseded``; ``examples`` names some;
    - ``unchecked``: records without a request's key, which another program wrote; they are taken unchanged;
    - ``foreign``: records whose id is not in the input; they are left alone;
    - ``damaged``: lines that are no records, and second records of one id; they are in ``<output>.superseded``;
    - ``torn``: whether the last run was killed in the middle of writing.
    """

    answered: int = 0
    failed: int = 0
    retried: int = 0
    changed: int = 0
    unchecked: int = 0
    foreign: int = 0
    damaged: int = 0
    torn: bool = False
    examples: list[str] = field(default_factory=list)


async def resume(journal: Journal, survey: Survey, *, model: str, retry_failed: bool = False) -> Resumed:
    """Read the output, clear what is done in ``survey.todo``, and repair the output for appending.

    Other tasks get their turns: a call that is cancelled stops reading, or ends a repair, and nothing has changed.
    Raises :class:`~aurora_pool.errors.JobError` if the output can't be read or repaired, or is something else.
    """
    found = Resumed()
    lines = journal.lines()
    drop, aside = array("Q"), array("Q")  # it may be all of them: a set would take ten times the memory
    todo = survey.todo
    model_key = request_key(0, model)
    line_of, digest_of = survey.line_of, survey.digest_of
    place = -1
    for batch in lines.batches():
        for line in batch:
            place += 1
            record = decode_record(line)
            if record is None:
                found.damaged += 1
                drop.append(place)
                aside.append(place)
                continue
            number = line_of(record.custom_id)
            if number is None:
                found.foreign += 1
                continue
            if not todo[number]:
                found.damaged += 1
                drop.append(place)
                aside.append(place)
                continue
            key = record.key
            if key is not None and key != digest_of(number) ^ model_key:
                found.changed += 1
                drop.append(place)
                aside.append(place)
                if len(found.examples) < 3:
                    found.examples.append(record.custom_id)
                continue
            if record.answered:
                found.answered += 1
            elif retry_failed:
                found.retried += 1
                drop.append(place)
                continue
            else:
                found.failed += 1
            if key is None:
                found.unchecked += 1
            todo[number] = 0
        await asyncio.sleep(0)
    found.torn = lines.torn
    # A wrong name on the command line must not cost a file that is something else.
    whole = place + 1
    if found.damaged == whole > 0 or (whole == 0 and lines.rest and not lines.rest.startswith(b"{")):
        raise JobError(f"{journal.name}: there is no record in it, so it is not the output of a job; name another")
    await journal.repair(lines, drop, aside=aside)
    return found
