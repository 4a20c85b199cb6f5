"""Which agent did what in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aurora_pool.hosted import hosted_terms
from aurora_pool.jobs.options import AgentTotals

if TYPE_CHECKING:
    from aurora_pool.agent_pool import AgentPool


class AgentCounts:
    """Counts what the agents of a pool have answered. Agents that join have higher numbers than those before them."""

    def __init__(self, pool: AgentPool) -> None:
        self._pool = pool
        self._names: list[str] = []
        self._counts: dict[int, list[int]] = {}

    def count(self, agent_index: int, tokens: int) -> None:
        """Count an answer and its tokens."""
        counts = self._counts.setdefault(agent_index, [0, 0])
        counts[0] += 1
        counts[1] += tokens

    def name_of(self, agent_index: int) -> str:
        """The address of an agent."""
        if agent_index >= len(self._names):
            self._names = [str(endpoint) for endpoint in self._pool.endpoints]
        return self._names[agent_index]

    def tags_of(self, agent_index: int | None) -> Mapping[str, str]:
        """The tags of an agent; none of nobody."""
        return {} if agent_index is None else self._pool.endpoints[agent_index].tags

    def model_of(self, agent_index: int | None, model: str) -> str:
        """The model that an agent answers by: a hosted one by its own, any other by the pool's."""
        terms = hosted_terms(self.tags_of(agent_index))
        return model if terms is None else terms.model or model

    def all(self) -> tuple[AgentTotals, ...]:
        """What each has done."""
        counts = sorted(self._counts.items())
        return tuple(AgentTotals(self.name_of(index), prompts, tokens) for index, (prompts, tokens) in counts)
