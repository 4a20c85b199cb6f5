"""``aurora-pool ask``: one question, one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from aurora_pool.cli.exit_codes import ExitCode


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    hostfile: Annotated[Path, typer.Option(envvar="AURORA_POOL_HOSTFILE", help="The fleet, one agent a line.")],
    model: Annotated[str | None, typer.Option(help="The model to ask for; by default the fleet's one.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to generate at most.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="The model's own default if not given.")] = None,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an agent that answers.")] = 10.0,
) -> None:
    """Send one question as a chat, and print the answer."""
    from aurora_pool.cli.fleet import start
    from aurora_pool.hostfile import parse_hostfile
    from aurora_pool.messages import Prompt, Response, Sampling
    from aurora_pool.options import Timeouts
    from aurora_pool.pool import VLLMPool

    async def answer() -> Response:
        pool = VLLMPool(parse_hostfile(hostfile), model=model, timeouts=Timeouts(patience=wait))
        try:
            await start(pool)
            prompt = Prompt([{"role": "user", "content": question}], Sampling(temperature=temperature), max_tokens)
            (response,) = await pool.send_all([prompt])
            return response
        finally:
            await pool.close()

    response = asyncio.run(answer())
    if not response.success:
        typer.echo(f"aurora-pool: {response.error}", err=True)
        raise typer.Exit(ExitCode.FLEET if response.error_kind == "no_agents" else ExitCode.SOME_FAILED)
    typer.echo(response.text)
