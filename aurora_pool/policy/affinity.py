"""Which agents have cached the beginning of which group of prompts: the group's homes.

:class:`PrefixAffinity` remembers which agents were sent which groups, as many as servers are likely to keep cached.
:class:`Grouper` finds the groups in what a caller admits, and those that an earlier call has recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice, repeat
from typing import Any

from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.prefix import LENGTH, SAMPLED, TOKEN, depth_of, find_groups, is_worth, key_of
from aurora_pool.policy.work import Lot, Prompts, WorkItem, items_of

Group = tuple[int, list[WorkItem]]
"""Prompts that begin alike, with the key of their group; 0 for a prompt that belongs to none."""

REMEMBERED = 1 << 19
"""How many tokens of prompts an agent is taken to remember."""
REMEMBERED_BY_ALL = 1 << 26
"""The most of it for a fleet: 10 to 50 MB here."""
FORGOTTEN_TOGETHER = 8
"""An eighth of the groups more is remembered before some are forgotten: forgetting many at a time is cheaper."""
MOST_AGENTS = 32
"""How many agents are remembered for one group; it is known nearly everywhere then."""
SAMPLE_EVERY = 16
"""One recorded key in this many is in the sample that shows quickly whether prompts come again."""
SAMPLES_TESTED = 16 * SAMPLE_EVERY
"""How many keys of a large batch are tested against that sample."""
DEPTHS = 4
"""How many places are remembered at which prompts have differed."""
_LIFE = 1 << 32
"""Low 32 bits: agent index; high bits: how often that agent's cache was lost."""


