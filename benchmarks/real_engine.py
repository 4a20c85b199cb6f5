"""vLLM's offline engine as a child of benchmarks/real.py: one line in, one run, one line out.

Runs in the environment that has vLLM. Its arguments: the model's folder, and a JSON file with prompts of token ids.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

MAX_MODEL_LEN = 2048
MAX_NUM_SEQS = 64


def main() -> None:
    """Load the model, say so, and generate as often as asked; the line in has the number of prompts and of tokens."""
    folder, file = sys.argv[1:]
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(Path(file).read_text())]
    engine = LLM(
        folder, dtype="float32", max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS, enforce_eager=True, seed=0
    )
    print(json.dumps({"ready": True}), file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        sampling = SamplingParams(temperature=0.0, max_tokens=task["max_tokens"], ignore_eos=True)
        began = time.perf_counter()
        outputs = engine.generate(prompts[: task["prompts"]], sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
