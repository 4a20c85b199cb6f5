"""Dask and Hugging Face, with the packages themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_pool.contrib.frames import answer_batch, answer_partition
from tests.forked import simulated

pytestmark = pytest.mark.filterwarnings("default")

TEMPLATE = "What does {gene} do?"
GENES = [None if number == 3 else f"G{number}" for number in range(200)]


def test_partitions_of_dask(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    dataframe = pytest.importorskip("dask.dataframe")
    frame = dataframe.from_pandas(pandas.DataFrame({"gene": GENES}), npartitions=4)
    with simulated(tmp_path, "--agents", "2", "--instant") as hostfile:
        answers = frame.map_partitions(answer_partition, str(hostfile), template=TEMPLATE, max_tokens=8).compute()
    assert list(answers["gene"].fillna("")) == [gene or "" for gene in GENES]
    assert answers["answer_error"].dropna().to_dict() == {3: "the row has no prompt"}
    assert answers["answer"].notna().sum() == 199


def test_batches_of_a_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"gene": GENES})
    with simulated(tmp_path, "--agents", "2", "--instant") as hostfile:
        rows = rows.map(answer_batch(str(hostfile), template=TEMPLATE, max_tokens=8), batched=True, batch_size=64)
    assert rows["gene"] == GENES
    assert [number for number, error in enumerate(rows["answer_error"]) if error] == [3]
    assert all(answer for number, answer in enumerate(rows["answer"]) if number != 3)
