"""Which prompts begin alike.

A server computes the beginning that prompts share once and keeps it, so prompts that share one should be on one agent.
:func:`find_groups` looks at the prompts that are admitted together: it skips what all of them share, and puts those
together whose next :data:`LENGTH` characters are the same; a group too large for one agent is divided again in the same
way. No tokenizer, and no tree: a client that sees many prompts at a time needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

__all__ = ["Prefix"]

Prefix = Literal["auto", "off"]
"""Whether prompts that begin alike are kept together."""

Beginning = str | Sequence[int]
"""What a prompt begins with, as far as it is known here: text, or token ids."""
Group = tuple[int, list[int]]
"""Prompts that share a beginning: the key to know it by (0: there is none), and their places, neighbours alike."""


class Keys(Protocol):
    """The keys of known groups."""

    def __contains__(self, key: object, /) -> bool:
        """Whether this is one of them."""
        ...

    def isdisjoint(self, keys: Collection[int], /) -> bool:
        """Whether none of these is one of them."""
        ...


LENGTH = 256
"""How many characters prompts must share, beyond what all share, to be a group: about four blocks of a cache."""
STEP = 64
"""The characters that one block of a cache holds, about; groups are told apart from a multiple of it on."""
TOKEN = 4
"""The characters of a token, about."""
SAMPLED = 32
"""How many evenly spaced prompts, and how many of the first, show what all share."""
DRAWN = 1024
"""A random sample of this size shows whether many prompts are alike; what it misses is not worth grouping."""
MANY = 8 * DRAWN
"""To compare as many as this costs less than to draw some of them."""
WORTH = 0.2
"""Groups must save this share of what would be computed without them: they cost balance."""
LEVELS = 64
"""How many times a group is divided again at most."""


def shared_length(one: Beginning, other: Beginning) -> int:
    """Tell how much two prompts have in common at their beginning.

    >>> shared_length("abcdef", "abcxyz"), shared_length([1, 2], [1, 2, 3])
    (3, 2)
    """
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low + 1 < high:  # they agree up to low, and not up to high
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def depth_of(texts: Sequence[Any], beside: Any = None) -> int:
    """Tell from where on prompts differ, in whole blocks, by some of them: what few have otherwise does not matter.

    ``beside`` is a prompt that came before: what it does not share is not shared by all.
    """
    stride = len(texts) // SAMPLED | 1
    some = [*texts[:SAMPLED], *texts[::stride]]
    if beside is not None:
        some.append(beside)
    unit, _ = units_of(texts[0])
    return shared_length(min(some), max(some)) // unit * unit


class Grouping(NamedTuple):
    """What prompts that came together share: each one's key, and the groups, if there is anything to be gained."""

    keys: Sequence[int]
    """What each is known by; 0 for those that are too short to be known."""
    groups: list[Group] | None


def find_groups(texts: Sequence[Any], depth: int, most: int, known: Keys = frozenset()) -> Grouping:
    """Group prompts that share beginnings which not all of them share, from ``depth`` on: see :func:`depth_of`.

    >>> document, other = "A long document. " * 20, "Another document. " * 20
    >>> found = find_groups([document + "Who?", other + "Who?", document + "Why?", "Hello!"], depth=0, most=4)
    >>> sorted(places for _, places in found.groups)
    [[0, 2], [1], [3]]

    All are of one type. A group of more than ``most`` prompts is divided by what only some of them share. ``known`` are
    the keys of known groups: a single prompt of one belongs there.
    """
    _, length = units_of(texts[0])
    keys = _keys(texts, depth, length)
    drawn = keys if len(keys) <= MANY else Random(len(keys)).sample(keys, DRAWN)
    different = set(drawn)
    twice = len(drawn) - len(different) - (drawn.count(0) - 1 if 0 in different else 0)
    if not twice and known.isdisjoint(drawn):
        return Grouping(keys, None)
    buckets: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        buckets.setdefault(key, []).append(place)
    groups: list[Group] = [(0, [place]) for place in buckets.pop(0, ())]
    if all(len(places) == 1 for places in buckets.values()) and known.isdisjoint(buckets):
        return Grouping(keys, None)
    for key, places in buckets.items():
        groups += _divided(texts, places, key, most, known, LEVELS)
    return Grouping(keys, groups)


