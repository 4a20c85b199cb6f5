"""What decisions cost, counted in lines of the policy that run: no clock decides."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from aurora_pool.policy.callers import PromptQueue
from tests.policy.rig import Rig, statistics_of

IN_A_LIST = 16


def lines_run(do: Callable[[], object]) -> int:
    """Count the lines of Python that a call runs."""
    lines = 0

    def trace(_frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # what other tests have left behind may run Python when it is collected
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
        gc.enable()
    return lines


def stalled_beside_idle(agents: int) -> Rig:
    """Half of the agents hold prompts and send nothing; the others have answered all, but serve another view."""
    rig = Rig(agents)
    half = agents // 2
    rig.admit(IN_A_LIST * half, queue=PromptQueue(range(half)))
    rig.admit(IN_A_LIST * half, queue=PromptQueue(range(half, agents)))
    rig.plan()
    rig.now = 1.0
    for request in list(rig.open):
        if request.agent >= half:
            rig.answer_all(request)
    rig.stay_idle(until=21.0)
    assert rig.statistics.in_flight == IN_A_LIST * half
    return rig


def test_looking_for_hedges_costs_by_prompts_and_agents_not_by_their_product() -> None:
    def cost(agents: int) -> int:
        dispatcher, now = (rig := stalled_beside_idle(agents)).dispatcher, rig.now

        def plan_for_a_second() -> None:
            while dispatcher.wake_at <= now + 1.0:
                dispatcher.plan(dispatcher.wake_at)

        return lines_run(plan_for_a_second)

    few, many = cost(20), cost(80)
    assert few > IN_A_LIST * 10  # each prompt has been looked at
    assert many < 1.5 * 4 * few


def test_statistics_cost_by_agents_not_by_requests() -> None:
    def cost(requests: int) -> int:
        rig = Rig(2)
        for item in range(requests):
            rig.admit(1, queue=PromptQueue([item % 2]))
            rig.plan()
        assert (rig.statistics.requests, rig.statistics.in_flight) == (requests, requests)
        return lines_run(lambda: statistics_of(rig.dispatcher))

    assert cost(200) == cost(4)
