"""What waits, and whose turn it is: one queue per caller, served in turns by weight in expected tokens.

Turns are start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): what a caller is given advances its *service*,
in expected tokens divided by its weight, and whoever has the least service is next. A caller that begins to wait starts
from the service that the others have *completed*, not from what they hold in flight: so a short call beside a long one
gets the next credits, and two equal calls that begin together end together.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aurora_pool.policy.timers import FOREVER
from aurora_pool.policy.waiting import Waiting
from aurora_pool.policy.work import WorkItem

if TYPE_CHECKING:
    from aurora_pool.policy.tail import End

EXPECTED_TOKENS = 128.0
"""The tokens that an answer is expected to have while a caller has none yet."""
MEMORY = 1 / 256
"""How much one answer weighs in the running mean of a caller's answers."""


class AgentView:
    """The agents of a pool or of a view of one, in the order in which prompts are dealt."""

    __slots__ = ("members", "serves")

    members: Sequence[int]
    serves: Container[int]

    def __init__(self, members: Sequence[int]) -> None:
        self.set_members(members)

    def set_members(self, members: Sequence[int]) -> None:
        """Say which agents these are, in the order in which prompts are dealt."""
        self.members = members
        self.serves = members if isinstance(members, range) else frozenset(members)


class Caller:
    """Whoever asks: what it has been given so far, against the others.

    ``weight`` is its share against that of others of the same ``priority``; of two priorities the lower number is
    served first, as vLLM counts them.
    """

    __slots__ = ("answer_tokens", "in_flight", "owed", "priority", "prompt_cost", "service", "weight")

    def __init__(self, *, weight: float = 1.0, priority: int = 0) -> None:
        self.weight = weight
        self.priority = priority
        self.service = 0.0
        """Tokens given so far, divided by the weight: of answers those that came, before that those expected."""
        self.in_flight = 0
        """How many of its prompts are assigned to agents and not answered."""
        self.owed = 0.0
        """The tokens that are expected of what is in flight."""
        self.prompt_cost = EXPECTED_TOKENS
        """What its last prompt was expected to cost, in tokens."""
        self.answer_tokens = EXPECTED_TOKENS
        """The mean length of its answers, in tokens."""

    def charge(self, items: Sequence[WorkItem]) -> None:
        """Record that these prompts were given to an agent."""
        owed = len(items) * self.answer_tokens
        cost = sum([item.prompt_tokens for item in items]) + owed
        self.prompt_cost = cost / len(items)
        self.owed += owed
        self.service += cost / self.weight

    def returned(self, prompts: int) -> None:
        """Record that this many of its prompts are at an agent no more: what was expected of them is not owed."""
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
        self.items = Waiting()
        self.beginning: Any = ""
        """How one of its last prompts began."""
        self.entry = -1
        """Its valid entry among those whose turn may be."""
        self.by_agent: dict[int, deque[WorkItem]] = {}
        """What waits for a particular agent."""
        self.quarantined: deque[WorkItem] = deque()
        self.quarantine_after: float | None = None
        """Until when quarantined prompts wait for others, where there are few agents."""
        self.expected = 0
        self.unbounded = False
        self.unserved_since: float | None = None
        self.end: End | None = None
        """How its end was last foreseen; None while it is not in sight."""
        self.rescan_due = 0.0
        self.rescan_set = False

    def for_call(self, *, weight: float = 1.0, priority: int = 0) -> PromptQueue:
        """A queue of the same view for one more caller."""
        return PromptQueue(
            self.view, caller=Caller(weight=weight, priority=priority), patience=self.patience, pinned=self.pinned
        )

    def over(self, members: Sequence[int]) -> PromptQueue:
        """A queue of the same caller for other agents."""
        return PromptQueue(members, caller=self.caller, patience=self.patience, pinned=self.pinned)

    @property
    def waiting(self) -> int:
        """How many prompts wait here."""
        return len(self.items) + len(self.quarantined) + sum(map(len, self.by_agent.values()))

    def clear(self) -> None:
        """Forget what waits here."""
        self.items.clear()
        self.quarantined.clear()
        self.by_agent.clear()


