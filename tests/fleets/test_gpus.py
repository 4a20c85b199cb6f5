"""GPUs: which are free, and who gets which."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.fleets.gpus import free_gpus, gpu_environment
from aurora_pool.fleets.lifecycle import describe_fleet, scripts_of
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Group, make_fleet

NVIDIA = "0, GPU-00a1, 3, 81559\\n1, GPU-01b2, 70210, 81559\\n2, GPU-02c3, 0, 81559\\n3, GPU-03d4, [N/A], [N/A]\\n"
AMD = "device,GPU Memory Allocated (VRAM%%),x\\ncard0,0,0\\ncard1,0,0\\ncard2,0,0\\n"


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that tells of four GPUs, of which one is taken and one is cut into slices."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{NVIDIA}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that tells of three GPUs, all free."""
    tool = tmp_path / "rocm-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{AMD}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("nvidia")
def test_a_gpu_that_is_used_is_not_free() -> None:
    assert free_gpus({}) == ("cuda", ["0", "2"])


@pytest.mark.usefixtures("nvidia")
@pytest.mark.parametrize(
    ("given", "free"),
    [("1,2", ["2"]), ("2,0", ["2", "0"]), ("", []), ("-1", []), ("7", []), ("GPU-02", ["GPU-02"]), ("GPU-01b2", [])],
)
def test_what_a_mask_names_may_be_used_in_its_own_words(given: str, free: list[str]) -> None:
    assert free_gpus({"CUDA_VISIBLE_DEVICES": given}) == ("cuda", free)


@pytest.mark.usefixtures("nvidia")
def test_a_slice_is_used_as_it_is_named() -> None:
    assert free_gpus({"CUDA_VISIBLE_DEVICES": "MIG-77"}) == ("cuda", ["MIG-77"])


@pytest.mark.usefixtures("amd")
def test_a_mask_holds_for_amd_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2")
    script = scripts_of(RunFolder(tmp_path), describe_fleet("org/model"))["agent"]
    assert "export ROCR_VISIBLE_DEVICES=2\n" in script
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "")
    with pytest.raises(NoAgentsError, match="none of this machine's GPUs is free, among those of ROCR_VISIBLE_DEV"):
        describe_fleet("org/model")


def test_xpus_of_several_groups_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    fleet = make_fleet({"engine": "sim", "gpus": "xpu", "gpus_per_agent": 2, "groups": {"a": {"agents": 2}, "b": {}}})

    def masks() -> list[str]:
        scripts = scripts_of(RunFolder(tmp_path), fleet).values()
        return [line.partition("=")[2] for text in scripts for line in text.splitlines() if "ZE_AFFINITY" in line]

    assert masks() == ["0,1,2,3", "4,5"]
    monkeypatch.setenv("ZE_AFFINITY_MASK", "1.0,1.1,2.0,2.1,3.0,3.1")
    assert masks() == ["1.0,1.1,2.0,2.1", "3.0,3.1"]
    monkeypatch.setenv("ZE_AFFINITY_MASK", "1.0")
    with pytest.raises(NoAgentsError, match="6 xpu GPUs are needed, and 1 of this machine are free, among"):
        masks()


def test_groups_on_one_host_have_gpus_of_their_own() -> None:
    groups = {"a": {"agents_per_node": 2, "agents": 4, "hosts": ["x", "y"]}, "b": {"hosts": ["y"]}, "c": {}}
    fleet = make_fleet({"engine": "sim", "where": "ssh", "hosts": ["z"], "gpus_per_agent": 1, "groups": groups})
    a, b, c = fleet.groups
    assert [fleet.gpus_before(a, 0), fleet.gpus_before(a, 1), fleet.gpus_before(b, 0)] == [None, 0, 2]
    assert fleet.gpus_before(c, 0) is None
    assert gpu_environment(b, 0, {}, taken=2) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert gpu_environment(b, 0, {"CUDA_VISIBLE_DEVICES": "4,5,6"}, taken=2) == {"CUDA_VISIBLE_DEVICES": "6"}


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
        (
            Group(gpus_per_agent=1, agents_per_node=2),
            1,
            {"CUDA_VISIBLE_DEVICES": "5,7"},
            {"CUDA_VISIBLE_DEVICES": "7"},
        ),
        (Group(gpus_per_agent=1, gpus="rocm"), 0, {"ROCR_VISIBLE_DEVICES": "3,4"}, {}),
        (Group(gpus_per_agent=4, gpus="xpu"), 2, {}, {"ZE_AFFINITY_MASK": "8,9,10,11"}),
        (Group(), 3, {"CUDA_VISIBLE_DEVICES": "0"}, {}),
    ],
)
def test_an_agent_gets_its_share(group: Group, slot: int, given: dict[str, str], own: dict[str, str]) -> None:
    assert gpu_environment(group, slot, given) == own


def test_too_few_gpus_are_told() -> None:
    with pytest.raises(ConfigError, match="names 1 GPUs; expected 4 for 2 agents"):
        gpu_environment(Group(gpus_per_agent=2), 1, {"CUDA_VISIBLE_DEVICES": "0"})
    with pytest.raises(ConfigError, match="names 0 GPUs; expected 1"):
        gpu_environment(Group(gpus_per_agent=1), 0, {"CUDA_VISIBLE_DEVICES": ""})
