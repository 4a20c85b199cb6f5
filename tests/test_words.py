"""The package and its docs use the field's own words: those that only this project used have not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("aurora_pool", "benchmarks", "docs", "examples")
TEXTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".md", ".sh"}),
]
RETIRED = {
    r"\blanes?\b": "queue",
    r"\btickets?\b|TicketMaker": "work item, Planner",
    r"\bBooks\b": "Ledger",
    r"\bDealer\b|\bhungry\b|\btakers?\b": "Scheduler, has capacity, candidates",
    r"\boutbox\b|\brecall\b": "staged, unassign",
    r"\bdisown\w*": "detach",
    r"\bsuspects\b|\ba suspect\b|\bward\b|\bbereave\w*|\bconvict\w*": "quarantined, quarantine agent, blame",
    r"\bmisplaced\b|\bstranded\b": "wrong model, no healthy endpoint",
    r"\bMUTE\b|\bBLIND\b|\bpulse\b": "unresponsive, no metrics, tick",
    r"\berrands?\b|\brota\b|\brefit\b|own_process|\bspool\b": "background task, rotation, event loop, input writer",
    r"(that|one) very agent": "that agent",
    r"stands? there twice": "is listed twice",
    r"\bmakes? no sense\b": "is invalid",
    r"\bso many\b": "n",
    r"\bas they are(?=[.,;:)\"|])": "unchanged",
    r"\bunder way\b|under_way": "in flight",
    r"\b[Tt]ake in that\b": "Record that",
}


def words_of(text: str) -> list[str]:
    """Give what is retired in a text, with what to say instead; a phrase may go over the end of a line."""
    flat = re.sub(r"\n\s*(#:? )?", " ", text)
    return [
        f"{found[0]!r}: say {better!r}" for retired, better in RETIRED.items() for found in re.finditer(retired, flat)
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_retired_words_stay_away(path: Path) -> None:
    assert not words_of(path.read_text(encoding="utf-8"))


def test_the_names_of_tests_use_the_same_words() -> None:
    names = [
        name.replace("_", " ")
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    ]
    assert not words_of(". ".join(names))


def test_a_retired_word_is_found() -> None:
    assert len(words_of("Take in that so\n    many prompts are under way.")) == 3
