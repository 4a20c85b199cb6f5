"""``aurora-pool run``: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from aurora_pool.cli import panels
from aurora_pool.cli.min_agents import MinAgentsOption, parse_min_agents
from aurora_pool.cli.options import checks, data, display, fleet, inputs, limits, outputs, prompts, sharing
from aurora_pool.cli.options.together import check_together


def run(
    context: typer.Context,
    source: inputs.Source,
    *,
    config: inputs.Config = None,
    input_format: inputs.FormatOfInput = "auto",
    on_bad_line: inputs.OnBadLine = "stop",
    retry_failed: inputs.RetryFailed = False,
    allow_empty: data.AllowEmpty = False,
    id_field: data.IdField = None,
    prompt_field: data.PromptField = None,
    template: data.TemplateOption = None,
    system_template: data.SystemTemplate = None,
    keep: data.Keep = None,
    table: data.Table = None,
    output: outputs.Output = None,
    claim: sharing.Claim = None,
    shard: sharing.Shard = None,
    piece_lines: sharing.PieceLines = 10000,
    ordered: outputs.Ordered = False,
    fsync_interval: outputs.FsyncInterval = 5.0,
    fsync_every_record: outputs.FsyncEveryRecord = False,
    prompt_format: prompts.PromptFormat = "auto",
    chat: prompts.Chat = False,
    system_prompt: prompts.SystemPrompt = None,
    on_too_long: prompts.OnTooLong = "error",
    max_tokens: prompts.MaxTokens = None,
    temperature: panels.Temperature = None,
    top_p: prompts.TopP = None,
    top_k: prompts.TopK = None,
    n: prompts.N = None,
    stop: prompts.Stop = None,
    seed: prompts.Seed = None,
    hostfile: fleet.Hostfile = None,
    tag: panels.Tag = None,
    up: fleet.Up = None,
    engine: fleet.EngineName = None,
    engine_args: fleet.EngineArgs = "",
    model: fleet.Model = None,
    model_map: fleet.ModelMap = None,
    min_agents: MinAgentsOption = "1",
    share: sharing.Share = None,
    takeover_after: sharing.TakeoverAfter = 30.0,
    balance: fleet.Balance = "adaptive",
    prefix: fleet.Prefix = "auto",
    concurrency: fleet.Concurrency = None,
    spill_after: fleet.SpillAfter = 60.0,
    walltime: limits.Walltime = None,
    patience: limits.Patience = None,
    timeout: limits.Timeout = None,
    stall: limits.Stall = 30.0,
    grace: limits.Grace = 8.0,
    expect: checks.Expect = None,
    expect_retries: checks.ExpectRetries = 2,
    expect_remedy: checks.ExpectRemedy = "temperature",
    length_is_failure: checks.LengthIsFailure = False,
    stop_after_failures: checks.StopAfterFailures = None,
    max_total_tokens: checks.MaxTotalTokens = None,
    max_cost: checks.MaxCost = None,
    price: checks.Prices = None,
    cache: checks.CacheFolder = None,
    cache_sampled: checks.CacheSampled = False,
    dry_run: display.DryRun = False,
    yes: inputs.Yes = False,
    quiet: panels.Quiet = False,
    json: display.Json = False,
    warn_after: display.WarnAfter = 30.0,
    run_log: display.RunLog = True,
    metrics_port: display.MetricsPort = None,
    metrics_host: display.MetricsHost = "127.0.0.1",
) -> None:
    """Answer every request of a file, each exactly once.

    Example:
      aurora-pool run prompts.jsonl -o answers.jsonl --hostfile fleet.hostfile

    Kill it any time: the same command continues where it ended.
    Options of sampling are for lines of the input that don't have them.
    """
    from aurora_pool.arguments import parse_pairs
    from aurora_pool.cli.confirm import confirm_changes
    from aurora_pool.cli.session import Session, run_session
    from aurora_pool.jobs.options import JobOptions
    from aurora_pool.jobs.walltime import find_deadline
    from aurora_pool.sharing import parse_part

    check_together(context)
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
        model_map=parse_pairs("--model-map", model_map or []),
        defaults=defaults,
        prompt_format="chat" if chat else prompt_format,
        system_prompt=system_prompt,
        input_format=input_format,
        columns=data.columns_of(id_field, prompt_field, template, system_template, keep),
        table=table,
        allow_empty=allow_empty,
        expect=checks.expectation_of(expect, expect_retries, expect_remedy, length=length_is_failure),
        guardrails=checks.guardrails_of(stop_after_failures, max_total_tokens, max_cost, price),
        cache=cache,
        cache_sampled=cache_sampled,
        before_resume=None if yes else confirm_changes,
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
    hostfile = fleet.who_answers(context, hostfile, up, engine, model)
    least = parse_min_agents(min_agents, None if up or tag or share else hostfile)
    session = Session(
        source=source,
        output=output or "",
        claim=claim,
        piece_lines=piece_lines,
        takeover_after=takeover_after,
        share=None if share is None else parse_part(share),
        hostfile=hostfile,
        tags=parse_pairs("--tag", tag or []),
        engine=engine,
        engine_args=engine_args,
        spill_after=spill_after,
        max_cost=max_cost,
        job=options,
        balance=balance,
        prefix=prefix,
        on_too_long=on_too_long,
        patience=patience,
        stall=stall,
        min_agents=least,
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
    with fleet_for_a_job(up, folder, least=least, patience=patience, quiet=quiet) as agents:
        raise typer.Exit(run_session(dataclasses.replace(session, hostfile=agents)))
