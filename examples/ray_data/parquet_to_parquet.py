"""Answer a prompt for each row of parquet files with Ray Data, and write parquet files; killed, it goes on.

python examples/ray_data/parquet_to_parquet.py genes answers --hostfile fleet.hostfile --template "What does {gene} do?"

SOURCE and TARGET may be folders, or elsewhere (s3://bucket/genes, where AWS_ENDPOINT_URL names another server than
Amazon's). The rows need a column of ids.
"""

from __future__ import annotations

import argparse

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from aurora_pool.contrib.ray import answer


def main() -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--hostfile", required=True)
    parser.add_argument("--template", required=True, help="the prompt, with {column} where a row's value belongs")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--checkpoint", help="a folder for what is finished, by which a run that was killed goes on")
    given = parser.parse_args()

    ray.init()
    if given.checkpoint:
        context = ray.data.DataContext.get_current()
        context.checkpoint_config = CheckpointConfig(id_column=given.id_column, checkpoint_path=given.checkpoint)
    rows = ray.data.read_parquet(given.source)
    answers = answer(rows, given.hostfile, template=given.template, max_tokens=given.max_tokens)
    answers.write_parquet(given.target)
    written = ray.data.read_parquet(given.target)
    failed = written.filter(lambda row: row["answer_error"] is not None).count()
    print(f"{written.count()} rows, of which {failed} failed")


if __name__ == "__main__":
    main()
