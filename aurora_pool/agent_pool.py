"""What all pools have in common: agents, views of them, life and death, statistics, prompts in and responses out."""

from __future__ import annotations

import asyncio
import copy
import operator
import random
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Self, get_args

from aurora_pool.arguments import check_instance, check_one_of, check_seconds, check_whole
from aurora_pool.errors import ConfigError, NoAgentsError, PoolClosedError
from aurora_pool.hostfile import AgentEndpoint, AnyEndpoint, as_endpoints
from aurora_pool.messages import AnyPrompt, Response, Sampling
from aurora_pool.options import ConnectionOptions, Observer, Timeouts
from aurora_pool.policy.queues import PromptQueue
from aurora_pool.policy.scheduler import Balance
from aurora_pool.pool_options import CallOptions, check_prompts
from aurora_pool.progress import OnCallProgress, ProgressReport
from aurora_pool.runtime.call import Call
from aurora_pool.runtime.driver import Driver
from aurora_pool.runtime.open_files import ensure_open_files
from aurora_pool.runtime.request_kinds import PlanPrompts
from aurora_pool.statistics import PoolStatistics, snapshot

__all__ = ["AgentPool"]

FILES_PER_AGENT = 2
SPARE_FILES = 100


class AgentPool:
    """A fleet of agents, or a view of some of them: what all kinds of pools have in common.

    A view (:meth:`by_tag`, :meth:`sample`, :meth:`select`, :meth:`slice`) shares connections, windows and breakers with
    the pool it was taken from, and is closed with it.
    """

    def __new__(cls, *_arguments: Any, **_options: Any) -> Self:
        """Make nothing of the base class itself, which has no kind of prompt."""
        if cls is AgentPool:
            raise ConfigError("AgentPool is what all pools have in common: make a VLLMPool or an EmbeddingPool")
        return super().__new__(cls)

    def __init__(
        self,
        endpoints: Iterable[AnyEndpoint],
        *,
        timeout: float | None,
        balance: Balance,
        concurrency: int | None,
        connector_limit: int | None,
        timeouts: Timeouts | None,
        connection: ConnectionOptions | None,
        observer: Observer | None,
        rng: random.Random | None,
        stream: bool = True,
    ) -> None:
        check_seconds(timeout=timeout)
        check_one_of("balance", balance, get_args(Balance))
        check_whole(1, concurrency=concurrency)
        check_whole(0, connector_limit=connector_limit)
        check_instance("timeouts", timeouts, Timeouts)
        check_instance("connection", connection, ConnectionOptions)
        check_instance("observer", observer, Observer)
        check_instance("rng", rng, random.Random)
        self._timeout = timeout
        self._driver = driver = Driver(
            as_endpoints(endpoints),
            timeouts=timeouts or Timeouts(),
            connection=connection or ConnectionOptions(),
            balance=balance,
            stream=stream,
            timeout=timeout,
            concurrency=concurrency,
            connector_limit=connector_limit,
            observer=observer,
            rng=rng or random.Random(),
        )
        self._members: Sequence[int] = range(len(driver.endpoints))
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
    def supports_batch(self) -> bool:
        """Whether prompts go as list requests; where not, :meth:`send_all_batched` sends them one by one."""
        return False

    @property
    def timeout(self) -> float | None:
        """Seconds that one prompt may take from its first sending; None sets no limit."""
        return self._timeout

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

    def update_endpoints(self, endpoints: Iterable[AnyEndpoint]) -> None:
        """Replace the list of agents, while prompts are in flight: agents join and leave.

        >>> pool.update_endpoints(["gpu01:8000", "gpu03:8000"])  # doctest: +SKIP

        A known agent keeps its index, its connections and its state. A new one is appended. One that is no longer named
        keeps its index too, in state ``removed``; its unfinished prompts move at once. Views keep the agents they had.

        Raises :class:`ConfigError` on a view and for what is no endpoint, :class:`NoAgentsError` for an empty list.
        """
        if self._whole is not None:
            raise ConfigError("update_endpoints: ask the pool itself, not a view of it")
        present = self._driver.update(as_endpoints(endpoints))
        self._members = range(len(self._driver.endpoints))
        self._queue.view.set_members(self._members if len(present) == len(self._members) else present)

    # -- views --------------------------------------------------------------------------------------------------

    def by_tag(self, key: str, value: str) -> Self:
        """Return a view of the agents whose tag ``key`` has this value; it may have none.

        >>> pool.by_tag("tier", "large").size  # doctest: +SKIP
        2
        """
        return self._view([i for i in self._members if self._driver.endpoints[i].tags.get(key) == value])

    def sample(self, n: int, *, rng: random.Random | None = None) -> Self:
        """Return a view of ``n`` agents drawn at random (by ``rng``), in the order of the hostfile.

        >>> pool.sample(2, rng=random.Random(1)).size  # doctest: +SKIP
        2

        Raises :class:`ConfigError` if there are fewer.
        """
        check_whole(0, n=n)
        if n > self.size:
            raise ConfigError(f"n: expected at most {self.size}, for the pool has {self.size} agents, got {n}")
        return self._view(sorted((rng or random.Random()).sample(list(self._members), n)))

    def select(self, indices: Iterable[int]) -> Self:
        """Return a view of the agents with these indices, in the order given; negative ones count from the end.

        >>> pool.select([0, -1]).size  # doctest: +SKIP
        2

        Raises :class:`ConfigError` for one that does not exist or is listed twice.
        """
        chosen = list(indices)
        bad = [index for index in chosen if not -self.size <= index < self.size]
        if bad or len({index % self.size for index in chosen}) < len(chosen):
            raise ConfigError(f"select: expected different indices below {self.size}, got {bad or chosen}")
        return self._view([self._members[index] for index in chosen])

    def slice(self, start: int | None = None, stop: int | None = None) -> Self:
        """Return a view of the agents from ``start`` up to ``stop``, as a list is sliced."""
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

        Raises :class:`NoAgentsError` for an empty pool or one of which no agent answers, :class:`PoolClosedError` after
        :meth:`close`, and :class:`ConfigError` where the fleet does not serve what was asked for.
        """
        if not self._members:
            raise NoAgentsError("this pool has no agents")
        if self._driver.closed:
            raise PoolClosedError("this pool is closed")
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
        """Cancel what is in flight and close all connections. Closing a view does nothing."""
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

    async def ask(
        self, prompt: AnyPrompt, max_tokens: int | None = None, *, sampling: Sampling | None = None
    ) -> Response:
        """Answer one prompt on whichever agent has room for it.

        >>> (await pool.ask("Name a colour.", max_tokens=8)).raise_for_status().text  # doctest: +SKIP
        'Blue.'

        ``max_tokens`` is the most tokens to generate. The prompt's own failure is told by the response.
        """
        (response,) = await self._gather(self._queue, [prompt], CallOptions(max_tokens, sampling, self.supports_batch))
        return response

    async def send_all(
        self,
        prompts: Iterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        on_progress: OnCallProgress | None = None,
        progress: bool = False,
    ) -> list[Response]:
        """Send each prompt in a request of its own; return the responses in the order of the prompts.

        Arguments and errors are those of :meth:`send_all_batched`.
        """
        options = CallOptions(max_tokens, sampling, False)
        return await self._reported(prompts, options, on_progress, progress)

    async def send_all_batched(
        self,
        prompts: Iterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        on_progress: OnCallProgress | None = None,
        progress: bool = False,
    ) -> list[Response]:
        """Send the prompts in list requests where the pool supports it; return the responses in their order.

        >>> responses = await pool.send_all_batched(prompts, max_tokens=16, progress=True)  # doctest: +SKIP

        Prompt ``i`` is dealt to agent ``i % size`` first. ``max_tokens`` is the most tokens to generate per prompt.
        Calls share the fleet by ``weight``, in expected tokens; one with a lower ``priority`` is served before others.
        ``on_progress`` is called with a :class:`CallProgress` whenever responses have come; ``progress`` shows a bar
        where there is a terminal or a notebook. Raises :class:`ConfigError` for arguments that are invalid,
        :class:`NoAgentsError` and :class:`PoolClosedError`; one prompt's failure is told by its response.
        """
        options = CallOptions(max_tokens, sampling, self.supports_batch, weight, priority)
        return await self._reported(prompts, options, on_progress, progress)

    def iter_responses(
        self,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        total: int | None = None,
    ) -> AsyncGenerator[tuple[int, Response]]:
        """Answer prompts from any iterable, one (index, response) at a time, in the order in which they end.

        The input is pulled as fast as responses are taken, so that a million prompts from a generator are never in
        memory at once. ``total`` is how many will come, if you know: it lets the fleet prepare for the end. ``weight``
        and ``priority`` are as in :meth:`send_all_batched`. To stop
        early, close the iterator: what is in flight is cancelled, at the servers too.

        >>> async with contextlib.aclosing(pool.iter_responses(prompts)) as responses:  # doctest: +SKIP
        ...     async for index, response in responses:
        ...         print(index, response.text)
        """
        check_prompts(prompts)
        check_whole(0, total=total)
        options = CallOptions(max_tokens, sampling, self.supports_batch, weight, priority)
        return self._responses(self._queue, prompts, options, total)

    async def _gather(self, queue: PromptQueue, prompts: Iterable[AnyPrompt], options: CallOptions) -> list[Response]:
        return await (await self._call(queue, prompts, options, None)).all()

    async def _reported(
        self, prompts: Iterable[AnyPrompt], options: CallOptions, on_progress: OnCallProgress | None, progress: bool
    ) -> list[Response]:
        check_prompts(prompts)
        total = operator.length_hint(prompts, -1)
        with ProgressReport(total if total >= 0 else None, on_progress=on_progress, progress=progress) as report:
            call = await self._call(self._queue, prompts, options, None)
            return await call.all(report.count if report.wanted else None)

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
        check_prompts(prompts)
        await self.start()
        queue = queue.for_call(weight=options.weight, priority=options.priority)
        return Call(self._driver, queue, prompts, self._planner(queue, options), total, self._positions)

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        """How this kind of pool makes items of one call's prompts."""
        raise NotImplementedError
