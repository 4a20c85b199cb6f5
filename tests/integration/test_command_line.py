from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aurora_pool import AgentEndpoint


async def test_aurora_pool_run(hostfile: Path, endpoints: list[AgentEndpoint], tmp_path: Path) -> None:
    bodies = {
        f"completion-{n}": ("/v1/completions", {"prompt": f"The number {n} is", "max_tokens": 8}) for n in range(20)
    } | {
        f"chat-{n}": ("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{n} + 1?"}], "max_tokens": 8})
        for n in range(10)
    }
    lines = [
        json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})
        for custom_id, (url, body) in bodies.items()
    ]
    source, target = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    source.write_text("\n".join(lines))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aurora_pool", "run", source, "-o", target, "--hostfile", hostfile),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    records = {record["custom_id"]: record for record in map(json.loads, target.read_text().splitlines())}
    assert records.keys() == bodies.keys()
    assert len(target.read_text().splitlines()) == len(bodies)
    for custom_id, record in records.items():
        assert record["error"] is None
        assert record["response"]["status_code"] == 200
        [choice] = record["response"]["body"]["choices"]
        assert choice["finish_reason"] in ("stop", "length")
        assert choice["text"] if custom_id.startswith("completion") else choice["message"]["content"]
