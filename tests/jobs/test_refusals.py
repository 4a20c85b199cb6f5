"""What can't be done is refused in one line that says what, where, and what to do instead."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import VLLMPool
from aurora_pool.arguments import parse_pairs
from aurora_pool.embeddings import EmbeddingPool
from aurora_pool.errors import BadRecord, ConfigError, JobError, NoAgentsError, PoolError
from aurora_pool.hostfile import AgentEndpoint, as_endpoints
from aurora_pool.jobs import Columns, Expectation, Job, JobOptions
from aurora_pool.jobs.cache import ResponseCache
from aurora_pool.jobs.claimed_job import ClaimedJob
from aurora_pool.jobs.guardrails import Guardrails
from aurora_pool.jobs.history import read_history
from aurora_pool.jobs.merge import merge
from aurora_pool.jobs.metrics import JobMetrics
from aurora_pool.jobs.ordered import write_ordered
from aurora_pool.jobs.requests import RequestError, RequestReader
from aurora_pool.jobs.spending import Spending, check_prices
from aurora_pool.jobs.table_writer import check_table
from aurora_pool.jobs.tables import open_source
from aurora_pool.jobs.templates import Template
from aurora_pool.jobs.validation import fits_schema
from aurora_pool.sharing import AgentShare, Part, Roster
from aurora_pool.sharing.ranks import find_rank
from tests.jobs.shared import WriteLines, write_jsonl

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
Refused = Callable[[Path], object]


def read(line: dict[str, Any]) -> object:
    return RequestReader().read(line, 1)


def latin1(line: str) -> object:
    return RequestReader().read(line.encode("latin-1"), 1)


def utf16(path: Path) -> Path:
    path.write_text('{"prompt": "a"}\n', encoding="utf-16")
    return path


def unpriced() -> None:
    check_prices(as_endpoints(["a hosted"]), priced=True)


def rank(**environment: str) -> Part:
    return find_rank(environment)


def share(at: Path) -> object:
    return AgentShare(Roster(at / "drivers"), Part(1, 2), takeover_after=30.0).select([AgentEndpoint("a")])


def job(at: Path, output: str, **options: Any) -> Job:
    return Job(at / "in.jsonl", output if output == "-" else at / output, JobOptions(**options))


def claimed(at: Path, shared: Path) -> ClaimedJob:
    return ClaimedJob(str(at / "in.jsonl"), shared)


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def damaged(path: Path) -> Path:
    return written(path, "no database\n" * 1000).parent


def history(at: Path, text: str) -> object:
    written(at / "o.jsonl.runlog", text)
    return read_history(at / "o.jsonl")


@pytest.mark.parametrize(
    ("error", "reason", "refused"),
    [
        (RequestError, "expected the method POST, got 'GET'", lambda _: read({"method": "GET", "body": {}})),
        (RequestError, "expected 'model' to be a string", lambda _: read({"prompt": "a", "model": 3})),
        (ConfigError, "expected KEY=VALUE, got 'gpt'", lambda _: parse_pairs("--model-map", ["gpt"])),
        (ConfigError, "'a' has two values, 'b' and 'c'", lambda _: parse_pairs("--model-map", ["a=b", "a=c"])),
        (ConfigError, "template or a prompt field, got both", lambda _: Columns(template="{a}", prompt_field="a")),
        (ConfigError, "names no column as {column}: 'Say it'", lambda _: Template("Say it")),
        (ConfigError, "retries: expected a whole number of at least 0, got -1", lambda _: Expectation(retries=-1)),
        (ConfigError, "sent raw has none", lambda _: JobOptions(system_prompt="a", prompt_format="raw")),
        (ConfigError, "interval: expected a number above 0, got 0", lambda _: JobOptions(interval=0)),
        (ConfigError, "cost needs a price of tokens", lambda _: Guardrails(max_cost=1.0)),
        (ConfigError, "cost needs a price of tokens", lambda _: check_prices([AgentEndpoint("a")], priced=False)),
        (ConfigError, "cost needs prices: expected price_in= and price_out= at a", lambda _: unpriced()),
        (ConfigError, "whole numbers in SLURM_PROCID and", lambda _: rank(SLURM_PROCID="x", SLURM_NTASKS="2")),
        (ConfigError, "no rank is set: expected one of", lambda _: rank()),
        (NoAgentsError, "share 1/2: the hostfile has 1 agent, so this driver has none", share),
        (ConfigError, "request 1 can't be written as JSON", lambda at: Job([{"prompt": object()}], at / "o.jsonl")),
        (ConfigError, "a table is made of the output", lambda at: job(at, "-", table=at / "o.csv")),
        (ConfigError, r"o.csv: two things would be written to it \(", lambda at: job(at, "o.csv", table=at / "o.csv")),
        (JobError, r"no/o.csv: the table can't be written \(No such file", lambda at: check_table(at / "no" / "o.csv")),
        (JobError, r"o.csv: the table can't be written \(Is a direct", lambda at: check_table(folder(at / "o.csv"))),
        (BadRecord, "nosuch://o.csv: .*nosuch", lambda _: check_table("nosuch://o.csv")),
        (ConfigError, "'.': expected the name of a file, got that of a folder", lambda at: Job(at / "in.jsonl", ".")),
        (ConfigError, "'.': expected the name", lambda at: Job(at / "in.jsonl", "", JobOptions(ordered=True))),
        (ConfigError, "no/': expected the name of a file", lambda at: Job(at / "in.jsonl", f"{at}/no/")),
        (BadRecord, r"^\.: expected outputs of aurora-pool run, got a folder", lambda _: read_history(".")),
        (ConfigError, "request 2: expected text, token ids, .*, got 3", lambda at: Job(["x", 3], at / "o.jsonl")),  # type: ignore[list-item]
        (ConfigError, "request 1: expected text, .*, got b'x'", lambda at: Job([b"x"], at / "o.jsonl")),
        (BadRecord, "^requests: there is no request in it", lambda at: Job([], at / "o.jsonl")),
        (BadRecord, "^requests:2: the id '1' is in line 1", lambda at: Job([{"id": 1, "prompt": "a"}] * 2, at / "o")),
        (ConfigError, r"for a table, -o \S*/o.jsonl --table \S*/o.csv$", lambda at: job(at, "o.csv")),
        (RequestError, "string or a whole number, got 1.5", lambda _: read({"prompt": "a", "id": 1.5})),
        (BadRecord, r"looks like UTF-16.*iconv", lambda at: Job(utf16(at / "u.jsonl"), at / "o.jsonl")),
        (BadRecord, r"u.csv: it looks like UTF-16", lambda at: Job(utf16(at / "u.csv"), at / "o.jsonl")),
        (RequestError, r"UTF-8 text \(iconv .*\): .* at byte 13", lambda _: latin1('{"prompt": "é"}')),
        (JobError, "the cache can't be used", lambda at: ResponseCache(at / "in.jsonl")),
        (JobError, "the cache can't be used", lambda at: ResponseCache(damaged(at / "c" / "answers.sqlite"))),
        (JobError, "the job has spent can't be read", lambda at: Spending(at / "in.jsonl")),
        (JobError, "the job has spent can't be read", lambda at: Spending(written(at / "c", '{"spent":-1}'))),
        (JobError, "the job spends can't be written", lambda at: Spending(at / "no" / "c").write(1.0)),
        (BadRecord, r"runlog: the run log can't be read \(No such", lambda at: read_history(at / "o.jsonl")),
        (BadRecord, "runlog: there is no run in it", lambda at: history(at, "no JSON\n")),
        (JobError, "the folder can't be used", lambda at: Roster(at / "in.jsonl" / "drivers")),
        (JobError, r"in.jsonl/plan.json: the plan can't be read \(Not a", lambda at: claimed(at, at / "in.jsonl")),
        (JobError, "plan.json: the plan can't be read", lambda at: claimed(at, folder(at / "s" / "plan.json").parent)),
        (JobError, r"the drivers' folder can't be used \(", lambda at: claimed(at, written(at / "s/done", "").parent)),
        (JobError, "it is there already; name another, or remove it", lambda at: merge(at, at / "in.jsonl")),
    ],
)
def test_it_is_said_what_can_not_be_done(tmp_path: Path, error: type[Exception], reason: str, refused: Refused) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a"}])
    before = (tmp_path / "in.jsonl").read_bytes()
    with pytest.raises(error, match=reason) as raised:
        refused(tmp_path)
    assert (tmp_path / "in.jsonl").read_bytes() == before
    left = [name for name in map(os.path.realpath, Path("/proc/self/fd").glob("*")) if str(tmp_path) in name]
    assert not left, raised  # which holds what was made


@pytest.mark.parametrize(
    ("module", "package", "used"),
    [
        ("zstandard", "zstandard", lambda at: open_source(written(at / "in.jsonl.zst", "a"))),
        ("pyarrow", "pyarrow", lambda at: open_source(written(at / "in.parquet", "PAR1"))),
        ("pyarrow", "pyarrow", lambda at: check_table(at / "out.csv")),
        ("datasets", "datasets", open_source),
        ("fsspec", "fsspec", lambda _: open_source("s3://bucket/in.jsonl")),
        ("jsonschema", "jsonschema", lambda _: fits_schema({})),
        ("prometheus_client", "prometheus-client", lambda _: JobMetrics.serving(0)),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str, used: Refused
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PoolError, match=rf"\b{module if module == 'fsspec' else package}\b") as caught:
        used(tmp_path)
    extra = re.search(r"pip install 'aurora-pool\[(\w+)\]'", str(caught.value))
    assert extra is not None
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    assert any(re.match(rf"{package}\b", each) for each in extras[extra[1]])


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ([{"input": "a"}, {"prompt": "b"}], "in.jsonl:2: a job asks either for embeddings or for answers"),
        ([{"input": "a"}, {"input": "b", "dimensions": 8}], "in.jsonl:2: it asks for 8 dimensions, the lines before"),
    ],
)
def test_a_job_is_of_one_kind(
    tmp_path: Path, write_lines: WriteLines, bodies: list[dict[str, Any]], reason: str
) -> None:
    source = write_lines("in.jsonl", [{"custom_id": f"r{n}", "body": body} for n, body in enumerate(bodies)])
    with pytest.raises(BadRecord, match=reason):
        Job(source, tmp_path / "o.jsonl")


async def test_a_job_needs_a_pool_of_its_kind_and_model(tmp_path: Path, write_lines: WriteLines) -> None:
    from aurora_pool.testing import SimulatedFleet

    source = write_lines("in.jsonl", [{"prompt": "a"}])
    async with SimulatedFleet(1) as fleet:
        async with EmbeddingPool(fleet.endpoints) as embedders:
            with (
                Job(source, tmp_path / "o.jsonl") as asks,
                pytest.raises(ConfigError, match="and any other a VLLMPool"),
            ):
                await asks.run(embedders)
        async with VLLMPool(fleet.endpoints) as pool:
            with (
                Job(source, tmp_path / "o.jsonl", JobOptions(model="m")) as asks,
                pytest.raises(ConfigError, match="asks for the model 'm', the pool for 'simulated-model'"),
            ):
                await asks.run(pool)
    assert not (tmp_path / "o.jsonl").exists()


async def test_a_sorted_copy_that_can_not_be_written_is_told(tmp_path: Path, write_lines: WriteLines) -> None:
    with Job(write_lines("in.jsonl", [{"prompt": "a"}]), tmp_path / "o.jsonl") as asks:
        (tmp_path / "o.jsonl").touch()
        folder(tmp_path / "o.ordered.jsonl")
        with pytest.raises(JobError, match=r"o\.ordered\.jsonl: the sorted copy can't be written \(Is a directory\)"):
            await write_ordered(tmp_path / "o.jsonl", asks.survey)
