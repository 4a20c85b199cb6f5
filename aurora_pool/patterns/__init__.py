"""Patterns: what research asks of a whole fleet at once, written once.

Each takes a pool (or a view of one) first and uses nothing but its public methods.
"""

from __future__ import annotations

from aurora_pool.patterns.gather import broadcast, map_gather, sample_many, scatter_gather
from aurora_pool.patterns.reduce import broadcast_and_reduce, map_reduce, tree_reduce
from aurora_pool.patterns.tree import LostLeaf, ReduceResult

__all__ = [
    "LostLeaf",
    "ReduceResult",
    "broadcast",
    "broadcast_and_reduce",
    "map_gather",
    "map_reduce",
    "sample_many",
    "scatter_gather",
    "tree_reduce",
]
