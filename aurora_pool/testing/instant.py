"""Answers at once and at almost no cost: for measuring clients, whose server must not be what is measured.

Plain requests to an ``instant`` agent are answered from prepared bytes, in one write. The answer is one of a few
prepared ones, and a prompt is not tokenized: it counts a token for every four characters. Whatever is not plain (stop
strings, log-probabilities, samples, faults, bad items) takes the usual way, which is slower and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec
from aiohttp import web

from aurora_pool.testing.answers import make_words
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import Exchange, reply
from aurora_pool.testing.faults import Conditions
from aurora_pool.testing.tokenizer import decode, encode

_ENCODE = msgspec.json.Encoder().encode
_LENGTH = 8
_ANSWERS = 64
_PLAIN = frozenset(
    {
        "add_special_tokens",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "prompt",
        "seed",
        "stream",
        "stream_interval",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)
_RANGES = {
    "seed": (int, -(2**63), 2**63 - 1),
    "stream_interval": (int, 1, 2**63),
    "temperature": (float, 0.0, 2.0),
    "top_k": (int, -1, 2**63),
    "top_p": (float, 1e-9, 1.0),
}
"""Of fields that change no prepared answer: what they must be. Whatever else they are is refused the usual way."""
_EVENTS = "text/event-stream; charset=utf-8"


class InstantAnswers:
    """The prepared answers of one server."""

    def __init__(self, server: Backend) -> None:
        said = server.profile.reply
        texts = (
            [encode(said)]
            if isinstance(said, str)
            else [make_words(bytes([number]), _LENGTH) for number in range(_ANSWERS)]
        )
        self._server = server
        self._healthy = Conditions()
        self._lengths = [len(ids) + 1 for ids in texts]
        self._longest = max(self._lengths)
        self._whole = [_ENCODE(decode(ids)) for ids in texts]
        self._firsts = [
            b',"text":%b,"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
            b'"token_ids":null}]' % _ENCODE(decode(ids[:1]))
            for ids in texts
        ]
        self._lasts = [
            b',"text":%b,"logprobs":null,"finish_reason":"stop","stop_reason":null,"prompt_token_ids":null,'
            b'"token_ids":null}]' % _ENCODE(decode(ids[1:]))
            for ids in texts
        ]
        self._name = _ENCODE(server.profile.model)

    def answer(self, exchange: Exchange) -> web.Response | None:
        """Answer a plain request; None for one that must take the usual way."""
        body = exchange.received.body
        if not isinstance(body, dict) or not self._is_plain(body):
            return None
        if exchange.received.path == "/v1/chat/completions":
            return None if body.get("stream") else self._chat(body)
        prompts = self._prompts(body.get("prompt"))
        if prompts is None:
            return None
        return self._stream(body, prompts) if body.get("stream") else self._list(prompts)

    def _is_plain(self, body: dict[str, Any]) -> bool:
        server = self._server
        allowed = body.get("max_completion_tokens") or body.get("max_tokens")
        return (
            body.keys() <= _PLAIN
            and body.get("n", 1) == 1
            and body.get("model", server.profile.model) == server.profile.model
            and (allowed is None or (type(allowed) is int and self._longest <= allowed <= server.profile.max_model_len))
            and all(_is_in_range(name, body[name]) for name in _RANGES.keys() & body.keys())
            and server.conditions == self._healthy
            and not server.engine_loop.engine.paused
            and server.profile.streams
        )

    def _prompts(self, prompt: object) -> Sequence[str | Sequence[int]] | None:
        if isinstance(prompt, str):
            return [prompt] if prompt else None
        limit = self._server.profile.prompt_limit or 1_000_000
        if not isinstance(prompt, list) or not 0 < len(prompt) <= limit:
            return None
        kind = type(prompt[0])
        return prompt if kind in (str, list) and all(type(item) is kind and item for item in prompt) else None

    def _head(self, prefix: str) -> bytes:
        kind = b"text_completion" if prefix == "cmpl" else b"chat.completion"
        name = self._server.new_number()
        created = wall_time()
        return b'{"id":"%b-%032x","object":"%b","created":%d,"model":%b,' % (
            prefix.encode(),
            name,
            kind,
            created,
            self._name,
        )

    def _choose(self, prompt: str | Sequence[int]) -> tuple[int, int]:
        """Choose the answer to a prompt, and count the prompt's tokens."""
        if isinstance(prompt, str):
            return crc32(prompt.encode()) % len(self._whole), len(prompt) // 4 + 1
        return sum(prompt) % len(self._whole), len(prompt)

    def _stream(self, body: dict[str, Any], prompts: Sequence[str | Sequence[int]]) -> web.Response:
        options = body.get("stream_options") or {}
        total, each = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        start = b"data: " + self._head("cmpl")
        opening = start + b'"choices":[{"index":%d%b'
        closing = b'%b,"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}\n\n'
        firsts, lasts = [], []
        read = written = 0
        for index, prompt in enumerate(prompts):
            number, tokens = self._choose(prompt)
            length = self._lengths[number]
            read += tokens
            written += length
            first, last = opening % (index, self._firsts[number]), opening % (index, self._lasts[number])
            if each:
                firsts.append(closing % (first, tokens, tokens + 1, 1))
                lasts.append(closing % (last, tokens, tokens + length, length))
            else:
                firsts.append(first + b"}\n\n")
                lasts.append(last + b"}\n\n")
        if total:
            lasts.append(closing % (start + b'"choices":[]', read, read + written, written))
        lasts.append(b"data: [DONE]\n\n")
        self._server.count_instant(len(prompts), read, written)
        return reply(b"".join(firsts) + b"".join(lasts), content_type=_EVENTS)

    def _list(self, prompts: Sequence[str | Sequence[int]]) -> web.Response:
        choices = []
        read = written = 0
        for index, prompt in enumerate(prompts):
            number, tokens = self._choose(prompt)
            read += tokens
            written += self._lengths[number]
            choices.append(
                b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,'
                b'"prompt_logprobs":null,"prompt_token_ids":null}' % (index, self._whole[number])
            )
        self._server.count_instant(len(prompts), read, written)
        return self._finish(self._head("cmpl"), choices, read, written)

    def _chat(self, body: dict[str, Any]) -> web.Response | None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
            return None
        said = messages[-1].get("content")
        if not isinstance(said, str):
            return None
        number, tokens = self._choose(said)
        choice = (
            b'{"index":0,"message":{"role":"assistant","content":%b,"refusal":null,"reasoning":null},"logprobs":null,'
            b'"finish_reason":"stop","stop_reason":null,"token_ids":null}' % self._whole[number]
        )
        self._server.count_instant(1, tokens, self._lengths[number])
        return self._finish(self._head("chatcmpl"), [choice], tokens, self._lengths[number])

    def _finish(self, head: bytes, choices: Sequence[bytes], read: int, written: int) -> web.Response:
        usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
            read,
            read + written,
            written,
        )
        return reply(b'%b"choices":[%b],%b}' % (head, b",".join(choices), usage))


def _is_in_range(name: str, value: object) -> bool:
    kind, low, high = _RANGES[name]
    return value is None or (type(value) in (int, kind) and low <= value <= high)  # type: ignore[operator]
