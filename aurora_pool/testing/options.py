"""A request's sampling fields, checked as vLLM checks them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from aurora_pool.testing.constraints import Constraint, read_constraint
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import Refusal, invalid

Body = Mapping[str, Any]

_WORDS = {int: "a valid integer", float: "a valid number", bool: "a valid boolean", str: "a valid string"}


class Options(msgspec.Struct, kw_only=True):
    """What a request asks for; the same for each of its prompts."""

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    tokens_as_ids: bool = False
    echo: bool = False
    return_token_ids: bool = False
    constraint: Constraint | None = None
    stream: bool = False
    interval: int = 1
    include_usage: bool = False
    continuous_usage: bool = False
    truncate: int | None = None
    truncate_right: bool = False
    add_special_tokens: bool = True
    cache_salt: str = ""

    @property
    def sample_seed(self) -> int | None:
        """What beside the prompt decides a text: nothing at temperature 0, the seed above it."""
        return None if self.temperature == 0 else self.seed


def read_options(body: Body, profile: AgentProfile, *, chat: bool = False) -> Options:
    """Check the fields that completions and chats share; raises :class:`Refusal` as vLLM would."""
    tokens_field = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens: int | None = field(body, tokens_field, int, None)
    if max_tokens is None and not chat:
        max_tokens = 16
    options = Options(
        n=field(body, "n", int, 1),
        max_tokens=max_tokens,
        min_tokens=field(body, "min_tokens", int, 0),
        temperature=field(body, "temperature", float, 1.0),
        seed=_seed(body),
        stop=_stop(body, profile),
        stop_token_ids=frozenset(_list_of(body, "stop_token_ids", int)),
        include_stop=field(body, "include_stop_str_in_output", bool, False),
        ignore_eos=field(body, "ignore_eos", bool, False),
        skip_special=field(body, "skip_special_tokens", bool, True),
        logprobs=_logprobs(body, chat=chat),
        prompt_logprobs=field(body, "prompt_logprobs", int, None),
        tokens_as_ids=field(body, "return_tokens_as_token_ids", bool, False),
        echo=field(body, "echo", bool, False),
        return_token_ids=field(body, "return_token_ids", bool, False) and profile.at_least(0, 10, 2),
        constraint=read_constraint(body, profile),
        stream=field(body, "stream", bool, False),
        truncate=field(body, "truncate_prompt_tokens", int, None),
        truncate_right=body.get("truncation_side") == "right" and profile.at_least(0, 18),
        add_special_tokens=field(body, "add_special_tokens", bool, not chat),
        cache_salt=field(body, "cache_salt", str, ""),
    )
    if options.echo and not chat and options.prompt_logprobs is None:
        options.prompt_logprobs = options.logprobs
    _check(options, body, profile, tokens_field=tokens_field, chat=chat)
    _read_stream(options, body, profile)
    return options


def check_logprobs(options: Options, profile: AgentProfile) -> None:
    """Refuse more log-probabilities than the server gives; vLLM looks only when a prompt goes into the engine."""
    wanted = (("logprobs", "sample", options.logprobs), ("prompt_logprobs", "prompt", options.prompt_logprobs))
    for name, label, count in wanted:
        if count is not None and count > profile.max_logprobs:
            message = f"Requested {label} logprobs of {count}, which is greater than max allowed: "
            raise Refusal(400, f"{message}{profile.max_logprobs}", param=name, value=count, late=True)


def field(body: Body, name: str, kind: type, default: Any) -> Any:
    """Take a field as ``kind``, or its default where it is missing or null; a number in a string will do."""
    value = body.get(name)
    if value is None:
        return default
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    if kind in (int, float) and isinstance(value, str | float):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if kind is float and not math.isnan(number):
            return number
        if math.isfinite(number) and number == int(number):
            return int(number)
    raise invalid(name, f"Input should be {_WORDS[kind]}", value)


def _check(options: Options, body: Body, profile: AgentProfile, *, tokens_field: str, chat: bool) -> None:
    tokens = options.max_tokens
    scores_only = options.echo and not chat and tokens == 0
    if not 1 <= options.n <= 16384:
        bound = "at least 1" if options.n < 1 else "at most 16384"
        raise Refusal(400, f"n must be {bound}, got {options.n}.")
    if tokens is not None and tokens > profile.max_model_len:
        raise Refusal(
            400,
            f"{tokens_field}={tokens} cannot be greater than max_model_len={profile.max_model_len}. "
            "Please request fewer output tokens.",
            param=tokens_field,
            value=tokens,
        )
    if tokens is not None and tokens < 1 and not scores_only:
        raise Refusal(400, f"max_tokens must be at least 1, got {tokens}.", param="max_tokens", value=tokens)
    if not 0.0 <= options.temperature <= 2.0:
        words = "must be non-negative" if options.temperature < 0 else "must be in [0, 2]"
        value = options.temperature
        raise Refusal(400, f"temperature {words}, got {value}.", param="temperature", value=value)
    top_p = field(body, "top_p", float, 1.0)
    if not 0.0 < top_p <= 1.0:
        raise Refusal(400, f"top_p must be in (0, 1], got {top_p}.", param="top_p", value=top_p)
    if options.min_tokens < 0:
        raise Refusal(400, f"min_tokens must be greater than or equal to 0, got {options.min_tokens}.")
    if tokens is not None and options.min_tokens > max(1, tokens):
        raise Refusal(400, f"min_tokens must be less than or equal to max_tokens={tokens}, got {options.min_tokens}.")
    if options.n > 1 and options.temperature == 0:
        raise Refusal(400, f"n must be 1 when using greedy sampling, got {options.n}.")
    for name, count in (("logprobs", options.logprobs), ("prompt_logprobs", options.prompt_logprobs)):
        if count is not None and count < -1:
            raise Refusal(400, f"`{name}` must be a positive value or -1.", param=name, value=count)


def _read_stream(options: Options, body: Body, profile: AgentProfile) -> None:
    stream_options = body.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, Mapping):
        raise invalid("stream_options", "Input should be a valid dictionary", stream_options)
    if not options.stream:
        if stream_options:
            raise Refusal(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
        return
    if not profile.streams:
        raise Refusal(400, "Streaming is not supported by this server.", param="stream")
    if body.get("prompt_logprobs"):
        raise Refusal(400, "`prompt_logprobs` are not available when `stream=True`.", param="prompt_logprobs")
    if stream_options is not None:
        options.include_usage = bool(stream_options.get("include_usage"))
        options.continuous_usage = options.include_usage and bool(stream_options.get("continuous_usage_stats"))
    interval = field(body, "stream_interval", int, 1) if profile.at_least(0, 27) else 1
    if interval < 1:
        raise invalid("stream_interval", "Input should be greater than or equal to 1", interval)
    options.interval = max(interval, profile.stream_interval)


def _list_of(body: Body, name: str, kind: type) -> tuple[Any, ...]:
    values = body.get(name)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise invalid(name, f"Input should be a list of {_WORDS[kind].removeprefix('a valid ')}s", values)
    return tuple(values)


def _seed(body: Body) -> int | None:
    seed: int | None = field(body, "seed", int, None)
    if seed is not None and not -(2**63) <= seed < 2**63:
        raise invalid("seed", "Input should be a 64-bit integer", seed)
    return None if seed == -1 else seed


def _stop(body: Body, profile: AgentProfile) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    texts = (stop,) if isinstance(stop, str) else _list_of(body, "stop", str)
    if len(texts) > 4 and profile.at_least(0, 28):
        raise Refusal(400, f"stop must contain at most 4 strings, got {len(texts)}.", param="stop")
    if "" in texts:
        raise Refusal(400, "stop cannot contain an empty string.")
    return texts


def _logprobs(body: Body, *, chat: bool) -> int | None:
    if not chat:
        count: int | None = field(body, "logprobs", int, None)
        return count
    if not field(body, "logprobs", bool, False):
        if body.get("top_logprobs"):
            message = "when using `top_logprobs`, `logprobs` must be set to true."
            raise Refusal(400, message, param="top_logprobs")
        return None
    top: int = field(body, "top_logprobs", int, 0)
    return top
