"""Options of ``aurora-pool run``: what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.config import CONFIG_HELP, apply_config
from aurora_pool.cli.panels import INPUT
from aurora_pool.jobs.formats import InputFormat

Source: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="Requests: OpenAI Batch JSONL, JSONL with 'prompt' or 'messages', a table (.csv, .tsv, .parquet), a "
        "data set (a saved folder, hf://NAME) or text with a prompt a line. Names ending in .gz and .zst are "
        "unpacked. - is standard input, which is copied to a temporary file, as remote files (s3://...) are.",
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        is_eager=True,
        callback=apply_config,
        help=CONFIG_HELP,
        rich_help_panel=INPUT,
    ),
]
FormatOfInput: TypeAlias = Annotated[
    InputFormat,
    typer.Option(help="The format of INPUT; auto goes by its name.", rich_help_panel=INPUT),
]
OnBadLine: TypeAlias = Annotated[
    Literal["stop", "skip"],
    typer.Option(help="stop before anything is sent, or skip bad lines.", rich_help_panel=INPUT),
]
RetryFailed: TypeAlias = Annotated[
    bool,
    typer.Option("--retry-failed", help="Retry requests that failed in an earlier run.", rich_help_panel=INPUT),
]
Yes: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--yes",
        help="Run requests again that have changed, however many they are, and add to another input's output.",
        rich_help_panel=INPUT,
    ),
]
