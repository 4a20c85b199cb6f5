"""Records are what OpenAI's Batch API and ``vllm run-batch`` write, and can be read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.batch_error import BatchError
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

from aurora_pool.jobs import read_answers
from aurora_pool.jobs.records import decode_record, encode_record, request_key
from aurora_pool.jobs.requests import Request, RequestReader
from aurora_pool.messages import Logprobs, Response, Sample


class VllmResponseData(BaseModel):
    """As in ``vllm.entrypoints.openai.run_batch``."""

    model_config = ConfigDict(extra="forbid")
    status_code: int = 200
    request_id: str
    body: dict[str, Any] | None = None


class VllmRecord(BaseModel):
    """As in ``vllm.entrypoints.openai.run_batch``, whose own base allows further keys."""

    model_config = ConfigDict(extra="allow")
    id: str
    custom_id: str
    response: VllmResponseData | None
    error: Any | None


COMPLETION = RequestReader().read(b'{"custom_id": "a", "prompt": "Hi"}', 1)
CHAT = RequestReader().read(b'{"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}', 2)
LOGPROBS = Logprobs(["He", "llo"], [-0.5, -0.25], [{"He": -0.5, "Ha": -1.0}, {"llo": -0.25}])
PLAIN = Response(True, "Hello", agent_index=0, finish_reason="stop", prompt_tokens=2, completion_tokens=3)
RICH = Response(
    True,
    "Hello",
    finish_reason="length",
    logprobs=LOGPROBS,
    token_ids=[5, 6],
    reasoning="They greet.",
    prompt_token_ids=[1],
    prompt_logprobs=[None],
)
SAMPLED = Response(True, "Hello", finish_reason="stop", samples=(Sample("Hello", "stop"), Sample("Ho", "length")))


def written(request: Request, response: Response) -> dict[str, Any]:
    line = encode_record(request, response, model="m", created=1_700_000_000, agent="gpu01:8000")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    record: dict[str, Any] = json.loads(line)
    return record


@pytest.mark.parametrize("response", [PLAIN, RICH, SAMPLED])
def test_completions_are_the_openai_packages_own(response: Response) -> None:
    record = written(COMPLETION, response)
    body = Completion.model_validate(record["response"]["body"], strict=True)
    assert [choice.text for choice in body.choices] == list(response.texts)
    assert [choice.index for choice in body.choices] == list(range(len(response.texts)))
    assert (body.model, body.created, body.choices[0].finish_reason) == ("m", 1_700_000_000, response.finish_reason)


@pytest.mark.parametrize("response", [PLAIN, RICH, SAMPLED])
def test_chats_are_the_openai_packages_own(response: Response) -> None:
    record = written(CHAT, response)
    body = ChatCompletion.model_validate(record["response"]["body"], strict=True)
    assert [choice.message.content for choice in body.choices] == list(response.texts)


def test_nothing_of_an_answer_is_lost() -> None:
    (choice,) = written(COMPLETION, RICH)["response"]["body"]["choices"]
    assert choice["logprobs"] == {
        "tokens": ["He", "llo"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"He": -0.5, "Ha": -1.0}, {"llo": -0.25}],
        "text_offset": [0, 2],
    }
    assert (choice["token_ids"], choice["prompt_token_ids"], choice["prompt_logprobs"]) == ([5, 6], [1], [None])
    body = written(CHAT, RICH)["response"]["body"]
    assert body["choices"][0]["message"]["reasoning"] == "They greet."
    assert (body["prompt_token_ids"], body["prompt_logprobs"]) == ([1], [None])
    content = body["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in content] == [-0.5, -0.25]
    assert [other["token"] for other in content[0]["top_logprobs"]] == ["He", "Ha"]


def test_a_token_without_a_logprob_is_written_as_the_api_does() -> None:
    # With echo, nothing comes before the first token that would give it a probability.
    response = Response(True, "Hi", finish_reason="stop", logprobs=Logprobs(["Hi"], [None], [None]))
    (choice,) = written(COMPLETION, response)["response"]["body"]["choices"]
    assert (choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]) == ([None], [None])
    (choice,) = written(CHAT, response)["response"]["body"]["choices"]
    assert choice["logprobs"]["content"] == [
        {"token": "Hi", "bytes": [72, 105], "logprob": -9999.0, "top_logprobs": []}
    ]


def test_usage_adds_up_or_is_left_open() -> None:
    assert written(COMPLETION, PLAIN)["response"]["body"]["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
    }
    assert written(COMPLETION, RICH)["response"]["body"]["usage"] is None


def test_failures_are_records_too() -> None:
    record = written(COMPLETION, Response(False, "", "400: too long", error_kind="rejected"))
    assert record["response"] is None
    assert BatchError.model_validate(record["error"], strict=True).code == "rejected"
    assert record["error"]["message"] == "400: too long"


@pytest.mark.parametrize("response", [PLAIN, Response(False, "", "400: too long", error_kind="rejected")])
def test_vllm_would_read_them(response: Response) -> None:
    VllmRecord.model_validate(written(CHAT, response), strict=True)


def seen(line: bytes) -> tuple[str, int | None, bool]:
    record = decode_record(line)
    assert record is not None
    return record.custom_id, record.key, record.answered


def test_a_key_that_is_none_is_that_of_no_request() -> None:
    line = encode_record(CHAT, PLAIN, model="m", created=1, agent=None)
    key = f'"request":"{request_key(CHAT.digest, "m"):016x}"'.encode()
    unsealed = line.partition(b',"crc32"')[0] + b"}}"
    assert seen(unsealed.replace(key, b'"request":"nonsense"')) == ("b", -1, True)


def test_what_is_written_is_read_back() -> None:
    line = encode_record(CHAT, PLAIN, model="m", created=1, agent=None)
    assert seen(line) == ("b", request_key(CHAT.digest, "m"), True)
    failed = encode_record(CHAT, Response(False, "", "no", error_kind="poison"), model="m", created=1, agent=None)
    assert seen(failed) == ("b", request_key(CHAT.digest, "m"), False)


def test_the_key_is_of_request_and_model() -> None:
    keys = {request_key(request.digest, model) for request in (CHAT, COMPLETION) for model in ("m", "n")}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("fields", "answered"),
    [
        ({"response": {"status_code": 200, "request_id": "vllm-batch-1", "body": {}}, "error": None}, True),
        ({"response": {"status_code": 404, "request_id": "vllm-batch-1", "body": None}, "error": {"error": {}}}, False),
        ({"response": {"status_code": 400, "request_id": "r", "body": None}, "error": "must not stream"}, False),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, False),
        ({"response": {"status_code": 429, "request_id": "r", "body": {"error": {}}}, "error": None}, False),
    ],
)
def test_reads_records_of_other_programs(fields: dict[str, Any], answered: bool) -> None:
    line = json.dumps({"id": "vllm-1", "custom_id": "a"} | fields).encode()
    assert seen(line) == ("a", None, answered)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"\0\0\0", b"[]", b'{"custom_id": 3}', b'{"id": "a"}', b'{"custom_id": "a"}', b"\xff"]
)
def test_what_is_no_record_is_told(line: bytes) -> None:
    assert decode_record(line) is None


# -- what vllm run-batch 0.32 wrote -----------------------------------------------------------------------------------

RUN_BATCH = Path(__file__).parent / "data" / "run_batch.jsonl"
"""Its answers for chats, one with logprobs and one with two samples, and for an unknown model, a stream, a url that it
does not know, a chat that is too long, and no tokens at all."""

THEIRS = {json.loads(line)["custom_id"]: json.loads(line) for line in RUN_BATCH.read_bytes().splitlines()}


def shape(value: Any, at: str = "") -> dict[str, str]:
    """Where there are values in a record, and of which kind; the places in a list are all one."""
    if isinstance(value, dict):
        return {place: kind for key, each in value.items() for place, kind in shape(each, f"{at}.{key}").items()}
    if isinstance(value, list):
        return {place: kind for each in value for place, kind in shape(each, f"{at}[]").items()}
    return {at: type(value).__name__}


LOGPROBS_OF_TWO = Logprobs(["Hi", "!"], [-0.5, -0.25], [{"Hi": -0.5, "Ho": -1.0}, {"!": -0.25, ".": -2.0}])
SAME: dict[str, dict[str, Any]] = {
    "chat": {},
    "logprobs": {"logprobs": LOGPROBS_OF_TWO},
    "two": {"samples": (Sample("Hi", "length"), Sample("Ho", "length"))},
}


@pytest.mark.parametrize("name", SAME)
def test_answers_have_the_shape_that_run_batch_gives_them(name: str) -> None:
    response = Response(True, "Hi", finish_reason="length", prompt_tokens=2, completion_tokens=3, **SAME[name])
    ours, theirs = shape(written(CHAT, response)), shape(THEIRS[name])
    own = {place for place in ours if place.startswith(".aurora_pool.")}
    # OpenAI's type has it, and vLLM leaves it out.
    own |= {".response.body.choices[].logprobs.refusal"} & ours.keys()
    assert {place: kind for place, kind in ours.items() if place not in own}.items() <= theirs.items()
    # What they have beyond that is empty, or tells of their engine.
    more = {place for place in theirs.keys() - ours.keys() if theirs[place] != "NoneType"}
    assert more == {".response.body.system_fingerprint"}


@pytest.mark.parametrize("record", THEIRS.values(), ids=lambda record: record["custom_id"])
def test_records_of_run_batch_are_read(record: dict[str, Any]) -> None:
    assert seen(json.dumps(record).encode()) == (record["custom_id"], None, record["custom_id"] in SAME)
    VllmRecord.model_validate(record, strict=True)


def test_failures_are_of_the_batch_api_and_no_answer_to_either() -> None:
    failed = written(CHAT, Response(False, "", "400: too long", error_kind="rejected"))
    theirs = THEIRS["too-long"]
    assert failed.keys() - {"aurora_pool"} == theirs.keys()
    assert failed["error"] is not None is not theirs["error"]


def test_the_answers_of_run_batch_are_given() -> None:
    answers = {answer.id: answer for answer in read_answers(RUN_BATCH)}
    assert answers["chat"].text == "The capital of France is Paris."
    assert answers["streamed"].error == "Request must not be sent in stream mode"
    assert "maximum context length is 2048 tokens" in (answers["too-long"].error or "")
    assert (answers["other-model"].error or "").startswith("The model `gpt-4o-mini` does not exist.")
    assert answers.keys() == THEIRS.keys()


def test_what_an_answer_wants_called_is_in_its_record() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    record = written(CHAT, Response(True, "", finish_reason="tool_calls", tool_calls=calls))
    found = ChatCompletion.model_validate(record["response"]["body"])
    assert found.choices[0].finish_reason == "tool_calls"
    assert found.choices[0].message.tool_calls is not None
    assert found.choices[0].message.tool_calls[0].model_dump(exclude_none=True) == calls[0]
