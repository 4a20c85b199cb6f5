"""Which options of ``aurora-pool run`` can't be asked together, and which mean nothing without another."""

from __future__ import annotations

import typer

from aurora_pool.errors import ConfigError

NEEDS = {
    "piece_lines": ("claim",),
    "takeover_after": ("claim", "share"),
    "engine_args": ("engine",),
    "cache_sampled": ("cache",),
    "expect_retries": ("expect", "length_is_failure"),
    "expect_remedy": ("expect", "length_is_failure"),
    "metrics_host": ("metrics_port",),
}
"""Options, and those of which one must be given with it."""

APART = (
    ("shard", "claim", "pieces of the input are handed out already"),
    ("dry_run", "claim", "no driver knows what it will get; use -o for it"),
)
"""Pairs of options that can't be had together, and why."""


def check_together(context: typer.Context) -> None:
    """Refuse options that would be ignored, and those that contradict each other.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    said = {name for name, value in context.params.items() if value is not None and value is not False}
    if {"output", "claim"} <= said:
        raise ConfigError("-o: with --claim, drivers write into that folder; merge joins their answers afterwards")
    if said.isdisjoint({"output", "claim"}):
        raise ConfigError("expected -o FILE, or --claim FOLDER for a job that drivers share")
    for name, other, why in APART:
        if {name, other} <= said:
            raise ConfigError(f"{option(name)}: with {option(other)}, {why}")
    for name, others in NEEDS.items():
        if is_given(context, name) and said.isdisjoint(others):
            raise ConfigError(f"{option(name)}: it means nothing without {' or '.join(map(option, others))}")
    for name in ("chat", "system_template"):
        if name in said and context.params["prompt_format"] == "raw":
            raise ConfigError(f"{option(name)}: with --prompt-format raw, nothing is put into a chat")


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line or a file of options says something of an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "DEFAULT_MAP"}


def option(name: str) -> str:
    """Give a parameter's option.

    >>> option("piece_lines")
    '--piece-lines'
    """
    return f"--{name.replace('_', '-')}"
