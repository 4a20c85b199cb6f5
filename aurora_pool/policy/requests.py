"""Requests in flight: which prompts went together to which agent, and what has come of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aurora_pool.policy.lots import Lot, Prompts
from aurora_pool.policy.work import Portable, WorkItem


class InFlightRequest:
    """One HTTP request that the pool is to make: to which agent, with which prompts, in which order.

    It is assigned when it is made, and sent when it begins to be written: ``sent_at`` is None until then, for a request
    that waits on this side for its turn or a connection is no work of the agent's, and none of its clocks runs.

    A slot of ``items`` becomes None when its prompt is released; ``open`` counts those that are not. ``live`` counts
    the open slots whose prompt nobody has answered yet: at 0 the request serves no one. ``started`` counts the open
    slots that have shown a first token. Of a ``lot`` there are no items until somebody asks for them.
    """

    __slots__ = (
        "_items",
        "_left",
        "_shown",
        "agent",
        "answers",
        "closed",
        "kind",
        "live",
        "lot",
        "open",
        "sent_at",
        "size",
        "started",
    )

    def __init__(self, agent: int, prompts: Prompts) -> None:
        self.agent = agent
        self.kind: Any = prompts.kind if isinstance(prompts, Lot) else prompts[0].kind if prompts else None
        self.lot = prompts if isinstance(prompts, Lot) else None
        self._items: list[WorkItem | None] = [] if isinstance(prompts, Lot) else [*prompts]
        self._left: bytearray | None = None
        """Of a lot: which slots are open; None while all are."""
        self._shown: list[float] | None = None
        """Of a lot: when slots have shown a first token, -1 before; None while none have."""
        self.size = self.live = self.open = len(prompts)
        self.started = 0
        self.sent_at: float | None = None
        self.answers = False
        """Whether any of its prompts has shown a sign."""
        self.closed = False

    @property
    def items(self) -> list[WorkItem | None]:
        """The item of each slot, None where it is released. Those of a lot are made now."""
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
                item.started_at = self.shown_at(slot)
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

    # -- without a look at each item ------------------------------------------------------------------------------

    @property
    def any_prompt(self) -> WorkItem | Lot:
        """One of its prompts, or the lot: all have the same kind and token budget."""
        return self.lot or next(item for item in self._items if item is not None)

    @property
    def portable(self) -> Portable | None:
        """What a hosted agent may be asked instead; None where it may not."""
        prompt = self.any_prompt
        return None if isinstance(prompt, Lot) else prompt.portable

    @property
    def token_budget(self) -> int:
        """How many tokens may be generated for each of its prompts; 0 where nothing limits them."""
        return self.any_prompt.token_budget

    @property
    def contents(self) -> Sequence[Any]:
        """The works of those prompts that are not released."""
        return self.lot.contents if self.lot is not None else [item.work for item in self._items if item is not None]

    def shown(self, slots: Sequence[int], now: float) -> None:
        """Record that these slots have shown a first token."""
        if self.lot is None:
            for slot in slots:
                item = self._items[slot]
                if item is not None:
                    item.started_at = now
            return
        if self._shown is None:
            self._shown = [-1.0] * self.size
        for slot in slots:
            self._shown[slot] = now

    def shown_at(self, slot: int) -> float:
        """When a slot of a lot has shown its first token."""
        return -1.0 if self._shown is None else self._shown[slot]

    def take_off(self, slot: int) -> bool:
        """Record that a slot of a lot is open no more; return whether it was."""
        if self._left is None:
            self._left = bytearray(b"\x01" * self.size)
        was_open = self._left[slot]
        self._left[slot] = 0
        return bool(was_open)
