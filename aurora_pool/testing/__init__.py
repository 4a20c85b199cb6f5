"""A simulated fleet of vLLM servers, for tests of programs that use one.

::

    async with SimulatedFleet(4) as fleet, VLLMPool(fleet.endpoints) as pool:
        responses = await pool.send_all_batched(["Name a colour."] * 100)

With pytest, the fixtures ``simulated_fleet`` and ``vllm_pool`` do the same. Names are imported when they are first
used: pytest loads this package in every run, whether or not it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurora_pool.testing.agent import SimulatedAgent
    from aurora_pool.testing.clock import SimulatedClockEventLoop, StuckLoopError, run_simulated
    from aurora_pool.testing.exchange import ReceivedRequest
    from aurora_pool.testing.faults import Fault
    from aurora_pool.testing.fleet import SimulatedFleet
    from aurora_pool.testing.profile import CPU_SERVER, AgentProfile
    from aurora_pool.testing.serving import serve

__all__ = [
    "CPU_SERVER",
    "AgentProfile",
    "Fault",
    "ReceivedRequest",
    "SimulatedAgent",
    "SimulatedClockEventLoop",
    "SimulatedFleet",
    "StuckLoopError",
    "run_simulated",
    "serve",
]

_HOMES = {
    "CPU_SERVER": "profile",
    "AgentProfile": "profile",
    "Fault": "faults",
    "ReceivedRequest": "exchange",
    "SimulatedAgent": "agent",
    "SimulatedClockEventLoop": "clock",
    "SimulatedFleet": "fleet",
    "StuckLoopError": "clock",
    "run_simulated": "clock",
    "serve": "serving",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
