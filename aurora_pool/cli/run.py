"""``aurora-pool run``: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aurora_pool.cli.config import apply_config
from aurora_pool.cli.panels import DISPLAY, FLEET, INPUT, LIMITS, OUTPUT, PROMPTS, SAMPLING
from aurora_pool.cli.run_options import EngineArgs, EngineName, Grace, RunPatience, RunTimeout, Stall, Up, Walltime
from aurora_pool.errors import ConfigError


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Requests: OpenAI Batch JSONL, JSONL with 'prompt' or 'messages', or text with a prompt a line. "
            "Names ending in .gz and .zst are unpacked. - is standard input, which is copied to a temporary file.",
        ),
    ],
    *,
    config: Annotated[  # noqa: ARG001 - its callback does it all
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=apply_config,
            help="A YAML file with options of this command; the command line wins over it.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    input_format: Annotated[
        Literal["auto", "jsonl", "text"],
        typer.Option(help="The format of INPUT; auto goes by its name, then its first line.", rich_help_panel=INPUT),
    ] = "auto",
    on_bad_line: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="stop before anything is sent, or skip bad lines.", rich_help_panel=INPUT),
    ] = "stop",
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Retry requests that failed in an earlier run.", rich_help_panel=INPUT),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file for the answers. If it exists, the job continues. - is standard output.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    claim: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of -o: share the input with all drivers that name this folder; merge joins their answers.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Answer part K (from 0 on) of N of the ids, into the folder -o; auto is the rank of this process.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    piece_lines: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Lines that a driver takes at a time, with --claim.", rich_help_panel=OUTPUT
        ),
    ] = 10000,
    ordered: Annotated[
        bool,
        typer.Option(
            "--ordered", help="Also write a copy in the order of the input, at the end.", rich_help_panel=OUTPUT
        ),
    ] = False,
    fsync_interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Seconds between syncs of the output to disk.", rich_help_panel=OUTPUT
        ),
    ] = 5.0,
    fsync_every_record: Annotated[
        bool,
        typer.Option(
            "--fsync-every-record",
            help="Sync after each answer: slow, and safe against a crash of the machine.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    prompt_format: Annotated[
        Literal["auto", "chat", "raw"],
        typer.Option(
            help="Put plain prompts into the model's chat template: if it has one, always, or never.",
            rich_help_panel=PROMPTS,
        ),
    ] = "auto",
    chat: Annotated[
        bool, typer.Option("--chat", help="The same as --prompt-format chat.", rich_help_panel=PROMPTS)
    ] = False,
    system_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="A system message before plain prompts; implies --chat.", rich_help_panel=PROMPTS
        ),
    ] = None,
    on_too_long: Annotated[
        Literal["error", "truncate", "split"],
        typer.Option(
            help="A prompt longer than the context fails, keeps its end, or is answered in parts.",
            rich_help_panel=PROMPTS,
        ),
    ] = "error",
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens to generate per answer at most.", rich_help_panel=SAMPLING),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="0 takes the likeliest token.", rich_help_panel=SAMPLING)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0.0,
            max=1.0,
            help="Sample from the likeliest tokens of this share.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="N", help="Sample from this many of the likeliest tokens.", rich_help_panel=SAMPLING),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", metavar="N", min=1, help="Answers per prompt.", rich_help_panel=SAMPLING)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End an answer before this text; may be repeated.", rich_help_panel=SAMPLING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="The seed of sampling, for answers that repeat.", rich_help_panel=SAMPLING),
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(
            envvar="AURORA_POOL_HOSTFILE",
            metavar="FILE",
            help="The hostfile: one agent a line; or the folder of a fleet's agents.",
            rich_help_panel=FLEET,
        ),
    ] = None,
    up: Up = None,
    engine: EngineName = None,
    engine_args: EngineArgs = "",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model to ask for; by default the input's, else the one that is served.",
            rich_help_panel=FLEET,
        ),
    ] = None,
    model_map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="A model's name in the input, and its name in the fleet; may be repeated.",
            rich_help_panel=FLEET,
        ),
    ] = None,
    min_agents: Annotated[
        int, typer.Option(metavar="N", min=1, help="Start when this many agents answer.", rich_help_panel=FLEET)
    ] = 1,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Use part K (from 0 on) of N of the agents, and idle ones of other drivers; auto is the rank.",
            rich_help_panel=FLEET,
        ),
    ] = None,
    takeover_after: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1.0,
            help="Seconds of silence after which another driver is taken for dead.",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    balance: Annotated[
        Literal["adaptive", "strict"],
        typer.Option(
            help="adaptive gives prompts to agents with capacity; strict keeps to round-robin.", rich_help_panel=FLEET
        ),
    ] = "adaptive",
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="HTTP requests in flight at most; by default no limit.", rich_help_panel=FLEET
        ),
    ] = None,
    walltime: Walltime = None,
    patience: RunPatience = None,
    timeout: RunTimeout = None,
    stall: Stall = 30.0,
    grace: Grace = 8.0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show errors and warnings only.", rich_help_panel=DISPLAY)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one line of JSON.", rich_help_panel=DISPLAY)
    ] = False,
    warn_after: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Seconds without any answer before a warning is shown.",
            rich_help_panel=DISPLAY,
        ),
    ] = 30.0,
    run_log: Annotated[
        bool,
        typer.Option(
            "--run-log/--no-run-log", help="Write OUTPUT.runlog for the command report.", rich_help_panel=DISPLAY
        ),
    ] = True,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve Prometheus metrics on this port.", rich_help_panel=DISPLAY
        ),
    ] = None,
) -> None:
    """Answer every request of a file, each exactly once.

    Example:
      aurora-pool run prompts.jsonl -o answers.jsonl --hostfile fleet.hostfile

    Kill it any time: the same command continues where it ended.
    Options of sampling are for lines of the input that don't have them.
    """
    from aurora_pool.cli.session import Session, run_session
    from aurora_pool.jobs.options import JobOptions
    from aurora_pool.jobs.requests import parse_model_map
    from aurora_pool.jobs.walltime import find_deadline
    from aurora_pool.sharing import parse_part

    if (output is None) == (claim is None):
        raise ConfigError("expected -o FILE, or --claim DIR for a job that drivers share")
    if claim is not None and shard is not None:
        raise ConfigError("--shard: with --claim, pieces of the input are handed out already")

    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "n": n,
        "stop": stop or None,
        "seed": seed,
    }
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
        warn_after=warn_after,
        shard=None if shard is None else parse_part(shard),
        run_log=run_log,
    )
    if sum(each is not None for each in (hostfile, up, engine)) != 1:
        raise typer.BadParameter("expected one of --hostfile, --up and --engine: who is to answer?")
    if engine is not None and model is None:
        raise typer.BadParameter("--engine needs --model: the name or the folder of a model")
    session = Session(
        source=source,
        output=output or "",
        claim=claim,
        piece_lines=piece_lines,
        takeover_after=takeover_after,
        share=None if share is None else parse_part(share),
        hostfile=hostfile or Path(),
        engine=engine,
        engine_args=engine_args,
        job=options,
        balance=balance,
        on_too_long=on_too_long,
        patience=patience,
        stall=stall,
        min_agents=min_agents,
        grace=grace,
        timeout=timeout,
        concurrency=concurrency,
        quiet=quiet,
        json=json,
        metrics_port=metrics_port,
    )
    if engine is not None:
        from aurora_pool.cli.exit_codes import told
        from aurora_pool.fleets.keeper import keep

        # In a child: should that be killed, the processes of the engine are not left alone.
        raise typer.Exit(keep(lambda: told(lambda: run_session(session))))
    if up is None:
        raise typer.Exit(run_session(session))
    from aurora_pool.cli.up import RUN, fleet_for_a_job

    folder = RUN if output in {None, "-"} else Path(f"{output}.fleet")
    with fleet_for_a_job(up, folder, least=min_agents, wait=patience, quiet=quiet) as agents:
        raise typer.Exit(run_session(dataclasses.replace(session, hostfile=agents)))
