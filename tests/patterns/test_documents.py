from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.patterns.documents import Document, conversations, read_documents


def node(name: str, parent: str | None, role: str = "", *parts: object, **more: Any) -> dict[str, Any]:
    content = {"content_type": more.pop("content_type", "text"), "parts": list(parts)}
    message = {"author": {"role": role}, "content": content, **more} if role else None
    return {name: {"id": name, "message": message, "parent": parent, "children": []}}


def conversation(*nodes: dict[str, Any], current: str | None, title: str | None = "Tea") -> dict[str, Any]:
    mapping = {name: value for entry in nodes for name, value in entry.items()}
    for name, value in mapping.items():
        if value["parent"] in mapping:
            mapping[value["parent"]]["children"].append(name)
    return {"title": title, "mapping": mapping, "current_node": current}


TREE = (
    node("root", None),
    node("system", "root", "system", ""),
    node("q", "system", "user", "How hot?"),
    node("old", "q", "assistant", "Boiling."),
    node("new", "q", "assistant", "80 degrees."),
    node("thanks", "new", "user", {"content_type": "image_asset_pointer"}, "Thanks!", content_type="multimodal_text"),
)


def test_the_branch_last_on_screen_is_told_from_the_root() -> None:
    text = "user: How hot?\n\nassistant: 80 degrees.\n\nuser: Thanks!"
    assert conversations([conversation(*TREE, current="thanks")]) == [Document("Tea", text)]
    assert conversations([conversation(*TREE, current=None)]) == [Document("Tea", text)]


def test_a_regenerated_answer_is_left_out() -> None:
    [document] = conversations([conversation(*TREE, current="old", title=None)])
    assert document == Document("conversation 1", "user: How hot?\n\nassistant: Boiling.")


def test_hidden_messages_tools_and_thoughts_are_left_out() -> None:
    hidden = {"is_visually_hidden_from_conversation": True}
    nodes = (
        node("a", None, "user", "hidden", metadata=hidden),
        node("b", "a", "tool", "result"),
        node("c", "b", "assistant", "thought", content_type="thoughts"),
        node("d", "c", "assistant", None, "said"),
    )
    assert conversations([conversation(*nodes, current="d")]) == [Document("Tea", "assistant: said")]


def test_a_conversation_with_nothing_said_is_no_document() -> None:
    assert conversations([conversation(node("root", None), current="root"), conversation(current="x")]) == []


def test_a_circle_in_a_damaged_export_ends() -> None:
    nodes = (node("a", "b", "user", "one"), node("b", "a", "assistant", "two"))
    [document] = conversations([conversation(*nodes, current="b")])
    assert document.text == "user: one\n\nassistant: two"


@pytest.mark.parametrize(("export", "match"), [({}, "list of conversations"), ([{}], "conversation 1 .* no 'mapping'")])
def test_what_is_no_export_is_refused(export: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        conversations(export)


def test_reading_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("häuser", encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps([conversation(*TREE, current="q")]))
    assert read_documents([tmp_path / "a.txt"]) == [Document("a.txt", "häuser")]
    assert read_documents([str(tmp_path / "c.json")], "chatgpt-export") == [Document("Tea", "user: How hot?")]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"x\.json: No such file"),
        (b"\xff", r"x\.json: not a UTF-8 text file: invalid start byte at byte 0"),
        (b"[1,\n2", r"x\.json:2: not JSON: "),
        (b"{}", r"x\.json: a ChatGPT export is a list"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(BadRecord, match=match):
        read_documents([tmp_path / "x.json"], "chatgpt-export")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="input_format: expected 'text', 'chatgpt-export' or 'claude-export', got 'pdf'"
    ):
        read_documents([], "pdf")  # type: ignore[arg-type]  # misuse is the point


def test_what_was_spoken_is_said(tmp_path: Path) -> None:
    spoken = {"content_type": "audio_transcription", "text": "How hot?"}
    nodes = (node("q", None, "user", spoken, {"content_type": "audio"}, content_type="multimodal_text"),)
    assert conversations([conversation(*nodes, current="q")]) == [Document("Tea", "user: How hot?")]


def test_one_bad_conversation_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    good = conversation(*TREE, current="q", title="cut \ud83d")
    export = [None, good, {"mapping": None}, {"mapping": {"a": 3}, "current_node": "a"}, "x"]
    assert conversations(export) == [Document("cut \ufffd", "user: How hot?")]
    assert caplog.messages == ["3 damaged conversations are left out, the first being number 1"]


CLAUDE = {
    "name": "Tea",
    "chat_messages": [
        {"sender": "human", "text": "How hot?", "content": [{"type": "text", "text": "How hot?"}]},
        {"sender": "assistant", "text": "", "content": [{"type": "tool_use"}, {"type": "text", "text": "80."}]},
        {"sender": "assistant", "text": "Indeed."},
    ],
}


@pytest.mark.parametrize("names", [["conversations.json"], ["a/conversations-000.json", "a/conversations-001.json"]])
def test_archives_are_read(tmp_path: Path, names: list[str]) -> None:
    import zipfile

    for kind, one, text in [
        ("chatgpt-export", conversation(*TREE, current="q"), "user: How hot?"),
        ("claude-export", CLAUDE, "user: How hot?\n\nassistant: 80.\n\nassistant: Indeed."),
    ]:
        path = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("user.json", "{}")
            for name in names:
                archive.writestr(name, "\ufeff" + json.dumps([one]))
        assert read_documents([path], kind) == [Document("Tea", text)] * len(names)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("user.json", "{}")
    with pytest.raises(BadRecord, match=r"no conversations\.json in it"):
        read_documents([tmp_path / "other.zip"], "claude-export")
