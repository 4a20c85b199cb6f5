"""How servers of an engine speak the API: what vLLM's do, and what others lack.

An agent's dialect is known by the tag ``engine=`` of its hostfile line, or by who owns the models that it lists; what
is missing in both is learnt from what it refuses. There is no class for each engine: a dialect is a few facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from aurora_pool.engine_names import as_engine_name
from aurora_pool.errors import ServerError
from aurora_pool.wire.tokens import TOKENIZE_PATH

MAX_TOKENS = "max_tokens"
MAX_COMPLETION_TOKENS = "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server takes.

    - ``lists``: many prompts in one request, each of which is text or token ids;
    - ``further_fields``: fields that the API does not have; others refuse a request that has one;
    - ``tokenize_field``: under which name ``/tokenize`` takes a text;
    - ``tokens_field``: under which name an answer's limit goes: OpenAI's reasoning models refuse ``max_tokens``.
    """

    lists: bool = True
    further_fields: bool = True
    tokenize_field: str = "prompt"
    tokens_field: str = MAX_TOKENS


VLLM = Dialect()
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "vllm": VLLM,
        "sglang": VLLM,
        "llamacpp": Dialect(tokenize_field="content"),
        "ollama": Dialect(lists=False),
        "transformers": Dialect(lists=False, further_fields=False),
    }
)
"""The dialects of all engines that a hostfile may name."""

OURS = frozenset({"stream_interval", "add_special_tokens"})
"""Fields that the pool adds, and can do without."""


def dialect_of(engine: str) -> Dialect:
    """The dialect of an engine, by its name in a hostfile or what ``/v1/models`` says owns its models.

    >>> dialect_of("llamacpp").tokenize_field, dialect_of("somebody") is VLLM
    ('content', True)
    """
    return DIALECTS.get(as_engine_name(engine), VLLM)


def learnt(dialect: Dialect, error: ServerError) -> Dialect | None:
    """What a refusal shows of a server's dialect; None if it shows nothing new.

    >>> learnt(VLLM, ServerError(400, "prompt must be a string.")) == Dialect(lists=False)
    True
    >>> learnt(VLLM, ServerError(422, "Unexpected fields in the request: {'stream_interval'}"))
    Dialect(lists=True, further_fields=False, tokenize_field='prompt', tokens_field='max_tokens')
    """
    if error.status not in (400, 422):
        return None
    words = error.message.lower()
    if dialect.lists and "prompt" in words and "must be a string" in words:
        return replace(dialect, lists=False)
    if dialect.further_fields and any(field in words for field in OURS) and "unexpected" in words:
        return replace(dialect, further_fields=False)
    if dialect.tokens_field == MAX_TOKENS and f"'{MAX_TOKENS}'" in words and f"'{MAX_COMPLETION_TOKENS}'" in words:
        return replace(dialect, tokens_field=MAX_COMPLETION_TOKENS)
    return None


def written(dialect: Dialect, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Write a request's body so that a server takes it; lists must have been split where it takes none.

    >>> plain = Dialect(lists=False, further_fields=False)
    >>> written(plain, "/v1/completions", {"prompt": ["Hi"], "stream_interval": 9, "seed": 1})
    {'prompt': 'Hi', 'seed': 1}
    """
    if not dialect.further_fields:
        body = {name: value for name, value in body.items() if name not in OURS}
        if "stream_options" in body:
            body["stream_options"] = {"include_usage": True}
    if dialect.tokens_field != MAX_TOKENS and MAX_TOKENS in body:
        body = {**body, dialect.tokens_field: body[MAX_TOKENS]}
        del body[MAX_TOKENS]
    prompt = body.get("prompt")
    if path == TOKENIZE_PATH and dialect.tokenize_field != "prompt" and prompt is not None:
        return {dialect.tokenize_field: prompt, "add_special": body["add_special_tokens"]}
    if not dialect.lists and isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        body = {**body, "prompt": prompt[0]}
    return body
