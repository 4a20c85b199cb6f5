"""Prometheus metrics of a running job, for ``--metrics-port``.

``METRICS`` is the list of them; the Grafana dashboard in ``examples/jobs/grafana-dashboard.json`` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from aurora_pool.errors import ConfigError
from aurora_pool.jobs.meter import Progress
from aurora_pool.statistics import AgentStatistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name as it is scraped, what it says, and where its value comes from."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    of_job: Callable[[Progress], float] | None = None
    of_agent: Callable[[AgentStatistics], float] | None = None


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("aurora_pool_job_requests", "gauge", "Requests in the input.", lambda p: p.total),
    MetricSpec(
        "aurora_pool_job_finished_requests",
        "gauge",
        "Requests with a record, of all runs.",
        lambda p: p.earlier + p.done,
    ),
    MetricSpec("aurora_pool_job_done_total", "counter", "Requests that this run finished.", lambda p: p.done),
    MetricSpec("aurora_pool_job_failed_total", "counter", "Requests that failed in this run.", lambda p: p.failed),
    MetricSpec("aurora_pool_job_tokens_total", "counter", "Tokens generated in this run.", lambda p: p.tokens),
    MetricSpec("aurora_pool_job_in_flight", "gauge", "Requests handed to the pool.", lambda p: p.in_flight),
    MetricSpec(
        "aurora_pool_job_eta_seconds",
        "gauge",
        "Time left at the measured rate; -1 while unknown.",
        lambda p: -1 if p.eta is None else p.eta,
    ),
    MetricSpec(
        "aurora_pool_job_standstill_seconds",
        "gauge",
        "Time without an answer, if that is unusual; else 0.",
        lambda p: 0 if p.standstill is None else p.standstill.seconds,
    ),
    MetricSpec("aurora_pool_agents", "gauge", "Agents in the hostfile.", lambda p: p.agents),
    MetricSpec("aurora_pool_agents_in_service", "gauge", "Agents that get prompts.", lambda p: p.agents_in_service),
    MetricSpec(
        "aurora_pool_moved_total",
        "counter",
        "Prompts that went to another agent after a failure.",
        lambda p: p.moved,
    ),
    MetricSpec(
        "aurora_pool_hedged_total",
        "counter",
        "Prompts given to a second agent because the first was slow.",
        lambda p: p.hedged,
    ),
    MetricSpec(
        "aurora_pool_wasted_tokens_total",
        "counter",
        "Tokens of answers that were not used.",
        lambda p: p.statistics.wasted_tokens,
    ),
    MetricSpec("aurora_pool_requests_total", "counter", "HTTP requests sent.", lambda p: p.statistics.requests),
    MetricSpec(
        "aurora_pool_agent_up", "gauge", "Whether the agent gets prompts.", of_agent=lambda a: a.state == "in service"
    ),
    MetricSpec("aurora_pool_agent_in_flight", "gauge", "Prompts that the agent holds.", of_agent=lambda a: a.in_flight),
    MetricSpec("aurora_pool_agent_window", "gauge", "Prompts that the agent may hold.", of_agent=lambda a: a.window),
    MetricSpec(
        "aurora_pool_agent_prompts_total",
        "counter",
        "Prompts that the agent answered.",
        of_agent=lambda a: a.prompts_done,
    ),
    MetricSpec(
        "aurora_pool_agent_tokens_total",
        "counter",
        "Tokens that the agent generated.",
        of_agent=lambda a: a.tokens_done,
    ),
    MetricSpec(
        "aurora_pool_agent_failures_total",
        "counter",
        "Failed requests to the agent, of all kinds.",
        of_agent=lambda a: sum(a.failures.values()),
    ),
    MetricSpec(
        "aurora_pool_agent_oldest_request_seconds",
        "gauge",
        "Age of the oldest request the agent holds; 0 for none.",
        of_agent=lambda a: a.oldest_age or 0,
    ),
    MetricSpec(
        "aurora_pool_agent_prefix_hit_share",
        "gauge",
        "Share of prompt tokens that the server found in its prefix cache, 0 to 1; -1 while unknown.",
        of_agent=lambda a: -1 if a.prefix_hit_share is None else a.prefix_hit_share,
    ),
)


class JobMetrics:
    """Shows the latest progress to scrapers. Scrapes come in another thread, and see one moment whole."""

    def __init__(self) -> None:
        self._latest: Progress | None = None

    @classmethod
    def serving(cls, port: int, host: str = "127.0.0.1") -> Self:
        """Make metrics that are served on a port, at ``/metrics``, to this machine only unless ``host`` says otherwise.

        Raises :class:`~aurora_pool.errors.ConfigError` if the port is taken or ``prometheus-client`` is not installed.
        """
        try:
            from prometheus_client import start_http_server  # noqa: PLC0415 - an extra
            from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise ConfigError(
                "--metrics-port needs the package prometheus-client: pip install 'aurora-pool[metrics]'"
            ) from None
        metrics = cls()
        registry = CollectorRegistry()
        registry.register(metrics)
        try:
            start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigError(f"--metrics-port {port} on {host}: {error.strerror}") from error
        return metrics

    def update(self, progress: Progress) -> None:
        """Show this from now on."""
        self._latest = progress

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus-client asks collectors for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - an extra

        families = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
        progress = self._latest
        if progress is None:
            return
        for spec in METRICS:
            family = families[spec.kind](spec.name, spec.help, labels=["agent"] if spec.of_agent else [])
            if spec.of_job is not None:
                family.add_metric([], spec.of_job(progress))
            if spec.of_agent is not None:
                for agent in progress.statistics.agents:
                    family.add_metric([str(agent.endpoint)], spec.of_agent(agent))
            yield family
