from __future__ import annotations

from collections.abc import Iterator

import pytest

from aurora_pool.errors import ConfigError, ServerError
from aurora_pool.messages import Response
from aurora_pool.patterns import broadcast_and_reduce, map_reduce, strip_reasoning, tree_reduce
from aurora_pool.patterns.reduce import SPARE_TOKENS
from tests.patterns.fake_pool import FakePool, failed


def merge(text: str) -> str:
    """Answer "leaf x" with "x", and "merge n: a b" with "(a b)"."""
    kind, _, rest = text.partition(" ")
    return rest if kind == "leaf" else f"({' '.join(rest.split(': ', 1)[1].split())})"


async def test_tree_reduce_merges_neighbours_level_by_level() -> None:
    pool = FakePool(merge)
    result = await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", 3, list("abcdefgh"), max_tokens=5)
    assert result.success
    assert result.text == "((a b) (c d e) (f g h))"
    assert (result.leaves, result.levels, result.calls, result.completion_tokens) == (8, 2, 12, 12)
    assert result.prompt_tokens == 8 * 2 + 4 * 2 + 2 + 3 + 3 + 8
    assert {str(p.content)[:8]: p.max_tokens for p in pool.sent if str(p.content).startswith("merge")} == {
        "merge 1:": 99,
        "merge 2:": 99,
    }
    assert {p.max_tokens for p in pool.sent if str(p.content).startswith("leaf")} == {5}


async def test_a_group_is_merged_while_leaves_are_still_out() -> None:
    pool = FakePool(merge, window=4)
    await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", 2, range(40))
    order = [text.partition(" ")[0] for text in pool.answered]
    assert order.index("merge") < 39 - order[::-1].index("leaf")


async def test_braces_in_answers_and_items_survive() -> None:
    pool = FakePool(lambda text: '{"level": {responses}}' if text.startswith("leaf") else text)
    result = await tree_reduce(pool, "leaf {item}", "{level}\n{responses}", items=["{item}", "{0}"])
    assert result.text == '1\n{"level": {responses}}\n\n{"level": {responses}}'


async def test_one_call_is_opened_and_closed() -> None:
    pool = FakePool(merge)
    await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", 2, range(9))
    assert len(pool.closed) == 1


async def test_a_failed_agent_costs_its_leaf_and_the_result_names_it() -> None:
    pool = FakePool(lambda text: failed("400: too long", "rejected") if text == "leaf c" else merge(text))
    result = await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", 2, list("abcd"))
    assert not result.success
    assert result.text == "((a b) d)"
    assert result.error == "1 of 4 leaves lost (leaf 2: 400: too long)"


async def test_all_leaves_lost() -> None:
    result = await tree_reduce(FakePool(lambda _: failed()), "leaf {item}", "{responses}", items=list("abc"))
    assert (result.success, result.text, len(result.lost), result.calls) == (False, "", 3, 3)


async def test_a_reducer_that_fails_once_is_asked_again() -> None:
    failures = iter([failed()])
    pool = FakePool(lambda text: next(failures, merge(text)) if text.startswith("merge") else merge(text))
    result = await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", items=["a", "b"])
    assert (result.success, result.text, result.calls) == (True, "(a b)", 4)


async def test_reduce_prompts_fit_the_models_context() -> None:
    longest = 0

    def answer(text: str) -> Response | str:
        nonlocal longest
        longest = max(longest, len(text.split()))
        return "w " * 10

    pool = FakePool(answer, context=64 + SPARE_TOKENS, max_tokens_aggregation=20)
    result = await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", 50, range(50))
    assert result.success
    assert longest <= 44


async def test_no_template_is_refused_by_a_cautious_estimate() -> None:
    class Cautious(FakePool):
        def estimate_tokens(self, text: str) -> int:
            return 3 * len(text.split())

    pool = Cautious(merge, context=100 + SPARE_TOKENS, max_tokens_aggregation=20)
    long = "word " * 50 + "merge {level}: {responses}"
    assert (await tree_reduce(pool, "leaf {item}", long, items=["a", "b"])).success


