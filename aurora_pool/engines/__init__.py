"""Engines in this process: a pool without servers, for one machine.

>>> from aurora_pool.engines import EnginePool
>>> from aurora_pool.engines.vllm import VllmEngine  # doctest: +SKIP
>>> async with EnginePool(VllmEngine("Qwen/Qwen2.5-7B-Instruct")) as pool:  # doctest: +SKIP
...     responses = await pool.send_all_batched(["Name a colour.", "Name a tree."], max_tokens=16)

The pool is an :class:`~aurora_pool.agent_pool.AgentPool`: jobs, patterns and aggregators work on it unchanged.
"""

from aurora_pool.engines.pool import Engine, EngineDied, EnginePool, Question, QuestionRefused

__all__ = ["Engine", "EngineDied", "EnginePool", "Question", "QuestionRefused"]
