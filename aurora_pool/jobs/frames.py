"""Data frames: one prompt made of each row, one answer put beside it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sized
from contextlib import aclosing
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aurora_pool.arguments import check_instance
from aurora_pool.errors import ConfigError
from aurora_pool.messages import Prompt, Response, Sampling
from aurora_pool.pool_options import CallOptions

if TYPE_CHECKING:
    from aurora_pool.engines.pool import EnginePool
    from aurora_pool.pool import VLLMPool

__all__ = ["map_rows"]

Frame = TypeVar("Frame")


async def map_rows(
    frame: Frame,
    template: str,
    pool: VLLMPool | EnginePool,
    *,
    column: str = "answer",
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
) -> Frame:
    """Ask one prompt for each row of a pandas or polars frame; return the frame with the answers as a new column.

    ``{name}`` in the template stands for a row's value in the column ``name``; other braces are left unchanged.
    Rows keep their order and index. The answer is in ``column``; where it failed, it is null there and the reason is in
    ``<column>_error``, which is null elsewhere. A row without a value that the template needs (null, NaN) is not asked,
    and fails. ``max_tokens`` is the most tokens to generate per row.

    >>> frame = await map_rows(frame, "Name the capital of {country}.", pool, column="capital")  # doctest: +SKIP

    Raises :class:`~aurora_pool.errors.ConfigError` for what is no such frame, for a template without any of its
    columns, for two columns of one name, and for a ``column`` that is there already.
    """
    check_instance("template", template, str, optional=False)
    check_instance("column", column, str, optional=False)
    CallOptions(max_tokens, sampling, batched=True)
    # What is not imported can't have made the frame: neither library is imported here.
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        answers, errors = await _answer(frame, template, pool, column, max_tokens, sampling)
        index = frame.index
        added = {name: pandas.Series(values, index, dtype=object) for name, values in _named(column, answers, errors)}
        return cast("Frame", frame.assign(**added))
    if polars is not None and isinstance(frame, polars.DataFrame):
        answers, errors = await _answer(frame, template, pool, column, max_tokens, sampling)
        series = [polars.Series(name, values, dtype=polars.String) for name, values in _named(column, answers, errors)]
        return cast("Frame", frame.with_columns(series))
    raise ConfigError(f"map_rows: expected a DataFrame of pandas or polars, got {type(frame).__qualname__}")


def is_empty(cell: object) -> bool:
    """Tell whether a cell of a table has no value: null, NaN, or what pandas and NumPy have in their place.

    >>> is_empty(None), is_empty(float("nan")), is_empty(""), is_empty(0)
    (True, True, False, False)
    """
    if cell is None or type(cell).__name__ == "NAType":  # pandas.NA is neither equal to itself nor different
        return True
    other = cell
    # Only what stands for no value differs from itself. Lists and arrays are values, whatever is in them.
    return not isinstance(cell, Sized) and bool(cell != other)


def _named(column: str, answers: list[str | None], errors: list[str | None]) -> list[tuple[str, list[str | None]]]:
    return [(column, answers), (f"{column}_error", errors)]


async def _answer(
    frame: Any,
    template: str,
    pool: VLLMPool | EnginePool,
    column: str,
    max_tokens: int | None,
    sampling: Sampling | None,
) -> tuple[list[str | None], list[str | None]]:
    columns = [str(name) for name in frame.columns]
    taken = {column, f"{column}_error"} & set(columns)
    if taken:
        raise ConfigError(f"map_rows: the frame has a column {min(taken)!r} already; name another by column=")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"map_rows: two columns have the name {twice!r}")
    used = [name for name in columns if f"{{{name}}}" in template]
    if not used:
        raise ConfigError(f"map_rows: the template names no column; there are {', '.join(columns)}")
    placeholder = re.compile("|".join(re.escape(f"{{{name}}}") for name in used))

    rows = zip(*(frame[name] for name in used), strict=True)
    missing = [next((name for name, cell in zip(used, row, strict=True) if is_empty(cell)), None) for row in rows]
    asked = [number for number, name in enumerate(missing) if name is None]

    def prompts() -> Iterator[Prompt]:
        for values in compress(zip(*(frame[name] for name in used), strict=True), (name is None for name in missing)):
            row = {f"{{{name}}}": str(value) for name, value in zip(used, values, strict=True)}
            # All at once: a value that looks like a placeholder is none.
            yield Prompt(placeholder.sub(partial(_value, row), template), sampling, max_tokens)

    responses: list[Response | None] = [None] * len(frame)
    async with aclosing(pool.iter_responses(prompts(), total=len(asked))) as stream:
        async for index, response in stream:
            responses[asked[index]] = response
    answers = [response.text if response is not None and response.success else None for response in responses]
    errors = [None if response is None or response.success else response.error for response in responses]
    reasons = [None if name is None else f"the row has no value in {name!r}" for name in missing]
    return answers, [reason or error for reason, error in zip(reasons, errors, strict=True)]


def _value(row: dict[str, str], match: re.Match[str]) -> str:
    return row[match[0]]
