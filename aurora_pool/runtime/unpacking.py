"""Unpack bodies that come compressed though none was asked for, a bounded piece at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from aurora_pool.errors import BadReply

UNPACKED = 1 << 18
"""Bytes that are unpacked at a time."""


def unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """What unpacks a body piece by piece. None was asked for; some proxies pack all the same."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadReply(f"the reply has the content encoding {encoding[:40]!r}, which was not asked for")
    state = zlib.decompressobj(32 + zlib.MAX_WBITS)

    def unpack(packed: bytes) -> Iterator[bytes]:
        while packed:
            try:
                yield state.decompress(packed, UNPACKED)
            except zlib.error:
                raise BadReply("the reply can't be decompressed") from None
            packed = state.unconsumed_tail

    return unpack
