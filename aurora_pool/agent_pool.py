"""What all pools have in common: agents, views of them, life and death, statistics, prompts in and responses out."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import AnyPrompt, Response, Sampling
from aurora_pool.options import Observer, Timeouts
from aurora_pool.policy.queues import PromptQueue
from aurora_pool.policy.scheduler import Balance
from aurora_pool.runtime.call import Call
from aurora_pool.runtime.driver import Driver
from aurora_pool.runtime.open_files import ensure_open_files
from aurora_pool.runtime.request_kinds import PlanPrompts
from aurora_pool.statistics import PoolStatistics, snapshot

FILES_PER_AGENT = 2
SPARE_FILES = 100


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller has said about one call."""

    max_tokens: int | None
    sampling: Sampling | None
    batched: bool

    def __post_init__(self) -> None:
        check_least(1, max_tokens=self.max_tokens)


def new_driver(
    endpoints: Sequence[AgentEndpoint],
    *,
    balance: Balance = "adaptive",
    stream: bool = True,
    timeout: float | None = None,
    concurrency: int | None = None,
    connector_limit: int | None = None,
    timeouts: Timeouts | None = None,
    observer: Observer | None = None,
    seed: int | None = None,
) -> Driver:
    """Make the fleet behind a pool. Raises :class:`ConfigError` and :class:`NoAgentsError` for what makes no sense."""
    check_least(1, concurrency=concurrency)
    check_least(0, connector_limit=connector_limit)
    if timeout is not None and timeout <= 0:
        raise ConfigError(f"timeout: expected seconds above 0, or None for no limit, got {timeout!r}")
    if balance not in ("adaptive", "strict"):
        raise ConfigError(f"balance: expected 'adaptive' or 'strict', got {balance!r}")
    if not endpoints:
        raise NoAgentsError("a pool needs at least one endpoint")
    return Driver(
        endpoints,
        timeouts=timeouts or Timeouts(),
        balance=balance,
        stream=stream,
        timeout=timeout,
        concurrency=concurrency,
        connector_limit=connector_limit,
        observer=observer,
        seed=seed,
    )


def check_least(least: int, **arguments: int | None) -> None:
    """Raise :class:`ConfigError` for an argument that is given and less than it must be."""
    for name, value in arguments.items():
        if value is not None and value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value!r}")


