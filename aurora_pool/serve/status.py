"""``/health``, ``/ready`` and ``/metrics``: what service managers, load balancers and Prometheus ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from aurora_pool.jobs.metrics import METRICS
from aurora_pool.serve.described import described
from aurora_pool.serve.executor import Executor
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.gateway import Gateway
from aurora_pool.serve.http_json import encode_reply

if TYPE_CHECKING:
    from prometheus_client.core import Metric


_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


class StatusApi:
    """The handlers."""

    def __init__(self, fleet: ServedFleet, gateway: Gateway, executor: Executor) -> None:
        self._fleet = fleet
        self._gateway = gateway
        self._executor = executor

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            web.get("/health", self.health, allow_head=False),
            web.get("/ready", self.ready, allow_head=False),
            web.get("/metrics", self.metrics, allow_head=False),
        ]

    @described(reply=_STATUS)
    async def health(self, request: web.Request) -> web.Response:
        """Tell that the server lives."""
        return encode_reply({"status": "ok"})

    @described(reply=_STATUS, statuses=(200, 503))
    async def ready(self, request: web.Request) -> web.Response:
        """Tell whether the fleet can answer: 503 while nobody serves."""
        ready = self._fleet.ready
        return encode_reply({"status": "ready" if ready else "no agent in service"}, 200 if ready else 503)

    @described(reply_types=("text/plain",))
    async def metrics(self, request: web.Request) -> web.Response:
        """Give the figures in Prometheus' text form."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only who asks pays for it
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def collect(self) -> Iterator[Metric]:
        """The figures, for a Prometheus registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        yield CounterMetricFamily("aurora_pool_serve_requests", "Online requests taken.", value=self._gateway.requests)
        yield GaugeMetricFamily("aurora_pool_serve_streams", "Streams open now.", value=self._gateway.streams)
        yield GaugeMetricFamily(
            "aurora_pool_serve_batches_running", "Batches that run here.", value=self._executor.running
        )
        queued = sum(pool.statistics().queued for pool in self._fleet.pools())
        yield GaugeMetricFamily("aurora_pool_serve_queued", "Prompts that wait for an agent.", value=queued)
        agents = self._fleet.statistics()
        yield GaugeMetricFamily("aurora_pool_agents", "Agents in the hostfile.", value=len(agents))
        yield GaugeMetricFamily(
            "aurora_pool_agents_in_service",
            "Agents that get prompts.",
            value=sum(agent.state == "in service" for agent in agents),
        )
        families = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
        for spec in METRICS:  # the same as those of a job
            if spec.of_agent is not None:
                family = families[spec.kind](spec.name, spec.help, labels=["agent"])
                for agent in agents:
                    family.add_metric([str(agent.endpoint)], float(spec.of_agent(agent)))
                yield family
