"""Tables as inputs: CSV, TSV, parquet and Hugging Face data sets, each row read as a line with an object in it."""

from __future__ import annotations

import csv
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qs

import msgspec

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.columns import REQUEST_FIELDS
from aurora_pool.jobs.copies import unreadable
from aurora_pool.jobs.files import LONGEST_LINE, InputFile
from aurora_pool.jobs.formats import InputFormat, Kind, not_utf8
from aurora_pool.jobs.requests import Line
from aurora_pool.terminal import is_terminal

_ROWS = 256
"""Rows that are in memory at a time."""

HUB = "hf://"


class Source(Protocol):
    """Where a job's requests come from: lines with their numbers, as often as needed."""

    name: str
    kind: Kind
    before: int
    """How many lines are before the one that is number 1 here."""

    @property
    def is_text(self) -> bool:
        """Whether each line is a prompt, and no object."""
        ...

    def lines(self, first: int = 1) -> Iterator[tuple[int, Line]]:
        """Read the lines from ``first`` on, each with its number: their text, or the object that is in it."""
        ...

    def close(self) -> None:
        """Give up what it holds."""
        ...


def open_source(path: str | Path, *, stdin: IO[bytes] | None = None, input_format: InputFormat = "auto") -> Source:
    """Open an input by what it is.

    ``hf://NAME?split=test&config=main`` is a data set of the Hugging Face hub, and a folder one that was saved.
    Raises :class:`~aurora_pool.errors.BadRecord` for what can't be read, and
    :class:`~aurora_pool.errors.ConfigError` where a package for it is not installed.
    """
    if str(path).startswith(HUB) or Path(path).is_dir() or input_format == "dataset":
        return DatasetSource(path)
    file = InputFile(path, stdin=stdin, input_format=input_format)
    if file.kind in {"csv", "tsv"}:
        return CsvSource(file, "," if file.kind == "csv" else "\t")
    return ParquetSource(file) if file.kind == "parquet" else file


