from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.conformance.client import Server


async def test_a_completion_has_these_fields(server: Server) -> None:
    body = (await server.complete("The capital of France is")).json
    assert set(body) == {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "service_tier",
        "system_fingerprint",
        "usage",
        "kv_transfer_params",
        "ec_transfer_params",
        "metrics",
    }
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == server.model
    (choice,) = body["choices"]
    assert set(choice) == {
        "index",
        "text",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "token_ids",
        "prompt_logprobs",
        "prompt_token_ids",
        "routed_experts",
    }
    assert choice["finish_reason"] in ("length", "stop")
    assert set(body["usage"]) == {
        "prompt_tokens",
        "total_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


async def test_a_list_has_one_choice_for_each_prompt_in_order(server: Server) -> None:
    prompts = [f"Item {number} is" for number in range(20)]
    body = (await server.complete(prompts, ignore_eos=True, return_token_ids=True)).json
    assert [choice["index"] for choice in body["choices"]] == list(range(20))
    assert [len(choice["token_ids"]) for choice in body["choices"]] == [4] * 20
    tokens = (await server.post("/tokenize", {"prompt": prompts[7]})).json["tokens"]
    assert body["choices"][7]["prompt_token_ids"] == tokens
    assert body["usage"]["completion_tokens"] == 80
    assert body["usage"]["prompt_tokens"] == sum(len(choice["prompt_token_ids"]) for choice in body["choices"])


async def test_token_ids_are_one_prompt_and_lists_of_them_many(server: Server) -> None:
    ids = (await server.post("/tokenize", {"prompt": "The sky is"})).json["tokens"]
    one = (await server.complete(ids, return_token_ids=True)).json
    assert [choice["prompt_token_ids"] for choice in one["choices"]] == [ids]
    many = (await server.complete([ids, ids[:1]], return_token_ids=True)).json
    assert [choice["prompt_token_ids"] for choice in many["choices"]] == [ids, ids[:1]]


async def test_samples_stand_beside_their_prompt_and_count_it_once(server: Server) -> None:
    body = (
        await server.complete(["One", "Two"], n=3, temperature=1, seed=5, ignore_eos=True, return_token_ids=True)
    ).json
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    prompts = [choice["prompt_token_ids"] for choice in body["choices"]]
    assert prompts[0] == prompts[1] == prompts[2] != prompts[3]
    assert body["usage"]["prompt_tokens"] == len(prompts[0]) + len(prompts[3])
    assert body["usage"]["completion_tokens"] == 24


async def test_a_seed_gives_equal_prompts_equal_texts(server: Server) -> None:
    body = (await server.complete(["Same"] * 2, temperature=1, seed=11, max_tokens=8)).json
    assert body["choices"][0]["text"] == body["choices"][1]["text"]


async def test_a_list_of_1025_is_too_long(server: Server) -> None:
    error = (await server.complete(["a"] * 1025)).error
    assert error["code"] == 400
    assert error["message"].startswith("prompt list length 1025 exceeds the maximum allowed count of 1024.")
    assert error["param"] == "prompt"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        (None, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        ([], "You must pass at least one prompt"),
        ([[]], "The decoder prompt cannot be empty"),
        (["fine", ""], "The decoder prompt cannot be empty"),
        ([[1, 2], []], "The decoder prompt cannot be empty"),
        ([99_999_999], "Token id 99999999 is out of vocabulary"),
        ([[1, 2], [99_999_999]], "Token id 99999999 is out of vocabulary"),
    ],
)
async def test_a_bad_item_fails_the_whole_request_unnamed(server: Server, prompt: Any, message: str) -> None:
    error = (await server.complete(prompt)).error
    assert (error["code"], error["message"]) == (400, message)
    assert error["type"] == "BadRequestError"


@pytest.mark.parametrize("prompt", [["text", [1, 2]], [[1, -1]], [[1, "a"]], {"a": 1}, 7])
async def test_a_prompt_of_the_wrong_type_is_a_validation_error(server: Server, prompt: Any) -> None:
    error = (await server.complete(prompt)).error
    assert (error["code"], error["type"]) == (400, "Bad Request")
    assert "validation error" in error["message"]
    assert error["param"].startswith("body.prompt")


async def test_a_prompt_that_is_too_long(server: Server) -> None:
    limit = server.max_model_len
    error = (await server.complete([[1, 2], await server.tokens(limit + 1)])).error
    assert error["message"] == (
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {limit + 1} "
        "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
        f"prompt. (parameter=input_tokens, value={limit + 1})"
    )
    assert (error["code"], error["param"]) == (400, "input_tokens")
    longer = (await server.complete(await server.tokens(limit + 9))).error
    assert f"your prompt contains {limit + 9} input tokens" in longer["message"]
    as_text = (await server.complete(" a" * (limit + 500))).error
    assert f"your prompt contains at least {limit + 1} input tokens" in as_text["message"]


