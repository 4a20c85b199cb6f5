"""Whose turn it is: the queues of calls are served in turns, by their callers' weights, in expected tokens.

Turns are start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): what a caller is given advances its *service*,
in expected tokens divided by its weight, and the caller with the least service is next. A caller that begins to wait
starts from the service that the others have *completed*, not from what they hold in flight: so a short call beside a
long one gets the next credits, and two equal calls that begin together end together.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from aurora_pool.policy.callers import TURN, AgentView, Caller, PromptQueue


class FairQueueing:
    """Start-time fair queueing: whose turn it is at an agent, by one heap per view of the queues in which prompts wait.

    A queue is entered with its caller's service at that time. An entry that is behind is brought up to date when it
    comes to the top, and one that is ahead by much is replaced by another: O(log queues) per turn.
    """

    __slots__ = ("_count", "_entered", "_heaps", "_single", "_start")

    def __init__(self) -> None:
        self._heaps: dict[AgentView, list[_Entry]] = {}
        self._single: dict[int, list[_Entry]] = {}
        self._entered: dict[PromptQueue, None] = {}
        self._start: dict[int, float] = {}
        self._count = itertools.count()

    def enter(self, queue: PromptQueue) -> None:
        """Record that something waits in a queue."""
        if queue in self._entered:
            return
        caller = queue.caller
        if not caller.in_flight:
            caller.service = max(caller.service, self._least_completed(caller.priority))
        self._entered[queue] = None
        self._push(queue)

    def next_for(self, agent: int) -> PromptQueue | None:
        """The queue whose turn it is at an agent. What is taken from it is to be charged to its caller."""
        heaps = [heap for heap in self._heaps_for(agent) if self._refresh(heap)]
        return min(heaps, key=_first)[0][3] if heaps else None

    def shares(self, agents: Iterable[int]) -> Shares:
        """Divide what waits evenly among these agents, each of which is then asked about in this order."""
        return Shares(self._heaps_for, agents)

    def fell(self, caller: Caller) -> None:
        """Record that a caller's service may have become less: its turn may come sooner than it was entered for."""
        if caller.service < caller.entered - TURN / caller.weight:
            caller.entered = caller.service
            for queue in self._entered:
                if queue.caller is caller:
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
        if queue.pinned and queue.view.members:
            return self._single.setdefault(queue.view.members[0], [])
        return self._heaps.setdefault(queue.view, [])

    def _push(self, queue: PromptQueue) -> None:
        caller = queue.caller
        caller.entered = max(caller.entered, caller.service)
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
                self._entered.pop(queue, None)
            elif service < queue.caller.service:
                queue.entry = next(self._count)
                queue.caller.entered = max(queue.caller.entered, queue.caller.service)
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
