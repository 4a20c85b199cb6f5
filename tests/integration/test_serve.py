"""`aurora-pool serve` over real servers: the openai client, a batch with real answers, lm-eval and inspect."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from aurora_pool import AgentEndpoint
from aurora_pool.serve import Server, ServerOptions, serving
from tests.integration.servers import PATIENCE, Model, read_idle
from tests.integration.vllm_environment import vllm_environment

LM_EVAL = "0.4.13"
INSPECT = "0.3.285"
CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}
TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
async def server(endpoints: list[AgentEndpoint], tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(endpoints, ServerOptions(data=tmp_path / "data", port=0)) as started:
        await started.fleet.wait_for_change(PATIENCE)
        yield started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as created:
        yield created


def question(country: str) -> list[Any]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


async def test_the_openai_client_gets_what_the_servers_say(client: openai.AsyncOpenAI, model: Model) -> None:
    assert [found.id for found in (await client.models.list()).data] == [model.name]
    chat = await client.chat.completions.create(
        model=model.name, messages=question("France"), max_tokens=12, temperature=0
    )
    assert "Paris" in (chat.choices[0].message.content or "")
    stream = await client.chat.completions.create(
        model=model.name, messages=question("France"), max_tokens=12, temperature=0, stream=True
    )
    text = "".join([event.choices[0].delta.content or "" async for event in stream])
    assert text == chat.choices[0].message.content


async def test_a_list_is_spread_over_both_servers(
    client: openai.AsyncOpenAI, model: Model, endpoints: list[AgentEndpoint]
) -> None:
    before = await read_idle(endpoints)
    prompts = [f"The capital of {country} is" for country in CAPITALS]
    reply = await client.completions.create(model=model.name, prompt=prompts, max_tokens=4, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert "Paris" in reply.choices[0].text
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16
    after = await read_idle(endpoints)
    assert all(new.completions > old.completions for new, old in zip(after, before, strict=True))


async def test_errors_are_the_servers_own_words(client: openai.AsyncOpenAI, model: Model) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        await client.completions.create(model=model.name, prompt="x " * (2 * model.context), max_tokens=1)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.completions.create(model="another", prompt="x")


async def test_a_batch_has_real_answers(client: openai.AsyncOpenAI, model: Model) -> None:
    lines = [
        {
            "custom_id": country,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model.name, "messages": question(country), "max_tokens": 12, "temperature": 0},
        }
        for country in CAPITALS
    ]
    lines.append({**lines[0], "custom_id": "bad", "body": {**dict[str, Any](lines[0]["body"]), "temperature": -1}})  # type: ignore[arg-type]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = await client.files.create(file=("capitals.jsonl", content), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        await asyncio.sleep(0.2)
        batch = await client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch.errors
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (4, 1)
    assert batch.usage is not None
    assert batch.usage.output_tokens > 0
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    answers = [json.loads(line) for line in (await client.files.content(batch.output_file_id)).text.splitlines()]
    said = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in answers}
    assert said.keys() == CAPITALS.keys()
    assert "Paris" in said["France"]
    (refused,) = (await client.files.content(batch.error_file_id)).text.splitlines()
    assert "temperature" in json.dumps(json.loads(refused))


INSPECT_TASK = """
import json
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def capitals():
    rows = json.load(open("capitals.json"))
    samples = [Sample(input=f"What is the capital of {name}?", target=right) for name, right in rows.items()]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""


def installed(name: str, *packages: str) -> Path:
    """The folder of the commands of packages that are installed apart, once."""
    folder = vllm_environment().folder.parent / name
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, *packages], check=True)
        (folder / "complete").touch()
    return folder / "bin"


@pytest.fixture(scope="session")
def lm_eval() -> Path:
    return installed(f"lm-eval-{LM_EVAL}", f"lm-eval[api]=={LM_EVAL}", "transformers") / "lm_eval"


@pytest.fixture(scope="session")
def inspect() -> Path:
    return installed(f"inspect-{INSPECT}", f"inspect-ai=={INSPECT}", "openai") / "inspect"


async def test_lm_eval_measures_the_fleet(lm_eval: Path, server: Server, model: Model, tmp_path: Path) -> None:
    (tmp_path / "capitals.yaml").write_text(TASK.replace("FOLDER", str(tmp_path)))
    rows = [{"country": country, "choices": [right, "a banana", "seven"]} for country, right in CAPITALS.items()]
    (tmp_path / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {
        "model": model.name,
        "base_url": f"{server.address}/v1/completions",
        "tokenizer": str(vllm_environment().model),
        "num_concurrent": "4",
    }
    process = await asyncio.create_subprocess_exec(
        lm_eval,
        *("--model", "local-completions", "--model_args", ",".join(f"{name}={value}" for name, value in named.items())),
        *("--tasks", "capitals", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")),
        env={"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PATH": ""},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["capitals"]["acc,none"] >= 0.75


async def test_inspect_measures_the_fleet(inspect: Path, server: Server, model: Model, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(INSPECT_TASK)
    (tmp_path / "capitals.json").write_text(json.dumps(CAPITALS))
    process = await asyncio.create_subprocess_exec(
        inspect,
        *("eval", "task.py", "--model", f"openai-api/aurora/{model.name}", "--max-connections", "64"),
        *("--temperature", "0", "--max-tokens", "16", "--log-format", "json", "--log-dir", "logs", "--display", "none"),
        cwd=tmp_path,
        env={
            "AURORA_BASE_URL": f"{server.address}/v1",
            "AURORA_API_KEY": "none",
            "HOME": str(tmp_path),
            "PATH": "",
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()[-3000:]
    (log,) = (tmp_path / "logs").glob("*.json")
    found = json.loads(log.read_text())
    assert (found["status"], found["results"]["completed_samples"]) == ("success", len(CAPITALS))
    assert found["results"]["scores"][0]["metrics"]["accuracy"]["value"] >= 0.25  # it knows Paris
