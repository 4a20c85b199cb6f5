"""A fleet as a stage of a Ray Data pipeline (extra ``ray``).

>>> import ray  # doctest: +SKIP
>>> rows = ray.data.read_parquet("s3://bucket/genes")  # doctest: +SKIP
>>> rows = answer(rows, "fleet.hostfile", template="What does {gene} do?")  # doctest: +SKIP
>>> rows.write_parquet("s3://bucket/answers")  # doctest: +SKIP

A row that fails has its reason in a column and fails nothing else; an agent that dies costs nothing, for its prompts go
to others. Only if no agent is left for a long time does the stage fail: that says nothing about the rows, which are
answered by the next run where Ray's checkpoints are on.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from aurora_pool.contrib.rows import RowPool, RowPrompts, beside, columns_of, endpoints_of
from aurora_pool.errors import ConfigError
from aurora_pool.hostfile import AnyEndpoint
from aurora_pool.messages import Sampling
from aurora_pool.pool_options import VLLMPoolOptions
from aurora_pool.sharing import AgentShare, Part

__all__ = ["PoolStage", "answer"]

AGENTS_PER_ACTOR = 256
BATCH = 256
CALLS = 32
"""How many batches an actor may have at a time: together more than the agents of an actor can hold."""
CPUS_PER_ACTOR = 0.25
TAKEOVER_AFTER = 10.0

_TYPES = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.string())

logger = logging.getLogger(__name__)


class PoolStage:
    """An async callable for :meth:`ray.data.Dataset.map_batches` with ``batch_format="pyarrow"``; one pool per actor.

    - ``hostfile``: its path, or the agents;
    - ``prompt_column`` holds the prompts, or ``template`` has ``{column}`` where a row's values belong;
    - ``column``: where the answer goes; beside it come ``<column>_finish_reason``, ``_prompt_tokens``,
      ``_completion_tokens`` and ``_error``. Existing columns of these names are replaced;
    - ``board``: where the actors of one stage divide the agents among them; None uses all in each actor;
    - ``pool``: options of :class:`~aurora_pool.pool.VLLMPool`.
    """

    def __init__(
        self,
        hostfile: str | Path | Iterable[AnyEndpoint],
        *,
        prompt_column: str = "prompt",
        template: str | None = None,
        column: str = "answer",
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        board: Any = None,
        pool: VLLMPoolOptions | None = None,
    ) -> None:
        self._prompts = RowPrompts(prompt_column, template, max_tokens, sampling)
        self._column = column
        share = None
        if board is not None:
            roster = _BoardRoster(board)
            share = AgentShare(roster, roster.part, takeover_after=TAKEOVER_AFTER)
        self._rows = RowPool(hostfile, share=share, **(pool or VLLMPoolOptions()))

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer a batch of rows."""
        needed = self._prompts.needed(batch.column_names)
        prompts = self._prompts.of({name: batch.column(name).to_pylist() for name in needed})
        responses = await self._rows.answer_async([prompt for prompt in prompts if prompt is not None])
        added = columns_of(self._column, beside(prompts, responses))
        for (name, cells), kind in zip(added.items(), _TYPES, strict=True):
            cell = pa.array(cells, kind)  # typed, or a block without any failure would have another schema
            if name in batch.column_names:
                batch = batch.drop_columns([name])
            batch = batch.append_column(name, cell)
        return batch


