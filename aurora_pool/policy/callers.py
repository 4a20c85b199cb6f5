"""Callers, views of the fleet, and the queues in which a caller's prompts wait."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from aurora_pool.policy.grouped_queue import GroupedQueue
from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.timers import FOREVER

TURN = 2048.0
"""Expected tokens that a caller is given in one turn, where others wait as well."""
EXPECTED_TOKENS = 128.0
"""The tokens that an answer is expected to have while a caller has none yet."""
DRAWN = 4
"""How many agents are drawn to find one that holds few prompts."""
MEMORY = 1 / 256
"""How much one answer weighs in the running mean of a caller's answers."""


class End(NamedTuple):
    """The forecast of a queue's end."""

    at: float
    """When all agents would end what they hold and what waits, if all ended together."""
    taken_at: float
    """When nothing would wait any more."""
    long: float
    """How many tokens a long answer has."""
    fastest: float
    """The seconds that the fastest agent takes for a long answer."""
    soonest: float
    """The seconds that it takes for an answer of mean length; nearer ends are not planned for."""


class AgentView:
    """The agents of a pool or of a view of one, in the order of the round-robin.

    ``hosted`` are the hosted ones among them: the scheduler assigns nothing to these (:mod:`aurora_pool.policy.spill`).
    """

    __slots__ = ("hosted", "members", "serves")

    members: Sequence[int]
    serves: Container[int]
    hosted: Sequence[int]

    def __init__(self, members: Sequence[int], hosted: Sequence[int] = ()) -> None:
        self.set_members(members, hosted)

    def set_members(self, members: Sequence[int], hosted: Sequence[int] = ()) -> None:
        """Say which agents these are, in the order of the round-robin."""
        self.hosted = hosted
        self.members = members
        self.serves = members if isinstance(members, range) else frozenset(members)

    def draw(self, rng: random.Random) -> Sequence[int]:
        """Draw a few of its agents at random, of which the one that holds fewest is likely to hold few; or all."""
        members = self.members
        return members if len(members) <= DRAWN else [members[rng.randrange(len(members))] for _ in range(DRAWN)]


class Caller:
    """A caller: the service it has had so far, compared with others.

    ``weight`` is its share against that of others of the same ``priority``; of two priorities the lower number is
    served first, as vLLM counts them.
    """

    __slots__ = ("answer_tokens", "entered", "in_flight", "owed", "priority", "prompt_cost", "service", "weight")

    def __init__(self, *, weight: float = 1.0, priority: int = 0) -> None:
        self.weight = weight
        self.priority = priority
        self.service = 0.0
        """Tokens given so far, divided by the weight: of answers those that came, before that those expected."""
        self.entered = 0.0
        """The most service at which a queue of its waits for a turn."""
        self.in_flight = 0
        """How many of its prompts are assigned to agents and not answered."""
        self.owed = 0.0
        """The tokens that are expected of what is in flight."""
        self.prompt_cost = EXPECTED_TOKENS
        """What its last prompt was expected to cost, in tokens."""
        self.answer_tokens = EXPECTED_TOKENS
        """The mean length of its answers, in tokens."""

    def charge(self, prompts: int, tokens: float) -> None:
        """Record that this many prompts, of about this many tokens together, were given to an agent."""
        owed = prompts * self.answer_tokens
        cost = tokens + owed
        self.prompt_cost = cost / prompts
        self.owed += owed
        self.service += cost / self.weight

    def prompted(self, tokens: float) -> None:
        """Record the tokens of a prompt that became known with its answer only."""
        self.service += tokens / self.weight

    def returned(self, prompts: int) -> None:
        """Record that this many of its prompts have left an agent: their expected tokens are no longer owed."""
        share = self.owed * prompts / self.in_flight if self.in_flight else 0.0
        self.in_flight -= prompts
        self.owed -= share
        self.service -= share / self.weight

    def answered(self, tokens: int, answers: int) -> None:
        """Record answers of this many tokens together."""
        self.service += tokens / self.weight
        weight = min(0.5, answers * MEMORY)
        self.answer_tokens += (max(1.0, tokens / answers) - self.answer_tokens) * weight

    @property
    def completed(self) -> float:
        """Its service without what is in flight."""
        return self.service - self.in_flight * self.prompt_cost / self.weight


class PromptQueue:
    """The prompts of one caller that wait for agents of one view.

    ``expected`` is how many prompts are still to come from the caller's input, where its length is known;
    ``unbounded`` says that it is not. ``patience`` is how many seconds prompts wait while no member is in service.
    A ``pinned`` queue belongs to a request for a particular agent: nothing is hedged, and a failure of that agent is a
    failure of the prompt.
    """

    __slots__ = (
        "beginning",
        "by_agent",
        "caller",
        "end",
        "entry",
        "expected",
        "items",
        "patience",
        "pinned",
        "quarantine_after",
        "quarantined",
        "rescan_due",
        "rescan_set",
        "unbounded",
        "unserved_since",
        "view",
    )  # fmt: skip

    def __init__(
        self,
        view: AgentView | Sequence[int],
        *,
        caller: Caller | None = None,
        patience: float = FOREVER,
        pinned: bool = False,
    ) -> None:
        self.view = view if isinstance(view, AgentView) else AgentView(view)
        self.caller = caller or Caller()
        self.patience = patience
        self.pinned = pinned
        self.items: GroupedQueue[Any, Any] = GroupedQueue()
        self.beginning: Any = ""
        """How one of its last prompts began."""
        self.entry = -1
        """Its valid entry in the heap of queues."""
        self.by_agent: dict[int, SegmentedQueue[Any, Any]] = {}
        """What waits for a particular agent."""
        self.quarantined: deque[Any] = deque()
        self.quarantine_after: float | None = None
        """Until when quarantined prompts wait for others, where there are few agents."""
        self.expected = 0
        self.unbounded = False
        self.unserved_since: float | None = None
        self.end: End | None = None
        """How its end was last foreseen; None while it is not in sight."""
        self.rescan_due = 0.0
        self.rescan_set = False

    def for_call(self, caller: Caller) -> PromptQueue:
        """A queue of the same view for one more call."""
        return PromptQueue(self.view, caller=caller, patience=self.patience, pinned=self.pinned)

    def over(self, members: Sequence[int]) -> PromptQueue:
        """A queue of the same caller for other agents."""
        view = AgentView(members, self.view.hosted)
        return PromptQueue(view, caller=self.caller, patience=self.patience, pinned=self.pinned)

    @property
    def waiting(self) -> int:
        """How many prompts wait here."""
        return len(self.items) + len(self.quarantined) + sum(map(len, self.by_agent.values()))

    def clear(self) -> None:
        """Drop all waiting prompts."""
        self.items.clear()
        self.quarantined.clear()
        self.by_agent.clear()
