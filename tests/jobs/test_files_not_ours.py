"""A file that is not a job's own is never touched, and an answer that is in one is never dropped."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aurora_pool.errors import BadRecord, ConfigError, JobError
from aurora_pool.jobs import Job, JobOptions, read_answers, run_job
from aurora_pool.jobs.codec import Lines, encoder
from aurora_pool.jobs.copies import TemporaryCopy
from aurora_pool.jobs.files import InputFile, compression_of
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.paths import check_apart, replacement, written_by_job
from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.messages import Response
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records, texts_of
from tests.jobs.test_journal import file_size_limit

SIDES = [".lock", ".runlog", ".superseded", ".damaged", ".rescued"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


# -- outputs that are something else ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", b'{"a":1}'),
        ("c.jsonl", b'{"a":1}\n{"b":2}\n'),
        ("c.jsonl", b"\n"),
        ("c.jsonl", b"\0" * 4096),
        ("notes.txt", b"My notes"),
        ("notes.gz", gzip.compress(b"My notes", mtime=0)),
        ("notes.gz", b"no gzip at all"),
        ("notes.zst", b"no zstd at all"),
        ("empty.gz", gzip.compress(b"", mtime=0)),
    ],
)
@pytest.mark.simulated_clock
async def test_a_file_without_one_record_is_left_alone(
    tmp_path: Path, write_lines: WriteLines, name: str, content: bytes
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:3]), tmp_path / name
    output.write_bytes(content)
    before = snapshot(tmp_path)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with pytest.raises(JobError, match="there is no record in it"):
            await run_job(pool, source, output)
        assert received(fleet) == []
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
@pytest.mark.simulated_clock
async def test_a_last_record_without_its_lines_end_is_a_record(
    tmp_path: Path, write_lines: WriteLines, name: str
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:3]), tmp_path / name
    record = b'{"custom_id":"p0","response":{"status_code":200,"body":{"choices":[{"text":"A"}]}},"error":null}'
    coder = encoder(compression_of(name))
    output.write_bytes(coder.encode(record) + coder.finish())
    assert [answer.text for answer in read_answers(output)] == ["A"]
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, source, output)
        assert len(received(fleet)) == 2
    assert (summary.resumed.answered, summary.resumed.torn, summary.answered) == (1, False, 3)
    assert next(iter(Lines(output, compression_of(name)))) == record + b"\n"
    assert len(list(read_answers(output))) == 3


@pytest.mark.simulated_clock
async def test_what_is_cut_off_is_set_aside_and_told(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:3]), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        whole = output.read_bytes()
        output.write_bytes(whole[:-30])
        summary = await run_job(pool, source, output)
    assert (summary.resumed.torn, summary.done) == (True, 1)
    cut = whole.splitlines()[-1][:-29]
    assert (tmp_path / "out.jsonl.superseded").read_bytes() == cut + b"\n"


# -- damage -----------------------------------------------------------------------------------------------------------

RNG = random.Random(7)
LINES = [
    encode_record(
        RequestReader().read(b'{"id": %d, "prompt": "a"}' % number, 1),
        Response(True, RNG.randbytes(60).hex(), finish_reason="stop"),
        model="m",
        created=1,
        agent="a:1",
    )
    for number in range(9000)
]


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
    return packed(compression, LINES[:3000], killed=True) + packed(compression, LINES[3000:])


def cut_and_joined(compression: str) -> bytes:
    return packed(compression, LINES[:3000], killed=True)[:-1000] + packed(compression, LINES[3000:])


def zeros(compression: str) -> bytes:
    return packed(compression, LINES)[:-4096] + bytes(4096)


def bits(compression: str) -> bytes:
    return flipped(packed(compression, LINES))


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
@pytest.mark.parametrize(("damage", "kept"), [(joined, 9000), (cut_and_joined, 8980), (zeros, 8900), (bits, 4400)])
def test_every_readable_record_of_a_damaged_file_is_kept(
    tmp_path: Path, name: str, damage: Callable[[str], bytes], kept: int
) -> None:
    path = tmp_path / name
    path.write_bytes(damage(compression_of(name)))
    lines = Lines(path, compression_of(name))
    found = set(lines)
    assert len(found.intersection(LINES)) >= kept
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
    good = LINES[0]
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
    journal.append(LINES[0])
    journal.close()
    assert zstandard.get_frame_parameters((tmp_path / "out.jsonl.zst").read_bytes()).has_checksum


# -- one file by two names --------------------------------------------------------------------------------------------


def test_what_is_written_is_never_what_is_read(tmp_path: Path, write_lines: WriteLines) -> None:
    source = write_lines("q.ordered.jsonl", PROMPTS)
    link = tmp_path / "link.jsonl"
    link.hardlink_to(source)
    (tmp_path / "sym.jsonl").symlink_to(source)
    log = write_lines("in.jsonl.runlog", PROMPTS)
    before = snapshot(tmp_path)
    cases: list[tuple[Path, str | Path, JobOptions]] = [
        (source, tmp_path / "q.jsonl", JobOptions(ordered=True)),
        (source, link, JobOptions()),
        (source, tmp_path / "sym.jsonl", JobOptions()),
        (source, f"{tmp_path}/./q.ordered.jsonl", JobOptions()),
        (log, tmp_path / "in.jsonl", JobOptions()),
        (tmp_path / "out.csv", tmp_path / "o.jsonl", JobOptions(table=tmp_path / "out.csv")),
        (source, tmp_path / "out.csv", JobOptions(table=tmp_path / "out.csv")),
    ]
    for requests, output, options in cases:
        with pytest.raises(ConfigError, match="would be written"):
            Job(requests, output, options)
    assert snapshot(tmp_path) == before


def test_a_device_may_be_named_twice() -> None:
    check_apart(["/dev/null"], ["/dev/null", None, "-"])


def test_a_second_link_to_an_output_is_the_same_output(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    output.touch()
    (tmp_path / "other.jsonl").hardlink_to(output)
    with Job(source, output), pytest.raises(JobError, match="another run is writing to this file, by another name"):
        Job(source, tmp_path / "other.jsonl")


@pytest.mark.simulated_clock
async def test_a_repaired_output_stays_locked(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        lines = output.read_bytes().splitlines(keepends=True)
        output.write_bytes(b"".join([*lines[:5], b"noise\n", *lines[5:]]))

        def look(*_: object) -> None:
            (tmp_path / "link.jsonl").unlink(missing_ok=True)
            (tmp_path / "link.jsonl").hardlink_to(output)
            with pytest.raises(JobError, match="by another name"):
                Job(source, tmp_path / "link.jsonl")
            looked.append(1)

        looked: list[int] = []
        with Job(source, output) as job:
            await job.run(pool, on_resumed=look)
    assert looked


# -- what stands beside an output -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", SIDES)
@pytest.mark.parametrize("kind", ["link", "pipe", "hard link", "folder"])
@pytest.mark.simulated_clock
async def test_nothing_is_written_through_a_link_or_into_a_pipe(
    tmp_path: Path, write_lines: WriteLines, ending: str, kind: str
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:20]), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output, JobOptions(run_log=False))
        output.write_bytes(output.read_bytes()[:-200] + b"\nnoise\n" + b"{")
        precious, side = tmp_path / "precious", tmp_path / f"out.jsonl{ending}"
        precious.write_bytes(b"precious")
        if kind == "link":
            side.symlink_to(precious)
        elif kind == "hard link":
            side.hardlink_to(precious)
        elif kind == "folder":
            side.mkdir()
        else:
            os.mkfifo(side)
        try:
            await run_job(pool, source, output)
        except JobError:
            assert ending != ".runlog"  # which is no record of anything: the job goes on without
    assert precious.read_bytes() == b"precious"


@pytest.mark.simulated_clock
async def test_a_file_that_has_the_name_of_a_lock_or_log_keeps_its_content(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:5]), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.lock").write_text("notes")
    with pytest.raises(JobError, match="it is no lock of a run"):
        Job(source, output)
    assert (tmp_path / "out.jsonl.lock").read_text() == "notes"
    (tmp_path / "out.jsonl.lock").unlink()
    (tmp_path / "out.jsonl.runlog").write_text("notes")
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
    assert (tmp_path / "out.jsonl.runlog").read_text() == "notes"


@pytest.mark.simulated_clock
async def test_what_stands_beside_an_output_is_as_private_as_it(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:20]), tmp_path / "out.jsonl"
    output.touch(mode=0o600)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output, JobOptions(ordered=True))
        output.write_bytes(output.read_bytes() + b"noise\n")
        await run_job(pool, source, output, JobOptions(ordered=True))
    modes = modes_in(tmp_path)
    del modes["in.jsonl"]
    assert modes.keys() == {"out.jsonl", "out.jsonl.runlog", "out.jsonl.superseded", "out.ordered.jsonl"}
    assert set(modes.values()) == {0o600}


def test_a_temporary_file_has_a_name_that_nobody_can_have_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    names: list[str] = []

    def fail() -> None:
        with replacement(path) as file:
            file.write(b"half")
            names.extend(each.name for each in tmp_path.iterdir())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    (name,) = names
    assert name.startswith(".out.jsonl.")
    assert not list(tmp_path.iterdir())
    assert Path("out.jsonl.runlog") in written_by_job("out.jsonl")


@pytest.mark.simulated_clock
async def test_a_repair_that_is_out_of_room_sets_nothing_aside_twice(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        output.write_bytes(b"noise\n" * 3 + output.read_bytes())
        with file_size_limit(5000), pytest.raises(JobError):
            await run_job(pool, source, output)
        await run_job(pool, source, output)
    assert (tmp_path / "out.jsonl.superseded").read_bytes() == b"noise\n" * 3
    assert len(texts_of(output)) == 200


# -- inputs that can be read once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["named pipe", "/dev/fd"])
@pytest.mark.simulated_clock
async def test_an_input_that_can_be_read_once_is_read_whole(tmp_path: Path, kind: str) -> None:
    lines = "".join(f"Say {number}.\n" for number in range(500))
    if kind == "named pipe":
        source = tmp_path / "pipe"
        os.mkfifo(source)
        threading.Thread(target=source.write_text, args=[lines]).start()
    else:
        reading, writing = os.pipe()
        os.write(writing, lines.encode())
        os.close(writing)
        source = Path(f"/dev/fd/{reading}")
    with Job(source, tmp_path / "out.jsonl", JobOptions(input_format="text")) as job:
        async with fleet_of(1) as fleet, pool_of(fleet) as pool:
            summary = await job.run(pool)
    if kind != "named pipe":
        os.close(reading)
    assert (summary.total, summary.answered, len(read_records(tmp_path / "out.jsonl"))) == (500, 500, 500)


def test_standard_input_is_read_whole_by_every_pass() -> None:
    source = InputFile("-", stdin=io.BytesIO(b"a prompt\n" * 50), input_format="text")
    assert [len(list(source.lines())) for _ in range(3)] == [50, 50, 50]
    first, second = source.lines(), source.lines()
    assert [next(first), next(second), next(first)] == [(1, b"a prompt"), (1, b"a prompt"), (2, b"a prompt")]
    source.close()


@pytest.mark.parametrize("stdin", [None, "closed", "notebook"])
def test_whatever_stands_in_for_standard_input(monkeypatch: pytest.MonkeyPatch, stdin: str | None) -> None:
    replaced = io.StringIO("a prompt\n" * 3)
    if stdin == "closed":
        replaced.close()
    monkeypatch.setattr(sys, "stdin", None if stdin is None else replaced)
    if stdin == "notebook":
        source = InputFile("-")
        assert len(list(source.lines())) == 3
        source.close()
    else:
        with pytest.raises(BadRecord, match="standard input is closed"):
            InputFile("-")


def test_no_room_for_a_copy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with file_size_limit(5000), pytest.raises(BadRecord, match=r"no copy of it can be made in .*TMPDIR"):
        TemporaryCopy(io.BytesIO(b"x" * 10_000), "<stdin>")


def test_a_line_without_an_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aurora_pool.jobs.files.LONGEST_LINE", 1000)
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(b"short\n" + b"x" * 5000))
    with pytest.raises(BadRecord, match=r"in\.txt\.gz:2: a line of more than 1000 bytes"):
        list(InputFile(path).lines())
