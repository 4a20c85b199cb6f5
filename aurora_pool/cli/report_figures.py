"""What a report says about jobs: figures side by side, findings in words, causes, the slowest agents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurora_pool.jobs.history import History, Values

SLOWEST = 10
AGENT_HEADINGS = ("slowest agents", "requests", "failed", "tokens/s", "latency (s)", "idle", "cached")


def compare(histories: Sequence[History], price: float | None, gpus_per_agent: float) -> list[tuple[str, list[str]]]:
    """Give rows of a comparison: what is compared, and its value for each job."""
    from aurora_pool.cli.display import duration
    from aurora_pool.jobs.history import percentile

    def both(values: Values, digits: int) -> str:
        return "-" if not values else f"{percentile(values, 0.5):,.{digits}f} / {percentile(values, 0.95):,.{digits}f}"

    figures: list[tuple[str, Callable[[History], str]]] = [
        ("model", lambda h: h.model),
        ("ended", lambda h: h.ending + (f" after {h.runs} runs" if h.runs > 1 else "")),
        ("requests", lambda h: f"{h.done:,} {'of' if h.done <= h.total else 'for'} {h.total:,}"),
        ("failed", lambda h: f"{h.failed:,}"),
        ("time", lambda h: duration(h.seconds)),
        ("requests/s", lambda h: f"{h.prompts_per_second:,.1f}"),
        ("tokens/s", lambda h: f"{h.tokens_per_second:,.0f}"),
        ("tokens generated", lambda h: f"{h.tokens:,}"),
        ("tokens read", lambda h: f"{h.prompt_tokens:,}"),
        ("tokens wasted", lambda h: f"{h.wasted_tokens:,}"),
        ("latency, median/95% (s)", lambda h: both(h.latencies, 2)),
        ("tokens, median/95%", lambda h: both(h.lengths, 0)),
        ("agents", lambda h: f"{len(h.agents):,}"),
        ("agents idle", lambda h: f"{h.idle_share:.1%}"),
        ("time for the last 5%", lambda h: f"{h.tail_share:.1%}"),
        ("retried / hedged", lambda h: f"{h.moved:,} / {h.hedged:,}"),
    ]
    if any(history.hosted_cost for history in histories):
        figures.append(("cost of hosted agents", lambda h: f"{h.hosted_cost:,.4f}"))
    if price is not None:
        figures += [
            ("cost", lambda h: f"{h.cost(price, gpus_per_agent):,.2f}"),
            ("cost per 1M tokens", lambda h: f"{_per_million(h.cost(price, gpus_per_agent), h.tokens):,.2f}"),
        ]
    return [(label, [figure(history) for history in histories]) for label, figure in figures]


def findings(history: History) -> list[str]:
    """Say in words what most likely cost time; the worst first."""
    found: list[tuple[float, str]] = []
    if history.tail_share > 0.2:
        text = (
            f"the last 5% of the requests took {history.tail_share:.0%} of the time: a few long answers or slow agents"
        )
        found.append((history.tail_share, text))
    if history.idle_share > 0.1:
        idlest = max(history.agents.values(), key=lambda agent: agent.idle_share)
        text = f"agents were idle {history.idle_share:.0%} of the time, {idlest.name} most ({idlest.idle_share:.0%})"
        found.append((history.idle_share, text))
    working = [agent for agent in history.agents.values() if agent.prompts]
    if len(working) > 1:
        median = sorted(agent.tokens_per_second for agent in working)[len(working) // 2]
        slow = [agent for agent in working if agent.tokens_per_second < 0.6 * median]
        if slow:
            worst = min(slow, key=lambda agent: agent.tokens_per_second)
            share = len(slow) / len(working)
            verb = "is" if len(slow) == 1 else "are"
            text = f"{len(slow)} of {len(working)} agents {verb} much slower than the median, {worst.name} most"
            found.append((share, f"{text} ({worst.tokens_per_second:.0f} tokens/s against {median:.0f})"))
    if history.done and history.moved > 0.02 * history.done:
        share = history.moved / history.done
        causes = ", ".join(f"{outcome} {count}" for outcome, count in history.troubles.most_common(3))
        found.append((share, f"{share:.0%} of the requests had to be sent again: {causes or 'see the agents'}"))
    if history.done and history.failed > 0.01 * history.done:
        share = history.failed / history.done
        causes = ", ".join(f"{cause} {count}" for cause, count in history.failures.most_common(3))
        found.append((share, f"{share:.0%} of the requests failed: {causes}"))
    texts = [text for _, text in sorted(found, reverse=True)] or ["nothing stands out: the fleet was busy to the end"]
    return texts + lacks(history)


def lacks(history: History) -> list[str]:
    """Say what the run log does not have, so that nobody takes the figures for more than they are."""
    texts = []
    if history.missing:
        texts.append(
            f"the run log lacks {history.missing:,} of the output's records: of a run that was killed or kept no log"
        )
    if history.unreadable:
        texts.append(f"the run log has {history.unreadable:,} lines that can't be read, and are left out")
    return texts


def causes(history: History) -> list[tuple[str, int]]:
    """Give what went wrong, and how often: what failed for good, and what agents failed at and others then did."""
    failed = [(f"failed: {cause}", count) for cause, count in history.failures.most_common()]
    return failed + [(f"agent: {outcome}", count) for outcome, count in history.troubles.most_common()]


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Give agents' names without the domain that all of them share.

    >>> shortened(["x1c0.hsn.site.gov:8000", "x2c0.hsn.site.gov:8001"])
    {'x1c0.hsn.site.gov:8000': 'x1c0:8000', 'x2c0.hsn.site.gov:8001': 'x2c0:8001'}
    >>> shortened(["10.0.0.1:8000", "10.1.0.1:8000"])
    {'10.0.0.1:8000': '10.0.0.1:8000', '10.1.0.1:8000': '10.1.0.1:8000'}
    """
    names = list(names)
    domains = {name.partition(":")[0].partition(".")[2] for name in names}
    domain = domains.pop() if len(domains) == 1 else ""
    if not domain or domain.replace(".", "").isdigit():
        return {name: name for name in names}
    return {name: name.replace(f".{domain}", "", 1) for name in names}


def slowest(history: History) -> list[list[str]]:
    """Give the slowest agents as rows, under :data:`AGENT_HEADINGS`; what is cached is the prefix hit share."""
    agents = sorted(history.agents.values(), key=lambda agent: agent.tokens_per_second)
    return [
        [
            agent.name,
            f"{agent.prompts:,}",
            f"{agent.failed:,}",
            f"{agent.tokens_per_second:,.0f}",
            f"{agent.mean_latency:.2f}",
            f"{agent.idle_share:.0%}",
            "-" if agent.prefix_hit_share is None else f"{agent.prefix_hit_share:.0%}",
        ]
        for agent in agents[:SLOWEST]
    ]


def _per_million(cost: float, tokens: int) -> float:
    return cost / tokens * 1e6 if tokens else 0.0
