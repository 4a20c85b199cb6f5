"""Data frames: every row answered, in place."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from aurora_pool import PromptOptions, Sampling, VLLMPool
from aurora_pool.errors import ConfigError
from aurora_pool.jobs import map_rows
from aurora_pool.testing import AgentProfile, SimulatedFleet

pytestmark = pytest.mark.simulated_clock

ROWS = {"country": ["France", "Peru", "{year}"], "year": [1900, 1950, 2000], "unused": ["a", "b", "c"]}
TEMPLATE = 'Answer as {"capital": ...}: {country} in {year}?'


@pytest.mark.parametrize("library", ["pandas", "polars"])
async def test_each_row_has_its_answer_beside_it(library: str) -> None:
    frame: Any = importlib.import_module(library).DataFrame(ROWS)
    if library == "pandas":
        frame.index = [30, 10, 20]
    async with SimulatedFleet(2, profile=AgentProfile(reply=lambda text: text)) as fleet:
        fleet.agents[0].reject("Peru", "not that")
        fleet.agents[1].reject("Peru", "not that")
        async with VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw")) as pool:
            found: Any = await map_rows(frame, TEMPLATE, pool, column="capital", sampling=Sampling(temperature=0))
    assert list(found.columns) == ["country", "year", "unused", "capital", "capital_error"]
    assert list(found["country"]) == ROWS["country"]
    first, second, third = found["capital"]
    assert (first.strip(), second) == ('Answer as {"capital": ...}: France in 1900?', None)
    assert third.strip() == 'Answer as {"capital": ...}: {year} in 2000?'  # a value is never a placeholder
    assert [error is None for error in found["capital_error"]] == [True, False, True]
    assert "not that" in found["capital_error"][10 if library == "pandas" else 1]
    if library == "pandas":
        assert list(found.index) == [30, 10, 20]
    assert list(frame.columns) == list(ROWS)  # the frame that was given stays as it was


@pytest.mark.parametrize("library", ["pandas", "polars"])
async def test_a_row_without_a_value_is_not_asked(library: str) -> None:
    rows = {"country": ["France", None, "Peru"], "year": [1900.0, 1950.0, float("nan")], "unused": [None, "b", "c"]}
    frame: Any = importlib.import_module(library).DataFrame(rows)
    async with SimulatedFleet(1) as fleet, VLLMPool(fleet.endpoints) as pool:
        before = fleet.prompts_received
        found: Any = await map_rows(frame, "{country} in {year}?", pool)
        assert fleet.prompts_received == before + 1
    assert [answer is None for answer in found["answer"]] == [False, True, True]
    assert list(found["answer_error"]) == [
        None,
        "the row has no value in 'country'",
        "the row has no value in 'year'",
    ]


async def test_a_row_with_what_pandas_has_for_no_value_is_not_asked() -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "country": pd.array(["France", pd.NA, "Peru", "Chad"], dtype="string"),
            "year": pd.array([1900, 1950, pd.NA, 2000], dtype="Int64"),
            "day": pd.to_datetime(["1900-07-14", "1950-07-28", "1950-07-28", None]),
        }
    )
    async with SimulatedFleet(1) as fleet, VLLMPool(fleet.endpoints) as pool:
        found = await map_rows(frame, "{country} in {year}, on {day}?", pool)
    reasons = [None if pd.isna(reason) else reason for reason in found["answer_error"]]
    assert reasons == [None, *(f"the row has no value in {name!r}" for name in ("country", "year", "day"))]


async def test_what_is_invalid_is_told_before_anything_is_sent() -> None:
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    async with SimulatedFleet(1) as fleet, VLLMPool(fleet.endpoints) as pool:
        before = fleet.prompts_received
        with pytest.raises(ConfigError, match="names no column; there are country, year, unused"):
            await map_rows(frame, "What is {land}?", pool)
        with pytest.raises(ConfigError, match="'year' already"):
            await map_rows(frame, "{country}", pool, column="year")
        with pytest.raises(ConfigError, match="got dict"):
            await map_rows(ROWS, "{country}", pool)
        with pytest.raises(ConfigError, match="two columns have the name 'a'"):
            await map_rows(pd.DataFrame([["x", "y"]], columns=["a", "a"]), "{a}", pool)
        assert fleet.prompts_received == before


async def test_an_empty_frame_stays_empty() -> None:
    import pandas as pd

    async with SimulatedFleet(1) as fleet, VLLMPool(fleet.endpoints) as pool:
        found = await map_rows(pd.DataFrame({"a": []}), "{a}", pool)
    assert (list(found.columns), len(found)) == (["a", "answer", "answer_error"], 0)
