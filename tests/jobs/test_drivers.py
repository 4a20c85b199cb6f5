"""Several drivers on one input, each a process of its own: killed, stopped, woken up; every request once in the end."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from aurora_pool import BadRecord, JobError
from aurora_pool.jobs.merge import merge
from tests.forked import Run, wait_until
from tests.jobs.killing import failing_fleet
from tests.jobs.shared import lines, read_records, texts_of, write_jsonl


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Drivers:
    """Drivers of one folder."""

    def __init__(self, folder: Path, source: Path, hostfile: Path, *options: object) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self._command = ("run", source, "--claim", self.shared, "--hostfile", hostfile, "--takeover-after", 1, *options)
        self._started = 0

    def start(self) -> Run:
        self._started += 1
        own = self.folder / f"driver{self._started}"
        own.mkdir()
        return Run(own, *self._command)

    def written(self) -> int:
        """How many bytes of answers there are, in all files."""
        return sum(map(size_of, (self.shared / "answers").glob("[0-9]*.jsonl")))


def test_a_driver_that_wakes_up_after_its_piece_was_taken_over_writes_no_second_record(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", lines(600))
    with failing_fleet(tmp_path, 1, random.Random(0), faults=False) as hostfile:
        drivers = Drivers(tmp_path, source, hostfile, "--piece-lines", 600)
        first = drivers.start()
        before = drivers.shared / "answers" / "00000.1.jsonl"
        wait_until(lambda: size_of(before) > 4000, "the first driver answers")
        first.send(signal.SIGSTOP)
        second = drivers.start()
        code, said = second.end()
        assert code == 0, said
        stopped_at = before.read_bytes()  # not sooner: a signal takes its time
        first.send(signal.SIGCONT)
        code, said = first.end()
        assert code == 0, said
        assert "taken over" in said
    late = before.read_bytes().removeprefix(stopped_at)
    assert late.count(b"\n") <= 1  # it was stopped after its last look at its lease, and before the write
    after = (drivers.shared / "done" / "00000").read_bytes()
    assert after.startswith(stopped_at[: stopped_at.rfind(b"\n") + 1])  # what it had answered was not asked again
    merged = merge(drivers.shared, tmp_path / "out.jsonl")
    assert (merged.requests, merged.failed) == (600, 0)
    assert list(texts_of(tmp_path / "out.jsonl")) == [f"p{number}" for number in range(600)]  # in order


def test_drivers_killed_at_random_answer_everything_once_and_begin_no_piece_again(tmp_path: Path) -> None:
    rng = random.Random(7)
    source = write_jsonl(tmp_path / "in.jsonl", lines(1500))
    with failing_fleet(tmp_path, 3, rng, faults=True) as hostfile:
        drivers = Drivers(tmp_path, source, hostfile, "--piece-lines", 100)
        running = [drivers.start() for _ in range(3)]
        for _ in range(9):
            until = drivers.written() + rng.randrange(1, 12_000)

            def on(until: int = until) -> bool:
                # On a machine that gives the test little time, the drivers are done before the last kills.
                return drivers.written() >= until or not any(each.alive for each in running)

            wait_until(on, "the drivers go on")
            victim = rng.randrange(3)
            running[victim].send(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            assert running[victim].end()[0] in {0, 143, -signal.SIGKILL, -signal.SIGTERM}
            running[victim] = drivers.start()
        for each in running:
            code, said = each.end()
            assert code == 0, said
    with pytest.raises(JobError, match=r"nowhere/out\.jsonl: can't be merged \(No such file or directory\)"):
        merge(drivers.shared, tmp_path / "nowhere" / "out.jsonl")
    merged = merge(drivers.shared, tmp_path / "out.jsonl.gz")
    assert (merged.requests, merged.failed) == (1500, 0)
    answers = sorted((drivers.shared / "answers").glob("[0-9]*.jsonl"))
    again = [path for path in answers if path.name.split(".")[1] != "1"]
    assert again  # pieces were taken over
    for path in again:
        number, generation, _ = path.name.split(".")
        before = [drivers.shared / "answers" / f"{number}.{each}.jsonl" for each in range(int(generation) - 1, 0, -1)]
        there = next((each for each in before if each.exists()), None)
        if there is not None:
            text = there.read_bytes()
            assert path.read_bytes().startswith(text[: text.rfind(b"\n") + 1])


def test_shards_divide_the_ids_and_are_merged(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", lines(300))
    shared, output = tmp_path / "shared", tmp_path / "out.jsonl"
    with failing_fleet(tmp_path, 1, random.Random(0), faults=False) as hostfile:
        command = ("run", source, "-o", shared, "--hostfile", hostfile)
        for shard in ("0/3", "2/3"):
            code, said = Run(tmp_path, *command, "--shard", shard).end()
            assert code == 0, said
        with pytest.raises(BadRecord, match=r"shards not begun: 1 \('1/3'\); missing: \d+ \('p\d+'"):
            merge(shared, output)
        assert not output.exists()
        code, said = Run(tmp_path, *command, "--shard", "0/4").end()
        assert (code, "begun with 3 shards" in said) == (2, True)
        code, said = Run(tmp_path, *command, "--shard", "1/3").end()
        assert code == 0, said
    assert merge(shared, output).requests == 300
    assert len(texts_of(output)) == 300


def test_what_is_merged_is_proven(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", lines(60))
    with failing_fleet(tmp_path, 1, random.Random(0), faults=False) as hostfile:
        drivers = Drivers(tmp_path, source, hostfile, "--piece-lines", 20)
        assert drivers.start().end()[0] == 0
    whole = {path.name: path.read_bytes() for path in (drivers.shared / "done").iterdir()}

    def wrong(name: str, text: bytes, match: str) -> None:
        (drivers.shared / "done" / name).write_bytes(text)
        with pytest.raises(BadRecord, match=match):
            merge(drivers.shared, tmp_path / "out.jsonl")
        (drivers.shared / "done" / name).write_bytes(whole[name])

    first, *rest = whole["00001"].splitlines(keepends=True)
    name = json.loads(first)["custom_id"]
    wrong("00001", b"".join(rest), rf"missing: 1 \('{name}'\)")
    wrong("00001", first + whole["00001"], rf"twice: 1 \('{name}'\)")
    wrong("00001", whole["00001"] + whole["00002"].splitlines(keepends=True)[0], "not in the input: 1")
    wrong("00001", whole["00001"][:-20], "missing: 1 .*; torn: 1|torn: 1 .*; missing: 1")
    other = json.loads(first)
    other["aurora_pool"]["request"] = "0123456789abcdef"
    wrong("00001", json.dumps(other).encode() + b"\n" + b"".join(rest), "answers to other requests")
    assert merge(drivers.shared, tmp_path / "out.jsonl").requests == 60
    with pytest.raises(JobError, match="there already"):
        merge(drivers.shared, tmp_path / "out.jsonl")
    (drivers.shared / "done" / "00002").unlink()
    with pytest.raises(BadRecord, match=r"pieces not done: 1 \('00002'\); missing: 20"):
        merge(drivers.shared, tmp_path / "more.jsonl")
    source.write_text(source.read_text() + "\n")
    with pytest.raises(BadRecord, match="the input has"):
        merge(drivers.shared, tmp_path / "more.jsonl")


def test_an_id_that_stands_in_two_pieces_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*lines(30), {"id": "p3", "prompt": "Say it again."}])
    with failing_fleet(tmp_path, 1, random.Random(0), faults=False) as hostfile:
        drivers = Drivers(tmp_path, source, hostfile, "--piece-lines", 10)
        assert drivers.start().end()[0] == 0
    for in_memory in (1 << 20, 15):  # all of them; all but those of the third piece
        monkeypatch.setattr("aurora_pool.jobs.merge.IN_MEMORY", in_memory)
        with pytest.raises(BadRecord, match=r"twice in the input: 1 \('p3'\)"):
            merge(drivers.shared, tmp_path / "out.jsonl")


def test_a_bad_line_stops_its_piece_only_and_is_told(tmp_path: Path) -> None:
    asked: list[object] = [*lines(30)]
    asked[14] = "{"
    source = write_jsonl(tmp_path / "in.jsonl", asked)
    with failing_fleet(tmp_path, 1, random.Random(0), faults=False) as hostfile:
        drivers = Drivers(tmp_path, source, hostfile, "--piece-lines", 10)
        for _ in range(2):
            code, said = drivers.start().end()
            assert code == 3
            assert "1 piece can't be answered" in said
            assert "in.jsonl:15: expected a JSON object" in said
        assert sorted(path.name for path in (drivers.shared / "done").iterdir()) == ["00000", "00002"]
        skipping = Drivers(tmp_path / "shared", source, hostfile, "--on-bad-line", "skip", "--piece-lines", 10)
        skipping.shared = drivers.shared
        code, said = Run(
            tmp_path, "run", source, "--claim", drivers.shared, "--hostfile", hostfile, "--on-bad-line", "skip"
        ).end()
        assert code == 0, said
    merged = merge(drivers.shared, tmp_path / "out.jsonl")
    assert (merged.requests, merged.skipped) == (29, 1)
    assert len(read_records(tmp_path / "out.jsonl")) == 29
