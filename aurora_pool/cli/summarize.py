"""``aurora-pool summarize``: files of any length, one summary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.console import give, say
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.panels import DISPLAY, INPUT, SAMPLING, Hostfile, Model, Patience, Tag, Temperature
from aurora_pool.terminal import one_line

if TYPE_CHECKING:
    from aurora_pool.patterns import ReduceResult

SHOWN = 5
"""How many lost parts are named before the rest is counted."""


class DocumentFormat(StrEnum):
    """What the files are."""

    TEXT = "text"
    CHATGPT_EXPORT = "chatgpt-export"
    CLAUDE_EXPORT = "claude-export"


def summarize(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="UTF-8 texts, or archives of chats with --input-format chatgpt-export."),
    ],
    *,
    input_format: Annotated[
        DocumentFormat,
        typer.Option(
            metavar="FORMAT",
            help="The format of FILES: text, chatgpt-export or claude-export.",
            rich_help_panel=INPUT,
        ),
    ] = DocumentFormat.TEXT,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens per part; by default what fits.", rich_help_panel=INPUT),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Tokens per summary at most, at every level.", rich_help_panel=SAMPLING),
    ] = 512,
    temperature: Temperature = None,
    fanin: Annotated[
        int, typer.Option(metavar="N", min=2, help="Summaries that are merged at a time.", rich_help_panel=SAMPLING)
    ] = 8,
    hostfile: Hostfile,
    tag: Tag = None,
    model: Model = None,
    patience: Patience = 10.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Report each level on standard error.", rich_help_panel=DISPLAY)
    ] = False,
) -> None:
    """Summarise files of any length into one text: part by part, then level by level.

    Example:
      aurora-pool summarize report.txt minutes.txt --hostfile fleet.hostfile
    """
    from aurora_pool.arguments import parse_pairs
    from aurora_pool.cli.fleet import having, start
    from aurora_pool.hostfile_source import parse_hostfile
    from aurora_pool.messages import Sampling
    from aurora_pool.options import Timeouts
    from aurora_pool.patterns import read_documents
    from aurora_pool.patterns import summarize as summarize_documents
    from aurora_pool.pool import VLLMPool

    def tell(level: int, texts: Sequence[str]) -> None:
        if verbose:
            say(f"level {level}: {len(texts)} summaries")

    async def work() -> ReduceResult:
        documents = read_documents(files, input_format=input_format.value)
        pool = VLLMPool(
            having(parse_hostfile(hostfile), parse_pairs("--tag", tag or [])),
            model=model,
            max_tokens_aggregation=max_tokens,
            sampling=Sampling(temperature=temperature),
            timeouts=Timeouts(patience=patience),
        )
        try:
            await start(pool)
            return await summarize_documents(
                pool,
                documents,
                chunk_tokens=chunk_tokens,
                fanin=fanin,
                max_tokens=max_tokens,
                on_level=tell,
                progress=not verbose,
            )
        finally:
            await pool.close()

    result = asyncio.run(work())
    if result.text and not give(result.text):
        say("aurora-pool: the summary can't be written: standard output is closed, or full")
        raise typer.Exit(ExitCode.OUTPUT)
    if not result.success:
        for leaf in result.lost[:SHOWN]:
            say(one_line(f"aurora-pool: lost {leaf.name}: {leaf.error}"))
        if len(result.lost) > SHOWN:
            say(f"aurora-pool: lost {len(result.lost) - SHOWN} more of {result.leaves} parts")
        if result.error:
            say(one_line(f"aurora-pool: {result.error}"))
        raise typer.Exit(ExitCode.SOME_FAILED)
