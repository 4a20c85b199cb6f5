"""Prompts that are asked again because their answers would not do: a second stream beside the input's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple, TypeVar

from aurora_pool.jobs.requests import Request
from aurora_pool.messages import Prompt

Item = TypeVar("Item")


class Taken(NamedTuple):
    """A request that is in flight, since when, and how often it had been asked before."""

    request: Request
    since: float
    prompt: Prompt
    tries: int


class Again(AsyncIterator[Item]):
    """What is put in comes out, as an iterator that ends once it is told to and nothing is expected any more.

    :meth:`put` something, which is then expected back until :meth:`done` says that it has been dealt with. ``total`` is
    how much has been put in.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue()
        self._expected = 0
        self.total = 0
        self._closing = False

    def put(self, item: Item) -> None:
        """Have this asked."""
        self._expected += 1
        self.total += 1
        self._queue.put_nowait(item)

    def done(self) -> None:
        """Expect one less."""
        self._expected -= 1
        self._end_if_empty()

    def close(self) -> None:
        """Expect nothing that is not in flight already."""
        self._closing = True
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._closing and not self._expected:
            self._queue.put_nowait(None)

    async def __anext__(self) -> Item:
        item = await self._queue.get()
        if item is None:
            raise StopAsyncIteration
        return item
