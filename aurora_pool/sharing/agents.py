"""Which agents of a hostfile a driver works with: a part of its own, and what the other drivers do not need.

Driver k of n owns agents k::n, so its windows, breakers and prefix affinity are accurate: no other driver sends there.
In a folder beside the hostfile each driver says whether it needs agents. It does not once its input has come to an end
and all that is left is in flight: then its agents, and those of a driver that is gone, are divided among the drivers
that still need some. All drivers compute the same from the same files; while they differ, and while the last prompts of
a driver end on agents that it lends already, an agent has two drivers for some seconds, which its server tolerates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from aurora_pool.errors import NoAgentsError, counted
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.sharing.ranks import Part
from aurora_pool.statistics import PoolStatistics

POLL_EVERY = 1.0
"""Seconds between reads of the other drivers' notes, where they are few; with more than ten, a tenth of it for each."""

logger = logging.getLogger(__name__)


class Note(msgspec.Struct, frozen=True):
    """What a driver tells the others: which part is its own, and whether it needs agents or lends its own."""

    index: int
    needs: bool = True


def allot(agents: int, part: Part, others: Iterable[Note], gone: Iterable[int]) -> list[int]:
    """Which of ``agents`` agents are for the driver of ``part``, which needs some: its own, and its part of spare ones.

    ``gone`` are the parts of which no driver is left. Pure: every driver comes to the same division.

    >>> allot(8, Part(0, 4), others=[Note(1), Note(2, needs=False)], gone=[3])
    [0, 4, 2, 3]
    """
    notes = list(others)
    needy = sorted({note.index for note in notes if note.needs} | {part.index})
    spare = {note.index for note in notes if not note.needs} - set(needy)
    spare |= set(gone) - {note.index for note in notes} - {part.index}
    own = list(range(part.index, agents, part.count))
    return own + [
        number
        for number in range(agents)
        if number % part.count in spare and needy[number // part.count % len(needy)] == part.index
    ]


class Members(Protocol):
    """Who else is there: a :class:`~aurora_pool.sharing.roster.Roster`, or what does the same elsewhere.

    ``every`` is how many seconds may pass between beats; ``others`` holds the notes of those that are alive.
    """

    @property
    def every(self) -> float:
        """Seconds between beats."""

    @property
    def others(self) -> Mapping[str, str]:
        """The notes of the others, by name."""

    def beat(self, note: str = "") -> None:
        """Say that we are alive, and ``note``."""

    def refresh(self) -> None:
        """Find out about the others."""

    def leave(self) -> None:
        """Say that we are gone."""


class AgentShare:
    """One driver's part of a hostfile, kept up to date while it works.

    ``roster`` is where the drivers of one hostfile find each other; one that does not come to it in ``takeover_after``
    seconds is taken for gone.
    """

    def __init__(self, roster: Members, part: Part, *, takeover_after: float = 30.0) -> None:
        self.part = part
        self._roster = roster
        self._takeover_after = takeover_after
        self._endpoints: Sequence[AgentEndpoint] = ()
        self._chosen: list[AgentEndpoint] = []
        self._note = Note(part.index)
        self._noted = asyncio.Event()
        self._met: set[int] = set()
        self._began: float | None = None

    def select(self, endpoints: Sequence[AgentEndpoint]) -> list[AgentEndpoint]:
        """The agents of a hostfile that this driver works with now.

        Raises :class:`~aurora_pool.errors.NoAgentsError` if it owns none.
        """
        if len(endpoints) <= self.part.index:
            raise NoAgentsError(
                f"share {self.part}: the hostfile has {counted(len(endpoints), 'agent')}, so this driver has none"
            )
        self._endpoints = endpoints
        self._chosen = self._choose()
        return self._chosen

    def tell(self, statistics: PoolStatistics, *, exhausted: bool) -> None:
        """Note how the driver's pool is doing; ``exhausted`` is whether nothing more will be taken from its input."""
        note = Note(self.part.index, needs=not exhausted or statistics.queued > 0)
        if note != self._note:
            self._note = note
            self._noted.set()

    async def follow(self, update: Callable[[list[AgentEndpoint]], None]) -> None:
        """Beat and refresh for ever, and hand over the agents whenever they change."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        beaten = -self._roster.every
        while True:
            try:
                if self._noted.is_set() or loop.time() - beaten >= self._roster.every:
                    self._noted.clear()
                    beaten = loop.time()
                    await asyncio.to_thread(self._roster.beat, msgspec.json.encode(self._note).decode())
                await asyncio.to_thread(self._roster.refresh)
            except OSError as error:
                logger.warning("the other drivers can't be seen (%s)", error)
            chosen = self._choose()
            if chosen != self._chosen:
                self._chosen = chosen
                update(chosen)
            try:
                await asyncio.wait_for(self._noted.wait(), POLL_EVERY * max(1.0, self.part.count / 10))
            except TimeoutError:
                continue

    def leave(self) -> None:
        """Let the others have all agents."""
        self._roster.leave()

    def _choose(self) -> list[AgentEndpoint]:
        if not self._note.needs:
            # What is in flight on borrowed agents ends there.
            present = set(self._endpoints)
            return [endpoint for endpoint in self._chosen if endpoint in present]
        notes = _read(self._roster.others)
        self._met.update(note.index for note in notes)
        gone: Iterable[int] = self._met
        if self._began is not None and asyncio.get_running_loop().time() - self._began >= self._takeover_after:
            gone = range(self.part.count)
        return [self._endpoints[number] for number in allot(len(self._endpoints), self.part, notes, gone)]


def _read(notes: Mapping[str, str]) -> list[Note]:
    found = []
    for text in notes.values():
        try:
            found.append(msgspec.json.decode(text, type=Note))
        except msgspec.DecodeError:
            continue  # of another version: it counts as absent
    return found
