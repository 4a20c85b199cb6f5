"""What a simulated agent is like: its model, its speed, its limits, its version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from aurora_pool.testing.engine import Engine

__all__ = ["CPU_SERVER", "AgentProfile", "Reply", "Template"]

Reply: TypeAlias = str | Callable[[str], str]
"""What a simulated server says to everything, or a function from the prompt to it."""
Template: TypeAlias = Literal["chatml", "trims", "counts", "none"]
"""The chat template of a simulated server: see :class:`AgentProfile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProfile:
    """How a simulated ``vllm serve`` was started, and how fast it is. Times are seconds, lengths are tokens.

    >>> AgentProfile(version="0.26.0").at_least(0, 27)
    False

    The model:

    - ``model`` and ``aliases``: the served names; ``max_model_len``: its context; ``begins_with_token``: whether its
      tokenizer puts a begin-of-text token first, as Llama's does; ``reasoning``: whether it thinks before it answers
      (with a reasoning parser on); ``template``: its chat template, ``"chatml"``, one that ``"trims"`` texts as
      Llama 3's does, one that ``"counts"`` their letters and so can't be put together from pieces, or ``"none"``.
    - ``reply``: what it says to everything, or a function from the prompt (of a chat, rendered or not: its last
      message) to the answer.
      Without one, answers are made of common words; text and length follow from the prompt's tokens (and from the seed
      and the sample number where the temperature is above 0), so they are the same on every agent and in every list.
      Lengths are lognormal (``median_length``, ``length_sigma``), clipped to ``shortest`` and ``longest``.

    Its speed: ``slots`` (``--max-num-seqs``), ``max_num_batched_tokens``, ``step_base`` and ``step_per_sequence``
    (seconds that a step takes, and that each sequence in it adds), ``prefill_rate`` (prompt tokens per second) and
    ``speed`` (a factor for all of them); the defaults are about those of a GPU that serves a model of 8 billion
    parameters, and :data:`CPU_SERVER` is a small server without one. Its cache:
    ``kv_blocks`` of ``block_size`` tokens (by default enough for 256 prompts of 8,192 tokens, so that nothing is
    preempted; None for no limit and no prefix cache), ``prefix_caching`` (False: ``--no-enable-prefix-caching``).
    ``instant`` answers every prompt at once and skips most of the work: for measuring clients.

    Its flags: ``version``; ``api_keys``; ``max_queued`` (``--max-num-queued-reqs``); ``max_prompts``
    (``VLLM_MAX_COMPLETION_PROMPTS``; None for the version's own); ``keep_alive``; ``stream_interval``;
    ``sse_keep_alive`` (``--sse-keep-alive-interval``); ``tracks_load`` (``--enable-server-load-tracking``);
    ``prompt_tokens_details`` (``--enable-prompt-tokens-details``); ``dev_mode`` (``VLLM_SERVER_DEV_MODE``);
    ``root_path`` (``--root-path``: it answers with and without it); ``max_logprobs``; ``streams``: False refuses
    ``stream: true`` with a 400, as some proxies do; ``embedding_size``: dimensions of ``/v1/embeddings``.
    """

    model: str = "simulated-model"
    aliases: tuple[str, ...] = ()
    max_model_len: int = 8192
    begins_with_token: bool = False
    reasoning: bool = False
    template: Template = "chatml"
    reply: Reply | None = field(default=None, repr=False)
    median_length: float = 200.0
    length_sigma: float = 0.8
    shortest: int = 8
    longest: int = 2048

    slots: int = 256
    step_base: float = 0.008
    step_per_sequence: float = 0.00003
    prefill_rate: float = 40_000.0
    max_num_batched_tokens: int = 8192
    kv_blocks: int | None = 131_072
    block_size: int = 16
    prefix_caching: bool = True
    speed: float = 1.0
    instant: bool = False

    version: str = "0.32.0"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_queued: int | None = None
    max_prompts: int | None = None
    keep_alive: float = 5.0
    stream_interval: int = 1
    sse_keep_alive: float = 0.0
    tracks_load: bool = False
    prompt_tokens_details: bool = False
    dev_mode: bool = False
    root_path: str = ""
    max_logprobs: int = 20
    streams: bool = True
    embedding_size: int = 64

    def __post_init__(self) -> None:
        if self.max_model_len < 2 or self.slots < 1 or not 1 <= self.shortest <= self.longest:
            raise ValueError("expected max_model_len >= 2, slots >= 1 and 1 <= shortest <= longest")
        if self.step_base <= 0 or self.step_per_sequence < 0 or self.speed <= 0 or self.median_length <= 0:
            raise ValueError("expected step_base, speed and median_length above 0, and step_per_sequence of at least 0")
        if self.kv_blocks is not None and self.kv_blocks * self.block_size < self.max_model_len:
            raise ValueError(f"expected a cache of at least {self.max_model_len} tokens, the max_model_len")
        self.new_engine()
        parse_version(self.version)

    def at_least(self, *version: int) -> bool:
        """Tell whether this agent's vLLM is as new as ``version``, such as ``at_least(0, 27)``."""
        return parse_version(self.version) >= version

    def new_engine(self) -> Engine:
        """Make an engine of this profile's slots, speed and cache."""
        return Engine(
            slots=self.slots,
            step_base=self.step_base,
            step_per_sequence=self.step_per_sequence,
            prefill_rate=self.prefill_rate,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_blocks=self.kv_blocks,
            block_size=self.block_size,
            prefix_caching=self.prefix_caching,
            speed=self.speed,
        )

    @property
    def prompt_limit(self) -> int | None:
        """How many prompts a list may hold; None for no limit."""
        if self.max_prompts is not None:
            return self.max_prompts
        return 1024 if self.at_least(0, 26) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the model answers to."""
        return (self.model, *self.aliases)


def parse_version(version: str) -> tuple[int, ...]:
    """Split ``"0.32.0"`` into numbers, for comparing.

    >>> parse_version("0.10.2") < parse_version("0.32.0")
    True
    """
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise ValueError(f"expected a version such as '0.32.0', got {version!r}") from None


CPU_SERVER = AgentProfile(
    max_model_len=2048,
    slots=64,
    step_base=0.03,
    step_per_sequence=0.005,
    prefill_rate=200.0,
    max_num_batched_tokens=2048,
    kv_blocks=364,
    block_size=128,
)
"""A vLLM 0.32 server of a model of 135 million parameters in float32 on one thread of a CPU, ``--max-num-seqs 64``.

Slots, budget and cache are the server's own figures (46,592 tokens in blocks of 128, with 1 GB for the cache). The
three speeds are those that come closest to four measurements of lists by ``benchmarks.real --shapes``, means of two: 28
prompts of 60 tokens with answers of 2 took 8.4 s, 122 of 8 tokens with 2 took 5.6, 52 of 8 with 16 took 6.8, and 35 of
8 with 4, 4, 4, 16 and 64 in turn took 6.7; the engine takes 8.6, 5.6, 6.5 and 6.4. On a CPU a token costs the same in
prefill and decoding, so batches gain little, and a full step of prefill takes ten seconds.
"""
