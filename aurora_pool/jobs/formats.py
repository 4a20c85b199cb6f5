"""The format of an input: given by its name or by an option, never guessed where a guess could be wrong."""

from __future__ import annotations

import codecs
from pathlib import PurePath
from typing import Literal, TypeAlias, get_args

from aurora_pool.errors import BadRecord

__all__ = ["InputFormat"]

InputFormat: TypeAlias = Literal["auto", "jsonl", "text", "csv", "tsv", "parquet", "dataset"]
"""``dataset`` is a folder that ``datasets.Dataset.save_to_disk`` wrote, or ``hf://NAME`` of the Hugging Face hub."""

Kind: TypeAlias = Literal["jsonl", "text", "csv", "tsv", "parquet", "dataset"]

_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_KNOWN = f"--input-format {', '.join(name for name in get_args(Kind))}"
_FEW = 20
"""Lines that tell whether something is plainly text."""


def kind_of(name: str, head: bytes, given: InputFormat) -> Kind:
    r"""Tell what an input is by its name and its first bytes; ``<stdin>`` and pipes have no name that tells.

    >>> kind_of("in.csv", b"a,b\n", "auto"), kind_of("<stdin>", b"Name a colour.\n", "auto")
    ('csv', 'text')

    Raises :class:`~aurora_pool.errors.BadRecord` where that is not known.
    """
    kind = given if given != "auto" else _SUFFIXES.get(PurePath(name).suffix.lower())
    if kind != "parquet" and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"\0{")):
        raise BadRecord(
            "it looks like UTF-16, and a job reads UTF-8: iconv -f UTF-16 -t UTF-8 makes it of it", path=name
        )
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if kind == "jsonl" and text.startswith(b"["):
        raise BadRecord(
            "it is one JSON array, and a job reads an object a line: jq -c '.[]' makes these of it", path=name
        )
    if kind is not None:
        return kind
    if text.startswith(b"{"):
        return "jsonl"
    if name.startswith(("<", "/dev/", "/proc/")):
        reason = _not_text(head)
        if reason is None:
            return "text"
        raise BadRecord(f"it is {reason}; if each line is a prompt, say --input-format text", path=name)
    raise BadRecord(f"its name does not tell what it is; say {_KNOWN}", path=name)


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say that text is not UTF-8, and what to do about it."""
    return f"expected UTF-8 text (iconv -f LATIN1 -t UTF-8 makes it of Latin-1): {error.reason}"


def _not_text(head: bytes) -> str | None:
    """Say what else than lines of text something looks like; None for what is plainly text."""
    if head.startswith(b"PAR1"):
        return "a parquet file, which can't come through a pipe"
    if b"\0" in head:
        return "no text"
    lines = [line for line in head.decode(errors="replace").splitlines() if line.strip()]
    first = lines[0].lstrip() if lines else ""
    if first.startswith("["):
        return "a JSON array, not JSON lines: jq -c '.[]' makes these of it"
    if first.startswith(("<", "---", "%YAML")):
        return "markup"
    few = lines[:_FEW]
    for mark, name, kind in (("\t", "tabs", "tsv"), (",", "commas", "csv")):
        # Prose has commas too, but not as many in each line, and not without a space.
        counts = {line.count(mark) - line.count(mark + " ") for line in few}
        if len(few) > 1 and len(counts) == 1 and counts != {0}:
            return f"a table with {name} (--input-format {kind})"
    return None
