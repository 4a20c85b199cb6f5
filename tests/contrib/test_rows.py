"""Rows for frameworks: which become prompts."""

from __future__ import annotations

from aurora_pool.contrib.rows import RowPrompts


def test_a_row_with_an_empty_cell_has_no_prompt() -> None:
    columns: dict[str, list[object]] = {"country": ["France", None, "Peru"], "year": [1900, 1950, float("nan")]}
    prompts = RowPrompts(template="{country} in {year}?").of(columns)
    assert [prompt and prompt.content for prompt in prompts] == ["France in 1900?", None, None]
