"""``/v1/embeddings``: a list of texts in one request, their vectors in one reply."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.wire.answer import Answer, Finished, decode, finished
from aurora_pool.wire.errors import error_of
from aurora_pool.wire.lenient import usage_of

PATH = "/v1/embeddings"


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Item] = []
    usage: dict[str, Any] | None = None
    error: Any = None
    model: str | None = None


_DECODER = msgspec.json.Decoder(_Reply)


def encode_request(model: str, contents: Sequence[Any], fields: dict[str, Any]) -> bytes:
    """Write the body; the vectors are asked for as base64 of little-endian 32-bit floats, a third of the text's size.

    >>> encode_request("m", ["a"], {"dimensions": 8})
    b'{"model":"m","input":["a"],"encoding_format":"base64","dimensions":8}'
    """
    return msgspec.json.encode({"model": model, "input": contents, "encoding_format": "base64", **fields})


class EmbeddingsReader:
    """Reads the reply to a request of a number of texts."""

    __slots__ = ("_dimensions", "_texts", "model")

    def __init__(self, texts: int, dimensions: int | None = None) -> None:
        self._texts = texts
        self._dimensions = dimensions
        self.model: str | None = None

    def whole(self, body: bytes) -> Finished:
        """Take the body; see :class:`~aurora_pool.wire.answer.Reader`."""
        reply: _Reply = decode(_DECODER, body)
        if reply.error is not None:
            raise error_of(reply.error)
        if sorted(item.index for item in reply.data) != list(range(self._texts)):
            raise BadReply(f"expected {self._texts} embeddings, got {len(reply.data)}: {body[:120]!r}")
        self.model = reply.model
        usage = usage_of(reply.usage) if self._texts == 1 else None
        vectors = [_vector(item.embedding) for item in reply.data]
        sizes = {len(vector) // 4 if isinstance(vector, bytes) else len(vector) for vector in vectors}
        if len(sizes) > 1 or 0 in sizes or (self._dimensions is not None and sizes != {self._dimensions}):
            raise BadReply(f"embeddings of {sorted(sizes)} dimensions, expected {self._dimensions or 'equally many'}")
        return finished(
            [
                Answer(item.index, "", "stop", usage=usage, embedding=vector)
                for item, vector in zip(reply.data, vectors, strict=True)
            ]
        )

    def events(self, events: Sequence[bytes]) -> None:
        """Refuse events: embeddings are not streamed."""
        raise BadReply("the reply is streamed, and embeddings never are")

    def take(self) -> tuple[list[int], list[Answer]]:
        """Nothing is ever read in parts."""
        return [], []


def _vector(embedding: str | list[float]) -> bytes | list[float]:
    """A vector as the bytes of little-endian 32-bit floats, or as the numbers that an older server sent.

    One with a NaN or an infinity in it is none.
    """
    if not isinstance(embedding, str):
        return embedding
    vector = base64.b64decode(embedding, validate=True)
    if len(vector) % 4:
        raise BadReply(f"an embedding of {len(vector)} bytes, which are no 32-bit floats")
    if not math.isfinite(sum(struct.unpack(f"<{len(vector) // 4}f", vector))):
        raise BadReply("an embedding holds what is no number")
    return vector
