"""``/v1/models``: what a server serves."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import MOST_TOKENS
from aurora_pool.wire.answer import decode
from aurora_pool.wire.errors import error_of

MODELS_PATH = "/v1/models"


class _Meta(msgspec.Struct, frozen=True):
    n_ctx: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)] | None = None


class ServedModel(msgspec.Struct, frozen=True):
    """A model name that a server answers to; ``parent`` is set for an adapter (LoRA), ``root`` is what lies behind."""

    id: str
    max_model_len: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)] | None = None
    root: str | None = None
    parent: str | None = None
    owned_by: str = ""
    meta: _Meta | None = None
    """llama.cpp's place for the context length: of each of its slots."""

    @property
    def context(self) -> int | None:
        """How many tokens a prompt and its answer may have, if it says so."""
        return self.max_model_len or (None if self.meta is None else self.meta.n_ctx)


class _Models(msgspec.Struct):
    data: list[ServedModel] = []
    error: Any = None


_MODELS = msgspec.json.Decoder(_Models)


def parse_models(body: bytes) -> list[ServedModel]:
    """Read the body of ``/v1/models``; raises :class:`BadReply` where it is none.

    >>> parse_models(b'{"data":[{"id":"m","max_model_len":2048}]}')[0].max_model_len
    2048
    """
    models: _Models = decode(_MODELS, body)
    if models.error is not None:
        raise error_of(models.error)
    if not models.data:
        raise BadReply(f"no model in the reply: {body[:120]!r}")
    return models.data
