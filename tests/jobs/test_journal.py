"""The output file: appended to, cut, repaired, locked, rescued."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from aurora_pool.errors import JobError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.journal import Journal

RECORDS = [b'{"custom_id": "%d", "text": "%s"}\n' % (number, b"x" * number) for number in range(40)]
NAMES = ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"]


def fill(path: Path, records: list[bytes]) -> None:
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.close()


def append_all(journal: Journal, records: list[bytes]) -> None:
    for record in records:
        journal.append(record)


def repair(journal: Journal, lines: Lines, drop: Sequence[int] = (), *, aside: Sequence[int] = ()) -> None:
    asyncio.run(journal.repair(lines, drop, aside=aside))


def content(path: Path) -> list[bytes]:
    journal = Journal(path)
    lines = list(journal.lines())
    journal.close()
    return lines


def unpack(path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        import zstandard

        with path.open("rb") as file:
            return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_runs_append_is_one_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    fill(path, RECORDS[:20])
    fill(path, RECORDS[20:])
    assert content(path) == RECORDS
    assert unpack(path) == b"".join(RECORDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    journal = Journal(path)
    for count, record in enumerate(RECORDS, start=1):
        journal.append(record)
        assert len(list(journal.lines())) == count
    journal.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_leaves_whole_records_and_can_be_repaired(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    fill(whole, RECORDS[:3])
    fill(whole, RECORDS[3:6])
    data = whole.read_bytes()
    path = tmp_path / f"cut-{name}"
    seen = set()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        journal = Journal(path)
        lines = journal.lines()
        found = list(lines)
        assert found == RECORDS[: len(found)]
        seen.add(len(found))
        repair(journal, lines)
        journal.append(b'{"custom_id": "new"}\n')
        journal.close()
        assert unpack(path) == b"".join(RECORDS[: len(found)]) + b'{"custom_id": "new"}\n'
    assert seen == set(range(7))


@pytest.mark.parametrize("name", NAMES)
def test_repair_takes_lines_out_and_lays_some_aside(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    fill(path, RECORDS[:5])
    path.chmod(0o640)
    journal = Journal(path)
    lines = journal.lines()
    list(lines)
    repair(journal, lines, [1, 3], aside=[3])
    journal.append(RECORDS[9])
    journal.close()
    assert content(path) == [RECORDS[0], RECORDS[2], RECORDS[4], RECORDS[9]]
    assert (tmp_path / f"{name}.superseded").read_bytes() == RECORDS[3]
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, f"{name}.superseded"])


def test_repair_follows_a_link_to_its_file(tmp_path: Path) -> None:
    target = tmp_path / "scratch" / "real.jsonl"
    target.parent.mkdir()
    fill(target, RECORDS[:3])
    link = tmp_path / "out.jsonl"
    link.symlink_to(target)
    journal = Journal(link)
    lines = journal.lines()
    list(lines)
    repair(journal, lines, [0])
    journal.close()
    assert link.is_symlink()
    assert target.read_bytes() == b"".join(RECORDS[1:3])


def test_nothing_written_leaves_nothing_behind(tmp_path: Path) -> None:
    Journal(tmp_path / "out.jsonl").close()
    assert not list(tmp_path.iterdir())


# -- two runs -------------------------------------------------------------------------------------------------------


def test_a_second_run_is_kept_out_and_told_who_is_in(tmp_path: Path) -> None:
    first = Journal(tmp_path / "out.jsonl")
    with pytest.raises(JobError, match=rf"another run is writing to it \(process {os.getpid()} on"):
        Journal(tmp_path / "out.jsonl")
    first.close()
    Journal(tmp_path / "out.jsonl").close()


def test_a_killed_run_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code = (
        f"import os; from aurora_pool.jobs.journal import Journal; j = Journal({str(path)!r}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.with_name("out.jsonl.lock").exists()
    Journal(path).close()


# -- what disks do --------------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond ``size`` bytes of a file fail, in the middle of a record if need be, as a full disk does.

    The kernel says EFBIG where a full disk says ENOSPC; both are OSErrors of the same write.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_stops_it_and_loses_no_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    journal = Journal(path)
    with file_size_limit(200), pytest.raises(JobError, match="can't be written"):
        append_all(journal, RECORDS)
    written = journal.records
    with pytest.raises(JobError, match="failed before"):
        journal.append(RECORDS[0])
    journal.close()
    assert 0 < written < len(RECORDS)
    assert content(path) == RECORDS[:written]
    again = Journal(path)
    lines = again.lines()
    list(lines)
    repair(again, lines)
    for record in RECORDS[written:]:
        again.append(record)
    again.close()
    assert unpack(path) == b"".join(RECORDS)


def test_a_repair_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, RECORDS)
    before = path.read_bytes()
    journal = Journal(path)
    lines = journal.lines()
    list(lines)
    with file_size_limit(100), pytest.raises(JobError):
        repair(journal, lines, [0])
    journal.close()
    assert path.read_bytes() == before


def test_an_output_that_is_deleted_is_rescued(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    journal.sync()
    path.unlink()
    with pytest.raises(JobError, match=r"vanished .*saved as .*out\.jsonl\.rescued"):
        journal.sync()
    with pytest.raises(JobError):
        journal.append(RECORDS[0])
    journal.close()
    assert (tmp_path / "out.jsonl.rescued").read_bytes() == b"".join(RECORDS)


def test_an_output_that_is_moved_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = Journal(path)
    journal.append(RECORDS[0])
    path.rename(tmp_path / "moved.jsonl")
    with pytest.raises(JobError, match="moved or replaced"):
        journal.sync()
    journal.close()
    assert (tmp_path / "moved.jsonl").read_bytes() == RECORDS[0]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"can't be written \(No such file"):
        Journal(tmp_path / "nowhere" / "out.jsonl")


def test_a_device_is_written_to_and_never_read(tmp_path: Path) -> None:
    journal = Journal("/dev/full")
    assert not list(journal.lines())
    with pytest.raises(JobError, match="No space left on device"):
        journal.append(RECORDS[0])
    journal.close()
    assert not Path("/dev/full.lock").exists()


@pytest.mark.parametrize(("every", "expected"), [(True, 3), (False, 0)])
def test_the_disk_is_waited_for_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: bool, expected: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal(tmp_path / "out.jsonl", fsync_every_record=every)
    for record in RECORDS[:3]:
        journal.append(record)
    assert len(synced) == expected
    journal.sync()
    assert len(synced) == expected + 1
    journal.close()


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path / "out.jsonl")
    journal.append(RECORDS[0])
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JobError, match="Input/output error"):
        journal.sync()
    monkeypatch.undo()
    journal.close()


def test_noise_in_a_compressed_file_ends_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"
    fill(path, RECORDS[:3])
    path.write_bytes(path.read_bytes() + zlib.compress(b"no gzip member"))
    journal = Journal(path)
    lines = journal.lines()
    assert list(lines) == RECORDS[:3]
    assert lines.torn
    repair(journal, lines)
    journal.close()
    assert unpack(path) == b"".join(RECORDS[:3])