class _Rows:
    """A table whose rows are numbered from 1."""

    is_text = False
    before = 0

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.kind = kind

    def lines(self, first: int = 1) -> Iterator[tuple[int, Line]]:
        """Read the rows from ``first`` on, each with its number."""
        return enumerate(self._rows(first), start=first)

    def close(self) -> None:
        """Give up what it holds."""

    def _rows(self, first: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError


class ParquetSource(_Rows):
    """A parquet file, read a row group at a time."""

    def __init__(self, file: InputFile) -> None:
        super().__init__(file.name, "parquet")
        self._input = file
        self._pyarrow = import_pyarrow()
        try:
            with file.open() as data:
                self.schema = self._pyarrow.parquet.read_schema(data)
        except (OSError, self._pyarrow.ArrowException) as error:
            raise unreadable(self.name, error) from error
        _check_names(self.schema.names, self.name)

    def close(self) -> None:
        """Give up the temporary copy of what could be read only once."""
        self._input.close()

    def _rows(self, first: int) -> Iterator[dict[str, Any]]:
        try:
            with self._input.open() as data, self._pyarrow.parquet.ParquetFile(data) as file:
                groups, skipped = _groups_from(file.metadata, first - 1)
                if not groups:
                    return  # older versions take no groups for an error
                for batch in file.iter_batches(_ROWS, row_groups=groups, use_threads=False):
                    # By columns, which pyarrow reads at once: row by row takes several times as long.
                    yield from batch.slice(min(skipped, batch.num_rows)).to_pylist()
                    skipped = max(0, skipped - batch.num_rows)
        except (OSError, self._pyarrow.ArrowException) as error:
            raise unreadable(self.name, error) from error


def _groups_from(metadata: Any, first: int) -> tuple[list[int], int]:
    """Give the row groups from the row ``first`` on, and how many rows of them come before it."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first < rows:
            return list(range(group, metadata.num_row_groups)), first
        first -= rows
    return [], 0


class DatasetSource(_Rows):
    """A data set of the ``datasets`` package: one that was saved to a folder, or one of the hub."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path), "dataset")
        self._split: str | None = None
        self._dataset = self._load(str(path))

    @cached_property
    def schema(self) -> Any:
        """The types of its columns."""
        return self._dataset.features.arrow_schema

    def _load(self, path: str) -> Any:
        try:
            import datasets  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError("data sets need the package datasets: pip install 'aurora-pool[tables]'") from None
        if not is_terminal(sys.stderr):
            datasets.disable_progress_bars()
        name, _, query = path.removeprefix(HUB).partition("?")
        asked = {key: values[-1] for key, values in parse_qs(query).items()}
        unknown = asked.keys() - {"split", "config", "revision"}
        if unknown:
            raise BadRecord(f"expected split=, config= or revision= after '?', got {min(unknown)!r}", path=path)
        try:
            if path.startswith(HUB):
                found = datasets.load_dataset(
                    name, asked.get("config"), split=asked.get("split"), revision=asked.get("revision")
                )
            else:
                found = datasets.load_from_disk(name)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise unreadable(path, error) from error
        if isinstance(found, dict):
            names = list(found)
            split = asked.get("split") or (names[0] if len(names) == 1 else None)
            if split not in found:
                raise BadRecord(
                    f"it has the splits {', '.join(names)}: say which, as {path}?split={names[0]}", path=path
                )
            found = found[split]
        return found

    def _rows(self, first: int) -> Iterator[dict[str, Any]]:
        for start in range(first - 1, len(self._dataset), _ROWS):
            batch = self._dataset[start : start + _ROWS]
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


class CsvSource:
    """A table of text with a heading. Rows have the number of the line where they begin; the heading has the first.

    Cells are text, and an empty one is as if it were not there; sampling fields are read as the numbers they hold.
    """

    is_text = False
    before = 0

    def __init__(self, file: InputFile, delimiter: str) -> None:
        self.name = file.name
        self.kind = file.kind
        self._input = file
        self._delimiter = delimiter
        csv.field_size_limit(LONGEST_LINE)

    def close(self) -> None:
        """Give up the temporary copy of what could be read only once."""
        self._input.close()

    def lines(self, first: int = 1) -> Iterator[tuple[int, Line]]:
        """Read the rows from the line ``first`` on, each with the number of its line."""
        return ((number, row) for number, row in self._rows() if number >= first)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 1
        try:
            with self._input.open() as data, io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as text:
                reader = csv.reader(text, delimiter=self._delimiter, strict=True)
                heading = next(reader, [])
                _check_names(heading, self.name, line=1)
                number = reader.line_num + 1
                for cells in reader:
                    if cells:
                        if len(cells) != len(heading):
                            reason = f"expected {len(heading)} cells as in the heading, got {len(cells)}"
                            raise BadRecord(reason, path=self.name, line=number)
                        yield number, _cells(heading, cells)
                    number = reader.line_num + 1
        except csv.Error as error:
            raise BadRecord(f"it is no table: {error}", path=self.name, line=number) from error
        except UnicodeDecodeError as error:
            raise BadRecord(not_utf8(error), path=self.name, line=self._undecodable()) from error
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.name, error) from error

    def _undecodable(self) -> int | None:
        """Find the first line that is not UTF-8: what decodes them reads many at a time."""
        with self._input.open() as data:
            for number, line in enumerate(data, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return number
        return None


def _check_names(names: list[str], path: str, *, line: int | None = None) -> None:
    """Refuse a table of which two columns have one name: whichever is meant, the other would be lost."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadRecord(f"two columns have the name {twice[0]!r}", path=path, line=line)


def _cells(heading: list[str], cells: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, cell in zip(heading, cells, strict=True):
        if name in REQUEST_FIELDS:
            if cell:
                row[name] = _value(name, cell)
        else:
            row[name] = cell
    return row


def _value(name: str, cell: str) -> Any:
    """Read a request field's cell: text where that is what the field holds, else what it says in JSON."""
    if name in {"prompt", "id", "custom_id", "model"}:
        return cell
    try:
        return msgspec.json.decode(cell)
    except msgspec.DecodeError:
        return cell


def import_pyarrow() -> Any:
    """Import pyarrow with its parquet part, an extra.

    Raises :class:`~aurora_pool.errors.ConfigError` where it is not installed.
    """
    try:
        import pyarrow  # noqa: ICN001, PLC0415 - an extra; callers name it in full
        import pyarrow.csv  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigError("parquet files need the package pyarrow: pip install 'aurora-pool[tables]'") from None
    return pyarrow