async def test_a_text_of_too_many_characters_is_not_even_tokenized(server: Server) -> None:
    error = (await server.complete("x" * 900_000)).error
    assert (error["code"], error["param"]) == (400, "input_text")
    assert f"maximum context length is {server.max_model_len} tokens" in error["message"]
    assert "your prompt contains 900000 characters" in error["message"]


async def test_a_prompt_that_leaves_no_room(server: Server) -> None:
    error = (await server.complete(await server.tokens(server.max_model_len))).error
    assert (error["code"], error["message"]) == (
        400,
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
    )


async def test_max_tokens_is_clamped_to_the_room_that_is_left(server: Server) -> None:
    ids = await server.tokens(server.max_model_len - 1)
    body = (await server.complete(ids, ignore_eos=True, return_token_ids=True)).json
    assert len(body["choices"][0]["token_ids"]) == 1
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("max_tokens", [None, "omitted"])
async def test_sixteen_tokens_if_nothing_is_said(server: Server, max_tokens: object) -> None:
    body = {"prompt": "Once", "ignore_eos": True, "temperature": 0}
    if max_tokens is None:
        body["max_tokens"] = None
    assert (await server.post("/v1/completions", body)).json["usage"]["completion_tokens"] == 16


async def test_max_tokens_beyond_the_model(server: Server) -> None:
    wanted = server.max_model_len + 1
    error = (await server.complete("a", max_tokens=wanted)).error
    assert error["message"] == (
        f"max_tokens={wanted} cannot be greater than max_model_len={server.max_model_len}. "
        f"Please request fewer output tokens. (parameter=max_tokens, value={wanted})"
    )
    assert error["param"] == "max_tokens"


@pytest.mark.parametrize("max_tokens", [0, -1])
async def test_max_tokens_below_one(server: Server, max_tokens: int) -> None:
    error = (await server.complete("a", max_tokens=max_tokens)).error
    assert error["message"].startswith(f"max_tokens must be at least 1, got {max_tokens}.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_tokens": 5}, "min_tokens must be less than or equal to max_tokens=4, got 5."),
        ({"n": 2}, "n must be 1 when using greedy sampling, got 2."),
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"temperature": -1}, "temperature must be non-negative, got -1.0."),
        ({"temperature": 3}, "temperature must be in [0, 2], got 3.0."),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0.0."),
        ({"stop": ""}, "stop cannot contain an empty string."),
        ({"logprobs": 21}, "Requested sample logprobs of 21, which is greater than max allowed: 20"),
        ({"prompt_logprobs": 21}, "Requested prompt logprobs of 21, which is greater than max allowed: 20"),
        ({"logprobs": -2}, "`logprobs` must be a positive value or -1."),
        ({"stream_options": {"include_usage": True}}, "Stream options can only be defined when `stream=True`."),
        ({"stream": True, "prompt_logprobs": 1}, "`prompt_logprobs` are not available when `stream=True`."),
        ({"truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens=1000000 cannot be greater than"),
    ],
)
async def test_bad_parameters(server: Server, fields: dict[str, Any], message: str) -> None:
    error = (await server.complete("a", **fields)).error
    assert error["code"] == 400
    assert error["message"].startswith(message)
    assert error["type"] == "BadRequestError"


@pytest.mark.parametrize("fields", [{"max_tokens": "many"}, {"temperature": "hot"}, {"stop": list("abcde")}, {"n": []}])
async def test_parameters_of_the_wrong_type(server: Server, fields: dict[str, Any]) -> None:
    error = (await server.complete("a", **fields)).error
    assert error["code"] == 400
    (name,) = fields
    assert name in str(error["param"]) + error["message"]


async def test_unknown_fields_are_ignored(server: Server) -> None:
    reply = await server.complete("a", best_of=3, guided_choice=["x"], no_such_field=1, user="me")
    assert reply.status == 200


async def test_an_unknown_model(server: Server) -> None:
    error = (await server.complete("a", model="nope")).error
    assert (error["code"], error["type"], error["param"]) == (404, "NotFoundError", "model")
    assert error["message"] == f"The model `nope` does not exist. Valid aliases: {server.model}."


async def test_no_model_means_the_one_there_is(server: Server) -> None:
    assert (await server.complete("a", model=None)).json["model"] == server.model


