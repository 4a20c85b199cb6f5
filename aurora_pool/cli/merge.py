"""``aurora-pool merge``: what several drivers have answered, joined and proven whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aurora_pool.cli.panels import INPUT, OUTPUT, Quiet


def merge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of --claim, or of -o with --shard.")],
    *,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="The input, if it is no longer where the drivers read it.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the records go; it must not be there yet.",
            rich_help_panel=OUTPUT,
        ),
    ],
    quiet: Quiet = False,
) -> None:
    """Join what drivers have answered, if every request of the input is there exactly once; else say which is not.

    Example:
      aurora-pool merge shared/answers -o answers.jsonl
    """
    from aurora_pool.cli.console import progress_bar, say
    from aurora_pool.cli.exit_codes import ExitCode
    from aurora_pool.errors import counted
    from aurora_pool.jobs.merge import merge as join

    with progress_bar(shown=not quiet, transient=True) as progress:
        task = progress.add_task("merging", total=None)
        merged = join(
            folder,
            output,
            source=source,
            on_piece=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not quiet:
        skipped = f", {counted(merged.skipped, 'bad line')} skipped" if merged.skipped else ""
        joined = counted(merged.requests, "request")
        say(f"{joined}, each exactly once: {merged.failed} failed{skipped}; answers: {output}")
    raise typer.Exit(ExitCode.SOME_FAILED if merged.failed else ExitCode.DONE)
