"""``/metrics``: how busy the engine of a server is; and ``/health``, which says less."""

from __future__ import annotations

import re

import msgspec

METRICS_PATH = "/metrics"
HEALTH_PATH = "/health"


class EngineLoad(msgspec.Struct, frozen=True):
    """What an engine's gauges and counters say; two of them that differ in anything show that it works.

    ``prefix_queries`` are the tokens of prompts that the cache was queried for, ``prefix_hits`` those found there.
    """

    running: float = 0.0
    waiting: float = 0.0
    generation_tokens: float = 0.0
    prompt_tokens: float = 0.0
    cache_usage: float = 0.0
    preemptions: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0

    def began_after(self, before: EngineLoad) -> bool:
        """Whether the engine was started after those figures: what it only ever adds up has become less."""
        return self.generation_tokens < before.generation_tokens or self.prompt_tokens < before.prompt_tokens


_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:kv_cache_usage_perc": "cache_usage",
    "vllm:gpu_cache_usage_perc": "cache_usage",  # until 0.11.2
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:prefix_cache_hits_total": "prefix_hits",
}
_MOST = 1e15
_SAMPLE = re.compile(rb"^(vllm:\w+)(?:\{[^}\n]*\})? ([^\s]+)", re.MULTILINE)


def parse_load(body: bytes) -> EngineLoad | None:
    r"""Read ``/metrics``, summed over the engines of a server; None where it has no figures of an engine.

    >>> parse_load(b'vllm:num_requests_running{engine="0"} 3.0\n').running
    3.0
    """
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(body):
        field = _NAMES.get(name.decode())
        if field is not None:
            try:
                number = float(value)
            except ValueError:
                return None
            if 0 <= number <= _MOST:  # a NaN is no figure, and shows no movement
                found[field] = min(found.get(field, 0.0) + number, _MOST)
    return EngineLoad(**found) if found else None
