"""Rows with columns of their own: which are a request's fields, which are data, and what becomes of those. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from aurora_pool.arguments import check_each_instance, check_instance
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.templates import Template

__all__ = ["Columns"]

SAMPLING_FIELDS = frozenset(
    {
        "add_generation_prompt",
        "allowed_token_ids",
        "bad_words",
        "best_of",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "echo",
        "extra_body",
        "frequency_penalty",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logit_bias",
        "logits_processors",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "min_p",
        "min_tokens",
        "mm_processor_kwargs",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "priority",
        "prompt_logprobs",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "seed",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "store",
        "stream",
        "stream_options",
        "structured_outputs",
        "suffix",
        "temperature",
        "thinking_token_budget",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncate_prompt_tokens",
        "use_beam_search",
        "user",
        "vllm_xargs",
    }
)
"""Fields of a request's body that may be beside a short line's prompt. Any other goes into ``extra_body``."""

UNSENT = frozenset({"user", "metadata", "store", "stream", "stream_options"})
"""Fields that change no answer here, and would keep prompts that differ in them from sharing one request."""

REQUEST_FIELDS = SAMPLING_FIELDS | {"prompt", "messages", "model", "id", "custom_id"}

_SYSTEM = frozenset({"system", "system_prompt", "instructions"})
"""Columns that are most likely meant as the system message."""

_ALIKE = 0.85
"""How alike two names are for one to be taken as the other mistyped, from 0 to 1."""


class ColumnError(ValueError):
    """A row without what is needed of it; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a row's columns are for.

    >>> columns = Columns(id_field="pmid", template="Is it true that {claim}?", keep=("label",))

    - ``id_field``, ``prompt_field``: the columns with the id and the prompt, where they have names of their own;
    - ``template``, ``system_template``: texts with ``{column}`` in them, which make the prompt and the system prompt;
    - ``keep``: columns that go along into the record, or ``"all"`` that are no fields of a request.

    Raises :class:`~aurora_pool.errors.ConfigError` for invalid arguments, and for a template beside a prompt field.
    """

    id_field: str | None = None
    prompt_field: str | None = None
    template: str | None = None
    system_template: str | None = None
    keep: Literal["all"] | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id_field", "prompt_field", "template", "system_template"):
            check_instance(name, getattr(self, name), str)
        if self.keep != "all":
            check_each_instance("keep", self.keep, str)
            object.__setattr__(self, "keep", tuple(self.keep))
        if self.template is not None and self.prompt_field is not None:
            raise ConfigError("expected a template or a prompt field, got both")


def check_kind(columns: Columns, kind: str) -> None:
    """Refuse text, whose lines have no columns, where something is said of columns.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    option = _for_rows(columns) or ("--keep" if columns.keep else None)
    if kind == "text" and option is not None:
        raise ConfigError(f"{option}: the input is read as text, which has no columns")


class RowReader:
    """Reads the object of a short line.

    ``hints`` are what looks like a mistake in rows, once for each column; ``for_rows`` is an option that lines of
    OpenAI Batch have no use for.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._template = None if columns.template is None else Template(columns.template)
        self._system = None if columns.system_template is None else Template(columns.system_template)
        # What the template or the caller asks for by name is meant, and no mistake.
        self._meant = {columns.id_field, columns.prompt_field, *(() if columns.keep == "all" else columns.keep)}
        for template in (self._template, self._system):
            self._meant |= set() if template is None else template.names
        self._plain = columns == Columns()
        self.for_rows = _for_rows(columns)
        self._known: set[str] = set()
        self.hints: dict[str, str] = {}

    def read(self, row: dict[str, Any]) -> tuple[object, dict[str, Any], str | None, dict[str, Any] | None]:
        """Take a row apart: its id, its body, its system prompt, and what is kept of it.

        Raises :class:`ColumnError`.
        """
        if self._plain and row.keys() <= REQUEST_FIELDS:
            body = row
            kept = None
        else:
            body = self._body(row)
            kept = self.kept(row)
        other, name = body.pop("id", None), body.pop("custom_id", None)
        name = other if name is None else name
        if self._columns.id_field is not None:
            name = _column(row, self._columns.id_field)
        extra = body.pop("extra_body", None)
        if extra is not None:
            if not isinstance(extra, dict):
                raise ColumnError("expected 'extra_body' to be an object")
            body |= extra
        system = None if self._system is None else self._fill(self._system, row)
        return name, body, system, kept

    def _body(self, row: dict[str, Any]) -> dict[str, Any]:
        body = {name: value for name, value in row.items() if name in REQUEST_FIELDS}
        in_messages = "messages" in body and self._template is None and self._columns.prompt_field is None
        for name in row.keys() - REQUEST_FIELDS - self._known:
            self._check_column(name, in_messages=in_messages)
        if self._template is not None:
            self._leave_messages(body, "--template")
            body["prompt"] = self._fill(self._template, row)
        elif self._columns.prompt_field is not None:
            self._leave_messages(body, "--prompt-field")
            body["prompt"] = _column(row, self._columns.prompt_field)
        return body

    def _leave_messages(self, body: dict[str, Any], option: str) -> None:
        messages = body.pop("messages", None)
        if messages and isinstance(messages, list) and "messages" not in self._meant:
            self.hints["messages"] = f"the column 'messages' is not sent; {option} makes the prompt"

    def kept(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give what goes along into the record.

        Raises :class:`ColumnError` for a column that is not there.
        """
        keep = self._columns.keep
        if keep == "all":
            return {name: value for name, value in row.items() if name not in REQUEST_FIELDS}
        return {name: _column(row, name) for name in keep} if keep else None

    def _fill(self, template: Template, row: Mapping[str, Any]) -> str:
        try:
            return template.fill(row)
        except KeyError as error:
            raise ColumnError(f"the template has {{{error.args[0]}}}, and {_there_are(row)}") from None

    def _check_column(self, name: str, *, in_messages: bool) -> None:
        self._known.add(name)
        if name in self._meant:
            return
        if name in _SYSTEM and self._system is None:
            hint = f"--system-template '{{{name}}}' makes it the system message"
            hint = "a system message belongs into 'messages'" if in_messages else hint
        elif (field := _meant_by(name, SAMPLING_FIELDS)) is not None:
            hint = f"is {field!r} meant?"
        else:
            return
        self.hints[name] = f"the column {name!r} is not sent; {hint}"


def _for_rows(columns: Columns) -> str | None:
    """Give the first option that is given and says something of rows only."""
    names = ("template", "system_template", "prompt_field", "id_field")
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(columns, name) is not None), None)


def _column(row: Mapping[str, Any], name: str) -> Any:
    try:
        return row[name]
    except KeyError:
        raise ColumnError(f"there is no column {name!r}: {_there_are(row)}") from None


def _there_are(row: Mapping[str, Any]) -> str:
    return f"there are {', '.join(row)}" if row else "there are none"


def _meant_by(name: str, fields: Collection[str]) -> str | None:
    """Give the field that a column's name is most likely a mistyping of.

    >>> _meant_by("max_token", SAMPLING_FIELDS), _meant_by("topP", {"top_p"}), _meant_by("answer", SAMPLING_FIELDS)
    ('max_tokens', 'top_p', None)
    """
    return next(iter(get_close_matches(name.lower().replace("-", "_"), sorted(fields), n=1, cutoff=_ALIKE)), None)
