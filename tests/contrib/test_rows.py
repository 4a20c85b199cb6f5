"""Rows for frameworks: which become prompts."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from aurora_pool.contrib.rows import RowPrompts


def test_a_row_with_an_empty_cell_has_no_prompt() -> None:
    columns: dict[str, list[object]] = {"country": ["France", None, "Peru"], "year": [1900, 1950, float("nan")]}
    prompts = RowPrompts(template="{country} in {year}?").of(columns)
    assert [prompt and prompt.content for prompt in prompts] == ["France in 1900?", None, None]


@pytest.mark.parametrize(
    "empty", [None, float("nan"), np.float32("nan"), Decimal("NaN"), pd.NA, pd.NaT, np.datetime64("NaT", "s")], ids=repr
)
def test_whatever_stands_for_no_value_is_an_empty_cell(empty: object) -> None:
    assert RowPrompts(template="x {a}").of({"a": [empty]}) == [None]


@pytest.mark.parametrize(
    "value",
    ["", 0, False, Decimal(1), date(2000, 1, 1), np.int64(3), np.array([np.nan, 1.0]), [None], {}],
    ids=repr,
)
def test_every_other_cell_is_a_value(value: object) -> None:
    (prompt,) = RowPrompts(template="x {a}").of({"a": [value]})
    assert prompt is not None
    assert prompt.content == f"x {value}"
