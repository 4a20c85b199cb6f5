"""Which engines a hostfile's tag ``engine=`` may name."""

from __future__ import annotations

from aurora_pool.errors import ConfigError

__all__ = ["ENGINES", "ENGINE_TAG", "as_engine_name", "check_engine_name"]

ENGINE_TAG = "engine"
ENGINES = ("vllm", "sglang", "llamacpp", "ollama", "transformers")


def as_engine_name(text: str) -> str:
    """Spell an engine's name as :data:`ENGINES` does.

    >>> as_engine_name("llama.cpp"), as_engine_name("vLLM")
    ('llamacpp', 'vllm')
    """
    return text.lower().replace(".", "").replace("-", "")


def check_engine_name(text: str) -> None:
    """Refuse the name of an engine that nobody knows: its server would be spoken to as vLLM's.

    >>> check_engine_name("lamacpp")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: no engine 'lamacpp'; did you mean 'llamacpp'?

    Raises :class:`ConfigError`.
    """
    if as_engine_name(text) in ENGINES:
        return
    from difflib import get_close_matches  # noqa: PLC0415 - only for an error, and every start would wait for it

    near = get_close_matches(as_engine_name(text), ENGINES, n=2, cutoff=0.7)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"expected one of {', '.join(ENGINES)}, or no tag {ENGINE_TAG}="
    )
    raise ConfigError(f"no engine {text!r}; {hint}")
