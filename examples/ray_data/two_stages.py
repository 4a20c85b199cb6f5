"""Two stages of a pipeline: a small model writes drafts, a large one judges them.

python examples/ray_data/two_stages.py genes verdicts --small small.hostfile --large large.hostfile

Both hostfiles may be the same. The stages run at the same time, on rows that stream from one to the other.
"""

from __future__ import annotations

import argparse

import ray
import ray.data

from aurora_pool.contrib.ray import answer


def main() -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--small", required=True)
    parser.add_argument("--large", required=True)
    given = parser.parse_args()

    ray.init()
    rows = ray.data.read_parquet(given.source)
    drafts = answer(rows, given.small, template="What does the gene {gene} do?", column="draft", max_tokens=200)
    verdicts = answer(
        drafts, given.large, template="Is this right? Yes or no.\n\n{draft}", column="verdict", max_tokens=5
    )
    verdicts.write_parquet(given.target)
    print(f"{ray.data.read_parquet(given.target).count()} rows")


if __name__ == "__main__":
    main()
