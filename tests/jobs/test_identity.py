"""The table of ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.jobs.identity import IdTable


@given(st.lists(st.none() | st.text(max_size=3), max_size=200))
def test_does_what_a_dict_does(names: list[str | None]) -> None:
    table = IdTable()
    expected: dict[str, int] = {}
    pairs = []
    for number, name in enumerate(names, start=1):
        table.append(name)
        if name is not None and expected.setdefault(name, number) != number:
            pairs.append((expected[name], number))
    assert table.index() == pairs
    assert {name: table.get(name) for name in expected} == expected
    assert table.get("none of these") is None


def test_finds_each_of_many() -> None:
    table = IdTable()
    for number in range(1, 20_001):
        table.append(f"id-{number}")
    assert table.index() == []
    assert all(table.get(f"id-{number}") == number for number in range(1, 20_001))
    assert table.get("id-0") is None
