"""``aurora-pool demo``: the whole thing on a simulated fleet."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aurora_pool.cli.console import say
from aurora_pool.cli.panels import FLEET, INPUT, OUTPUT
from aurora_pool.errors import ConfigError, counted
from aurora_pool.own_files import open_own

STARTING = 30.0
"""Seconds that the simulated fleet has to listen."""

PROMPTS = 600

_MARK = b'{"event":"demo"}'
"""The first line of a demonstration's run log."""


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
    from aurora_pool.jobs.paths import check_apart, written_by_job
    from aurora_pool.jobs.runlog import run_log_of

    log = run_log_of(output)
    check_apart(written_by_job(output), [source])
    output.parent.mkdir(parents=True, exist_ok=True)
    _clear(output, log)
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder) / "fleet.hostfile", agents) as hostfile:
        if source is None:
            source = Path(folder) / "prompts.txt"
            source.write_text("".join(f"What is special about the number {n}?\n" for n in range(PROMPTS)))
        say(f"{counted(agents, 'simulated agent listens', 'simulated agents listen')}; answering {source}")
        session = Session(source=str(source), output=str(output), hostfile=hostfile, job=JobOptions())
        code = run_session(session)
    # In a checkout's environment that is not activated, there is no aurora-pool to call.
    command = "aurora-pool" if shutil.which("aurora-pool") else f"{shlex.quote(sys.executable)} -m aurora_pool"
    say(f"look at them: head -n 2 {output}\nwhere the time went: {command} report {output}")
    raise typer.Exit(code)


def _clear(output: Path, log: Path) -> None:
    """Remove what an earlier demonstration has left, and refuse to touch anything else.

    The log says whose it is: a demonstration begins it, and each run adds one line about its start.
    """
    if output.exists() or log.exists():
        try:
            with os.fdopen(open_own(log, os.O_RDONLY), "rb") as file:
                events = [line.partition(b",")[0] for line in file.read().splitlines()]
        except OSError:
            events = []
        if events[:1] != [_MARK] or events.count(b'{"event":"start"') > 1:
            raise ConfigError(f"{output}: it is there, and not of a demonstration; name another output with -o")
        output.unlink(missing_ok=True)
        log.unlink()
    with log.open("xb") as file:
        file.write(_MARK + b"\n")


@contextmanager
def _fleet(hostfile: Path, agents: int) -> Iterator[Path]:
    command = [sys.executable, "-m", "aurora_pool", "sim", "--agents", str(agents), "-o", str(hostfile)]
    # In a session of its own: Ctrl-C is for the job, which then needs its fleet to drain.
    process = subprocess.Popen(  # noqa: S603 - this package's own command
        [*command, "--slots", "16"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + STARTING
        while not hostfile.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                say("aurora-pool: the simulated fleet does not start; try: aurora-pool sim")
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
