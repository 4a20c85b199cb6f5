"""One async client over many ``vllm serve`` endpoints: every prompt answered exactly once, as fast as the fleet allows.

>>> from aurora_pool import VLLMPool, parse_hostfile
>>> async def main():
...     async with VLLMPool(parse_hostfile("fleet.hostfile")) as pool:
...         for response in await pool.send_all_batched(["Name a colour.", "Name a tree."]):
...             print(response.text)
"""

from aurora_pool.agent_pool import AgentPool
from aurora_pool.errors import (
    AttemptsExhausted,
    BadRecord,
    BadReply,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    HostfileError,
    JobError,
    NoAgentsError,
    PoolError,
    PromptRejected,
    ServerError,
    TimedOut,
    TransportError,
    WrongModel,
)
from aurora_pool.hostfile import AgentEndpoint, format_hostfile, parse_hostfile
from aurora_pool.messages import Logprobs, Prompt, Response, Sample, Sampling, Usage
from aurora_pool.options import Observer, Timeouts
from aurora_pool.pool import VLLMPool
from aurora_pool.statistics import AgentStatistics, PoolStatistics

__version__ = "0.1.0"

__all__ = [
    "AgentEndpoint",
    "AgentPool",
    "AgentStatistics",
    "AttemptsExhausted",
    "BadRecord",
    "BadReply",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "HostfileError",
    "JobError",
    "Logprobs",
    "NoAgentsError",
    "Observer",
    "PoolError",
    "PoolStatistics",
    "Prompt",
    "PromptRejected",
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
