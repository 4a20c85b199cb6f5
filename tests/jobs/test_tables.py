"""Tables and data sets in, tables out, here and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs import JobOptions, run_job
from aurora_pool.jobs.columns import Columns
from aurora_pool.jobs.tables import open_source
from tests.jobs.fleets import fleet_of, pool_of, received
from tests.jobs.shared import WriteLines

ROWS = [{"pmid": n, "question": f"Say {n}.", "score": n / 2, "tags": ["a", "b"]} for n in range(5000)]
COLUMNS = Columns(prompt_field="question", id_field="pmid")


def write_parquet(path: Path, rows: list[dict[str, Any]], *, group: int = 700) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def objects(path: str | Path, first: int = 1, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    source = open_source(path, **options)
    try:
        return [(number, line) for number, line in source.lines(first) if isinstance(line, dict)]
    finally:
        source.close()


@pytest.mark.parametrize("first", [1, 2, 700, 701, 1400, 3333, 5000, 5001])
def test_parquet_is_read_from_any_row_on(tmp_path: Path, first: int) -> None:
    path = write_parquet(tmp_path / "in.parquet", ROWS)
    assert objects(path, first) == list(enumerate(ROWS, start=1))[first - 1 :]


def test_parquet_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "in.parquet", [{"prompt": "x" * 1000 + str(n)} for n in range(20_000)], group=500)
    whole = pq.read_table(path).nbytes
    lines = open_source(path).lines()
    before = pa.total_allocated_bytes()
    next(lines)
    assert pa.total_allocated_bytes() - before < whole / 4


@pytest.mark.parametrize(("name", "delimiter"), [("in.csv", ","), ("in.tsv", "\t"), ("in.csv.gz", ",")])
def test_csv_is_text_with_a_heading(tmp_path: Path, name: str, delimiter: str) -> None:
    import csv
    import gzip
    import io

    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["id", "prompt", "max_tokens", "gold"], ["007", 'a "b"\nc', "3", ""], ["8", "d", "", "x,y"]])
    data = text.getvalue().encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    expected = [
        (2, {"id": "007", "prompt": 'a "b"\nc', "max_tokens": 3, "gold": ""}),
        (4, {"id": "8", "prompt": "d", "gold": "x,y"}),
    ]
    assert objects(tmp_path / name) == expected
    assert objects(tmp_path / name, 3) == expected[1:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n1,2,3\n", r"in\.csv:3: expected 2 cells as in the heading, got 3"),
        ("a,a\n1,2\n", r"in\.csv:1: two columns have the name 'a'"),
        ('a,b\n1,"2\n', r"in\.csv:2: it is no table"),
        (b"a,b\n1,\xff\n", r"in\.csv:2: expected UTF-8"),
    ],
)
def test_a_bad_table_is_told_with_its_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadRecord, match=reason):
        objects(path)


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadRecord, match=r"in\.parquet: the input can't be read"):
        open_source(tmp_path / "in.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    names = ["prompt", "x", "y", "x"]
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 4, names=names), tmp_path / "in.parquet")
    with pytest.raises(BadRecord, match=r"in\.parquet: two columns have the name 'x'$"):
        open_source(tmp_path / "in.parquet")


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    one, both = tmp_path / "one", tmp_path / "both"
    data = datasets.Dataset.from_list(ROWS[:3000])
    data.save_to_disk(one)
    datasets.DatasetDict({"train": data, "test": data.select(range(5))}).save_to_disk(both)
    assert objects(one, 2500) == list(enumerate(ROWS[:3000], start=1))[2499:]
    assert len(objects(f"{both}?split=test", input_format="dataset")) == 5
    with pytest.raises(BadRecord, match="it has the splits train, test: say which"):
        open_source(both)
    with pytest.raises(BadRecord, match="can't be read"):
        open_source(tmp_path)
    with pytest.raises(BadRecord, match=r"expected split=, config= or revision= after '\?', got 'splits'"):
        open_source("hf://lab/genes?splits=test")


@pytest.mark.parametrize("table", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.simulated_clock
async def test_a_table_has_the_rows_in_their_order_after_a_resume_as_well(
    tmp_path: Path, table: str, output: str
) -> None:
    source = write_parquet(tmp_path / "in.parquet", ROWS[:300], group=64)
    options = JobOptions(columns=COLUMNS, table=tmp_path / table, defaults={"max_tokens": 3})
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        for agent in fleet.agents:
            agent.reject(r"Say 7\.", "no sevens here")
        summary = await run_job(pool, source, tmp_path / output, options)
        (tmp_path / table).unlink()
        count = len(received(fleet))
        again = await run_job(pool, source, tmp_path / output, options)
        assert len(received(fleet)) == count
    assert summary.table == again.table == str(tmp_path / table)
    if table.endswith("parquet"):
        found = pq.read_table(tmp_path / table)
        assert found.schema.field("score").type == pa.float64()
        assert found.column("tags").to_pylist()[0] == ["a", "b"]
    else:
        parse = pv.ParseOptions(delimiter="\t" if table.endswith("tsv") else ",")
        found = pv.read_csv(tmp_path / table, parse_options=parse)
    rows = found.to_pylist()
    assert [row["question"] for row in rows] == [row["question"] for row in ROWS[:300]]
    assert [str(row["id"]) for row in rows] == [str(n) for n in range(300)]
    assert rows[8]["answer"]
    assert (rows[8]["completion_tokens"], rows[8]["finish_reason"], rows[8]["error"] or None) == (3, "length", None)
    assert (rows[7]["answer"] or None, "no sevens here" in rows[7]["error"]) == (None, True)


@pytest.mark.simulated_clock
async def test_columns_of_several_kinds_and_names_that_are_taken(tmp_path: Path, write_lines: WriteLines) -> None:
    rows = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": "x"}, {"prompt": "c", "answer": [1], "more": None}]
    options = JobOptions(table=tmp_path / "out.parquet")
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", rows), tmp_path / "out.jsonl", options)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column("answer").to_pylist() == ["1", "x", "[1]"]
    assert all(found.column("model_answer").to_pylist())
    assert "row" not in (tmp_path / "out.jsonl").read_text()


@pytest.mark.simulated_clock
async def test_a_table_made_of_a_table_that_was_made_so_keeps_all_columns(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "0.parquet", [{"prompt": "a", "request_id": "r"}])
    columns = Columns(keep=("request_id",))
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        for number in range(1, 4):
            table = tmp_path / f"{number}.parquet"
            await run_job(pool, source, tmp_path / f"{number}.jsonl", JobOptions(table=table, columns=columns))
            rows = [{**row, "prompt": "a"} for row in pq.read_table(table).to_pylist()]
            source = write_parquet(tmp_path / f"{number}-next.parquet", rows)
            columns = Columns(keep=tuple(name for name in rows[0] if name != "prompt"))
    names = pq.read_schema(tmp_path / "3.parquet").names
    assert len(names) == len(set(names)) == 1 + 3 + 3 * 5
    assert {"request_id", "answer", "model_answer", "model_model_answer", "request_request_id"} <= set(names)


def test_a_table_that_could_not_be_written_is_refused_at_once(tmp_path: Path, write_lines: WriteLines) -> None:
    from aurora_pool.jobs import Job

    source = write_lines("in.jsonl", [{"prompt": "a"}])
    with pytest.raises(ConfigError, match=r"expected a table to end in \.parquet"):
        Job(source, tmp_path / "o.jsonl", JobOptions(table="out.xlsx"))
    with pytest.raises(ConfigError, match="a file of this machine"):
        Job(source, "s3://bucket/o.jsonl")


# -- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.simulated_clock
async def test_files_elsewhere_are_read_and_tables_are_written_there(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/in.parquet", write_parquet(tmp_path / "in.parquet", ROWS[:20]).read_bytes())
    options = JobOptions(columns=COLUMNS, table="memory://out.parquet")
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, "memory://in.parquet", tmp_path / "out.jsonl", options)
    with memory.open("/out.parquet", "rb") as file:
        assert len(pq.read_table(file)) == 20
    with pytest.raises(BadRecord, match="can't be read"):
        open_source("memory://nowhere.jsonl")
    with pytest.raises(BadRecord, match="nosuch"):
        open_source("nosuch://x.jsonl")


async def test_s3(bucket: str, tmp_path: Path) -> None:
    with fsspec.open(f"{bucket}/in.csv", "wt") as file:
        file.write("id,prompt\na,Say a.\nb,Say b.\n")
    async with fleet_of(1, instant=True) as fleet, pool_of(fleet) as pool:
        await run_job(pool, f"{bucket}/in.csv", tmp_path / "out.jsonl", JobOptions(table=f"{bucket}/out.csv"))
    with fsspec.open(f"{bucket}/out.csv", "rb") as file:
        assert pv.read_csv(file).column("id").to_pylist() == ["a", "b"]
