"""What the streams of chats and of completions have in common: where their events go, and how they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aurora_pool.testing.backend import Backend
from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import DONE, Exchange
from aurora_pool.testing.generation import Choice, Generation, ShownText
from aurora_pool.testing.options import Options
from aurora_pool.testing.usage import total_usage


class AnswerEvents(ABC):
    """Writes the events of one streamed answer. ``prefix`` begins its id, ``kind`` is the type of its events."""

    def __init__(
        self,
        server: Backend,
        exchange: Exchange,
        options: Options,
        choices: Sequence[Choice],
        *,
        prefix: str,
        kind: str,
    ) -> None:
        self.generation = Generation(choices, self)
        self.events = server.new_stream(exchange)
        self._options = options
        self._choices = choices
        self._fingerprint = server.fingerprint
        self._cached: Choice | None = None
        """The choice whose cached tokens the usage reports, if any."""
        self._texts = [ShownText(choice, options.stop) for choice in choices]
        self._head: dict[str, Any] = {
            "id": server.new_id(prefix, exchange),
            "object": kind,
            "created": wall_time(),
            "model": server.model,
        }

    @abstractmethod
    def progressed(self, choice: Choice, tokens: int) -> None:
        """Add an event for the tokens that a choice has gained."""

    def flush(self) -> None:
        """Send the events of this moment."""
        self.events.flush()

    def finish(self) -> None:
        """Add what stands at the end of a stream that went well."""
        if self._options.include_usage:
            usage = {
                name: count for name, count in total_usage(self._choices, self._cached).items() if count is not None
            }
            self.events.event({**self._head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint})
        self.events.add(DONE)