class Turns:
    """Whose turn it is at an agent: the queues in which something waits, one heap per view.

    A queue is entered with its caller's service at that time. An entry that is behind is brought up to date when it
    comes to the top, and one that is ahead by much is replaced by another: O(log queues) per turn.
    """

    __slots__ = ("_count", "_entered", "_heaps", "_single", "_start")

    def __init__(self) -> None:
        self._heaps: dict[AgentView, list[_Entry]] = {}
        self._single: dict[int, list[_Entry]] = {}
        self._entered: set[PromptQueue] = set()
        self._start: dict[int, float] = {}
        self._count = itertools.count()

    def enter(self, queue: PromptQueue) -> None:
        """Record that something waits in a queue."""
        if queue in self._entered:
            return
        caller = queue.caller
        if not caller.in_flight:
            caller.service = max(caller.service, self._least_completed(caller.priority))
        self._entered.add(queue)
        self._push(queue)

    def next_for(self, agent: int) -> PromptQueue | None:
        """The queue whose turn it is at an agent. What is taken from it is to be charged to its caller."""
        heaps = [heap for heap in self._heaps_for(agent) if self._refresh(heap)]
        return min(heaps, key=_first)[0][3] if heaps else None

    def shares(self, agents: Iterable[int]) -> Shares:
        """Divide what waits evenly among these agents, each of which is then asked about in this order."""
        return Shares(self._heaps_for, agents)

    def moved_up(self, queue: PromptQueue) -> None:
        """Record that a caller's service has become less: its turn may come sooner than it was entered for."""
        if queue in self._entered:
            self._push(queue)

    def set_aside(self, queue: PromptQueue) -> None:
        """Pass over the queue whose turn it is, until :meth:`put_back`."""
        heapq.heappop(self._heap_of(queue))

    def put_back(self, queues: Iterable[PromptQueue]) -> None:
        """Let queues that were passed over have turns again."""
        for queue in queues:
            self._push(queue)

    def __len__(self) -> int:
        return len(self._entered)

    def clear(self) -> None:
        """Forget all queues."""
        self._heaps.clear()
        self._single.clear()
        self._entered.clear()

    def _least_completed(self, priority: int) -> float:
        """The least service that a waiting caller of this priority has completed; never less than before."""
        heads = [heap[0][3].caller for heap in self._heaps.values() if self._refresh(heap)]
        completed = [caller.completed for caller in heads if caller.priority == priority]
        self._start[priority] = max(min(completed, default=0.0), self._start.get(priority, 0.0))
        return self._start[priority]

    def _heaps_for(self, agent: int) -> list[list[_Entry]]:
        """The heaps of the views that an agent belongs to."""
        own = self._single.get(agent)
        heaps = [] if own is None else [own]
        return heaps + [heap for view, heap in self._heaps.items() if agent in view.serves]

    def _heap_of(self, queue: PromptQueue) -> list[_Entry]:
        """The heap of a queue's view. Queues that are pinned to one agent share a heap: a broadcast makes many."""
        if queue.pinned:
            return self._single.setdefault(queue.view.members[0], [])
        return self._heaps.setdefault(queue.view, [])

    def _push(self, queue: PromptQueue) -> None:
        caller = queue.caller
        queue.entry = next(self._count)
        heapq.heappush(self._heap_of(queue), (caller.priority, caller.service, queue.entry, queue))

    def _refresh(self, heap: list[_Entry]) -> bool:
        """Bring the top of a heap up to date, and drop queues in which nothing waits; return whether any is left."""
        while heap:
            priority, service, entry, queue = heap[0]
            if entry != queue.entry:
                heapq.heappop(heap)
            elif not queue.items:
                heapq.heappop(heap)
                self._entered.discard(queue)
            elif service < queue.caller.service:
                queue.entry = next(self._count)
                heapq.heapreplace(heap, (priority, queue.caller.service, queue.entry, queue))
            else:
                return True
        return False


_Entry = tuple[int, float, int, PromptQueue]
"""A queue in a heap: its caller's priority and service when it was entered, and the order of entering."""


def _first(heap: list[_Entry]) -> tuple[int, float, int]:
    return heap[0][:3]


class Shares:
    """What waits, divided among agents that are asked about one after the other: each view's prompts among its own."""

    def __init__(self, heaps_for: Callable[[int], list[list[_Entry]]], agents: Iterable[int]) -> None:
        self._heaps_for = heaps_for
        self._left: Counter[int] = Counter()
        for agent in agents:
            self._left.update(map(id, heaps_for(agent)))

    def take(self, agent: int, most: int) -> int:
        """The share of the agent whose turn it is, of prompts that wait now; not counted beyond ``most``."""
        share = 0
        for heap in self._heaps_for(agent):
            left = self._left[id(heap)]
            waiting = 0
            for entry in heap:
                if entry[2] == entry[3].entry:
                    waiting += len(entry[3].items)
                if waiting >= most * left:
                    break
            share += -(-waiting // left)
            self._left[id(heap)] = left - 1
        return min(share, most)
