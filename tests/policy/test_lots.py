"""Lots are a matter of cost only: a fleet does the same for prompts that are admitted as work items."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.work import Lot, WorkItem
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool, VirtualReport
from tests.policy.test_virtual import CASES, prompts

QUEUE = PromptQueue(range(2))


class ItemsPool(VirtualPool):
    """Admits every prompt as a work item of its own."""

    def _admit(self, lot: Lot) -> None:
        self.dispatcher.admit(lot.items(), self.fleet.now)


def outcome(report: VirtualReport) -> tuple[object, ...]:
    counts = report.answered, report.requests, report.hedged, report.moved, report.quarantined, report.wasted
    return *counts, report.makespan, sorted(report.failed.items())


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("happening", CASES)
def test_a_fleet_does_the_same_for_lots_and_for_items(happening: str, streamed: bool, timeout: float | None) -> None:
    def run(kind: type[VirtualPool]) -> VirtualReport:
        fleet = VirtualFleet([1.0] * 10, slots=8, streamed=streamed)
        CASES[happening](fleet)
        pool = kind(fleet, seed=1, timeout=timeout)
        for agent in pool.dispatcher.ledger.agents:
            agent.window.size = 4 * 8  # so that the agents can't hold all the prompts at once
        return pool.run(prompts(800), until=10_000)

    assert outcome(run(VirtualPool)) == outcome(run(ItemsPool))


def test_what_begins_alike_is_kept_together_in_both() -> None:
    asked = [VirtualPrompt(20, text=f"{document:03d}" * 200 + str(n)) for document in range(64) for n in range(16)]

    def run(kind: type[VirtualPool]) -> VirtualReport:
        return kind(VirtualFleet([1.0] * 4), seed=1).run(asked)

    assert outcome(run(VirtualPool)) == outcome(run(ItemsPool))


def lot(first: int, count: int) -> Lot:
    indices = range(first, first + count)
    return Lot(QUEUE, "kind", [f"prompt {index}" for index in indices], indices)


@settings(max_examples=100)
@given(st.data())
def test_a_queue_gives_what_came_in_its_order(data: st.DataObject) -> None:
    """Against a plain list, whatever comes and goes, and wherever lots begin and end."""
    queue, model = SegmentedQueue[WorkItem, Lot](), list[int]()
    for number in range(data.draw(st.integers(1, 30))):
        first, count = 100 * number, data.draw(st.integers(0, 6))
        match data.draw(st.sampled_from(["lot", "items", "left", "take", "look"])):
            case "lot":
                queue.extend(lot(first, count))
                model += range(first, first + count)
            case "items":
                queue.extend([WorkItem(QUEUE, first + offset, "kind", "") for offset in range(count)])
                model += range(first, first + count)
            case "left":
                queue.appendleft(WorkItem(QUEUE, first, "kind", ""))
                model.insert(0, first)
            case "take":
                taken = queue.take(count + 1)
                found = [*taken.indices] if isinstance(taken, Lot) else [item.index for item in taken]
                assert len(found) <= count + 1
                assert bool(found) == bool(model)
                assert found == model[: len(found)]
                del model[: len(found)]
            case _:
                assert [item.index for item in queue] == model
        assert len(queue) == len(model)
    assert [item.index for item in queue] == model


def test_items_of_a_part_are_those_of_its_prompts() -> None:
    whole = lot(0, 10)
    whole.keys = [100 + index for index in range(10)]
    part = whole.part(1, 10, 3).part(1, 3)
    assert [(item.index, item.work, item.prefix) for item in part.items()] == [
        (4, "prompt 4", 104),
        (7, "prompt 7", 107),
    ]
    assert [item.index for item in whole.materialized] == [4, 7]
