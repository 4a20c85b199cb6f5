"""A job that drivers share: what each of them refuses, what ends it, and what it may ask for."""

from __future__ import annotations

import errno
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
from tests.jobs.fleets import fleet_of, pool_of, received
from tests.jobs.shared import lines, write_jsonl

NO_CHECK: Any = str.isalnum  # which answers another question
EMBEDDING: dict[str, object] = {
    "custom_id": "e",
    "url": "/v1/embeddings",
    "method": "POST",
    "body": {"input": "text"},
}


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
