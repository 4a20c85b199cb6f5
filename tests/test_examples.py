"""Every script in examples/ runs as it stands, on a simulated fleet of its own and on the fleet of a hostfile."""

from __future__ import annotations

import asyncio
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_pool.testing import SimulatedFleet

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "shared.py")


async def run(script: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(script), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs_without_a_fleet(script: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    shown = capfd.readouterr()
    assert (bool(shown.out), shown.err) == (True, "")


async def test_the_server_and_a_batch() -> None:
    said = await run(EXAMPLES / "serve" / "demo.py", "--port", "0", "--once", "--time-scale", "20")
    assert "completed, 500 of 500" in said


@pytest.mark.simulated_fleet(2, time_scale=20)
@pytest.mark.parametrize("name", ["scatter_gather_folder.py", "tree_reduce_summary.py"])
async def test_runs_on_the_fleet_of_a_hostfile(name: str, simulated_fleet: SimulatedFleet, tmp_path: Path) -> None:
    hostfile = simulated_fleet.write_hostfile(tmp_path / "fleet.hostfile")
    (tmp_path / "one.txt").write_text("The lamp was lit at four.\n\nThe wind rose all evening.\n")
    (tmp_path / "two.txt").write_text("A brig put about in time.\n")
    assert await run(EXAMPLES / name, str(tmp_path), "--hostfile", str(hostfile))
    assert simulated_fleet.prompts_answered >= 2


def test_the_prompts_are_many_and_varied() -> None:
    lines = (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) >= 500
    assert len({record["custom_id"] for record in records}) == len(records)
    assert len({record["body"]["prompt"] for record in records}) == len(records)
