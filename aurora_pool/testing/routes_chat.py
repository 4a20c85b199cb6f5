"""``/v1/chat/completions``, whole or streamed, and ``/v1/chat/completions/batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from aurora_pool.testing import tokenizer
from aurora_pool.testing.answers import make_answer
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import Exchange, json_reply
from aurora_pool.testing.generation import Choice, Generation
from aurora_pool.testing.logprobs import chat_logprobs
from aurora_pool.testing.logprobs import prompt_logprobs as make_prompt_logprobs
from aurora_pool.testing.options import Body, Options, check_logprobs, read_options
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.prompts import check_tokens, prompt_tokens
from aurora_pool.testing.refusal import Refusal, invalid
from aurora_pool.testing.stream_chat import ChatEvents
from aurora_pool.testing.template import content_of, read_messages, render_chat
from aurora_pool.testing.thinking import split_thinking
from aurora_pool.testing.usage import total_usage


async def chat_completions(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /v1/chat/completions``."""
    body = exchange.body
    await server.check_generates()
    options = _options(server, body)
    server.check_model(body.get("model"))
    if body.get("tools") is not None and body.get("tool_choice", "auto") != "none":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        raise Refusal(400, message if body["tools"] else "`tools` must not be an empty list.")
    try:
        check_logprobs(options, server.profile)
        choices = _choices(server, body, read_messages(body.get("messages"), "messages"), options, first_index=0)
        if not options.stream:
            await server.generate(Generation(choices), interval=None)
            reply = _whole(server, exchange, options, choices)
            if server.profile.prompt_tokens_details:
                reply["usage"] = total_usage(choices, choices[0])
            prompt = choices[0].prompt
            reply["prompt_logprobs"] = (
                None if options.prompt_logprobs is None else make_prompt_logprobs(prompt.ids, options.prompt_logprobs)
            )
            reply["prompt_token_ids"] = prompt.ids if options.return_token_ids else None
            reply["prompt_text"] = prompt.text if body.get("return_prompt_text") else None
            return json_reply(reply, headers=server.load_header(exchange))
    except Refusal as refusal:
        if refusal.late and options.stream:
            return await server.stream_refusal(exchange, refusal)
        raise
    return await server.stream(exchange, ChatEvents(server, exchange, options, choices), options.interval)


async def batch_chat_completions(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /v1/chat/completions/batch``: one choice for each conversation.

    ``stream`` is not refused: each text is then only its last piece, and each counts as one token. That is vLLM's trap,
    kept here so that a client that falls into it is seen to.
    """
    body = exchange.body
    await server.check_generates()
    streams = bool(body.get("stream"))
    options = _options(server, {**body, "stream": False, "stream_options": None})
    server.check_model(body.get("model"))
    if options.n != 1:
        raise invalid("n", "Batch chat completions only support n=1", options.n)
    if body.get("use_beam_search"):
        raise invalid("use_beam_search", "Batch chat completions do not support beam search", value=True)
    if body.get("tool_choice") not in (None, "none"):
        raise invalid("tool_choice", "Input should be 'none'", body["tool_choice"])
    conversations = body.get("messages")
    if not isinstance(conversations, list) or not conversations:
        raise invalid("messages", "List should have at least 1 item after validation", conversations)
    check_logprobs(options, server.profile)
    choices: list[Choice] = []
    for number, conversation in enumerate(conversations):
        place = f"messages.{number}"
        messages = read_messages(conversation, place)
        if not messages:
            raise invalid(place, "List should have at least 1 item after validation", conversation)
        choices += _choices(server, body, messages, options, first_index=number)
    await server.generate(Generation(choices), interval=None)
    if streams:
        for choice in choices:
            answer = choice.answer
            answer.token_ids = answer.token_ids[-1:]
            answer.text = tokenizer.decode(answer.token_ids, skip_special=True)
    return json_reply(_whole(server, exchange, options, choices))


def _options(server: Backend, body: Body) -> Options:
    options = read_options(body, server.profile, chat=True)
    if server.conditions.garble == "plain":
        options.stream = False
    return options


def _choices(
    server: Backend, body: Body, messages: Sequence[dict[str, Any]], options: Options, *, first_index: int
) -> list[Choice]:
    profile = server.profile
    prompt = prompt_tokens(render_chat(body, messages, profile), options, profile)
    check_tokens(prompt)
    server.check_prompt(prompt)
    last = messages[-1]
    said = content_of(last)
    choices = []
    for sample in range(options.n):
        answer = make_answer(profile, options, prompt, sample=sample, asked=said)
        choice = Choice(first_index + sample, prompt, answer, first_sample=sample == 0)
        if body.get("echo") and body.get("add_generation_prompt") is False:
            choice.echoed = said
        choice.role = "assistant" if body.get("add_generation_prompt", True) else str(last["role"])
        choices.append(choice)
    return choices


def _whole(server: Backend, exchange: Exchange, options: Options, choices: Sequence[Choice]) -> dict[str, Any]:
    return {
        "id": server.new_id("chatcmpl", exchange),
        "object": "chat.completion",
        "created": wall_time(),
        "model": server.model,
        "choices": [_whole_choice(choice, options, server.profile) for choice in choices],
        "service_tier": None,
        "system_fingerprint": server.fingerprint,
        "usage": total_usage(choices),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _whole_choice(choice: Choice, options: Options, profile: AgentProfile) -> dict[str, Any]:
    answer = choice.answer
    reasoning: str | None = None
    content: str | None = answer.text
    if profile.reasoning:
        reasoning, content = split_thinking(answer.text)
    message: dict[str, Any] = {
        "role": choice.role,
        "content": content if content is None else choice.echoed + content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if profile.at_least(0, 11, 2):
        message["reasoning"] = reasoning
    if not profile.at_least(0, 16):
        message["reasoning_content"] = reasoning
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None if options.logprobs is None else chat_logprobs(answer.token_ids, options.logprobs),
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "token_ids": answer.token_ids if options.return_token_ids else None,
        "routed_experts": None,
    }
