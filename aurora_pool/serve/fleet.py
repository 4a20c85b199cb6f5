"""Which models the fleet serves, and how each is reached. Agents that share a model make one pool."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aurora_pool.errors import PoolError, counted
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.options import ConnectionOptions, Timeouts
from aurora_pool.pool import VLLMPool
from aurora_pool.runtime.forward import Forwarder
from aurora_pool.runtime.health import fetch
from aurora_pool.runtime.transport import Transport
from aurora_pool.statistics import AgentStatistics
from aurora_pool.wire.model_list import MODELS_PATH

ASK_EVERY = 15.0
"""Seconds between questions to agents that have reported what they serve."""
ASK_AGAIN = 1.0
"""Seconds between questions to those that have not."""
AT_ONCE = 128
KEPT_TAG, KEPT_VALUE = "batches", "no"
"""The tag in the hostfile of an agent that is kept for online requests."""
MOST_PRIORITY = 100
"""The highest priority that a batch can have."""

logger = logging.getLogger("aurora_pool")


class Model(msgspec.Struct, frozen=True):
    """A name that agents answer to. ``described`` is what an agent's ``/v1/models`` says of it."""

    name: str
    pool: VLLMPool
    forwarder: Forwarder
    """Where online requests go: to agents that are kept for them, while any of those is in service."""
    members: Sequence[int] | None
    """The agents of the pool that serve it; None for all."""
    kept: VLLMPool | None
    """The agents among them that are kept free of batches; None where there are none, or no others."""
    plain: bool
    """Whether it is its pool's own model, of all its agents: then the pool may put prompts in its own form."""
    described: Mapping[str, Any]


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]


