"""A file that is not a job's own is never touched, and an answer that is in one is never dropped."""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path

import pytest

from aurora_pool.errors import ConfigError, JobError
from aurora_pool.jobs import Job, JobOptions, read_answers, run_job
from aurora_pool.jobs.codec import Lines, encoder
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.paths import check_apart, written_by_job
from aurora_pool.own_files import replacement
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, texts_of
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

        def watch(*_: object) -> None:
            (tmp_path / "link.jsonl").unlink(missing_ok=True)
            (tmp_path / "link.jsonl").hardlink_to(output)
            with pytest.raises(JobError, match="by another name"):
                Job(source, tmp_path / "link.jsonl")
            called.append(1)

        called: list[int] = []
        with Job(source, output) as job:
            await job.run(pool, on_resumed=watch)
    assert called


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
        told = ""
        try:
            await run_job(pool, source, output)
        except JobError as error:
            told = str(error)
        assert not told or ending != ".runlog"  # which is no record of anything: the job goes on without
        assert (ending == ".lock") == ("the lock can't be taken (" in told)
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
