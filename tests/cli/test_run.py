"""``aurora-pool run``: what goes in, what comes out, and how everything that can go wrong ends."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Ended
from tests.jobs.shared import read_records, texts_of, write_jsonl

PROMPTS = [{"id": f"p{number}", "prompt": f"Say {number}."} for number in range(30)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", PROMPTS)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def one_line(ended: Ended) -> str:
    """Give what was said on standard error, which must be one line and no traceback."""
    (line,) = ended.err.splitlines()
    return line


# -- what it does ------------------------------------------------------------------------------------------------


def test_answers_a_file_and_sums_up(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert ended.code == 0
    assert texts_of(output).keys() == {prompt["id"] for prompt in PROMPTS}
    assert "all done: 30 of 30 answered, 0 failed" in ended.err
    assert ended.err.count("requests  ") == 4  # a line for each agent
    assert str(output) in ended.err


def test_goes_on_where_it_ended(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    call("run", source, "-o", output, "--hostfile", hostfile)
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:10]))
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--json")
    assert "earlier runs: 10 answered" in ended.err
    summary = json.loads(ended.out)
    assert (summary["done"], summary["answered"], summary["resumed"]["answered"]) == (20, 30, 10)


def test_the_hostfile_may_come_from_the_environment(
    call: Call, source: Path, output: Path, hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURORA_POOL_HOSTFILE", str(hostfile))
    assert call("run", source, "-o", output).code == 0


def test_options_of_sampling_and_balance_reach_the_agents(
    call: Call, source: Path, output: Path, hostfile: Path
) -> None:
    options = (
        "--balance",
        "strict",
        "--prefix",
        "off",
        "--stall",
        "10",
        "--n",
        "2",
        "--top-k",
        "5",
        "--stop",
        "e",
        "--stop",
        "o",
    )
    ended = call("run", source, "-o", output, "--hostfile", hostfile, *options, "--max-tokens", "40")
    assert ended.code == 0, ended.err
    choices = [choice for record in read_records(output) for choice in record["response"]["body"]["choices"]]
    assert len(choices) == 2 * len(PROMPTS)
    assert not any(letter in choice["text"] for choice in choices for letter in "eo")


def test_a_prompt_that_is_too_long_is_cut_if_so_asked(call: Call, tmp_path: Path, output: Path, hostfile: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "long", "prompt": "word " * 50_000}])
    command = ("run", source, "-o", output, "--hostfile", hostfile, "--prompt-format", "raw", "--max-tokens", "4")
    assert call(*command).code == 1
    assert call(*command, "--retry-failed", "--on-too-long", "truncate").code == 0


def test_quiet_is_quiet(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_reads_standard_input_and_writes_standard_output(
    call: Call, hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"Say one.\nSay two.\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    ended = call("run", "-", "-o", "-", "--hostfile", hostfile, "--json")
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert {record["custom_id"] for record in records} == {"line-1", "line-2"}
    assert json.loads(ended.err.splitlines()[-1])["done"] == 2


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compresses_by_name(call: Call, source: Path, tmp_path: Path, hostfile: Path, suffix: str) -> None:
    output = tmp_path / f"out.jsonl.{suffix}"
    assert call("run", source, "-o", output, "--hostfile", hostfile).code == 0
    assert b"custom_id" not in output.read_bytes()
    # What was written can be read as input: its custom_id and body are an object, though no request.
    ended = call("run", output, "-o", tmp_path / "again.jsonl", "--hostfile", hostfile)
    assert (ended.code, "unknown key" in ended.err or "expected" in ended.err) == (3, True)


def test_defaults_reach_the_server_and_are_part_of_the_request(
    call: Call, source: Path, output: Path, hostfile: Path
) -> None:
    call("run", source, "-o", output, "--hostfile", hostfile, "--max-tokens", "2")
    usage = [record["response"]["body"]["usage"]["completion_tokens"] for record in read_records(output)]
    assert max(usage) == 2
    refused = call("run", source, "-o", output, "--hostfile", hostfile, "--max-tokens", "3")
    assert (refused.code, "30 of 30 answered requests have changed" in one_line(refused)) == (2, True)
    assert "--yes" in refused.err
    assert len(texts_of(output)) == 30
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--max-tokens", "3", "--yes")
    assert "changed since they were answered, run again: 30" in ended.err.splitlines()[0]
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--max-tokens", "4", "--quiet", "--yes")
    assert "changed since they were answered, run again: 30" in one_line(ended)
    assert len(texts_of(output)) == 30


def test_maps_model_names(call: Call, tmp_path: Path, output: Path, hostfile: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [prompt | {"model": "gpt-4o-mini"} for prompt in PROMPTS])
    assert call("run", source, "-o", output, "--hostfile", hostfile).code == 5
    mapped = ("--model-map", "gpt-4o-mini=simulated-model")
    assert call("run", source, "-o", output, "--hostfile", hostfile, *mapped).code == 0


def test_failed_requests_are_told_by_the_exit_code(call: Call, tmp_path: Path, output: Path, hostfile: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*PROMPTS, {"id": "long", "prompt": "word " * 9000}])
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert (ended.code, "30 of 31 answered, 1 failed" in ended.err) == (1, True)
    assert "failed: rejected 1; the first was long: the prompt has" in ended.err
    (failed,) = [record for record in read_records(output) if record["error"]]
    assert (failed["custom_id"], failed["error"]["code"]) == ("long", "rejected")


def test_bad_lines_are_skipped_if_asked(call: Call, tmp_path: Path, output: Path, hostfile: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["{oops", *PROMPTS])
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--on-bad-line", "skip")
    assert ended.code == 0
    assert f"skipped: {source}:1: expected a JSON object" in ended.err
    assert len(texts_of(output)) == 30


# -- a file of options ------------------------------------------------------------------------------------------


def test_options_may_come_from_a_file_and_the_command_line_wins(
    call: Call, source: Path, output: Path, hostfile: Path, tmp_path: Path
) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(
        f"hostfile: {hostfile}\noutput: {output}\nmax-tokens: 2\nquiet: true\nordered: true\n"
        "model-map: {a: simulated-model}\ninput-format: jsonl\nrun-log: false\n"
    )
    ended = call("run", source, "--config", config, "--max-tokens", "1")
    assert (ended.code, ended.err) == (0, "")
    assert {r["response"]["body"]["usage"]["completion_tokens"] for r in read_records(output)} == {1}
    assert [r["custom_id"] for r in read_records(output.with_name("out.ordered.jsonl"))] == [p["id"] for p in PROMPTS]
    assert not output.with_name("out.jsonl.runlog").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max-token: 2\nqiuet: true\n", "meant?), qiuet (is quiet meant?); --help shows all"),
        ("- a\n", "expected options"),
        ("a: [", "is not YAML"),
        ("config: other.yaml", "no such option: config"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_bad_file_of_options_is_told(call: Call, source: Path, tmp_path: Path, text: str, reason: str) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(text)
    ended = call("run", source, "-o", "x", "--config", config)
    assert ended.code == 2
    assert reason in one_line(ended)
    assert "options.yaml" in ended.err


def test_a_value_of_the_wrong_kind_in_the_file_is_told(call: Call, source: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text("max-tokens: many\n")
    ended = call("run", source, "-o", "x", "--hostfile", "h", "--config", config)
    assert (ended.code, "max-tokens" in ended.err, "Traceback" in ended.err) == (2, True, False)


# -- what goes wrong: one clear line and the right code ---------------------------------------------------------


def test_a_hostfile_that_is_not_there(call: Call, source: Path, output: Path) -> None:
    ended = call("run", source, "-o", output, "--hostfile", "nowhere.hostfile")
    assert ended.code == 4
    assert "nowhere.hostfile: can't be read (No such file or directory)" in one_line(ended)
    assert not output.exists()


def test_a_hostfile_that_is_wrong(call: Call, source: Path, output: Path, tmp_path: Path) -> None:
    hostfile = tmp_path / "h"
    hostfile.write_text("gpu01 99999\n")
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert (ended.code, f"{hostfile}:1: expected a port" in one_line(ended)) == (4, True)


def test_a_host_that_is_listed_again_is_warned_of_once(
    call: Call, source: Path, output: Path, hostfile: Path, tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text(hostfile.read_text() * 3)
    ended = call("run", source, "-o", output, "--hostfile", nodes)
    assert ended.code == 0
    assert [line for line in ended.err.splitlines() if "listed again" in line] == [
        f"warning: {nodes}: agents that are listed again count once: 8 lines"
    ]


def test_a_model_that_nobody_serves(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--model", "other")
    assert ended.code == 5
    assert "other" in one_line(ended)
    assert "simulated-model" in ended.err
    assert not output.exists()


@pytest.mark.parametrize("model", [[], ["--model", "m"]])
def test_a_fleet_that_is_dead(call: Call, source: Path, output: Path, tmp_path: Path, model: list[str]) -> None:
    with socket.socket() as taken:  # bound, and nobody listens: refused at once
        taken.bind(("127.0.0.1", 0))
        hostfile = tmp_path / "h"
        hostfile.write_text(f"127.0.0.1 {taken.getsockname()[1]}\n")
        ended = call("run", source, "-o", output, "--hostfile", hostfile, "--patience", "2", *model)
    assert ended.code == 5
    assert "Traceback" not in ended.err
    assert "agent" in ended.err.splitlines()[-1]
    assert not output.exists() or not read_records(output)


def test_a_bad_line_before_anything_is_sent(call: Call, tmp_path: Path, output: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*PROMPTS, "{oops"])
    hostfile = tmp_path / "h"
    hostfile.write_text("127.0.0.1 2000\n")
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert (ended.code, f"{source}:31: expected a JSON object" in one_line(ended)) == (3, True)
    assert not output.exists()


def test_bad_lines_are_each_named_on_a_line_of_their_own(call: Call, tmp_path: Path, output: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*PROMPTS, r'{"prompt": "half \ud83d"}', "[1]"])
    hostfile = tmp_path / "h"
    hostfile.write_text("127.0.0.1 2000\n")
    ended = call("run", source, "-o", output, "--hostfile", hostfile)
    assert ended.code == 3
    assert ended.err.splitlines() == [
        f"aurora-pool: {source}: 2 bad lines",
        rf"  {source}:31: the text is no valid Unicode: a lone surrogate, '\ud83d'",
        f"  {source}:32: expected a JSON object",
    ]


def test_an_input_that_is_not_there(call: Call, output: Path, hostfile: Path) -> None:
    ended = call("run", "nowhere.jsonl", "-o", output, "--hostfile", hostfile)
    assert (ended.code, "nowhere.jsonl: the input can't be read" in one_line(ended)) == (3, True)


def test_an_output_that_cannot_be_written(call: Call, source: Path, tmp_path: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", tmp_path / "no" / "out.jsonl", "--hostfile", hostfile)
    assert (ended.code, "the output can't be written (No such file" in one_line(ended)) == (6, True)


def test_a_disk_that_is_full(call: Call, source: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", "/dev/full", "--hostfile", hostfile)
    assert (ended.code, "/dev/full: the output can't be written (No space left" in one_line(ended)) == (6, True)


def test_options_that_are_missing_or_senseless(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    for arguments in (
        [source, "-o", output],
        [source, "--hostfile", hostfile],
        [source, "-o", output, "--hostfile", hostfile, "--walltime", "soon"],
        [source, "-o", output, "--hostfile", hostfile, "--model-map", "a"],
        [source, "-o", output, "--hostfile", hostfile, "--prompt-format", "raw", "--system-prompt", "x"],
        [source, "-o", output, "--hostfile", hostfile, "--max-tokens", "0"],
        [source, "-o", output, "--hostfile", hostfile, "--metrics-port", "99999"],
    ):
        ended = call("run", *arguments)
        assert (ended.code, "Traceback" in ended.err, ended.err != "") == (2, False, True)
    assert not output.exists()


def test_too_few_agents(call: Call, source: Path, output: Path, hostfile: Path) -> None:
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--min-agents", "5", "--patience", "1")
    assert (ended.code, "4 of 4 agents answer, and 5 are needed" in one_line(ended)) == (5, True)
    ended = call("run", source, "-o", output, "--hostfile", hostfile, "--min-agents", "120%")
    assert (ended.code, "--min-agents: expected a number such as 12, or a share" in one_line(ended)) == (2, True)
    for least in ("4", "100%"):
        assert call("run", source, "-o", output, "--hostfile", hostfile, "--min-agents", least).code == 0


# -- some of the agents ------------------------------------------------------------------------------------------


def test_agents_with_a_tag_only(call: Call, source: Path, output: Path, hostfile: Path, tmp_path: Path) -> None:
    first, second, *others = hostfile.read_text().splitlines()
    tagged = tmp_path / "tagged.hostfile"
    tagged.write_text("\n".join([f"{first} role=chat", f"{second} role=chat tier=large", *others]))
    ended = call("run", source, "-o", output, "--hostfile", tagged, "--tag", "role=chat", "--json")
    assert ended.code == 0
    assert len(json.loads(ended.out)["agents"]) == 2
    output.unlink()
    both = ("--tag", "role=chat", "--tag", "tier=large")
    ended = call("run", source, "-o", output, "--hostfile", tagged, *both, "--json")
    assert len(json.loads(ended.out)["agents"]) == 1


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (("role=none",), "none of 4 agents in the hostfile has role=none"),
        (("role",), "--tag: expected KEY=VALUE, got 'role'"),
        (("a=1", "a=2"), "--tag: 'a' has two values, '1' and '2'"),
    ],
)
def test_a_tag_that_is_invalid_is_one_line(
    call: Call, source: Path, output: Path, hostfile: Path, tags: tuple[str, ...], words: str
) -> None:
    options = [part for tag in tags for part in ("--tag", tag)]
    ended = call("run", source, "-o", output, "--hostfile", hostfile, *options)
    assert ended.code != 0
    assert words in one_line(ended)
