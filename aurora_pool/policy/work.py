"""What is to be done: prompts on their way, as work items, as lots of prompts without items, and in requests.

Nearly all prompts are sent once, answered once, and gone. So texts of one token budget, which is known if the call has
a ``max_tokens``, are admitted, assigned, sent and answered as *lots*; all others have items from the start. A prompt of
a lot gets a work item only when it needs state of its own: it is hedged, its request fails, it is withdrawn, or it
belongs to a group that shares a beginning. The item is the same as if it had existed from the start, so lots change
nothing but the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Self, TypeAlias

import msgspec

from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.segmented_queue import BaseLot

LIST_LIMIT = 1024
"""vLLM's own limit on the prompts of one request, since 0.26."""
SUSPICIOUS_DEATHS = 2
"""A prompt that was in flight on this many agents when they died is quarantined."""


class Portable(msgspec.Struct, frozen=True, gc=False):
    """A prompt as any API takes it: a conversation, and how many tokens it has and may be answered with.

    ``read`` is about how many it has, ``most_read`` how many at most. ``generated`` is 0 where nothing limits it.
    """

    messages: Any
    read: int
    most_read: int
    generated: int


class WorkItem(msgspec.Struct, eq=False, gc=False):
    """One prompt on its way to exactly one result.

    ``kind`` says which items may share a list request (those with the same object), ``token_budget`` how many tokens
    may be generated for it, ``limit`` how many prompts a request with it may have (1: it goes alone); ``work`` is the
    caller's own and never looked at. ``holders`` counts the agents that hold it: one, two while it is hedged, none
    while it waits. Of a ``committed`` one the caller has bytes of the answer already: no other agent may answer it any
    more. ``cohort`` is the same for those that failed together: they go together again, and apart from others.
    ``rejected_once``: an untrusted agent has rejected it; a second must confirm. ``sends`` counts requests,
    ``attempts`` those that failed for an agent's own reasons, ``deaths`` the agents that died while they held it.
    ``started_at`` is when it showed its first token, -1 before. ``prompt_tokens`` is about how many tokens the
    prompt has; 0 where unknown. ``prefix`` is the key of the group of prompts that begin like it; 0 for none.
    ``portable`` is what a hosted agent may be asked instead, None where it may not.

    The garbage collector does not look at items (``gc=False``): with a million of them alive, looking costs more than
    all the rest of the dispatch. So every owner of items must drop them at the end: :meth:`Dispatcher.close` does.
    """

    queue: PromptQueue
    index: int
    kind: Any
    work: Any
    token_budget: int = 0
    limit: int = LIST_LIMIT
    holders: int = 0
    sends: int = 0
    attempts: int = 0
    deaths: int = 0
    avoid: int = -1
    done: bool = False
    hedged: bool = False
    committed: bool = False
    rejected_once: bool = False
    cohort: object = None
    first_sent: float = -1.0
    started_at: float = -1.0
    prompt_tokens: float = 0.0
    prefix: int = 0
    portable: Portable | None = None
    request: InFlightRequest | None = None
    second_request: InFlightRequest | None = None

    @property
    def suspected(self) -> bool:
        """Whether it may be what kills agents, and shares them with other quarantined prompts only."""
        return self.deaths >= SUSPICIOUS_DEATHS

    @property
    def isolated(self) -> bool:
        """Whether an agent died that held only quarantined prompts, it among them, so that it now runs alone."""
        return self.deaths > SUSPICIOUS_DEATHS


