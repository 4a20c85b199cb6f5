"""The Ray stage against ``aurora-pool run`` on the same rows and the same four agents. Needs the extra ``ray``.

    .venv-ray/bin/python -m benchmarks.ray_stage --rows 8000

The stage's time is counted from the first batch that an actor gets to the last that it gives back: Ray takes 10 to 60 s
to start its processes. Its requests are counted as well: rows have to go in lists, as the lines of a file do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from pyarrow import parquet

from aurora_pool.contrib.ray import CALLS, PoolStage
from aurora_pool.hostfile_source import parse_hostfile
from benchmarks.claims import COMMAND, fleet
from benchmarks.printing import machine

MAX_TOKENS = 200


class Timed(PoolStage):
    """Puts beside each batch when it came and went, and how many requests had been sent by then."""

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer a batch of rows."""
        began = time.time()
        answered = await super().__call__(batch)
        for name, value in (("began", began), ("ended", time.time()), ("requests", float(self._rows.requests))):
            answered = answered.append_column(name, pa.array([value] * len(batch)))
        return answered


def run_job(folder: Path, hostfile: Path, prompts: list[str]) -> tuple[float, int]:
    """Run the rows as a job; give its seconds and its requests."""
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    lines = ({"id": f"p{number}", "prompt": prompt, "max_tokens": MAX_TOKENS} for number, prompt in enumerate(prompts))
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(hostfile), "--json", "--quiet"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    summary = json.loads(said)
    assert summary["answered"] == len(prompts)
    return summary["seconds"], sum(1 for _ in output.open(encoding="utf-8"))


def run_stage(folder: Path, hostfile: Path, prompts: list[str]) -> tuple[float, float]:
    """Run the rows as a stage with one actor; give the stage's seconds and its requests."""
    (folder / "rows").mkdir()
    table = pa.table({"id": [f"p{number}" for number in range(len(prompts))], "prompt": prompts})
    parquet.write_table(table, folder / "rows" / "0.parquet")
    rows = ray.data.read_parquet(str(folder / "rows")).repartition(target_num_rows_per_block=256)
    options: dict[str, Any] = {"max_tokens": MAX_TOKENS}
    answers = rows.map_batches(
        Timed,
        fn_constructor_args=(parse_hostfile(hostfile),),
        fn_constructor_kwargs=options,
        batch_size=256,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=1, max_concurrent_calls_per_actor=CALLS, max_tasks_in_flight_per_actor=CALLS
        ),
        num_cpus=0.25,
    ).take_all()
    assert len({row["id"] for row in answers if row["answer"]}) == len(prompts)
    began, ended = (pick(row[name] for row in answers) for pick, name in ((min, "began"), (max, "ended")))
    return ended - began, max(row["requests"] for row in answers)


def main() -> None:
    """Measure both, one after the other, on fresh fleets of the same seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    prompts = [f"Say {number}." for number in range(parser.parse_args().rows)]
    print(machine(), flush=True)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = []
    for measure in (run_job, run_stage):
        with tempfile.TemporaryDirectory() as name, fleet(Path(name), "--agents", 4) as hostfile:
            found.append(measure(Path(name), hostfile, prompts))
    (job, _), (stage, requests) = found
    print(f"{len(prompts):,} rows, 4 agents: run {job:.1f} s, stage {stage:.1f} s: {stage / job:.2f} x;", end=" ")
    print(f"{requests:,.0f} requests by the stage: {len(prompts) / requests:.1f} rows a request")


if __name__ == "__main__":
    main()
