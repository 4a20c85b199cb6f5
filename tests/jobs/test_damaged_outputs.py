"""Of a damaged output every readable record is kept, and what is lost is asked again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from aurora_pool.errors import JobError
from aurora_pool.jobs import read_answers, run_job
from aurora_pool.jobs.codec import Lines, encoder
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.messages import Response
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines


@cache
def records() -> list[bytes]:
    rng = random.Random(7)
    return [
        encode_record(
            RequestReader().read(b'{"id": %d, "prompt": "a"}' % number, 1),
            Response(True, rng.randbytes(60).hex(), finish_reason="stop"),
            model="m",
            created=1,
            agent="a:1",
        )
        for number in range(9000)
    ]


@cache
def whole(compression: str) -> bytes:
    return packed(compression, records())


def packed(compression: str, lines: list[bytes], *, killed: bool = False) -> bytes:
    coder = encoder(compression)  # type: ignore[arg-type]
    data = b"".join(map(coder.encode, lines))
    return data if killed else data + coder.finish()


def flipped(data: bytes) -> bytes:
    changed, rng = bytearray(data), random.Random(3)
    for _ in range(8):
        changed[rng.randrange(len(changed) // 2, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def joined(compression: str) -> bytes:
    return packed(compression, records()[:3000], killed=True) + packed(compression, records()[3000:])


def cut_and_joined(compression: str) -> bytes:
    return packed(compression, records()[:3000], killed=True)[:-1000] + packed(compression, records()[3000:])


def zeros(compression: str) -> bytes:
    return whole(compression)[:-4096] + bytes(4096)


def bits(compression: str) -> bytes:
    return flipped(whole(compression))


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
@pytest.mark.parametrize(("damage", "kept"), [(joined, 9000), (cut_and_joined, 8980), (zeros, 8900), (bits, 4400)])
def test_every_readable_record_of_a_damaged_file_is_kept(
    tmp_path: Path, name: str, damage: Callable[[str], bytes], kept: int
) -> None:
    path = tmp_path / name
    path.write_bytes(damage(compression_of(name)))
    lines = Lines(path, compression_of(name))
    found = set(lines)
    assert len(found.intersection(records())) >= kept
    assert lines.torn


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
@pytest.mark.simulated_clock
async def test_damage_is_set_aside_and_told_and_only_what_is_lost_is_asked_again(
    tmp_path: Path, write_lines: WriteLines, name: str
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / name
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        whole = output.read_bytes()
        output.write_bytes(whole[:-512] + bytes(4096))
        count = len(received(fleet))
        summary = await run_job(pool, source, output)
        assert 0 < len(received(fleet)) - count < 40
    assert (summary.answered, summary.resumed.torn) == (200, True)
    assert summary.resumed.unreadable + summary.resumed.damaged > 0  # zeros may well be gzip's code for some text
    aside = [tmp_path / f"{name}{ending}" for ending in (".damaged", ".superseded")]
    assert any(path.exists() and path.stat().st_size for path in aside)
    assert len({answer.id for answer in read_answers(output)}) == 200


def test_a_flipped_bit_is_never_an_answer(tmp_path: Path) -> None:
    """At every byte of a record: it is no record any more, or it says the same."""
    good = records()[0]
    for place in range(len(good) - 1):
        for bit in (1, 16):
            damaged = bytearray(good)
            damaged[place] ^= bit
            path = tmp_path / "out.jsonl"
            path.write_bytes(bytes(damaged))
            try:
                answers = [(answer.id, answer.text) for answer in read_answers(path)]
            except JobError:
                continue
            assert answers in (
                [],
                [(json.loads(good)["custom_id"], json.loads(good)["response"]["body"]["choices"][0]["text"])],
            )


def test_a_finished_zstd_output_has_a_checksum(tmp_path: Path) -> None:
    import zstandard

    journal = Journal(tmp_path / "out.jsonl.zst")
    journal.append(records()[0])
    journal.close()
    assert zstandard.get_frame_parameters((tmp_path / "out.jsonl.zst").read_bytes()).has_checksum
