"""``/v1/completions``: one prompt or a list, whole or streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from aurora_pool.testing.answer_events import AnswerEvents
from aurora_pool.testing.answers import make_answer
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import Exchange, json_reply
from aurora_pool.testing.generation import Choice, Generation
from aurora_pool.testing.logprobs import completion_logprobs, prompt_logprobs
from aurora_pool.testing.options import Options, check_logprobs, read_options
from aurora_pool.testing.prompts import read_prompts
from aurora_pool.testing.refusal import Refusal
from aurora_pool.testing.template import last_said
from aurora_pool.testing.usage import total_usage, usage_of

_ENCODE = msgspec.json.Encoder().encode


async def completions(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /v1/completions``."""
    body = exchange.body
    await server.check_generates()
    options = read_options(body, server.profile)
    if server.conditions.garble == "plain":
        options.stream = False
    server.check_model(body.get("model"))
    if body.get("suffix"):
        raise Refusal(400, "suffix is not currently supported")
    try:
        check_logprobs(options, server.profile)
        choices = _choices(server, body, options)
        if not options.stream:
            generation = Generation(choices)
            await server.generate(generation, interval=None)
            return json_reply(_whole(server, exchange, options, choices), headers=server.load_header(exchange))
    except Refusal as refusal:
        if refusal.late and options.stream:
            return await server.stream_refusal(exchange, refusal)
        raise
    return await server.stream(exchange, CompletionEvents(server, exchange, options, choices), options.interval)


def _choices(server: Backend, body: dict[str, Any], options: Options) -> list[Choice]:
    choices: list[Choice] = []
    for prompt in read_prompts(body, options, server.profile):
        server.check_prompt(prompt)
        asked = last_said(prompt.shown()) if callable(server.profile.reply) else None
        for sample in range(options.n):
            answer = make_answer(server.profile, options, prompt, sample=sample, asked=asked)
            choices.append(Choice(len(choices), prompt, answer, first_sample=sample == 0))
    return choices


def _whole(server: Backend, exchange: Exchange, options: Options, choices: Sequence[Choice]) -> dict[str, Any]:
    return {
        "id": server.new_id("cmpl", exchange),
        "object": "text_completion",
        "created": wall_time(),
        "model": server.model,
        "choices": [_whole_choice(choice, options) for choice in choices],
        "service_tier": None,
        "system_fingerprint": server.fingerprint,
        "usage": total_usage(choices, choices[-1] if server.profile.prompt_tokens_details else None),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _whole_choice(choice: Choice, options: Options) -> dict[str, Any]:
    answer, prompt = choice.answer, choice.prompt
    text, ids = answer.text, answer.token_ids
    if options.echo:
        shown = "" if options.return_token_ids else prompt.shown()
        scores_only = options.max_tokens == 0
        text, ids = (shown, [*prompt.ids]) if scores_only else (shown + text, [*prompt.ids, *ids])
    logprobs = None
    if options.logprobs is not None:
        logprobs = completion_logprobs(ids, options.logprobs, first_is_none=options.echo, as_ids=options.tokens_as_ids)
    return {
        "index": choice.index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "token_ids": answer.token_ids if options.return_token_ids else None,
        "prompt_logprobs": None
        if options.prompt_logprobs is None
        else prompt_logprobs(prompt.ids, options.prompt_logprobs),
        "prompt_token_ids": prompt.ids if options.return_token_ids else None,
        "routed_experts": None,
    }


class CompletionEvents(AnswerEvents):
    """Writes the events of a streamed completion: one choice in each, as its tokens come."""

    def __init__(self, server: Backend, exchange: Exchange, options: Options, choices: Sequence[Choice]) -> None:
        super().__init__(server, exchange, options, choices, prefix="cmpl", kind="text_completion")
        self._reports_cached = server.profile.prompt_tokens_details
        self._start = b"data: %b," % _ENCODE(self._head)[:-1]
        self._offsets = [0] * len(choices)

    def progressed(self, choice: Choice, tokens: int) -> None:
        """Add an event for the tokens that a choice has gained."""
        options = self._options
        ended = choice.finish_reason is not None
        ids = choice.answer.token_ids[choice.seen : tokens]
        start, end = self._texts[choice.index].advance(tokens)
        text = choice.answer.text[start:end]
        first = choice.seen == 0
        choice.seen = tokens
        if self._reports_cached and self._cached is None:
            self._cached = choice
        shown_ids: Sequence[int] = ids
        if first and options.echo:
            prompt = "" if options.return_token_ids else choice.prompt.shown()
            scores_only = options.max_tokens == 0
            text = prompt if scores_only else prompt + text
            shown_ids = choice.prompt.ids if scores_only else [*choice.prompt.ids, *ids]
        event: dict[str, Any] = {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(choice, shown_ids, first=first),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.answer.stop_reason if ended else None,
            "prompt_token_ids": choice.prompt.ids if first and (options.return_token_ids or options.echo) else None,
            "token_ids": ids if options.return_token_ids else None,
        }
        tail = b""
        if options.continuous_usage:
            tail += b',"usage":' + _ENCODE(usage_of(len(choice.prompt.ids), tokens))
        if ended and not options.include_usage:
            tail += b',"system_fingerprint":' + _ENCODE(self._fingerprint)
        self.events.add(b'%b"choices":[%b]%b}\n\n' % (self._start, _ENCODE(event), tail))

    def _logprobs(self, choice: Choice, ids: Sequence[int], *, first: bool) -> dict[str, Any] | None:
        count = self._options.logprobs
        if count is None:
            return None
        found = completion_logprobs(
            ids,
            count,
            offset=self._offsets[choice.index],
            first_is_none=first and self._options.echo,
            as_ids=self._options.tokens_as_ids,
        )
        self._offsets[choice.index] += sum(map(len, found["tokens"]))
        return found
