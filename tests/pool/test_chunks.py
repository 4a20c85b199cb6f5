"""Pieces of a stream wait for who takes them, a few at a time."""

from __future__ import annotations

import asyncio

from aurora_pool.runtime.chunks import CHUNKS_AHEAD, Chunks


async def test_who_puts_waits_while_it_is_full() -> None:
    chunks = Chunks()
    for number in range(CHUNKS_AHEAD):
        assert not chunks.full
        chunks.put(b"%d" % number)
    assert chunks.full
    waiting = asyncio.create_task(chunks.moved())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await chunks.get() == b"0"
    await waiting
    assert [await chunks.get() for _ in range(CHUNKS_AHEAD - 1)] == [b"%d" % n for n in range(1, CHUNKS_AHEAD)]


async def test_who_takes_waits_while_it_is_empty_also_after_one_who_gave_up() -> None:
    chunks = Chunks()
    given_up = asyncio.create_task(chunks.get())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    waiting = asyncio.create_task(chunks.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    chunks.put(b"piece")
    chunks.put(None)
    assert (await waiting, await chunks.get()) == (b"piece", None)
