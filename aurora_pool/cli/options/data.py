"""Options of ``aurora-pool run`` for rows with columns, tables and data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.panels import DATA
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.columns import Columns

IdField: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="The column with the id; by default custom_id or id.", rich_help_panel=DATA),
]
PromptField: TypeAlias = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column with the prompt.", rich_help_panel=DATA)
]
TemplateOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="FILE|TEXT",
        help="A prompt with {column} in it, filled in from each row.",
        rich_help_panel=DATA,
    ),
]
SystemTemplate: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE|TEXT", help="The same for the system message; implies --chat.", rich_help_panel=DATA),
]
Keep: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="COLUMNS|all", help="Columns that go along into the records: a,b.", rich_help_panel=DATA),
]
Table: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="Also write rows and answers as .parquet, .csv or .tsv, at the end.",
        rich_help_panel=DATA,
    ),
]
AllowEmpty: TypeAlias = Annotated[
    bool, typer.Option("--allow-empty", help="Take an input without requests as done.", rich_help_panel=DATA)
]


def columns_of(
    id_field: str | None, prompt_field: str | None, template: str | None, system_template: str | None, keep: str | None
) -> Columns:
    """Put together what the options say.

    Raises :class:`~aurora_pool.errors.ConfigError` for a template that can't be read, or names no column.
    """
    names = tuple(name.strip() for name in (keep or "").split(",") if name.strip())
    kept: Literal["all"] | tuple[str, ...] = "all" if names == ("all",) else names
    return Columns(
        id_field=id_field,
        prompt_field=prompt_field,
        template=template_text(template),
        system_template=template_text(system_template),
        keep=kept,
    )


def template_text(given: str | None) -> str | None:
    """Give a template's text: that of a file, if there is one of this name."""
    if given is None or "{" in given or "\n" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{given}: neither a text with {{column}} in it nor a template to read ({reason})") from error
