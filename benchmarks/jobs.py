"""A job of a million lines on a fleet that answers at once: lines per second, peak memory; and resuming five million.

Run it as ``python -m benchmarks.jobs [--lines N] [--resumed N] [--only run|tables|resume]``. The fleet is a
process of its own, and so is the job, whose memory is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.messages import Response
from benchmarks.printing import machine

COMMAND = [sys.executable, "-m", "aurora_pool"]
MEMORY_LIMIT = 300.0
"""MB in all that a job of a million lines may take."""
TABLE_LIMIT = 1.2
"""How much longer than the same job from lines one from a table may take."""
TABLE_MEMORY_LIMIT = 400.0
"""MB in all that a job of a million rows of a table may take."""
RESUME_LIMIT = 60.0
"""Seconds that resuming five million ids may take."""


def write_input(path: Path, lines: int) -> None:
    """Write OpenAI Batch lines with prompts of some 200 characters."""
    text = "Summarise in one sentence what is known about the function of gene number %d. " + "Be brief and exact. " * 6
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for number in range(lines):
            body = {"model": "simulated-model", "prompt": text % number, "max_tokens": 16, "temperature": 0.0}
            line = {"custom_id": f"gene-{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def write_output(source: Path, path: Path, *, leave: int) -> None:
    """Write the records of all lines but the last ``leave``."""
    reader = RequestReader()
    response = Response(True, "One short answer.", finish_reason="stop", prompt_tokens=50, completion_tokens=4)
    with source.open("rb") as lines:
        kept = sum(1 for _ in lines) - leave
    with source.open("rb") as lines, path.open("wb", buffering=1 << 20) as file:
        for number, line in enumerate(islice(lines, kept), start=1):
            request = reader.read(line, number)
            file.write(encode_record(request, response, model="simulated-model", created=0, agent="a:1"))


def run(source: Path, output: Path, hostfile: Path, *options: str) -> tuple[float, float, float, dict[str, object]]:
    """Run a job; gives its seconds, its CPU's seconds, its peak memory in MB and its summary."""
    command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(hostfile), "--json", "--quiet"]
    command += options
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - begun, cpu, usage.ru_maxrss / 1024, json.loads(said)


def main() -> None:
    """Measure both, and hold them to their limits if the numbers of lines are the real ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--resumed", type=int, default=5_000_000)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1, help="how often lines and a table take turns")
    parser.add_argument("--only", choices=("run", "tables", "resume"), help="measure this alone")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hostfile = folder / "fleet.hostfile"
        options = ["--agents", str(arguments.agents), "--instant", "-o", str(hostfile)]
        fleet = subprocess.Popen([*COMMAND, "sim", *options], stderr=subprocess.DEVNULL)
        try:
            while not hostfile.exists():
                time.sleep(0.05)
            if arguments.only in {None, "run"}:
                measure_run(folder, hostfile, arguments.lines)
            if arguments.only in {None, "tables"}:
                measure_tables(folder, hostfile, arguments.lines, arguments.rounds)
            if arguments.only in {None, "resume"}:
                measure_resume(folder, hostfile, arguments.resumed)
        finally:
            fleet.terminate()
            fleet.wait()


def measure_run(folder: Path, hostfile: Path, lines: int) -> None:
    """Run a whole job."""
    source = folder / "in.jsonl"
    write_input(source, lines)
    seconds, cpu, memory, summary = run(source, folder / "out.jsonl", hostfile)
    assert summary["answered"] == lines
    rate = lines / seconds
    print(f"{lines:,} lines: {seconds:.1f} s (CPU {cpu:.1f}), {rate:,.0f} lines/s, peak memory {memory:.0f} MB")
    assert lines != 1_000_000 or memory < MEMORY_LIMIT
    for path in (source, folder / "out.jsonl", folder / "out.jsonl.runlog"):
        path.unlink()


def measure_tables(folder: Path, hostfile: Path, lines: int, rounds: int) -> None:
    """Run the same job from lines and from a table, by turns: what a table costs."""
    source, table = folder / "in.jsonl", folder / "in.parquet"
    write_input(source, lines)
    # In a process of its own: what it takes would be counted as the job's, which is forked from this one.
    writer = multiprocessing.get_context("spawn").Process(target=write_table, args=(source, table))
    writer.start()
    writer.join()
    compare(source, table, hostfile, lines, rounds)
    for path in (source, table):
        path.unlink()


def compare(source: Path, table: Path, hostfile: Path, lines: int, rounds: int) -> None:
    """Run the job from either input in each round, and hold the table to its limits."""
    took: dict[Path, list[float]] = {source: [], table: []}
    spent: dict[Path, list[float]] = {source: [], table: []}
    for path in [source, table, table, source] * (rounds // 2) + [source, table] * (rounds % 2):
        output = path.with_name(f"{path.name}.out.jsonl")
        # Raw: the lines name a url, so they are sent unchanged, and rows are to ask for the same.
        seconds, cpu, memory, summary = run(path, output, hostfile, "--prompt-format", "raw")
        assert summary["answered"] == lines
        took[path].append(seconds)
        spent[path].append(cpu)
        said = f"{seconds:.1f} s (CPU {cpu:.1f}), peak memory {memory:.0f} MB"
        print(f"{lines:,} requests from {path.suffix}: {said}", flush=True)
        assert lines != 1_000_000 or path != table or memory < TABLE_MEMORY_LIMIT
        output.unlink()
        output.with_name(f"{output.name}.runlog").unlink()
    ratio = median(took[table]) / median(took[source])
    cpu_ratio = median(spent[table]) / median(spent[source])
    print(f"a table takes {ratio:.2f} times as long as lines, and {cpu_ratio:.2f} times the CPU")
    assert lines != 1_000_000 or ratio < TABLE_LIMIT


def write_table(source: Path, path: Path) -> None:
    """Write the requests of an input as a table."""
    import pyarrow as pa  # noqa: PLC0415 - only here, see measure_tables
    import pyarrow.parquet as pq  # noqa: PLC0415

    with source.open("rb") as file:
        requests = map(json.loads, file)
        writer = None
        while rows := [{"id": line["custom_id"], **line["body"]} for line in islice(requests, 20_000)]:
            batch = pa.Table.from_pylist(rows)
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
        if writer is not None:
            writer.close()


def measure_resume(folder: Path, hostfile: Path, lines: int) -> None:
    """Resume a job of which ten requests are missing."""
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    write_input(source, lines)
    write_output(source, output, leave=10)
    seconds, cpu, memory, summary = run(source, output, hostfile)
    assert (summary["done"], summary["answered"]) == (10, lines)
    print(f"{lines:,} ids resumed in {seconds:.1f} s (CPU {cpu:.1f}), peak memory {memory:.0f} MB")
    assert lines != 5_000_000 or seconds < RESUME_LIMIT


if __name__ == "__main__":
    main()
