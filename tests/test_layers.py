"""The layers of the design: imports point down only, pure modules stay pure, nobody reads another's private names."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "aurora_pool"
DOCS = PACKAGE.parent / "docs"

# The layers, from the bottom: a package imports from packages of the layers above it in this list and from no other,
# also not of its own layer: wire and policy know nothing of each other. So packages run in no circle. A package is a
# folder, or a module at the root; what is new must be given its place here.
LAYERS = (
    ("errors", "event_loop", "own_files", "terminal"),
    ("arguments", "engine_names", "hosted", "messages", "nodelist"),
    ("hostfile", "progress", "wire", "policy"),
    ("hostfile_source", "options", "statistics"),
    ("runtime", "sharing"),
    ("prompts",),
    ("pool_options",),
    ("pool_calls",),
    ("agent_pool",),
    ("blocking",),
    ("pool", "embeddings", "engines"),
    ("aggregators", "patterns", "jobs", "testing", "fleets"),
    ("serve", "contrib"),
    ("cli",),
    ("__main__", "__init__"),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
PURE = (
    "errors",
    "arguments",
    "messages",
    "engine_names",
    "hosted",
    "hostfile",
    "nodelist",
    "options",
    "wire",
    "policy",
    "statistics",
    "terminal",
    "prompts.chat_template",
    "prompts.chunking",
    "prompts.content",
    "prompts.fields",
    "prompts.length",
    "aggregators",
    "patterns.templates",
    "patterns.tree",
    "jobs.columns",
    "jobs.deadline",
    "jobs.formats",
    "jobs.guardrails",
    "jobs.identity",
    "jobs.meter",
    "jobs.pace",
    "jobs.prompt_maker",
    "jobs.records",
    "jobs.requests",
    "jobs.standing",
    "jobs.templates",
    "jobs.validation",
    "serve.queueing",
)
PURE_IMPORTS = frozenset(
    {
        "__future__",
        "array",
        "base64",
        "codecs",
        "collections",
        "dataclasses",
        "datetime",
        "difflib",
        "email",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "ipaddress",
        "itertools",
        "json",
        "jsonschema",
        "logging",
        "math",
        "msgspec",
        "numbers",
        "operator",
        "pathlib",
        "random",
        "re",
        "reprlib",
        "statistics",
        "struct",
        "types",
        "typing",
        "zlib",
    }
)
# What pathlib, datetime and the builtins offer of the world outside. `Path` and `datetime` are there as types.
IMPURE_CALLS = frozenset(
    {
        *("now", "today", "utcnow", "fromtimestamp", "localtime", "open", "print", "input", "eval", "exec"),
        *("exists", "expanduser", "glob", "home", "cwd", "is_dir", "is_file", "iterdir", "lstat", "mkdir", "owner"),
        *("read_bytes", "read_text", "rename", "resolve", "rglob", "rmdir", "stat", "symlink_to", "touch", "unlink"),
        *("write_bytes", "write_text", "__import__"),
    }
)
UPWARD = {("pool", "contrib.openai")}  # pool.openai_client() makes it when it is called, from public names only
CLIENT_OWNERS = ("runtime.transport", "runtime.reply", "testing", "contrib", "serve")
LONGEST = 350
UNDERSCORED_API = frozenset({"_asdict", "_exit", "_fields", "_make", "_replace"})  # of namedtuple and os: public

MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"), MODULES[name])


def top(name: str) -> str:
    """Give the part of a module's name that has a layer: ``policy`` of ``policy.window``."""
    return name.partition(".")[0]


def owned_by(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str | None]]:
    """Give the line, module and name (None for a whole module) of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, node.module or ".", alias.name


def own_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give the line and name of every module of this package that is imported, without the leading ``aurora_pool.``."""
    for line, module, name in imports(tree):
        if top(module) != "aurora_pool":
            continue
        dotted = module.removeprefix("aurora_pool").removeprefix(".")
        inner = f"{dotted}.{name}".removeprefix(".")
        if inner in MODULES or f"{inner}.__init__" in MODULES:
            dotted = inner
        yield line, dotted or "__init__"


