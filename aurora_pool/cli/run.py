"""``aurora-pool run``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aurora_pool.cli.config import apply_config


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="OpenAI Batch JSONL, JSONL with 'prompt' or 'messages', or text with a prompt a line; - is standard "
            "input, which is copied to a temporary file. Names ending in .gz and .zst are unpacked.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Where the records go; if it is there, the job goes on. - is stdout."),
    ],
    hostfile: Annotated[
        Path, typer.Option(envvar="AURORA_POOL_HOSTFILE", help="The fleet, one agent a line; followed when it changes.")
    ],
    config: Annotated[  # noqa: ARG001 - its callback does it all
        Path | None,
        typer.Option(is_eager=True, callback=apply_config, help="YAML with any of these options; these win."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for; else the input's, else the fleet's.")] = None,
    model_map: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="A model's name in the input, and in the fleet.")
    ] = None,
    prompt_format: Annotated[
        Literal["auto", "chat", "raw"],
        typer.Option(help="Plain prompts go in the model's chat template if it has one; as chats; or as they are."),
    ] = "auto",
    chat: Annotated[bool, typer.Option("--chat", help="The same as --prompt-format chat.")] = False,
    system_prompt: Annotated[
        str | None, typer.Option(help="Goes before plain prompts, which are sent as chats then.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per answer, where the line says none.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Where the line says none.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Where the line says none.")] = None,
    seed: Annotated[int | None, typer.Option(help="Where the line says none.")] = None,
    input_format: Annotated[
        Literal["auto", "jsonl", "text"], typer.Option("--format", help="auto goes by the name, then the first line.")
    ] = "auto",
    on_bad_line: Annotated[
        Literal["stop", "skip"], typer.Option(help="stop: before anything is sent; skip: leave bad lines out.")
    ] = "stop",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what an earlier run recorded as failed.")
    ] = False,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="At the end, write a copy in the order of the input.")
    ] = False,
    fsync_interval: Annotated[float, typer.Option(min=0.1, help="Seconds between waits for the disk.")] = 5.0,
    fsync_every_record: Annotated[
        bool, typer.Option("--fsync-every-record", help="Wait for the disk after each record: slow, and safest.")
    ] = False,
    walltime: Annotated[
        str | None,
        typer.Option(help="Time from now on, as 11:30:00, 90m or seconds; by default what PBS or Slurm allow."),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds to wait for the hostfile to appear, and for an agent whenever none is in service."
        ),
    ] = None,
    min_agents: Annotated[int, typer.Option(min=1, help="Begin when so many agents answer.")] = 1,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds that SIGTERM leaves to what is under way.")] = 8.0,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds one request may take; by default no limit.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="HTTP requests at a time at most; by default no limit.")
    ] = None,
    stall_after: Annotated[float, typer.Option(min=0.1, help="Seconds without an answer before it is a stall.")] = 30.0,
    run_log: Annotated[
        bool, typer.Option("--run-log/--no-run-log", help="Write OUTPUT.runlog, for aurora-pool report.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and warnings.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one line of JSON.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port.")
    ] = None,
) -> None:
    """Answer every request of a file, each exactly once. Kill it any time: the same command goes on."""
    from aurora_pool.cli.session import Session, run_session
    from aurora_pool.jobs.options import JobOptions
    from aurora_pool.jobs.requests import parse_model_map
    from aurora_pool.jobs.walltime import find_deadline

    given = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    defaults: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = JobOptions(
        model=model,
        model_map=parse_model_map(model_map or []),
        defaults=defaults,
        prompt_format="chat" if chat else prompt_format,
        system_prompt=system_prompt,
        input_format=input_format,
        on_bad_line=on_bad_line,
        retry_failed=retry_failed,
        ordered=ordered,
        fsync_interval=fsync_interval,
        fsync_every_record=fsync_every_record,
        deadline=find_deadline(walltime),
        stall_after=stall_after,
        run_log=run_log,
    )
    session = Session(
        source=source,
        output=output,
        hostfile=hostfile,
        job=options,
        wait=wait,
        min_agents=min_agents,
        grace=grace,
        timeout=timeout,
        concurrency=concurrency,
        quiet=quiet,
        json=json,
        metrics_port=metrics_port,
    )
    raise typer.Exit(run_session(session))
