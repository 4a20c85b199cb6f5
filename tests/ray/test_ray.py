"""A fleet as a stage of Ray Data, on a real local Ray."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")
import pyarrow as pa  # noqa: E402 - only where Ray is
from pyarrow import parquet  # noqa: E402

from aurora_pool import AgentEndpoint, ConfigError, Timeouts, parse_hostfile  # noqa: E402
from aurora_pool.contrib.ray import answer  # noqa: E402
from tests.forked import simulated  # noqa: E402
from tests.ray.conftest import write_rows  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own code warns, about itself

logger = logging.getLogger(__name__)

FLEET = ("--slots", "32", "--median-length", "30", "--speed", "2")
EXAMPLES = Path(__file__).parents[2] / "examples" / "ray_data"
FINISHED = "vllm:request_success_total{"
TEMPLATE = "What does {gene} do?"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a dataset by id; fails on an id that is there twice."""
    rows = parquet.read_table(folder).to_pylist()
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


@pytest.mark.usefixtures("cluster")
def test_parquet_to_parquet_where_a_row_is_bad_and_an_agent_dies(tmp_path: Path, rows: Path) -> None:
    with simulated(tmp_path, "--agents", "4", *FLEET, "--fault", "1:die@0", "--fault", "2:hang@5") as hostfile:
        dataset = answer(ray.data.read_parquet(str(rows)), hostfile, template=TEMPLATE, max_tokens=30)
        dataset.write_parquet(str(tmp_path / "out"))
    answers = read(tmp_path / "out")
    assert len(answers) == 400
    bad = answers.pop("p7")
    assert (bad["answer"], bad["answer_completion_tokens"]) == (None, None)
    assert bad["answer_error"] == "the row has no prompt"
    for row in answers.values():
        assert row["answer"]
        assert row["answer_finish_reason"] in {"stop", "length"}
        assert row["answer_error"] is None
        assert min(row["answer_completion_tokens"], row["answer_prompt_tokens"]) > 0


@pytest.mark.usefixtures("cluster")
def test_two_stages_whose_actors_divide_the_agents(tmp_path: Path, rows: Path) -> None:
    with simulated(tmp_path, "--agents", "4", *FLEET) as hostfile:
        dataset = answer(
            ray.data.read_parquet(str(rows)), hostfile, template=TEMPLATE, column="draft", max_tokens=20, actors=2
        )
        dataset = answer(dataset, hostfile, template="Shorten: {draft}", column="short", max_tokens=10, num_cpus=0.1)
        rows_out = dataset.take_all()
    assert len({row["id"] for row in rows_out}) == len(rows_out) == 400
    by_id = {row["id"]: row for row in rows_out}
    assert by_id.pop("p7")["short_error"] == "the row has no prompt"  # for it has no draft
    assert all(row["draft"] and row["short"] for row in by_id.values())


@pytest.mark.usefixtures("cluster")
def test_what_the_cluster_or_the_fleet_lacks_is_told_at_once(rows: Path) -> None:
    dataset = ray.data.read_parquet(str(rows))
    nobody = [AgentEndpoint("127.0.0.1", 9)]
    with pytest.raises(ConfigError, match=r"the cluster has 3 CPUs and 5 are needed \(4 for the pools, 1 to read"):
        answer(dataset, nobody, template=TEMPLATE, actors=4, num_cpus=1)
    with pytest.raises(Exception, match=r"no agent answers|NoAgentsError"):
        answer(dataset, nobody, template=TEMPLATE, pool={"timeouts": Timeouts(patience=2)}).materialize()


@pytest.mark.usefixtures("cluster")
def test_from_s3_to_s3(tmp_path: Path, rows: Path) -> None:
    pytest.importorskip("moto")
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = fs.S3FileSystem(
            access_key="test",
            secret_key="test",
            endpoint_override=f"http://{host}:{port}",
            allow_bucket_creation=True,
            connect_timeout=60,
            request_timeout=60,
        )
        s3.create_dir("bucket")
        fs.copy_files(str(rows), "bucket/rows", destination_filesystem=s3)
        with simulated(tmp_path, "--agents", "2", "--instant") as hostfile:
            dataset = ray.data.read_parquet("bucket/rows", filesystem=s3)
            answer(dataset, hostfile, template=TEMPLATE, max_tokens=8).write_parquet("bucket/out", filesystem=s3)
        table = parquet.read_table("bucket/out", filesystem=s3)
        assert len(set(table["id"].to_pylist())) == table.num_rows == 400
    finally:
        server.stop()


