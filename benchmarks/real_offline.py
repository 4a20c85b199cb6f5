"""vLLM's offline engine beside benchmarks/real.py, as a child process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.vllm_environment import VllmEnvironment, clean_environment

ROOT = Path(__file__).resolve().parent.parent
MAX_TOKENS = 16


def engine_environment(scratch: str) -> Mapping[str, str]:
    """The settings of the local fleet's servers."""
    return clean_environment(
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        PYTHONWARNINGS="ignore",
        TMPDIR=scratch,
        TORCHDYNAMO_DISABLE="1",
        VLLM_CACHE_ROOT=scratch,
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
    )


class Engine:
    """A child process with an offline engine; it ends when its input does, whatever ends this process."""

    def __init__(self, environment: VllmEnvironment, prompts: Path, scratch: str) -> None:
        self._log = Path(scratch) / "engine.log"
        command = [str(environment.python), "-P", str(ROOT / "benchmarks" / "real_engine.py")]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*command, str(environment.model), str(prompts), str(MAX_TOKENS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=engine_environment(scratch),
            )

    @property
    def pid(self) -> int:
        """The process that computes."""
        return self._child.pid

    def ask(self) -> None:
        """Start a run."""
        assert self._child.stdin is not None
        self._child.stdin.write("run\n")
        self._child.stdin.flush()

    def hear(self) -> Any:
        """Return what it says next: that it is ready, or how many tokens a run came to."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the engine has ended:\n{self._log.read_text(errors='replace')[-2000:]}")

    def end(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
