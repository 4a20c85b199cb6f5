from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.aggregators import (
    FailureReport,
    Merge,
    Statistics,
    Vote,
    best_of,
    concat,
    failure_report,
    majority_vote,
    number_in,
    statistics,
    structured_merge,
    top_k,
)
from aurora_pool.errors import ConfigError
from aurora_pool.messages import Response

LOST = Response(False, "half an ans", "500: broken", error_kind="exhausted")


def answers(*texts: str) -> list[Response]:
    return [Response(True, text) for text in texts]


def length(response: Response) -> int:
    return len(response.text)


def test_like_answers_count_together_and_failures_do_not_vote() -> None:
    vote = majority_vote([*answers("Yes.", " yes", "**No**", "'YES'"), LOST, LOST])
    assert vote == Vote("yes", 0.75, {"yes": 3, "no": 1})


def test_of_a_tie_the_first_wins_and_it_is_told() -> None:
    vote = majority_vote(answers("b", "a", "a", "b"))
    assert (vote.winner, vote.share, vote.tied) == ("b", 0.5, True)


def test_spoilt_votes_are_left_out() -> None:
    vote = majority_vote(answers("A) x", "A) y", "?"), key=lambda r: r.text[0] if r.text[0].isalpha() else None)
    assert vote == Vote("A", 1.0, {"A": 2})


@pytest.mark.parametrize("responses", [[], [LOST]])
def test_a_vote_without_voters_has_no_winner(responses: list[Response]) -> None:
    assert majority_vote(responses) == Vote(None, 0.0, {})


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_nobody_has_more_votes_than_the_winner(texts: list[str]) -> None:
    vote = majority_vote(answers(*texts))
    assert vote.winner is not None
    assert vote.counts[vote.winner] == max(texts.count(text) for text in texts)


def test_concat_leaves_failures_out() -> None:
    assert concat([*answers("a"), LOST, *answers("b")]) == "a\n\nb"


def test_best_of_takes_the_first_of_equals_and_no_failure() -> None:
    best = best_of([LOST, *answers("aa", "bb", "c")], length)
    assert best is not None
    assert best.text == "aa"
    assert best_of([LOST], length) is None


def test_top_k_is_best_first_and_keeps_the_order_of_equals() -> None:
    responses = [*answers("a", "bbb", "cc", "ddd"), LOST]
    assert [r.text for r in top_k(responses, 3, length)] == ["bbb", "ddd", "cc"]
    assert len(top_k(responses, 99, length)) == 4


def test_top_k_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1: got 0"):
        top_k([], 0, length)


def test_objects_merge_key_by_key_and_lists_end_to_end() -> None:
    merge = structured_merge(
        [
            *answers('{"a": {"x": [1, 2]}, "n": 1, "note": null}', "no JSON here"),
            LOST,
            *answers('```json\n{"a": {"x": [2, 3], "y": true}, "n": 2}\n```', 'Sure! {"n": 2, "note": "ok"} Bye.'),
        ]
    )
    assert merge == Merge({"a": {"x": [1, 2, 3], "y": True}, "n": 2, "note": "ok"}, unreadable=(1,), conflicts=("$.n",))


def test_values_of_different_kinds_are_a_conflict() -> None:
    assert structured_merge(answers('{"a": 1}', '{"a": [1]}')) == Merge({"a": 1}, conflicts=("$.a",))


def test_true_and_one_are_different_values() -> None:
    assert structured_merge(answers("true", "1", "1")) == Merge(1, conflicts=("$",))


def test_merging_nothing_gives_null() -> None:
    assert structured_merge([LOST]) == Merge(None)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
def test_merging_equal_values_changes_nothing(value: object) -> None:
    text = json.dumps(value)
    assert structured_merge(answers(text, text, text)) == Merge(json.loads(text))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is -4.5e2.", -450.0),
        ("1,234 of 2,000", 1234.0),
        (".5", 0.5),
        ("10.", 10.0),
        ("none", None),
        ("1_000", 1000.0),
    ],
)
def test_number_in(text: str, number: float | None) -> None:
    assert number_in(Response(True, text)) == number


def test_statistics_of_the_numbers_in_the_texts() -> None:
    assert statistics([*answers("1", "2", "9", "?"), LOST]) == Statistics(3, 4.0, 19**0.5, 1.0, 2.0, 9.0)
    assert statistics(answers("7")) == Statistics(1, 7.0, 0.0, 7.0, 7.0, 7.0)
    assert statistics(answers("?")) is None


def test_statistics_of_anything_else() -> None:
    found = statistics([Response(True, "", latency=2.0), Response(True, "", latency=4.0)], lambda r: r.latency)
    assert found is not None
    assert found.mean == 3.0


def test_failures_are_counted_by_kind_and_message() -> None:
    report = failure_report([*answers("fine"), LOST, Response(False, "", "400: empty", error_kind="rejected"), LOST])
    assert report == FailureReport(
        4, 3, {"exhausted": 2, "rejected": 1}, {"500: broken": 2, "400: empty": 1}, indices=(1, 2, 3)
    )
    assert str(report) == "3 of 4 prompts failed\n     2  500: broken\n     1  400: empty"


def test_no_failures() -> None:
    assert str(failure_report(answers("a", "b"))) == "all 2 prompts were answered"
