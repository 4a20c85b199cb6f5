"""GPUs: which are free, and who gets which."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.fleets.gpus import free_gpus, gpu_environment
from aurora_pool.fleets.lifecycle import describe_fleet, scripts_of
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Group, make_fleet

NVIDIA = "0, 3, 81559\n1, 70210, 81559\n2, 0, 81559\n3, [N/A], [N/A]\n"


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that tells of four GPUs, of which one is taken and one is cut into slices."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{NVIDIA}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvidia")
def test_a_gpu_that_is_used_is_not_free() -> None:
    assert free_gpus({}) == ("cuda", ["0", "2"])
    assert free_gpus({"CUDA_VISIBLE_DEVICES": "1,2"}) == ("cuda", ["2"])


@pytest.mark.usefixtures("nvidia")
def test_a_model_gets_an_agent_on_each_free_gpu(tmp_path: Path) -> None:
    fleet = describe_fleet("org/model")
    assert (fleet.groups[0].agents, fleet.groups[0].gpus_per_agent) == (2, 1)
    assert "export CUDA_VISIBLE_DEVICES=0,2\n" in scripts_of(RunFolder(tmp_path), fleet)["agent"]


@pytest.mark.usefixtures("nvidia")
def test_groups_share_out_the_free_ones(tmp_path: Path) -> None:
    fleet = make_fleet({"engine": "sim", "gpus_per_agent": 1, "groups": {"a": {}, "b": {}}})
    scripts = scripts_of(RunFolder(tmp_path), fleet)
    assert [f"CUDA_VISIBLE_DEVICES={n}\n" in scripts[name] for name, n in (("a", 0), ("b", 2))] == [True, True]
    with pytest.raises(NoAgentsError, match="4 cuda GPUs are needed, and 2 of this machine are free"):
        scripts_of(RunFolder(tmp_path), make_fleet({"engine": "sim", "gpus_per_agent": 2, "agents": 2}))


@pytest.mark.usefixtures("nvidia")
def test_a_model_is_not_put_on_the_cpu_of_a_machine_whose_gpus_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(NoAgentsError, match="none of this machine's GPUs is free"):
        describe_fleet("org/model")


def test_without_gpus_a_model_gets_one_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (group,) = describe_fleet("org/model").groups
    assert (group.agents, group.gpus_per_agent) == (1, 0)


@pytest.mark.parametrize(
    ("group", "slot", "given", "own"),
    [
        (Group(gpus_per_agent=2), 1, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}),
        (Group(gpus_per_agent=1), 1, {"CUDA_VISIBLE_DEVICES": "5,7"}, {"CUDA_VISIBLE_DEVICES": "7"}),
        (Group(gpus_per_agent=1, gpus="rocm"), 0, {"ROCR_VISIBLE_DEVICES": "3"}, {"ROCR_VISIBLE_DEVICES": "3"}),
        (Group(gpus_per_agent=4, gpus="xpu"), 2, {}, {"ZE_AFFINITY_MASK": "8,9,10,11"}),
        (Group(), 3, {"CUDA_VISIBLE_DEVICES": "0"}, {}),
    ],
)
def test_an_agent_gets_its_share(group: Group, slot: int, given: dict[str, str], own: dict[str, str]) -> None:
    assert gpu_environment(group, slot, given) == own


def test_too_few_gpus_are_told() -> None:
    with pytest.raises(ConfigError, match="names 1 GPUs; expected 4 for 2 agents"):
        gpu_environment(Group(gpus_per_agent=2), 1, {"CUDA_VISIBLE_DEVICES": "0"})
