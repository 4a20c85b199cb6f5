"""Many responses to one value: votes, picks, merges and counts. Pure functions; failed responses are never counted in.

>>> majority_vote([Response(True, " Yes. "), Response(True, "yes"), Response(True, "no"), Response(False, "")]).winner
'yes'
"""

from __future__ import annotations

import json
import re
import statistics as numbers
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aurora_pool.errors import ConfigError, counted
from aurora_pool.messages import Response

__all__ = [
    "FailureReport",
    "Json",
    "Merge",
    "Statistics",
    "Vote",
    "best_of",
    "concat",
    "failure_report",
    "majority_vote",
    "normalised",
    "number_in",
    "statistics",
    "structured_merge",
    "top_k",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What a JSON text may hold."""

_NUMBER = re.compile(r"[-+]?(\d[\d_,]*(\.\d+)?|\.\d+)([eE][-+]?\d+)?")
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def normalised(response: Response) -> str:
    """Give a response's text without case, outer spaces, quotes and end punctuation, so that like answers are equal.

    >>> normalised(Response(True, ' "Yes". '))
    'yes'
    """
    return " ".join(response.text.split()).strip(" \"'`*.,;:!").casefold()


@dataclass(frozen=True, slots=True)
class Vote:
    """How a vote ended. ``share`` is the winner's part of the valid votes, from 0 to 1.

    ``winner`` is None if there was no valid vote. Of answers with equally many votes, the one that came first wins;
    ``tied`` tells that there were such. ``blank`` counts the answers without text, which have no vote.
    """

    winner: str | None
    share: float
    counts: dict[str, int]
    tied: bool = False
    blank: int = 0


def majority_vote(
    responses: Sequence[Response], key: Callable[[Response], str | None] = normalised, *, keep_blank: bool = False
) -> Vote:
    """Find the answer that most responses give.

    ::

        majority_vote(responses, key=lambda response: response.text.strip()[:1]).winner   # by the first letter

    ``key`` turns a response into the answer that it votes for, or None for a spoilt vote. Blank answers have no vote,
    unless ``keep_blank``.
    """
    blank = 0 if keep_blank else sum(response.blank for response in responses)
    votes = Counter(answer for response in _answered(responses, keep_blank) if (answer := key(response)) is not None)
    ranking = votes.most_common(2)
    if not ranking:
        return Vote(None, 0.0, {}, blank=blank)
    winner, most = ranking[0]
    tied = len(ranking) > 1 and ranking[1][1] == most
    return Vote(winner, most / votes.total(), dict(votes), tied, blank)


def concat(responses: Sequence[Response], separator: str = "\n\n", *, keep_blank: bool = False) -> str:
    """Put the answers one after the other, in the order given; blank ones are left out, unless ``keep_blank``.

    >>> concat([Response(True, "a"), Response(False, ""), Response(True, "b")], separator=", ")
    'a, b'
    """
    return separator.join(response.text for response in _answered(responses, keep_blank))


def best_of(
    responses: Sequence[Response], score: Callable[[Response], float], *, keep_blank: bool = False
) -> Response | None:
    """Pick the answer with the highest score, the first of equals; None if there is no answer.

    Blank answers are left out, unless ``keep_blank``.

    >>> best_of([Response(True, "short"), Response(True, "longer")], score=lambda response: len(response.text)).text
    'longer'
    """
    return max(_answered(responses, keep_blank), key=score, default=None)


def top_k(
    responses: Sequence[Response], k: int, score: Callable[[Response], float], *, keep_blank: bool = False
) -> list[Response]:
    """Pick the ``k`` answers with the highest scores, best first; fewer if there are fewer.

    Blank answers are left out, unless ``keep_blank``.

    >>> responses = [Response(True, "a"), Response(True, "ccc"), Response(True, "bb")]
    >>> [response.text for response in top_k(responses, 2, score=lambda response: len(response.text))]
    ['ccc', 'bb']

    Raises :class:`~aurora_pool.errors.ConfigError` if ``k`` is less than 1.
    """
    if k < 1:
        raise ConfigError(f"k is how many responses to keep, at least 1: got {k}")
    return sorted(_answered(responses, keep_blank), key=score, reverse=True)[:k]


@dataclass(frozen=True, slots=True)
class Merge:
    """What JSON answers came to together.

    ``unreadable`` holds the positions of the answers that held no JSON, ``conflicts`` the places where answers disagree
    (``"$.author.name"``); there the value that most of them give stands, of equals the first.
    """

    value: Json
    unreadable: tuple[int, ...] = ()
    conflicts: tuple[str, ...] = ()


def structured_merge(responses: Sequence[Response]) -> Merge:
    """Merge answers that are JSON: objects key by key, lists end to end without repetitions, single values by majority.

    >>> structured_merge([Response(True, '{"genes": ["TP53"], "n": 1}'), Response(True, '{"genes": ["BRCA1"]}')]).value
    {'genes': ['TP53', 'BRCA1'], 'n': 1}

    JSON in a Markdown code block, or with words around it, is found too. ``null`` gives way to any value.
    """
    values, unreadable = [], []
    for index, response in enumerate(responses):
        if response.success:
            try:
                values.append(_json_in(response.text))
            except ValueError:
                unreadable.append(index)
    conflicts: list[str] = []
    return Merge(_merged(values, "$", conflicts), tuple(unreadable), tuple(conflicts))


def number_in(response: Response) -> float | None:
    """Find the first number in a response's text; None if there is none.

    >>> number_in(Response(True, "About 1,250.5 mg, 3 times a day"))
    1250.5
    """
    found = _NUMBER.search(response.text)
    return float(found[0].replace(",", "").replace("_", "")) if found else None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The distribution of a number over responses; ``stdev`` is the sample's, 0 for fewer than two values."""

    count: int
    mean: float
    stdev: float
    minimum: float
    median: float
    maximum: float


def statistics(
    responses: Sequence[Response], value: Callable[[Response], float | None] = number_in
) -> Statistics | None:
    """Describe a number that every response has: by default, the first one in its text.

    >>> statistics([Response(True, "4"), Response(True, "I say 6."), Response(True, "no idea")])
    Statistics(count=2, mean=5.0, stdev=1.4142135623730951, minimum=4.0, median=5.0, maximum=6.0)

    ``value=lambda response: response.latency`` describes the seconds they took. Responses without a value are left out;
    None is returned if that is all of them.
    """
    found = [number for response in _answered(responses) if (number := value(response)) is not None]
    if not found:
        return None
    stdev = numbers.stdev(found) if len(found) > 1 else 0.0
    return Statistics(len(found), numbers.fmean(found), stdev, min(found), numbers.median(found), max(found))


@dataclass(frozen=True, slots=True)
class FailureReport:
    """How many responses failed, of how many, and of what; ``str()`` of it is a report to print.

    ``kinds`` counts by :data:`~aurora_pool.messages.ErrorKind`, ``errors`` by message, the most frequent first;
    ``indices`` are the failed responses' positions, ``blank`` those of successes without any text.
    """

    total: int
    failed: int
    kinds: dict[str, int]
    errors: dict[str, int]
    indices: tuple[int, ...]
    blank: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = ["the one prompt was answered" if self.total == 1 else f"all {self.total} prompts were answered"]
        if self.failed:
            lines = [f"{self.failed} of {counted(self.total, 'prompt')} failed"]
        lines += [f"{count:6}  {error}" for error, count in self.errors.items()]
        if self.blank:
            lines.append(f"{len(self.blank)} of {self.total} answers are blank")
        return "\n".join(lines)


def failure_report(responses: Sequence[Response]) -> FailureReport:
    """Sort the failures by what went wrong.

    >>> print(failure_report([Response(True, "fine"), Response(False, "", "500: broken", error_kind="exhausted")]))
    1 of 2 prompts failed
         1  500: broken
    """
    failures = [(index, response) for index, response in enumerate(responses) if not response.success]
    return FailureReport(
        total=len(responses),
        failed=len(failures),
        kinds=dict(Counter(response.error_kind or "unknown" for _, response in failures).most_common()),
        errors=dict(Counter(response.error or "no reason given" for _, response in failures).most_common()),
        indices=tuple(index for index, _ in failures),
        blank=tuple(index for index, response in enumerate(responses) if response.blank),
    )


def _answered(responses: Sequence[Response], keep_blank: bool = True) -> list[Response]:
    return [response for response in responses if response.success and (keep_blank or not response.blank)]


def _json_in(text: str) -> Json:
    """Read the JSON in a text: all of it, a fenced block, or the first object or list. ValueError if there is none."""
    candidates = [text, *_FENCED.findall(text)]
    for candidate in candidates:
        try:
            return _loads(candidate)
        except ValueError:
            continue
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"[\[{]", text)):
        try:
            value: Json = decoder.raw_decode(text, start)[0]
        except ValueError:
            continue
        return value
    raise ValueError("no JSON in the text")


def _loads(text: str) -> Json:
    value: Json = json.loads(text)
    return value


def _merged(values: Sequence[Json], place: str, conflicts: list[str]) -> Json:
    values = [value for value in values if value is not None]
    if not values:
        return None
    first = values[0]
    if isinstance(first, dict) and all(isinstance(value, dict) for value in values):
        objects = [value for value in values if isinstance(value, dict)]
        keys = dict.fromkeys(key for value in objects for key in value)
        return {
            key: _merged([value[key] for value in objects if key in value], f"{place}.{key}", conflicts) for key in keys
        }
    if isinstance(first, list) and all(isinstance(value, list) for value in values):
        members = {json.dumps(m, sort_keys=True): m for value in values if isinstance(value, list) for m in value}
        return list(members.values())
    texts = [json.dumps(value, sort_keys=True) for value in values]
    ranking = Counter(texts).most_common()
    if len(ranking) > 1:
        conflicts.append(place)
    return values[texts.index(ranking[0][0])]