class Lot(BaseLot):
    """Prompts of one queue, kind and token budget: ``works`` at ``places``, which are the call's at ``indices``.

    The works are all of one type.

    >>> lot = Lot(queue=None, kind="kind", works=["a", "b", "c", "d"], indices=range(10, 14))
    >>> part = lot.part(1, 4, 2)
    >>> len(part), part.contents, part.indices, [item.index for item in part.items()]
    (2, ['b', 'd'], range(11, 14, 2), [11, 13])

    Parts share ``works`` with the whole, and so they do ``keys``, the names of the groups that prompts begin like, and
    ``prompt_tokens``, about how many tokens each has, where these are known; what is :meth:`joined` has its own. Items
    are added to ``materialized``, by which their caller knows them.
    """

    __slots__ = (
        "indices",
        "keys",
        "kind",
        "limit",
        "materialized",
        "places",
        "prompt_tokens",
        "queue",
        "token_budget",
        "works",
    )

    def __init__(
        self,
        queue: PromptQueue,
        kind: Any,
        works: Sequence[Any],
        indices: Sequence[int],
        token_budget: int = 0,
        limit: int = LIST_LIMIT,
        *,
        prompt_tokens: Sequence[float] | None = None,
    ) -> None:
        self.queue = queue
        self.kind = kind
        self.works = works
        self.indices = indices
        self.token_budget = token_budget
        self.limit = limit
        self.places = range(len(works))
        self.keys: Sequence[int] | None = None
        self.prompt_tokens = prompt_tokens
        self.materialized: list[WorkItem] = []

    def __len__(self) -> int:
        return len(self.places)

    @property
    def contents(self) -> Sequence[Any]:
        """The prompts' works, in order."""
        return self._own(self.works)

    @property
    def own_keys(self) -> Sequence[int]:
        """The names of the groups that its prompts begin like, 0 where there is none."""
        return [0] * len(self) if self.keys is None else self._own(self.keys)

    @property
    def own_prompt_tokens(self) -> Sequence[float]:
        """About how many tokens its prompts have, 0 where unknown."""
        return [0.0] * len(self) if self.prompt_tokens is None else self._own(self.prompt_tokens)

    @property
    def tokens(self) -> float:
        """About how many tokens its prompts have together; 0 where unknown."""
        return 0.0 if self.prompt_tokens is None else sum(self.own_prompt_tokens)

    def part(self, start: int, stop: int, step: int = 1) -> Self:
        """Every ``step``-th of its prompts from ``start`` until before ``stop``, as a lot of its own."""
        return self._like(self.works, self.indices[start:stop:step], self.places[start:stop:step])

    def joined(self, others: Sequence[Self]) -> Self:
        """This and others of the same queue, kind and budget as one lot, which shares nothing with them."""
        lots = [self, *others]
        works = _chained([lot.contents for lot in lots])
        joined = self._like(works, _chained([lot.indices for lot in lots]), range(len(works)))
        if any(lot.keys is not None for lot in lots):
            joined.keys = _chained([lot.own_keys for lot in lots])
        if self.prompt_tokens is not None:
            joined.prompt_tokens = _chained([lot.own_prompt_tokens for lot in lots])
        return joined

    def is_like(self, other: Lot) -> bool:
        """Whether the prompts of both may share a request."""
        return self.queue is other.queue and self.kind is other.kind and self.token_budget == other.token_budget

    def items(self) -> list[WorkItem]:
        """Make the work items."""
        queue, kind, budget, limit = self.queue, self.kind, self.token_budget, self.limit
        known = zip(self.indices, self.contents, self.own_keys, self.own_prompt_tokens, strict=True)
        items = [
            WorkItem(queue, index, kind, work, budget, limit, prefix=key, prompt_tokens=tokens)
            for index, work, key, tokens in known
        ]
        self.materialized += items
        return items

    def _own(self, values: Sequence[Any]) -> Sequence[Any]:
        places = self.places
        if len(places) == len(values):
            return values
        return values[places.start : places.stop : places.step]

    def _like(self, works: Sequence[Any], indices: Sequence[int], places: range) -> Self:
        lot = type(self)(self.queue, self.kind, works, indices, self.token_budget, self.limit)
        lot.places = places
        lot.keys, lot.prompt_tokens, lot.materialized = self.keys, self.prompt_tokens, self.materialized
        return lot


def _chained(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))


Prompts: TypeAlias = Sequence[WorkItem] | Lot
"""Work items, or prompts of which there are none yet."""


def items_of(prompts: Prompts) -> Sequence[WorkItem]:
    """The items that prompts are, or, of a lot, those that are materialized now."""
    return prompts.items() if isinstance(prompts, Lot) else prompts


