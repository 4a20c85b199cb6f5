from __future__ import annotations

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Prompt, Sampling
from aurora_pool.patterns import broadcast, map_gather, sample_many, scatter_gather
from tests.patterns.fake_pool import FakePool, failed


async def test_scatter_gather_keeps_the_order_and_tells_failures() -> None:
    pool = FakePool(lambda text: failed() if text == "p3" else text.upper())
    responses = await scatter_gather(pool, (f"p{i}" for i in range(10)), 7)
    assert [r.text for r in responses] == ["P0", "P1", "P2", "", *(f"P{i}" for i in range(4, 10))]
    assert [r.success for r in responses].index(False) == 3
    assert {prompt.max_tokens for prompt in pool.sent} == {7}


async def test_scattering_nothing_gathers_nothing() -> None:
    assert await scatter_gather(FakePool(str), []) == []


async def test_map_gather_puts_items_in_literally() -> None:
    pool = FakePool(str)
    responses = await map_gather(pool, 'Explain {"gene": "{item}"}', ["{TP53}", 7])
    assert [r.text for r in responses] == ['Explain {"gene": "{TP53}"}', 'Explain {"gene": "7"}']


async def test_map_gather_refuses_a_template_without_item_before_anything_is_sent() -> None:
    pool = FakePool(str)
    with pytest.raises(ConfigError, match=r"template has no \{item\}"):
        await map_gather(pool, "Explain.", ["a"])
    assert pool.sent == []


async def test_broadcast_asks_every_agent() -> None:
    assert [r.text for r in await broadcast(FakePool(str, size=3), "hi", 4)] == ["hi"] * 3


async def test_sample_many_groups_the_samples_and_counts_the_seed_up() -> None:
    pool = FakePool(str)
    found = await sample_many(
        pool, ["a", Prompt("b", Sampling(seed=40))], 3, sampling=Sampling(seed=7, temperature=1.0)
    )
    assert [[r.text for r in samples] for samples in found] == [["a"] * 3, ["b"] * 3]
    assert [p.sampling.seed for p in pool.sent if p.sampling] == [7, 8, 9, 40, 41, 42]


async def test_sample_many_without_a_seed_sends_the_prompt_as_it_is() -> None:
    pool = FakePool(str)
    await sample_many(pool, ["a"], 2)
    assert pool.sent == [Prompt("a"), Prompt("a")]


@pytest.mark.parametrize(
    ("n", "temperature", "match"), [(0, 1.0, "at least 1, got 0"), (2, 0.0, "2 samples at temperature 0")]
)
async def test_sample_many_refuses_what_is_invalid(n: int, temperature: float, match: str) -> None:
    pool = FakePool(str)
    with pytest.raises(ConfigError, match=match):
        await sample_many(pool, ["a"], n, sampling=Sampling(temperature=temperature))
    assert pool.sent == []
