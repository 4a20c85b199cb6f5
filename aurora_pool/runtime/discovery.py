"""Find out what the agents of a fleet serve: which model, and how long a context."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from aurora_pool.errors import ConfigError, NoAgentsError, PoolError, ServerError, TransportError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.runtime.fleet_runtime import FleetRuntime
from aurora_pool.runtime.health import served_models
from aurora_pool.runtime.once import answers_of
from aurora_pool.wire.model_list import ServedModel

log = logging.getLogger("aurora_pool")

AT_ONCE = 256
"""How many agents are asked at the same time."""
STRAGGLERS = 0.25
"""Seconds that agents have to answer once one of them has."""
AGAIN = 1.0
"""Seconds between rounds of asking while no agent answers."""
SHOWN = 3
"""How many agents an error names before it counts the rest."""

Answers = Mapping[int, list[ServedModel] | PoolError]


class Discovery:
    """What is known of the model that a pool or a view asks for: its name, and the agents' context lengths.

    ``reported`` is what agents have reported to serve; a pool and its views share it.
    """

    def __init__(
        self, model: str | None, max_context: int | None, reported: dict[int, list[ServedModel]] | None = None
    ) -> None:
        self.model = model
        self.max_context = max_context
        self.undiscovered: set[int] = set()
        """Agents that have not reported what they serve."""
        self._wanted = model
        self._reported: dict[int, list[ServedModel]] = {} if reported is None else reported
        self._lengths: dict[int, int] = {}

    def for_others(self) -> Discovery:
        """The same wish, for agents that may serve another model."""
        return Discovery(self._wanted, self.max_context, self._reported)

    def contexts(self, agents: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
        """The context lengths among these agents, ascending, each with the agents that have at least as much.

        An agent that has not reported one counts as the least; the list is empty where none has.
        """
        if self.max_context is not None:
            return [(self.max_context, agents)]
        lengths = self._lengths
        known = set(lengths.values()) if len(agents) >= len(lengths) else {lengths[a] for a in agents if a in lengths}
        if len(known) < 2:
            return [(length, agents) for length in known]
        least = min(known)
        return [(length, [a for a in agents if lengths.get(a, least) >= length]) for length in sorted(known)]

    def least_context(self, agents: Sequence[int]) -> int | None:
        """The least context length among these agents; None where none has reported one."""
        return min((context for context, _ in self.contexts(agents)), default=None)

    async def join(self, runtime: FleetRuntime, agents: Sequence[int]) -> None:
        """Ask agents that have joined the fleet, until each has reported its models, shown that it can't, or left."""
        left = list(agents)
        while left:
            answers = await _ask(runtime, left)
            self._reported.update({agent: models for agent, models in answers.items() if isinstance(models, list)})
            left = [agent for agent in left if agent not in answers or _may_come(answers[agent])]
            left = [agent for agent in left if not runtime.is_removed(agent)]
            if left:
                await asyncio.sleep(AGAIN)
        self._measure(runtime, agents)

    async def learn(self, runtime: FleetRuntime, members: Sequence[int], hosted: Sequence[AgentEndpoint] = ()) -> None:
        """Ask these agents, except those that have reported already; hosted ones are not asked.

        A model that was not named is the one that all of them serve; while no agent answers, that is waited for. With a
        named one the answers are a check, and where none comes the dispatch will see.

        Raises :class:`ConfigError` if no agent serves the named model or they don't agree on one, and
        :class:`NoAgentsError` if none has answered within ``Timeouts.patience``.
        """
        if not members and hosted:
            self.model = self.model or next((terms.model for each in hosted if (terms := each.hosted)), None)
            if self.model is None:
                raise ConfigError("all agents are hosted, so name the model: model=NAME in the hostfile")
            return
        deadline = runtime.now + runtime.timeouts.patience
        warned = False
        while True:
            answers = await _ask(runtime, [agent for agent in members if agent not in self._reported])
            self._reported.update({agent: models for agent, models in answers.items() if isinstance(models, list)})
            serving = {agent: self._reported[agent] for agent in members if agent in self._reported}
            if serving or self.model is not None:
                break
            if runtime.now + AGAIN > deadline or not any(map(_may_come, answers.values())):
                errors = {agent: str(answer) for agent, answer in answers.items()}
                raise NoAgentsError(f"no agent tells what it serves: {_named(runtime, errors)}")
            if not warned:
                log.warning("no agent answers yet; waiting up to %.0f s", runtime.timeouts.patience)
                warned = True
            await asyncio.sleep(AGAIN)
        self.undiscovered = set(members).difference(serving)
        if serving:
            self.model = choose_model(self.model, serving, [str(endpoint) for endpoint in runtime.endpoints])
        self._measure(runtime, members)

    def _measure(self, runtime: FleetRuntime, agents: Iterable[int]) -> None:
        """Record what these agents have reported: their names, whether they serve the model, and its context length."""
        for agent in agents:
            models = self._reported.get(agent)
            if models is None:
                continue
            runtime.names.list(agent, models)
            runtime.dialects.found(agent, next((model.owned_by for model in models if model.owned_by), ""))
            if self.model not in {model.id for model in models}:
                listed = ", ".join(repr(model.id) for model in models[:SHOWN])
                runtime.dispatcher.serves_another_model(agent, f"it serves {listed}, not {self.model!r}", runtime.now)
            length = _context(self.model, models)
            if length is not None:
                self._lengths[agent] = length


