"""Kill a job at random moments, again and again, until it is done; as ``python -m tests.jobs.killing`` for real.

That does it over JSONL, and over parquet with a table to be written at the end.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from tests.forked import PATIENCE, Run, simulated
from tests.jobs.shared import read_records, texts_of, write_jsonl


@contextmanager
def failing_fleet(folder: Path, agents: int, rng: random.Random, *, faults: bool) -> Iterator[Path]:
    """Run a simulated fleet in a process of its own; with ``faults``, its agents die and come back."""
    options = ["--agents", str(agents), "--slots", "32", "--median-length", "12", "--speed", "2", "--time-scale", "4"]
    for number in range(300 if faults else 0):
        action = rng.choice(["die", "hang", "terminate", "fail_engine", "refuse"])
        # The first agent stays: a fleet without any would be waited for.
        options += ["--fault", f"{rng.randrange(1, agents)}:{action}@{1 + 2 * number}+{rng.uniform(1, 4):.1f}"]
    with simulated(folder, *options) as hostfile:
        yield hostfile


Ending: TypeAlias = tuple[signal.Signals, ...]
"""How a run is cut short: by these signals, one soon after the other."""

KILLS: list[Ending] = [(signal.SIGKILL,)] * 20
# One Ctrl-C drains, which gets a run far with all that is in flight; a second one stops it, as does SIGTERM's grace.
STOPS: list[Ending] = [
    (signal.SIGINT,),
    (signal.SIGTERM,),
    *([(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)] * 9),
]


def cut_until_done(
    source: Path, output: Path, hostfile: Path, rng: random.Random, endings: Sequence[Ending], *options: object
) -> int:
    """Start a job, send it signals once it has written a few records more, and again; then let it end.

    Returns how many runs ended before they were done. Every whole line that was there before a run must be there after.
    """
    cut = 0
    command = ("run", source, "-o", output, "--hostfile", hostfile, "--grace", 0.02, *options)
    while True:
        before = output.read_bytes() if output.exists() else b""
        whole = before[: before.rfind(b"\n") + 1]
        lock = output.with_name(f"{output.name}.lock")
        lock.unlink(missing_ok=True)  # of a run that was killed
        run = Run(output.parent, *command)
        if cut < len(endings):
            deadline = time.monotonic() + PATIENCE
            while run.alive and not lock.exists():  # then it hears signals; before, a new process may lose one
                assert time.monotonic() < deadline, "the job does not begin"
                time.sleep(0.001)
            # By what is written, not by time: on any machine each run gets a little further and no more.
            # Some are hit before they have written anything: while they read what is there, or ask the fleet.
            until = len(whole) + rng.randrange(1, 9000) if rng.random() < 0.8 else 0
            time.sleep(0 if until else rng.uniform(0, 0.3))
            while run.alive and (output.stat().st_size if output.exists() else 0) < until:
                assert time.monotonic() < deadline, "the job does not go on"
                time.sleep(rng.uniform(0.0005, 0.005))
            for number in endings[cut]:
                if run.alive:
                    run.send(number)
                time.sleep(rng.uniform(0, 0.05))
        code, said = run.end()
        assert code in {0, -signal.SIGKILL, 130, 143}, said
        assert (output.read_bytes() if output.exists() else b"").startswith(whole), "records have changed"
        if code == 0:
            return cut
        cut += 1


def check_exactly_once(
    seed: int, *, requests: int, endings: Sequence[Ending], agents: int = 2, tables: bool = False
) -> int:
    """Run one job cut short and one undisturbed, and compare them. Returns how many runs were cut short.

    With ``tables``, the requests come from a parquet file, and the answers go into one as well.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 40} for n in range(requests)]
        source = write_parquet(folder / "in.parquet", lines) if tables else write_jsonl(folder / "in.jsonl", lines)
        whole = ("--table", folder / "whole.parquet") if tables else ()
        table = ("--table", folder / "out.parquet") if tables else ()
        with failing_fleet(folder, agents, rng, faults=False) as hostfile:
            code, said = Run(folder, "run", source, "-o", folder / "whole.jsonl", "--hostfile", hostfile, *whole).end()
            assert code == 0, said
        with failing_fleet(folder, agents, rng, faults=True) as hostfile:
            cut = cut_until_done(source, folder / "out.jsonl", hostfile, rng, endings, *table)
        if tables:
            assert pq.read_table(folder / "out.parquet").equals(pq.read_table(folder / "whole.parquet"))
        texts = texts_of(folder / "out.jsonl")  # fails on torn lines, failed requests, and ids that are listed twice
        assert texts.keys() == {line["id"] for line in lines}
        assert texts == texts_of(folder / "whole.jsonl")
        undisturbed = {record["custom_id"]: same_everywhere(record) for record in read_records(folder / "whole.jsonl")}
        for record in read_records(folder / "out.jsonl"):
            assert same_everywhere(record) == undisturbed[record["custom_id"]]
    return cut


def write_parquet(path: Path, lines: list[dict[str, object]]) -> Path:
    """Write rows, with a column of data beside them."""
    rows = [{**line, "gold": str(number)} for number, line in enumerate(lines)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    return path


def same_everywhere(record: dict[str, object]) -> str:
    """Give a record without what tells one run from another: the time and the agent."""
    stripped = dict(record)
    response = stripped["response"]
    assert isinstance(response, dict)
    body = {key: value for key, value in response["body"].items() if key != "created"}
    stripped["response"] = {**response, "body": body}
    own = stripped["aurora_pool"]
    assert isinstance(own, dict)
    stripped["aurora_pool"] = own["request"]
    return repr(stripped)


def main() -> None:
    """Kill jobs over lines and over tables, as often as told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    for seed in range(arguments.rounds):
        for tables in (False, True):
            for endings in (KILLS, STOPS):
                cut = check_exactly_once(seed, requests=arguments.requests, endings=endings, tables=tables)
                kind = "tables" if tables else "lines"
                sys.stdout.write(f"seed {seed}, {kind}: {cut} runs of {arguments.requests} requests cut short\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
