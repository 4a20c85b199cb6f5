"""Probes, load checks and samples of agents: what the dispatcher needs beside its prompts' replies."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.plan import Plan
from aurora_pool.policy.stall import Finding
from aurora_pool.runtime.health import check_load, read_load, try_agent
from aurora_pool.wire.metrics import HEALTH_PATH, EngineLoad
from aurora_pool.wire.model_list import MODELS_PATH

if TYPE_CHECKING:
    from aurora_pool.runtime.dialects import Dialects
    from aurora_pool.runtime.served_names import ServedNames
    from aurora_pool.runtime.transport import Transport


class AgentChecks:
    """Probes agents, and reads their counters, in ``within`` seconds each at most."""

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        names: ServedNames,
        dialects: Dialects,
        *,
        clock: Callable[[], float],
        schedule: Callable[[], None],
        within: float,
    ) -> None:
        self._transport = transport
        self._dispatcher = dispatcher
        self._names = names
        self._dialects = dialects
        self._clock = clock
        self._schedule = schedule
        self._within = within
        self._loads: dict[int, EngineLoad | None] = {}
        self.probe_requests: dict[int, tuple[str, bytes | None]] = {}
        """The smallest request that the pool could send to an agent; ``/health`` where that is not known."""

    def of(self, plan: Plan) -> Iterator[Coroutine[Any, Any, None]]:
        """The probes, load checks and samples that a plan asks for."""
        for check, agents in ((self._probe, plan.probe), (self._check, plan.check), (self._sample, plan.sample)):
            yield from map(check, agents)

    async def _probe(self, agent: int) -> None:
        path, body = self.probe_requests.get(agent, (HEALTH_PATH, b""))
        if self._dispatcher.is_hosted(agent):
            path, body = MODELS_PATH, None  # which costs nothing
        body = self._dialects.write(agent, path, body)
        outcome, reason = await try_agent(self._transport, self._names, agent, path, body, within=self._within)
        self._dispatcher.probed(agent, outcome, reason, self._clock())
        self._schedule()

    async def _check(self, agent: int) -> None:
        finding = Finding.PROGRESSING  # a hosted one has no counters to read
        if not self._dispatcher.is_hosted(agent):
            finding, load = await check_load(self._transport, agent, self._loads.get(agent), within=self._within)
            self._loads[agent] = load
            if load is not None:
                self._count_prefixes(agent, load)
        self._dispatcher.load_checked(agent, finding, self._clock())
        self._schedule()

    async def _sample(self, agent: int) -> None:
        load = await read_load(self._transport, agent, within=self._within)
        if load is not None:
            self._count_prefixes(agent, load)
            before = self._loads.get(agent)
            if before is None or not load.began_after(before):  # a restart is left for the load check to report
                self._loads[agent] = load
            running, waiting, preemptions = int(load.running), int(load.waiting), int(load.preemptions)
            self._dispatcher.sampled(agent, running, waiting, preemptions, self._clock())

    def _count_prefixes(self, agent: int, load: EngineLoad) -> None:
        self._dispatcher.ledger.agents[agent].prefix_cache.counted(load.prefix_queries, load.prefix_hits)
