"""Answers that must be something, jobs that end early, answers that are known already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.jobs import Job, JobOptions, read_answers, run_job
from aurora_pool.jobs.guardrails import Guard, Guardrails, parse_failures, parse_price
from aurora_pool.jobs.prompt_maker import PromptMaker
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.jobs.validation import Expectation, fits_schema, is_json, matches
from aurora_pool.messages import Response
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records

pytestmark = pytest.mark.simulated_clock

MANY = [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 8} for n in range(2000)]
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "good"), [('{"a": 1}', True), ('```json\n{"a": 1}\n```', True), ('{"a": "x"}', False), ("Sure!", False)]
)
def test_json_by_a_schema(text: str, good: bool) -> None:
    assert (fits_schema(SCHEMA)(text) is None) == good
    assert (is_json(text) is None) == (text != "Sure!")


def test_what_is_no_check_is_refused() -> None:
    with pytest.raises(ConfigError, match="no JSON Schema"):
        fits_schema({"type": 3})
    with pytest.raises(ConfigError, match="regular expression"):
        matches("(")


async def test_an_answer_that_will_not_do_is_asked_again_and_then_failed_with_its_text(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    asked: dict[str, int] = {}

    def third_time(text: str) -> str | None:
        asked[text] = asked.get(text, 0) + 1
        return None if "7" in text or len(asked) > 60 else "not yet"

    output = tmp_path / "out.jsonl"
    options = JobOptions(expect=Expectation(check=third_time, retries=2))
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS[:30]), output, options)
        warm = [r.body.get("temperature") for r in fleet.requests if r.path == "/v1/completions"]
    records = read_records(output)
    assert len({record["custom_id"] for record in records}) == len(records) == 30
    assert {0.3, 0.6} <= {temperature for temperature in warm if temperature}
    failed = [record for record in records if record["error"]]
    assert summary.failed == len(failed)
    for record in failed:
        assert record["error"] == {"code": "invalid", "message": "not yet"}
        assert record["response"]["body"]["choices"][0]["text"]
    answers = {answer.id: answer for answer in read_answers(output)}
    assert all(answers[record["custom_id"]].text and answers[record["custom_id"]].error for record in failed)


async def test_what_failed_a_check_is_run_again_if_asked(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:5]), tmp_path / "out.jsonl"
    never = JobOptions(expect=Expectation(check=lambda _: "no", retries=1))
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        first = await run_job(pool, source, output, never)
        assert len(received(fleet)) == 10
        same = await run_job(pool, source, output)
        healed = await run_job(pool, source, output, JobOptions(retry_failed=True))
    assert (first.failures, same.done, healed.answered) == ({"invalid": 5}, 0, 5)
    assert (first.asked_again, same.asked_again) == (5, 0)


async def test_what_was_answered_before_is_checked_as_well(tmp_path: Path, write_lines: WriteLines) -> None:
    lines = [{"prompt": prompt["prompt"]} for prompt in PROMPTS[:6]]
    output = tmp_path / "out.jsonl"
    async with fleet_of(1, reply=lambda text: text) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", lines), output)
        source = write_lines("in.jsonl", [{"prompt": "Say more."}, *lines])  # each old one has moved
        before = read_records(output)
        no_fives = Expectation(check=lambda text: "it has a 5" if "5" in text else None, retries=0)
        kept = await run_job(pool, source, output, JobOptions(expect=no_fives))
        assert len(received(fleet)) == 7
        again = await run_job(pool, source, output, JobOptions(expect=no_fives, retry_failed=True))
        assert len(received(fleet)) == 8
    assert (kept.resumed.unfit, kept.resumed.answered, kept.resumed.failed) == (1, 5, 1)
    assert (kept.ending, kept.answered, kept.failed) == ("finished", 6, 1)
    assert (again.resumed.unfit, again.resumed.retried, again.done, again.failures) == (1, 1, 1, {"invalid": 1})
    (old,) = read_records(tmp_path / "out.jsonl.superseded")
    assert old["response"]["body"]["choices"] == before[5]["response"]["body"]["choices"]
    assert {answer.id: answer.error for answer in read_answers(output)}["line-7"] == "it has a 5"


async def test_an_answer_of_another_program_that_is_not_utf_8_is_not_checked(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    source, output = write_lines("in.jsonl", [{"id": "one", "prompt": "Say 1."}]), tmp_path / "out.jsonl"
    foreign = b'{"custom_id": "one", "response": {"status_code": 200, "body": {"choices": [{"text": "caf\xe9"}]}}}\n'
    output.write_bytes(foreign)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, source, output, JobOptions(expect=Expectation(check=is_json)))
    assert (summary.resumed.unchecked, summary.resumed.unfit, summary.done) == (1, 0, 0)
    assert output.read_bytes() == foreign


async def test_a_check_that_fails_says_for_which_request(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", [{"id": "one", "prompt": "Say 1."}]), tmp_path / "out.jsonl"
    wrong: Any = str.isalnum  # which answers another question
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with pytest.raises(ConfigError, match=r"what is wrong, or None, got (True|False) for the answer to 'one'"):
            await run_job(pool, source, output, JobOptions(expect=Expectation(check=wrong)))
        with pytest.raises(ZeroDivisionError) as raised:
            await run_job(pool, source, output, JobOptions(expect=Expectation(check=lambda _: str(1 / 0))))
    assert raised.value.__notes__ == ["in the check of the answer to 'one'"]


def test_the_complaint_is_appended_if_so_told() -> None:
    expect = Expectation(check=is_json, remedy="append")
    chat = RequestReader().read(b'{"prompt": "Hi"}', 1)
    raw = RequestReader(prompt_format="raw").read(b'{"prompt": "Hi"}', 1)
    maker = PromptMaker()
    told: Any = expect.again(chat, maker.prompt(chat), "Sure!", "it is not JSON", 1).content
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert "it is not JSON" in told[2]["content"]
    assert str(expect.again(raw, maker.prompt(raw), "Sure!", "it is not JSON", 1).content).startswith("HiSure!")


async def test_an_answer_that_was_cut_is_a_failure_if_so_told(tmp_path: Path, write_lines: WriteLines) -> None:
    options = JobOptions(defaults={"max_tokens": 2}, expect=Expectation(length_is_failure=True))
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS[:10]), tmp_path / "out.jsonl", options)
        assert len(received(fleet)) == 10
    assert summary.failures["length"] == 10


# -- guardrails -------------------------------------------------------------------------------------------------------


async def test_a_hopeless_job_ends_early_and_says_why(tmp_path: Path, write_lines: WriteLines) -> None:
    asked = MANY[:1200]
    source, output = write_lines("in.jsonl", asked), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        fleet.agents[0].reject(r"Say \d*[05]\.", "no")
        for limit in ({"stop_after_failures": 3}, {"failure_share": 0.05}):
            summary = await run_job(pool, source, output, JobOptions(guardrails=Guardrails(**limit)))
            assert summary.ending == "too many failures"
            assert "failed: rejected" in summary.reason
            assert 0 < summary.remaining < len(asked)
            assert len(read_records(output)) == summary.answered + summary.failed
        done = await run_job(pool, source, output)
    assert (done.ending, done.answered, done.failed) == ("finished", 960, 240)


@pytest.mark.parametrize(
    "limit",
    [{"max_total_tokens": 500}, {"max_cost": 0.01, "prices": (parse_price("tier=large:9"), parse_price("20/20"))}],
)
async def test_a_budget_ends_a_job(tmp_path: Path, write_lines: WriteLines, limit: dict[str, Any]) -> None:
    options = JobOptions(guardrails=Guardrails(**limit))
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", MANY), tmp_path / "out.jsonl", options)
    assert (summary.ending, summary.remaining > 0) == ("budget spent", True)
    assert 500 <= summary.tokens + summary.prompt_tokens < 8_000  # what was in flight then is answered as well


def test_prices_go_by_tag() -> None:
    guard = Guard(Guardrails(max_cost=1.0, prices=(parse_price("tier=large:1/3"), parse_price("0.5"))))
    answer = Response(True, "x", prompt_tokens=1_000_000, completion_tokens=1_000_000)
    guard.spend(answer, {"tier": "large"})
    guard.spend(answer, {})
    assert guard.cost == pytest.approx(4.0 + 1.0)


@pytest.mark.parametrize("text", ["x", "0", "101%", "-3", "5.5"])
def test_invalid_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of failures"):
        parse_failures(text)
    with pytest.raises(ConfigError, match="expected a price"):
        parse_price(f"tier={text}")


# -- answers that are known -------------------------------------------------------------------------------------------


async def test_jobs_share_answers(tmp_path: Path, write_lines: WriteLines) -> None:
    lines: list[dict[str, Any]] = [{"prompt": f"Say {n}.", "temperature": 0} for n in range(20)]
    lines += [{"prompt": f"Say {n}.", "seed": 1} for n in range(20)]
    lines += [{"prompt": f"Say {n}."} for n in range(20)]
    options = JobOptions(cache=tmp_path / "cache")
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("one.jsonl", lines), tmp_path / "one.out.jsonl", options)
        count = len(received(fleet))
        others = [{"id": f"x{n}", **line} for n, line in enumerate(reversed(lines))]
        summary = await run_job(pool, write_lines("two.jsonl", others), tmp_path / "two.out.jsonl", options)
        assert len(received(fleet)) == count + 20  # what is sampled without a seed
        checked = JobOptions(cache=tmp_path / "cache", expect=Expectation(check=lambda _: "no", retries=0))
        unfit = await run_job(pool, tmp_path / "two.jsonl", tmp_path / "three.out.jsonl", checked)
    assert (summary.cached, summary.answered) == (40, 60)
    assert (unfit.cached, unfit.failed) == (0, 60)

    def texts(name: str) -> dict[str, str | None]:
        return {answer.id: answer.text for answer in read_answers(tmp_path / name)}

    one, two = texts("one.out.jsonl"), texts("two.out.jsonl")
    assert [one[f"line-{n + 1}"] for n in range(40)] == [two[f"x{59 - n}"] for n in range(40)]
    async with fleet_of(1, model="other") as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("two.jsonl", others), tmp_path / "three.out.jsonl", options)
    assert summary.cached == 0


# -- embeddings -------------------------------------------------------------------------------------------------------


async def test_a_job_may_ask_for_embeddings(tmp_path: Path, write_lines: WriteLines) -> None:
    from aurora_pool.embeddings import EmbeddingPool

    lines = [
        {"custom_id": f"e{n}", "url": "/v1/embeddings", "method": "POST", "body": {"input": f"text {n}"}}
        for n in range(30)
    ]
    source, output = write_lines("in.jsonl", lines), tmp_path / "out.jsonl"
    async with fleet_of(2) as fleet:
        async with pool_of(fleet) as pool:
            with pytest.raises(ConfigError, match="needs an EmbeddingPool"):
                await run_job(pool, source, output)
        async with EmbeddingPool(fleet.endpoints) as embedders:
            summary = await run_job(embedders, source, output)
            again = await run_job(embedders, source, output)
    for expect in (Expectation(check=is_json), Expectation(length_is_failure=True)):
        with pytest.raises(ConfigError, match="an embedding has no text that could be checked"):
            Job(source, output, JobOptions(expect=expect))
    assert (summary.answered, again.done) == (30, 0)
    body = json.loads(output.read_text().splitlines()[0])["response"]["body"]
    assert len(body["data"][0]["embedding"]) > 1
