"""How a prompt is written for a server that knows no more than the API: as a chat, whatever form it had before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aurora_pool.errors import ServerError
from aurora_pool.messages import Sampling, Usage
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.work import InFlightRequest, Portable
from aurora_pool.runtime.request_kinds import Reports, RequestKind, SingleChat
from aurora_pool.wire import chat
from aurora_pool.wire.rate_limits import left

if TYPE_CHECKING:
    from aurora_pool.runtime.reply import Reply
    from aurora_pool.wire.answer import Finished

REPLY_WITHIN = 600.0
"""Seconds that a hosted agent has for a whole reply: it has no counters to read, as the openai client has it."""
EVERYWHERE = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)
"""Fields of a chat request that are OpenAI's own."""


def is_portable(sampling: Sampling) -> bool:
    """Whether any API understands all that is asked for.

    >>> is_portable(Sampling(temperature=0.0)), is_portable(Sampling(extra={"min_tokens": 4}))
    (True, False)
    """
    engines_own = sampling.top_k is not None or sampling.prompt_logprobs is not None or sampling.return_token_ids
    return not engines_own and EVERYWHERE.issuperset(sampling.extra)


class PlainChat(SingleChat):
    """One prompt of any kind as a chat. ``usage`` is what its reply counts, None before there is one."""

    __slots__ = ("_portable", "usage")

    def __init__(self, kind: RequestKind, portable: Portable, model: str | None) -> None:
        fields = {name: value for name, value in kind.fields.items() if name in EVERYWHERE}
        super().__init__(kind.sink, model or kind.model, fields)
        self._portable = portable
        self.usage: Usage | None = None

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """0: only a whole reply is sure to tell what it has cost."""
        return 0

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes:
        """Write the chat request."""
        portable = self._portable
        return chat.encode_request(self.model, portable.messages, self.fields, token_budget or None)

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply, and what it says of the agent's limits."""
        reports.limits_reported(request.agent, left(reply.headers, "requests"), left(reply.headers, "tokens"))
        bounds = self.bounds(request)
        reader = _Counted(self._n, bounds=bounds)
        reader.counted = None
        try:
            await reports.read_answers(reply, reader, bounds, self, request)
        finally:
            self.usage = reader.counted

    def fit_max_tokens(self, request: InFlightRequest, error: ServerError) -> bool:
        """Nothing: what was reserved is what is sent."""
        return False


class _Counted(chat.ChatReader):
    """Reads a reply; ``counted`` is what it counts."""

    __slots__ = ("counted",)

    counted: Usage | None

    def whole(self, body: bytes) -> Finished:
        """Take the body."""
        found = super().whole(body)
        self.counted = found.answers[0].usage
        return found
