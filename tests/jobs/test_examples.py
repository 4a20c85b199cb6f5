"""The examples of jobs run, and the scripts for clusters hand over."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool.jobs.merge import merge
from aurora_pool.jobs.meter import Progress
from aurora_pool.jobs.metrics import METRICS
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.forked import simulated

EXAMPLES = Path(__file__).parents[2] / "examples" / "jobs"


@pytest.fixture(scope="module")
def hostfile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with simulated(tmp_path_factory.mktemp("fleet"), "--agents", "2", "--instant") as path:
        yield path


def run(folder: Path, script: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_records_are_scored_as_asked(tmp_path: Path, hostfile: Path) -> None:
    said = run(tmp_path, "score_records.py", "--hostfile", hostfile, "--records", "100")
    counts = dict(re.findall(r"^(\w+): (\d+)$", said, re.MULTILINE))
    assert counts.keys() <= set("12345")  # the schema holds: none is unusable
    assert sum(map(int, counts.values())) == 100
    assert "100 of 100 answered" in said


def test_two_passes_are_two_jobs(tmp_path: Path, hostfile: Path) -> None:
    said = run(tmp_path, "two_passes.py", "--hostfile", hostfile)
    rows = (EXAMPLES / "rows.txt").read_text().splitlines()
    assert [line.partition(" -> ")[0] for line in said.splitlines()] == rows
    assert "failed" not in said
    assert (tmp_path / "two-passes" / "extract.jsonl").exists()


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("script", "submit", "home"), [
    ("pbs.sh", "qsub", "PBS_O_WORKDIR"), ("slurm.sh", "sbatch", "SLURM_SUBMIT_DIR")
])  # fmt: skip
@pytest.mark.parametrize("code", [0, 1, 75])
def test_an_allocation_hands_over_only_when_it_is_out_of_time(
    tmp_path: Path, script: str, submit: str, home: str, code: int
) -> None:
    log = tmp_path / "log"
    fake(tmp_path, "aurora-pool", f'echo "run $*" >> {log}; exit {code}')
    fake(tmp_path, submit, f'echo "{submit} $* $INPUT $OUTPUT" >> {log}')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "INPUT": "in", "OUTPUT": "out", "HOSTFILE": "h"}
    result = subprocess.run([EXAMPLES / script], env=environment | {home: str(tmp_path)}, timeout=30, check=False)
    said = log.read_text().splitlines()
    assert said[0] == "run run in -o out --hostfile h --patience 1800"
    assert [line.split()[0] for line in said[1:]] == ([submit] if code == 75 else [])
    assert result.returncode == (0 if code == 75 else code)


@pytest.mark.parametrize(("script", "environment"), [
    ("claim_pbs.sh", {"PBS_O_WORKDIR": ".", "PBS_ARRAY_INDEX": "0"}),
    ("claim_slurm.sh", {"SLURM_SUBMIT_DIR": ".", "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "1",
                        "SLURM_ARRAY_TASK_MIN": "5"}),
])  # fmt: skip
def test_the_drivers_of_an_array_share_an_input(
    tmp_path: Path, hostfile: Path, script: str, environment: dict[str, str]
) -> None:
    (tmp_path / "in.txt").write_text("Say one.\nSay two.\n")
    fake(tmp_path, "aurora-pool", f'exec {sys.executable} -m aurora_pool "$@"')
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "INPUT": "in.txt", "ANSWERS": "answers"}
    command = [EXAMPLES / script]
    subprocess.run(command, cwd=tmp_path, env=environment | {"HOSTFILE": str(hostfile)}, timeout=90, check=True)
    assert merge(tmp_path / "answers", tmp_path / "out.jsonl").requests == 2


# -- metrics and the dashboard ----------------------------------------------------------------------------------


def scraped(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def test_every_metric_is_served_with_its_value(tmp_path: Path) -> None:
    import prometheus_client

    from aurora_pool import VLLMPool
    from aurora_pool.jobs import JobOptions, run_job
    from aurora_pool.jobs.metrics import JobMetrics

    metrics = JobMetrics()
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics)
    profile = AgentProfile(median_length=100, slots=4)
    texts: list[str] = []

    def tell(seen: Progress) -> None:
        metrics.update(seen)
        texts.append(prometheus_client.generate_latest(registry).decode())

    async with SimulatedFleet(2, profile=profile, time_scale=20) as fleet, VLLMPool(fleet.endpoints) as pool:
        prompts = [f"Say {number}." for number in range(60)]
        summary = await run_job(pool, prompts, tmp_path / "out.jsonl", JobOptions(interval=0.05), on_progress=tell)
        agents = {str(endpoint) for endpoint in fleet.endpoints}
    samples = scraped(texts[-1])
    assert samples.keys() == {spec.name for spec in METRICS}
    for spec in METRICS:
        assert {labels.get("agent") for labels, _ in samples[spec.name]} == (agents if spec.of_agent else {None})
        assert f"# HELP {spec.name} {spec.help}" in texts[-1]
    assert samples["aurora_pool_job_requests"][0][1] == 60
    assert 0 < samples["aurora_pool_job_done_total"][0][1] <= 60
    assert sum(value for _, value in samples["aurora_pool_agent_prompts_total"]) >= 1
    assert summary.answered == 60


def test_metrics_are_served_on_a_port_and_a_taken_port_is_told() -> None:
    import socket

    from aurora_pool.errors import ConfigError
    from aurora_pool.jobs.metrics import JobMetrics

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - as Prometheus's own server does
        taken.listen()
        with pytest.raises(ConfigError, match="in use"):
            JobMetrics.serving(taken.getsockname()[1])


def dashboard_names() -> set[str]:
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    return {name for text in expressions for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text)}


def test_the_dashboard_refers_only_to_metrics_that_exist_and_to_all_of_them() -> None:
    assert dashboard_names() == {spec.name for spec in METRICS}


def test_every_metric_is_documented() -> None:
    page = (EXAMPLES.parents[1] / "docs" / "jobs.md").read_text(encoding="utf-8")
    rows = [f"| `{spec.name}` | {spec.kind}{', by agent' if spec.of_agent else ''} | {spec.help} |" for spec in METRICS]
    assert re.findall(r"^\| `aurora_pool_.*\|$", page, re.MULTILINE) == rows