def run_example(name: str, *arguments: object) -> str:
    """Run an example on the cluster of the tests."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.usefixtures("cluster")
def test_the_examples(tmp_path: Path, rows: Path) -> None:
    with simulated(tmp_path, "--agents", "2", "--instant") as hostfile:
        options = ("--hostfile", hostfile, "--template", TEMPLATE, "--checkpoint", tmp_path / "checkpoint")
        said = run_example("parquet_to_parquet.py", rows, tmp_path / "answers", *options)
        assert "400 rows, of which 1 failed" in said
        said = run_example("two_stages.py", rows, tmp_path / "verdicts", "--small", hostfile, "--large", hostfile)
        assert "400 rows" in said
    verdicts = read(tmp_path / "verdicts")
    assert {name for name, row in verdicts.items() if row["verdict_error"]} == {"p7"}


PIPELINE = """
import os, sys
import ray
from ray.data.checkpoint import CheckpointConfig
from aurora_pool.contrib.ray import answer

source, hostfile, folder = sys.argv[1:]
os.environ["RAY_AUTH_MODE"] = "disabled"
ray.init(num_cpus=4, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
context = ray.data.DataContext.get_current()
context.checkpoint_config = CheckpointConfig(
    id_column="id", checkpoint_path=f"{folder}/checkpoint", delete_checkpoint_on_success=False
)
rows = ray.data.read_parquet(source)
rows = answer(rows, hostfile, template="What does {gene} do?", max_tokens=30, batch_size=25, block_rows=25)
rows.write_parquet(f"{folder}/out")
"""


def run_until_killed(folder: Path, source: Path, hostfile: Path, *, more: int | None) -> int:
    """Run the pipeline; kill all its processes when ``more`` blocks are written. Tell how many rows are."""
    out = folder / "out"
    before = len(list(out.glob("*.parquet")))
    command = [sys.executable, "-c", PIPELINE, str(source), str(hostfile), str(folder)]
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(command, stderr=said, stdout=said)
    deadline = time.monotonic() + 900
    while process.poll() is None and (more is None or len(list(out.glob("*.parquet"))) < before + more):
        assert time.monotonic() < deadline, (folder / "said").read_text()
        time.sleep(0.02)
    code = process.poll()
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    assert code == (None if more else 0), (folder / "said").read_text()
    written = 0
    for path in out.glob("*.parquet"):
        with suppress(pa.ArrowInvalid):  # it was being written
            written += parquet.read_metadata(path).num_rows
    return written


def answered(hostfile: Path) -> int:
    """How many prompts a fleet has answered, by its counters."""
    count = 0.0
    for agent in parse_hostfile(hostfile):
        with urllib.request.urlopen(f"http://{agent.host}:{agent.port}/metrics", timeout=60) as reply:
            lines = reply.read().decode().splitlines()
        count += sum(float(line.split()[-1]) for line in lines if line.startswith(FINISHED) and "abort" not in line)
    return int(count)


def descendants(process: int) -> list[int]:
    """The processes that a process has started, those that these have started, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


@pytest.mark.timeout(3600)
def test_killed_with_its_workers_it_goes_on_from_rays_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(3)
    kills = int(os.environ.get("AURORA_POOL_RAY_KILLS", "1"))
    rows = 25 * (8 + 4 * kills)
    source = write_rows(tmp_path / "rows", files=rows // 25, each=25)
    with simulated(tmp_path, "--agents", "2", "--slots", "8", "--median-length", "30", "--speed", "0.5") as hostfile:
        unfinished = 0
        for _ in range(kills):
            unfinished += rows - run_until_killed(tmp_path, source, hostfile, more=rng.randrange(1, 4))
            logger.info("killed: %d rows of unfinished blocks so far, %d answered", unfinished, answered(hostfile))
        run_until_killed(tmp_path, source, hostfile, more=None)
        again = answered(hostfile) - (rows - 1)  # one has no prompt
    logger.info("%d rows: %d answered again, of %d that were in unfinished blocks", rows, again, unfinished)
    assert again <= unfinished
    assert read(tmp_path / "out").keys() == {f"p{number}" for number in range(rows)}
