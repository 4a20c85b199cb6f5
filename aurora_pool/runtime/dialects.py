"""How each agent speaks the API: by its hostfile line, by who owns its models, or learnt from what it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aurora_pool.engine_names import ENGINE_TAG
from aurora_pool.errors import ServerError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.wire.dialect import VLLM, Dialect, dialect_of, learnt, written

if TYPE_CHECKING:
    from aurora_pool.policy.dispatch import Dispatcher


class Dialects:
    """The dialects of a fleet's agents; vLLM's, where nothing else is known."""

    def __init__(self, dispatcher: Dispatcher, endpoints: Sequence[AgentEndpoint]) -> None:
        self._dispatcher = dispatcher
        self._of: dict[int, Dialect] = {}
        self._notified: set[int] = set()
        self.set_endpoints(endpoints)

    def set_endpoints(self, endpoints: Sequence[AgentEndpoint]) -> None:
        """Record what hostfile lines say."""
        for agent, endpoint in enumerate(endpoints):
            if ENGINE_TAG in endpoint.tags and agent not in self._notified:
                self._notified.add(agent)
                self._set(agent, dialect_of(endpoint.tags[ENGINE_TAG]))

    def found(self, agent: int, owner: str) -> None:
        """Record who owns the models that an agent lists, unless it is known better."""
        if agent not in self._of:
            dialect = dialect_of(owner)
            if dialect is not VLLM:
                self._set(agent, dialect)

    def of(self, agent: int) -> Dialect:
        """How an agent speaks."""
        return self._of.get(agent, VLLM)

    def needs_chat(self, agent: int, fields: Mapping[str, Any]) -> bool:
        """Whether a conversation that the pool has put into its template must go to an agent as a chat all the same.

        Without a field that says that the special tokens are there, it would have them twice.
        """
        dialect = self._of.get(agent, VLLM)
        return not (dialect.further_fields or dialect.lists) and "add_special_tokens" in fields

    def know_less(self, agents: Iterable[int]) -> bool:
        """Whether any of these agents may need chats."""
        return any(not self._of.get(agent, VLLM).further_fields for agent in agents) if self._of else False

    def refused(self, agent: int, error: ServerError, used: Dialect) -> bool:
        """Record a refusal of what was written in a dialect; return whether it shows that the agent speaks otherwise.

        Of several requests that were on their way, the first shows something new, and the others are to go again too.
        """
        if learnt(used, error) is None:
            return False
        dialect = learnt(self.of(agent), error)
        if dialect is not None:
            self._set(agent, dialect)
        return True

    def write(self, agent: int, path: str, body: bytes | None) -> bytes | None:
        """Write a request's body as an agent takes it."""
        dialect = self._of.get(agent)
        if dialect is None or dialect is VLLM or not body:
            return body
        return msgspec.json.encode(written(dialect, path, msgspec.json.decode(body)))

    def _set(self, agent: int, dialect: Dialect) -> None:
        self._of[agent] = dialect
        self._dispatcher.ledger.agents[agent].lists = dialect.lists
