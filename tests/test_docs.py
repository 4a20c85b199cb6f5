"""The documentation is true: its Python runs against a simulated fleet, and its commands exist."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, VLLMPool, format_hostfile
from aurora_pool.testing import AgentProfile, SimulatedFleet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAGS = ({"tier": "large"}, {"tier": "large"}, {"tier": "small"}, {"tier": "small"})


def python_of(page: Path) -> list[str]:
    """Give a page's blocks of Python, each preceded by as many blank lines as the page has above it."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in PYTHON.finditer(text)]


def run_tests(block: str, folder: Path) -> None:
    """Run a block that shows tests, with the fixtures that the installed package brings."""
    (folder / "test_of_the_page.py").write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[AgentEndpoint]]:
    """Four simulated agents in a thread of their own: what a page runs may block, or start an event loop itself."""
    started: list[AgentEndpoint] = []
    ready = threading.Event()
    done = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with SimulatedFleet(len(TAGS), tags=TAGS, profile=AgentProfile(instant=True)) as fleet:
            started.extend(fleet.endpoints)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert ready.wait(30)
    yield started
    loop.call_soon_threadsafe(done.set)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_runs(
    page: Path, endpoints: list[AgentEndpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a page's blocks one after the other, as in a notebook, in a folder that holds what the pages name."""
    blocks = python_of(page)
    if not blocks:
        pytest.skip("no Python on this page")
    (tmp_path / "hostfiles").mkdir()
    (tmp_path / "hostfiles" / "fleet.hostfile").write_text(format_hostfile(endpoints))
    prompts = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(prompts[:20]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    async def open_pool() -> VLLMPool:
        return VLLMPool(endpoints)

    with asyncio.Runner(debug=True) as runner:
        pool = runner.run(open_pool())
        names: dict[str, Any] = {"__name__": "__docs__"}
        try:
            for block in blocks:
                names["pool"] = pool  # a block may have used the name for a pool of its own
                if "def test_" in block:
                    run_tests(block, tmp_path)
                    continue
                code = compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                result = eval(code, names)  # noqa: S307  (the project's own documentation)
                if inspect.iscoroutine(result):
                    runner.run(result)
        finally:
            runner.run(pool.close())
