"""Options of `run` that say what is asked, when it ends, and what is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Call
from tests.jobs.shared import read_records, texts_of, write_jsonl

PROMPTS = [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(300)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", PROMPTS)


def test_rows_are_put_into_a_template_and_kept(call: Call, tmp_path: Path, hostfile: Path) -> None:
    (tmp_path / "in.csv").write_text("pmid,gene\n1,TP53\n2,BRCA1\n")
    (tmp_path / "template.txt").write_text("Describe {gene}.\n")
    output = tmp_path / "out.jsonl"
    ended = call(
        "run", tmp_path / "in.csv", "-o", output, "--hostfile", hostfile, "--template", tmp_path / "template.txt",
        "--id-field", "pmid", "--keep", "gene", "--table", tmp_path / "out.csv", "--max-tokens", "3",
    )  # fmt: skip
    assert (ended.code, "as a table: " in ended.err) == (0, True)
    assert {record["custom_id"]: record["aurora_pool"]["row"] for record in read_records(output)} == {
        "1": {"gene": "TP53"},
        "2": {"gene": "BRCA1"},
    }
    assert (tmp_path / "out.csv").read_text().splitlines()[0].startswith('"id","gene","answer"')
    ended = call("run", tmp_path / "in.csv", "-o", output, "--hostfile", hostfile, "--template", "{gen}")
    assert (ended.code, "in.csv:2: the template has {gen}, and there are pmid, gene" in ended.err) == (3, True)


def test_a_dry_run_tells_and_writes_nothing(call: Call, tmp_path: Path, source: Path, hostfile: Path) -> None:
    output = tmp_path / "out.jsonl"
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--dry-run")
    assert ended.code == 0
    for words in (
        "read as jsonl: 300 requests",
        "model: simulated-model",
        "to run: 300",
        "tokens: about",
        "time: less",
    ):
        assert words in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    call("run", source, "-o", output, "--hostfile", hostfile)
    before = output.read_bytes()
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--dry-run", "--max-tokens", "3")
    assert "run again: 300" in ended.out
    assert output.read_bytes() == before


def test_a_budget_and_hopelessness_have_codes_of_their_own(call: Call, tmp_path: Path, hostfile: Path) -> None:
    lines = [{"id": n, "prompt": "word " * 9000 if n % 10 == 0 else "Hi"} for n in range(3000)]
    source = write_jsonl(tmp_path / "in.jsonl", lines)
    run = ("run", source, "--hostfile", hostfile)
    ended = call(*run, "-o", tmp_path / "a.jsonl", "--stop-after-failures", "5%")
    assert (ended.code, "failed: rejected" in ended.err) == (7, True)
    ended = call(*run, "-o", tmp_path / "b.jsonl", "--max-total-tokens", "100")
    assert (ended.code, "of 100 allowed" in ended.err) == (8, True)


def test_the_model_map_to_use_is_told(call: Call, tmp_path: Path, hostfile: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hi", "model": "gpt-4o-mini"}])
    ended = call("run", source, "-o", tmp_path / "o.jsonl", "--hostfile", hostfile)
    assert (ended.code, "--model-map 'gpt-4o-mini=simulated-model'" in ended.err) == (5, True)


def test_a_file_of_options_means_what_it_says(
    call: Call, tmp_path: Path, source: Path, hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "options.yaml"
    config.write_text(f"no-run-log: true\noutput: ~/o.jsonl\nhostfile: {hostfile}\nmodel-map: a=b\nstop: x\n")
    assert call("run", source, "--config", config).code == 0
    assert (tmp_path / "o.jsonl").exists()
    assert not (tmp_path / "o.jsonl.runlog").exists()
    for text in ("a: 2024-13-45\n", "[" * 1000, "- a\n"):
        config.write_text(text)
        ended = call("run", source, "--config", config)
        assert (ended.code, "Traceback" in ended.err) == (2, False)


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ((), 2, "expected -o FILE, or --claim FOLDER for a job that drivers share"),
        (("-o", "{}", "--claim", "{}"), 2, "-o: with --claim, drivers write into that folder; merge joins"),
        (("--claim", "{}", "--dry-run"), 2, "--dry-run: with --claim, no driver knows what it will get"),
        (("--claim", "{}", "--shard", "0/2"), 2, "--shard: with --claim, pieces of the input are handed out already"),
        (("-o", "{}", "--template", "nowhere"), 2, "nowhere: neither a text with {column} in it nor a template to"),
        (("-o", "{}", "--table", "nowhere/t.csv"), 6, "nowhere/t.csv: the table can't be written (No such file"),
        (("-o", "{}", "--config", __file__), 2, "the configuration is not YAML"),
        (("-o", "{}", "--piece-lines", "9"), 2, "--piece-lines: it means nothing without --claim"),
        (("-o", "{}", "--takeover-after", "9"), 2, "--takeover-after: it means nothing without --claim or --share"),
        (("-o", "{}", "--metrics-host", "::"), 2, "--metrics-host: it means nothing without --metrics-port"),
        (("-o", "{}", "--hostfile", ""), 2, "file, a folder or a name, got ''"),
        (("-o", "{}", "--chat", "--prompt-format", "raw"), 2, "--chat: with --prompt-format raw"),
        (("-o", "{}", "--system-template", "{id}", "--prompt-format", "raw"), 2, "--system-template: with"),
    ],
)
def test_options_that_can_not_be_had_are_told_before_anything_is_there(
    call: Call, tmp_path: Path, source: Path, hostfile: Path, options: tuple[str, ...], code: int, reason: str
) -> None:
    given = [option.replace("{}", str(tmp_path / "out")) for option in options]
    ended = call("run", source, "--hostfile", hostfile, *given)
    assert (ended.code, reason in " ".join(ended.err.split())) == (code, True), ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--template", "--system-template", "--keep", "--id-field", "--prompt-field"])
@pytest.mark.parametrize("place", ["-o", "--claim"])
def test_what_is_said_of_columns_is_refused_for_text(
    call: Call, tmp_path: Path, hostfile: Path, option: str, place: str
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("Say one.\n")
    ended = call("run", source, place, output, "--hostfile", hostfile, option, "{a}")
    assert (ended.code, f"{option}: the input is read as text" in ended.err) == (2, True), ended.err
    assert not output.exists()


@pytest.mark.parametrize(
    "option", ["--template", "--system-template", "--system-prompt", "--id-field", "--prompt-field"]
)
def test_what_makes_requests_of_rows_is_refused_for_openai_batch(
    call: Call, tmp_path: Path, hostfile: Path, option: str
) -> None:
    line = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "Hi", "max_tokens": 2}}
    source = write_jsonl(tmp_path / "in.jsonl", [line])
    ended = call("run", source, "-o", tmp_path / "o.jsonl", "--hostfile", hostfile, option, "{a}")
    assert (ended.code, f"{option}: the input has lines of OpenAI Batch" in ended.err) == (2, True), ended.err


def test_submit_writes_nothing_that_it_does_not_wait_for(call: Call, source: Path, tmp_path: Path) -> None:
    ended = call("submit", source, "-o", tmp_path / "o.jsonl")
    assert (ended.code, "--output: without --watch" in ended.err) == (2, True)


def test_an_end_in_the_past_is_ignored_and_told(
    call: Call, tmp_path: Path, source: Path, hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1500000000")
    ended = call("run", source, "-o", tmp_path / "o.jsonl", "--hostfile", hostfile)
    assert (ended.code, len(texts_of(tmp_path / "o.jsonl"))) == (0, 300)


def test_the_version_is_told(call: Call) -> None:
    assert call("--version").out.startswith("aurora-pool 0.")


def test_a_shell_completes_commands() -> None:
    asked = {"_AURORA_POOL_COMPLETE": "complete_bash", "COMP_WORDS": "aurora-pool r", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("aurora-pool")
    told = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["run", "report"]


def test_commands_work_without_docstrings() -> None:
    ended = subprocess.run([sys.executable, "-OO", *COMMAND[1:], "--help"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_drivers_have_answered_is_kept_when_requests_are_added(
    call: Call, tmp_path: Path, source: Path, hostfile: Path
) -> None:
    shared, output, before = tmp_path / "shared", tmp_path / "out.jsonl", tmp_path / "before.jsonl"
    claim = ("run", source, "--claim", shared, "--hostfile", hostfile)
    ended = call(*claim)
    assert (ended.code, f"to join the answers: aurora-pool merge {shared} -o FILE" in ended.err) == (0, True), ended.err
    ended = call("report", shared)
    assert (ended.code, "expected outputs of aurora-pool run, got a folder: name the" in ended.err) == (3, True)
    before.write_bytes(source.read_bytes())
    write_jsonl(source, [*PROMPTS, {"id": "new", "prompt": "New."}])
    ended = call(*claim)
    assert (ended.code, "to keep its answers, merge it with --input and a copy as it was" in ended.err) == (3, True)
    ended = call("merge", shared, "-o", output)
    assert (ended.code, "--input takes a copy of it as it was" in ended.err) == (3, True)
    merged = call("merge", shared, "-o", output, "--input", before, "--quiet")
    assert (merged.code, merged.err) == (0, "")
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert (ended.code, "earlier runs: 300 answered" in ended.err, "1 request in" in ended.err) == (0, True, True)


def test_shards_without_a_common_folder_are_merged_in_one(
    call: Call, tmp_path: Path, source: Path, hostfile: Path
) -> None:
    folders = tmp_path / "0", tmp_path / "1"
    for index, folder in enumerate(folders):
        ended = call("run", source, "-o", folder, "--shard", f"{index}/2", "--hostfile", hostfile)
        assert (ended.code, f"shards are done: aurora-pool merge {folder} -o FILE" in ended.err) == (0, True), ended.err
    (folders[1] / "shard-1-of-2.jsonl").rename(folders[0] / "shard-1-of-2.jsonl")
    moved = source.rename(tmp_path / "moved.jsonl")
    merge = ("merge", folders[0], "-o", tmp_path / "out.jsonl")
    ended = call(*merge)
    assert (ended.code, "(No such file or directory); --input says where it is now" in ended.err) == (3, True)
    assert call(*merge, "--input", moved).code == 0
    assert len(read_records(tmp_path / "out.jsonl")) == 300


def test_embeddings_are_a_job_as_well(call: Call, tmp_path: Path, hostfile: Path) -> None:
    lines = [{"custom_id": f"e{n}", "url": "/v1/embeddings", "body": {"input": f"text {n}"}} for n in range(9)]
    output = tmp_path / "out.jsonl"
    ended = call("run", write_jsonl(tmp_path / "in.jsonl", lines), "-o", output, "--hostfile", hostfile)
    assert ended.code == 0
    assert all(record["response"]["body"]["data"][0]["embedding"] for record in read_records(output))
