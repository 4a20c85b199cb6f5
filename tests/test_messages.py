"""Prompts, sampling and responses are plain values whose field order is part of the API."""

from __future__ import annotations

import copy
import pickle
from typing import Any, get_args

import msgspec
import pytest

from aurora_pool.errors import NoAgentsError, PoolError
from aurora_pool.messages import (
    AttemptsExhausted,
    ErrorKind,
    Logprobs,
    Prompt,
    PromptFailed,
    PromptPoisoned,
    PromptRejected,
    PromptTimedOut,
    Response,
    Sample,
    Sampling,
    Usage,
)

VALUES = [
    Prompt("Name a colour.", Sampling(temperature=0.0), max_tokens=8),
    Sampling(temperature=0.5, stop=("\n", "END"), extra={"min_tokens": 4}),
    Usage(3, 5),
    Logprobs([" a"], [-0.5], [{" a": -0.5}]),
    Sample(" red", "stop"),
    Response(True, " red", agent_index=0, finish_reason="stop", samples=(Sample(" red"), Sample(" blue"))),
]


def test_the_fields_of_a_response_stand_in_the_documented_order() -> None:
    assert Response.__struct_fields__[:13] == (
        "success",
        "text",
        "error",
        "agent_index",
        "error_kind",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "reasoning",
        "logprobs",
        "token_ids",
        "attempts",
        "latency",
    )


def test_a_response_needs_no_more_than_success_and_text() -> None:
    response = Response(False, "", "connection refused", 3)
    assert (response.error, response.agent_index) == ("connection refused", 3)
    assert response.attempts == 0
    assert response.finish_reason is None


def test_a_response_has_all_its_texts() -> None:
    assert Response(True, " red").texts == (" red",)
    assert Response(True, " red", samples=(Sample(" red"), Sample(" blue"))).texts == (" red", " blue")


def test_a_prompt_needs_no_more_than_its_content() -> None:
    assert Prompt([1, 2, 3]) == Prompt([1, 2, 3], None, None)
    assert Prompt([{"role": "user", "content": "Hello"}]).max_tokens is None


def test_sampling_sends_nothing_that_was_not_asked_for() -> None:
    assert msgspec.to_builtins(Sampling()) == {}
    assert msgspec.to_builtins(Sampling(temperature=0.0, n=2)) == {"temperature": 0.0, "n": 2}


def test_sampling_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        Sampling(0.5)  # type: ignore[call-arg]


def test_two_samplings_share_no_extra_fields() -> None:
    first, second = Sampling(), Sampling()
    assert first.extra == {}
    assert first.extra is not second.extra


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_is_a_frozen_value(value: Any) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301  (made in this line)
    assert msgspec.structs.replace(value) == value
    assert not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], None)


@pytest.mark.parametrize("value", VALUES[1:], ids=lambda value: type(value).__name__)
def test_goes_through_json(value: Any) -> None:
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value


ERRORS: dict[str, type[PoolError]] = {
    "rejected": PromptRejected,
    "poison": PromptPoisoned,
    "timeout": PromptTimedOut,
    "exhausted": AttemptsExhausted,
    "no_agents": NoAgentsError,
    "invalid": PromptFailed,
    "length": PromptFailed,
}


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_a_failed_response_raises_the_error_of_its_kind(kind: ErrorKind) -> None:
    failed = Response(False, "half", "the reason", error_kind=kind)
    with pytest.raises(PoolError, match="the reason") as caught:
        failed.raise_for_status()
    assert type(caught.value) is ERRORS[kind]
    if isinstance(caught.value, PromptFailed):
        assert caught.value.response is failed


def test_an_answer_raises_nothing() -> None:
    answer = Response(True, " red")
    assert answer.raise_for_status() is answer
