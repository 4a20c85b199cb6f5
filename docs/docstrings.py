"""A griffe extension: docstrings as Sphinx and doctest read them become Markdown for the API reference.

Roles become code, literal blocks lose their ``::``, and examples are fenced.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`~?(?:[\w.]+\.)?(\w+)`")
_LITERAL = re.compile(r"(?m)(^|:)::$")
_EXAMPLE = re.compile(r"(?m)^(>>> .*(?:\n(?!\n).*)*)")
_SKIP = re.compile(r"  # doctest: .*")


def as_markdown(text: str) -> str:
    """Rewrite one docstring: ``:class:`~a.B``` becomes code, an example of doctest a fenced block."""
    text = _ROLE.sub(r"`\1`", text)
    text = _LITERAL.sub(r"\1", text)
    return _EXAMPLE.sub(r"```pycon\n\1\n```", _SKIP.sub("", text))


class MarkdownDocstrings(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
