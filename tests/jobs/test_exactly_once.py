"""Kill anything, any time: every request is answered exactly once. ``make soak`` does the same for longer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.jobs.killing import KILLS, STOPS, Ending, Run, check_exactly_once, failing_fleet
from tests.jobs.shared import texts_of, write_jsonl


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("endings", "requests"), [(KILLS, 700), (STOPS, 2200)], ids=["killed", "interrupted and terminated"]
)
def test_a_job_that_is_cut_short_20_times_loses_nothing_and_asks_nothing_twice(
    endings: Sequence[Ending], requests: int
) -> None:
    cut = 0
    while cut < 20:  # a machine on which a job is done too soon runs another
        cut += check_exactly_once(cut, requests=requests, endings=endings[cut:])


def test_a_disk_that_fills_up_again_and_again_loses_nothing(tmp_path: Path) -> None:
    lines = [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 20} for n in range(300)]
    source, output = write_jsonl(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    codes = []
    with failing_fleet(tmp_path, 2, random.Random(1), faults=False) as hostfile:
        for room in (20_000, 50_000, 90_000, None):
            before = output.read_bytes() if output.exists() else b""
            # A limit on the size of files does what a full disk does, and needs no rights.
            options = ("run", source, "-o", output, "--hostfile", hostfile, "--no-run-log")
            code, said = Run(tmp_path, *options, file_size=room).end()
            codes.append(code)
            assert output.read_bytes().startswith(before)
            assert len(texts_of(output)) > before.count(b"\n")  # nothing torn, and a little more each time
            assert (room is None) == ("the output can't be written" not in said)
    assert codes == [6, 6, 6, 0]
    assert texts_of(output).keys() == {line["id"] for line in lines}
