"""``aurora-pool up`` with real vLLM: from nothing to answered prompts in one command, and nothing left running."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

from aurora_pool.hostfile_source import parse_hostfile
from tests.fleets.shared import aurora_pool, processes_of
from tests.integration.local_fleet import MAX_MODEL_LEN, MODEL
from tests.integration.vllm_environment import vllm_environment


def write_fleet(folder: Path) -> Path:
    """Write a fleet of one vLLM server on the CPU."""
    environment = vllm_environment()
    scratch = folder / "v"  # short: sockets lie in it
    scratch.mkdir()
    command = [str(environment.python), "-P", "-m", "vllm.entrypoints.openai.api_server", "--max-num-seqs", "64"]
    command += ["--served-model-name", MODEL, "--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager"]
    command += ["--dtype", "float32", "--disable-uvicorn-access-log"]
    engine = {
        "kind": "command",
        "model": str(environment.model),
        "command": f"{shlex.join(command)} --model {{model}} --host {{host}} --port {{port}}",
        "env": {
            "HF_HUB_OFFLINE": 1,
            "OMP_NUM_THREADS": 1,
            "TMPDIR": str(scratch),
            "TORCHDYNAMO_DISABLE": 1,
            "VLLM_CACHE_ROOT": str(scratch),
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": 1,
        },
        # What this test's own Python was told is not meant for vLLM's.
        "setup": "unset PYTHONPATH PYTHONWARNINGS",
    }
    path = folder / "vllm.yaml"
    path.write_text(json.dumps({"engine": engine, "restarts": 0}))
    return path


def test_from_nothing_to_answers_in_one_command(tmp_path: Path) -> None:
    source, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    source.write_text("".join(f"What is {number} + 1?\n" for number in range(40)))
    fleet = write_fleet(tmp_path)
    aurora_pool("run", source, "-o", output, "--up", fleet, "--max-tokens", 8, "--temperature", 0)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({record["custom_id"] for record in records}) == 40
    assert all(record["error"] is None for record in records)
    assert processes_of(tmp_path / "answers.jsonl.fleet") == []


def test_a_fleet_of_real_servers_is_checked_killed_and_ended(tmp_path: Path) -> None:
    run = tmp_path / "fleet.run"
    aurora_pool("up", write_fleet(tmp_path), "--run", run)
    aurora_pool("wait", "--hostfile", run / "agents.d", "--timeout", 280)
    assert len(parse_hostfile(run / "agents.d")) == 1
    (row,) = aurora_pool("check", "--hostfile", run / "agents.d", "--burst", 8, "--json").stdout.splitlines()
    found = json.loads(row)
    assert (found["model"], found["max_model_len"], found["prefix_caching"]) == (MODEL, MAX_MODEL_LEN, True)
    assert found["fingerprint"].startswith(f"vllm-{found['version']}")
    assert found["prompts_per_second"] > 0
    assert found["template"]
    # vLLM's engine is a process of its own beside the API server.
    assert len(processes_of(run)) >= 5
    aurora_pool("down", run)
    assert processes_of(run) == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed
