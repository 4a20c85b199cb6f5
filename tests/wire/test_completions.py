"""List requests are written, and their replies read, as vLLM means them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.errors import BadReply, ServerError
from aurora_pool.messages import MOST_TOKENS, Sampling, Usage
from aurora_pool.wire.answer import Answer, finished
from aurora_pool.wire.completions import CompletionsReader, encode_request, sampling_fields
from tests.wire.bodies import choice, completion, error, usage


def read(reader: CompletionsReader, *events: bytes) -> tuple[list[int], list[Answer]]:
    """Read events; return how many prompts have started and what has finished."""
    reader.events(events)
    return reader.take()


class TestRequests:
    def test_a_streamed_list_asks_for_two_events_per_choice_and_for_usage_per_prompt(self) -> None:
        body = msgspec.json.decode(encode_request("m", ["a", [1, 2]], {}, 8, interval=500))
        assert body == {
            "model": "m",
            "prompt": ["a", [1, 2]],
            "max_tokens": 8,
            "stream": True,
            "stream_interval": 500,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }

    def test_a_plain_list_has_no_stream_fields(self) -> None:
        body = msgspec.json.decode(encode_request("m", ["a"], {}, None))
        assert body == {"model": "m", "prompt": ["a"]}

    def test_only_what_is_set_is_sent(self) -> None:
        assert sampling_fields(Sampling()) == {}
        assert sampling_fields(Sampling(temperature=0.0, stop=("a", "b"), return_token_ids=True)) == {
            "temperature": 0.0,
            "stop": ("a", "b"),
            "return_token_ids": True,
        }

    def test_extra_fields_win(self) -> None:
        fields = sampling_fields(Sampling(temperature=1.0, n=2, extra={"temperature": 0.5, "max_tokens": 3}))
        assert fields == {"temperature": 0.5, "n": 2, "max_tokens": 3}
        assert msgspec.json.decode(encode_request("m", ["a"], fields, 9))["max_tokens"] == 3

    @given(st.lists(st.text(), min_size=1))
    def test_any_text_survives(self, prompts: list[str]) -> None:
        assert msgspec.json.decode(encode_request("m", prompts, {}, 1, interval=1))["prompt"] == prompts


class TestStreams:
    def test_two_events_per_choice(self) -> None:
        reader = CompletionsReader(2)
        first = read(
            reader,
            completion(choice(0, " The"), usage=usage(3, 1)),
            completion(choice(1, " Pari"), usage=usage(5, 1)),
            completion(choice(1, "s.", "stop", stop_reason=None), usage=usage(5, 3)),
        )
        assert first == ([0, 1], [Answer(1, " Paris.", "stop", Usage(5, 3), started=True)])
        second = read(
            reader,
            completion(choice(0, " end", "length"), usage=usage(3, 16)),
            completion(usage=usage(8, 19)),
            b"[DONE]",
        )
        assert second == ([], [Answer(0, " The end", "length", Usage(3, 16), started=True)])

    def test_an_event_per_token_as_older_servers_send_them(self) -> None:
        reader = CompletionsReader(2)
        events = [completion(choice(slot, f"{n} "), usage=usage(2, n + 1)) for n in range(20) for slot in (0, 1)]
        ends = [completion(choice(slot, "", "stop"), usage=usage(2, 21)) for slot in (1, 0)]
        started, answers = read(reader, *events, *ends)
        text = "".join(f"{n} " for n in range(20))
        assert sorted(started) == [0, 1]
        assert [(a.slot, a.text) for a in answers] == [(1, text), (0, text)]
        assert finished(answers).tokens == [21, 21]

    def test_a_choice_whose_first_event_is_its_last(self) -> None:
        started, answers = read(CompletionsReader(1), completion(choice(0, "x", "length"), usage=usage(1, 1)))
        assert started == []
        assert answers == [Answer(0, "x", "length", Usage(1, 1))]

    def test_the_first_event_may_have_no_text(self) -> None:
        started, answers = read(
            CompletionsReader(1), completion(choice(0, "")), completion(choice(0, "all", "stop"), usage=usage(1, 4))
        )
        assert started == [0]
        assert [a.text for a in answers] == ["all"]
        assert finished(answers).tokens == [4]

    def test_a_choice_without_usage_counts_its_token_ids_or_reckons_from_its_text(self) -> None:
        _, (counted,) = read(CompletionsReader(1), completion(choice(0, "x" * 40, "stop", token_ids=[1, 2, 3])))
        _, (reckoned,) = read(CompletionsReader(1), completion(choice(0, "x" * 40, "stop")))
        assert finished([counted, reckoned]).tokens == [3, 10]

    def test_an_answer_has_a_token_at_least_unless_it_is_told_to_have_none(self) -> None:
        told, vector = Answer(0, "", usage=Usage(1, 0)), Answer(1, "", embedding=b"")
        assert finished([Answer(0, ""), Answer(0, "abc"), told, vector]).tokens == [1, 1, 0, 0]
        assert finished([Answer(0, "x" * 4), Answer(0, "x" * 4 * (MOST_TOKENS + 9))]).tokens == [1, MOST_TOKENS]

    def test_token_ids_and_logprobs_of_the_parts_add_up(self) -> None:
        def logprobs(*tokens: str) -> dict[str, Any]:
            return {
                "text_offset": [0] * len(tokens),
                "token_logprobs": [-0.5] * len(tokens),
                "tokens": list(tokens),
                "top_logprobs": [{token: -0.5} for token in tokens],
            }

        reader = CompletionsReader(1)
        _, (answer,) = read(
            reader,
            completion(choice(0, " a", logprobs=logprobs(" a"), token_ids=[1], prompt_token_ids=[9, 8])),
            completion(choice(0, " b c", "stop", logprobs=logprobs(" b", " c"), token_ids=[2, 3])),
        )
        assert answer.token_ids == [1, 2, 3]
        assert answer.prompt_token_ids == [9, 8]
        assert answer.logprobs is not None
        assert answer.logprobs.tokens == [" a", " b", " c"]
        assert answer.logprobs.top == [{" a": -0.5}, {" b": -0.5}, {" c": -0.5}]

    def test_several_samples_of_a_prompt_are_one_answer(self) -> None:
        reader = CompletionsReader(2, n=2)
        started, answers = read(
            reader,
            completion(choice(3, "d1"), usage=usage(7, 1)),
            completion(choice(2, "c1"), usage=usage(7, 1)),
            completion(choice(3, "d2", "stop"), usage=usage(7, 5)),
            completion(choice(0, "a1"), usage=usage(4, 1)),
            completion(choice(2, "c2", "length"), usage=usage(7, 8)),
        )
        assert sorted(started) == [0, 1]
        (answer,) = answers
        assert (answer.slot, answer.text, answer.finish_reason) == (1, "c1c2", "length")
        assert [(sample.text, sample.finish_reason) for sample in answer.samples] == [
            ("c1c2", "length"),
            ("d1d2", "stop"),
        ]
        assert answer.usage == Usage(7, 13)

    def test_one_aborted_sample_makes_the_answer_unfinished(self) -> None:
        reader = CompletionsReader(1, n=2)
        _, (answer,) = read(reader, completion(choice(0, "a", "stop")), completion(choice(1, "b", "abort")))
        assert answer.finish_reason == "abort"

    def test_an_error_event_is_an_error_though_done_follows(self) -> None:
        reader = CompletionsReader(2)
        read(reader, completion(choice(0, "kept", "stop")))
        with pytest.raises(ServerError, match="EngineCore encountered") as raised:
            read(reader, error("EngineCore encountered an issue.", 500, "InternalServerError"))
        assert raised.value.status == 500

    def test_an_error_event_has_the_status_of_its_code(self) -> None:
        with pytest.raises(ServerError) as raised:
            read(CompletionsReader(1), error("The engine is currently busy", 503, "Service Unavailable"))
        assert raised.value.status == 503

    @pytest.mark.parametrize("index", [2, -1, 1000])
    def test_a_choice_that_nobody_asked_for_is_a_bad_reply(self, index: int) -> None:
        with pytest.raises(BadReply, match=f"index {index}"):
            read(CompletionsReader(2), completion(choice(index, "x", "stop")))

    @pytest.mark.parametrize(
        "data", [b"<html>", b"[]", b"{", b'{"choices":[{"text":"no index"},{"text":"nor here"}]}', b"\xff\xfe"]
    )
    def test_what_is_no_event_is_a_bad_reply(self, data: bytes) -> None:
        with pytest.raises(BadReply, match="not what the API promises"):
            read(CompletionsReader(1), data)


@given(
    st.lists(st.lists(st.text(max_size=4), min_size=1, max_size=5), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_events_of_different_choices_may_come_in_any_order(texts: list[list[str]], rng: Any) -> None:
    reader = CompletionsReader(len(texts))
    left = {slot: list(parts) for slot, parts in enumerate(texts)}
    found: dict[int, str] = {}
    while left:
        slot = rng.choice(sorted(left))
        part = left[slot].pop(0)
        last = not left[slot]
        if last:
            del left[slot]
        _, answers = read(reader, completion(choice(slot, part, "stop" if last else None)))
        found.update((answer.slot, answer.text) for answer in answers)
    assert found == {slot: "".join(parts) for slot, parts in enumerate(texts)}


class TestWholeBodies:
    def test_a_list(self) -> None:
        reader = CompletionsReader(2)
        answers = reader.whole(completion(choice(0, "a", "stop"), choice(1, "b", "length"), usage=usage(9, 16))).answers
        assert [(a.slot, a.text, a.finish_reason, a.usage) for a in answers] == [
            (0, "a", "stop", None),
            (1, "b", "length", None),
        ]

    def test_a_prompt_sampled_alone_has_the_usage_of_all_its_samples(self) -> None:
        body = completion(choice(0, "a", "stop"), choice(1, "b", "stop"), usage=usage(4, 9))
        (answer,) = CompletionsReader(1, n=2).whole(body).answers
        assert answer.usage == Usage(4, 9)

    def test_a_list_of_one_has_its_usage(self) -> None:
        (answer,) = CompletionsReader(1).whole(completion(choice(0, "a", "stop"), usage=usage(9, 16))).answers
        assert answer.usage == Usage(9, 16)

    def test_samples(self) -> None:
        choices = [choice(index, str(index), "stop") for index in range(6)]
        answers = CompletionsReader(2, n=3).whole(completion(*choices)).answers
        assert [[sample.text for sample in answer.samples] for answer in answers] == [["0", "1", "2"], ["3", "4", "5"]]

    def test_choices_in_another_order_find_their_prompts(self) -> None:
        answers = CompletionsReader(2).whole(completion(choice(1, "b", "stop"), choice(0, "a", "stop"))).answers
        assert {answer.slot: answer.text for answer in answers} == {0: "a", 1: "b"}

    def test_prompt_logprobs(self) -> None:
        found = [None, {"42": {"logprob": -1.5, "rank": 1, "decoded_token": " is"}}]
        (answer,) = CompletionsReader(1).whole(completion(choice(0, "a", "stop", prompt_logprobs=found))).answers
        assert answer.prompt_logprobs == found

    def test_a_missing_choice_is_a_bad_reply(self) -> None:
        with pytest.raises(BadReply, match="expected 2 choices, got 1"):
            CompletionsReader(2).whole(completion(choice(0, "a", "stop")))

    def test_an_error_with_a_good_status_is_an_error(self) -> None:
        with pytest.raises(ServerError, match="400: no"):
            CompletionsReader(1).whole(error("no", 400))
