"""Everything that is not a completion: embeddings, tokenizing, models, health, metrics, and the sleep of dev mode."""

from __future__ import annotations

import base64
import math
import struct
from hashlib import shake_128
from typing import Any

from aiohttp import web

from aurora_pool.testing import tokenizer
from aurora_pool.testing.answers import Answer, fingerprint
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import Exchange, json_reply, reply
from aurora_pool.testing.generation import Choice, Generation
from aurora_pool.testing.metrics import CONTENT_TYPE, metrics_page
from aurora_pool.testing.options import Options, field
from aurora_pool.testing.prompts import PromptTokens, encode_prompt, read_prompts
from aurora_pool.testing.refusal import Refusal, invalid
from aurora_pool.testing.template import read_messages, render_chat


async def embeddings(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /v1/embeddings`` with unit vectors that follow from the tokens."""
    body = exchange.body
    await server.check_generates()
    server.check_model(body.get("model"))
    if body.get("dimensions") is not None:
        raise Refusal(400, f'Model "{server.model}" does not support matryoshka representation.', param="dimensions")
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise invalid("encoding_format", "Input should be 'float' or 'base64'", encoding)
    options = Options(max_tokens=1, truncate=field(body, "truncate_prompt_tokens", int, None))
    prompts = read_prompts({"prompt": body.get("input")}, options, server.profile)
    for prompt in prompts:
        server.check_prompt(prompt)
    choices = [Choice(number, prompt, Answer([0], "", "stop")) for number, prompt in enumerate(prompts)]
    await server.generate(Generation(choices), interval=None)
    tokens = sum(len(prompt.ids) for prompt in prompts)
    vectors = [_vector(prompt, server.profile.embedding_size, packed=encoding == "base64") for prompt in prompts]
    return json_reply(
        {
            "id": server.new_id("embd", exchange),
            "object": "list",
            "created": wall_time(),
            "model": server.model,
            "data": [
                {"index": number, "object": "embedding", "embedding": vector} for number, vector in enumerate(vectors)
            ],
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }
    )


async def tokenize(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /tokenize``, of a text or of a conversation."""
    body = exchange.body
    server.check_model(body.get("model"))
    if "messages" in body:
        text = render_chat(body, read_messages(body["messages"], "messages"), server.profile)
        special = field(body, "add_special_tokens", bool, False)
    else:
        given = body.get("prompt")
        if not isinstance(given, str):
            raise invalid("prompt", "Input should be a valid string", given)
        text = given
        special = field(body, "add_special_tokens", bool, True)
    ids = encode_prompt(text, server.profile, add_special_tokens=special)
    texts = [tokenizer.decode((token,)) for token in ids] if body.get("return_token_strs") else None
    return json_reply(
        {"count": len(ids), "max_model_len": server.profile.max_model_len, "tokens": ids, "token_strs": texts}
    )


async def detokenize(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /detokenize``; unknown ids have no text."""
    body = exchange.body
    server.check_model(body.get("model"))
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) and token >= 0 for token in tokens):
        raise invalid("tokens", "Input should be a valid list of integers", tokens)
    known = [token for token in tokens if token < tokenizer.VOCABULARY_SIZE]
    return json_reply({"prompt": tokenizer.decode(known)})


async def models(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``GET /v1/models``: an entry for each name, all of the same model."""
    created = wall_time()
    entries: list[dict[str, Any]] = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": server.model,
            "parent": None,
            "max_model_len": server.profile.max_model_len,
            "permission": [],
        }
        for name in server.names
    ]
    return json_reply({"object": "list", "data": entries})


async def health(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``GET /health``: 200, also while the server sleeps or drains."""
    dead = 503 if server.profile.at_least(0, 11) else 500
    return reply(b"", dead if server.conditions.engine_dead else 200)


async def version(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``GET /version``."""
    return json_reply({"version": server.profile.version})


async def load(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``GET /load``: HTTP requests in flight beside this one, or 0 where that is not tracked."""
    return json_reply({"server_load": server.requests_in_flight - 1 if server.profile.tracks_load else 0})


async def metrics(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``GET /metrics``."""
    engine_loop = server.engine_loop
    engine_loop.catch_up()
    page = metrics_page(
        server.profile, engine_loop.engine, server.counters, asleep=server.conditions.asleep, model=server.model
    )
    return reply(page.encode(), content_type=CONTENT_TYPE)


async def sleep(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``POST /sleep`` and ``POST /pause`` of dev mode."""
    server.conditions.asleep = exchange.received.path == "/sleep"
    server.engine_loop.abort_all()
    server.engine_loop.pause()
    return reply(b"")


async def wake(server: Backend, _: Exchange) -> web.StreamResponse:
    """Answer ``POST /wake_up`` and ``POST /resume`` of dev mode."""
    server.conditions.asleep = False
    server.engine_loop.resume()
    return reply(b"")


async def is_asleep(server: Backend, exchange: Exchange) -> web.StreamResponse:
    """Answer ``GET /is_sleeping`` and ``GET /is_paused`` of dev mode."""
    if exchange.received.path == "/is_sleeping":
        return json_reply({"is_sleeping": server.conditions.asleep})
    return json_reply({"is_paused": server.engine_loop.engine.paused})


def _vector(prompt: PromptTokens, size: int, *, packed: bool) -> list[float] | str:
    digest = shake_128(fingerprint(prompt.ids, None, 0)).digest(4 * size)
    values = [value / 2**31 for value in struct.unpack(f"<{size}i", digest)]
    length = math.sqrt(sum(value * value for value in values))
    data = struct.pack(f"<{size}f", *(value / length for value in values))
    return base64.b64encode(data).decode() if packed else list(struct.unpack(f"<{size}f", data))
