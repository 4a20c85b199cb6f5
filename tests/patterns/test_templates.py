from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.errors import ConfigError
from aurora_pool.patterns.templates import render, require_placeholder


def test_braces_in_templates_and_values_mean_nothing() -> None:
    template = '{"gene": "{item}", "x": {}, "y": {0}, "z": {{item}}}'
    assert (
        render(template, item="{a} {item} \\1")
        == '{"gene": "{a} {item} \\1", "x": {}, "y": {0}, "z": {{a} {item} \\1}}'
    )


def test_a_value_is_not_filled_in_again() -> None:
    assert render("{level}: {responses}", responses="{level}", level=3) == "3: {level}"


@given(st.text(), st.text(), st.text())
def test_values_survive_whatever_they_hold(before: str, item: str, after: str) -> None:
    before, after = before.replace("{", "("), after.replace("{", "(")
    assert render(f"{before}{{item}}{after}", item=item) == f"{before}{item}{after}"


def test_a_template_without_its_placeholder_is_named() -> None:
    with pytest.raises(ConfigError, match=r"prompt has no \{item\} in it: 'Summarise: \{ITEM\}'"):
        require_placeholder("prompt", "Summarise: {ITEM}", "item")


def test_a_long_template_is_shown_in_part() -> None:
    with pytest.raises(ConfigError, match=r"x\.\.\.'$"):
        require_placeholder("prompt", "x" * 1000, "item")
