"""A fleet in virtual time: simulated servers without HTTP, sockets or waiting, for the pool's own dispatcher.

::

    fleet = VirtualFleet([1.0, 1.0, 0.5], round_trip=0.02)
    fleet.at(10.0, fleet.agents[0].die)
    report = VirtualPool(fleet, seed=1).run([VirtualPrompt(200)] * 1000)
    assert report.answered == 1000

One heap of events drives everything, so a job of hours takes seconds and the same seed gives the same run. Times are
virtual seconds, lengths are tokens. The servers' engines are those of the simulated servers over HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from aurora_pool.policy.faults import Finding
from aurora_pool.policy.outcome import Outcome
from aurora_pool.testing import engine as engines
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.virtual_agent import VirtualAgent
from aurora_pool.testing.virtual_network import Client, Pauses, Request, VirtualNetwork, VirtualPrompt

__all__ = ["Client", "Request", "VirtualAgent", "VirtualFleet", "VirtualPrompt"]

ROUND_TRIP = 0.002
"""Seconds on the network, half of them each way, where nothing else is said."""
REPLY_LIMIT = 5.0
"""Seconds after which a probe or a load check of an unresponsive agent ends."""
METRICS_TIME = 0.01
"""Seconds that a server takes to write its counters."""


class VirtualFleet(VirtualNetwork):
    """Servers of given speeds, the network between them and their client, and the heap of what happens when.

    All are of one ``profile`` but for their speeds, with ``slots`` slots if that is given. What is sent takes half a
    ``round_trip`` each way. The client reads nothing and does nothing during its ``pauses``. ``streamed`` servers show
    first tokens; others only whole answers, one by one all the same.
    """

    def __init__(
        self,
        speeds: Sequence[float],
        *,
        slots: int | None = None,
        profile: AgentProfile | None = None,
        streamed: bool = True,
        round_trip: float = ROUND_TRIP,
        pauses: Pauses | None = None,
    ) -> None:
        profile = profile or AgentProfile()
        super().__init__(round_trip=round_trip, interval=1_000_000 if streamed else None, pauses=pauses)
        self.profile = profile if slots is None else replace(profile, slots=slots)
        self.agents = [
            VirtualAgent(self, index, replace(self.profile, speed=speed)) for index, speed in enumerate(speeds)
        ]

    # -- the network --------------------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        """Have a request travel to its agent."""
        self.at(self.now + self.one_way, partial(self.agents[request.agent].receive, request))

    def close(self, request: Request) -> None:
        """Read no more of a request; its agent hears of that later."""
        request.closed = True
        self.at(self.now + self.one_way, partial(self.agents[request.agent].close, request))

    def probe(self, index: int, told: Callable[[Outcome], None]) -> None:
        """Ask an agent for one token, as any client would; ``told`` hears what that came to.

        The probe takes its turn in the engine, and nobody waits longer for it than :data:`REPLY_LIMIT` seconds. By
        then, one whose engine has moved is busy.
        """
        agent = self.agents[index]
        sequence = engines.Sequence(1)
        waits = True
        tokens_before = agent.counters()[0]

        def tell(outcome: Outcome) -> None:
            nonlocal waits
            if waits:
                waits = False
                told(outcome)

        def answered(whole: bool) -> None:
            outcome = Outcome.ANSWERED if whole else Outcome.UNREACHABLE
            self.client_at(self.now + self.one_way, partial(tell, outcome))

        def give_up() -> None:
            self.at(self.now + self.one_way, partial(agent.stop_for_others, sequence))
            works = agent.condition in ("up", "draining") and agent.counters()[0] > tokens_before
            tell(Outcome.OVERLOADED if works else Outcome.DEAD)

        def arrive() -> None:
            if not agent.work_for_others(sequence, answered):
                answered(False)

        self.at(self.now + self.one_way, arrive)
        self.client_at(self.now + REPLY_LIMIT, give_up)

    def check_load(self, index: int, tokens_before: int | None, told: Callable[[Finding, int], None]) -> None:
        """Read an agent's counters; ``told`` gets what they show, and how many tokens they count.

        Where none were seen before, they show nothing yet.
        """
        agent = self.agents[index]

        def arrive() -> None:
            tokens = agent.counters()[0]
            match agent.condition:
                case "dead" | "terminated":
                    finding, seconds = Finding.REFUSED, 0.0
                case "hung":
                    finding, seconds = Finding.UNRESPONSIVE, REPLY_LIMIT - self.round_trip
                case _:
                    finding = Finding.IDLE if tokens_before in (None, tokens) else Finding.PROGRESSING
                    seconds = METRICS_TIME
            self.client_at(self.now + seconds + self.one_way, partial(told, finding, tokens))

        self.at(self.now + self.one_way, arrive)

    def sample(self, index: int, told: Callable[[int, int, int, int], None]) -> None:
        """Ask an agent for its counters; ``told`` hears them, if it answers."""
        agent = self.agents[index]

        def arrive() -> None:
            if agent.condition not in ("dead", "terminated", "hung"):
                self.client_at(self.now + METRICS_TIME + self.one_way, partial(told, *agent.counters()))

        self.at(self.now + self.one_way, arrive)

    # -- what it comes to ---------------------------------------------------------------------------------------

    def bound(self, prompts: Iterable[VirtualPrompt]) -> float:
        """The least seconds in which the servers that were up could have answered these prompts.

        However the work is divided, an engine of speed 1 needs ``prefill tokens / prefill_rate`` for the prompts,
        ``step_per_sequence`` for each token that it decodes (all of an answer but the first, which comes with the
        prefill), and ``step_base`` for each step. Of steps there are at least ``tokens of answers / slots``, since a
        sequence gains one token in a step and ``slots`` of them run, and at least ``(prefill + decoded tokens) /
        max_num_batched_tokens``, the budget of a step. All that in sum, over the speeds of the servers that were up, is
        the time of perfectly divided work with every slot and every budget full. No time is less than that of the
        longest prompt alone on the fastest server; and one round trip comes on top. What prompts share is computed
        once.
        """
        profile = self.profile
        written = read = count = 0
        longest = 0.0
        shared: set[object] = set()
        for prompt in prompts:
            count += 1
            written += prompt.length
            read += prompt.prompt_tokens - len(prompt.keys) * profile.block_size
            shared.update(prompt.keys)
            alone = prompt.length * (profile.step_base + profile.step_per_sequence) - profile.step_per_sequence
            longest = max(longest, alone)
        read += len(shared) * profile.block_size
        decoded = written - count
        steps = max(written / profile.slots, (read + decoded) / profile.max_num_batched_tokens)
        left = steps * profile.step_base + decoded * profile.step_per_sequence + read / profile.prefill_rate
        speed = since = 0.0
        for at, change in self.capacity_changes:
            if speed > 0 and left <= speed * (at - since):
                break
            left -= speed * (at - since)
            speed, since = speed + change, at
        if speed <= 1e-9:
            return math.inf
        fastest = max(agent.speed for agent in self.agents)
        return max(since + left / speed, longest / fastest) + self.round_trip

    @property
    def tokens(self) -> int:
        """Tokens generated by all servers for the client."""
        return sum(agent.tokens for agent in self.agents)
