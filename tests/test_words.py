"""The package, its docs and tests use the field's own words: those that only this project used have not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("aurora_pool", "benchmarks", "docs", "examples")
SUFFIXES = {".py", ".md", ".sh", ".html", ".js", ".yaml"}
TEXTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES),
    *sorted(p for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__)),
]
RETIRED = {
    r"\blanes?\b": "queue",
    r"\btickets?\b|TicketMaker": "work item, Planner",
    r"(?-i:\bBooks\b)": "Ledger",
    r"(?-i:\bDealer\b)|\bhungry\b|\btakers?\b": "Scheduler, has capacity, candidates",
    r"\bdealt\b(?! with)": "assigned",
    r"\boutbox\b|\brecall\b": "staged, unassign",
    r"\bdisown\w*": "detach",
    r"\bsuspects\b|\ba suspect\b|\bward\b|\bbereave\w*|\bconvict\w*": "quarantined, quarantine agent, blame",
    r"\bmisplaced\b|\bstranded\b": "wrong model, no healthy endpoint",
    r"(?-i:\bMUTE\b|\bBLIND\b)|\bpulse\b": "unresponsive, no metrics, tick",
    r"\berrands?\b|\brota\b|\brefit\b|own_process|\bspool\b": "background task, rotation, event loop, input writer",
    r"(that|one) very agent": "that agent",
    r"stands? there twice": "is listed twice",
    r"\bmakes? no sense\b": "is invalid",
    r"\bso many\b": "n",
    r"\bas they are(?=[.,;:)\"|])": "unchanged",
    r"\bunder way\b|under_way": "in flight",
    r"\btake in that\b": "Record that",
    r"\bsilent\b": "stalled, idle, undiscovered, no heartbeat",
    r"\bbefalls?\b|\bgo(es)? on being\b": "happens to, is still",
    r"\ba items?\b": "an item",
}
"""Patterns of words, whatever their case; a name of a class is retired as it is written only."""
RETIRED_NAMES = {
    "able": "candidates, has capacity",
    "admits": "accepting",
    "alarm": "timer",
    "bereave": "on agent death",
    "blind": "no metrics",
    "broke": "abort one, or what it is that ended",
    "convict": "blame",
    "crash": "fail",
    "deal": "assign, round-robin",
    "dealer": "scheduler",
    "dealt": "assigned",
    "disown": "detach",
    "doubt": "suspected",
    "doubted": "rejected once",
    "doubts": "needs confirmation",
    "errand": "background task",
    "heard": "active, read",
    "hungry": "idle, has capacity",
    "lane": "queue",
    "leaving": "draining",
    "look": "check, poll, sample, refresh",
    "looked": "checked, read",
    "looks": "checks",
    "made": "created, materialized",
    "misplaced": "wrong model",
    "mute": "unresponsive",
    "notices": "events",
    "outbox": "staged",
    "pulse": "tick",
    "recall": "unassign",
    "refit": "retry with smaller max_tokens",
    "rested": "cooldown",
    "resting": "paused, deferred",
    "retire": "disable, remove",
    "retired": "disabled, removed",
    "room": "capacity, slots, budget, package",
    "rota": "rotation",
    "settle": "release, complete, or what it is that is done",
    "settled": "completed, proven",
    "silence": "stall, idle",
    "silent": "stalled, idle, undiscovered",
    "spool": "input writer",
    "strand": "no healthy endpoint",
    "stranded": "no healthy endpoint",
    "suspect": "suspected, quarantined",
    "takers": "candidates",
    "tend": "refill",
    "ticket": "work item",
    "ward": "quarantine agent",
}
"""Words that have a place in prose, and none in a name that the code defines."""
OF_OTHERS = {"connection_made"}
"""Names that a base class of the standard library gives."""
ANY_RETIRED_NAME = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(RETIRED_NAMES)})(?![a-z0-9])")


def words_of(text: str) -> list[str]:
    """Give what is retired in a text, with what to say instead; a phrase may go over the end of a line."""
    flat = re.sub(r"\n\s*(#:? )?", " ", text)
    return [
        f"{found[0]!r}: say {better!r}"
        for retired, better in RETIRED.items()
        for found in re.finditer(retired, flat, re.IGNORECASE)
    ]


def found_in(paths: list[Path], retired_of: Callable[[str], list[str]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {retired}"
        for path in paths
        for retired in retired_of(path.read_text(encoding="utf-8"))
    ]


def test_retired_words_stay_away() -> None:
    assert not found_in(TEXTS, words_of)


def names_of(tree: ast.AST) -> Iterator[str]:
    """Give all names that are defined: of functions and classes, of parameters, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr


def retired_names_of(text: str) -> list[str]:
    """Give the defined names that have a retired word in them, with what to say instead; a test's name is prose."""
    if not ANY_RETIRED_NAME.search(text.lower()):  # few have one, and to parse all takes seconds
        return []
    return [
        f"{name}: say {RETIRED_NAMES[part]!r}"
        for name in sorted(set(names_of(ast.parse(text))))
        if not name.startswith("test_") and name not in OF_OTHERS
        for part in name.lower().split("_")
        if part in RETIRED_NAMES
    ]


def test_names_use_the_same_words() -> None:
    assert not found_in([path for path in TEXTS if path.suffix == ".py"], retired_names_of)


def test_a_retired_name_is_found() -> None:
    assert retired_names_of("def settle(agent, outbox_size): self.alarm = lanes = alarmed = 1") == [
        "alarm: say 'timer'",
        "outbox_size: say 'staged'",
        "settle: say 'release, complete, or what it is that is done'",
    ]


def test_the_names_of_tests_use_the_same_words() -> None:
    names = [
        name.replace("_", " ")
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    ]
    assert not words_of(". ".join(names))


def test_a_retired_word_is_found() -> None:
    assert len(words_of("Take in that so\n    many prompts are under way. So many books are blind.")) == 4
