"""Options of ``aurora-pool run``: how prompts become requests, and how they are sampled."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.panels import PROMPTS, SAMPLING

PromptFormat: TypeAlias = Annotated[
    Literal["auto", "chat", "raw"],
    typer.Option(
        help="Put plain prompts into the model's chat template: if it has one, always, or never.",
        rich_help_panel=PROMPTS,
    ),
]
Chat: TypeAlias = Annotated[
    bool, typer.Option("--chat", help="The same as --prompt-format chat.", rich_help_panel=PROMPTS)
]
SystemPrompt: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="A system message before plain prompts; implies --chat.", rich_help_panel=PROMPTS
    ),
]
OnTooLong: TypeAlias = Annotated[
    Literal["error", "truncate", "split"],
    typer.Option(
        help="A prompt longer than the context fails, keeps its end, or is answered in parts.",
        rich_help_panel=PROMPTS,
    ),
]
MaxTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Tokens to generate per answer at most.", rich_help_panel=SAMPLING),
]
TopP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        min=0.0,
        max=1.0,
        help="Sample from the likeliest tokens of this share.",
        rich_help_panel=SAMPLING,
    ),
]
TopK: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", help="Sample from this many of the likeliest tokens.", rich_help_panel=SAMPLING),
]
N: TypeAlias = Annotated[
    int | None, typer.Option("--n", metavar="N", min=1, help="Answers per prompt.", rich_help_panel=SAMPLING)
]
Stop: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End an answer before this text; may be repeated.", rich_help_panel=SAMPLING),
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", help="The seed of sampling, for answers that repeat.", rich_help_panel=SAMPLING),
]