class AgentPool:
    """A fleet of agents, or a view of some of them: what all kinds of pools have in common.

    A view (:meth:`by_tag`, :meth:`sample`, :meth:`select`, :meth:`slice`) shares connections, windows and breakers with
    the pool it was taken from, and is closed with it.
    """

    supports_batch = False
    """Whether a list of prompts goes as one request; where it does not, :meth:`send_all_batched` sends them singly."""

    def __init__(self, endpoints: Sequence[AgentEndpoint], driver: Driver) -> None:
        self._driver = driver
        self._members: Sequence[int] = range(len(endpoints))
        self._queue = PromptQueue(self._members, patience=driver.timeouts.patience)
        self._whole: AgentPool | None = None
        self._positions: dict[int, int] | None = None
        self._start_lock = asyncio.Lock()
        self._started = False

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many agents it has."""
        return len(self._members)

    def __len__(self) -> int:
        return self.size

    @property
    def endpoints(self) -> tuple[AgentEndpoint, ...]:
        """Its agents, in the order of the hostfile; ``Response.agent_index`` counts in it."""
        return tuple(self._driver.endpoints[index] for index in self._members)

    def statistics(self) -> PoolStatistics:
        """A frozen snapshot: each agent's state, load and figures, and the fleet's sums."""
        driver = self._driver
        return snapshot(driver.dispatcher.ledger, driver.endpoints, self._members, driver.prompts_failed, driver.now)

    def __repr__(self) -> str:
        view = "" if self._whole is None else f" of {self._whole.size}"
        return f"<{type(self).__name__} of {self.size}{view} agents>"

    def update_endpoints(self, endpoints: Sequence[AgentEndpoint]) -> None:
        """Say anew which agents there are, while prompts are under way: agents join and leave.

        A known agent keeps its index, its connections and its state. A new one is appended. One that is no longer named
        keeps its index too, in state ``removed``; its unfinished prompts move at once. Views keep the agents they had.

        Raises :class:`ConfigError` on a view, and :class:`NoAgentsError` without any endpoint.
        """
        if self._whole is not None:
            raise ConfigError("update_endpoints: ask the pool itself, not a view of it")
        if not endpoints:
            raise NoAgentsError("a pool needs at least one endpoint")
        present = self._driver.update(endpoints)
        self._members = range(len(self._driver.endpoints))
        self._queue.view.set_members(self._members if len(present) == len(self._members) else present)

    # -- views --------------------------------------------------------------------------------------------------

    def by_tag(self, key: str, value: str) -> Self:
        """The agents whose tag ``key`` has this value.

        >>> pool.by_tag("tier", "large").size  # doctest: +SKIP
        2
        """
        return self._view([i for i in self._members if self._driver.endpoints[i].tags.get(key) == value])

    def sample(self, n: int, *, rng: random.Random | None = None) -> Self:
        """So many agents drawn at random, in the order of the hostfile.

        Raises :class:`ConfigError` if there are fewer.
        """
        if not 0 <= n <= self.size:
            raise ConfigError(f"sample({n}): the pool has {self.size} agents")
        return self._view(sorted((rng or random.Random()).sample(list(self._members), n)))

    def select(self, indices: Iterable[int]) -> Self:
        """The agents with these indices, in the order given.

        Raises :class:`ConfigError` for one that does not exist or stands there twice.
        """
        chosen = list(indices)
        bad = [index for index in chosen if not -self.size <= index < self.size]
        if bad or len({index % self.size for index in chosen}) < len(chosen):
            raise ConfigError(f"select: expected different indices below {self.size}, got {bad or chosen}")
        return self._view([self._members[index] for index in chosen])

    def slice(self, start: int | None = None, stop: int | None = None) -> Self:
        """The agents from ``start`` up to ``stop``, as a list is sliced."""
        return self._view(list(self._members[start:stop]))

    def _view(self, members: Sequence[int]) -> Self:
        view = copy.copy(self)
        vars(view).update(
            _members=members,
            _queue=PromptQueue(members, patience=self._driver.timeouts.patience),
            _whole=self._whole or self,
            _positions={member: index for index, member in enumerate(members)},
        )
        return view

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the pool and find out what the agents serve; the first request does it otherwise.

        Raises :class:`NoAgentsError` for an empty pool or one of which no agent answers, and :class:`ConfigError` where
        the fleet does not serve what was asked for.
        """
        if not self._members:
            raise NoAgentsError("this pool has no agents")
        if self._driver.closed:
            raise ConfigError("this pool is closed")
        if self._whole is not None:
            await self._whole.start()
            return
        async with self._start_lock:
            if not self._started:
                ensure_open_files(FILES_PER_AGENT * self.size + SPARE_FILES)
                self._driver.open()
                await self._prepare()
                self._started = True

    async def _prepare(self) -> None:
        """Find out what the agents serve."""

    async def close(self) -> None:
        """Cancel what is under way and close all connections. Closing a view does nothing."""
        if self._whole is None:
            await self._driver.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # -- prompts ------------------------------------------------------------------------------------------------

    async def send_all(
        self, prompts: Iterable[AnyPrompt], max_tokens: int | None = None, *, sampling: Sampling | None = None
    ) -> list[Response]:
        """Send each prompt in a request of its own; return the responses in the order of the prompts."""
        return await self._gather(self._queue, prompts, CallOptions(max_tokens, sampling, False))

    async def send_all_batched(
        self, prompts: Iterable[AnyPrompt], max_tokens: int | None = None, *, sampling: Sampling | None = None
    ) -> list[Response]:
        """Send the prompts in list requests where the pool supports it; return the responses in their order.

        Prompt ``i`` is dealt to agent ``i % size``.
        """
        return await self._gather(self._queue, prompts, CallOptions(max_tokens, sampling, self.supports_batch))

    def iter_responses(
        self,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        total: int | None = None,
    ) -> AsyncGenerator[tuple[int, Response]]:
        """Answer prompts from any iterable, one (index, response) at a time, in the order in which they end.

        The input is pulled as fast as responses are taken, so that a million prompts from a generator never stand in
        memory. ``total`` is how many will come, if you know: it lets the fleet prepare for the end. To stop early,
        close the iterator: what is under way is cancelled, at the servers too.

        >>> async with contextlib.aclosing(pool.iter_responses(prompts)) as responses:  # doctest: +SKIP
        ...     async for index, response in responses:
        ...         print(index, response.text)
        """
        return self._responses(self._queue, prompts, CallOptions(max_tokens, sampling, self.supports_batch), total)

    async def _gather(self, queue: PromptQueue, prompts: Iterable[AnyPrompt], options: CallOptions) -> list[Response]:
        return await (await self._call(queue, prompts, options, None)).all()

    async def _responses(
        self,
        queue: PromptQueue,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        options: CallOptions,
        total: int | None,
    ) -> AsyncGenerator[tuple[int, Response]]:
        call = await self._call(queue, prompts, options, total)
        async with aclosing(call.responses()) as responses:
            async for pair in responses:
                yield pair

    async def _call(
        self,
        queue: PromptQueue,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        options: CallOptions,
        total: int | None,
    ) -> Call:
        if isinstance(prompts, str):
            raise ConfigError("expected a list of prompts, got one string")
        await self.start()
        queue = queue.for_call()
        return Call(self._driver, queue, prompts, self._planner(queue, options), total, self._positions)

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        """How this kind of pool makes items of one call's prompts."""
        raise NotImplementedError
