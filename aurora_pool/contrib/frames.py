"""Partitions of a Dask frame, and batches of a Hugging Face dataset, answered by a fleet.

>>> frame.map_partitions(answer_partition, "fleet.hostfile", template="What does {gene} do?")  # doctest: +SKIP
>>> dataset.map(answer_batch("fleet.hostfile"), batched=True, batch_size=4096)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Unpack

from aurora_pool.contrib.rows import RowPool, RowPromptOptions, RowPrompts, beside, columns_of

__all__ = ["answer_batch", "answer_partition"]

_TYPES = ("str", "str", "Int64", "Int64", "str")


@cache
def _pool_of(hostfile: str) -> RowPool:
    """The pool of this process: what is asked by several threads at a time shares it."""
    return RowPool(hostfile)


def answer_batch(
    hostfile: str, *, column: str = "answer", **prompt: Unpack[RowPromptOptions]
) -> Callable[[Mapping[str, Sequence[Any]]], dict[str, list[Any]]]:
    """Make a function for ``datasets.Dataset.map(..., batched=True)``; ``prompt`` is as for ``RowPrompts``.

    >>> dataset.map(answer_batch("fleet.hostfile", template="What does {gene} do?"), batched=True)  # doctest: +SKIP
    """
    prompts = RowPrompts(**prompt)

    def answer(batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        created = prompts.of({name: batch[name] for name in prompts.needed(batch)})
        responses = _pool_of(hostfile).answer([each for each in created if each is not None])
        return columns_of(column, beside(created, responses))

    return answer


def answer_partition(frame: Any, hostfile: str, *, column: str = "answer", **prompt: Unpack[RowPromptOptions]) -> Any:
    """Answer each row of a pandas frame, such as a partition of Dask; give it with the answers beside the rows.

    >>> frame.map_partitions(answer_partition, "fleet.hostfile", template="What does {gene} do?")  # doctest: +SKIP
    """
    import pandas as pd  # noqa: PLC0415 - Dask brings it

    columns = {str(name): list(frame[name]) for name in frame.columns}
    answers = answer_batch(hostfile, column=column, **prompt)(columns) if len(frame) else columns_of(column, [])
    typed = zip(answers.items(), _TYPES, strict=True)
    return frame.assign(**{name: pd.array(cells, dtype=kind) for (name, cells), kind in typed})
