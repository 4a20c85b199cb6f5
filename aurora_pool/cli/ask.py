"""``aurora-pool ask``: one question, one answer."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from aurora_pool.cli.console import give, say
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.panels import SAMPLING, Hostfile, Model, Patience, Tag, Temperature
from aurora_pool.terminal import one_line


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    *,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens to generate at most.", rich_help_panel=SAMPLING)
    ] = None,
    temperature: Temperature = None,
    hostfile: Hostfile,
    tag: Tag = None,
    model: Model = None,
    patience: Patience = 10.0,
) -> None:
    """Send one question as a chat, and print the answer.

    Example:
      aurora-pool ask "What is the capital of France?" --hostfile fleet.hostfile
    """
    from aurora_pool.arguments import parse_pairs
    from aurora_pool.cli.fleet import having, start
    from aurora_pool.hostfile_source import parse_hostfile
    from aurora_pool.messages import Prompt, Response, Sampling
    from aurora_pool.options import Timeouts
    from aurora_pool.pool import VLLMPool

    async def answer() -> Response:
        endpoints = having(parse_hostfile(hostfile), parse_pairs("--tag", tag or []))
        pool = VLLMPool(endpoints, model=model, timeouts=Timeouts(patience=patience))
        try:
            await start(pool)
            prompt = Prompt([{"role": "user", "content": question}], Sampling(temperature=temperature), max_tokens)
            (response,) = await pool.send_all([prompt])
            return response
        finally:
            await pool.close()

    response = asyncio.run(answer())
    if not response.success:
        say(one_line(f"aurora-pool: {response.error}"))
        raise typer.Exit(ExitCode.FLEET if response.error_kind == "no_agents" else ExitCode.SOME_FAILED)
    if not give(response.text):
        say("aurora-pool: the answer can't be written: standard output is closed, or full")
        raise typer.Exit(ExitCode.OUTPUT)
