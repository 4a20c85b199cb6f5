"""Documents to work on: plain text files, and the conversations of a chat archive."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aurora_pool.arguments import check_each_instance, check_many, check_one_of
from aurora_pool.errors import BadRecord, ConfigError

__all__ = ["Document", "DocumentFormat", "read_documents"]

DocumentFormat = Literal["text", "chatgpt-export", "claude-export"]
"""What documents are: UTF-8 texts, or archives of chats as these services export them."""

_CONVERSATIONS = re.compile(r"(^|/)conversations(-\d+|_\d+)?\.json$")

_NAMES = {"text": "", "chatgpt-export": "ChatGPT", "claude-export": "Claude"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what to call it."""

    name: str
    text: str


def read_documents(paths: Iterable[str | Path], input_format: DocumentFormat = "text") -> list[Document]:
    """Read files.

    ``text`` is one UTF-8 document a file; ``chatgpt-export`` and ``claude-export`` are the ``conversations.json`` of an
    export, or the zip archive that it comes in, also where it is split into several files.

    ::

        documents = read_documents(["conversations.json"], input_format="chatgpt-export")

    A conversation that is damaged is left out, with a warning. Raises :class:`~aurora_pool.errors.BadRecord`, naming
    the file, if one can't be read or is not of that format.
    """
    check_one_of("input_format", input_format, get_args(DocumentFormat))
    check_many(paths=paths)
    check_each_instance("paths", paths := list(paths), str | os.PathLike)
    return [document for path in paths for document in _read(Path(path), input_format)]


def _read(path: Path, input_format: DocumentFormat) -> list[Document]:
    try:
        if input_format != "text":
            return [each for name, text in _files(path) for each in _export(path, name, text, input_format)]
        return [Document(path.name, path.read_text(encoding="utf-8-sig"))]
    except (OSError, zipfile.BadZipFile) as error:
        raise BadRecord(getattr(error, "strerror", None) or str(error), path=path) from error
    except UnicodeDecodeError as error:
        raise BadRecord(f"not a UTF-8 text file: {error.reason} at byte {error.start}", path=path) from error


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Give the files of conversations: one, or those of an archive, by name."""
    if not zipfile.is_zipfile(path):
        yield "", path.read_text(encoding="utf-8-sig")
        return
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if _CONVERSATIONS.search(name))
        if not names:
            raise BadRecord("there is no conversations.json in it", path=path)
        for name in names:
            yield name, archive.read(name).decode("utf-8-sig")


def _export(path: Path, name: str, text: str, input_format: DocumentFormat) -> list[Document]:
    place = f"{path}/{name}" if name else path
    try:
        return conversations(json.loads(text), input_format=input_format)
    except (json.JSONDecodeError, RecursionError) as error:
        reason, line = (error.msg, error.lineno) if isinstance(error, json.JSONDecodeError) else ("too deep", None)
        raise BadRecord(f"not JSON: {reason}", path=place, line=line) from error
    except ConfigError as error:
        raise BadRecord(str(error), path=place) from error


def conversations(export: object, input_format: DocumentFormat = "chatgpt-export") -> list[Document]:
    """Give the conversations of an export (the decoded ``conversations.json``), one document each.

    In ChatGPT, edited prompts and regenerated answers make a conversation a tree; the branch told is the one that was
    last on screen: from ``current_node`` up to the root. System and tool messages, hidden ones and images are left out,
    and so are conversations of which nothing is left. One that is damaged is left out, with a warning.

    Raises :class:`~aurora_pool.errors.ConfigError` if it is not such an export.
    """
    if isinstance(export, dict):
        export = export.get("conversations")
    if not isinstance(export, list):
        raise ConfigError(f"a {_NAMES[input_format]} export is a list of conversations")
    key, turns_of = ("chat_messages", _claude_turns) if input_format == "claude-export" else ("mapping", _turns)
    documents = []
    damaged: list[int] = []
    for number, conversation in enumerate(export, 1):
        try:
            turns = turns_of(conversation) if conversation[key] is not None else []
            title = str(conversation.get("title") or conversation.get("name") or f"conversation {number}")
        except (AttributeError, KeyError, TypeError):
            damaged.append(number)
            continue
        if turns:
            text = "\n\n".join(f"{role}: {said}" for role, said in turns)
            documents.append(Document(_whole(title), _whole(text)))
    if len(damaged) == len(export) > 0:
        raise ConfigError(f"conversation 1 of the export has no {key!r} of messages")
    if damaged:
        logger.warning("%d damaged conversations are left out, the first being number %d", len(damaged), damaged[0])
    return documents


def _whole(text: str) -> str:
    """Replace half characters, which cut exports have and no server takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _claude_turns(conversation: Mapping[str, Any]) -> list[tuple[str, str]]:
    roles = {"human": "user", "assistant": "assistant"}
    turns = []
    for message in conversation["chat_messages"]:
        parts = message.get("content") or []
        text = "\n".join(part.get("text") or "" for part in parts if part.get("type") == "text") or message.get("text")
        role = roles.get(message.get("sender"))
        if role and text and text.strip():
            turns.append((role, text.strip()))
    return turns


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
    return "\n".join(filter(None, map(_part, content.get("parts") or [])))


def _part(part: object) -> str:
    """Give the text of a part: what was typed, or what was heard of what was spoken."""
    if isinstance(part, dict) and part.get("content_type") == "audio_transcription":
        return str(part.get("text") or "")
    return part if isinstance(part, str) else ""
