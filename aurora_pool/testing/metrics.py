"""What a simulated server counts, and its ``/metrics`` page."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from aurora_pool.testing.engine import Engine
from aurora_pool.testing.profile import AgentProfile

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REASONS = ("stop", "length", "abort", "error", "repetition")


@dataclass(slots=True)
class Histogram:
    """A Prometheus histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.total += seconds
        for number, bound in enumerate(_BUCKETS):
            if seconds <= bound:
                self.counts[number] += 1
                return
        self.counts[-1] += 1

    def lines(self, name: str, labels: str) -> list[str]:
        """Write it as text."""
        lines = [f"# TYPE {name} histogram"]
        below = 0
        for bound, count in zip((*_BUCKETS, math.inf), self.counts, strict=True):
            below += count
            edge = "+Inf" if bound == math.inf else str(bound)
            lines.append(f'{name}_bucket{{{labels},le="{edge}"}} {below}.0')
        return [*lines, f"{name}_count{{{labels}}} {below}.0", f"{name}_sum{{{labels}}} {self.total}"]


@dataclass(slots=True)
class Counters:
    """What a server counts beside its engine; a revived server starts again."""

    started_at: float = 0.0
    prompts_answered: int = 0
    prompt_tokens: int = 0
    instant_tokens: int = 0
    busy_refusals: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    queue_time: Histogram = field(default_factory=Histogram)
    first_token: Histogram = field(default_factory=Histogram)
    whole_time: Histogram = field(default_factory=Histogram)


def metrics_page(profile: AgentProfile, engine: Engine, counters: Counters, *, asleep: bool, model: str) -> str:
    """Write the Prometheus text of a server, with the names that its version uses."""
    labels = f'engine="0",model_name="{model}"'
    # A sleeping engine counts nothing, though requests hang in it.
    running, waiting = (0, 0) if engine.paused else (engine.running, engine.waiting)
    usage = engine.cache.usage
    lines = [
        *_gauge("vllm:num_requests_running", labels, running),
        *_gauge("vllm:num_requests_waiting", labels, waiting),
        *_counter("vllm:num_preemptions", labels, engine.preemptions),
        *_counter("vllm:prompt_tokens", labels, counters.prompt_tokens),
        *_counter("vllm:generation_tokens", labels, engine.tokens + counters.instant_tokens),
        "# TYPE vllm:request_success counter",
        *(
            f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {counters.finished[reason]}.0'
            for reason in _REASONS
        ),
    ]
    if profile.at_least(0, 9, 2):
        lines += _gauge("vllm:kv_cache_usage_perc", labels, usage)
        lines += _counter("vllm:prefix_cache_queries", labels, engine.prefix_queries)
        lines += _counter("vllm:prefix_cache_hits", labels, engine.prefix_hits)
    if not profile.at_least(0, 12):
        lines += _gauge("vllm:gpu_cache_usage_perc", labels, usage)
    if profile.at_least(0, 24):
        name = "vllm:num_requests_waiting_by_reason"
        lines.append(f"# TYPE {name} gauge")
        lines.append(f'{name}{{{labels},reason="capacity"}} {waiting}.0')
        lines.append(f'{name}{{{labels},reason="deferred"}} 0.0')
    if profile.at_least(0, 11, 2):
        lines.append("# TYPE vllm:engine_sleep_state gauge")
        for state, on in (("awake", not asleep), ("weights_offloaded", asleep), ("discard_all", False)):
            lines.append(f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}} {int(on)}.0')
    if profile.at_least(0, 29):
        name = "vllm:admission_rejections_total"
        lines.append(f'{name}{{model_name="{model}",reason="max_num_queued_reqs"}} {counters.busy_refusals}.0')
    lines += counters.first_token.lines("vllm:time_to_first_token_seconds", labels)
    lines += counters.queue_time.lines("vllm:request_queue_time_seconds", labels)
    lines += counters.whole_time.lines("vllm:e2e_request_latency_seconds", labels)
    lines.append("# TYPE http_requests counter")
    for (handler, method, status), count in sorted(counters.http.items()):
        lines.append(f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}} {count}.0')
    lines += _gauge("process_start_time_seconds", "", counters.started_at)
    return "\n".join(lines) + "\n"


def _gauge(name: str, labels: str, value: float) -> list[str]:
    return [f"# TYPE {name} gauge", f"{name}{{{labels}}} {float(value)}" if labels else f"{name} {float(value)}"]


def _counter(name: str, labels: str, value: int) -> list[str]:
    return [f"# TYPE {name} counter", f"{name}_total{{{labels}}} {float(value)}"]
