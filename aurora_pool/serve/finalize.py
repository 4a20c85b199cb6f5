"""From a journal to what the API gives: an output file, an error file, counts and usage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from aurora_pool.errors import JobError
from aurora_pool.jobs.identity import IdTable
from aurora_pool.jobs.records import plain_record
from aurora_pool.serve.validation import decode_line


class Results(msgspec.Struct):
    """What was made of a journal."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def usage(self) -> dict[str, Any]:
        """Write the usage as the API shows it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Record(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _GoodUsage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _GoodBody(msgspec.Struct, gc=False):
    usage: _GoodUsage


class _GoodResponse(msgspec.Struct, gc=False):
    status_code: Literal[200]
    body: _GoodBody


class _GoodRecord(msgspec.Struct, gc=False):
    """What nearly all records of a job are."""

    custom_id: str
    response: _GoodResponse
    error: None = None


_decode = msgspec.json.Decoder(_Record).decode
_decode_good = msgspec.json.Decoder(_GoodRecord).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode

EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


def finalize(journal: Path, source: Path, output: Path, errors: Path, *, expired: bool) -> Results:
    """Divide a journal; ``expired`` adds an error for every request of the input that has no record.

    Both files are made anew, and are on the disk when this returns. Raises :class:`~aurora_pool.errors.JobError` for a
    record that can't be read: none is ever left out.
    """
    results = Results()
    with output.open("wb") as good, errors.open("wb") as bad:
        done = IdTable()
        if journal.exists():
            with journal.open("rb", buffering=1 << 18) as lines:
                for line in lines:
                    name = _place(line, good, bad, results)
                    if name is not None and expired:
                        done.append(name)
        if expired:
            done.index()
            _add_expired(source, done, bad, results)
        for file in (good, bad):
            file.flush()
            os.fsync(file.fileno())
    return results


def _place(line: bytes, good: IO[bytes], bad: IO[bytes], results: Results) -> str | None:
    plain = plain_record(line)
    if plain is not None:  # the same as below, at half the cost
        try:
            found = _decode_good(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        else:
            usage = found.response.body.usage
            results.input_tokens += usage.prompt_tokens
            results.output_tokens += usage.completion_tokens
            results.completed += 1
            good.write(plain)
            return found.custom_id
    try:
        record = _decode(line)
        succeeded = (
            record.response is not None and record.response.status_code == 200 and bytes(record.error) == b"null"
        )
        if succeeded and record.response is not None:
            _count(_decode_body(record.response.body).usage, results)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not line.endswith(b"\n"):
            return None  # torn by a kill: the request has no record
        raise JobError(f"a record can't be read: {error}") from error
    if succeeded:
        results.completed += 1
        good.write(_encode(record) + b"\n")
    else:
        results.failed += 1
        bad.write(_encode(record) + b"\n")
    return record.custom_id


def _count(usage: _Usage | None, results: Results) -> None:
    if usage is None:
        return
    results.input_tokens += usage.prompt_tokens or 0
    results.output_tokens += usage.completion_tokens or 0
    if usage.prompt_tokens_details is not None:
        results.cached_tokens += usage.prompt_tokens_details.cached_tokens or 0
    if usage.completion_tokens_details is not None:
        results.reasoning_tokens += usage.completion_tokens_details.reasoning_tokens or 0


def _add_expired(source: Path, done: IdTable, bad: IO[bytes], results: Results) -> None:
    with source.open("rb", buffering=1 << 18) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                name = decode_line(line).custom_id
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # an input that was never found good
            if done.get(name) is None:
                results.failed += 1
                record = {"id": f"batch_req_{number:016x}", "custom_id": name, "response": None, "error": EXPIRED}
                bad.write(_encode(record) + b"\n")
