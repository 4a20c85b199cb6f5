"""What the docs and the examples say of running the server: metrics, the units, backup and restore."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurora_pool.serve.keys import open_keys
from aurora_pool.serve.options import UserLimits
from aurora_pool.serve.storage import Storage
from aurora_pool.testing import AgentProfile
from tests.serve.running import COMPLETIONS, Running, ended, line, records, running, submit, until

EXAMPLES = Path(__file__).parents[2] / "examples" / "serve"
SLOW = AgentProfile(slots=4, speed=2.0, reply=lambda prompt: f"You said: {prompt}")


async def metric_names(run: Running) -> set[str]:
    async with run.http.get(f"{run.server.address}/metrics") as reply:
        return set(re.findall(r"^([a-z_]+)[ {]", await reply.text(), re.MULTILINE))


async def test_the_dashboard_refers_only_to_metrics_that_exist(tmp_path: Path) -> None:
    dashboard = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    async with running(tmp_path) as run:
        drawn = {name for text in expressions for name in re.findall(r"\baurora_pool_[a-z_]+", text)}
        assert len(drawn) > 8
        assert drawn <= await metric_names(run)


def test_the_compose_file_names_files_that_are_there() -> None:
    compose: Any = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
    mounted = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    written_by_hand = {"./fleet.hostfile"}
    assert len(mounted) > 4
    assert all((EXAMPLES / path).is_file() for path in set(mounted) - written_by_hand)
    assert compose["services"]["serve"]["build"]["dockerfile"] == "examples/serve/Dockerfile"


async def test_a_backup_of_a_running_server_goes_on_with_its_batches_keys_and_files(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    lines = [line(f"r{i}", max_tokens=20) for i in range(120)]
    async with running(data, profile=SLOW) as run:
        earlier = await ended(run.client, await submit(run.client, lines[:3]))
        batch = await submit(run.client, lines, endpoint=COMPLETIONS)

        async def begun() -> bool:
            counts = (await run.client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed > 10

        await until(begun)
        copy.mkdir()
        # As docs/serve.md has it: sqlite3 serve.db ".backup copy.db", then the folders and the secret.
        with sqlite3.connect(data / "serve.db") as source, sqlite3.connect(copy / "serve.db") as target:
            source.backup(target)
        source.close()
        target.close()
        for name in ("files", "batches"):
            shutil.copytree(data / name, copy / name)
        shutil.copy(data / "secret", copy / "secret")
    async with running(copy) as run:
        done = await ended(run.client, batch)
        assert done.status == "completed"
        output = await records(run.client, done.output_file_id)
        assert sorted(record["custom_id"] for record in output) == sorted(each["custom_id"] for each in lines)
        assert run.fleet.prompts_received < len(lines)  # what the copied journal holds is not asked again
        assert len(await records(run.client, earlier.output_file_id)) == 3


async def test_a_batch_that_ended_while_a_backup_was_made_fails_and_says_why(tmp_path: Path) -> None:
    async with running(tmp_path, profile=SLOW) as run:
        batch = await submit(run.client, [line(f"r{i}", max_tokens=20) for i in range(120)])
    shutil.rmtree(tmp_path / "batches" / batch.id)
    async with running(tmp_path) as run:
        done = await ended(run.client, batch)
        assert done.status == "failed"
        assert done.errors is not None
        assert [each.code for each in done.errors.data or ()] == ["input_lost"]


async def test_keys_of_a_backup_are_good_with_its_secret_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(f"sqlite:///{tmp_path / 'serve.db'}")
    await storage.open()
    _, text = await (await open_keys(storage, tmp_path, UserLimits())).create("ann")
    assert await (await open_keys(storage, tmp_path, UserLimits())).caller_of(text) is not None
    assert not caplog.messages
    (tmp_path / "secret").unlink()
    assert await (await open_keys(storage, tmp_path, UserLimits())).caller_of(text) is None
    assert caplog.messages[0].startswith(f"{tmp_path / 'secret'} was missing and is created anew")
    await storage.close()
