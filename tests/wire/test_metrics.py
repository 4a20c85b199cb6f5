"""What servers say of how busy they are."""

from __future__ import annotations

import pytest

from aurora_pool.wire.metrics import EngineLoad, parse_load

METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2-135m"} 3.0
vllm:num_requests_running{engine="1",model_name="smollm2-135m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="smollm2-135m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2-135m",reason="capacity"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="smollm2-135m"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="smollm2-135m"} 1.234e+06
vllm:generation_tokens_total{engine="0",model_name="smollm2-135m"} 42.0
vllm:num_preemptions_total{engine="0",model_name="smollm2-135m"} 7.0
http_requests_total{handler="/health",method="GET",status="2xx"} 12.0
"""


def test_load_is_summed_over_engines() -> None:
    assert parse_load(METRICS) == EngineLoad(
        running=7.0, waiting=0.0, generation_tokens=42.0, prompt_tokens=1_234_000.0, cache_usage=0.25, preemptions=7.0
    )


def test_load_of_an_old_version() -> None:
    assert parse_load(b'vllm:gpu_cache_usage_perc{model_name="a, b c"} 0.5\n') == EngineLoad(cache_usage=0.5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"http_requests_total 1.0\n",
        b"<html>",
        b'vllm:unknown{a="b"} 1.0\n',
        b"vllm:num_requests_running abc\n",
        b"vllm:num_requests_waiting 1.0\nvllm:num_requests_running abc\n",
    ],
)
def test_no_figures_of_an_engine(body: bytes) -> None:
    assert parse_load(body) is None


def test_a_figure_that_is_no_number_is_a_figure_all_the_same() -> None:
    assert parse_load(b"vllm:num_requests_running 1.0\nvllm:num_requests_waiting NaN\n") is not None
