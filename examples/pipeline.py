"""Take every text through two prompts: draw questions from it, then answer them from the text.

::

    python examples/pipeline.py                           # the texts here, on a simulated fleet
    python examples/pipeline.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import Stage, run_pipeline
from shared import open_pool, parse_arguments, read_texts

STAGES = [
    Stage("question", "{input}\n\nOne question that this text answers:", max_tokens=32),
    Stage("answer", "{input}\n\nQuestion: {question}\n\nAnswer in one sentence:", max_tokens=48),
]


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print a question and its answer for every text; give the exit code, 1 if a text did not come through."""
    texts = read_texts(folder)
    async with open_pool(hostfile) as pool:
        results = await run_pipeline(pool, STAGES, texts.values())
    for name, result in zip(texts, results, strict=True):
        print(f"{name}:")
        for stage, output in result.outputs.items():
            print(f"    {stage}: {output.strip()}")
        if not result.success:
            print(f"    failed at {result.failed_stage}: {result.error}")
    return 0 if all(result.success for result in results) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Draw a question from every text, and answer it.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
