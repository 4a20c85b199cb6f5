"""An input that can be read only once is read whole by every pass over it."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from aurora_pool.errors import BadRecord
from aurora_pool.jobs import Job, JobOptions
from aurora_pool.jobs.copies import TemporaryCopy
from aurora_pool.jobs.files import InputFile
from tests.jobs.fleets import fleet_of, pool_of
from tests.jobs.shared import read_records
from tests.jobs.test_journal import file_size_limit


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
