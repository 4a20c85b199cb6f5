"""What importing the package and asking for help may load: people and scripts wait for both."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {"aiohttp", "httpx2", "numpy", "openai", "prometheus_client", "rich", "typer", "yaml"}
"""What a script that only imports the package, or a `--help`, does not need."""


def loaded(code: str) -> set[str]:
    """Run code in a new interpreter; return which packages it has loaded."""
    code += "\nimport sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "module", ["aurora_pool", "aurora_pool.patterns", "aurora_pool.aggregators", "aurora_pool.messages"]
)
def test_importing_loads_nothing_slow(module: str) -> None:
    assert not loaded(f"import {module}") & SLOW


def test_a_pool_is_made_without_the_openai_package() -> None:
    code = "from aurora_pool import *; VLLMPool([AgentEndpoint('127.0.0.1', 1)])"
    assert not loaded(code) & (SLOW - {"aiohttp"})


def test_help_loads_neither_the_openai_package_nor_the_http_client() -> None:
    code = "import sys; sys.argv = ['aurora-pool', '--help']\nfrom aurora_pool.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    assert not loaded(code) & {"aiohttp", "httpx2", "numpy", "openai", "prometheus_client"}


def test_a_command_does_not_load_the_others() -> None:
    code = "import sys; sys.argv = ['aurora-pool', 'agent', '--nonsense']\nfrom aurora_pool.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('aurora_pool.cli.run', 'aurora_pool.jobs') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
    assert "--nonsense" in ran.stderr
