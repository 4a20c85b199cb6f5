"""Patterns: what research asks of a whole fleet at once, written once.

Each takes a pool (or a view of one) and uses nothing but its public methods.
"""

from __future__ import annotations

from aurora_pool.patterns.blackboard import Blackboard, BlackboardResult, Role
from aurora_pool.patterns.choosing import Choice, Score, choose, score
from aurora_pool.patterns.documents import Document, read_documents
from aurora_pool.patterns.gather import broadcast, map_gather, sample_many, scatter_gather
from aurora_pool.patterns.pipeline import PipelineResult, Stage, fan_out_fan_in, run_pipeline
from aurora_pool.patterns.reduce import broadcast_and_reduce, map_reduce, tree_reduce
from aurora_pool.patterns.summaries import summarize
from aurora_pool.patterns.templates import strip_reasoning
from aurora_pool.patterns.tree import LostLeaf, ReduceResult
from aurora_pool.patterns.uncertainty import Uncertainty, semantic_entropy
from aurora_pool.prompts.chunking import chunk_text

__all__ = [
    "Blackboard",
    "BlackboardResult",
    "Choice",
    "Document",
    "LostLeaf",
    "PipelineResult",
    "ReduceResult",
    "Role",
    "Score",
    "Stage",
    "Uncertainty",
    "broadcast",
    "broadcast_and_reduce",
    "choose",
    "chunk_text",
    "fan_out_fan_in",
    "map_gather",
    "map_reduce",
    "read_documents",
    "run_pipeline",
    "sample_many",
    "scatter_gather",
    "score",
    "semantic_entropy",
    "strip_reasoning",
    "summarize",
    "tree_reduce",
]
