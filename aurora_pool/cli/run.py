"""``aurora-pool run``: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aurora_pool.cli import options_checks, options_data, options_sharing, run_options
from aurora_pool.cli.config import apply_config
from aurora_pool.cli.panels import DISPLAY, FLEET, INPUT, OUTPUT, PROMPTS, SAMPLING
from aurora_pool.jobs.formats import InputFormat


def run(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Requests: OpenAI Batch JSONL, JSONL with 'prompt' or 'messages', a table (.csv, .tsv, .parquet), a "
            "data set (a saved folder, hf://NAME) or text with a prompt a line. Names ending in .gz and .zst are "
            "unpacked. - is standard input, which is copied to a temporary file, as remote files (s3://...) are.",
        ),
    ],
    *,
    config: Annotated[
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
        InputFormat,
        typer.Option(help="The format of INPUT; auto goes by its name.", rich_help_panel=INPUT),
    ] = "auto",
    on_bad_line: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="stop before anything is sent, or skip bad lines.", rich_help_panel=INPUT),
    ] = "stop",
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Retry requests that failed in an earlier run.", rich_help_panel=INPUT),
    ] = False,
    allow_empty: options_data.AllowEmpty = False,
    id_field: options_data.IdField = None,
    prompt_field: options_data.PromptField = None,
    template: options_data.TemplateOption = None,
    system_template: options_data.SystemTemplate = None,
    keep: options_data.Keep = None,
    table: options_data.Table = None,
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
    claim: options_sharing.Claim = None,
    shard: options_sharing.Shard = None,
    piece_lines: options_sharing.PieceLines = 10000,
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
    tag: run_options.Tag = None,
    up: run_options.Up = None,
    engine: run_options.EngineName = None,
    engine_args: run_options.EngineArgs = "",
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
    share: options_sharing.Share = None,
    takeover_after: options_sharing.TakeoverAfter = 30.0,
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
    spill_after: run_options.SpillAfter = 60.0,
    walltime: run_options.Walltime = None,
    patience: run_options.RunPatience = None,
    timeout: run_options.RunTimeout = None,
    stall: run_options.Stall = 30.0,
    grace: run_options.Grace = 8.0,
    expect: options_checks.Expect = None,
    expect_retries: options_checks.ExpectRetries = 2,
    expect_remedy: options_checks.ExpectRemedy = "temperature",
    length_is_failure: options_checks.LengthIsFailure = False,
    stop_after_failures: options_checks.StopAfterFailures = None,
    max_total_tokens: options_checks.MaxTotalTokens = None,
    max_cost: options_checks.MaxCost = None,
    price: options_checks.Prices = None,
    cache: options_checks.CacheFolder = None,
    cache_sampled: options_checks.CacheSampled = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Ask a sample, and say what the job would do and take.", rich_help_panel=DISPLAY
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Run requests again that have changed, however many they are.", rich_help_panel=INPUT
        ),
    ] = False,
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
    metrics_host: Annotated[
        str, typer.Option(metavar="HOST", help="The address to serve them on.", rich_help_panel=DISPLAY)
    ] = "127.0.0.1",
) -> None:
    """Answer every request of a file, each exactly once.

    Example:
      aurora-pool run prompts.jsonl -o answers.jsonl --hostfile fleet.hostfile

    Kill it any time: the same command continues where it ended.
    Options of sampling are for lines of the input that don't have them.
    """
    from aurora_pool.cli.confirm import confirm_changes
    from aurora_pool.cli.fleet import parse_tags
    from aurora_pool.cli.session import Session, run_session
    from aurora_pool.jobs.options import JobOptions
    from aurora_pool.jobs.requests import parse_model_map
    from aurora_pool.jobs.walltime import find_deadline
    from aurora_pool.sharing import parse_part

    options_sharing.check(output=output, claim=claim, shard=shard, dry_run=dry_run)
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
        columns=options_data.columns_of(id_field, prompt_field, template, system_template, keep),
        table=table,
        allow_empty=allow_empty,
        expect=options_checks.expectation_of(expect, expect_retries, expect_remedy, length=length_is_failure),
        guardrails=options_checks.guardrails_of(stop_after_failures, max_total_tokens, max_cost, price),
        cache=cache,
        cache_sampled=cache_sampled,
        before_changes=None if yes or dry_run else confirm_changes,
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
    hostfile = run_options.who_answers(context, hostfile, up, engine, model)
    session = Session(
        source=source,
        output=output or "",
        claim=claim,
        piece_lines=piece_lines,
        takeover_after=takeover_after,
        share=None if share is None else parse_part(share),
        hostfile=hostfile,
        tags=parse_tags(tag or []),
        engine=engine,
        engine_args=engine_args,
        spill_after=spill_after,
        max_cost=max_cost,
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
        metrics_host=metrics_host,
        dry_run=dry_run,
        reads=[path for path in (config, template, system_template, expect) if path is not None],
    )
    if engine is not None:
        from aurora_pool.cli.exit_codes import told
        from aurora_pool.fleets import keeper

        # In a child: should that be killed, the processes of the engine are not left alone.
        raise typer.Exit(keeper.keep(lambda: told(lambda: run_session(session))))
    if up is None:
        raise typer.Exit(run_session(session))
    from aurora_pool.cli.up import RUN, fleet_for_a_job

    folder = RUN if output in {None, "-"} else Path(f"{output}.fleet")
    with fleet_for_a_job(up, folder, least=min_agents, wait=patience, quiet=quiet) as agents:
        raise typer.Exit(run_session(dataclasses.replace(session, hostfile=agents)))
