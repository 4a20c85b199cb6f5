from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.messages import Response, Sampling
from aurora_pool.patterns import Blackboard, Role
from aurora_pool.patterns.blackboard import Contribution, LostContribution
from tests.patterns.fake_pool import FakePool, failed

THINKER = Role("thinker", "ideas", "think {round}: {question}{critique}")
CRITIC = Role("critic", "critique", "criticise {round}: {ideas}", max_tokens=9)


async def test_roles_read_the_board_as_the_round_found_it_and_write_at_the_same_time() -> None:
    pool = FakePool(lambda text: f"[{text}]")
    board = Blackboard({"question": "why?", "ideas": "", "critique": ""}, [THINKER, CRITIC])
    result = await board.run(pool, rounds=2)
    assert result.sections == {
        "question": "why?",
        "ideas": "[think 1: why?]\n\n[think 2: why?[criticise 1: ]]",
        "critique": "[criticise 1: ]\n\n[criticise 2: [think 1: why?]]",
    }
    assert (result.converged, result.rounds, result.lost) == (False, 2, ())
    assert board.contributions("ideas")[0] == Contribution("ideas", "[think 1: why?]", "thinker", 1)
    assert board.contributions("question") == (Contribution("question", "why?"),)
    assert [p.max_tokens for p in pool.sent] == [None, 9] * 2
    # Roles without a tag share one call, so that their prompts share list requests.
    assert len(pool.closed) == 2


async def test_a_round_that_changes_nothing_ends_it() -> None:
    answers = {"1": "a", "2": "b", "3": " a "}
    pool = FakePool(lambda text: answers[text.split()[1][0]])
    result = await Blackboard(["ideas"], [Role("x", "ideas", "think {round}: {ideas}")]).run(pool, rounds=9)
    assert (result.converged, result.rounds, result.sections["ideas"]) == (True, 3, "a\n\nb")


async def test_the_caller_may_say_when_it_has_converged() -> None:
    pool = FakePool(str)
    board = Blackboard(["ideas"], [Role("x", "ideas", "{round} {ideas}")])
    result = await board.run(pool, 9, converged=lambda board: len(board.contributions("ideas")) == 2)
    assert (result.converged, result.rounds) == (True, 2)
    assert (await board.run(pool, 1)).rounds == 3


async def test_a_section_may_be_rewritten_each_round() -> None:
    roles = [Role("x", "ideas", "idea {round}{summary}"), Role("y", "summary", "sum {round}{ideas}", replace=True)]
    board = Blackboard(["ideas", "summary"], roles)
    await board.run(FakePool(lambda text: text[:6]), 3)
    assert (board.text("ideas"), board.text("summary")) == ("idea 1\n\nidea 2\n\nidea 3", "sum 3i")


async def test_a_rewritten_section_stays_when_its_writer_fails() -> None:
    role = Role("y", "summary", "sum {round} {summary}", replace=True)
    pool = FakePool(lambda text: "kept" if text.startswith("sum 1") else failed())
    board = Blackboard(["summary"], [role])
    result = await board.run(pool, 5)
    assert (result.sections["summary"], result.rounds) == ("kept", 2)


async def test_roles_work_on_the_agents_with_their_tag() -> None:
    seen: list[tuple[int, Sequence[str]]] = []

    class Recording(FakePool):
        async def send_all_batched(self, prompts: Any, max_tokens: Any = None, **options: Any) -> list[Response]:
            prompts = list(prompts)
            seen.append((self.size, [str(prompt.content)[:5] for prompt in prompts]))
            return await super().send_all_batched(prompts, max_tokens, **options)

    tags = [{"role": "critic"}, {}, {"role": "critic"}, {}]
    roles = [
        Role("critic", "a", "crit {a}", tag=("role", "critic"), count=3),
        Role("all", "a", "all  {a}"),
    ]
    await Blackboard(["a"], roles).run(Recording(str, tags=tags), 1, sampling=Sampling(seed=1))
    assert sorted(seen) == [(2, ["crit "] * 3), (4, ["all  "])]


async def test_a_lost_contribution_is_told_and_the_round_goes_on() -> None:
    pool = FakePool(lambda text: failed("broken") if text.startswith("criticise") else text)
    board = Blackboard({"question": "why?", "ideas": "", "critique": ""}, [THINKER, CRITIC])
    result = await board.run(pool, 2)
    assert result.lost == tuple(LostContribution("critic", number, "broken", "exhausted") for number in (1, 2))
    assert result.sections["ideas"] == "think 1: why?\n\nthink 2: why?"


async def test_a_round_that_loses_everything_ends_the_run() -> None:
    board = Blackboard(["ideas", "critique"], [CRITIC])
    result = await board.run(FakePool(lambda _: failed()), 5)
    assert (result.converged, result.rounds, len(result.lost)) == (False, 1, 1)


async def test_a_role_whose_tag_no_agent_has_is_named() -> None:
    role = Role("critic", "a", "{a}", tag=("role", "critic"))
    with pytest.raises(NoAgentsError, match="no agent has the tag role=critic of role 'critic'"):
        await Blackboard(["a"], [role]).run(FakePool(str), 1)


@pytest.mark.parametrize(
    ("sections", "roles", "match"),
    [
        (["a"], [], "at least one role"),
        (["a", "round"], [Role("x", "a", "{a}")], "can't be called 'round'"),
        (["a"], [Role("x", "b", "{a}")], "section 'b'; the board has a"),
        (["a"], [Role("x", "a", "{b}")], "reads no section"),
        (["a"], [Role("x", "a", "{a}"), Role("x", "a", "{a}")], "two roles are called 'x'"),
    ],
)
def test_misuse(sections: list[str], roles: list[Role], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Blackboard(sections, roles)


async def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds: expected a whole number of at least 1, got 0"):
        await Blackboard(["a"], [Role("x", "a", "{a}")]).run(FakePool(str), 0)


async def test_a_role_may_see_the_last_contributions_only() -> None:
    pool = FakePool(lambda _: f"idea {len(pool.answered)}")
    board = Blackboard({"ideas": "first"}, [Role("thinker", "ideas", "{round}:{ideas}", last=2)])
    await board.run(pool, 4)
    assert pool.answered == ["1:first", "2:first\n\nidea 1", "3:idea 1\n\nidea 2", "4:idea 2\n\nidea 3"]
    assert board.text("ideas", last=1) == "idea 4"
    assert len(board.contributions("ideas")) == 5
