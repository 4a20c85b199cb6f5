"""``aurora-pool summarize``: files of any length, one summary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from aurora_pool.patterns import ReduceResult

SHOWN = 5
"""How many lost parts are named before the rest is counted."""


class DocumentFormat(StrEnum):
    """What the files are."""

    TEXT = "text"
    CHATGPT_EXPORT = "chatgpt-export"


def summarize(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 texts, or with --format chatgpt-export their archives.")],
    hostfile: Annotated[Path, typer.Option(envvar="AURORA_POOL_HOSTFILE", help="The fleet, one agent a line.")],
    format_: Annotated[DocumentFormat, typer.Option("--format", help="What the files are.")] = DocumentFormat.TEXT,
    model: Annotated[str | None, typer.Option(help="The model to ask for; by default the fleet's one.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per summary at most, at every level.")] = 512,
    chunk_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per part; by default what fits.")] = None,
    fanin: Annotated[int, typer.Option(min=2, help="How many summaries are merged at a time.")] = 8,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="The model's own default if not given.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell of each level on stderr.")] = False,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an agent that answers.")] = 10.0,
) -> None:
    """Summarise files of any length into one text, in parts that fit the model and then level by level."""
    from aurora_pool.cli.fleet import start
    from aurora_pool.hostfile import parse_hostfile
    from aurora_pool.messages import Sampling
    from aurora_pool.options import Timeouts
    from aurora_pool.patterns import read_documents
    from aurora_pool.patterns import summarize as summarize_documents
    from aurora_pool.pool import VLLMPool

    def tell(level: int, texts: Sequence[str]) -> None:
        if verbose:
            typer.echo(f"level {level}: {len(texts)} summaries", err=True)

    async def work() -> ReduceResult:
        documents = read_documents(files, format=format_.value)
        pool = VLLMPool(
            parse_hostfile(hostfile),
            model=model,
            max_tokens_aggregation=max_tokens,
            sampling=Sampling(temperature=temperature),
            timeouts=Timeouts(patience=wait),
        )
        try:
            await start(pool)
            return await summarize_documents(
                pool, documents, chunk_tokens=chunk_tokens, fanin=fanin, max_tokens=max_tokens, on_level=tell
            )
        finally:
            await pool.close()

    result = asyncio.run(work())
    if result.text:
        typer.echo(result.text)
    if not result.success:
        for leaf in result.lost[:SHOWN]:
            typer.echo(f"aurora-pool: lost {leaf.name}: {leaf.error}", err=True)
        if len(result.lost) > SHOWN:
            typer.echo(f"aurora-pool: lost {len(result.lost) - SHOWN} more of {result.leaves} parts", err=True)
        if result.error:
            typer.echo(f"aurora-pool: {result.error}", err=True)
        raise typer.Exit(ExitCode.SOME_FAILED)
