"""Outputs read back from Python: the answers, by id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from aurora_pool.errors import JobError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.records import is_intact

__all__ = ["Answer", "read_answers"]


class Answer(msgspec.Struct, frozen=True):
    """One record of an output: the request's id, and its answer or why there is none.

    An answer that would not do, such as one that is not the JSON it was to be, has a ``text`` and an ``error``.
    ``row`` holds the columns of the input that were kept.
    """

    id: str
    text: str | None
    error: str | None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    row: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Reply(msgspec.Struct):
    body: _Body | None = None


class _Own(msgspec.Struct):
    row: dict[str, Any] | None = None


class _Record(msgspec.Struct):
    custom_id: str
    response: _Reply | None = None
    error: Any = None
    aurora_pool: _Own | None = None


_decode = msgspec.json.Decoder(_Record).decode


def read_answers(output: str | Path) -> Iterator[Answer]:
    """Read the answers of an output, one by one, in the order of the output.

    >>> scores = {answer.id: answer.text for answer in read_answers("answers.jsonl")}  # doctest: +SKIP

    Of a request with several samples, the first is given. Raises :class:`~aurora_pool.errors.JobError` if the output
    can't be read.
    """
    try:
        for number, line in enumerate(Lines(Path(output), compression_of(output)), start=1):
            if not is_intact(line):
                raise JobError(f"{output}: record {number} is damaged: its checksum is another")
            try:
                yield decode_answer(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise JobError(f"{output}: record {number} can't be read: {error}") from error
    except OSError as error:
        raise JobError(f"{output}: the output can't be read ({error.strerror})") from error


def texts_of(line: bytes) -> tuple[list[str], str | None]:
    """Give all texts of one record, and why the first ended.

    Raises :class:`msgspec.DecodeError` for what is none, and :class:`UnicodeDecodeError` for texts that are not UTF-8.
    """
    record = _decode(line)
    choices = [] if record.response is None or record.response.body is None else record.response.body.choices
    texts = [(each.text if each.message is None else each.message.content) or "" for each in choices]
    return texts, choices[0].finish_reason if choices else None


def decode_answer(line: bytes) -> Answer:
    """Read one record.

    Raises :class:`msgspec.DecodeError` for what is none.
    """
    record = _decode(line)
    body = record.response.body if record.response is not None else None
    row = None if record.aurora_pool is None else record.aurora_pool.row
    answer = Answer(record.custom_id, None, None, row=row)
    if body is not None and body.choices:
        choice = body.choices[0]
        text = choice.text if choice.message is None else choice.message.content
        usage = body.usage or _Usage()
        answer = Answer(
            record.custom_id, text or "", None, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens, row
        )
    error = record.error
    if error is None and answer.text is not None:
        return answer
    while isinstance(error, dict):
        error = error.get("message", error.get("error", str(error)))  # vLLM has an error in its error
    return msgspec.structs.replace(answer, error=str(error))
