"""What patterns work on."""

from __future__ import annotations

from typing import TypeAlias

from aurora_pool.engines.pool import EnginePool
from aurora_pool.pool import VLLMPool

__all__ = ["TextPool"]

TextPool: TypeAlias = VLLMPool | EnginePool
"""A pool that answers prompts with text: of servers, or of an engine in this process."""