PURE_MODULES = [name for name in MODULES if owned_by(name, PURE)]


def test_every_module_has_a_layer() -> None:
    missing = {top(name) for name in MODULES} - LAYER.keys()
    assert not missing, f"give them their layers in {Path(__file__).name}"


def test_imports_point_down() -> None:
    upward = [
        f"{name}, line {line}: {imported}"
        for name in MODULES
        for line, imported in own_imports(tree_of(name))
        if top(imported) != top(name)
        and LAYER.get(top(imported), 99) >= LAYER[top(name)]
        and (name, imported) not in UPWARD
    ]
    assert not upward


def test_imports_run_in_no_circle() -> None:
    """Modules of one package too, and imports for types and inside functions: a circle can't be understood in parts."""
    graph = {
        name: {
            f"{imported}.__init__" if f"{imported}.__init__" in MODULES else imported
            for _, imported in own_imports(tree_of(name))
            if (name, imported) not in UPWARD
        }
        for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())


def test_the_picture_shows_these_imports() -> None:
    graph = runpy.run_path(str(DOCS / "graph.py"))
    drawn = graph["draw"](graph["without_shortcuts"](graph["packages"]()))
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == drawn, "make graph"


def test_the_page_names_every_room() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = {top(name): f"`{top(name)}.py`" if top(name) in MODULES else f"`{top(name)}/`" for name in MODULES}
    assert {package for package, shown in packages.items() if shown not in page} == {"__init__", "__main__"}


def test_pure_modules_import_pure_modules_only() -> None:
    impure = [
        f"{name}, line {line}: {imported}"
        for name in PURE_MODULES
        for line, imported in own_imports(tree_of(name))
        if not owned_by(imported, PURE)
    ] + [
        f"{name}, line {line}: {module}"
        for name in PURE_MODULES
        for line, module, _ in imports(tree_of(name))
        if top(module) not in PURE_IMPORTS | {"aurora_pool"}
    ]
    assert not impure


def test_pure_modules_read_no_clock_and_no_file() -> None:
    calls = [
        f"{name}, line {node.lineno}: {ast.unparse(node)}"
        for name in PURE_MODULES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPURE_CALLS
    ]
    assert not calls


def test_what_says_that_it_is_pure_is_checked() -> None:
    said = {name for name in MODULES if re.search(r"\bpure\b", ast.get_docstring(tree_of(name)) or "", re.IGNORECASE)}
    assert not said - set(PURE_MODULES)


def test_pure_modules_are_handed_their_random_generator() -> None:
    taken = [
        f"{name}, line {line}: {imported}"
        for name in PURE_MODULES
        for line, module, imported in imports(tree_of(name))
        if module == "random" and imported not in {None, "Random"}
    ]
    used = [
        f"{name}, line {node.lineno}: random.{node.attr}"
        for name in PURE_MODULES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
    ]
    assert not taken + used


def test_only_the_transport_opens_connections() -> None:
    clients = [
        f"{name}, line {line}: {module}"
        for name in MODULES
        if not owned_by(name, CLIENT_OWNERS)
        for line, module, _ in imports(tree_of(name))
        if top(module) == "aiohttp"
    ]
    assert not clients


def test_nobody_reads_private_names_of_others() -> None:
    read = [
        f"{name}, line {node.lineno}: {ast.unparse(node)}"
        for name in MODULES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value)
    ]
    taken = [
        f"{name}, line {line}: {imported}"
        for name in MODULES
        for line, module, imported in imports(tree_of(name))
        if top(module) == "aurora_pool" and any(is_private(part) for part in [*module.split("."), imported or ""])
    ]
    assert not read + taken


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in UNDERSCORED_API


def is_own(value: ast.expr) -> bool:
    """Tell whether an expression is the object itself: ``self``, ``cls``, ``super()`` or ``type(self)``."""
    return ast.unparse(value) in {"self", "cls", "super()", "type(self)"}


def test_modules_have_one_reason_to_change() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
