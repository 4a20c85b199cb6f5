"""``aurora-pool demo``: the whole thing on a simulated fleet."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aurora_pool.cli.panels import FLEET, INPUT, OUTPUT

STARTING = 30.0
"""Seconds that the simulated fleet has to listen."""

PROMPTS = 600


def demo(
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE", help="Requests to answer; by default 600 made-up ones.", rich_help_panel=INPUT
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file for the answers.", rich_help_panel=OUTPUT)
    ] = Path("demo/answers.jsonl"),
    agents: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many simulated agents.", rich_help_panel=FLEET)
    ] = 4,
) -> None:
    """Answer some hundred prompts on a simulated fleet that is started for it.

    Example:
      aurora-pool demo
    """
    from aurora_pool.cli.session import Session, run_session
    from aurora_pool.jobs.options import JobOptions

    output.parent.mkdir(parents=True, exist_ok=True)
    for old in (output, output.with_name(output.name + ".runlog")):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder) / "fleet.hostfile", agents) as hostfile:
        if source is None:
            source = Path(folder) / "prompts.txt"
            source.write_text("".join(f"What is special about the number {n}?\n" for n in range(PROMPTS)))
        typer.echo(f"{agents} simulated agents listen; answering {source}", err=True)
        session = Session(source=str(source), output=str(output), hostfile=hostfile, job=JobOptions())
        code = run_session(session)
    typer.echo(f"look at them: head -n 2 {output}\nwhere the time went: aurora-pool report {output}", err=True)
    raise typer.Exit(code)


@contextmanager
def _fleet(hostfile: Path, agents: int) -> Iterator[Path]:
    command = [sys.executable, "-m", "aurora_pool", "sim", "--agents", str(agents), "--hostfile", str(hostfile)]
    # In a session of its own: Ctrl-C is for the job, which then needs its fleet to drain.
    process = subprocess.Popen(  # noqa: S603 - this package's own command
        [*command, "--slots", "16"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + STARTING
        while not hostfile.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                typer.echo("aurora-pool: the simulated fleet does not start; try: aurora-pool sim", err=True)
                raise typer.Exit(5)
            time.sleep(0.05)
        yield hostfile
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
