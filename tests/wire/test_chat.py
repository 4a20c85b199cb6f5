"""Chat requests and replies."""

from __future__ import annotations

import msgspec
import pytest

from aurora_pool.errors import BadReply, ServerError
from aurora_pool.messages import Usage
from aurora_pool.wire.chat import ChatReader, as_messages, encode_request
from tests.wire.bodies import chat, chat_choice, chat_message, error, usage


def test_text_is_what_the_user_says() -> None:
    assert as_messages("Hi") == [{"role": "user", "content": "Hi"}]
    assert as_messages([{"role": "system", "content": "x"}]) == [{"role": "system", "content": "x"}]


@pytest.mark.parametrize(("fields", "written"), [({"logprobs": 0}, (True, 0)), ({"logprobs": 3}, (True, 3))])
def test_logprobs_become_the_two_fields_of_chat(fields: dict[str, int], written: tuple[bool, int]) -> None:
    body = msgspec.json.decode(encode_request("m", as_messages("Hi"), fields, None))
    assert (body["logprobs"], body["top_logprobs"]) == written
    assert "max_tokens" not in body


def test_an_answer() -> None:
    reader = ChatReader()
    (answer,) = reader.whole(chat(chat_choice(0, chat_message("Hello.")), usage=usage(12, 4))).answers
    assert (answer.slot, answer.text, answer.finish_reason, answer.usage) == (0, "Hello.", "stop", Usage(12, 4))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thoughts_are_read_under_the_name_of_either_version(field: str) -> None:
    (answer,) = ChatReader().whole(chat(chat_choice(0, chat_message("42", **{field: "Let me see."})))).answers
    assert (answer.text, answer.reasoning) == ("42", "Let me see.")


def test_thoughts_without_an_answer_are_no_text() -> None:
    (answer,) = ChatReader().whole(chat(chat_choice(0, chat_message(None, reasoning="Hm"), "length"))).answers
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("", "Hm", "length")


def test_logprobs() -> None:
    top = [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105]}, {"token": "Yo", "logprob": -2.5, "bytes": [89, 111]}]
    content = [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": top}]
    (answer,) = ChatReader().whole(chat(chat_choice(0, chat_message("Hi"), logprobs={"content": content}))).answers
    assert answer.logprobs is not None
    assert answer.logprobs.tokens == ["Hi"]
    assert answer.logprobs.token_logprobs == [-0.1]
    assert answer.logprobs.top == [{"Hi": -0.1, "Yo": -2.5}]


def test_samples_come_in_their_order() -> None:
    choices = [chat_choice(index, chat_message(str(index))) for index in (2, 0, 1)]
    (answer,) = ChatReader(n=3).whole(chat(*choices, usage=usage(5, 9))).answers
    assert [sample.text for sample in answer.samples] == ["0", "1", "2"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_the_tokens_of_all_samples_are_counted_once() -> None:
    choices = [chat_choice(index, chat_message(str(index))) for index in range(3)]
    (answer,) = ChatReader(n=3).whole(chat(*choices, usage=usage(5, 9))).answers
    assert answer.usage == Usage(5, 9)


def test_a_missing_choice_is_a_bad_reply() -> None:
    with pytest.raises(BadReply, match="expected 2 choices, got 1"):
        ChatReader(n=2).whole(chat(chat_choice(0, chat_message("x"))))


def test_an_error_with_a_good_status_is_an_error() -> None:
    with pytest.raises(ServerError, match="500: gone"):
        ChatReader().whole(error("gone", 500))
