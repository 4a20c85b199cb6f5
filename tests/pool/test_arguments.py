"""Arguments that make no sense are refused at once, with what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, ConfigError, HostfileError, NoAgentsError, Timeouts, VLLMPool

ENDPOINTS = [AgentEndpoint("gpu01"), AgentEndpoint("gpu02")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens_aggregation", 0),
        ("model_max_context", 1),
        ("buffer", -1),
        ("concurrency", 0),
        ("connector_limit", -1),
        ("timeout", 0),
        ("timeout", -1.0),
        ("balance", "random"),
        ("concurrency", "4"),
        ("max_tokens", 8.0),
        ("timeout", "30"),
        ("model", 7),
        ("system_prompt", ["Be brief."]),
        ("sampling", {"temperature": 0}),
        ("use_batch", "no"),
        ("prompting", {"prompt_format": "raw"}),
        ("timeouts", 30),
        ("connection", {"X-Team": "blue"}),
        ("observer", print),
        ("rng", 1),
    ],
)
def test_a_pools_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected"):
        VLLMPool(ENDPOINTS, **{name: value})


@pytest.mark.parametrize("name", ["connect", "probe", "stall", "patience"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_timeouts(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}"):
        Timeouts(**{name: value})


def test_no_endpoints() -> None:
    with pytest.raises(NoAgentsError):
        VLLMPool([])


def test_from_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "fleet.hostfile"
    path.write_text("gpu01 8001 tier=large\ngpu02\n")
    pool = VLLMPool.from_hostfile(path, model="m", max_tokens=7)
    assert (pool.size, pool.model, pool.max_tokens) == (2, "m", 7)
    assert pool.by_tag("tier", "large").endpoints == (AgentEndpoint("gpu01", 8001, {"tier": "large"}),)
    with pytest.raises(HostfileError, match=r"missing\.hostfile"):
        VLLMPool.from_hostfile(tmp_path / "missing.hostfile")


def test_what_was_given_can_be_read() -> None:
    pool = VLLMPool(ENDPOINTS, timeout=12.5, max_tokens_aggregation=99, use_batch=False)
    assert (pool.timeout, pool.max_tokens_aggregation, pool.supports_batch, pool.model) == (12.5, 99, False, None)
    assert pool.endpoints == tuple(ENDPOINTS)
    assert len(pool) == pool.size == 2


def test_a_pool_can_be_made_without_an_event_loop() -> None:
    assert VLLMPool(ENDPOINTS).statistics().agents_in_service == 2
