"""Tokens per second on real vLLM: the pool on one and two servers, beside the bare engine and ``vllm bench serve``.

    python benchmarks/real.py

Starts the local fleet of tests/integration (built once, about three minutes), and as many offline engines with the same
settings and one thread each, which load the same model and are the physical limit. All stay loaded and are measured in
turns, one at a time, on the same prompts (random token ids) with the same number of generated tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aurora_pool import Sampling, VLLMPool, parse_hostfile
from tests.integration.local_fleet import MODEL, LocalFleet, free_ports, say
from tests.integration.sessions import Interruptions
from tests.integration.vllm_environment import VllmEnvironment, build, clean_environment

PROMPT_TOKENS = 16
MAX_TOKENS = 48
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


def engine_environment(scratch: str) -> Mapping[str, str]:
    """The settings of the local fleet's servers."""
    return clean_environment(
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        PYTHONWARNINGS="ignore",
        TMPDIR=scratch,
        TORCHDYNAMO_DISABLE="1",
        VLLM_CACHE_ROOT=scratch,
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
    )


class Engine:
    """A child process with an offline engine."""

    def __init__(self, environment: VllmEnvironment, prompts: Path, scratch: str) -> None:
        command = [str(environment.python), "-P", str(ROOT / "benchmarks" / "real_engine.py")]
        self._child = subprocess.Popen(
            [*command, str(environment.model), str(prompts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(Path(scratch) / "engine.log").open("ab"),
            text=True,
            env=engine_environment(scratch),
        )

    def ask(self, prompts: int) -> None:
        """Start a run."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"prompts": prompts, "max_tokens": MAX_TOKENS}) + "\n")
        self._child.stdin.flush()

    def hear(self) -> Any:
        """Return what it says next: that it is ready, or what a run came to."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the engine has ended")

    def end(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()


def run_engines(engines: Sequence[Engine], prompts: int) -> float:
    """Let engines work at the same time on so many prompts each; return their tokens per second together."""
    began = time.perf_counter()
    for engine in engines:
        engine.ask(prompts)
    tokens = sum(engine.hear()["tokens"] for engine in engines)
    return float(tokens / (time.perf_counter() - began))


def run_pool(hostfile: Path, servers: int, prompts: Sequence[list[int]], *, lists: bool) -> float:
    """Send the prompts to so many servers; return the tokens per second."""

    async def run() -> float:
        async with VLLMPool(parse_hostfile(hostfile), model=MODEL, sampling=SAMPLING) as pool:
            view = pool.slice(0, servers)
            began = time.perf_counter()
            responses = await (view.send_all_batched if lists else view.send_all)(prompts, MAX_TOKENS)
            seconds = time.perf_counter() - began
        assert all(response.success for response in responses)
        assert {response.completion_tokens for response in responses} == {MAX_TOKENS}
        return len(responses) * MAX_TOKENS / seconds

    return asyncio.run(run())


def run_bench_serve(environment: VllmEnvironment, url: str, prompts: int, scratch: str) -> float:
    """Run vLLM's own benchmark client on one server, all requests at once; return the tokens per second."""
    command = [str(environment.python), "-P", "-c", BENCH_SERVE, "--backend", "vllm", "--base-url", url]
    command += ["--model", MODEL, "--tokenizer", str(environment.model), "--dataset-name", "random", "--seed", "1"]
    command += ["--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(MAX_TOKENS), "--ignore-eos"]
    command += ["--num-prompts", str(prompts), "--temperature", "0", "--disable-tqdm"]
    command += ["--save-result", "--result-dir", scratch, "--result-filename", "serve.json"]
    subprocess.run(command, check=True, env=engine_environment(scratch), capture_output=True)
    return float(json.loads((Path(scratch) / "serve.json").read_text())["output_throughput"])


def measure(stack: ExitStack, rounds: int, count: int) -> dict[str, list[float]]:
    """Load everything, and measure it in turns."""
    interruptions = stack.enter_context(Interruptions())
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    environment = build(say, interruptions)
    rng = random.Random(1)
    prompts = [[rng.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)] for _ in range(2 * count)]
    file = Path(scratch) / "prompts.json"
    file.write_text(json.dumps(prompts[:count]))
    fleet = LocalFleet(Path(scratch) / "fleet.hostfile")
    say("starting two engines and two servers")
    engines = []
    for _ in range(2):
        engines.append(Engine(environment, file, scratch))
        stack.callback(engines[-1].end)
    stack.callback(fleet.stop)
    fleet.start(free_ports(2), environment, interruptions)
    for engine in engines:
        engine.hear()
    url = f"http://{parse_hostfile(fleet.hostfile)[0]}"
    runs: dict[str, Callable[[], float]] = {
        "one engine": lambda: run_engines(engines[:1], count),
        "pool on one server, lists": lambda: run_pool(fleet.hostfile, 1, prompts[:count], lists=True),
        "pool on one server, single requests": lambda: run_pool(fleet.hostfile, 1, prompts[:count], lists=False),
        "vllm bench serve on one server": lambda: run_bench_serve(environment, url, count, scratch),
        "two engines": lambda: run_engines(engines, count),
        "pool on two servers, lists": lambda: run_pool(fleet.hostfile, 2, prompts, lists=True),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            tokens_per_second = run()
            if number:  # the first round warms up
                found[name].append(tokens_per_second)
        say(f"round {number} of {rounds}")
    return found


def main() -> int:
    """Run the command line; return the exit code, 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=192, help="for each server")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        found = measure(stack, arguments.rounds, arguments.prompts)
    print(
        f"{arguments.prompts} prompts a server, {MAX_TOKENS} tokens each; {os.cpu_count()} cores, one thread a server"
    )
    for name, values in found.items():
        limit = found["two engines" if "two" in name else "one engine"]
        share = statistics.median(value / most for value, most in zip(values, limit, strict=True))
        print(f"{name:36}{statistics.median(values):8.0f} tokens/s  {share:.3f} of the engine")
    missed = 0
    for engine, pool in (("one engine", "pool on one server, lists"), ("two engines", "pool on two servers, lists")):
        share = statistics.median(value / most for value, most in zip(found[pool], found[engine], strict=True))
        missed += share < GOAL
        print(f"{'reached' if share >= GOAL else 'missed '}  {pool}: at least {GOAL} of the engine: {share:.3f}")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
