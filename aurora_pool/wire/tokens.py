"""``/tokenize`` and ``/detokenize``: text and conversations to token ids and back. They take one prompt a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.wire.answer import decode

TOKENIZE_PATH = "/tokenize"
DETOKENIZE_PATH = "/detokenize"


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Text(msgspec.Struct):
    prompt: str | None = None
    content: str | None = None
    """llama.cpp's name for it."""


_TOKENS = msgspec.json.Decoder(_Tokens)
_TEXT = msgspec.json.Decoder(_Text)


def tokenize_text(model: str, text: str, *, add_special_tokens: bool) -> bytes:
    """Write the body that asks for a text's token ids."""
    return msgspec.json.encode({"model": model, "prompt": text, "add_special_tokens": add_special_tokens})


def tokenize_messages(model: str, messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any] | None) -> bytes:
    """Write the body that asks for a conversation's token ids, as the chat endpoint would make them."""
    body: dict[str, Any] = {"model": model, "messages": messages, "add_generation_prompt": True}
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    return msgspec.json.encode(body)


def parse_tokens(body: bytes) -> list[int]:
    """Read the token ids; raises :class:`BadReply` where there are none.

    >>> parse_tokens(b'{"count":2,"max_model_len":2048,"tokens":[5,7]}')
    [5, 7]
    """
    tokens: _Tokens = decode(_TOKENS, body)
    if not tokens.tokens and b"count" not in body:  # llama.cpp's answer to a question that it does not understand
        raise BadReply(f"no tokens in the reply: {body[:120]!r}")
    return tokens.tokens


def detokenize(model: str, tokens: Sequence[int]) -> bytes:
    """Write the body that asks for the text of token ids."""
    return msgspec.json.encode({"model": model, "tokens": tokens})


def parse_text(body: bytes) -> str:
    """Read the text; raises :class:`BadReply` where there is none."""
    text: _Text = decode(_TEXT, body)
    found = text.content if text.prompt is None else text.prompt
    if found is None:
        raise BadReply(f"no text in the reply: {body[:120]!r}")
    return found
