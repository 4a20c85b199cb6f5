"""Which agents belong to a pool or a view, and the queue that each of its calls gets a copy of."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self

from aurora_pool.arguments import check_whole, is_index
from aurora_pool.errors import ConfigError, counted
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.policy.callers import AgentView, PromptQueue
from aurora_pool.runtime.fleet_runtime import FleetRuntime


class Membership:
    """The agents of a pool or of a view of it, as indices into the fleet.

    ``members`` are all that ever belonged to it, in whose order callers count; ``present`` leaves out the removed ones.
    ``positions`` gives the position of an agent of the fleet in a view; it is None for the whole pool.
    """

    def __init__(self, runtime: FleetRuntime, view_of: Sequence[int] | None = None) -> None:
        self._runtime = runtime
        self.members: Sequence[int] = range(len(runtime.endpoints)) if view_of is None else view_of
        self.present: Sequence[int] = self.members
        self.positions = None if view_of is None else {member: place for place, member in enumerate(view_of)}
        self.queue = self._new_queue(self.members)
        """Nothing waits in it: each call has one like it, over the same :class:`AgentView`."""
        self._joining: set[int] = set()
        """Agents that have joined, and are asked what they serve before they get prompts."""

    @property
    def endpoints(self) -> tuple[AgentEndpoint, ...]:
        """The endpoints of ``members``."""
        return tuple(self._runtime.endpoints[index] for index in self.members)

    @property
    def places(self) -> Sequence[int]:
        """The positions of those that are present among ``members``."""
        return self.present if self.positions is None else range(len(self.members))

    def tagged(self, tags: Mapping[str, str | None]) -> list[int]:
        """Those that have all of these tags."""
        return [index for index in self.present if tags.items() <= self._runtime.endpoints[index].tags.items()]

    def drawn(self, n: int, rng: random.Random) -> list[int]:
        """Draw ``n`` of them at random. Raises :class:`ConfigError` if there are fewer."""
        check_whole(0, optional=False, n=n)
        size = len(self.present)
        if n > size:
            raise ConfigError(f"n: expected at most {size}, for the pool has {counted(size, 'agent')}, got {n}")
        return sorted(rng.sample(list(self.present), n))

    def selected(self, places: Sequence[int]) -> list[int]:
        """Those at these places. Raises :class:`ConfigError` for one that does not exist or is listed twice."""
        count = len(self.members)
        bad = [place for place in places if not is_index(place, count)]
        if bad or len({place % count for place in places}) < len(places):
            raise ConfigError(f"select: expected different indices below {count}, got {bad or places}")
        return [self.members[place] for place in places]

    def view(self, members: Sequence[int]) -> Self:
        """Some of them, apart."""
        return type(self)(self._runtime, members)

    def update(self, endpoints: Sequence[AgentEndpoint]) -> list[int]:
        """Record which endpoints the fleet has now; return the own agents that have joined or come back."""
        before = set(self.present)
        self.present = self._runtime.update(endpoints)
        self.members = range(len(self._runtime.endpoints))
        self._set_queue()
        return [index for index in self.own if index not in before]

    def hold_back(
        self,
        joined: Sequence[int],
        find_out: Callable[[Sequence[int]], Awaitable[None]],
        least_context: Callable[[Sequence[int]], int | None],
    ) -> None:
        """Give agents that have joined nothing until it is found out what they serve."""
        self._joining.update(joined)
        self._set_queue()

        async def join() -> None:
            least = least_context(self.queue.view.members)
            await find_out(joined)
            self._joining.difference_update(joined)
            theirs = least_context(joined)
            if least is not None and theirs is not None and theirs < least:
                # What waits in the queue is fitted to the agents of before: calls from now on have another.
                self.queue = self._new_queue(())
            self._set_queue()

        self._runtime.run_in_background(join())

    def _set_queue(self) -> None:
        members = [index for index in self.present if index not in self._joining] or self.present
        self.queue.view.set_members(*self._split(self.members if len(members) == len(self.members) else members))
        self._runtime.dispatcher.members_changed()
        self._runtime.schedule()

    @property
    def own(self) -> Sequence[int]:
        """Those present that are not hosted."""
        return self._split(self.present)[0]

    def pinned(self, place: int) -> PromptQueue:
        """A queue for one of them alone."""
        return PromptQueue(AgentView(*self._split([self.members[place]])), patience=0.0, pinned=True)

    def _new_queue(self, members: Sequence[int]) -> PromptQueue:
        return PromptQueue(AgentView(*self._split(members)), patience=self._runtime.timeouts.patience)

    def _split(self, members: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """The own agents and the hosted ones among these."""
        hosted = [index for index in members if self._runtime.is_hosted(index)]
        return ([index for index in members if not self._runtime.is_hosted(index)], hosted) if hosted else (members, ())
