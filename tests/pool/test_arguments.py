"""Invalid arguments are refused at once, with their name, what was expected, and what came."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from aurora_pool import (
    AgentEndpoint,
    AgentPool,
    ConfigError,
    ConnectionOptions,
    EmbeddingPool,
    HostedOptions,
    HostfileError,
    NoAgentsError,
    Observer,
    Prompt,
    PromptOptions,
    Sampling,
    Timeouts,
    VLLMPool,
)
from aurora_pool.pool_options import EmbeddingPoolOptions, VLLMPoolOptions
from tests.pool.running import running

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
        ("prefix", "on"),
        ("concurrency", "4"),
        ("max_tokens", 8.0),
        ("timeout", "30"),
        ("model", 7),
        ("system_prompt", ["Be brief."]),
        ("sampling", {"temperature": 0}),
        ("buffer", None),
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


def test_a_pools_sampling() -> None:
    sampling: Any = Sampling(seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sampling\.seed: expected `int \| null`, got `float`"):
        VLLMPool(ENDPOINTS, sampling=sampling)


@pytest.mark.parametrize("name", ["connect", "probe", "stall", "patience"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_timeouts(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}"):
        Timeouts(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("prompt_format", "jinja"), ("on_too_long", "ignore"), ("stream", "no")])
def test_prompt_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected .* got {value!r}"):
        PromptOptions(**{name: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("127.0.0.1:8000", AgentEndpoint("127.0.0.1", 8000)),
        ("http://gpu02:8001/v1", AgentEndpoint("gpu02", 8001)),
        ("gpu02:8001/v1/", AgentEndpoint("gpu02", 8001)),
        ("https://gpu02/team-a/v1", AgentEndpoint("gpu02", 443, scheme="https", path="/team-a")),
        ("gpu02 8001 tier=large", AgentEndpoint("gpu02", 8001, {"tier": "large"})),
        (("gpu02", 8001), AgentEndpoint("gpu02", 8001)),
        (AgentEndpoint("gpu02", 8001), AgentEndpoint("gpu02", 8001)),
    ],
)
def test_endpoints_are_what_names_them(given: Any, expected: AgentEndpoint) -> None:
    assert VLLMPool([given]).endpoints == EmbeddingPool(iter([given])).endpoints == (expected,)


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ("gpu01:8000", r"endpoints: expected a list of endpoints, .* got 'gpu01:8000'"),
        ({"gpu01": 8000}, r"endpoints: expected a list of endpoints, .* got {'gpu01': 8000}"),
        (AgentEndpoint("gpu01"), r"endpoints: expected a list"),
        (None, r"endpoints: expected a list of endpoints, .* got None"),
        (["gpu01", 8000], r"endpoints\[1\]: expected 'host', .* got 8000"),
        (["gpu01:80000"], r"endpoints\[0\]: expected a port from 1 to 65535, got 80000"),
        ([("gpu01", "8000")], r"endpoints\[0\]: port: expected int, got '8000'"),
        ([("gpu01",)], r"endpoints\[0\]: expected 'host', .* got \('gpu01',\)"),
        ([""], r"endpoints\[0\]: expected"),
        (["gpu01?key=sk-1"], r"endpoints\[0\]: expected an address"),
    ],
)
def test_what_names_no_endpoint(endpoints: Any, message: str) -> None:
    for make in (VLLMPool, EmbeddingPool):
        with pytest.raises(ConfigError, match=message):
            make(endpoints)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(("gpu01", "8000"), "port"), (("gpu01", True), "port"), ((7,), "host"), (("gpu01", 1, ["tier"]), "tags")],
)
def test_an_endpoint_of_other_types(arguments: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        AgentEndpoint(*arguments)


def test_a_line_of_a_hostfile_may_stand_for_several_agents() -> None:
    pool = VLLMPool(["gpu[01-02,04] 8001 tier=large  # the fast ones", "gpu03"])
    assert [str(endpoint) for endpoint in pool.endpoints] == ["gpu01:8001", "gpu02:8001", "gpu04:8001", "gpu03:8000"]
    assert [endpoint.tags for endpoint in pool.endpoints[:3]] == [{"tier": "large"}] * 3
    with pytest.raises(ConfigError, match=r"endpoints\[1\]: expected numbers and ranges as in .*, got \[2-1\]"):
        VLLMPool(["gpu01", "gpu[2-1]"])


def test_an_agent_that_is_listed_twice_counts_once_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pool = VLLMPool(["gpu01", "GPU01:8000", ("gpu02", 8000), AgentEndpoint("gpu01")])
    assert [str(endpoint) for endpoint in pool.endpoints] == ["gpu01:8000", "gpu02:8000"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 endpoints are listed more than once and counted once, the first being GPU01:8000"
    ]


def test_the_base_of_all_pools_is_no_pool() -> None:
    with pytest.raises(ConfigError, match="make a VLLMPool or an EmbeddingPool"):
        AgentPool(["gpu01"])  # type: ignore[call-arg]


@pytest.mark.parametrize(("pool", "options"), [(VLLMPool, VLLMPoolOptions), (EmbeddingPool, EmbeddingPoolOptions)])
def test_from_hostfile_takes_what_the_constructor_takes(pool: Any, options: Any) -> None:
    constructor = get_type_hints(pool.__init__)
    assert get_type_hints(options) == {n: hint for n, hint in constructor.items() if n not in ("endpoints", "return")}


FLAT: dict[str, Any] = {
    "model": "m",
    "timeout": 9.0,
    "balance": "strict",
    "concurrency": 5,
    "connector_limit": 6,
    "timeouts": Timeouts(stall=9),
    "connection": ConnectionOptions(verify=True),
    "observer": Observer(),
    "rng": random.Random(0),
}
FLAT_OF_TEXT = {
    **FLAT,
    "max_tokens": 8,
    "max_tokens_aggregation": 7,
    "model_max_context": 99,
    "buffer": 3,
    "system_prompt": "Be brief.",
    "sampling": Sampling(temperature=0.0),
    "use_batch": False,
    "prefix": "off",
    "prompting": PromptOptions(stream=False),
    "hosted": HostedOptions(max_cost=5.0),
}
FLAT_OF_VECTORS = {**FLAT, "dimensions": 4, "on_too_long": "truncate"}


@pytest.mark.parametrize(("pool", "given"), [(VLLMPool, FLAT_OF_TEXT), (EmbeddingPool, FLAT_OF_VECTORS)])
def test_what_the_constructor_was_given_can_be_read_and_not_changed(pool: Any, given: dict[str, Any]) -> None:
    assert given.keys() == inspect.signature(pool).parameters.keys() - {"endpoints"}
    created = pool(ENDPOINTS, **given)
    assert {name: getattr(created, name) for name in given} == given
    assert {name: getattr(created.slice(0, 1), name) for name in given} == given
    for name in [*given, "supports_batch", "gives_vectors", "endpoints", "size"]:
        with pytest.raises(AttributeError, match=name):
            setattr(created, name, 1)


VIEWS: list[tuple[Callable[[VLLMPool], object], str]] = [
    (lambda pool: pool.by_tag("rack", 3), "rack: expected str, got 3"),  # type: ignore[arg-type]
    (lambda pool: pool.by_tag(3, "rack"), "key: expected str, got 3"),  # type: ignore[arg-type]
    (lambda pool: pool.by_tag(rack=None), "rack: expected str, got None"),  # type: ignore[arg-type]
    (lambda pool: pool.select(1), "indices: expected a list, or another iterable, of indices, got 1"),  # type: ignore[arg-type]
    (lambda pool: pool.select(["a"]), r"select: expected different indices below 2, got \['a'\]"),  # type: ignore[list-item]
    (lambda pool: pool.select([0.5]), "select: expected different indices"),  # type: ignore[list-item]
    (lambda pool: pool.slice("a"), "start: expected a whole number, got 'a'"),  # type: ignore[arg-type]
    (lambda pool: pool.slice(0, 1.0), "stop: expected a whole number, got 1.0"),  # type: ignore[arg-type]
    (lambda pool: pool.sample(2, rng=3), "rng: expected Random, got 3"),  # type: ignore[arg-type]
    (lambda pool: pool.sample(None), "n: expected a whole number of at least 0, got None"),  # type: ignore[arg-type]
    (lambda pool: pool.as_caller(weight=None), "weight: expected a number above 0, got None"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("view", "message"), VIEWS, ids=[message for _, message in VIEWS])
def test_views(view: Callable[[VLLMPool], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        view(VLLMPool(ENDPOINTS))


@pytest.mark.parametrize("prompts", [None, 7, "a prompt", b"a prompt", {"role": "user"}, Prompt("a")])
@pytest.mark.parametrize("method", ["send_all", "send_all_batched", "iter_responses"])
async def test_prompts_of_other_types(method: str, prompts: Any) -> None:
    pool = VLLMPool(ENDPOINTS)
    with pytest.raises(ConfigError, match="prompts: expected a list, or another iterable, of prompts, got"):
        await getattr(pool, method)(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": "8"}, "max_tokens: expected a whole number of at least 1, got '8'"),
        ({"sampling": {"temperature": 0}}, "sampling: expected Sampling, got"),
        ({"sampling": Sampling(temperature="hot")}, r"sampling\.temperature: expected `float \| null`, got `str`"),  # type: ignore[arg-type]
        ({"sampling": Sampling(extra=[1])}, r"sampling\.extra: expected `object`, got `array`"),  # type: ignore[arg-type]
        ({"sampling": Sampling(temperature=float("inf"))}, r"sampling\.temperature: expected a finite number"),
        ({"sampling": Sampling(n=0)}, r"sampling\.n: expected a whole number of at least 1, got 0"),
        ({"weight": None}, "weight: expected a number above 0, got None"),
        ({"weight": "2"}, "weight: expected a number above 0, got '2'"),
        ({"priority": None}, "priority: expected int, got None"),
        ({"on_progress": "bar"}, "on_progress: expected a function, got 'bar'"),
        ({"progress": "bar"}, "progress: expected bool, got 'bar'"),
    ],
)
async def test_options_of_a_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await VLLMPool(ENDPOINTS).send_all_batched(["a"], **options)


@pytest.mark.parametrize("options", [{"max_tokens": 8}, {"sampling": Sampling()}], ids=str)
@pytest.mark.parametrize("method", ["ask", "send_all", "send_all_batched", "iter_responses"])
async def test_embeddings_have_no_options_of_generating(method: str, options: dict[str, Any]) -> None:
    pool = EmbeddingPool(ENDPOINTS)
    given = getattr(pool, method)("a" if method == "ask" else ["a"], **options)
    with pytest.raises(ConfigError, match="max_tokens and sampling: expected neither"):
        await (anext(given) if method == "iter_responses" else given)


@pytest.mark.simulated_clock
async def test_misuse_leaves_no_counter_behind() -> None:
    async with running(1) as (_, pool):
        for prompts in (None, "a prompt", [None], ["a", {}]):
            with pytest.raises(ConfigError):
                await pool.send_all_batched(prompts)  # type: ignore[arg-type]
        figures = pool.statistics()
        assert (figures.queued, figures.in_flight, figures.prompts_failed) == (0, 0, 0)


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


def test_without_objects_of_options_those_that_hold_are_read() -> None:
    pool = VLLMPool(ENDPOINTS)
    assert (pool.timeouts, pool.connection, pool.prompting) == (Timeouts(), ConnectionOptions(), PromptOptions())
    assert (pool.hosted, pool.observer, pool.rng) == (HostedOptions(), None, None)


def test_what_was_given_can_be_read() -> None:
    pool = VLLMPool(ENDPOINTS, timeout=12.5, max_tokens_aggregation=99, use_batch=False)
    assert (pool.timeout, pool.max_tokens_aggregation, pool.supports_batch, pool.model) == (12.5, 99, False, None)
    assert pool.endpoints == tuple(ENDPOINTS)
    assert len(pool) == pool.size == 2


def test_a_pool_can_be_made_without_an_event_loop() -> None:
    assert VLLMPool(ENDPOINTS).statistics().agents_in_service == 2
