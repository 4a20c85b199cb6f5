"""The page of ``aurora-pool report --html``: one file, with its charts and their library inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from aurora_pool.cli.report_figures import AGENT_HEADINGS, causes, findings, shortened, slowest
from aurora_pool.errors import ConfigError, JobError
from aurora_pool.jobs.history import History

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .25em .9em; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left; white-space: nowrap }
h2 { margin-top: 2em }
"""

_NAMED_AGENTS = 40
"""Bars of a chart that can have names below them; more have a number, and show the name when they are pointed at."""


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
        figure.update_layout(
            title=title, template="plotly_white", height=400, margin={"t": 80, "b": 50, "l": 70, "r": 20}
        )
        figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"})
        figure.update_yaxes(rangemode="tozero")
        parts.append(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))
    for history in histories:
        parts.append(f"<h2>{escape(history.name)}</h2><ul>")
        parts += [f"<li>{escape(text)}</li>" for text in findings(history)]
        parts += ["</ul>", _table("agents", AGENT_HEADINGS, slowest(history))]
        if found := causes(history):
            parts.append(_table("causes", ["failures by cause", ""], [[name, f"{count:,}"] for name, count in found]))
    parts.append("</body></html>\n")
    try:
        path.write_text("".join(parts), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise JobError(f"{path}: the page can't be written ({error.strerror})") from error


def _charts(go: Any, histories: Sequence[History]) -> list[tuple[str, Any]]:
    """Make the charts that have anything to show."""
    throughput, latency, length = (go.Figure() for _ in range(3))
    unit, size = _unit(max(history.seconds for history in histories))
    for number, history in enumerate(histories):
        colour = _colour(number)
        if history.tokens:
            seconds, rates = history.throughput()
            times = [each / size for each in seconds]
            throughput.add_scatter(x=times, y=rates, name=_label(history), mode="lines", line_color=colour)
        style = {"name": _label(history), "histnorm": "percent", "opacity": 0.7, "marker_color": colour}
        if history.latencies:
            # One group of bins: jobs that are compared have bars of the same width.
            latency.add_histogram(x=_thinned(history.latencies), bingroup="latency", **style)
            length.add_histogram(x=_thinned(history.lengths), bingroup="length", **style)
    throughput.update_layout(xaxis_title=unit, yaxis_title="tokens/s")
    latency.update_layout(barmode="overlay", xaxis_title="seconds", yaxis_title="% of the answers")
    length.update_layout(barmode="overlay", xaxis_title="tokens", yaxis_title="% of the answers")
    charts = [
        ("Throughput over time", throughput),
        *_agent_charts(go, histories),
        ("Latency", latency),
        ("Length of the answers", length),
        ("Retries and failures by cause", _causes_chart(go, histories)),
    ]
    return [(title, figure) for title, figure in charts if figure.data]


def _agent_charts(go: Any, histories: Sequence[History]) -> list[tuple[str, Any]]:
    """Agents beside each other, the slowest first."""
    speed, idle = go.Figure(), go.Figure()
    short = shortened(name for history in histories for name in history.agents)
    named = len(short) <= _NAMED_AGENTS
    for number, history in enumerate(histories):
        agents = sorted(history.agents.values(), key=lambda agent: agent.tokens_per_second)
        names = [short[agent.name] for agent in agents]
        places = names if named else list(range(1, len(agents) + 1))
        style = {
            "x": places,
            "name": _label(history),
            "hovertext": list(map(escape, names)),
            "marker_color": _colour(number),
        }
        if history.tokens:
            speed.add_bar(y=[agent.tokens_per_second for agent in agents], **style)
        if history.seconds:
            idle.add_bar(y=[agent.idle_share for agent in agents], **style)
    for figure in (speed, idle):
        figure.update_layout(xaxis_title="agents, the slowest first" if not named else None, bargap=0.2 if named else 0)
        figure.update_xaxes(type="category" if named else "linear")
    speed.update_layout(yaxis_title="tokens/s")
    idle.update_layout(yaxis={"title": "share of the time", "tickformat": ".0%", "range": [0, 1]})
    return [("Tokens per second of each agent", speed), ("Idle share of each agent", idle)]


def _causes_chart(go: Any, histories: Sequence[History]) -> Any:
    figure = go.Figure()
    counted = [{"sent again": history.moved, **dict(causes(history))} for history in histories]
    if any(any(counts.values()) for counts in counted):
        for number, (history, counts) in enumerate(zip(histories, counted, strict=True)):
            figure.add_bar(x=list(counts), y=list(counts.values()), name=_label(history), marker_color=_colour(number))
    figure.update_layout(yaxis_title="count")
    return figure


def _label(history: History) -> str:
    """A job's name as plotly shows it, which takes text for HTML."""
    return escape(history.name.encode("utf-8", "backslashreplace").decode())


def _colour(number: int) -> str:
    """The colour of one job, the same in every chart."""
    from plotly.colors import qualitative

    return str(qualitative.Plotly[number % len(qualitative.Plotly)])


def _unit(seconds: float) -> tuple[str, float]:
    """The unit for so long a time, and how many seconds it has."""
    return ("hours", 3600.0) if seconds > 3 * 3600 else ("minutes", 60.0) if seconds > 600 else ("seconds", 1.0)


def _thinned(values: Sequence[float]) -> list[float]:
    """At most some ten thousand values, evenly taken: a page of a million would be slow and look the same."""
    return list(values[:: max(1, len(values) // 20_000)])


def _table(kind: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='{kind}'><tr>{head}</tr>{body}</table>"
