"""The events of a streamed chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aurora_pool.testing.answer_events import AnswerEvents
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.exchange import Exchange
from aurora_pool.testing.generation import Choice
from aurora_pool.testing.logprobs import chat_logprobs
from aurora_pool.testing.options import Options
from aurora_pool.testing.thinking import split_delta
from aurora_pool.testing.usage import usage_of


class ChatEvents(AnswerEvents):
    """Writes the events of one chat: the role first, then each choice's text as its tokens come."""

    def __init__(self, server: Backend, exchange: Exchange, options: Options, choices: Sequence[Choice]) -> None:
        super().__init__(server, exchange, options, choices, prefix="chatcmpl", kind="chat.completion.chunk")
        self._profile = server.profile
        self._cached = choices[0] if server.profile.prompt_tokens_details else None
        self._wants_prompt_text = bool(exchange.body.get("return_prompt_text"))
        self._began = False

    def progressed(self, choice: Choice, tokens: int) -> None:
        """Add an event for the tokens that a choice has gained."""
        if not self._began:
            self._begin()
        ended = choice.finish_reason is not None
        ids = choice.answer.token_ids[choice.seen : tokens]
        start, end = self._texts[choice.index].advance(tokens)
        body: dict[str, Any] = {
            "index": choice.index,
            "delta": self._delta(choice.answer.text, start, end),
            "logprobs": None if self._options.logprobs is None else chat_logprobs(ids, self._options.logprobs),
            "finish_reason": choice.finish_reason,
            "token_ids": ids if self._options.return_token_ids else None,
        }
        if ended:
            body["stop_reason"] = choice.answer.stop_reason
        choice.seen = tokens
        event = {**self._head, "choices": [body]}
        if ended and not self._options.include_usage:
            event["system_fingerprint"] = self._fingerprint
        if self._options.continuous_usage:
            event["usage"] = usage_of(len(choice.prompt.ids), tokens)
        self.events.event(event)

    def _begin(self) -> None:
        self._began = True
        for choice in self._choices:
            self._opening(choice, {"role": choice.role, "content": ""}, with_prompt=True)
        for choice in self._choices:
            if choice.echoed:
                self._opening(choice, {"content": choice.echoed}, with_prompt=False)

    def _opening(self, choice: Choice, delta: dict[str, str], *, with_prompt: bool) -> None:
        body = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        event = {**self._head, "choices": [body]}
        if with_prompt:
            event["prompt_token_ids"] = choice.prompt.ids if self._options.return_token_ids else None
            event["prompt_text"] = choice.prompt.text if self._wants_prompt_text else None
        if self._options.continuous_usage:
            event["usage"] = usage_of(len(choice.prompt.ids), 0)
        self.events.event(event)

    def _delta(self, text: str, start: int, end: int) -> dict[str, str]:
        if not self._profile.reasoning:
            return {"content": text[start:end]}
        reasoning, content = split_delta(text, start, end)
        delta = {}
        if reasoning:
            if self._profile.at_least(0, 11, 2):
                delta["reasoning"] = reasoning
            if not self._profile.at_least(0, 16):
                delta["reasoning_content"] = reasoning
        if content:
            delta["content"] = content
        return delta
