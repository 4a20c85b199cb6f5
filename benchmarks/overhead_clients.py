"""The processes of benchmarks/overhead.py: the server, the clients, and what they have told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from benchmarks.peers.environment import PEERS, ROOT
from benchmarks.peers.shared import CASES, Case


@dataclass(frozen=True)
class Peer:
    """A client to measure: the module of :mod:`benchmarks.peers` that has it, and how its process is started."""

    name: str
    module: str
    uvloop: bool = False
    own_environment: bool = False


class Process:
    """A child that is spoken to line by line, in JSON, and pinned to one core."""

    def __init__(self, command: Sequence[str], core: int | None, errors: IO[bytes]) -> None:
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        if core is not None:
            os.sched_setaffinity(self._child.pid, {core})

    def ask(self, question: object) -> Any:
        """Write a line, and return what the next line says."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return None
        return self.hear()

    def hear(self) -> Any:
        """Return what the next line says; None if the child has ended."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """End the child and wait for it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


@dataclass
class Measured:
    """What came of one peer: microseconds per prompt by case and round."""

    peer: Peer
    versions: str
    skips: Sequence[str]
    process: Process
    prompts: dict[str, int] = field(default_factory=dict)
    cost: dict[str, dict[int, float]] = field(default_factory=dict)
    requests: dict[str, list[float]] = field(default_factory=dict)
    """How many times the least number of requests it has sent, by case."""
    strayed: dict[str, str] = field(default_factory=dict)
    """What it last sent in a round in which it sent other requests than asked."""
    helper: dict[str, list[float]] = field(default_factory=dict)
    """The same for a process beside the client (a router), which ``cost`` contains."""


class Bench:
    """The server, the clients, and what they have told."""

    def __init__(self, seconds_per_run: float, errors: IO[bytes]) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._server_core = cores[0] if len(cores) > 1 else None
        self._client_core = cores[-1] if len(cores) > 1 else None
        self._seconds = seconds_per_run
        self._errors = errors
        self.missing: dict[str, str] = {}
        self.measured: list[Measured] = []
        self._server = Process([sys.executable, "-m", "benchmarks.overhead_server"], self._server_core, errors)
        self._urls = [f"http://127.0.0.1:{port}" for port in self._server.hear()]

    def start(self, peers: Sequence[Peer]) -> None:
        """Start the clients' processes; note which can't be had, and why."""
        for peer in peers:
            python = str(PEERS / "bin" / "python") if peer.own_environment else sys.executable
            command = [python, "-m", "benchmarks.overhead_worker", peer.module, *self._urls]
            process = Process([*command, "--uvloop"] if peer.uvloop else command, self._client_core, self._errors)
            hello = process.hear()
            if hello is None:
                self.missing[peer.name] = "it does not start; see the errors below"
                process.end()
            else:
                self.measured.append(Measured(peer, hello["versions"], hello["skips"], process))

    def round(self, number: int) -> None:
        """Let each client do each case once, the clients in another order each time."""
        for case in CASES:
            shift = number % len(self.measured)
            for one in self.measured[shift:] + self.measured[:shift]:
                if case.name not in one.skips and one.peer.name not in self.missing:
                    self._measure(one, case, number)

    def _measure(self, one: Measured, case: Case, number: int) -> None:
        unit = case.in_call
        count = one.prompts.get(case.name, unit)
        told = one.process.ask({"case": CASES.index(case), "prompts": count})
        shape = self._server.ask("shapes")
        if told is None:
            self.missing[one.peer.name] = f"it failed at {case.name}; see the errors below"
            return
        cpu = told["cpu"] + told["helper_cpu"]
        least = count // case.size
        requests = sum(shape.values())
        if case.name not in one.prompts:  # the first run warms up and tells how many prompts make a run
            one.prompts[case.name] = unit * max(1, round(self._seconds / cpu * count / unit))
            return
        if requests != least:  # a pool may take a server that the machine starves for a slow one, and ask a second
            one.strayed[case.name] = f"{shape} instead of {least} of {case.size}"
        if requests >= least or case.lists > 1:
            one.cost.setdefault(case.name, {})[number] = cpu / count * 1e6
            one.helper.setdefault(case.name, []).append(told["helper_cpu"] / count * 1e6)
            one.requests.setdefault(case.name, []).append(requests / least)

    def end(self) -> None:
        """End all processes."""
        for one in self.measured:
            one.process.end()
        self._server.end()
