"""Options and patterns refuse invalid arguments where they are given, by name, and not with a TypeError later."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import (
    AgentEndpoint,
    ConfigError,
    ConnectionOptions,
    EmbeddingPool,
    HostedOptions,
    Prompt,
    PromptOptions,
    Sampling,
    Timeouts,
    VLLMPool,
    format_hostfile,
    parse_hostfile,
)
from aurora_pool.contrib.rows import RowPrompts
from aurora_pool.jobs import Columns, Expectation, Guardrails, JobOptions, Price, map_rows, run_job
from aurora_pool.patterns import (
    Blackboard,
    Role,
    Stage,
    broadcast_and_reduce,
    choose,
    chunk_text,
    fan_out_fan_in,
    map_reduce,
    read_documents,
    run_pipeline,
    sample_many,
    semantic_entropy,
    summarize,
    tree_reduce,
)
from aurora_pool.serve import ServerOptions, UserLimits
from tests.patterns.fake_pool import FakePool

HOT: Any = Sampling(temperature="hot")  # type: ignore[arg-type]
PRICE = Price(None, 0.5, 1.5)

OPTIONS: list[tuple[Callable[..., object], dict[str, Any]]] = [
    (Timeouts, {"stall": None}),
    (Timeouts, {"connect": True}),
    (HostedOptions, {"spill_after": None}),
    (HostedOptions, {"max_cost": True}),
    (HostedOptions, {"max_cost": "5"}),
    (HostedOptions, {"deadline": "x"}),
    (HostedOptions, {"deadline": -1}),
    (HostedOptions, {"spent": "a"}),
    (HostedOptions, {"spent": -1}),
    (HostedOptions, {"on_draw": 3}),
    (HostedOptions, {"drivers": None}),
    (JobOptions, {"prompt_format": "x"}),
    (JobOptions, {"input_format": "txt"}),
    (JobOptions, {"on_bad_line": "ignore"}),
    (JobOptions, {"interval": "x"}),
    (JobOptions, {"warn_after": None}),
    (JobOptions, {"deadline": "tomorrow"}),
    (JobOptions, {"model_map": "a=b"}),
    (JobOptions, {"defaults": ["max_tokens"]}),
    (JobOptions, {"columns": {"keep": "all"}}),
    (JobOptions, {"expect": "json"}),
    (JobOptions, {"guardrails": None}),
    (JobOptions, {"cache": 7}),
    (JobOptions, {"table": 7}),
    (JobOptions, {"shard": "0/2"}),
    (JobOptions, {"ordered": "yes"}),
    (JobOptions, {"before_resume": True}),
    (Columns, {"keep": "label"}),
    (Columns, {"keep": ("label", 7)}),
    (Columns, {"template": 7}),
    (Columns, {"id_field": 0}),
    (Expectation, {"check": "json"}),
    (Expectation, {"retries": None}),
    (Expectation, {"retries": -1}),
    (Expectation, {"remedy": "wait"}),
    (Expectation, {"length_is_failure": 1}),
    (Guardrails, {"stop_after_failures": "5"}),
    (Guardrails, {"failure_share": 7}),
    (Guardrails, {"max_total_tokens": 0}),
    (Guardrails, {"max_cost": "5", "prices": [PRICE]}),
    (Guardrails, {"prices": PRICE}),
    (Guardrails, {"prices": ["0.5"]}),
    (Price, {"tag": "tier=large", "prompt": 1.0, "generated": 1.0}),
    (Price, {"prompt": -1.0, "tag": None, "generated": 1.0}),
    (Role, {"name": 7, "section": "a", "prompt": "{a}"}),
    (Role, {"count": 0, "name": "x", "section": "a", "prompt": "{a}"}),
    (Role, {"last": 0, "name": "x", "section": "a", "prompt": "{a}"}),
    (Role, {"tag": "role=critic", "name": "x", "section": "a", "prompt": "{a}"}),
    (Role, {"sampling": HOT, "name": "x", "section": "a", "prompt": "{a}"}),
    (Stage, {"prompt": None, "name": "a"}),
    (Stage, {"max_tokens": "8", "name": "a", "prompt": "{item}"}),
    (Stage, {"read": "json", "name": "a", "prompt": "{item}"}),
    (chunk_text, {"text": b"a", "max_tokens": 8}),
    (chunk_text, {"max_tokens": "8", "text": "a"}),
    (chunk_text, {"overlap": None, "text": "a", "max_tokens": 8}),
    (read_documents, {"paths": [7]}),
    (Blackboard, {"roles": ["critic"], "sections": ["a"]}),
    (ServerOptions, {"data": "data"}),
    (ServerOptions, {"port": -1, "data": Path("data")}),
    (ServerOptions, {"connections": 0, "data": Path("data")}),
    (ServerOptions, {"grace": -1, "data": Path("data")}),
    (ServerOptions, {"limits": UserLimits(tokens_per_day=-1), "data": Path("data")}),
    (ServerOptions, {"trusted_proxies": "10.0.0.0/8", "data": Path("data")}),
    (format_hostfile, {"endpoints": ["gpu01"]}),
    (parse_hostfile, {"path": 7}),
]
"""What is made, and of what; the first argument is the invalid one."""


@pytest.mark.parametrize(("make", "arguments"), OPTIONS, ids=lambda value: getattr(value, "__name__", str(value)[:40]))
def test_options(make: Callable[..., object], arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"(^|\W){next(iter(arguments))}(\.\w+|\[\d\])?: expected"):
        make(**arguments)


WHOLE: list[tuple[Callable[..., object], dict[str, Any]]] = [
    (Timeouts, {}),
    (PromptOptions, {}),
    (ConnectionOptions, {}),
    (HostedOptions, {}),
    (JobOptions, {}),
    (Columns, {}),
    (Expectation, {}),
    (Guardrails, {}),
    (Price, {"tag": None, "prompt": 1.0, "generated": 1.0}),
    (Role, {"name": "x", "section": "a", "prompt": "{a}"}),
    (Stage, {"name": "a", "prompt": "{item}"}),
    (RowPrompts, {}),
    (ServerOptions, {"data": Path("data")}),
    (AgentEndpoint, {"host": "gpu01"}),
    (VLLMPool, {"endpoints": ["gpu01"]}),
    (EmbeddingPool, {"endpoints": ["gpu01"]}),
]
"""All objects of options, and the pools, with what they need."""


@pytest.mark.parametrize(("make", "needed"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
def test_every_option_is_checked(make: Callable[..., object], needed: dict[str, Any]) -> None:
    make(**needed)
    for name in inspect.signature(make).parameters:
        with pytest.raises(ConfigError, match=rf"^{name}: expected"):
            make(**needed | {name: object()})


def reduce(pool: Any, **options: Any) -> Awaitable[object]:
    return tree_reduce(pool, "{item}", "{responses}", items=["a"], **options)


PATTERNS: list[tuple[str, Callable[[Any], Awaitable[object]]]] = [
    ("fanin", lambda pool: reduce(pool, fanin="8")),
    ("fanin", lambda pool: reduce(pool, fanin=None)),
    ("max_tokens", lambda pool: reduce(pool, max_tokens="8")),
    ("reduce_max_tokens", lambda pool: reduce(pool, reduce_max_tokens="8")),
    ("clean", lambda pool: reduce(pool, clean="strip")),
    ("on_level", lambda pool: reduce(pool, on_level=True)),
    ("sampling", lambda pool: reduce(pool, sampling=HOT)),
    ("clean", lambda pool: broadcast_and_reduce(pool, "a", "{responses}", clean="strip")),  # type: ignore[arg-type]
    ("key", lambda pool: map_reduce(pool, ["a"], "{item}", "{responses}", key="a")),  # type: ignore[arg-type]
    ("max_tokens", lambda pool: fan_out_fan_in(pool, ["a"], {"a": "{item}"}, "{responses}", max_tokens=0)),
    ("sampling", lambda pool: run_pipeline(pool, [Stage("a", "{item}")], ["a"], sampling=HOT)),
    ("chunk_tokens", lambda pool: summarize(pool, ["a"], chunk_tokens=0)),
    ("overlap", lambda pool: summarize(pool, ["a"], overlap="1")),  # type: ignore[arg-type]
    ("documents", lambda pool: summarize(pool, [Path("a.txt")])),  # type: ignore[list-item]
    ("n", lambda pool: sample_many(pool, ["a"], n=None)),  # type: ignore[arg-type]
    ("sampling", lambda pool: sample_many(pool, ["a"], 2, sampling={"seed": 1})),  # type: ignore[arg-type]
    ("sampling", lambda pool: sample_many(pool, iter([Prompt("a", HOT)]), 2)),
    ("entails", lambda pool: semantic_entropy(pool, ["a"], entails="nli")),  # type: ignore[arg-type]
    ("sampling", lambda pool: semantic_entropy(pool, ["a"], sampling={"seed": 1})),  # type: ignore[arg-type]
    ("choices", lambda pool: choose(pool, ["a"], ["yes", 7])),  # type: ignore[list-item]
    ("sampling", lambda pool: choose(pool, iter([Prompt("a", {"seed": 1})]), ["yes", "no"])),  # type: ignore[arg-type]
    ("rounds", lambda pool: Blackboard(["a"], [Role("x", "a", "{a}")]).run(pool, rounds="4")),  # type: ignore[arg-type]
    ("template", lambda pool: map_rows(None, 7, pool)),  # type: ignore[arg-type]
    ("options", lambda pool: run_job(pool, ["a"], "out.jsonl", {"ordered": True})),  # type: ignore[arg-type]
    ("requests", lambda pool: run_job(pool, 7, "-")),  # type: ignore[arg-type]
    ("requests", lambda pool: run_job(pool, Prompt("a"), "-")),  # type: ignore[arg-type]
    ("output", lambda pool: run_job(pool, ["a"], None)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("name", "call"), PATTERNS, ids=[f"{place}-{name}" for place, (name, _) in enumerate(PATTERNS)]
)
async def test_patterns(name: str, call: Callable[[Any], Awaitable[object]]) -> None:
    pool = FakePool(str)
    with pytest.raises(ConfigError, match=rf"(^|\W){name}(\.\w+|\[\d\])?: expected"):
        await call(pool)