async def test_where_nobody_counts_tokens_the_estimate_must_do() -> None:
    class Deaf(FakePool):
        async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            raise ServerError(404, "Not Found")

    pool = Deaf(merge, context=100 + SPARE_TOKENS, max_tokens_aggregation=20)
    assert (await tree_reduce(pool, "leaf {item}", "merge {level}: {responses}", items=["a", "b"])).success
    with pytest.raises(ConfigError, match="too long: 90 tokens"):
        await tree_reduce(pool, "leaf {item}", "word " * 90 + "{responses}", items=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"items": []}, "no items"),
        ({"fanin": 1}, "at least 2, got 1"),
        ({"prompt": "leaf"}, r"prompt has no \{item\}"),
        ({"reduce_prompt": "merge {response}"}, r"reduce_prompt has no \{responses\}"),
        (
            {"reduce_prompt": "word " * 90 + "{responses}"},
            r"leave no room for \{responses\} in the model's context of 228",
        ),
    ],
)
async def test_misuse_is_told_before_anything_is_sent(arguments: dict[str, object], match: str) -> None:
    pool = FakePool(merge, context=100 + SPARE_TOKENS, max_tokens_aggregation=None)
    good: dict[str, object] = {"prompt": "leaf {item}", "reduce_prompt": "merge {responses}", "items": ["a", "b"]}
    with pytest.raises(ConfigError, match=match):
        await tree_reduce(pool, **(good | arguments))  # type: ignore[arg-type]  # misuse is the point
    assert pool.sent == []


async def test_broadcast_and_reduce_merges_the_agents_answers() -> None:
    pool = FakePool(merge, size=5)
    result = await broadcast_and_reduce(pool, "leaf x", "merge {level}: {responses}", 3, max_tokens=6)
    assert (result.text, result.leaves, result.calls) == ("((x x) (x x x))", 5, 8)
    assert [prompt.max_tokens for prompt in pool.sent] == [6] * 5 + [99] * 3


async def test_broadcast_and_reduce_names_the_agents_that_failed() -> None:
    replies: Iterator[Response | str] = iter(["a", failed("connection lost"), "c"])
    pool = FakePool(lambda text: next(replies) if text == "leaf" else merge(text), size=3, window=1)
    result = await broadcast_and_reduce(pool, "leaf", "merge {level}: {responses}")
    assert not result.success
    assert [str(leaf) for leaf in result.lost] == ["agent agent1:8000: connection lost"]


async def test_map_reduce_gives_one_result_per_key() -> None:
    pool = FakePool(merge)
    results = await map_reduce(
        pool, range(7), "leaf {item}", "merge {key}: {responses}", lambda n: "odd" if n % 2 else "even", fanin=2
    )
    assert {key: result.text for key, result in results.items()} == {"even": "((0 2) (4 6))", "odd": "(1 (3 5))"}
    assert list(results) == ["even", "odd"]
    assert sum(text.startswith("merge even") for text in pool.answered) == 3
    assert len(pool.closed) == 1


async def test_map_reduce_refuses_no_items() -> None:
    with pytest.raises(ConfigError, match="no items"):
        await map_reduce(FakePool(merge), [], "{item}", "{responses}", key=str)


async def test_a_key_is_put_in_literally() -> None:
    results = await map_reduce(FakePool(str), ["a", "b"], "{item}", "{key} {responses}", key=lambda _: "{responses}")
    assert results["{responses}"].text == "{responses} a\n\nb"


async def test_reduce_steps_have_a_limit_of_their_own_and_answers_are_cleaned() -> None:
    def answer(prompt: str) -> str:
        assert "<think>" not in prompt
        return f"<think>about {prompt}</think>\n\n({prompt})"

    pool = FakePool(answer)
    result = await tree_reduce(
        pool, "{item}", "{responses}", items=["a", "b"], max_tokens=5, reduce_max_tokens=7, clean=strip_reasoning
    )
    assert result.text == "((a)\n\n(b))"
    assert [prompt.max_tokens for prompt in pool.sent] == [5, 5, 7]


async def test_the_agents_answers_to_a_broadcast_are_cleaned_too() -> None:
    pool = FakePool(lambda prompt: f"<think>{prompt}</think>{len(pool.answered)}", size=2)
    result = await broadcast_and_reduce(pool, "Say.", "merge {responses}", clean=strip_reasoning)
    assert result.text == "3"
    assert max(pool.answered) in ("merge 1\n\n2", "merge 2\n\n1")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>Hm.</think>\n\n42", "42"),
        ("Hm, so it is.</think>42", "42"),
        ("<think>cut off in the mid", ""),
        ("a <think>b</think> c <think>d</think> e", "a  c  e"),
        ("nothing thought", "nothing thought"),
        ("<think>\n\n</think>\n\n", ""),
    ],
)
def test_reasoning_is_stripped(text: str, left: str) -> None:
    assert strip_reasoning(text) == left
