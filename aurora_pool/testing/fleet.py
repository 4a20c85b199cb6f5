"""A fleet of simulated agents inside the running event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from aurora_pool.hostfile import AgentEndpoint, format_hostfile
from aurora_pool.testing.agent import SimulatedAgent
from aurora_pool.testing.exchange import ReceivedRequest
from aurora_pool.testing.faults import Fault
from aurora_pool.testing.profile import AgentProfile

__all__ = ["SimulatedFleet"]


class SimulatedFleet:
    """Servers on 127.0.0.1 that speak what ``vllm serve`` speaks, one port each.

    >>> async def example():
    ...     async with SimulatedFleet(4, profile=AgentProfile(speed=2.0)) as fleet:
    ...         fleet.write_hostfile("fleet.hostfile")
    ...         fleet.agents[3].die()

    - ``agents``: how many; ``profile``: what they are like, one for all or one for each.
    - ``faults``: scripts of what goes wrong, by the agent's index.
    - ``tags``: the tags of each endpoint, one mapping for each agent.
    - ``ports``: the ports to listen on; free ones by default.
    - ``time_scale``: 10 means that engines and fault scripts run ten times faster than real time.
    - ``seed``: decides everything that happens by chance.
    - ``record``: whether agents keep the requests that they receive.

    Raises ``ValueError`` for invalid arguments, and ``OSError`` for a port that is taken.
    """

    def __init__(
        self,
        agents: int = 1,
        *,
        profile: AgentProfile | Sequence[AgentProfile] | None = None,
        faults: Mapping[int, Sequence[Fault]] | None = None,
        tags: Sequence[Mapping[str, str]] | None = None,
        ports: Sequence[int] | None = None,
        host: str = "127.0.0.1",
        time_scale: float = 1.0,
        seed: int = 0,
        record: bool = True,
    ) -> None:
        profiles = list(profile) if isinstance(profile, Sequence) else [profile or AgentProfile()] * agents
        if agents < 1 or time_scale <= 0:
            raise ValueError("expected at least 1 agent and a time_scale above 0")
        for name, given in (("profile", profiles), ("tags", tags), ("ports", ports)):
            if given is not None and len(given) != agents:
                raise ValueError(f"expected {agents} values in {name}, one for each agent; got {len(given)}")
        if faults and not all(0 <= index < agents for index in faults):
            raise ValueError(f"expected faults for agents 0 to {agents - 1}, got {sorted(faults)}")
        self.agents: list[SimulatedAgent] = []
        self._profiles = profiles
        self._faults = faults or {}
        self._tags = tags
        self._ports = ports
        self._host = host
        self._time_scale = time_scale
        self._seed = seed
        self._record = record

    @property
    def endpoints(self) -> list[AgentEndpoint]:
        """Where the agents listen, in order."""
        return [agent.endpoint for agent in self.agents]

    @property
    def requests(self) -> list[ReceivedRequest]:
        """What all agents received, in the order of time."""
        return sorted((request for agent in self.agents for request in agent.requests), key=lambda each: each.at)

    @property
    def prompts_received(self) -> int:
        """How many prompts the agents have received."""
        return sum(agent.prompts_received for agent in self.agents)

    @property
    def prompts_answered(self) -> int:
        """How many prompts the agents have answered whole."""
        return sum(agent.prompts_answered for agent in self.agents)

    def write_hostfile(self, path: str | Path) -> Path:
        """Write the endpoints as a hostfile, and return its path. Readers see all of it or nothing."""
        path = Path(path)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(format_hostfile(self.endpoints), encoding="utf-8")
        fresh.replace(path)
        return path

    async def start(self) -> None:
        """Bind and listen on every port; ``async with`` does it."""
        if self.agents:
            raise RuntimeError("this fleet was started before")
        try:
            for index, profile in enumerate(self._profiles):
                self.agents.append(
                    SimulatedAgent(
                        index,
                        profile,
                        host=self._host,
                        port=self._ports[index] if self._ports else 0,
                        tags=self._tags[index] if self._tags else None,
                        script=self._faults.get(index, ()),
                        seed=self._seed,
                        time_scale=self._time_scale,
                        record=self._record,
                    )
                )
        except OSError:
            await self.close()
            raise
        for agent in self.agents:
            agent.start()

    async def close(self) -> None:
        """Stop every agent and cut its connections."""
        for agent in self.agents:
            await agent.close()

    async def __aenter__(self) -> SimulatedFleet:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
