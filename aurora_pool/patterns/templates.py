"""Prompt templates: text with ``{name}`` placeholders.

Values are put in literally and in one pass. Braces in a template or in a value mean nothing (JSON, code and LaTeX
survive), and a value that happens to read ``{item}`` is not filled in again: ``str.format`` would break on the first
and a chain of ``str.replace`` would do the second.
"""

from __future__ import annotations

import re

from aurora_pool.arguments import check_instance
from aurora_pool.errors import ConfigError

__all__ = ["strip_reasoning"]

SEPARATOR = "\n\n"
"""What stands between texts that are put into one prompt."""


_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def strip_reasoning(text: str) -> str:
    """Leave out what a model has thought aloud, between ``<think>`` and ``</think>``.

    >>> strip_reasoning("<think>Hm, 6 x 7?</think> 42")
    '42'

    Some templates open the first one in the prompt, so that only its end is in the answer; one that is not closed was
    cut off, and nothing follows it. Where a server separates reasoning (``--reasoning-parser``), it is never in
    the text.
    """
    return _THOUGHT.sub("", text).rpartition("</think>")[2].strip()


def render(template: str, **values: object) -> str:
    """Fill in a template's placeholders.

    >>> render('{"gene": "{item}"}', item="TP53 {item}")
    '{"gene": "TP53 {item}"}'
    """
    names = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({names})\}}", lambda match: str(values[match[1]]), template)


def require_placeholder(argument: str, template: str, placeholder: str) -> None:
    """Refuse a template that would send the same prompt for everything.

    >>> require_placeholder("reduce_prompt", "Merge these.", "responses")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: reduce_prompt has no {responses} in it: 'Merge these.'

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    check_instance(argument, template, str, optional=False)
    if f"{{{placeholder}}}" not in template:
        shown = template if len(template) <= 60 else template[:57] + "..."
        raise ConfigError(f"{argument} has no {{{placeholder}}} in it: {shown!r}")
