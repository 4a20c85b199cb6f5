from __future__ import annotations

from aurora_pool import VLLMPool
from aurora_pool.patterns import scatter_gather, tree_reduce


async def test_scatter_gather(pool: VLLMPool) -> None:
    genes = ["TP53", "BRCA1", "EGFR", "MYC", "KRAS", "APOE", "CFTR"]

    responses = await scatter_gather(pool, [f"Analyze gene {gene}:" for gene in genes], 16)

    assert len(responses) == len(genes)
    assert all(response.success for response in responses)
    assert {response.agent_index for response in responses} == set(range(pool.size))


async def test_tree_reduce(pool: VLLMPool) -> None:
    pages = [f"Page {n} is about the number {n}." for n in range(9)]

    result = await tree_reduce(
        pool, prompt="Summarise:\n{item}", reduce_prompt="Merge:\n{responses}", fanin=3, items=pages, max_tokens=24
    )

    assert result.success, result.error
    assert result.text
    assert (result.leaves, result.lost, result.levels, result.calls) == (9, (), 2, 9 + 3 + 1)
