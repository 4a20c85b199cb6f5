"""Prompts made of rows: text with ``{column}`` in it. Pure.

``{column}`` stands for a row's value, and for nothing else: no attribute, index or format follows. ``{{column}}`` is
``{column}`` itself. Braces around anything that could be no column's name, such as those of JSON, mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from aurora_pool.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{(\{?)([^{}\"'\n:,\\]*[^{}\"'\n:,\\\s])\}(\}?)")


class Template:
    r"""A text that rows fill in.

    >>> Template('Is {name} {{name}}? Answer as {"yes": true}.').fill({"name": "TP53"})
    'Is TP53 {name}? Answer as {"yes": true}.'

    ``names`` are the columns that it needs. Raises :class:`~aurora_pool.errors.ConfigError` for a text without any.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.names = {match[2] for match in _PLACEHOLDER.finditer(text) if not (match[1] and match[3])}
        if not self.names:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise ConfigError(f"the template names no column as {{column}}: {shown!r}")

    def fill(self, row: Mapping[str, Any]) -> str:
        """Put a row's values in, all at once: one that looks like a placeholder is none.

        Raises :class:`KeyError` for a column that the row has not.
        """

        def value(match: re.Match[str]) -> str:
            if match[1] and match[3]:
                return match[0][1:-1]
            return match[1] + text_of(row[match[2]]) + match[3]

        return _PLACEHOLDER.sub(value, self._text)


def text_of(value: object) -> str:
    """Write a value into a prompt: text unchanged, null as nothing, and anything else as JSON.

    >>> text_of("a"), text_of(None), text_of(3), text_of(["a", 1.5])
    ('a', '', '3', '["a",1.5]')
    """
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value, enc_hook=str).decode()
