"""What the package offers: importable, documented, quick to import, and with examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import aurora_pool
from aurora_pool import errors

# Research scripts call these; taking one away breaks them.
KEPT = {
    "AgentEndpoint",
    "AgentPool",
    "Prompt",
    "Response",
    "Sampling",
    "VLLMPool",
    "format_hostfile",
    "parse_hostfile",
}
HEAVY = ("openai", "typer", "rich", "prometheus_client", "numpy", "pandas", "polars", "plotly", "yaml", "aiohttp.web")
EXTRAS = {"numpy", "pandas", "plotly", "polars", "prometheus_client", "zstandard"}

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(aurora_pool.__path__, "aurora_pool.")
    if not module.name.endswith("__main__")
)


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in EXTRAS:
            pytest.skip(f"needs {error.name}")
        raise


def test_the_names_that_scripts_use_are_there() -> None:
    assert set(aurora_pool.__all__) >= KEPT
    own_errors = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert set(aurora_pool.__all__) >= own_errors


@pytest.mark.parametrize("name", ["aurora_pool", *MODULES])
def test_what_is_offered_is_there_and_documented(name: str) -> None:
    module = load(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, aurora_pool; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize("name", ["aurora_pool", *MODULES])
def test_the_examples_in_docstrings_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    failed, _ = doctest.testmod(load(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed, capsys.readouterr().out
