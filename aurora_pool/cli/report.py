"""``aurora-pool report``: why was it slow, and which was better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.console import UNSAID, give
from aurora_pool.cli.panels import COSTS, OUTPUT
from aurora_pool.cli.report_figures import AGENT_HEADINGS, causes, compare, findings, shortened, slowest
from aurora_pool.terminal import printable

if TYPE_CHECKING:
    from aurora_pool.jobs.history import History


def report(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUTPUT", help="Outputs of aurora-pool run.")],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a self-contained page with charts.", rich_help_panel=OUTPUT),
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option(metavar="PRICE", min=0.0, help="The price of a GPU per hour.", rich_help_panel=COSTS)
    ] = None,
    gpus_per_agent: Annotated[
        float, typer.Option(metavar="X", min=0.0, help="GPUs per agent.", rich_help_panel=COSTS)
    ] = 1.0,
) -> None:
    """Show where the time of a job went, or compare several jobs.

    Example:
      aurora-pool report answers.jsonl
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from aurora_pool.jobs.history import read_history
    from aurora_pool.jobs.paths import check_apart
    from aurora_pool.jobs.runlog import run_log_of

    if html is not None:
        check_apart([html], [*outputs, *map(run_log_of, outputs)])
    histories = [read_history(output) for output in outputs]
    rows = compare(histories, gpu_price, gpus_per_agent)
    console = Console()
    table = Table(show_header=len(histories) > 1, box=None)
    table.add_column("", no_wrap=True)
    for history in histories:
        table.add_column(Text(printable(history.name)), justify="right", overflow="fold")
    for label, values in rows:
        table.add_row(label, *(Text(printable(value)) for value in values))
    try:
        console.print(table)
        for history in histories:
            _print_one(console, history)
    except UNSAID:
        pass  # who has closed standard output wants the page only
    if html is not None:
        from aurora_pool.cli.report_page import write_page

        write_page(html, histories, rows)
        give(f"charts: {html}")


def _print_one(console: object, history: History) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    assert isinstance(console, Console)
    console.print(Text(f"\n{printable(history.name)}", "bold"), soft_wrap=True)
    for text in findings(history):
        console.print(f"- {printable(text)}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None)
    for number, heading in enumerate(AGENT_HEADINGS):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    short = shortened(history.agents)
    for name, *figures in slowest(history):
        table.add_row(Text(printable(short[name])), *figures)
    console.print(table)
    for cause, count in causes(history):
        console.print(printable(f"{cause} {count:,}"), markup=False, highlight=False)
