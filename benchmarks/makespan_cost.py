"""What the policy costs on thousands of agents: the last table of ``python -m benchmarks.makespan``."""

from __future__ import annotations

import multiprocessing
import resource
import time

from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.makespan_fleets import PROMPT_TOKENS, SEED, lengths
from benchmarks.printing import machine

COLUMNS = "{:24}{:>6}{:>10}{:>6}{:>8}{:>7}{:>11}{:>9}{:>10}{:>8}"


def print_cost(prompts: int, agents: int) -> None:
    """Print what the policy costs for a large fleet, in processor time and memory.

    All rows have as many prompts, made as they are asked for. The first fleet is a hundredth of the others and holds a
    hundredth of the prompts at a time, so its memory shows that what grows with the job is next to nothing.
    """
    print(machine())
    print(
        COLUMNS.format(
            "agents x prompts",
            "slots",
            "makespan",
            "lost",
            "req/p",
            "us/p",
            "most open",
            "grew MB",
            "KB / open",
            "wall s",
        )
    )
    for size, slots in ((agents // 100, 256), (agents, 256), (agents, 64)):
        # A process for each row, because the peak of a process's memory never goes down.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(cost_row, (prompts, size, slots)), flush=True)


def cost_row(prompts: int, agents: int, slots: int) -> str:
    """Run a large job; return its row. Memory is that of pool and simulated servers together."""
    began = time.perf_counter()
    memory_before = _peak_memory()
    fleet = VirtualFleet([1.0] * agents, slots=slots)
    source = (VirtualPrompt(length, PROMPT_TOKENS) for length in lengths(prompts))
    report = VirtualPool(fleet, seed=SEED).run(source, total=prompts)
    grew = _peak_memory() - memory_before
    return COLUMNS.format(
        f"{agents:,} x {prompts:,}",
        slots,
        f"{report.makespan:.1f}",
        report.lost,
        f"{report.requests / prompts:.4f}",
        f"{report.policy_seconds / prompts * 1e6:.2f}",
        f"{report.most_open:,}",
        f"{grew / 1e6:.0f}",
        f"{grew / 1e3 / report.most_open:.1f}",
        f"{time.perf_counter() - began:.0f}",
    )


def _peak_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
