"""Real servers of other engines: llama.cpp's from an environment of ``make engines``, transformers' from vLLM's.

Whatever ends the tests, a server is killed with all that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.vllm_environment import tail, vllm_environment
from tests.other_engines import old_vllm
from tests.ports import free_port

ENGINES = ("llamacpp", "transformers")
OLD_VLLM = f"vllm-{old_vllm.VERSION}"
HERE = Path(__file__).parent
STARTING = 600.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""More threads spin while they wait for each other, which on a busy machine is for long."""
BOUND = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 -$$) & exec "$@" </dev/null 3<&-'
"""Runs a command, and kills its process group when the pipe ends at whose other end we are: whatever has ended us."""


@dataclass(frozen=True)
class Engine:
    """A server that runs: its engine's name in a hostfile, its address, and the model to ask for.

    ``context`` is the context length, in tokens, that it tells; ``prompts`` are as many as it answers in a test's time.
    """

    name: str
    address: str
    model: str
    context: int | None
    prompts: int


@contextmanager
def serving(
    command: Sequence[str | Path], port: int, log: Path, variables: Mapping[str, str] = ENVIRONMENT
) -> Iterator[str]:
    """Run a server until it is told to end; gives its address once it answers."""
    with log.open("w") as file:
        bound = ["sh", "-c", BOUND, "sh", *map(str, command)]
        process = subprocess.Popen(
            bound, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True, env=variables
        )
    try:
        deadline = time.monotonic() + STARTING
        while not answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} does not start; the end of {log}:\n{tail(log)}", pytrace=False)
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310  (an address on this machine)
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def running(name: str, log: Path) -> Iterator[Engine]:
    """Run a server of the engine of this name."""
    port = free_port()
    if name == "llamacpp":
        venv = Path(os.environ.get("AURORA_POOL_ENGINES", ".venv-engines"))
        models = list((venv / "model").glob("*.gguf"))
        if not models:
            pytest.fail(f"no model in {venv / 'model'}: `make engines` makes that environment", pytrace=False)
        command: list[str | Path] = [venv / "bin" / "python", HERE / "serve_llamacpp.py", str(port), models[0]]
        with serving(command, port, log) as address:
            yield Engine(name, address, str(models[0]), 1024, 12)
        return
    if name == OLD_VLLM:
        folder = Path(os.environ.get("AURORA_POOL_OLD_VLLM", ".venv-old-vllm")).resolve()
        if not (folder / "model").exists():
            pytest.fail(f"no environment in {folder}: `make old-vllm` makes it", pytrace=False)
        with serving(old_vllm.command(folder, port), port, log, old_vllm.variables(folder)) as address:
            yield Engine("vllm", address, str(folder / "model"), old_vllm.MAX_MODEL_LEN, 12)
        return
    environment = vllm_environment()
    if not environment.complete:
        pytest.fail("no environment with transformers: `make engines` makes it", pytrace=False)
    # Without --continuous-batching, which takes most of the machine's memory for its cache.
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    command = [environment.folder / "venv" / "bin" / "transformers", "serve", environment.model, *options]
    with serving(command, port, log) as address:
        yield Engine(name, address, str(environment.model), None, 3)
