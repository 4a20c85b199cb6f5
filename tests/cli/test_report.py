"""``aurora-pool report``: its figures are those of the run log, on the terminal and on the page."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.cli.report_figures import findings
from aurora_pool.errors import BadRecord
from aurora_pool.jobs.history import read_history
from tests.browser import CHROMIUM, needs_browser
from tests.cli.conftest import Call


def write_log(folder: Path, name: str, events: list[Any]) -> Path:
    output = folder / name
    log = output.with_name(f"{name}.runlog")
    log.write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")
    return output


def start(names: list[str], **fields: Any) -> dict[str, Any]:
    return {"event": "start", "time": 0, "model": "m", "total": 100, "earlier": 0, "names": names} | fields


def note(t: float, names: list[str], **fields: Any) -> dict[str, Any]:
    counts = {"failures": {}, "moved": 0, "hedged": 0, "wasted_tokens": 0}
    return {"event": "agents", "t": t, "names": names} | counts | fields


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Two runs: agent a works all the time, b half of it and slowly, and the last prompt takes long."""
    names = ["gpu01:8000", "gpu02:8000"]
    prompts: list[Any] = [[float(t), 0, 1.0, 10, 200, 1, "ok"] for t in range(1, 41)]
    prompts += [[t + 0.5, 1, 1.0, 10, 50, 1, "ok"] for t in range(2, 40, 2)]
    prompts.sort(key=lambda row: row[0])
    failed = [40.0, 1, 0.2, None, None, 3, "exhausted"]
    first = [start(names), *prompts, failed, note(40.0, names, failures={"broken": 7}, moved=9)]
    second = [
        start(names, earlier=60),
        [60.0, 0, 60.0, 10, 500, 1, "ok"],
        note(60.0, names, hedged=1, prefix_hit_shares=[None, 0.25]),
    ]
    return write_log(tmp_path, "slow.jsonl", [*first, *second, {"event": "end", "t": 60.0, "ending": "finished"}])


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    prompts = [[float(t), 0, 1.0, 10, 1000, 1, "ok"] for t in range(1, 21)]
    end = {"event": "end", "t": 20.0, "ending": "finished"}
    return write_log(tmp_path, "quick.jsonl", [start(["gpu09:8000"]), *prompts, end])


def test_the_figures_add_up(slow: Path) -> None:
    history = read_history(slow)
    assert (history.runs, history.done, history.failed, history.total) == (2, 61, 1, 100)
    assert (history.seconds, history.tokens, history.prompt_tokens) == (100.0, 40 * 200 + 19 * 50 + 500, 600)
    assert (history.moved, history.hedged, history.troubles["broken"]) == (9, 1, 7)
    first, second = history.agents["gpu01:8000"], history.agents["gpu02:8000"]
    assert (first.prompts, first.tokens, first.idle_share) == (41, 8500, 0.0)
    assert (second.prompts, second.failed, second.tokens) == (19, 1, 950)
    assert second.idle_share == pytest.approx(1 - 19.2 / 100)
    assert history.cost(price=3.6, gpus_per_agent=2) == pytest.approx(2 * 100 / 3600 * 2 * 3.6)
    times, rates = history.throughput()
    assert sum(rates) * (times[1] - times[0]) == pytest.approx(history.tokens)


def test_it_says_what_cost_time(slow: Path, quick: Path) -> None:
    said = " / ".join(findings(read_history(slow)))
    assert "the last 5% of the requests took" in said
    assert "gpu02:8000 most (81%)" in said
    assert "1 of 2 agents is much slower" in said
    assert "had to be sent again: broken 7" in said
    assert "failed: exhausted 1" in said
    assert findings(read_history(quick)) == ["nothing stands out: the fleet was busy to the end"]


def test_lines_that_a_kill_has_torn_are_left_out(slow: Path) -> None:
    log = slow.with_name("slow.jsonl.runlog")
    whole = read_history(slow)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:5], b"[1.0, 0, 0.5\n", *lines[5:], b'{"event": "en']))
    again = read_history(slow)
    assert (again.done, again.tokens) == (whole.done, whole.tokens)


def test_the_terminal_shows_all_outputs_side_by_side(call: Call, slow: Path, quick: Path) -> None:
    ended = call("report", slow, quick, "--gpu-price", "3.6")
    assert (ended.code, ended.err) == (0, "")
    rows = dict(re.findall(r"^ (.*?\S) {2,}(.*\S) *$", ended.out, re.MULTILINE))
    assert rows["tokens/s"].split() == ["94", "1,000"]
    assert rows["requests"].split("  ")[0] == "61 of 100"
    assert rows["cost"].split() == ["0.20", "0.02"]
    assert rows["gpu02:8000"].split() == ["19", "1", "10", "1.00", "81%", "25%"]
    assert rows["gpu01:8000"].split()[-1] == "-"
    assert "\nfailed: exhausted 1\nagent: broken 7\n" in ended.out


