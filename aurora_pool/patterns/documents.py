"""Documents to work on: plain text files, and the conversations of a chat archive."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aurora_pool.arguments import check_one_of
from aurora_pool.errors import BadRecord, ConfigError

DocumentFormat = Literal["text", "chatgpt-export"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what to call it."""

    name: str
    text: str


def read_documents(paths: Iterable[str | Path], input_format: DocumentFormat = "text") -> list[Document]:
    """Read files: ``text`` is one UTF-8 document a file, ``chatgpt-export`` the ``conversations.json`` of an export.

    ::

        documents = read_documents(["conversations.json"], input_format="chatgpt-export")

    Raises :class:`~aurora_pool.errors.BadRecord`, naming the file, if one can't be read or is not of that format.
    """
    check_one_of("input_format", input_format, get_args(DocumentFormat))
    return [document for path in paths for document in _read(Path(path), input_format)]


def _read(path: Path, input_format: DocumentFormat) -> list[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRecord(error.strerror or str(error), path=path) from error
    except UnicodeDecodeError as error:
        raise BadRecord(f"not a UTF-8 text file: {error.reason} at byte {error.start}", path=path) from error
    if input_format == "text":
        return [Document(path.name, text)]
    try:
        return conversations(json.loads(text))
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg}", path=path, line=error.lineno) from error
    except ConfigError as error:
        raise BadRecord(str(error), path=path) from error


def conversations(export: object) -> list[Document]:
    """Give the conversations of a ChatGPT export (the decoded ``conversations.json``), one document each.

    Edited prompts and regenerated answers make a conversation a tree; the branch told is the one that was last on
    screen: from ``current_node`` up to the root. System and tool messages, hidden ones and images are left out, and so
    are conversations of which nothing is left.

    Raises :class:`~aurora_pool.errors.ConfigError` if it is not such an export.
    """
    if not isinstance(export, list):
        raise ConfigError("a ChatGPT export is a list of conversations")
    documents = []
    for number, conversation in enumerate(export, 1):
        if not isinstance(conversation, dict) or not isinstance(conversation.get("mapping"), dict):
            raise ConfigError(f"conversation {number} of the export has no 'mapping' of messages")
        turns = [f"{role}: {text}" for role, text in _turns(conversation)]
        if turns:
            documents.append(Document(conversation.get("title") or f"conversation {number}", "\n\n".join(turns)))
    return documents


def _turns(conversation: Mapping[str, Any]) -> list[tuple[str, str]]:
    turns = [(_role(message), _text(message).strip()) for message in _branch(conversation)]
    return [(role, text) for role, text in reversed(turns) if role in {"user", "assistant"} and text]


def _branch(conversation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages of the branch last on screen, the newest first."""
    nodes = dict(conversation["mapping"])
    place = conversation.get("current_node")
    if place not in nodes:  # older exports: take the newest branch
        place = next((name for name in reversed(nodes) if not nodes[name].get("children")), None)
    while node := nodes.pop(place, None):  # popped, so that a damaged export with a circle in it ends as well
        message = node.get("message")
        if message and not (message.get("metadata") or {}).get("is_visually_hidden_from_conversation"):
            yield message
        place = node.get("parent")


def _role(message: Mapping[str, Any]) -> str:
    return str((message.get("author") or {}).get("role", ""))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or {}
    if content.get("content_type") not in {"text", "multimodal_text"}:
        return ""  # code sent to tools, browsing results, thoughts
    return "\n".join(part for part in content.get("parts") or [] if isinstance(part, str))
