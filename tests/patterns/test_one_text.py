"""One text where several are expected is told at once: its letters would be taken for prompts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.patterns import (
    Blackboard,
    Stage,
    choose,
    fan_out_fan_in,
    map_gather,
    map_reduce,
    read_documents,
    run_pipeline,
    sample_many,
    score,
    semantic_entropy,
    summarize,
    tree_reduce,
)
from tests.patterns.fake_pool import FakePool

PATTERNS: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
    "prompts of sample_many": lambda pool, one: sample_many(pool, one, 2),
    "prompts of semantic_entropy": semantic_entropy,
    "prompts of choose": lambda pool, one: choose(pool, one, ["a", "b"]),
    "choices": lambda pool, one: choose(pool, ["a"], one),
    "texts": score,
    "items": lambda pool, one: map_gather(pool, "{item}", one),
    "items of tree_reduce": lambda pool, one: tree_reduce(pool, "{item}", "{responses}", items=one),
    "items of map_reduce": lambda pool, one: map_reduce(pool, one, "{item}", "{responses}", key=str),
    "items of run_pipeline": lambda pool, one: run_pipeline(pool, [Stage("a", "{item}")], one),
    "items of fan_out_fan_in": lambda pool, one: fan_out_fan_in(pool, one, {"a": "{item}"}, "{responses}"),
    "documents": summarize,
}


@pytest.mark.parametrize("one", ["hello", None, 7], ids=repr)
@pytest.mark.parametrize("name", PATTERNS)
async def test_a_pattern(name: str, one: Any) -> None:
    pool = FakePool(str)
    argument, *_ = name.split()
    with pytest.raises(ConfigError, match=rf"^{argument}: expected a list, or another iterable, .* got {one!r}"):
        await PATTERNS[name](pool, one)
    assert not pool.sent


def test_what_needs_no_pool() -> None:
    with pytest.raises(ConfigError, match=r"^paths: expected a list"):
        read_documents("paper.txt")
    with pytest.raises(ConfigError, match=r"^sections: expected a list"):
        Blackboard("ideas", [])
