"""Some hundred mutated replies in every run of the suite; ``make fuzz`` goes on for as long as you like."""

from __future__ import annotations

import pytest

from tests.hostile.fuzz import fuzz

pytestmark = pytest.mark.simulated_clock

PARTS = 8
FLEETS = 10
"""Each mutates about ten replies."""


@pytest.mark.parametrize("part", range(PARTS))
async def test_mutated_replies_harm_nobody(part: int) -> None:
    pytest.importorskip("numpy")
    mutations = 0
    for seed in range(FLEETS * part, FLEETS * (part + 1)):
        mutations += await fuzz(seed)
    assert mutations >= 500 // PARTS
