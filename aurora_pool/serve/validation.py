"""The first check of a batch's input: what OpenAI refuses in a batch file is found here, by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from aurora_pool.jobs.identity import IdTable
from aurora_pool.jobs.requests import CHAT, COMPLETIONS

MOST_ERRORS = 100
LONGEST_LINE = 64 << 20


class Validation(msgspec.Struct):
    """What an input holds: ``errors`` as the API shows them, none for a good one.

    ``plain`` says that a job may put every request in its own, quicker form; where it may not (tools, embeddings), each
    is sent to the servers unchanged.
    """

    total: int = 0
    model: str | None = None
    plain: bool = True
    errors: list[dict[str, Any]] = []


class BatchLine(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line of a batch file."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    tools: Any = None


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    custom_id: str
    method: str
    url: str
    body: _Body


decode_line = msgspec.json.Decoder(BatchLine).decode
"""Reads a line. Raises ``msgspec.DecodeError`` and ``UnicodeDecodeError``."""
_decode = msgspec.json.Decoder(_Line).decode


def validate(path: Path, endpoint: str) -> Validation:
    """Read a whole input, in about 30 bytes of memory a line."""
    found = Validation(plain=endpoint in (CHAT, COMPLETIONS))
    ids = IdTable()
    last = 0
    for number, line in _lines(path):
        while last < number - 1:
            ids.append(None)
            last += 1
        last = number
        name = None
        try:
            name = _check(line, endpoint, found)
        except _BadLine as error:
            _note(found, error.code, str(error), number, error.param)
            if len(found.errors) >= MOST_ERRORS:
                return found
        ids.append(name)
        found.total += 1
    if not last:
        _note(found, "empty_file", "The input file is empty.", None, None)
    elif not found.errors and (pairs := ids.index()):
        first, number = pairs[0]
        message = f"The custom_id of this line is that of line {first} already."
        _note(found, "duplicate_custom_id", message, number, "custom_id")
    return found


class _BadLine(ValueError):
    def __init__(self, code: str, message: str, param: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def _check(line: bytes, endpoint: str, found: Validation) -> str:
    """Check one line; return its id."""
    if len(line) > LONGEST_LINE:
        raise _BadLine("line_too_long", f"This line is longer than {LONGEST_LINE} bytes.", None)
    try:
        request = _decode(line)
        if not request.custom_id:
            raise _BadLine("missing_required_parameter", "The custom_id is empty.", "custom_id")
        if request.method != "POST":
            raise _BadLine("invalid_method", f"Expected the method POST, got {request.method[:20]!r}.", "method")
        if request.url != endpoint:
            message = f"The URL {request.url[:80]!r} does not match the batch's endpoint, {endpoint}."
            raise _BadLine("invalid_url", message, "url")
    except msgspec.ValidationError as error:
        raise _BadLine("invalid_request", f"This line is no request: {error}", None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _BadLine("invalid_json_line", f"This line is not parseable as valid JSON: {error}", None) from None
    body = request.body
    if body.tools:
        found.plain = False
    if body.stream:
        raise _BadLine("invalid_request", "A batch's requests can't be streamed.", "body.stream")
    if body.model != found.model:
        if found.total and body.model is not None:
            message = f"This line asks for the model {body.model!r}, the first for {found.model!r}: a batch has one."
            raise _BadLine("mismatched_model", message, "body.model")
        found.model = body.model or found.model
    return request.custom_id


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not blank, none of them longer than what tells that it is too long."""
    with path.open("rb", buffering=1 << 18) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            whole = line.endswith(b"\n")
            if line.strip():
                yield number, line.rstrip(b"\r\n") if whole else line
            while not whole and len(line) > LONGEST_LINE:
                line = file.readline(1 << 20)
                whole = line.endswith(b"\n") or not line


def _note(found: Validation, code: str, message: str, line: int | None, param: str | None) -> None:
    found.errors.append({"code": code, "line": line, "message": message, "param": param})
