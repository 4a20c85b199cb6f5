"""The table of ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.jobs.identity import IdTable


@given(st.lists(st.text(max_size=3), max_size=200))
def test_does_what_a_dict_does(names: list[str]) -> None:
    table = IdTable()
    expected: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        assert table.add(name, number) == expected.get(name)
        expected.setdefault(name, number)
    assert {name: table.get(name) for name in expected} == expected
    assert len(table) == len(expected)


def test_grows() -> None:
    table = IdTable()
    for number in range(1, 20_001):
        assert table.add(f"id-{number}", number) is None
    assert all(table.get(f"id-{number}") == number for number in range(1, 20_001))
    assert table.get("id-0") is None
