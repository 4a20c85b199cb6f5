"""One async client over many ``vllm serve`` endpoints: every prompt answered exactly once, as fast as the fleet allows.

>>> from aurora_pool import VLLMPool, parse_hostfile
>>> async def main():
...     async with VLLMPool(parse_hostfile("fleet.hostfile")) as pool:
...         for response in await pool.send_all_batched(["Name a colour.", "Name a tree."]):
...             print(response.text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurora_pool.agent_pool import AgentPool
from aurora_pool.errors import (
    BadRecord,
    BadRecords,
    BadReply,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    HostfileError,
    JobError,
    NoAgentsError,
    PoolClosedError,
    PoolError,
    ServerError,
    TimedOut,
    TransportError,
    WrongModel,
)
from aurora_pool.hostfile import AgentEndpoint, AnyEndpoint, format_hostfile
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.messages import (
    AnyPrompt,
    AttemptsExhausted,
    Logprobs,
    Prompt,
    PromptFailed,
    PromptPoisoned,
    PromptRejected,
    PromptTimedOut,
    Response,
    Sample,
    Sampling,
    Usage,
)
from aurora_pool.options import ConnectionOptions, HostedOptions, Observer, PromptOptions, Timeouts
from aurora_pool.pool import VLLMPool
from aurora_pool.progress import CallProgress
from aurora_pool.statistics import AgentStatistics, PoolStatistics

if TYPE_CHECKING:
    from aurora_pool.embeddings import EmbeddingPool as EmbeddingPool

__version__ = "0.1.0"

# Without EmbeddingPool: a star import must not need numpy.
__all__ = [
    "AgentEndpoint",
    "AgentPool",
    "AgentStatistics",
    "AnyEndpoint",
    "AnyPrompt",
    "AttemptsExhausted",
    "BadRecord",
    "BadRecords",
    "BadReply",
    "CallProgress",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "ConnectionOptions",
    "HostedOptions",
    "HostfileError",
    "JobError",
    "Logprobs",
    "NoAgentsError",
    "Observer",
    "PoolClosedError",
    "PoolError",
    "PoolStatistics",
    "Prompt",
    "PromptFailed",
    "PromptOptions",
    "PromptPoisoned",
    "PromptRejected",
    "PromptTimedOut",
    "Response",
    "Sample",
    "Sampling",
    "ServerError",
    "TimedOut",
    "Timeouts",
    "TransportError",
    "Usage",
    "VLLMPool",
    "WrongModel",
    "__version__",
    "format_hostfile",
    "parse_hostfile",
]


def __getattr__(name: str) -> Any:
    if name != "EmbeddingPool":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from aurora_pool.embeddings import EmbeddingPool  # noqa: PLC0415 (importing numpy takes long)
    except ModuleNotFoundError as error:
        raise ImportError("EmbeddingPool needs numpy: pip install 'aurora-pool[embeddings]'") from error
    globals()[name] = EmbeddingPool
    return EmbeddingPool


def __dir__() -> list[str]:
    return sorted({*globals(), "EmbeddingPool"})
