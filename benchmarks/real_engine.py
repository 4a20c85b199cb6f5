"""vLLM's offline engine as a child of benchmarks/real.py: one line in, one run, one line out.

Runs in the environment that has vLLM. Its arguments: the model's folder, a JSON file with prompts of token ids, and how
many tokens each shall have. The settings are those of the local fleet's servers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

MAX_MODEL_LEN = 2048
MAX_NUM_SEQS = 64


def main() -> None:
    """Load the model, say so, and generate once for each line."""
    folder, file, max_tokens = sys.argv[1:]
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(Path(file).read_text())]
    sampling = SamplingParams(temperature=0.0, max_tokens=int(max_tokens), ignore_eos=True)
    engine = LLM(
        folder, dtype="float32", max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS, enforce_eager=True, seed=0
    )
    print(json.dumps({"ready": True}), file=sys.__stdout__, flush=True)
    for _ in sys.stdin:
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"tokens": tokens}), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
