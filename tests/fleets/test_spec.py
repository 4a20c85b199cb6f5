"""The YAML of a fleet: what it may say, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.fleets.spec import Fleet, load_fleet, make_fleet


def test_groups_have_what_is_shared_and_what_is_their_own() -> None:
    fleet = make_fleet(
        {
            "where": "slurm",
            "engine": {"kind": "vllm", "model": "m", "env": {"A": 1}},
            "tags": {"role": "any"},
            "groups": {"large": {"agents": 2, "tags": {"role": "large"}}, "small": {"engine": {"model": "s"}}},
        }
    )
    large, small = fleet.groups
    assert (large.agents, large.engine.model, large.tags) == (2, "m", {"role": "large"})
    assert (small.agents, small.engine.model, small.engine.kind, small.tags) == (1, "s", "vllm", {"role": "any"})
    assert fleet.agent_names == ["large-000", "large-001", "small-000"]


@pytest.mark.parametrize(
    ("agents", "per_node", "elements"),
    [(4, 1, [[0], [1], [2], [3]]), (5, 2, [[0, 1], [2, 3], [4]]), (2, 4, [[0, 1]])],
)
def test_agents_are_spread_over_machines(agents: int, per_node: int, elements: list[list[int]]) -> None:
    fleet = make_fleet({"engine": "sim", "where": "slurm", "agents": agents, "agents_per_node": per_node})
    (group,) = fleet.groups
    assert [list(group.agents_of(element)) for element in range(group.elements)] == elements


def test_on_one_machine_all_agents_share_it() -> None:
    assert make_fleet({"engine": "sim", "agents": 4}).groups[0].elements == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected keys such as"),
        ({"agnets": 2, "engine": "sim"}, "no key 'agnets'; did you mean 'agents'?"),
        ({"engine": {"kind": "sim", "agrs": "x"}}, "engine: no key 'agrs'; did you mean 'args'?"),
        ({"engine": {"kind": "vlm", "model": "m"}}, "engine: kind: invalid enum value 'vlm'"),
        ({"engine": "sim", "agents": "four"}, "agents: expected `int`, got `str`"),
        ({"engine": "sim", "agents": 0}, "agents: expected at least 1, got 0"),
        ({"engine": {"kind": "vllm"}}, "engine: model: expected the name or the folder of a model"),
        ({"engine": {"kind": "command"}}, "engine: command: expected a command line"),
        ({"engine": {"kind": "sim", "command": "x"}}, "engine: a command needs kind: command"),
        ({"engine": {"kind": "sim", "args": "'"}}, "engine: args: No closing quotation"),
        ({"engine": "sim", "where": "moon"}, "where: invalid enum value 'moon'"),
        ({"engine": "sim", "where": "ssh"}, "hosts: expected the names of machines"),
        ({"engine": "sim", "tags": {"role": "a b"}}, "tags: expected words without spaces"),
        ({"engine": "sim", "tags": {"engine": "slang"}}, "tags: no engine 'slang'; did you mean 'sglang'"),
        ({"engine": "sim", "port": 70000}, "port: expected one from 1 to 65535"),
        ({"engine": "sim", "groups": {"a": {"where": "slurm"}}}, "groups: a: no key 'where'"),
        ({"engine": "sim", "groups": {"a/b": {}}}, "groups: a/b: expected letters"),
        ({"engine": "sim", "groups": []}, "groups: expected a name for each group"),
    ],
)
def test_a_mistake_is_told_with_its_place(content: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_fleet(content)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("a: 2024-13-45", "not YAML"),
        ("[" * 5000, "not YAML"),
        (None, "can't be read"),
        ("a: 1", "no key 'a'"),
    ],
)
def test_a_mistake_is_told_with_its_file(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "fleet.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_fleet(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples" / "fleets").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_are_fleets(path: Path) -> None:
    assert isinstance(load_fleet(path), Fleet)
