"""Other gateways, for the table of ``benchmarks.serve``: they are installed where ``benchmarks.overhead`` has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environment import PEERS, prepare_peers

LITELLM = "LiteLLM's proxy"
COMMANDS = {LITELLM: "litellm", "vllm-router": "vllm-router"}


def installed() -> list[str]:
    """The peers that can be had here."""
    prepare_peers()
    return [name for name, command in COMMANDS.items() if (PEERS / "bin" / command).exists()]


def start_command(name: str, folder: Path, urls: Sequence[str], ports: tuple[int, int], model: str) -> list[str]:
    """The command that starts a peer over these servers, without keys, database or logs."""
    command = str(PEERS / "bin" / COMMANDS[name])
    port, metrics_port = map(str, ports)
    if name != LITELLM:
        options = ["--host", "127.0.0.1", "--port", port, "--policy", "round_robin", "--log-level", "error"]
        options += ["--prometheus-host", "127.0.0.1", "--prometheus-port", metrics_port]
        return [command, *options, "--worker-urls", *urls]
    served = [{"model": f"hosted_vllm/{model}", "api_base": f"{url}/v1", "api_key": "none"} for url in urls]
    models = [{"model_name": model, "litellm_params": each} for each in served]
    config = folder / "litellm.yaml"
    settings = {"dangerously_permit_weak_or_unset_master_key": True}
    config.write_text(json.dumps({"model_list": models, "general_settings": settings}))  # YAML reads JSON
    return [command, "--config", str(config), "--host", "127.0.0.1", "--port", port, "--telemetry", "False"]