@pytest.mark.parametrize("created", [True, False])
def test_an_output_without_a_run_log_is_told(call: Call, tmp_path: Path, created: bool) -> None:
    if created:
        (tmp_path / "out.jsonl.runlog").write_text("\n")
    ended = call("report", tmp_path / "out.jsonl")
    assert ended.code == 3
    assert "out.jsonl.runlog" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_the_page_needs_nothing_beside_it(call: Call, slow: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert call("report", slow, "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", text)


@needs_browser
@pytest.mark.timeout(180)
def test_a_browser_shows_the_figures_and_draws_the_charts(call: Call, slow: Path, quick: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "report.html"
    call("report", slow, quick, "--html", page, "--gpu-price", "3.6")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    shown = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    ).stdout
    table = re.search(r"<table class=.figures.>.*?</table>", shown, re.DOTALL)
    assert table is not None
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>.*?</tr>", table[0], re.DOTALL)]
    figures = {label: values for label, *values in rows}
    assert figures[""] == [str(slow), str(quick)]
    assert figures["tokens/s"] == ["94", "1,000"]
    assert figures["tokens generated"] == ["9,450", "20,000"]
    assert figures["requests"] == ["61 of 100", "20 of 100"]
    assert figures["cost"] == ["0.20", "0.02"]
    assert figures["failed"] == ["1", "0"]
    # The charts are drawn by the page itself: what stands here was not in the file.
    titles = re.findall(r'class="gtitle"[^>]*>([^<]+)<', shown)
    assert titles == [
        "Throughput over time",
        "Tokens per second of each agent",
        "Idle share of each agent",
        "Latency",
        "Length of the answers",
        "Retries and failures by cause",
    ]
    assert 'class="gtitle"' not in page.read_text(encoding="utf-8").partition("</script>")[2]
    assert "gpu02:8000" in shown


def test_the_chart_is_steady_where_the_rate_is(tmp_path: Path) -> None:
    """A job that is sent whole at its beginning, and waits in the server's queue: tokens come when they are made."""
    prompts = [[n / 10, 0, n / 10, 10, 190, 1, "ok"] for n in range(1, 2001)]
    history = read_history(write_log(tmp_path, "o.jsonl", [start(["a:1"]), *prompts, note(200.0, ["a:1"])]))
    _, rates = history.throughput()
    assert sum(rates) / len(rates) == pytest.approx(1900)
    assert all(1500 < rate < 2300 for rate in rates)


def test_it_says_what_the_log_lacks(call: Call, quick: Path) -> None:
    quick.write_text("{}\n" * 30)
    ended = call("report", quick)
    assert "the run log lacks 10 of the output's records" in ended.out


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_log_costs_what_is_damaged(slow: Path, seed: int) -> None:
    import random

    rng = random.Random(seed)
    log = slow.with_name("slow.jsonl.runlog")
    whole = log.read_bytes()
    pieces = [
        b"[1,0,0,0,0,1,",
        b"null",
        b"-1",
        b"1e999",
        b"[[[[",
        b'"x"',
        b"\xff",
        b"{",
        b"0",
        b"true",
        b"10000000000000",
    ]
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.randrange(4)] = rng.choice(pieces)
        log.write_bytes(bytes(damaged))
        try:
            history = read_history(slow)
        except BadRecord:
            continue
        assert findings(history)
        assert len(history.throughput()[0]) == len(history.throughput()[1])


def test_a_torn_line_swallows_no_run(tmp_path: Path) -> None:
    from aurora_pool.jobs.runlog import RunLog

    path = tmp_path / "o.jsonl.runlog"
    for _ in range(2):
        log = RunLog(path)
        log.event("start", names=["a:1"], total=3)
        log.close()
        path.write_bytes(path.read_bytes() + b"[1.0, 0, ")
    history = read_history(tmp_path / "o.jsonl")
    assert (history.runs, history.unreadable) == (2, 2)


def test_a_log_is_flushed_every_few_seconds(tmp_path: Path) -> None:
    from aurora_pool.jobs.runlog import FLUSHED, RunLog
    from aurora_pool.messages import Response
    from aurora_pool.statistics import PoolStatistics

    nothing = PoolStatistics((), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    log = RunLog(tmp_path / "o.runlog")
    log.prompt(1.0, Response(True, "x"))
    log.sample(FLUSHED, nothing)
    assert (tmp_path / "o.runlog").read_bytes().count(b"\n") == 1
    log.close()


def test_markup_in_a_name_is_a_name(call: Call, tmp_path: Path) -> None:
    agents = ["[fd00::1]:8000", "http://x/[/v1]"]
    output = write_log(
        tmp_path, "a[bold]b.jsonl", [start(agents, model="[red]m"), [1.0, 0, 1.0, 1, 1, 1, "[x\x1b]"], note(1, agents)]
    )
    ended = call("report", output)
    assert ended.code == 0
    for name in ("a[bold]b.jsonl", "[fd00::1]:8000", "http://x/[/v1]", "[red]m", "failed: [x\\x1b]"):
        assert name in ended.out.replace("\n", "")  # a long one is folded
