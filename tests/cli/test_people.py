"""Whatever becomes of those who are told, a command does its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.summary import exit_code_of
from aurora_pool.terminal import printable
from tests.cli.conftest import COMMAND, Call
from tests.forked import Run, on_terminal, simulated
from tests.jobs.shared import read_records, texts_of, write_jsonl
from tests.serve.running import jsonl, line

PROMPTS = [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(300)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", PROMPTS)


def shell(line: str, *words: object, **environment: str) -> tuple[int, str, str]:
    """Run a line of shell, in which "$@" is the command."""
    command = ["bash", "-c", line, "bash", *COMMAND, *map(str, words)]
    ended = subprocess.run(
        command,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    return ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "line",
    [
        '"$@" 2>/dev/full',
        '"$@" 2>&-',
        '"$@" <&-',
        '"$@" >&-',
        '"$@" <&- >&- 2>&-',
        'set -o pipefail; { "$@" 2>&1 >&3 | true; } 3>&1',
    ],
)
def test_a_job_is_done_whoever_hears_of_it(tmp_path: Path, source: Path, hostfile: Path, line: str) -> None:
    output = tmp_path / "out.jsonl"
    code, _, said = shell(line, "run", source, "-o", output, "--hostfile", hostfile, "--json")
    assert (code, "Traceback" in said) == (0, False)
    assert len(texts_of(output)) == 300


def test_answers_are_merged_whoever_hears_of_it(tmp_path: Path, source: Path, hostfile: Path) -> None:
    shared, output = tmp_path / "shared", tmp_path / "out.jsonl"
    code, _, said = shell('"$@" 2>&-', "run", source, "--claim", shared, "--hostfile", hostfile)
    assert (code, said) == (0, "")
    code, _, said = shell('"$@" >&- 2>&-', "merge", shared, "-o", output)
    assert (code, said) == (0, "")
    assert len(texts_of(output)) == 300


def test_a_batch_whose_answers_nobody_would_get_is_not_handed_in(tmp_path: Path) -> None:
    batch = tmp_path / "batch.jsonl"
    batch.write_bytes(jsonl([line("a")]))
    unreached = "http://127.0.0.1:9"  # to ask it would end with 5
    code, _, said = shell('"$@" >&-', "submit", batch, "--watch", "-o", "-", "--server", unreached)
    assert (code, said.count("\n"), "standard output is closed" in said) == (6, 1, True)


def test_answers_to_a_closed_standard_output_are_told(source: Path, hostfile: Path) -> None:
    code, _, said = shell('"$@" >&-', "run", source, "-o", "-", "--hostfile", hostfile)
    assert (code, "standard output is closed" in said) == (6, True)
    code, _, said = shell('"$@" >/dev/full', "ask", "Hi", "--hostfile", hostfile)
    assert (code, said.count("\n"), "can't be written" in said) == (6, 1, True)


@pytest.mark.parametrize("command", ["ask", "summarize"])
def test_an_encoding_costs_no_answer(tmp_path: Path, hostfile: Path, command: str) -> None:
    text = tmp_path / "a.txt"
    text.write_text("The lamp was lit at four.\n")
    what = "What?" if command == "ask" else str(text)
    code, out, said = shell('"$@"', command, what, "--hostfile", hostfile, PYTHONIOENCODING="latin-1", LC_ALL="C")
    assert (code, bool(out.strip()), "Traceback" in said) == (0, True, False)


def test_a_name_that_is_not_utf8(tmp_path: Path, source: Path, hostfile: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.jsonl")
    run = Run(tmp_path, "run", source, "-o", name, "--hostfile", hostfile, "--json")
    assert run.end()[0] == 0
    assert json.loads(run.gave)["answered"] == 300
    page = tmp_path / "page.html"
    assert Run(tmp_path, "report", name, "--html", page).end() == (0, "")
    assert page.exists()


@pytest.mark.parametrize(
    ("columns", "environment"),
    [
        (100, {}),
        (40, {}),
        (120, {"PYTHONIOENCODING": "ascii"}),
        (80, {"TERM": "dumb"}),
    ],
)
def test_a_terminal_of_any_kind(
    tmp_path: Path, source: Path, hostfile: Path, columns: int, environment: dict[str, str]
) -> None:
    output = tmp_path / "answers[v2].jsonl"
    words = ("run", source, "-o", output, "--hostfile", hostfile)
    code, said = on_terminal(tmp_path, *words, columns=columns, **environment)
    assert (code, "Traceback" in said) == (0, False)
    assert "all done: 300 of 300 answered" in said
    assert "answers[v2].jsonl" in said
    assert said.count("\n") < 40  # nothing floods it


@pytest.mark.parametrize(("options", "bars"), [((), True), (("--quiet",), False)])
def test_quiet_is_quiet_about_data_sets_too(
    tmp_path: Path, hostfile: Path, options: tuple[str, ...], bars: bool
) -> None:
    import datasets

    rows = [{"prompt": f"Say {number}."} for number in range(17)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "rows", num_shards=17)  # a bar from 17 files on
    words = ("run", tmp_path / "rows", "-o", tmp_path / "o.jsonl", "--hostfile", hostfile)
    code, said = on_terminal(tmp_path, *words, *options)
    assert (code, "Loading dataset from disk" in said) == (0, bars)
    assert bars or not said


def test_the_count_is_shown_at_any_width() -> None:
    from io import StringIO

    from rich.console import Console

    from aurora_pool.cli.display import _Bar
    from tests.cli.test_commands import progress

    for width in (30, 40, 80, 200):
        file = StringIO()
        bar = _Bar(Console(file=file, width=width, force_terminal=True))
        bar.start()
        bar.update(progress(3))
        bar.stop()
        assert "50/100" in file.getvalue()


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("a\x1b[2Jb\x07\x9b\u202e\tc\n") == "a\\x1b[2Jb\\x07\\x9b\\u202e\tc\n"


def test_a_hangup_ends_a_run_as_sigterm_does(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.jsonl"
    with simulated(tmp_path, "--agents", "1", "--slots", "4", "--median-length", "40") as hostfile:
        run = Run(tmp_path, "run", source, "-o", output, "--hostfile", hostfile, "--grace", 0.1)
        run.wait_until(lambda: output.exists() and output.stat().st_size > 1000, "some records are written")
        run.send(signal.SIGHUP)
        code, said = run.end()
    assert (code, "still to do (terminated)" in said) == (143, True)
    assert len(read_records(output)) == len(texts_of(output)) > 0


def test_an_interrupt_ends_the_reading_of_a_pipe(tmp_path: Path, hostfile: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    run = Run(tmp_path, "run", pipe, "-o", tmp_path / "out.jsonl", "--hostfile", hostfile)
    run.wait_until((tmp_path / "out.jsonl.lock").exists, "it reads")
    run.send(signal.SIGINT)
    assert run.end() == (130, "interrupted before anything was sent; the same command goes on from here\n")


# -- one place decides ------------------------------------------------------------------------------------------------


def test_what_is_still_to_do_is_never_a_success() -> None:
    from typing import get_args

    from aurora_pool.jobs.options import Ending, JobSummary

    fields: dict[str, Any] = dict.fromkeys(JobSummary.__dataclass_fields__, 0) | {"reason": "", "failed": 0}
    for ending in get_args(Ending):
        assert exit_code_of(JobSummary(**(fields | {"ending": ending, "remaining": 1}))) is not ExitCode.DONE
    assert exit_code_of(JobSummary(**(fields | {"ending": "finished", "remaining": 0}))) is ExitCode.DONE


@pytest.mark.parametrize(("word", "way"), [("-", "file"), ("-", "pipe"), ("/dev/stdin", "file")])
def test_every_way_to_hand_over_standard_input(tmp_path: Path, hostfile: Path, way: str, word: str) -> None:
    texts, output = "".join(f"Say {n}.\n" for n in range(50)), tmp_path / "out.jsonl"
    source = tmp_path / "in"
    if way == "file":
        source.write_text(texts)
    else:
        os.mkfifo(source)
    options = ("-o", output, "--hostfile", hostfile, "--input-format", "text")
    run = Run(tmp_path, "run", word, *options, stdin=source)
    if way == "pipe":
        source.write_text(texts)
    code, said = run.end()
    assert (code, said.count("all done: 50 of 50")) == (0, 1)


@pytest.mark.parametrize("line", ['cat IN | "$@" /dev/stdin', '"$@" <(cat IN)'])
def test_an_input_may_be_what_another_command_writes(tmp_path: Path, hostfile: Path, line: str) -> None:
    texts = tmp_path / "in"
    texts.write_text("".join(f"Say {n}.\n" for n in range(50)))
    words = ("run", "-o", tmp_path / "out.jsonl", "--hostfile", hostfile, "--input-format", "text")
    code, _, said = shell(line.replace("IN", str(texts)), *words)
    assert (code, said.count("all done: 50 of 50")) == (0, 1)


def test_a_demonstration_touches_nothing_that_is_not_its_own(call: Call, tmp_path: Path, source: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("precious")
    for arguments in (["-o", mine], ["--input", source, "-o", source]):
        ended = call("demo", *arguments)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    (tmp_path / "mine.jsonl.runlog").write_text('{"event":"start"}\n')
    assert call("demo", "-o", mine).code == 2
    assert mine.read_text() == "precious"
    assert len(source.read_text().splitlines()) == 300


def test_a_report_touches_no_output(call: Call, tmp_path: Path, source: Path, hostfile: Path) -> None:
    output = tmp_path / "out.jsonl"
    call("run", source, "-o", output, "--hostfile", hostfile)
    for path in (output, tmp_path / "out.jsonl.runlog"):
        assert call("report", output, "--html", path).code == 2
    assert call("run", source, "-o", tmp_path / "h.jsonl", "--hostfile", tmp_path / "h.jsonl").code in {2, 4}
    assert len(texts_of(output)) == 300


@pytest.mark.parametrize(("answer", "expected"), [("y\n", (0, True)), ("n\n", (2, False))])
def test_much_that_would_run_again_is_asked_about_on_a_terminal(
    call: Call, tmp_path: Path, source: Path, hostfile: Path, answer: str, expected: tuple[int, bool]
) -> None:
    output = tmp_path / "out.jsonl"
    command = ("run", source, "-o", output, "--hostfile", hostfile, "--max-tokens")
    call(*command, "16")
    code, said = on_terminal(tmp_path, *command, "3", question="go on? [y/N]", answer=answer)
    most = max(record["response"]["body"]["usage"]["completion_tokens"] for record in read_records(output))
    assert (code, most <= 3, "300 of 300 answered requests have changed" in said) == (*expected, True)
