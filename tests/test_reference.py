"""The API reference is complete: each public name is explained, and so is what it returns and takes of this package."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
ROLE = re.compile(r":\w+:`~?([\w.]+)`")
NO_VERBS = {"A", "About", "An", "How", "The", "What", "Where", "Whether", "Which", "Who"}
OUR_OWN = {
    "jobs.lock.Lock",
    "policy.callers.Caller",
    "policy.callers.PromptQueue",
    "policy.work.WorkItem",
    "runtime.discovery.Discovery",
    "runtime.fleet_runtime.FleetRuntime",
    "runtime.fleet_options.FleetOptions",
    "serve.fleet.ServedFleet",
    "sharing.agents.AgentShare",
    "testing.engine.Engine",
}
"""What only the package itself makes and hands to constructors, which are not called from outside then."""


@pytest.fixture(scope="module")
def package() -> Any:
    """Give the package as griffe reads it, which has no types that tell a module from what it holds."""
    griffe = pytest.importorskip("griffe", reason="needs the extra for the docs: make docs runs it")
    loader = griffe.GriffeLoader()
    package = loader.load("aurora_pool")
    loader.resolve_aliases()
    return package


def found(package: Any, path: str) -> Any:
    """Give what a dotted name stands for, where it is defined."""
    _, _, name = path.partition(".")
    value = package[name] if name else package
    return value.final_target if value.is_alias else value


def listed(package: Any) -> dict[str, Any]:
    """Give all that the reference lists, by its name where it is defined."""
    names = []
    for path in re.findall(r"^::: ([\w.]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        value = found(package, path)
        exports = [str(name) for name in value.exports or [] if name != "__version__"] if value.is_module else []
        names += [f"{path}.{name}" for name in exports] if value.is_module else [path]
    return {value.canonical_path: value for value in (found(package, name) for name in names)}


def signatures(value: Any) -> Iterator[Any]:
    """Give the annotations of what a public name takes and returns, or of what an alias stands for."""
    if value.is_class:
        for name, member in value.members.items():
            if not member.is_alias and (name == "__init__" or not name.startswith("_")):
                yield from signatures(member)
    elif value.is_function:
        yield from (parameter.annotation for parameter in value.parameters)
        yield value.returns
    elif value.is_attribute:
        yield value.annotation
        if value.parent.is_module:
            yield value.value


def test_everything_public_is_explained(package: Any) -> None:
    assert [path for path, value in listed(package).items() if not value.docstring] == []


def test_docstrings_of_functions_begin_with_a_verb(package: Any) -> None:
    known = listed(package).values()
    members = [member for value in known if value.is_class for member in value.members.values() if not member.is_alias]
    functions = [each for each in (*known, *members) if each.is_function and each.docstring and each.name[0] != "_"]
    told = [each for each in functions if each.parent.name != "Observer"]  # says what has happened
    assert [each.canonical_path for each in told if each.docstring.value.split()[0] in NO_VERBS] == []


def test_no_public_name_is_hidden_by_a_module_of_the_same_name(package: Any) -> None:
    """Such a name is the module for griffe, and so for the reference, which then has nothing of what is exported."""
    assert [path for path, value in listed(package).items() if value.is_module] == []


def test_what_public_names_return_and_take_is_in_the_reference(package: Any) -> None:
    known = listed(package)
    missing = set()
    for path, value in known.items():
        for annotation in signatures(value):
            for part in annotation.iterate(flat=True) if hasattr(annotation, "iterate") else ():
                name = getattr(part, "canonical_path", "")
                if name.startswith("aurora_pool.") and not name.endswith((".args", ".kwargs")):
                    used = found(package, name)
                    if is_type(used) and used.canonical_path not in known:
                        missing.add((used.canonical_path.removeprefix("aurora_pool."), path))
    assert {name for name, _ in missing} == OUR_OWN, sorted(missing)


def test_docstrings_name_only_what_the_reference_has(package: Any) -> None:
    known = listed(package)
    members = {path: value.all_members if value.is_class else {} for path, value in known.items()}
    there = {".".join(path.split(".")[-2:]) for path in known} | {path.rpartition(".")[2] for path in known}
    there |= {f"{path.rpartition('.')[2]}.{name}" for path, found_in in members.items() for name in found_in}
    missing = set()
    for path, value in known.items():
        for explained in (value, *(member for name, member in members[path].items() if not name.startswith("_"))):
            for target in ROLE.findall(explained.docstring.value if explained.docstring else ""):
                short = ".".join(target.split(".")[-2:])
                if not {short, short.rpartition(".")[2]} & {*there, *members[path], *vars(builtins)}:
                    missing.add(target)
    assert missing == {"ray.data.Dataset.map_batches", "zlib.error"}


def is_type(value: Any) -> bool:
    """Tell public types and aliases of types from type variables and constants."""
    if value.name.startswith("_") or value.name.isupper():
        return False
    return value.is_class or (value.is_attribute and not str(value.value).startswith("TypeVar("))
