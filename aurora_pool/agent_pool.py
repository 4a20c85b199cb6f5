"""What all pools have in common: agents, views of them, life and death, statistics, prompts in and responses out."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from numbers import Integral
from typing import Any, Self

from aurora_pool.arguments import check_instance, check_many, check_whole
from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.hostfile import AgentEndpoint, AnyEndpoint, as_endpoints
from aurora_pool.messages import AnyPrompt, AnyPrompts, Response, Sampling
from aurora_pool.options import ConnectionOptions, Observer, Timeouts
from aurora_pool.policy.callers import Caller
from aurora_pool.policy.scheduler import Balance
from aurora_pool.pool_calls import PoolCalls
from aurora_pool.pool_options import CallOptions, check_prompts
from aurora_pool.progress import OnCallProgress
from aurora_pool.runtime.discovery import Discovery
from aurora_pool.runtime.fleet_options import FleetOptions
from aurora_pool.runtime.fleet_runtime import FleetRuntime
from aurora_pool.runtime.forward import Forwarder
from aurora_pool.runtime.membership import Membership
from aurora_pool.runtime.once import Once
from aurora_pool.runtime.open_files import ensure_open_files, files_for
from aurora_pool.statistics import PoolStatistics, snapshot

__all__ = ["AgentPool"]


class AgentPool(PoolCalls):
    """A fleet of agents, or a view of some of them: what all kinds of pools have in common.

    A view (:meth:`by_tag`, :meth:`sample`, :meth:`select`, :meth:`slice`) shares connections, windows and breakers with
    the pool it was taken from, and is closed with it.
    """

    def __new__(cls, *_arguments: Any, **_options: Any) -> Self:
        """Make nothing of the base class itself, which has no kind of prompt."""
        if cls is AgentPool:
            raise ConfigError("AgentPool is what all pools have in common: make a VLLMPool or an EmbeddingPool")
        return super().__new__(cls)

    def __init__(self, endpoints: Iterable[AnyEndpoint], discovery: Discovery, options: FleetOptions) -> None:
        self._options = options
        self._discovery = discovery
        self._runtime = FleetRuntime(as_endpoints(endpoints), options)
        self._agents = Membership(self._runtime)
        self._whole: AgentPool | None = None
        self._caller: Caller | None = None
        self._starting = Once()
        self._opened_here = False

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many agents it has, those that were removed left out."""
        return len(self._agents.present)

    def __len__(self) -> int:
        return self.size

    @property
    def supports_batch(self) -> bool:
        """Whether prompts go as list requests; where not, :meth:`send_all_batched` sends them one by one."""
        return False

    @property
    def gives_vectors(self) -> bool:
        """Whether its responses hold embeddings instead of texts."""
        return False

    @property
    def timeout(self) -> float | None:
        """Seconds that one prompt may take from its first sending; None sets no limit."""
        return self._options.timeout

    @property
    def balance(self) -> Balance:
        """How prompts are given to agents: ``"adaptive"`` or ``"strict"``."""
        return self._options.balance

    @property
    def concurrency(self) -> int | None:
        """The most HTTP requests at a time; None sets no limit."""
        return self._options.concurrency

    @property
    def connector_limit(self) -> int | None:
        """The most open connections; None sets no limit."""
        return self._options.connector_limit

    @property
    def timeouts(self) -> Timeouts:
        """How long the pool waits for what."""
        return self._runtime.timeouts

    @property
    def connection(self) -> ConnectionOptions:
        """What every connection to an agent needs."""
        return self._options.connection or ConnectionOptions()

    @property
    def observer(self) -> Observer | None:
        """The observer of events; None if there is none."""
        return self._options.observer

    @property
    def rng(self) -> random.Random | None:
        """What draws at random, if the constructor was given it."""
        return self._options.rng

    @property
    def endpoints(self) -> tuple[AgentEndpoint, ...]:
        """Its agents, in the order of the hostfile; ``Response.agent_index`` counts in it."""
        return self._agents.endpoints

    def statistics(self) -> PoolStatistics:
        """Take a frozen snapshot: each agent's state, load and figures, and the fleet's sums.

        >>> print(pool.statistics().agents_in_service, "of", pool.size)  # doctest: +SKIP
        """
        runtime, members = self._runtime, self._agents.members
        return snapshot(runtime.dispatcher.ledger, runtime.endpoints, members, runtime.prompts_failed, runtime.now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size}{f' of {self._whole.size}' if self._whole else ''} agents>"

    def update_endpoints(self, endpoints: Iterable[AnyEndpoint]) -> None:
        """Replace the list of agents, while prompts are in flight: agents join and leave.

        >>> pool.update_endpoints(["gpu01:8000", "gpu03:8000"])  # doctest: +SKIP

        A known agent keeps its index, its connections and its state. A new one is appended. One that is no longer named
        keeps its index too, in state ``removed``; its unfinished prompts move at once. Views keep the agents they had.

        Raises :class:`ConfigError` on a view and for what is no endpoint, :class:`NoAgentsError` for an empty list.
        """
        if self._whole is not None:
            raise ConfigError("update_endpoints: ask the pool itself, not a view of it")
        joined = self._agents.update(as_endpoints(endpoints))
        if joined and self._starting.done:
            self._set_probes(joined)
            self._agents.hold_back(joined, self._find_out, self._discovery.least_context)

    async def _find_out(self, joined: Sequence[int]) -> None:
        await self._discovery.join(self._runtime, joined)

    # -- views --------------------------------------------------------------------------------------------------

    def by_tag(self, key: str | None = None, value: str | None = None, **tags: str) -> Self:
        """Return a view of the agents whose tag ``key`` has this value, and all of these ``tags``; it may have none.

        >>> large = pool.by_tag("tier", "large")  # doctest: +SKIP
        >>> both = pool.by_tag(tier="large", rack="7")  # doctest: +SKIP

        Raises :class:`ConfigError` where no tag is given, or a key without a value, and for what is no text.
        """
        if (key is None) != (value is None) or (key is None and not tags):
            raise ConfigError("by_tag: expected a key and its value, or tags by name: by_tag(role='chat')")
        check_instance("key", key, str)
        wanted: dict[str, Any] = tags if key is None else {**tags, key: value}
        for name, text in wanted.items():
            check_instance(name, text, str, optional=False)  # as 3 is not, which would be no agent's
        return self._view(self._agents.tagged(wanted))

    def sample(self, n: int, *, rng: random.Random | None = None) -> Self:
        """Draw ``n`` agents at random (by ``rng``), and return a view of them in the order of the hostfile.

        >>> few = pool.sample(2)  # doctest: +SKIP

        Raises :class:`ConfigError` if there are fewer.
        """
        check_instance("rng", rng, random.Random)
        return self._view(self._agents.drawn(n, rng or random.Random()))

    def select(self, indices: Iterable[int]) -> Self:
        """Return a view of the agents with these indices, in the order given; negative ones count from the end.

        >>> ends = pool.select([0, -1])  # doctest: +SKIP

        Raises :class:`ConfigError` for one that does not exist or is listed twice.
        """
        check_many(indices=indices)
        return self._view(self._agents.selected(list(indices)))

    def slice(self, start: int | None = None, stop: int | None = None) -> Self:
        """Return a view of the agents from ``start`` up to ``stop``, as a list is sliced.

        >>> first = pool.slice(0, 8)  # doctest: +SKIP
        """
        check_instance("start", start, Integral)
        check_instance("stop", stop, Integral)
        return self._view(list(self._agents.members[start:stop]))

    def _view(self, members: Sequence[int]) -> Self:
        return self._derived(_agents=self._agents.view(members))

    def _derived(self, **own: Any) -> Self:
        view, started = copy.copy(self), self._starting.done
        vars(view).update(_whole=self._whole or self, _starting=Once(done=started), _opened_here=False)
        vars(view).update(own if started else {**self._of_its_own(), **own})
        return view

    def _of_its_own(self) -> dict[str, Any]:
        """The attributes that a view has for itself if it is taken of a pool that has not found out what it serves."""
        return {"_discovery": self._discovery.for_others()}

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the pool and find out what its agents serve; the first request does it otherwise.

        Raises :class:`NoAgentsError` for an empty pool or one of which no agent answers, :class:`PoolClosedError` after
        :meth:`close`, and :class:`ConfigError` where the fleet does not serve what was asked for.
        """
        if not self._agents.members:
            raise NoAgentsError("this pool has no agents")
        self._runtime.open()
        await self._starting.run(self._start_up)

    async def _start_up(self) -> None:
        ensure_open_files(files_for(len(self._runtime.endpoints)))
        await self._prepare()
        self._set_probes(self._agents.present)

    def _set_probes(self, agents: Iterable[int]) -> None:
        self._runtime.probe_requests.update(dict.fromkeys(agents, self._probe_request()))

    def _probe_request(self) -> tuple[str, bytes]:
        raise NotImplementedError  # the path and body of the smallest request that shows whether an agent works

    async def _prepare(self) -> None:
        await self._discovery.learn(self._runtime, self._agents.own, self._agents.endpoints)

    async def close(self) -> None:
        """Cancel what is in flight and close all connections.

        Closing a view does nothing, except at the end of an ``async with`` that has opened the pool.
        """
        if self._whole is None or self._opened_here:
            await self._runtime.close()

    async def __aenter__(self) -> Self:
        self._opened_here = not self._runtime.is_open
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
        """Answer one prompt on whichever agent has capacity for it.

        >>> (await pool.ask("Name a colour.", max_tokens=8)).raise_for_status().text  # doctest: +SKIP
        'Blue.'

        ``max_tokens`` is the most tokens to generate. The prompt's own failure is in the response.
        """
        options = CallOptions(max_tokens, sampling, self.supports_batch)
        return (await self._gather(self._agents.queue, [prompt], options))[0]

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

        Prompt ``i`` goes to agent ``i % size`` first. ``max_tokens`` is the most tokens to generate per prompt.
        Calls share the fleet by ``weight``, in expected tokens; one with a lower ``priority`` is served before others.
        ``on_progress`` is called with a :class:`CallProgress` whenever responses have come; ``progress`` shows a bar
        where a terminal or a notebook is. Raises :class:`ConfigError` for invalid arguments, :class:`NoAgentsError` and
        :class:`PoolClosedError`; one prompt's failure is in its response.
        """
        options = CallOptions(max_tokens, sampling, self.supports_batch, weight, priority)
        return await self._reported(prompts, options, on_progress, progress)

    def iter_responses(
        self,
        prompts: AnyPrompts,
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
        and ``priority`` are as in :meth:`send_all_batched`. To stop early, close the iterator: what is in flight is
        cancelled, at the servers too.

        >>> async with contextlib.aclosing(pool.iter_responses(prompts)) as responses:  # doctest: +SKIP
        ...     async for index, response in responses:
        ...         print(index, response.text)
        """
        check_prompts(prompts)
        check_whole(0, total=total)
        options = CallOptions(max_tokens, sampling, self.supports_batch, weight, priority)
        return self._responses(prompts, options, total)

    def forwarder(self, *, otherwise: Forwarder | None = None) -> Forwarder:
        """Send HTTP requests unchanged, balanced over these agents: what gateways and foreign clients need.

        ``otherwise`` takes them while none of these agents is in service; without it they wait for one.

        >>> reply = await pool.forwarder().send("GET", "/v1/models", {}, None)  # doctest: +SKIP
        """
        return Forwarder(self._runtime, lambda: self._agents.queue, self.start, self._caller, otherwise)
