"""Which fields of a request a conversation keeps when it travels as a rendered text in a list request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KNOWN_TO_COMPLETIONS = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "best_of",
        "cache_salt",
        "frequency_penalty",
        "guided_choice",
        "guided_decoding_backend",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "guided_whitespace_pattern",
        "ignore_eos",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logit_bias",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "priority",
        "prompt_logprobs",
        "repetition_penalty",
        "request_id",
        "response_format",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "seed",
        "session_id",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "structured_outputs",
        "temperature",
        "top_k",
        "top_p",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "user",
        "vllm_xargs",
    }
)
"""Fields that mean the same at ``/v1/completions`` and at ``/v1/chat/completions``, in vLLM 0.8 to 0.32.

``logprobs`` is not among them: a number there, a boolean here. ``echo`` and ``add_special_tokens`` mean something else
for a rendered conversation."""

_RENDERED = KNOWN_TO_COMPLETIONS | {"chat_template_kwargs"}


def survives_rendering(extra: Mapping[str, Any]) -> bool:
    """Whether a conversation with these further fields may travel as text: vLLM drops the fields that it does not know.

    The template's arguments do, for they are used up in rendering.

    >>> survives_rendering({"min_tokens": 4}), survives_rendering({"reasoning_effort": "low"})
    (True, False)
    """
    return not extra or _RENDERED.issuperset(extra)