async def test_a_stop_string_ends_a_text_before_itself(server: Server) -> None:
    whole = (await server.complete("Count: 1 2 3", max_tokens=12, ignore_eos=True)).json["choices"][0]["text"]
    stop = whole[6:8]
    (choice,) = (await server.complete("Count: 1 2 3", max_tokens=12, ignore_eos=True, stop=[stop])).json["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["text"] == whole[: whole.index(stop)]
    (kept,) = (
        await server.complete(
            "Count: 1 2 3", max_tokens=12, ignore_eos=True, stop=stop, include_stop_str_in_output=True
        )
    ).json["choices"]
    assert kept["text"] == choice["text"] + stop


async def test_a_stop_token_is_counted_but_not_shown(server: Server) -> None:
    (whole,) = (await server.complete("Go", max_tokens=8, ignore_eos=True, return_token_ids=True)).json["choices"]
    third = whole["token_ids"][2]
    (choice,) = (
        await server.complete("Go", max_tokens=8, ignore_eos=True, return_token_ids=True, stop_token_ids=[third])
    ).json["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", third)
    assert choice["token_ids"] == whole["token_ids"][: whole["token_ids"].index(third) + 1]


async def test_logprobs(server: Server) -> None:
    (choice,) = (await server.complete("Once upon", logprobs=2, ignore_eos=True)).json["choices"]
    logprobs = choice["logprobs"]
    assert set(logprobs) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert {len(values) for values in logprobs.values()} == {4}
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"])
    assert logprobs["text_offset"][0] == 0


async def test_echo_puts_the_prompt_first_with_no_logprob_for_its_first_token(server: Server) -> None:
    body = (await server.complete("Once upon a", echo=True, logprobs=1, ignore_eos=True)).json
    (choice,) = body["choices"]
    assert choice["text"].startswith("Once upon a")
    assert len(choice["logprobs"]["tokens"]) == body["usage"]["prompt_tokens"] + 4
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["top_logprobs"][0] is None


async def test_echo_alone_scores_the_prompt(server: Server) -> None:
    body = (await server.complete("Once upon a", echo=True, logprobs=1, max_tokens=0)).json
    (choice,) = body["choices"]
    assert choice["text"] == "Once upon a"
    assert len(choice["logprobs"]["tokens"]) == body["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 1


async def test_prompt_logprobs_are_by_token_id(server: Server) -> None:
    (choice,) = (await server.complete("Once upon a", prompt_logprobs=1, return_token_ids=True)).json["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert len(others) == len(choice["prompt_token_ids"]) - 1
    for token, entries in zip(choice["prompt_token_ids"][1:], others, strict=True):
        assert set(entries[str(token)]) == {"logprob", "rank", "decoded_token"}


async def test_truncation_keeps_the_last_tokens(server: Server) -> None:
    whole = (await server.complete("a b c d e f", return_token_ids=True)).json["choices"][0]["prompt_token_ids"]
    for side, kept in ((None, whole[-3:]), ("right", whole[:3])):
        fields = {"truncate_prompt_tokens": 3, "truncation_side": side, "return_token_ids": True}
        reply = await server.complete("a b c d e f", None, **fields)
        assert reply.json["choices"][0]["prompt_token_ids"] == kept
    long = await server.complete(" a" * 5000, truncate_prompt_tokens=-1, return_token_ids=True)
    assert len(long.json["choices"][0]["prompt_token_ids"]) == server.max_model_len - 1


async def test_an_answer_in_a_json_schema(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "warm": {"type": "boolean"}},
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = (await server.complete(["A colour:", "Another:"], max_tokens=60, response_format=wanted)).json
    for choice in body["choices"]:
        answer = msgspec.json.decode(choice["text"])
        assert answer["colour"] in ("red", "blue")
        assert isinstance(answer["warm"], bool)


async def test_an_answer_out_of_a_choice(server: Server) -> None:
    (choice,) = (await server.complete("Tea?", structured_outputs={"choice": ["yes", "no"]})).json["choices"]
    assert choice["text"] in ("yes", "no")
    assert (await server.complete("Tea?", structured_outputs={})).status == 400
    two = {"choice": ["yes"], "regex": "no"}
    assert (await server.complete("Tea?", structured_outputs=two)).status == 400


async def test_the_request_id_of_the_caller(server: Server) -> None:
    assert (await server.complete("a", request_id="mine")).json["id"] == "cmpl-mine"
    reply = await server.complete("a", headers={"X-Request-Id": "header"}, request_id="body")
    assert reply.json["id"] == "cmpl-header"


@pytest.mark.parametrize("form", ["TEXT", "json"])
async def test_the_load_header_for_those_who_ask(server: Server, form: str) -> None:
    reply = await server.complete("a", headers={"endpoint-load-metrics-format": form})
    header = reply.headers["endpoint-load-metrics"]
    assert header.startswith(form.upper() + " ")
    assert "num_requests_waiting" in header
    assert "endpoint-load-metrics" not in (await server.complete("a")).headers
