"""Lots: prompts of one call to which nothing has happened yet, without an object for each.

Nearly all prompts are sent once, answered once, and gone. So they are admitted, assigned, sent and answered as *lots*.
A work item is made of a prompt only when something befalls it that lots know nothing of: it is hedged, its request
fails, its caller goes away, it shares a beginning with others. It is then just what it would have been all the time, so
nothing but the cost depends on lots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from aurora_pool.policy.work import LIST_LIMIT, WorkItem

if TYPE_CHECKING:
    from aurora_pool.policy.work import PromptQueue


class Lot:
    """Prompts of one queue, kind and token budget: ``works`` at ``places``, which are the call's at ``indices``.

    >>> lot = Lot(queue=None, kind="kind", works=["a", "b", "c", "d"], indices=range(10, 14))
    >>> part = lot.part(1, 4, 2)
    >>> len(part), part.contents, part.indices, [item.index for item in part.items()]
    (2, ['b', 'd'], range(11, 14, 2), [11, 13])

    Parts share ``works`` with the whole, and so they do ``keys``, the names of the groups that prompts begin like, and
    ``prompt_tokens``, about how many tokens each has, where these are known; what is :meth:`joined` has its own. Items
    that are made are added to ``made``, by which their caller knows them.
    """

    __slots__ = (
        "indices",
        "keys",
        "kind",
        "limit",
        "made",
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
        self.made: list[WorkItem] = []

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
        """About how many tokens its prompts have, 0 where nobody knows."""
        return [0.0] * len(self) if self.prompt_tokens is None else self._own(self.prompt_tokens)

    @property
    def tokens(self) -> float:
        """About how many tokens its prompts have together; 0 where nobody knows."""
        return 0.0 if self.prompt_tokens is None else sum(self.own_prompt_tokens)

    def part(self, start: int, stop: int, step: int = 1) -> Self:
        """Every ``step``-th of its prompts from ``start`` until before ``stop``, as a lot of its own."""
        return self._like(self.works, self.indices[start:stop:step], self.places[start:stop:step])

    def joined(self, others: Sequence[Self]) -> Self:
        """This and others of the same queue, kind and budget as one lot, which shares nothing with them."""
        lots = [self, *others]
        works, indices = list(self.contents), self.indices
        if others:
            works = [work for lot in lots for work in lot.contents]
            indices = [index for lot in lots for index in lot.indices]
        joined = self._like(works, indices, range(len(works)))
        joined.keys = [key for lot in lots for key in lot.own_keys]
        if self.prompt_tokens is not None:
            joined.prompt_tokens = [tokens for lot in lots for tokens in lot.own_prompt_tokens]
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
        self.made += items
        return items

    def _own(self, values: Sequence[Any]) -> Sequence[Any]:
        places = self.places
        if len(places) == len(values):
            return values
        return values[places.start : places.stop : places.step]

    def _like(self, works: Sequence[Any], indices: Sequence[int], places: range) -> Self:
        lot = type(self)(self.queue, self.kind, works, indices, self.token_budget, self.limit)
        lot.places = places
        lot.keys, lot.prompt_tokens, lot.made = self.keys, self.prompt_tokens, self.made
        return lot


Prompts: TypeAlias = Sequence[WorkItem] | Lot
"""Work items, or prompts of which there are none yet."""
