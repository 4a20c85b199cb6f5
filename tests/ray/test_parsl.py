"""The example for Parsl on the page Other frameworks, run as it stands there, with the package itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor

from aurora_pool.jobs import read_answers
from tests.forked import simulated

pytestmark = pytest.mark.filterwarnings("default")  # Parsl's own code warns, about itself

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
LINES = 300


def example() -> str:
    (found,) = [
        block for block in PAGE.read_text(encoding="utf-8").split("```") if block.startswith("py\nimport parsl")
    ]
    return found.removeprefix("py\n")


def test_the_example_answers_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    lines = [f'{{"id": "p{number}", "prompt": "Say {number}.", "max_tokens": 8}}\n' for number in range(LINES)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    with simulated(tmp_path, "--agents", "4", "--instant"):
        config = Config([ThreadPoolExecutor(max_threads=4)], initialize_logging=False)  # its log is never closed
        exec(example(), {"config": config, "__name__": "example"})  # noqa: S102 - it is our own page
    answers = read_answers(tmp_path / "answers.jsonl")
    assert sorted(answer.id for answer in answers) == sorted(f"p{number}" for number in range(LINES))
