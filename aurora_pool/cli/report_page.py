"""The page of ``aurora-pool report --html``: one file, with its charts and their library inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from aurora_pool.cli.report import AGENT_HEADINGS, findings, slowest
from aurora_pool.errors import ConfigError, JobError
from aurora_pool.jobs.history import History

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .25em .9em; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left }
h2 { margin-top: 2em }
"""

_MOST_AGENTS = 200
"""Bars that a chart of agents can hold; of more agents, the slowest are shown."""


def write_page(path: Path, histories: Sequence[History], rows: Sequence[tuple[str, list[str]]]) -> None:
    """Write the page.

    Raises :class:`~aurora_pool.errors.ConfigError` where plotly is not installed, and
    :class:`~aurora_pool.errors.JobError` if the file can't be written.
    """
    try:
        import plotly.graph_objects as go
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise ConfigError("--html needs the package plotly: pip install 'aurora-pool[report]'") from None
    names = [history.name for history in histories]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>aurora-pool report</title>",
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>aurora-pool report</h1>",
        _table("figures", ["", *names] if len(names) > 1 else [], [[label, *values] for label, values in rows]),
    ]
    for title, figure in _charts(go, histories):
        figure.update_layout(title=title, template="plotly_white", height=380, margin={"t": 60, "b": 50})
        parts.append(figure.to_html(full_html=False, include_plotlyjs=False))
    for history in histories:
        parts.append(f"<h2>{escape(history.name)}</h2><ul>")
        parts += [f"<li>{escape(text)}</li>" for text in findings(history)]
        parts += ["</ul>", _table("agents", AGENT_HEADINGS, slowest(history))]
        causes = [*history.failures.most_common(), *history.troubles.most_common()]
        if causes:
            parts.append(_table("causes", ["failures by cause", ""], [[name, f"{count:,}"] for name, count in causes]))
    parts.append("</body></html>\n")
    try:
        path.write_text("".join(parts), encoding="utf-8")
    except OSError as error:
        raise JobError(f"{path}: the page can't be written ({error.strerror})") from error


def _charts(go: Any, histories: Sequence[History]) -> list[tuple[str, Any]]:
    throughput, speed, idle, latency, length = (go.Figure() for _ in range(5))
    for history in histories:
        seconds, rates = history.throughput()
        throughput.add_scatter(x=seconds, y=rates, name=history.name, mode="lines")
        agents = sorted(history.agents.values(), key=lambda agent: agent.tokens_per_second)[:_MOST_AGENTS]
        names = [agent.name for agent in agents]
        speed.add_bar(x=names, y=[agent.tokens_per_second for agent in agents], name=history.name)
        idle.add_bar(x=names, y=[agent.idle_share for agent in agents], name=history.name)
        latency.add_histogram(x=_thinned(history.latencies), name=history.name, histnorm="percent", opacity=0.7)
        length.add_histogram(x=_thinned(history.lengths), name=history.name, histnorm="percent", opacity=0.7)
    throughput.update_layout(xaxis_title="seconds", yaxis_title="tokens/s")
    speed.update_layout(yaxis_title="tokens/s")
    idle.update_layout(yaxis={"title": "share of the time", "tickformat": ".0%", "range": [0, 1]})
    latency.update_layout(barmode="overlay", xaxis_title="seconds", yaxis_title="% of the requests")
    length.update_layout(barmode="overlay", xaxis_title="tokens", yaxis_title="% of the requests")
    charts = [
        ("Throughput over time", throughput),
        ("Tokens per second of each agent", speed),
        ("Idle share of each agent", idle),
        ("Latency", latency),
        ("Length of the answers", length),
    ]
    if any(history.failures or history.troubles or history.moved for history in histories):
        causes = go.Figure()
        for history in histories:
            counts = {"sent again": history.moved, **history.failures, **history.troubles}
            causes.add_bar(x=list(counts), y=list(counts.values()), name=history.name)
        causes.update_layout(yaxis_title="count")
        charts.append(("Retries and failures by cause", causes))
    return charts


def _thinned(values: Sequence[float]) -> list[float]:
    """At most some ten thousand values, evenly taken: a page of a million would be slow and look the same."""
    return list(values[:: max(1, len(values) // 20_000)])


def _table(kind: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='{kind}'><tr>{head}</tr>{body}</table>"
