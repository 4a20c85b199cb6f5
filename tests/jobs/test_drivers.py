"""Several drivers on one input, each a process of its own: killed, stopped, woken up; every request once in the end."""

from __future__ import annotations

import errno
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import BadRecord, ConfigError, JobError
from aurora_pool.jobs.claimed_job import ClaimedJob
from aurora_pool.jobs.guardrails import Guardrails
from aurora_pool.jobs.merge import merge
from aurora_pool.jobs.options import JobOptions
from aurora_pool.jobs.shard import open_shard
from aurora_pool.jobs.survey import OnBadLine
from aurora_pool.jobs.validation import Expectation
from aurora_pool.sharing import Part
from tests.forked import Run, wait_until
from tests.jobs.fleets import fleet_of, pool_of, received
from tests.jobs.killing import failing_fleet
from tests.jobs.shared import read_records, texts_of, write_jsonl

NO_CHECK: Any = str.isalnum  # which answers another question
EMBEDDING: dict[str, object] = {
    "custom_id": "e",
    "url": "/v1/embeddings",
    "method": "POST",
    "body": {"input": "text"},
}


def lines(count: int) -> list[dict[str, object]]:
    return [{"id": f"p{number}", "prompt": f"Say {number}.", "max_tokens": 40} for number in range(count)]


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


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("in.csv", {}, r"in\.csv: --claim needs lines of JSON or text, got csv; --shard takes tables, too"),
        ("in.jsonl.gz", {}, r"in\.jsonl\.gz: drivers that share an input need it as a file that is not compressed"),
        ("-", {}, "drivers that share an input need it as a file that is not compressed"),
        ("s3://bucket/in.jsonl", {}, "drivers that share an input need it as a file that each of them can read"),
        ("in.jsonl", {"table": "out.csv"}, "--table comes later: merge, and run it again with -o"),
        ("in.jsonl", {"ordered": True}, "--ordered and --retry-failed come later: merge"),
        ("in.jsonl", {"retry_failed": True}, "--ordered and --retry-failed come later: merge"),
        ("in.jsonl", {"guardrails": Guardrails(max_total_tokens=5)}, "there are no limits of failures, tokens or cost"),
    ],
)
def test_what_drivers_can_not_share_is_refused_with_what_to_do(
    tmp_path: Path, name: str, options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "in.csv").write_text("id,prompt\na,Say a.\n")
    write_jsonl(tmp_path / "in.jsonl", lines(2))
    source = str(tmp_path / name) if name.startswith("in.") else name
    with pytest.raises(ConfigError, match=reason):
        ClaimedJob(source, tmp_path / "shared", JobOptions(**options))
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"in\.jsonl: there is no request in it"),
        ("\n" * 30, r"in\.jsonl: there is no request in it"),
        ("\n{\n[]\n", r"in\.jsonl:2: expected a JSON object"),
    ],
)
async def test_an_input_without_requests_is_refused_by_each_driver_unless_allowed(
    tmp_path: Path, text: str, reason: str
) -> None:
    source, shared = tmp_path / "in.jsonl", tmp_path / "shared"
    source.write_text(text)
    with pytest.raises(BadRecord, match=reason):
        ClaimedJob(str(source), shared, piece_lines=10)
    assert not shared.exists()
    options = JobOptions(allow_empty=True, on_bad_line="skip")
    async with fleet_of(1, instant=True) as fleet, pool_of(fleet) as pool:
        with ClaimedJob(str(source), shared, options, piece_lines=10) as job:
            assert (await job.run(pool)).ending == "finished"
    with pytest.raises(BadRecord, match=reason):
        ClaimedJob(str(source), shared, piece_lines=10)
    write_jsonl(source, lines(3))  # mended: no folder stands in its way
    ClaimedJob(str(source), tmp_path / "other", piece_lines=10).close()


def test_a_shard_needs_a_folder_and_gives_no_table(tmp_path: Path) -> None:
    source, output = str(write_jsonl(tmp_path / "in.jsonl", lines(2))), tmp_path / "out"
    with pytest.raises(ConfigError, match="with --shard, --table comes later: merge, and run it again with -o"):
        open_shard(source, output, JobOptions(table="out.csv"), Part(0, 2))
    assert not output.exists()
    output.write_text("a file")
    with pytest.raises(ConfigError, match="out: expected a folder, in which each shard has its output"):
        open_shard(source, output, JobOptions(), Part(0, 2))
    assert output.read_text() == "a file"


def test_a_folder_of_another_job_is_told(tmp_path: Path) -> None:
    source, shared = str(write_jsonl(tmp_path / "in.jsonl", lines(20))), tmp_path / "shared"
    ClaimedJob(source, shared, piece_lines=10).close()
    with pytest.raises(ConfigError, match=r"begun with model None, not 'm'; use another folder for another job"):
        ClaimedJob(source, shared, JobOptions(model="m"))
    write_jsonl(tmp_path / "in.jsonl", lines(21))
    with pytest.raises(BadRecord, match=r"the input has changed: it has \d+ bytes, and had \d+ when"):
        ClaimedJob(source, shared)
    with pytest.raises(BadRecord, match=r"the input has \d+ bytes, and had \d+ when"):
        merge(shared, tmp_path / "out.jsonl")
    (shared / "plan.json").write_text("{}")
    with pytest.raises(JobError, match=r"plan\.json: this is no plan of drivers"):
        merge(shared, tmp_path / "out.jsonl")
    with pytest.raises(BadRecord, match=r"no plan is in it, so no drivers have shared a job there"):
        merge(tmp_path, tmp_path / "out.jsonl")


