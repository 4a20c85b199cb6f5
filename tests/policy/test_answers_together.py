"""Answers that come at the same moment are taken in together; that has to come to the same as one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.work import WorkItem
from tests.policy.rig import statistics_of

AGENTS = 3
PROMPTS = 60


@dataclass
class Answer:
    slot: int
    tokens: int
    started: bool = False


def run(seed: int, *, together: bool) -> tuple[object, ...]:
    """Send prompts, answer them in random portions, some twice, some withdrawn; return what the statistics say."""
    rng = random.Random(seed)
    dispatcher = Dispatcher([str(agent) for agent in range(AGENTS)], rng=random.Random(seed))
    queue = PromptQueue(range(AGENTS))
    items = [WorkItem(queue, index, "batch", work=None) for index in range(PROMPTS)]
    dispatcher.admit(items, now=0.0)
    requests = dispatcher.plan(now=0.0).send
    for request in requests:
        dispatcher.sent(request, now=0.0)
    dispatcher.withdraw(rng.sample(items, 5), now=0.5)
    first: list[int] = []
    now = 1.0
    left = {request: list(range(len(request.items))) for request in requests}
    while any(left.values()):
        now += rng.random()
        request = rng.choice([request for request, slots in left.items() if slots])
        slots = left[request]
        rng.shuffle(slots)
        portion = [Answer(slots.pop(), rng.randrange(3000)) for _ in range(rng.randint(1, len(slots)))]
        portion += [Answer(answer.slot, 7) for answer in portion[:1]]
        open_items = {slot: item for slot, item in enumerate(request.items) if item is not None}
        # An answer that nobody waits for counts if it comes before the last that somebody does.
        portion.sort(key=lambda answer: answer.slot in open_items and not open_items[answer.slot].done)
        if together:
            of_each = [answer.slot for answer in portion], [answer.tokens for answer in portion]
            found = [*dispatcher.answered_together(request, portion, *of_each, now).indices]
        else:
            found = [
                open_items[answer.slot].index
                for answer in portion
                if dispatcher.answered(request, answer.slot, answer.tokens, now, started=answer.started)
            ]
        first += sorted(found)
        dispatcher.plan(now)
    sums = statistics_of(dispatcher, now)
    agents = [(agent.in_flight, agent.prompts_done, agent.tokens_done, agent.last_answer_age) for agent in sums.agents]
    return first, agents, sums.in_flight, sums.prompts_done, sums.tokens_done


@pytest.mark.parametrize("seed", range(20))
def test_it_makes_no_difference_whether_answers_are_taken_in_together(seed: int) -> None:
    assert run(seed, together=True) == run(seed, together=False)
