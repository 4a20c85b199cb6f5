"""Outputs read back from Python: the answers, by id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from aurora_pool.errors import JobError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.files import compression_of


class Answer(msgspec.Struct, frozen=True):
    """One record of an output: the request's id, and its answer or why there is none."""

    id: str
    text: str | None
    error: str | None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    message: _Message | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []


class _Reply(msgspec.Struct):
    body: _Body | None = None


class _Record(msgspec.Struct):
    custom_id: str
    response: _Reply | None = None
    error: Any = None


def read_answers(output: str | Path) -> Iterator[Answer]:
    """Read the answers of an output, one by one, in the order in which they stand there.

    >>> scores = {answer.id: answer.text for answer in read_answers("answers.jsonl")}  # doctest: +SKIP

    Of a request with several samples, the first is given. Raises :class:`~aurora_pool.errors.JobError` if the output
    can't be read.
    """
    decode = msgspec.json.Decoder(_Record).decode
    try:
        for number, line in enumerate(Lines(Path(output), compression_of(output)), start=1):
            try:
                yield _answer(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise JobError(f"{output}: record {number} can't be read: {error}") from error
    except OSError as error:
        raise JobError(f"{output}: the output can't be read ({error.strerror})") from error


def _answer(record: _Record) -> Answer:
    body = record.response.body if record.response is not None else None
    if record.error is None and body is not None and body.choices:
        choice = body.choices[0]
        text = choice.text if choice.message is None else choice.message.content
        return Answer(record.custom_id, text or "", None)
    error = record.error
    while isinstance(error, dict):
        error = error.get("message", error.get("error", str(error)))  # vLLM has an error in its error
    return Answer(record.custom_id, None, str(error))