def answer(
    dataset: ray.data.Dataset,
    hostfile: str | Path | Iterable[AnyEndpoint],
    prompt_column: str = "prompt",
    *,
    template: str | None = None,
    column: str = "answer",
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    actors: int | None = None,
    batch_size: int = BATCH,
    block_rows: int | None = BATCH,
    num_cpus: float = CPUS_PER_ACTOR,
    pool: VLLMPoolOptions | None = None,
) -> ray.data.Dataset:
    """Answer a prompt for each row of a dataset, and put the answers beside the rows: see :class:`PoolStage`.

    ``actors`` is by default one for each 256 agents; they divide the agents among them, and what one does not need is
    lent to the others. ``num_cpus`` is what one actor asks of the cluster.

    ``block_rows``: the dataset is cut into blocks of this many rows on its way, without a shuffle. A block goes to one
    actor and is written as a whole; a pipeline that is killed before that answers it again, where Ray's checkpoints are
    on. With None, blocks are as they come: Ray reads many small files as one block, which one actor answers alone.

    Raises :class:`~aurora_pool.errors.HostfileError`, and :class:`~aurora_pool.errors.ConfigError` if the cluster has
    too few CPUs: Ray would wait for them for ever, and only say so in a log.
    """
    endpoints = endpoints_of(hostfile)
    count = actors or -(-len(endpoints) // AGENTS_PER_ACTOR)
    check_resources(count * num_cpus)
    board = None
    if count > 1:
        board = ray.remote(num_cpus=0)(_Board).remote(count)
    if block_rows is not None:
        dataset = dataset.repartition(target_num_rows_per_block=block_rows)
    return dataset.map_batches(
        PoolStage,
        fn_constructor_args=(endpoints,),
        fn_constructor_kwargs={
            "prompt_column": prompt_column,
            "template": template,
            "column": column,
            "max_tokens": max_tokens,
            "sampling": sampling,
            "board": board,
            "pool": pool,
        },
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=count, max_concurrent_calls_per_actor=CALLS, max_tasks_in_flight_per_actor=CALLS
        ),
        num_cpus=num_cpus,
        udf_modifying_row_count=False,
    )


def check_resources(cpus: float) -> None:
    """See that a cluster can run stages that take this many CPUs, beside reading, writing and Ray's checkpoints.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    if not ray.is_initialized():
        ray.init()
    has = ray.cluster_resources().get("CPU", 0.0)
    needs = cpus + 1.0  # one task that reads or writes
    parts = [f"{cpus:g} for the pools", "1 to read and write"]
    if ray.data.DataContext.get_current().checkpoint_config is not None:
        needs += 1.0
        parts.append("1 for the filter of checkpoints")
    if has < needs:
        raise ConfigError(
            f"the cluster has {has:g} CPUs and {needs:g} are needed ({', '.join(parts)}): it would wait for ever; "
            "give fewer actors or a smaller num_cpus, or enlarge the cluster"
        )


class _Board:
    """Where the actors of one stage tell each other what they need; itself an actor."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._seen: dict[str, tuple[int, str, float]] = {}

    def join(self, name: str) -> tuple[int, int]:
        taken = {index for index, _, _ in self._living().values()}
        free = [index for index in range(self._parts) if index not in taken]
        index = free[0] if free else len(self._seen) % self._parts
        self._seen[name] = index, "", time.monotonic()
        return index, self._parts

    def beat(self, name: str, note: str) -> None:
        self._seen[name] = self._seen[name][0], note, time.monotonic()

    def others(self, name: str) -> dict[str, str]:
        return {other: note for other, (_, note, _) in self._living().items() if other != name and note}

    def leave(self, name: str) -> None:
        self._seen.pop(name, None)

    def _living(self) -> dict[str, tuple[int, str, float]]:
        now = time.monotonic()
        self._seen = {name: seen for name, seen in self._seen.items() if now - seen[2] < TAKEOVER_AFTER}
        return self._seen


class _BoardRoster:
    """A roster that is kept by a :class:`_Board` instead of a folder."""

    every = TAKEOVER_AFTER / 5

    def __init__(self, board: Any) -> None:
        self._board = board
        self._name = secrets.token_hex(8)
        self.others: Mapping[str, str] = {}
        self.part = Part(*ray.get(board.join.remote(self._name)))

    def beat(self, note: str = "") -> None:
        ray.get(self._board.beat.remote(self._name, note))

    def refresh(self) -> None:
        self.others = ray.get(self._board.others.remote(self._name))

    def leave(self) -> None:
        self._board.leave.remote(self._name)