class PrefixAffinity:
    """Which agents have been sent which groups; the least recently used groups are forgotten first.

    Each entry is assumed to cost the mean length of its prompts, in tokens.

    >>> affinity = PrefixAffinity(2)
    >>> affinity.record(1, [5, 5, 6])
    >>> affinity.agents_of(5), affinity.agents_of(7)
    ([1], [])
    >>> affinity.forget(1)
    >>> affinity.agents_of(5)
    []
    """

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._known: dict[int, tuple[int, ...]] = {}
        self._lives: dict[int, int] = {}
        self._tokens = 0.0
        self._new: deque[tuple[int, Sequence[int]]] = deque()
        """What has been recorded since the last query: merging it at once would cost more than everything else that
        is done for a prompt that shares nothing."""
        self._new_keys = 0
        self._sample: set[int] = set()
        """A sample of the keys that are new: a batch of prompts that come again has some of these."""

    def __len__(self) -> int:
        self.merge_recent()
        return len(self._known)

    def __contains__(self, key: object) -> bool:
        """Whether a group is recorded and not forgotten."""
        self.merge_recent()
        return key in self._known

    def isdisjoint(self, keys: Collection[int]) -> bool:
        """Whether none of these groups is recorded; a few that are may be missed among many that are not."""
        if self._sample and not self._sample.isdisjoint(islice(keys, 0, None, len(keys) // SAMPLES_TESTED | 1)):
            self.merge_recent()
        return not self._known or self._known.keys().isdisjoint(keys)

    def agents_of(self, key: int) -> list[int]:
        """The agents that have computed a group's beginning, in the order in which they did."""
        self.merge_recent()
        return [home % _LIFE for home in self._known.get(key, ()) if self._lives.get(home % _LIFE, 0) == home // _LIFE]

    def add_group(self, key: int) -> None:
        """Record that a group waits for an agent."""
        self.merge_recent()
        self._known.setdefault(key, ())

    def record(self, agent: int, keys: Sequence[int]) -> None:
        """Record that prompts of these groups go to an agent."""
        if not any(keys):
            return
        self._new.append((agent + _LIFE * self._lives.get(agent, 0), keys))
        self._new_keys += len(keys)
        self._sample.update(keys[::SAMPLE_EVERY])
        if self._new_keys > self._most() and len(self._new) > 1:
            self._new_keys -= len(self._new.popleft()[1])

    def merge_recent(self) -> None:
        """Merge what was recorded since the last query, so that the next one misses nothing."""
        known = self._known
        for home, keys in self._new:
            alone = (home,)
            if known.keys().isdisjoint(keys):
                known.update(zip(keys, repeat(alone), strict=False))
                known.pop(0, None)
                continue
            for key in filter(None, dict.fromkeys(keys)):
                agents = known.pop(key, alone)
                known[key] = agents if home in agents else (*agents[1 - MOST_AGENTS :], home)
        self._new.clear()
        self._new_keys = 0
        self._sample.clear()
        most = self._most()
        if len(known) > most + most // FORGOTTEN_TOGETHER:
            for key in list(islice(known, len(known) - most)):
                del known[key]

    def expect(self, tokens: float) -> None:
        """Record the mean length of the prompts that were just grouped, in tokens."""
        self._tokens += (tokens - self._tokens) * (0.25 if self._tokens else 1.0)

    def forget(self, agent: int) -> None:
        """Record that an agent has lost its cache."""
        self._lives[agent] = self._lives.get(agent, 0) + 1

    def joined(self) -> None:
        """Record that the fleet has one more agent."""
        self._agents += 1

    def _most(self) -> int:
        return int(min(REMEMBERED_BY_ALL, REMEMBERED * self._agents) / max(LENGTH / TOKEN, self._tokens))


class Grouper:
    """Groups what is admitted. ``beginning_of`` gives the beginning of a prompt, from the ``work`` of its item."""

    def __init__(self, affinity: PrefixAffinity, beginning_of: Callable[[Any], Any]) -> None:
        self._affinity = affinity
        self._beginning_of = beginning_of
        self._depths: deque[int] = deque(maxlen=DEPTHS)
        self._last: Any = ""

    def groups(self, prompts: Prompts, queue: PromptQueue) -> list[Group] | None:
        """The groups among prompts of one queue; None where they share nothing, or all the same.

        A group of one is known from earlier, or belongs to none and has the key 0. Items get their key as ``prefix``.
        """
        if len(prompts) == 1:
            (item,) = items_of(prompts)
            return self._single(item, self._beginning_of(item.work))
        texts = prompts.contents if isinstance(prompts, Lot) else [item.work for item in prompts]
        kinds = {type(texts[0])} if isinstance(prompts, Lot) else set(map(type, texts))
        if kinds != {str}:  # a text is its own beginning
            texts = list(map(self._beginning_of, texts))
            kinds = set(map(type, texts))
        if len(kinds) > 1:
            return None
        beside = queue.beginning if queue.beginning and type(queue.beginning) is type(texts[0]) else None
        queue.beginning = texts[-1]
        agents = len(queue.view.members)
        most = -(-len(texts) // agents)
        if beside is None and len(texts) <= SAMPLE_EVERY:
            self._affinity.merge_recent()
        depth, known = depth_of(texts, beside), self._affinity
        keys, groups = find_groups(texts, depth, most, known)
        if any(keys):
            some = texts[:: len(texts) // SAMPLED + 1]
            self._affinity.expect(sum(map(len, some)) / len(some) / (TOKEN if isinstance(texts[0], str) else 1))
            self._note(depth)
            if isinstance(prompts, Lot):
                prompts.keys = keys
            else:
                for item, key in zip(prompts, keys, strict=True):
                    item.prefix = key
        if groups is None or not is_worth(texts, groups, depth, agents, known):
            return None
        found = []
        items = items_of(prompts)
        for key, places in groups:
            if len(places) == 1 and key not in known:
                found.append((0, [items[places[0]]]))
                continue
            group = [items[place] for place in places]
            for item in group:
                item.prefix = key
            self._affinity.add_group(key)
            found.append((key, group))
        return found

    def _single(self, item: WorkItem, text: Any) -> list[Group] | None:
        """A prompt that came alone: what has come before shows where it may differ from others."""
        if not text:
            return None
        if type(self._last) is type(text):
            self._note(depth_of([text], self._last))
        self._last = text
        for depth in sorted(self._depths, reverse=True):
            key = key_of(text, depth)
            if key:
                item.prefix = key
                if key in self._affinity:
                    return [(key, [item])]
        return None

    def _note(self, depth: int) -> None:
        if depth not in self._depths:
            self._depths.append(depth)
