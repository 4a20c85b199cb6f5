"""Engines in the process of a job, for real: vLLM and transformers, in the environment that vLLM's servers have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.local_fleet import MAX_MODEL_LEN
from tests.integration.vllm_environment import clean_environment, vllm_environment

ROOT = Path(__file__).parents[2]
VLLM = f"--max-model-len {MAX_MODEL_LEN} --max-num-seqs 32 --enforce-eager --dtype float32"


def run(folder: Path, engine: str, *options: str) -> tuple[int, str]:
    """Run a job on an engine; gives the exit code and what was said."""
    environment = vllm_environment()
    scratch = folder / "v"  # short: sockets lie in it
    scratch.mkdir(exist_ok=True)
    variables = clean_environment(
        PYTHONPATH=str(ROOT),
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        TMPDIR=str(scratch),
        TORCHDYNAMO_DISABLE="1",
        VLLM_CACHE_ROOT=str(scratch),
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
    )
    command = [str(environment.python), "-m", "aurora_pool", "run", "in.jsonl", "-o", "out.jsonl", "--engine", engine]
    command += ["--model", str(environment.model), *options]
    ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert len({record["custom_id"] for record in records}) == len(records)
    return {record["custom_id"]: record for record in records}


@pytest.mark.timeout(1900)  # two jobs of up to 900
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_job_without_servers(tmp_path: Path, engine: str) -> None:
    lines: list[dict[str, Any]] = [
        {"id": f"p{number}", "prompt": f"What is {number} + 1?", "max_tokens": 8, "temperature": 0}
        for number in range(12)
    ]
    lines += [
        {
            "id": "france",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 64,
            "temperature": 0,
        },
        {"id": "long", "prompt": "again " * (MAX_MODEL_LEN + 50), "max_tokens": 4, "temperature": 0},
        {
            "custom_id": "odd",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": "Hi", "max_tokens": 8, "no_such_field": 1},
        },
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = run(tmp_path, engine, *(["--engine-args", VLLM] if engine == "vllm" else []))
    assert code == 1, said
    found = records_of(tmp_path)
    assert found.keys() == {line.get("id", "odd") for line in lines}
    failed = {name for name, record in found.items() if record["error"] is not None}
    assert failed == ({"odd"} if engine == "transformers" else {"odd", "long"})
    message = found["france"]["response"]["body"]["choices"][0]["message"]["content"]
    assert message.startswith("The capital of France is Paris")
    assert found["p1"]["response"]["body"]["usage"]["completion_tokens"] <= 8

    if engine == "transformers":  # it loads quickly
        before = (tmp_path / "out.jsonl").read_bytes()
        assert run(tmp_path, engine)[0] == 1
        assert (tmp_path / "out.jsonl").read_bytes() == before, "what was answered is not computed again"
