"""Options of ``aurora-pool run`` for what answers must be, what ends a job, and answers that are known already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.panels import CHECKS
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.guardrails import Guardrails, parse_failures, parse_price
from aurora_pool.jobs.validation import Check, Expectation, Remedy, fits_schema, is_json, matches

Expect: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="What an answer must be: json, FILE with a schema, or regex:PATTERN.",
        rich_help_panel=CHECKS,
    ),
]
ExpectRetries: TypeAlias = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="Times to ask again for an answer that is not.", rich_help_panel=CHECKS),
]
ExpectRemedy: TypeAlias = Annotated[
    Literal["temperature", "append"],
    typer.Option(help="Ask again warmer, or with what is wrong appended.", rich_help_panel=CHECKS),
]
LengthIsFailure: TypeAlias = Annotated[
    bool,
    typer.Option("--length-is-failure", help="Count answers cut at --max-tokens as failed.", rich_help_panel=CHECKS),
]
StopAfterFailures: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="N|SHARE%", help="End early after this many failed requests.", rich_help_panel=CHECKS),
]
MaxTotalTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="End early after this many tokens, both ways.", rich_help_panel=CHECKS),
]
MaxCost: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0.0,
        help="The most to spend, by --price and hosted agents' prices.",
        rich_help_panel=CHECKS,
    ),
]
Prices: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="[TAG=VALUE:]X[/Y]",
        help="The price of a million tokens read / generated; may be repeated.",
        rich_help_panel=CHECKS,
    ),
]
CacheFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FOLDER", help="Share answers with other jobs.", rich_help_panel=CHECKS),
]
CacheSampled: TypeAlias = Annotated[
    bool,
    typer.Option("--cache-sampled", help="Share sampled answers without a seed, too.", rich_help_panel=CHECKS),
]


def expectation_of(expect: str | None, retries: int, remedy: Remedy, *, length: bool) -> Expectation:
    """Put together what the options say of answers.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    return Expectation(check=_check_of(expect), retries=retries, remedy=remedy, length_is_failure=length)


def guardrails_of(failures: str | None, tokens: int | None, cost: float | None, prices: list[str] | None) -> Guardrails:
    """Put together what the options say of limits.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    limit = {} if failures is None else parse_failures(failures)
    count = limit.get("failures")
    return Guardrails(
        stop_after_failures=None if count is None else int(count),
        failure_share=limit.get("failure_share"),
        max_total_tokens=tokens,
        max_cost=cost if prices else None,  # by hosted agents' prices the pool keeps it
        prices=tuple(map(parse_price, prices or [])),
    )


def _check_of(text: str | None) -> Check | None:
    if text is None:
        return None
    if text == "json":
        return is_json
    if text.startswith("regex:"):
        return matches(text.removeprefix("regex:"))
    import msgspec

    try:
        schema = msgspec.json.decode(Path(text).expanduser().read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"expected json, regex:PATTERN or a file with a JSON Schema, got {text!r} ({reason})"
        ) from error
    if not isinstance(schema, dict):
        raise ConfigError(f"{text}: it is no JSON Schema: expected an object")
    return fits_schema(schema)
