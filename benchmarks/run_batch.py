"""``aurora-pool run --engine vllm`` beside ``vllm run-batch``: the same lines and engine, each a process as a whole.

    python -m benchmarks.run_batch --lines 150 --rounds 2

Needs the environment of ``tests/integration/local_fleet.py``, one core and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.printing import machine
from benchmarks.real_offline import MAX_TOKENS, ROOT, engine_environment
from tests.integration.vllm_environment import vllm_environment

ENGINE = ["--max-model-len", "2048", "--max-num-seqs", "64", "--enforce-eager", "--dtype", "float32"]


def write_lines(path: Path, model: Path, count: int) -> None:
    """Write chats in the form of OpenAI's batches, which both read."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            messages = [{"role": "user", "content": f"What is {number} + 1?"}]
            body = {"model": str(model), "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
            line = {"custom_id": f"p{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def seconds(folder: Path, tool: str, output: Path) -> tuple[float, float]:
    """Run one of the two; give its seconds, and those of its CPU, which a busy machine changes less."""
    environment = vllm_environment()
    python, model, source = str(environment.python), str(environment.model), str(folder / "in.jsonl")
    commands = {
        "run": [
            *(python, "-m", "aurora_pool", "run", source, "-o", str(output), "--quiet"),
            *("--engine", "vllm", "--model", model, "--engine-args", " ".join(ENGINE)),
        ],
        "run-batch": [
            *(python, "-m", "vllm.entrypoints.openai.run_batch", "-i", source, "-o", str(output)),
            *("--model", model, *ENGINE),
        ],
    }
    variables = {**engine_environment(str(folder)), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    log = folder / f"{tool}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(commands[tool], env=variables, cwd=folder, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    if status:
        raise SystemExit(f"{tool} ended with {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-2000:]}")
    return took, usage.ru_utime + usage.ru_stime


def answered(output: Path) -> int:
    """Count the lines of an output that are answers."""
    records = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return sum(bool(record["response"]["body"]["choices"][0]["message"]["content"]) for record in records)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    print(machine(), flush=True)
    took: dict[str, list[tuple[float, float]]] = {"run": [], "run-batch": []}
    with tempfile.TemporaryDirectory(prefix="ap") as name:  # short: sockets lie in it
        folder = Path(name)
        write_lines(folder / "in.jsonl", vllm_environment().model, given.lines)
        for number in range(given.rounds):
            for tool in sorted(took, reverse=number % 2 == 1):
                output = folder / f"{tool}{number}.jsonl"
                took[tool].append(seconds(folder, tool, output))
                assert answered(output) == given.lines, f"{tool} has not answered all"
                wall, cpu = took[tool][-1]
                print(f"round {number + 1}: {tool} {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
    rounds = list(zip(took["run"], took["run-batch"], strict=True))
    wall, cpu = (statistics.median(ours[of] / theirs[of] for ours, theirs in rounds) for of in (0, 1))
    print(f"{given.lines} chats of {MAX_TOKENS} tokens: run / run-batch {wall:.3f}, of CPU {cpu:.3f}")


if __name__ == "__main__":
    main()
