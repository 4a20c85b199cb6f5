"""``/v1/embeddings``: a list of texts in one request, their vectors in one reply."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Usage
from aurora_pool.wire.answer import Answer, decode
from aurora_pool.wire.errors import error_of

PATH = "/v1/embeddings"


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Item] = []
    usage: Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Reply)


def encode_request(model: str, contents: Sequence[Any], fields: dict[str, Any]) -> bytes:
    """Write the body; the vectors are asked for as base64 of little-endian 32-bit floats, a third of the text's size.

    >>> encode_request("m", ["a"], {"dimensions": 8})
    b'{"model":"m","input":["a"],"encoding_format":"base64","dimensions":8}'
    """
    return msgspec.json.encode({"model": model, "input": contents, "encoding_format": "base64", **fields})


class EmbeddingsReader:
    """Reads the reply to a request of a number of texts."""

    __slots__ = ("_texts",)

    def __init__(self, texts: int) -> None:
        self._texts = texts

    def whole(self, body: bytes) -> Sequence[Answer]:
        """Take the body; see :class:`~aurora_pool.wire.answer.Reader`."""
        reply: _Reply = decode(_DECODER, body)
        if reply.error is not None:
            raise error_of(reply.error)
        if sorted(item.index for item in reply.data) != list(range(self._texts)):
            raise BadReply(f"expected {self._texts} embeddings, got {len(reply.data)}: {body[:120]!r}")
        usage = reply.usage if self._texts == 1 else None
        return [Answer(i.index, "", "stop", usage=usage, embedding=_vector(i.embedding)) for i in reply.data]


def _vector(embedding: str | list[float]) -> bytes | list[float]:
    """A vector as the bytes of little-endian 32-bit floats, or as the numbers that an older server sent."""
    return base64.b64decode(embedding) if isinstance(embedding, str) else embedding