def tokens_of(prompts: Prompts) -> float:
    """About how many tokens prompts have together; 0 where unknown."""
    return prompts.tokens if isinstance(prompts, Lot) else sum([item.prompt_tokens for item in prompts])


class InFlightRequest:
    """One HTTP request that the pool is to make: to which agent, with which prompts, in which order.

    It is assigned when it is made, and sent when it begins to be written: ``sent_at`` is None until then, for a request
    that waits on this side for its turn or a connection is no work of the agent's, and none of its clocks runs.

    A slot of ``items`` becomes None when its prompt is released; ``open`` counts those that are not. ``live`` counts
    the open slots whose prompt is not answered yet: at 0 the request serves no one. ``started`` counts the open
    slots that have shown a first token. Of a ``lot`` there are no items until somebody asks for them.
    """

    __slots__ = (
        "_items",
        "_left",
        "_started_at",
        "agent",
        "closed",
        "kind",
        "live",
        "lot",
        "open",
        "reply_begun",
        "sent_at",
        "size",
        "started",
        "token_budget",
    )

    def __init__(self, agent: int, prompts: Prompts) -> None:
        self.agent = agent
        first = prompts if isinstance(prompts, Lot) else prompts[0] if prompts else None
        self.kind: Any = None if first is None else first.kind
        self.token_budget = 0 if first is None else first.token_budget
        """How many tokens may be generated for each of its prompts; 0 where nothing limits them."""
        self.lot = prompts if isinstance(prompts, Lot) else None
        self._items: list[WorkItem | None] = [] if isinstance(prompts, Lot) else [*prompts]
        self._left: bytearray | None = None
        """Of a lot: which slots are open; None while all are."""
        self._started_at: list[float] | None = None
        """Of a lot: when slots have shown a first token, -1 before; None while none have."""
        self.size = self.live = self.open = len(prompts)
        self.started = 0
        self.sent_at: float | None = None
        self.reply_begun = False
        """Whether a token or an answer of any of its prompts has come."""
        self.closed = False

    @property
    def items(self) -> list[WorkItem | None]:
        """The item of each slot, None where it is released. Those of a lot are materialized now."""
        lot = self.lot
        if lot is not None:
            self.lot = None
            self._items = [*lot.items()]
            for slot, item in enumerate(self._items):
                assert item is not None
                if self._left is not None and not self._left[slot]:
                    item.done = True
                    self._items[slot] = None
                    continue
                item.holders = 1
                item.request = self
                item.started_at = self.started_at(slot)
                if self.sent_at is not None:
                    item.sends, item.first_sent = 1, self.sent_at
        return self._items

    def unreleased(self) -> list[WorkItem]:
        """The items whose part of the reply has not come."""
        return [item for item in self.items if item is not None]

    def forget(self) -> None:
        """Let go of all prompts: it has ended."""
        self.lot = None
        self._items = [None] * self.size

    # -- without a loop over the items ------------------------------------------------------------------------------

    @property
    def portable(self) -> Portable | None:
        """What a hosted agent may be asked instead; None where it may not."""
        for item in self._items:
            if item is not None:
                return item.portable
        return None

    @property
    def contents(self) -> Sequence[Any]:
        """The works of those prompts that are not released."""
        return self.lot.contents if self.lot is not None else [item.work for item in self._items if item is not None]

    def note_started(self, slots: Sequence[int], now: float) -> None:
        """Record that these slots have shown a first token."""
        if self.lot is None:
            for slot in slots:
                item = self._items[slot]
                if item is not None:
                    item.started_at = now
            return
        if self._started_at is None:
            self._started_at = [-1.0] * self.size
        for slot in slots:
            self._started_at[slot] = now

    def started_at(self, slot: int) -> float:
        """When a slot of a lot has shown its first token."""
        return -1.0 if self._started_at is None else self._started_at[slot]

    def take_off(self, slot: int) -> bool:
        """Record that a slot of a lot is open no more; return whether it was."""
        if self._left is None:
            self._left = bytearray(b"\x01" * self.size)
        was_open = self._left[slot]
        self._left[slot] = 0
        return bool(was_open)