class ServedFleet:
    """Asks all agents, again and again, and keeps a pool for each group of agents that share a model."""

    def __init__(self, endpoints: Sequence[AgentEndpoint], timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._endpoints = list(endpoints)
        self._reported: dict[AgentEndpoint, list[dict[str, Any]]] = {}
        self._pools: dict[str, VLLMPool] = {}
        self._models: dict[str, Model] = {}
        self._shares: dict[tuple[VLLMPool, str, int, float], VLLMPool] = {}
        connection = ConnectionOptions()
        self._transport = Transport(
            endpoints, connect_timeout=self._timeouts.connect, connector_limit=None, connection=connection
        )
        self._changed = asyncio.Event()
        self._asking = asyncio.Event()
        self._stale = False
        """Whether agents joined or left since the pools were made."""

    @property
    def models(self) -> Mapping[str, Model]:
        """All models, by name."""
        return self._models

    @property
    def endpoints(self) -> Sequence[AgentEndpoint]:
        """All agents."""
        return self._endpoints

    @property
    def undiscovered(self) -> bool:
        """Whether there are agents that have not reported what they serve."""
        return any(endpoint not in self._reported for endpoint in self._endpoints)

    def update_endpoints(self, endpoints: Sequence[AgentEndpoint]) -> None:
        """Say anew which agents there are."""
        self._endpoints = list(endpoints)
        self._reported = {
            endpoint: reported for endpoint, reported in self._reported.items() if endpoint in set(endpoints)
        }
        self._transport.set_endpoints(endpoints)
        self._stale = True
        self._asking.set()

    def statistics(self) -> list[AgentStatistics]:
        """Every agent, those that belong to no pool yet as ``undiscovered``."""
        known = {
            agent.endpoint: agent
            for pool in self._pools.values()
            for agent in pool.statistics().agents
            if agent.state != "removed"
        }
        return [
            known.get(endpoint) or AgentStatistics(endpoint, "undiscovered", 0, 0, 0, 0, 0.0)
            for endpoint in self._endpoints
        ]

    def pools(self) -> Sequence[VLLMPool]:
        """The pools, one for each group of agents."""
        return list(self._pools.values())

    def share(self, model: Model, user: str, *, weight: float, priority: int) -> VLLMPool:
        """A view of a model's agents: however many batches of a user and a priority use it, they share as one caller.

        A higher ``priority``, up to 100, is served before others, and all of them after online requests.
        """
        key = (model.pool, user, priority, weight)
        if key not in self._shares:
            self._shares[key] = model.pool.as_caller(weight=weight, priority=MOST_PRIORITY - priority)
        share = self._shares[key]
        members = model.members
        if model.kept is not None:
            kept = set(model.kept.endpoints)
            every = range(len(model.pool.endpoints)) if members is None else members
            members = [index for index in every if model.pool.endpoints[index] not in kept]
        return share if members is None else share.select(members)

    @property
    def ready(self) -> bool:
        """Whether any agent is in service."""
        return any(pool.statistics().agents_in_service for pool in self._pools.values())

    async def wait_for_change(self, within: float) -> None:
        """Wait until the models may have changed, for ``within`` seconds at most."""
        try:
            async with asyncio.timeout(within):
                await self._changed.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Ask, for ever."""
        self._transport.open()
        told = False
        while True:
            try:
                await self._ask()
            except (PoolError, OSError) as error:
                logger.warning("the agents can't be asked what they serve: %s", error)
            if not self._models and not told:
                logger.warning("no agent serves a model yet; all are asked again every %g s", ASK_AGAIN)
            told = True
            self._asking.clear()
            try:
                async with asyncio.timeout(ASK_AGAIN if self.undiscovered else ASK_EVERY):
                    await self._asking.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Close all pools. What is in flight fails."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self._transport.close()

    async def _ask(self) -> None:
        limit = asyncio.Semaphore(AT_ONCE)
        endpoints = list(self._endpoints)

        async def ask(index: int, endpoint: AgentEndpoint) -> None:
            async with limit:
                try:
                    content = await fetch(self._transport, index, MODELS_PATH, within=self._timeouts.probe)
                    reported = msgspec.json.decode(content, type=_Models).data
                except (PoolError, msgspec.DecodeError, UnicodeDecodeError):
                    return  # what it reported before is kept: its pool knows best how it is
            if endpoint in self._endpoints:
                self._reported[endpoint] = [model for model in reported if isinstance(model.get("id"), str)]

        before = dict(self._reported)
        await asyncio.gather(*(ask(index, endpoint) for index, endpoint in enumerate(endpoints)))
        if self._stale or self._reported != before or not self._models:
            self._stale = False
            await self._regroup()

    async def _regroup(self) -> None:
        """Build the pools and the models from what the agents reported; pools whose model stays are kept."""
        groups: dict[str, list[AgentEndpoint]] = {}
        for members in _components({endpoint: _names(reported) for endpoint, reported in self._reported.items()}):
            served = Counter(name for endpoint in members for name in _base_names(self._reported[endpoint]))
            if served:
                groups[served.most_common(1)[0][0]] = members
        for name, pool in list(self._pools.items()):
            if name not in groups:
                del self._pools[name]
                self._shares = {key: share for key, share in self._shares.items() if key[0] is not pool}
                logger.warning("no agent serves %s any more", name)
                await pool.close()
        for name, members in groups.items():
            known = self._pools.get(name)
            if known is not None:
                known.update_endpoints(members)
                continue
            pool = VLLMPool(members, model=name, timeouts=self._timeouts)
            try:
                await pool.start()
            except PoolError as error:
                logger.warning("%s: %s", name, error)
                await pool.close()
                continue
            self._pools[name] = pool
            logger.info("%s is served by %s", name, counted(len(members), "agent"))
        self._models = self._named()
        self._changed.set()
        self._changed.clear()

    def _named(self) -> dict[str, Model]:
        models: dict[str, Model] = {}
        for canonical, pool in self._pools.items():
            present = [(index, endpoint) for index, endpoint in enumerate(pool.endpoints) if endpoint in self._reported]
            members: dict[str, list[int]] = {}
            described: dict[str, Mapping[str, Any]] = {}
            for index, endpoint in present:
                for model in self._reported[endpoint]:
                    members.setdefault(model["id"], []).append(index)
                    described.setdefault(model["id"], model)
            forwarder = pool.forwarder()
            for name, indices in members.items():
                everywhere = len(indices) == len(present)
                free = [index for index in indices if pool.endpoints[index].tags.get(KEPT_TAG) == KEPT_VALUE]
                kept = pool.select(free) if 0 < len(free) < len(indices) else None
                old = self._models.get(name)
                if (
                    old is not None
                    and old.pool is pool
                    and everywhere
                    and old.described == described[name]
                    and _endpoints(old.kept) == _endpoints(kept)
                ):
                    models[name] = old
                    continue
                own = forwarder if everywhere else pool.select(indices).forwarder()
                own = own if kept is None else kept.forwarder(otherwise=own)
                some = None if everywhere else indices
                models[name] = Model(name, pool, own, some, kept, everywhere and name == canonical, described[name])
        return models


def _endpoints(view: VLLMPool | None) -> tuple[AgentEndpoint, ...]:
    return () if view is None else view.endpoints


def _names(reported: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(_base_names(reported)) or frozenset(model["id"] for model in reported)


def _base_names(reported: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of models that are no adapters (LoRA)."""
    return [model["id"] for model in reported if not model.get("parent")]


def _components(names: Mapping[AgentEndpoint, frozenset[str]]) -> list[list[AgentEndpoint]]:
    """Group agents that share a name, directly or by way of others."""
    groups: list[tuple[set[str], list[AgentEndpoint]]] = []
    for endpoint, own in names.items():
        if not own:
            continue
        joined = [group for group in groups if group[0] & own]
        apart = [group for group in groups if not group[0] & own]
        merged = set(own).union(*(group[0] for group in joined))
        groups = [*apart, (merged, [each for group in joined for each in group[1]] + [endpoint])]
    return [members for _, members in groups]