def _divided(texts: Sequence[Any], places: list[int], key: int, most: int, known: Keys, levels: int) -> list[Group]:
    """Divide a group that is too large by what some of it share; what shares no more stays together, first."""
    if len(places) <= most or not levels:
        places.sort(key=texts.__getitem__)
        return [(key, places)]
    depth = depth_of([texts[place] for place in places])
    buckets: dict[int, list[int]] = {}
    for place in places:
        buckets.setdefault(key_of(texts[place], depth), []).append(place)
    rest = buckets.pop(0, [])
    groups: list[Group] = []
    for own, some in buckets.items():
        if len(some) > 1:
            groups += _divided(texts, some, own, most, known, levels - 1)
        elif own in known:
            groups.append((own, some))
        else:
            rest += some
    if rest:
        rest.sort()
        groups.insert(0, (key, rest))
    return groups


def is_worth(texts: Sequence[Any], groups: Sequence[Group], depth: int, agents: int, known: Keys = frozenset()) -> bool:
    """Tell whether groups save a good part of what the agents would compute if prompts were assigned round-robin.

    A sample of the groups is enough. Of a group, what two neighbours share counts, without what they share with the
    group before: assigned round-robin, each agent would compute it, or as many as there are prompts in the group.

    >>> texts = ["a" * 300 + "?", "a" * 300 + "!", "b" * 300 + "?"]
    >>> is_worth(texts, [(1, [0, 1]), (2, [2])], 0, agents=4), is_worth(texts, [(1, [0]), (2, [2])], 0, agents=4)
    (True, False)
    """
    saved = total = 0
    for number in range(0, len(groups), len(groups) // SAMPLED | 1):
        key, places = groups[number]
        count = len(places)
        middle = texts[places[count // 2]]
        if count == 1:
            total += max(0, len(middle) - depth)
            saved += max(0, len(middle) - depth) // 2 if key in known else 0
            continue
        before = shared_length(texts[places[0]], texts[groups[number - 1][1][0]]) if number else 0
        shared = max(0, shared_length(texts[places[count // 2 - 1]], middle) - max(depth, before))
        computed = min(agents, count)
        total += computed * shared + count * max(0, len(middle) - max(depth, before) - shared)
        saved += (computed - (key not in known)) * shared
    return saved > WORTH * total


def key_of(text: Beginning, depth: int) -> int:
    """Hash a prompt's text at some depth; 0 where it is too short for that.

    >>> key_of("short", 0)
    0
    """
    _, length = units_of(text)
    return 0 if len(text) < depth + length else hash(_slice(text, depth, depth + length)) ^ depth


def units_of(text: Beginning) -> tuple[int, int]:
    """How much of a prompt a block holds, and how much makes a group, in characters or tokens."""
    return (STEP, LENGTH) if isinstance(text, str) else (STEP // TOKEN, LENGTH // TOKEN)


def _slice(text: Any, start: int, end: int) -> Any:
    return text[start:end] if isinstance(text, str) else tuple(text[start:end])


def _keys(texts: Sequence[Any], depth: int, length: int) -> list[int]:
    """The same as :func:`key_of` for each of them.

    This is most of what a prompt costs that shares nothing. So it is done in loops of the interpreter's own, and no
    slice is kept: each takes the memory of the one before it, which is in the cache already.
    """
    slices = map(itemgetter(slice(depth, depth + length)), texts)
    keys = list(map(hash, slices if isinstance(texts[0], str) else map(tuple, slices)))
    if depth:
        keys = [key ^ depth for key in keys]
    if min(map(len, texts)) < depth + length:
        return [key if len(text) >= depth + length else 0 for key, text in zip(keys, texts, strict=True)]
    return keys
