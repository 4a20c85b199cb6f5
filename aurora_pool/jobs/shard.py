"""One of several jobs that divide the ids of an input among them, without a word to each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aurora_pool.errors import ConfigError
from aurora_pool.jobs.job import Job
from aurora_pool.jobs.options import JobOptions
from aurora_pool.jobs.pieces import agree_on_plan
from aurora_pool.sharing.ranks import Part
from aurora_pool.sharing.roster import process_name


def shard_output(folder: Path, shard: Part) -> Path:
    """Where the records of a shard go.

    >>> shard_output(Path("answers"), Part(2, 8)).name
    'shard-2-of-8.jsonl'
    """
    return folder / f"shard-{shard.index}-of-{shard.count}.jsonl"


def open_shard(source: str, folder: str | Path, options: JobOptions, shard: Part) -> Job:
    """Open the job of one shard, whose output is in ``folder``, beside those of the other shards.

    Raises :class:`~aurora_pool.errors.ConfigError` if ``folder`` belongs to another job or another number of shards.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder, in which each shard has its output")
    if options.table is not None:
        raise ConfigError("with --shard, --table comes later: merge, and run it again with -o")
    agree_on_plan(folder, source, options, name=process_name(), shards=shard.count)
    return Job(source, shard_output(folder, shard), replace(options, shard=shard))
