"""``aurora-pool run`` on an output that has records already."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Call, Ended
from tests.jobs.shared import read_records, write_jsonl

PROMPTS = [{"id": f"p{number}", "prompt": f"Say {number}."} for number in range(30)]


def test_the_output_of_another_input_is_added_to_only_if_so_told(call: Call, tmp_path: Path, hostfile: Path) -> None:
    output = tmp_path / "out.jsonl"

    def run(prompts: list[dict[str, str]], *options: str) -> Ended:
        source = write_jsonl(tmp_path / "in.jsonl", prompts)
        return call("run", source, "-o", output, "--hostfile", hostfile, *options)

    other = [{"id": f"other-{n}", "prompt": f"Say {n}."} for n in range(3)]
    assert run(PROMPTS[:20]).code == 0
    before = output.read_bytes()
    refused = run(other)
    told = (
        "none of the 20 records in the output is of a request in the input; the answers would be added to them; --yes"
    )
    assert (refused.code, told in refused.err) == (2, True)
    dry = run(other, "--dry-run")
    assert (dry.code, "the run asks first, or needs --yes: none of the 20 records" in dry.out) == (0, True)
    dry = run(other, "--dry-run", "--yes")
    assert (dry.code, "asks first" in dry.out) == (0, False)
    assert output.read_bytes() == before
    for prompts in (PROMPTS, PROMPTS[:1], [*PROMPTS[:1], *other]):  # it grows, it shrinks, it shares one
        assert run(prompts).code == 0
    assert run([], "--allow-empty").code == 0
    assert run([{"id": "more", "prompt": "Say more."}], "--yes").code == 0
    assert len(read_records(output)) == len(PROMPTS) + len(other) + 1


def test_answers_that_are_not_what_is_expected_now_are_told(call: Call, tmp_path: Path, hostfile: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = ("run", write_jsonl(tmp_path / "in.jsonl", PROMPTS), "-o", output, "--hostfile", hostfile, "--quiet")
    assert call(*command).code == 0
    kept = call(*command, "--expect", "json")
    assert kept.code == 1
    told = (
        "answered before, and not what is expected now: 30, kept, and counted as failed; --retry-failed runs them again"
    )
    assert told in kept.err
    again = call(*command, "--expect", "json", "--retry-failed", "--expect-retries", "0")
    assert f"now: 30, run again; the old answers are now in {output}.superseded" in again.err
    assert "failed before" not in again.err  # they had not
    assert len(read_records(output)) == len(read_records(tmp_path / "out.jsonl.superseded")) == 30
