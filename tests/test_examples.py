"""Every script in examples/ runs as it stands, on a simulated fleet of its own and on the fleet of a hostfile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "shared.py")


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs_without_a_fleet(script: Path) -> None:
    result = run(script)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


def test_the_prompts_are_many_and_varied() -> None:
    lines = (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) >= 500
    assert len({record["custom_id"] for record in records}) == len(records)
    assert len({record["body"]["prompt"] for record in records}) == len(records)