def choose_model(wanted: str | None, serving: Mapping[int, Sequence[ServedModel]], names: Sequence[str]) -> str:
    """Choose the model by what the agents that answered serve; ``names`` are the agents'.

    Several names of one model count as one, and adapters (LoRA) only when they are asked for by name.

    >>> choose_model(None, {0: [ServedModel("m")], 1: [ServedModel("m")]}, ["gpu01", "gpu02"])
    'm'
    >>> choose_model("x", {0: [ServedModel("m")]}, ["gpu01"])
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: no agent serves the model 'x'; they serve 'm' (gpu01)
    """
    by_model: dict[str, list[int]] = {}
    for agent, models in serving.items():
        for model in models:
            if wanted is not None or model.parent is None:
                by_model.setdefault(model.id, []).append(agent)
    listed = "; ".join(f"{model!r} ({_some(names[agent] for agent in agents)})" for model, agents in by_model.items())
    if wanted is not None:
        if wanted not in by_model:
            raise ConfigError(f"no agent serves the model {wanted!r}; they serve {listed}")
        return wanted
    first = next(iter(serving.values()))
    everywhere = [model for model in first if len(by_model.get(model.id, ())) == len(serving)]
    if not everywhere:
        raise ConfigError(f"the agents serve different models, so name one: {listed}")
    if len({model.root or model.id for model in everywhere}) > 1:
        raise ConfigError(f"the agents serve several models, so name one: {listed}")
    return everywhere[0].id


def _context(name: str | None, models: Sequence[ServedModel]) -> int | None:
    """The context length of a model; an adapter (LoRA) tells none and has its parent's."""
    model = next((model for model in models if model.id == name), None)
    seen = set()
    while model is not None and model.context is None and model.id not in seen:  # a circle of parents ends too
        seen.add(model.id)
        parent = model.parent
        model = next((model for model in models if model.id == parent), None)
    return None if model is None else model.context


async def _ask(runtime: FleetRuntime, agents: Sequence[int]) -> Answers:
    """Ask agents for their models; those that take much longer than the first to answer are left out."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(agent: int) -> list[ServedModel] | PoolError:
        async with limit:
            try:
                return await served_models(runtime.transport, agent, within=runtime.timeouts.probe)
            except PoolError as error:
                return error

    return await answers_of({agent: ask(agent) for agent in agents}, grace=STRAGGLERS)


def _may_come(answer: list[ServedModel] | PoolError) -> bool:
    """Whether waiting can help: a server that is starting refuses or fails; one that says 404 or 401 means it."""
    return isinstance(answer, TransportError) or (isinstance(answer, ServerError) and answer.status >= 500)


def _named(runtime: FleetRuntime, reasons: Mapping[int, str]) -> str:
    return _some(f"{runtime.endpoints[agent]}: {reason}" for agent, reason in sorted(reasons.items()))


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
