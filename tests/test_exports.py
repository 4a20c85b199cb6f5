"""What the package offers: importable, documented, quick to import, and with examples that run."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
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
EXTRAS = {
    "aiosqlite",
    "alembic",
    "fsspec",
    "jinja2",
    "numpy",
    "pandas",
    "plotly",
    "polars",
    "prometheus_client",
    "sqlalchemy",
    "standardwebhooks",
    "zstandard",
}

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(aurora_pool.__path__, "aurora_pool.")
    if not module.name.endswith("__main__")
    # What needs Ray is tested where Ray is installed.
    and (module.name != "aurora_pool.contrib.ray" or importlib.util.find_spec("ray") is not None)
)

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PUBLIC = set(re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE))
"""What users import from: the modules of the reference in the docs, and its types."""
TYPES = set(re.findall(r"^::: ([\w.]+)\n +options:", REFERENCE, re.MULTILINE))
"""Single names in the reference: types in signatures."""
FOR_ANNOTATIONS = {"aurora_pool.jobs.run.JobPool"}
"""What is there for type checkers only: with it, a star import would load what takes long."""
INTERNAL = ("policy", "prompts", "runtime", "wire")
"""Folders that nobody imports from as such."""
WITH_A_LIST = [
    name
    for name in ("aurora_pool", *MODULES)
    if name in PUBLIC or (name.count(".") < 2 and name.removeprefix("aurora_pool.") not in INTERNAL)
]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
EXAMPLES = [path for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".md"}]
IMPORT = re.compile(r"^ *from (aurora_pool[\w.]*) import (\w+(?:, \w+)*)", re.MULTILINE)


def load(*names: str) -> Iterator[ModuleType]:
    """Import modules; a test ends as skipped, once it has seen the others, if some need what isn't installed."""
    missing = set()
    for name in names:
        try:
            yield importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in EXTRAS:
                raise
            missing.add(error.name)
    if missing:
        pytest.skip(f"needs {', '.join(sorted(missing))}")


def test_the_names_that_scripts_use_are_there() -> None:
    assert set(aurora_pool.__all__) >= KEPT
    own_errors = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert set(aurora_pool.__all__) >= own_errors


def test_what_is_offered_is_there_and_documented() -> None:
    for module in load("aurora_pool", *MODULES):
        assert module.__doc__, f"{module.__name__} has no docstring"
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isroutine(value):
                assert inspect.getdoc(value), f"{module.__name__}.{public} has no docstring"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, aurora_pool; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_the_examples_in_docstrings_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for module in load("aurora_pool", *MODULES):
        failed, _ = doctest.testmod(module, optionflags=flags)
        assert not failed, capsys.readouterr().out


def test_what_is_offered_is_listed_in_order() -> None:
    for module in load(*WITH_A_LIST):
        listed = list(module.__all__)
        in_order = sorted(listed, key=lambda public: (not public.isupper(), public[0] != public[0].upper(), public))
        assert listed == in_order, module.__name__


def test_what_is_public_is_listed_by_the_module_that_defines_it() -> None:
    for path in TYPES - FOR_ANNOTATIONS:
        home, _, name = path.rpartition(".")
        for module in load(home):
            assert name in getattr(module, "__all__", ()), path
    for module in load(*sorted(PUBLIC & {"aurora_pool", *MODULES})):
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", "")
            if home.startswith("aurora_pool"):
                assert name in getattr(sys.modules[home], "__all__", ()), f"{home}: {name}"


def test_the_reference_has_every_adapter_and_all_that_pages_and_examples_import() -> None:
    packages = ("patterns", "aggregators", "embeddings", "engines", "jobs", "serve", "testing")
    adapters = {path.stem for path in (ROOT / "aurora_pool" / "contrib").glob("[!_]*.py")}
    assert {"aurora_pool", *(f"aurora_pool.{package}" for package in packages)} <= PUBLIC
    assert {f"aurora_pool.contrib.{name}" for name in adapters} <= PUBLIC
    for path in (*PAGES, *EXAMPLES):
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8")):
            assert module in PUBLIC, f"{path.name} imports from {module}, which is not in docs/reference.md"
            if module in MODULES or module == "aurora_pool":
                for loaded in load(module):
                    assert set(names.split(", ")) <= {*loaded.__all__, "EmbeddingPool"}, f"{path.name}: {module}"


def test_embedding_pools_are_at_the_root() -> None:
    assert aurora_pool.EmbeddingPool is importlib.import_module("aurora_pool.embeddings").EmbeddingPool
    assert "EmbeddingPool" in dir(aurora_pool)
    with pytest.raises(AttributeError, match="EmbeddingsPool"):
        _ = aurora_pool.EmbeddingsPool
