"""A job's answers as a table: the input's rows in their order, with what was answered beside them."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from aurora_pool.errors import ConfigError, JobError
from aurora_pool.jobs.answers import Answer, decode_answer
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.copies import is_remote, open_remote
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.ordered import places_of
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.tables import import_pyarrow
from aurora_pool.own_files import replacement

_ROWS = 8192
"""Rows of a row group; what is in memory at a time."""

OWN = ("answer", "finish_reason", "prompt_tokens", "completion_tokens", "error")
"""Columns that the table has beside the kept ones. Where a kept one has such a name, these begin with ``model_``."""


def check_table(path: str | Path) -> None:
    """Refuse a table that could not be written at the end.

    Raises :class:`~aurora_pool.errors.ConfigError` for a name that tells no format, and where pyarrow is not installed,
    :class:`~aurora_pool.errors.JobError` for a folder that is not there or can't be written to, and
    :class:`~aurora_pool.errors.BadRecord` for a place elsewhere that nothing here knows how to reach.
    """
    if _format_of(path) is None:
        raise ConfigError(f"{path}: expected a table to end in .parquet, .csv or .tsv")
    import_pyarrow()
    if is_remote(path):
        open_remote(str(path), "wb")  # which opens nothing yet
        return
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
        problem = os.strerror(errno.EISDIR) if Path(path).is_dir() else None
    except OSError as error:
        problem = error.strerror
    if problem is not None:
        raise JobError(f"{path}: the table can't be written ({problem})")


async def write_table(path: str | Path, output: Path, survey: Survey) -> None:
    """Write the table of a job whose requests all have their records. Other tasks get their turns.

    Raises :class:`~aurora_pool.errors.JobError` if it can't be written.
    """
    pyarrow = import_pyarrow()
    try:
        compression = compression_of(output)
        with tempfile.TemporaryFile() if compression != "none" else output.open("rb") as text:
            lines = Lines(output, compression)
            places = await places_of(lines, survey, text if compression != "none" else None)
            schema = await _schema(pyarrow, survey, flat=_format_of(path) != "parquet")
            with _target(path, output) as file, _writer(pyarrow, path, file, schema) as writer:
                for rows in _groups(survey):
                    columns = _columns(pyarrow, schema, rows, places, text)
                    writer.write_table(pyarrow.table(columns, schema=schema))
                    await asyncio.sleep(0)
    except (OSError, pyarrow.ArrowException) as error:
        raise JobError(f"{path}: the table can't be written ({error})") from error


Row = tuple[int, str, Mapping[str, Any]]
"""A line's number, its id, and its kept columns."""


def _groups(survey: Survey) -> Iterator[list[Row]]:
    group: list[Row] = []
    for number, request in survey.rows():
        group.append((number, request.id, request.kept or {}))
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group


async def _schema(pyarrow: Any, survey: Survey, *, flat: bool) -> Any:
    """Find out what types the kept columns have; what is of several in one column, or flat can't be, is text."""
    found: dict[str, Any] = {}
    known = survey.kept_schema
    for rows in _groups(survey) if known is None else ():
        for name in dict.fromkeys(name for _, _, kept in rows for name in kept):
            values = [kept.get(name) for _, _, kept in rows]
            try:
                kind = pyarrow.array(values).type
                found[name] = kind if name not in found else _wider(pyarrow, found[name], kind)
            except (pyarrow.ArrowException, OverflowError):
                found[name] = pyarrow.string()
        await asyncio.sleep(0)
    if known is not None:
        found = dict(known)
    if flat:
        found = {name: pyarrow.string() if pyarrow.types.is_nested(kind) else kind for name, kind in found.items()}
    prefix = "model_" if {"id", *OWN} & found.keys() else ""
    while any(prefix + name in found for name in OWN):  # a table that was made of a table that was made so
        prefix += "model_"
    own = [pyarrow.string(), pyarrow.string(), pyarrow.int64(), pyarrow.int64(), pyarrow.string()]
    name = "id"
    while name in found:
        name = f"request_{name}"
    fields = [(name, pyarrow.string()), *found.items()]
    fields += [(prefix + name, kind) for name, kind in zip(OWN, own, strict=True)]
    return pyarrow.schema(fields)


def _wider(pyarrow: Any, one: Any, other: Any) -> Any:
    fields = [pyarrow.schema([("x", kind)]) for kind in (one, other)]
    return pyarrow.unify_schemas(fields, promote_options="permissive").field("x").type


def _columns(pyarrow: Any, schema: Any, rows: Sequence[Row], places: array[int], text: IO[bytes]) -> list[Any]:
    answers = [_answer(places[number], text) for number, _, _ in rows]
    columns: list[Any] = [[name for _, name, _ in rows]]
    for field in list(schema)[1 : -len(OWN)]:
        values = [kept.get(field.name) for _, _, kept in rows]
        try:
            columns.append(pyarrow.array(values, field.type))
        except (pyarrow.ArrowException, TypeError):
            columns.append([None if value is None else _as_text(value) for value in values])
    columns += [
        [answer.text for answer in answers],
        [answer.finish_reason for answer in answers],
        [answer.prompt_tokens for answer in answers],
        [answer.completion_tokens for answer in answers],
        [answer.error for answer in answers],
    ]
    return [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _answer(place: int, text: IO[bytes]) -> Answer:
    if not place:
        return Answer("", None, "there is no record of it")
    text.seek(place - 1)
    return decode_answer(text.readline())


@contextmanager
def _target(path: str | Path, output: Path) -> Iterator[IO[bytes]]:
    if not is_remote(path):
        with replacement(Path(path), like=output) as file:
            yield file
        return
    # Written here first: what fails half-way leaves nothing elsewhere.
    with tempfile.TemporaryFile() as local:
        yield local
        local.seek(0)
        with open_remote(str(path), "wb") as file:
            while chunk := local.read(1 << 20):
                file.write(chunk)


def _writer(pyarrow: Any, path: str | Path, file: IO[bytes], schema: Any) -> Any:
    kind = _format_of(path)
    if kind == "parquet":
        return pyarrow.parquet.ParquetWriter(file, schema)
    options = pyarrow.csv.WriteOptions(delimiter="\t" if kind == "tsv" else ",")
    return pyarrow.csv.CSVWriter(file, schema, write_options=options)


def _format_of(path: str | Path) -> str | None:
    ending = Path(str(path)).suffix.lower().removeprefix(".")
    return ending if ending in {"parquet", "csv", "tsv"} else None
