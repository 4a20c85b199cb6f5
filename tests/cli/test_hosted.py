"""``aurora-pool run`` with hosted agents: what they cost, over all runs of a job, and what --engine has no use for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import HostedOptions, VLLMPool
from tests.cli.conftest import Call

ROUNDING = 1e-9
PRICED = "hosted price_in=1000 price_out=1000"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Name colour {n}."}) + "\n" for n in range(40)))
    return path


def hosted_only(hostfile: Path, folder: Path, tags: str = PRICED) -> Path:
    """Write a hostfile in which a fleet's first agent is hosted, and no other is there."""
    path = folder / "hosted.hostfile"
    path.write_text(f"{hostfile.read_text().splitlines()[0].split()[0]} {hostfile.read_text().split()[1]} {tags}\n")
    return path


def run(call: Call, prompts: Path, hostfile: Path, *more: str, code: int = 0) -> dict[str, object]:
    output = prompts.with_name("answers.jsonl")
    options = ["--model", "simulated-model", "--max-tokens", "8", "--json", "--quiet"]
    ended = call("run", prompts, "-o", output, "--hostfile", hostfile, *options, *more)
    assert ended.code == code, ended.err
    summary: dict[str, object] = json.loads(ended.out)
    return summary


def test_a_limit_of_the_cost_holds_for_all_runs_of_a_job(
    call: Call, hostfile: Path, prompts: Path, tmp_path: Path
) -> None:
    api = hosted_only(hostfile, tmp_path)
    kept = tmp_path / "answers.jsonl.cost"
    first = run(call, prompts, api, "--max-cost", "0.5", code=8)
    assert 0.2 < float(str(first["cost"])) <= 0.5 + ROUNDING
    assert json.loads(kept.read_text())["spent"] == pytest.approx(first["cost"])
    assert "the budget of 0.5 is spent" in str(first["reason"])
    again = run(call, prompts, api, "--max-cost", "0.5", code=8)
    assert float(str(first["cost"])) + float(str(again["cost"])) <= 0.5 + ROUNDING
    rest = run(call, prompts, api, "--max-cost", "5")
    assert (rest["answered"], rest["remaining"]) == (40, 0)
    total = sum(float(str(each["cost"])) for each in (first, again, rest))
    assert json.loads(kept.read_text())["spent"] == pytest.approx(total)
    report = call("report", tmp_path / "answers.jsonl")
    assert "cost of hosted agents" in report.out
    assert f"{total:.4f}" in report.out


def test_answers_are_recorded_under_the_model_that_gave_them(
    call: Call, hostfile: Path, prompts: Path, tmp_path: Path
) -> None:
    summary = run(call, prompts, hosted_only(hostfile, tmp_path, "hosted model=simulated-model"))
    assert (summary["answered"], summary["cost"]) == (40, 0.0)
    assert not (tmp_path / "answers.jsonl.cost").exists()


def test_a_limit_without_prices_is_told_before_anything_is_read(
    call: Call, hostfile: Path, prompts: Path, tmp_path: Path
) -> None:
    api = hosted_only(hostfile, tmp_path, "hosted")
    for agents, reason in (
        (api, "expected price_in= and price_out= at"),
        (hostfile, "--max-cost needs a price of tokens: expected --price"),
    ):
        ended = call("run", prompts, "-o", tmp_path / "out.jsonl", "--hostfile", agents, "--max-cost", "1")
        assert ended.code == 2
        assert reason in ended.err


@pytest.mark.parametrize(
    ("more", "drivers"),
    [((), 1), (("--shard", "1/4"), 4), (("--shard", "1/4", "--share", "0/1"), 1), (("--claim", "claims"), 1)],
)
def test_each_shard_has_its_part_of_the_quota(
    call: Call,
    hostfile: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    drivers: int,
) -> None:
    told: list[int] = []

    class Recording(VLLMPool):
        def __init__(self, endpoints: Any, *, hosted: HostedOptions, **options: Any) -> None:
            told.append(hosted.drivers)
            super().__init__(endpoints, hosted=hosted, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aurora_pool.cli.session.VLLMPool", Recording)
    output = () if "--claim" in more else ("-o", "answers")
    ended = call("run", prompts, *output, "--hostfile", hostfile, "--max-tokens", "8", "--quiet", *more)
    assert (ended.code, told) == (0, [drivers]), ended.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--balance", "strict"),
        ("--prefix", "off"),
        ("--tag", "tier=large"),
        ("--concurrency", "3"),
        ("--spill-after", "5"),
        ("--stall", "9"),
    ],
)
def test_engine_has_no_use_for_what_a_fleet_is_told(call: Call, prompts: Path, option: str, value: str) -> None:
    ended = call("run", prompts, "-o", "-", "--engine", "transformers", "--model", "m", option, value)
    assert ended.code == 2
    assert option in ended.err


def test_hosted_agents_are_never_asked_at_once(call: Call, hostfile: Path, prompts: Path) -> None:
    ended = call("run", prompts, "-o", "-", "--hostfile", hostfile, "--spill-after", "0")
    assert ended.code == 2
    assert "--spill-after" in ended.err


def test_arguments_for_an_engine_need_one(call: Call, hostfile: Path, prompts: Path) -> None:
    ended = call("run", prompts, "-o", "-", "--hostfile", hostfile, "--engine-args", "--seed 1")
    assert ended.code == 2
    assert "--engine-args" in ended.err
