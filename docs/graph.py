"""Draw the imports of the package into ``docs/architecture.svg``: ``make graph``.

One box for each folder and each module at the root, one arrow for what one imports from another. Every import is read
from the source, those for types and inside functions too. An arrow that a longer way says as well is
left out. Imports that run in a circle can't be drawn: that is a ``graphlib.CycleError``. ``--check`` fails if the
picture shows something else.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aurora_pool"
PICTURE = ROOT / "docs" / "architecture.svg"
LEFT_OUT = {"__init__", "__main__"}
"""They import what they offer, which says nothing about layers."""
UPWARD = {("pool", "contrib")}
"""``VLLMPool.openai_client()`` makes the client of ``contrib/`` when it is called: the one import that goes up."""

Graph = dict[str, set[str]]
BOX, GAP, ROW, MARGIN, HEIGHT, TRACK = 108, 22, 74, 20, 30, 2
"""Pixels: a box's width, what is between two, from row to row, around the picture, a box's height, an arrow's place."""
SWEEPS = 8


def packages() -> Graph:
    """Give each package with the packages it imports from."""
    found: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if package not in LEFT_OUT:
            found.setdefault(package, set()).update(_imported(ast.parse(path.read_text(encoding="utf-8"))))
    return {
        package: {other for other in needs & found.keys() - {package} if (package, other) not in UPWARD}
        for package, needs in found.items()
    }


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aurora_pool":
            inner = (node.module or "").split(".")[1:2]
            yield from inner or [alias.name for alias in node.names]


def _reached(graph: Graph, package: str) -> set[str]:
    return {package}.union(*(_reached(graph, other) for other in graph[package]))


def without_shortcuts(graph: Graph) -> Graph:
    """Leave out the arrows that a longer way says as well. Raises ``graphlib.CycleError`` for a circle."""
    list(TopologicalSorter(graph).static_order())
    return {
        package: {other for other in needs if not any(other in _reached(graph, via) for via in needs - {other})}
        for package, needs in graph.items()
    }


def floors(graph: Graph) -> tuple[list[list[str]], list[list[str]]]:
    """Place the packages floor by floor, the lowest first, and give the way of each arrow, from package to package.

    A package is one floor above the highest that it imports from. An arrow over several floors has a place of its own
    on each of them (a name with dots), so that it goes through no box.
    """
    level: dict[str, int] = {}
    for package in TopologicalSorter(graph).static_order():
        level[package] = 1 + max((level[other] for other in graph[package]), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(level.values()))]
    for package in sorted(graph):
        rows[level[package]].append(package)
    ways = []
    below: Graph = {}
    above: Graph = {}
    for start, end in [(package, other) for package in sorted(graph) for other in sorted(graph[package])]:
        between = [f"{start}.{end}.{floor}" for floor in range(level[start] - 1, level[end], -1)]
        for name in between:
            rows[int(name.rpartition(".")[2])].append(name)
        way = [start, *between, end]
        ways.append(way)
        for upper, lower in pairwise(way):
            below.setdefault(upper, set()).add(lower)
            above.setdefault(lower, set()).add(upper)
    place = {name: (index + 0.5) / len(row) for row in rows for index, name in enumerate(row)}
    for beside, order in [(below, rows), (above, rows[::-1])] * SWEEPS:  # what belongs together comes near
        for row in order:
            row.sort(key=lambda name: fmean([place[other] for other in beside.get(name, {name})]))
            place.update({name: (index + 0.5) / len(row) for index, name in enumerate(row)})
    return rows, ways


def draw(graph: Graph) -> str:
    """Write a graph as an SVG picture."""
    rows, ways = floors(graph)
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    width = {name: TRACK if "." in name else BOX for row in rows for name in row}
    spans = [sum(width[name] + GAP for name in row) - GAP for row in rows]
    wide, high = max(spans) + 2 * MARGIN, len(rows) * ROW - (ROW - HEIGHT) + 2 * MARGIN
    middle: dict[str, float] = {}
    top: dict[str, float] = {}
    for number, (row, span) in enumerate(zip(reversed(rows), reversed(spans), strict=True)):
        x = (wide - span) / 2
        for name in row:
            middle[name], top[name] = x + width[name] / 2, MARGIN + number * ROW
            x += width[name] + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0,0 L8,4 L0,8 z" fill="#789"/></marker>',
    ]
    for way in ways:
        points = [(middle[way[0]], top[way[0]] + HEIGHT)]
        for name in way[1:-1]:
            points += [(middle[name], top[name]), (middle[name], top[name] + HEIGHT)]
        points.append((middle[way[-1]], top[way[-1]]))
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#789" marker-end="url(#tip)"/>')
    for package in graph:
        fill, shown = ("#cfe8e5", f"{package}/") if package in folders else ("#fff", package)
        x, y = middle[package] - BOX / 2, top[package]
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="5" fill="{fill}" stroke="#456"/>')
        parts.append(f'<text x="{middle[package]:g}" y="{y + 20:g}" text-anchor="middle" fill="#123">{shown}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw, or check that the picture shows what the source says."""
    parser = argparse.ArgumentParser(description="Draw the imports of the package into docs/architecture.svg.")
    parser.add_argument("--check", action="store_true", help="fail if the picture shows something else")
    graph = packages()
    picture = draw(without_shortcuts(graph))
    if parser.parse_args().check:
        drawn = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture
        sys.exit(0 if drawn else f"{PICTURE.name} is out of date: make graph")
    PICTURE.write_text(picture, encoding="utf-8")
    arrows = sum(map(len, graph.values()))
    print(f"{len(graph)} packages on {len(floors(graph)[0])} floors, {arrows} arrows, no circle: {PICTURE}")


if __name__ == "__main__":
    main()
