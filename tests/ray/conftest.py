"""A local Ray of three CPUs, and simulated fleets in processes of their own. ``make test-ray`` runs these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=3, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder of parquet files with 8 x 50 rows, of which one has no gene."""
    return write_rows(tmp_path / "rows", files=8, each=50)


def write_rows(folder: Path, *, files: int, each: int) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    for file in range(files):
        numbers = range(file * each, (file + 1) * each)
        genes = [None if number == 7 else f"G{number}" for number in numbers]
        table = pa.table({"id": [f"p{number}" for number in numbers], "gene": genes})
        parquet.write_table(table, folder / f"{file}.parquet")
    return folder
