"""The command line of each kind of engine."""

from __future__ import annotations

import shlex
import sys

from aurora_pool.fleets.spec import Engine

ADDRESS = "AURORA_POOL_ADDRESS"
PORT = "AURORA_POOL_PORT"
"""Variables that tell an engine, and the shell before it, where it is to listen."""


def engine_command(engine: Engine, host: str, port: int | str) -> str:
    """Write the shell command that starts an engine and keeps running.

    >>> print(engine_command(Engine(model="m", args="--dtype half", setup="module load cuda"), "10.0.0.1", 8000))
    module load cuda
    vllm serve m --host 10.0.0.1 --port 8000 --dtype half
    """
    lines = [engine.setup_lines] if engine.setup_lines else []
    if engine.kind == "command":
        values = {"model": engine.model, "host": host, "port": str(port)}
        line = engine.command
        for name, value in values.items():
            line = line.replace(f"{{{name}}}", shlex.quote(value))
        lines.append(" ".join([line, *map(shlex.quote, engine.words)]))
    else:
        words = [*_START[engine.kind](engine.model, host, str(port)), *engine.words]
        lines.append(" ".join(word if word.startswith("$") else shlex.quote(word) for word in words))
    return "\n".join(lines)


def _vllm(model: str, host: str, port: str) -> list[str]:
    return ["vllm", "serve", model, "--host", host, "--port", port]


def _sglang(model: str, host: str, port: str) -> list[str]:
    return ["python3", "-m", "sglang.launch_server", "--model-path", model, "--host", host, "--port", port]


def _llamacpp(model: str, host: str, port: str) -> list[str]:
    return ["llama-server", "--model", model, "--host", host, "--port", port]


def _transformers(model: str, host: str, port: str) -> list[str]:
    return ["transformers", "serve", model, "--host", host, "--port", port]


def _sim(model: str, host: str, port: str) -> list[str]:
    start = [sys.executable, "-P", "-m", "aurora_pool", "sim", "--agents", "1", "--host", host, "--base-port", port]
    return start + (["--model", model] if model else [])


_START = {"vllm": _vllm, "sglang": _sglang, "llamacpp": _llamacpp, "transformers": _transformers, "sim": _sim}
