"""Rows with columns of their own: what is sent, what is kept, what makes the prompt, and what is no table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs import JobOptions, read_answers, run_job
from aurora_pool.jobs.columns import Columns
from aurora_pool.jobs.files import InputFile
from aurora_pool.jobs.formats import kind_of
from aurora_pool.jobs.prompt_maker import PromptMaker
from aurora_pool.jobs.requests import Request, RequestError, RequestReader
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.templates import Template
from tests.jobs.fleets import fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records


def read(fields: object, **columns: Any) -> Request:
    return RequestReader(columns=Columns(**columns)).read(json.dumps(fields).encode(), 1)


ROW = {"prompt": "Is it so?", "answer": "yes", "pmid": 7, "task_id": "t1", "max_tokens": 5}


def test_columns_of_data_are_not_sent() -> None:
    assert read(ROW).body == {"prompt": "Is it so?", "max_tokens": 5}
    assert read(ROW).digest == read({"prompt": "Is it so?", "max_tokens": 5}).digest
    assert read(ROW | {"extra_body": {"min_p": 0.1, "unheard_of": 1}}).body["unheard_of"] == 1


def test_columns_that_are_named_are_kept_and_name_the_request() -> None:
    assert read(ROW, keep="all").kept == {"answer": "yes", "pmid": 7, "task_id": "t1"}
    request = read(ROW, keep=("pmid",), id_field="task_id")
    assert (request.id, request.kept, request.named) == ("t1", {"pmid": 7}, True)
    assert read({"question": "a"}, prompt_field="question").body == {"prompt": "a"}
    for columns in ({"keep": ("pmdi",)}, {"id_field": "x"}, {"prompt_field": "x"}, {"template": "{x}"}):
        with pytest.raises(RequestError, match=r"pmdi|x"):
            read(ROW, **columns)


def test_a_template_makes_the_prompt() -> None:
    request = read(ROW | {"messages": "of data"}, template="Q: {prompt} ({pmid})", system_template="Of {task_id}.")
    assert request.body["messages"] == [
        {"role": "system", "content": "Of t1."},
        {"role": "user", "content": "Q: Is it so? (7)"},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a}", "1"),
        ('{"a": {a}}', '{"a": 1}'),
        ("{{a}} {a}", "{a} 1"),
        ("{b}", "{a}"),
        ("{a.b} {long name}", "dotted x"),
        (r"\frac{ {a} }", r"\frac{ 1 }"),
    ],
)
def test_braces_mean_columns_and_nothing_else(text: str, expected: str) -> None:
    assert Template(text).fill({"a": 1, "b": "{a}", "a.b": "dotted", "long name": "x"}) == expected


def test_templates_reach_no_attribute() -> None:
    with pytest.raises(KeyError):
        Template("{a.__class__}").fill({"a": 1})
    with pytest.raises(KeyError):
        Template("{a[0]}").fill({"a": [1]})
    with pytest.raises(ConfigError, match="names no column"):
        Template("no column")


MESSAGES = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "columns", "told"),
    [
        ({"max_token": 3, "gold": "x"}, Columns(), "the column 'max_token' is not sent; is 'max_tokens' meant?"),
        (
            {"system": "Be brief."},
            Columns(),
            "the column 'system' is not sent; --system-template '{system}' makes it the system message",
        ),
        ({"instructions": "x", "prompt": "a"}, Columns(system_template="{instructions}"), None),
        ({"system": "x"}, Columns(template="{system}: {prompt}"), None),
        ({"messages": MESSAGES}, Columns(template="{prompt}"), "the column 'messages' is not sent; --template makes"),
        ({"messages": "of data"}, Columns(template="{prompt}"), None),
    ],
)
def test_what_looks_as_if_it_were_to_be_sent_is_told_once(
    write_lines: WriteLines,
    caplog: pytest.LogCaptureFixture,
    row: dict[str, Any],
    columns: Columns,
    told: str | None,
) -> None:
    path = write_lines("in.jsonl", [{"prompt": "a"} | row] * 5)
    Survey(InputFile(path), RequestReader(columns=columns), on_bad_line="skip", allow_empty=True)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.startswith(f"{path}: {told}") for message in messages] == ([] if told is None else [True])


def test_a_system_message_beside_messages_is_told(write_lines: WriteLines, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines("in.jsonl", [{"system": "Be brief.", "messages": MESSAGES}])
    Survey(InputFile(path), RequestReader())
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the column 'system' is not sent; a system message belongs into 'messages'"
    ]


def test_a_system_column_beside_messages_that_are_not_sent_belongs_into_a_template(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines("in.jsonl", [{"system": "Be brief.", "q": "x", "messages": MESSAGES}])
    Survey(InputFile(path), RequestReader(columns=Columns(template="{q}")))
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"{path}: the column 'messages' is not sent; --template makes the prompt",
        f"{path}: the column 'system' is not sent; --system-template '{{system}}' makes it the system message",
    ]


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "a", "body": {"messages": MESSAGES}},
        {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a"}},
    ],
)
def test_a_system_prompt_for_lines_of_openai_batch_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^--system-prompt: the input has lines of OpenAI Batch"):
        RequestReader(prompt_format="chat", system_prompt="Be brief.").read(json.dumps(line).encode(), 1)


@pytest.mark.parametrize("option", ["--system-prompt", "--system-template"])
def test_a_system_prompt_beside_messages_is_told(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    path = write_lines("in.jsonl", [{"prompt": "a", "at": "x"}, *[{"messages": MESSAGES, "at": "x"}] * 5])
    by_row = option == "--system-template"
    columns = Columns(system_template="{at}") if by_row else None
    reader = RequestReader(prompt_format="chat", system_prompt=None if by_row else "Be brief.", columns=columns)
    found = Survey(InputFile(path), reader)
    assert [len(request.body["messages"]) for request in found.pending()] == [2, 1, 1, 1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: {option} does nothing for lines with 'messages', such as line 2"
    ]


def test_a_column_to_keep_has_to_be_there_on_lines_of_openai_batch_too() -> None:
    line = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a"}}
    assert read(line | {"label": 1}, keep=("label",)).kept == {"label": 1}
    with pytest.raises(RequestError, match="there is no column 'label'"):
        read(line, keep=("label",))


@pytest.mark.simulated_clock
async def test_rows_with_columns_travel_together_and_come_back(tmp_path: Path, write_lines: WriteLines) -> None:
    rows = [{"prompt": f"Say {n}.", "answer": str(n), "user": f"u{n}", "metadata": {"n": n}} for n in range(300)]
    output = tmp_path / "out.jsonl"
    async with fleet_of(3) as fleet, pool_of(fleet, balance="strict") as pool:
        await run_job(pool, write_lines("in.jsonl", rows), output, JobOptions(columns=Columns(keep=("answer",))))
        posts = [request for request in fleet.requests if request.path == "/v1/completions"]
        assert len(received(fleet)) == 300
    assert len(posts) < 30
    assert {answer.id: answer.row for answer in read_answers(output)} == {
        f"line-{n + 1}": {"answer": str(n)} for n in range(300)
    }


@pytest.mark.parametrize("value", [5.0, 5])
def test_a_whole_number_may_be_a_float(value: object) -> None:
    request = read({"prompt": "a", "max_tokens": value})
    assert (request.body["max_tokens"], type(request.body["max_tokens"])) == (5, int)
    assert request.digest == read({"prompt": "a", "max_tokens": 5}).digest
    with pytest.raises(RequestError, match="whole number"):
        read({"prompt": "a", "max_tokens": 5.5})


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "/v1/chat/completions"),
        (None, {"messages": [{"role": "user", "content": "a"}]}, "/v1/chat/completions"),
        (None, {"prompt": "a"}, "/v1/completions"),
        ("/v1/embeddings", {"input": "a"}, "/v1/embeddings"),
        (None, {"input": ["a"], "dimensions": 8}, "/v1/embeddings"),
    ],
)
def test_a_batch_line_goes_where_its_url_or_its_body_says(url: object, body: dict[str, Any], expected: str) -> None:
    line = {"custom_id": "a", "body": body} | ({} if url is None else {"url": url})
    assert read(line).url == expected


def test_what_says_nothing_to_a_server_tears_no_list_apart() -> None:
    maker = PromptMaker()
    lines = [{"custom_id": n, "body": {"prompt": "a", "user": n, "metadata": {"n": n}, "store": True}} for n in "abc"]
    samplings = {id(maker.prompt(read(line)).sampling) for line in lines}
    assert len(samplings) == 1


# -- what an input is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.jsonl", b"", "jsonl"),
        ("a.txt", b"[1]", "text"),
        ("a.csv", b"{", "csv"),
        ("a.parquet", b"PAR1", "parquet"),
        ("prompts", b'{"prompt": 1}', "jsonl"),
        ("<stdin>", b"Name a colour, please.\nAnd, if you can, a shape.\n", "text"),
        ("/dev/fd/63", b"one\ntwo\n", "text"),
        ("<stdin>", b' {"prompt": "a"}', "jsonl"),
    ],
)
def test_the_name_tells_what_it_is(name: str, head: bytes, expected: str) -> None:
    assert kind_of(name, head, "auto") == expected


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("a.yaml", b"- a\n", "say --format|does not tell"),
        ("a.html", b"<p>\n", "does not tell"),
        ("prompts", b"Name a colour.\n", "does not tell"),
        ("a.json", b'[{"prompt": "a"}]', "one JSON array"),
        ("<stdin>", b'[{"prompt": "a"}]', "JSON array"),
        ("<stdin>", b"<html>", "markup"),
        ("<stdin>", b"---\na: 1\n", "markup"),
        ("<stdin>", b"PAR1\0\0", "parquet"),
        ("<stdin>", b"a\0b", "no text"),
        ("<stdin>", b"id,question\n1,Why?\n2,How?\n", "table with commas"),
        ("<stdin>", b"id\tquestion\n1\tWhy?\n", "table with tabs"),
    ],
)
def test_what_can_not_be_told_is_not_guessed(name: str, head: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        kind_of(name, head, "auto")


# -- lines that move --------------------------------------------------------------------------------------------------


@pytest.mark.simulated_clock
async def test_a_line_put_on_top_of_a_list_asks_for_that_line_only(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    lines = [f"Say {n % 40}." for n in range(100)]  # with duplicates
    source.write_text("\n".join(lines))
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        old = {answer.text for answer in read_answers(output)}
        count = len(received(fleet))
        source.write_text("\n".join(["Say new.", *lines[:50], "Say newer.", *lines[50:]]))
        summary = await run_job(pool, source, output)
        assert sorted(received(fleet)[count:]) == ["Say new.", "Say newer."]
        source.write_text("\n".join(lines[:-1]))
        shorter = await run_job(pool, source, output)
        assert len(received(fleet)) == count + 2
    assert (summary.answered, summary.resumed.changed) == (102, 0)
    assert summary.resumed.moved > 60
    assert (shorter.answered, shorter.done, shorter.resumed.foreign + shorter.resumed.changed) == (99, 0, 3)
    assert len({record["custom_id"] for record in read_records(output)}) == len(read_records(output))
    assert old <= {answer.text for answer in read_answers(output)}