@pytest.mark.simulated_clock
async def test_drivers_may_share_a_job_that_asks_for_embeddings(tmp_path: Path) -> None:
    from aurora_pool.embeddings import EmbeddingPool

    body = {"input": "text"}
    requests = [{"custom_id": f"e{n}", "url": "/v1/embeddings", "method": "POST", "body": body} for n in range(40)]
    source = write_jsonl(tmp_path / "in.jsonl", requests)
    async with fleet_of(2) as fleet:
        with ClaimedJob(str(source), tmp_path / "shared", piece_lines=10) as job:
            async with pool_of(fleet) as pool:
                with pytest.raises(ConfigError, match="needs an EmbeddingPool"):
                    await job.run(pool)
            checked = JobOptions(expect=Expectation(check=lambda _: None))
            with pytest.raises(ConfigError, match="an embedding has no text that could be checked"):
                ClaimedJob(str(source), tmp_path / "shared", checked)
            async with EmbeddingPool(fleet.endpoints) as embedders:
                summary = await job.run(embedders)
    assert (summary.ending, summary.answered) == ("finished", 40)
    assert merge(tmp_path / "shared", tmp_path / "out.jsonl").requests == 40


@pytest.mark.simulated_clock
async def test_drivers_need_no_locks_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "as Lustre says where it is mounted without flock")

    monkeypatch.setattr("fcntl.flock", no_locks)
    source = write_jsonl(tmp_path / "in.jsonl", lines(20))
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with ClaimedJob(str(source), tmp_path / "shared", piece_lines=10) as job:
            assert (await job.run(pool)).answered == 20
    assert "lock" not in caplog.text


@pytest.mark.simulated_clock
@pytest.mark.parametrize("on_bad_line", ["stop", "skip"])
@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (
            [*lines(5), {"prompt": "Say 7.", "model": "other"}],
            r"in\.jsonl:16: it asks for the model 'other', the job asks for '.+'",
        ),
        ([EMBEDDING], r"in\.jsonl: its lines ask for embeddings, and those of other pieces don't"),
    ],
)
async def test_a_piece_that_asks_for_something_else_is_refused_once_and_told(
    tmp_path: Path, on_bad_line: OnBadLine, piece: list[dict[str, object]], reason: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*lines(10), *piece])
    options = JobOptions(on_bad_line=on_bad_line)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        for _ in range(2):
            with (
                ClaimedJob(str(source), tmp_path / "shared", options, piece_lines=10) as job,
                pytest.raises(BadRecord, match=r"1 piece can't be answered; .*" + reason),
            ):
                await job.run(pool)
        assert len(received(fleet)) == 10
    assert [path.name for path in (tmp_path / "shared" / "done").iterdir()] == ["00000"]


@pytest.mark.simulated_clock
@pytest.mark.parametrize("on_bad_line", ["stop", "skip"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"expect": Expectation(check=NO_CHECK)}, "check: expected a text that says what is wrong, or None"),
        ({"system_prompt": "Be brief.", "prompt_format": "chat"}, "the input has lines of OpenAI Batch"),
    ],
)
async def test_an_option_that_is_wrong_ends_the_driver_and_refuses_no_piece(
    tmp_path: Path, on_bad_line: OnBadLine, options: dict[str, Any], reason: str
) -> None:
    batch = {"custom_id": "b", "url": "/v1/completions", "method": "POST", "body": {"prompt": "Say 7."}}
    source = write_jsonl(tmp_path / "in.jsonl", [*lines(10), batch])
    asked = JobOptions(on_bad_line=on_bad_line, **options)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with (
            ClaimedJob(str(source), tmp_path / "shared", asked, piece_lines=10) as job,
            pytest.raises(ConfigError, match=reason),
        ):
            await job.run(pool)
    assert not list((tmp_path / "shared" / "unusable").iterdir())


@pytest.mark.simulated_clock
async def test_what_looks_like_a_mistake_in_the_lines_is_told_once_for_all_pieces(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = [{"prompt": f"Say {number}.", "system": "Be brief."} for number in range(39)]
    source = write_jsonl(tmp_path / "in.jsonl", [*columns, {"prompt": "Say 39.", "max_token": 3}])
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with ClaimedJob(str(source), tmp_path / "shared", piece_lines=10) as job:
            assert (await job.run(pool)).answered == 40
    told = [line for line in caplog.messages if "is not sent" in line]
    assert sorted(line.split("'")[1] for line in told) == ["max_token", "system"]


async def test_an_error_that_nobody_foresaw_ends_the_driver_and_leaves_its_pieces_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", lines(40))
    async with fleet_of(1, instant=True) as fleet, pool_of(fleet) as pool:
        with monkeypatch.context() as patch:
            patch.setattr("aurora_pool.jobs.claim_run.Job", lambda *_, **__: 1 / 0)
            with ClaimedJob(str(source), tmp_path / "shared", piece_lines=10) as job, pytest.raises(ZeroDivisionError):
                await job.run(pool)
        with ClaimedJob(str(source), tmp_path / "shared", piece_lines=10) as job:
            summary = await job.run(pool)
    assert (summary.ending, summary.answered, summary.remaining) == ("finished", 40, 0)
    assert merge(tmp_path / "shared", tmp_path / "out.jsonl").requests == 40
