"""The scripts of the back ends: whole, readable shell, with the user's own options in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.fleets.lifecycle import bring_up, scripts_of
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, load_fleet, make_fleet
from tests.cli.conftest import Call, call  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
RUN = RunFolder(Path("/scratch/fleet.run"))


@pytest.fixture(autouse=True)
def _outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)


def fleet(**keys: Any) -> Fleet:
    engine = {"kind": "vllm", "model": "org/model", "args": "--dtype half", "setup": "module load cuda"}
    return make_fleet({"engine": engine, "agents": 6, **keys})


def script(**keys: Any) -> str:
    return scripts_of(RUN, fleet(**keys))["agent"]


@pytest.mark.parametrize(
    "keys", [{}, {"where": "slurm"}, {"where": "pbs"}, {"where": "ssh", "hosts": list("abcdef")}], ids=str
)
def test_every_script_is_shell_that_says_what_runs(keys: dict[str, Any]) -> None:
    text = script(**keys)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    for line in ("module load cuda", "vllm serve org/model --host $AURORA_POOL_ADDRESS --port $AURORA_POOL_PORT "):
        assert f"\n#     {line}" in text
    assert "-m aurora_pool agent /scratch/fleet.run agent" in text


def test_slurm_gets_an_array_and_the_options_verbatim() -> None:
    text = script(where="slurm", gpus_per_agent=2, agents_per_node=2, options=["--partition=gpu", "--time=1:00:00"])
    for option in ("--array=0-2", "--gres=gpu:4", "--requeue", "--partition=gpu", "--time=1:00:00"):
        assert f"#SBATCH {option}\n" in text
    assert text.endswith('agent "$SLURM_ARRAY_TASK_ID"\n')
    assert "--gres=gpu:4" not in script(where="slurm", gpus_per_agent=4, options=["--gpus-per-node=a100:4"])


def test_in_an_allocation_each_group_has_nodes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    scripts = scripts_of(RUN, fleet(where="slurm", agents=1, groups={"large": {"agents": 2}, "small": {}}))
    assert "exec srun --jobid=77" in scripts["large"]
    assert "--nodes=2 --ntasks=2 --relative=0" in scripts["large"]
    assert "--nodes=1 --ntasks=1 --relative=2" in scripts["small"]
    with pytest.raises(ConfigError, match="the fleet needs 6 nodes, and allocation 77 has 3"):
        scripts_of(RUN, fleet(where="slurm"))


def test_pbs_gets_one_job_for_all_nodes() -> None:
    text = script(where="pbs", agents_per_node=3, options=["-A project", "-l filesystems=home"])
    for option in ("-l select=2", "-l place=scatter", "-A project", "-l filesystems=home"):
        assert f"#PBS {option}\n" in text
    assert "select=2\n" not in script(where="pbs", agents_per_node=3, options=["-l select=2:ngpus=4"])


def test_ssh_needs_as_many_hosts_as_machines() -> None:
    with pytest.raises(ConfigError, match="need 6 hosts; there are 1"):
        script(where="ssh", hosts=["a"])
    assert "hosts=(a b)" in script(where="ssh", hosts=["a", "b"], agents_per_node=3)


def test_kubernetes_gets_a_deployment_and_a_headless_service() -> None:
    text = script(where="kubernetes", image="vllm/vllm-openai:v0.32.0", gpus_per_agent=2, ready_within=600)
    service, deployment = yaml.safe_load_all(text)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["replicas"] == 6
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert container["command"][2].endswith("vllm serve org/model --host 0.0.0.0 --port 8000 --dtype half")
    assert container["startupProbe"]["failureThreshold"] == 60
    assert f"k8s://{service['metadata']['name']}.NAMESPACE:8000" in text
    with pytest.raises(ConfigError, match="image: expected"):
        script(where="kubernetes")


def test_kubernetes_takes_port_and_tags_and_refuses_what_it_can_t_honour() -> None:
    keys: dict[str, Any] = {"where": "kubernetes", "image": "x"}
    text = script(**keys, port=9000, tags={"role": "large", "size": 8})
    service, deployment = yaml.safe_load_all(text)
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"] == service["spec"]["selector"] | {"role": "large", "size": "8"}
    (container,) = template["spec"]["containers"]
    assert "--port 9000" in container["command"][2]
    probes = [container[name]["httpGet"]["port"] for name in ("readinessProbe", "startupProbe", "livenessProbe")]
    assert {service["spec"]["ports"][0]["port"], container["ports"][0]["containerPort"], *probes} == {9000}
    assert "NAMESPACE:9000" in text
    with pytest.raises(ConfigError, match="options: there is no command"):
        script(**keys, options=["--foo"])
    for tags in ({"role": "a/b"}, {"-role": "a"}, {"app": "mine"}):
        with pytest.raises(ConfigError, match="can't be a pod's label"):
            script(**keys, tags=tags)


def test_in_kubernetes_down_says_what_to_run_and_up_works_again(tmp_path: Path, call: Call) -> None:  # noqa: F811
    file = tmp_path / "fleet.yaml"
    file.write_text("{where: kubernetes, image: x, engine: sim}")
    run = tmp_path / "fleet.run"
    for _ in range(2):
        told = call("up", file, "--run", run)
        assert (told.code, told.out) == (0, f"kubectl apply -f {run}/agent.yaml\n")
        told = call("down", run)
        assert (told.code, told.out) == (0, f"kubectl delete -f {run}/agent.yaml\n")
        assert (run / "agent.yaml").exists()
    told = call("down", run)
    assert (told.code, "nothing was started" in told.err) == (2, True)


def test_a_folder_that_a_shell_would_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="without spaces"):
        scripts_of(RunFolder(Path("/my runs/fleet.run")), fleet())


@pytest.mark.parametrize(("where", "command"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_scheduler_that_is_not_there_is_told_and_nothing_is_left(
    where: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = RunFolder(tmp_path / "fleet.run")
    with pytest.raises(NoAgentsError, match=f"{command}: no such command"):
        bring_up(run, fleet(where=where))
    assert not run.was_started()


def test_the_documentation_shows_the_script_of_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "8")
    described = load_fleet(ROOT / "examples" / "fleets" / "slurm.yaml")
    text = scripts_of(RunFolder(Path("/scratch/me/fleet.run")), described)["agent"]
    shown = (ROOT / "docs" / "fleets.md").read_text(encoding="utf-8")
    assert f"```bash\n{text}```\n".replace(sys.executable, "/scratch/me/venv/bin/python") in shown


@pytest.mark.parametrize("name", ["slurm", "aurora", "ssh", "workstation", "kubernetes"])
def test_the_documentation_shows_the_scripts_of_the_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aurora_pool.fleets.launchers.local.free_gpus", lambda: ("cuda", ["0", "1"]))
    described = load_fleet(ROOT / "examples" / "fleets" / f"{name}.yaml")
    text = next(iter(scripts_of(RunFolder(Path("/scratch/me/fleet.run")), described).values()))
    shown = (ROOT / "docs" / "fleets.md").read_text(encoding="utf-8")
    assert f"```{'yaml' if name == 'kubernetes' else 'bash'}\n" in shown
    assert text.replace(sys.executable, "/scratch/me/venv/bin/python") in shown
