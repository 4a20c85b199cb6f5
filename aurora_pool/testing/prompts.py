"""The prompts of a request: read, turned into token ids, checked and truncated as vLLM does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aurora_pool.testing import tokenizer
from aurora_pool.testing.options import Body, Options
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import Refusal, invalid


class PromptTokens(msgspec.Struct):
    """One prompt: its token ids, its text if it came as text, and how many tokens its answer may have.

    Prompts with different ``cache_salt`` share no cache blocks.
    """

    ids: Sequence[int]
    text: str | None
    token_budget: int
    cache_salt: str = ""

    def shown(self) -> str:
        """Tell the prompt as text."""
        return tokenizer.decode(self.ids) if self.text is None else self.text


def read_prompts(body: Body, options: Options, profile: AgentProfile) -> list[PromptTokens]:
    """Read the ``prompt`` of ``/v1/completions``: a text, token ids, or a list of either.

    Raises :class:`Refusal` for the whole list when one item is bad, and never says which.
    """
    prompt = body.get("prompt")
    if prompt is None or prompt == "":
        raise Refusal(400, "Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    prompts = [prompt_tokens(item, options, profile) for item in _items(prompt, profile)]
    for item in prompts:
        check_tokens(item)
    return prompts


def prompt_tokens(prompt: str | Sequence[int], options: Options, profile: AgentProfile) -> PromptTokens:
    """Tokenize one prompt, truncate it as asked, and see how many tokens it leaves."""
    limit = profile.max_model_len
    ids: Sequence[int]
    text = None
    if not isinstance(prompt, str):
        ids = prompt
    else:
        text = prompt
        longest = limit * tokenizer.LONGEST_TOKEN
        if options.truncate is None and len(text) > longest:
            message = (
                f"This model's maximum context length is {limit} tokens. However, your prompt contains {len(text)} "
                f"characters (more than {longest} characters, which is the upper bound for {limit} input tokens). "
                "Please reduce the length of the input prompt."
            )
            raise Refusal(400, message, param="input_text", value=len(text))
        ids = encode_prompt(text, profile, add_special_tokens=options.add_special_tokens)
    if options.truncate is not None:
        ids = _truncated(ids, options, limit)
    if len(ids) > limit:
        # The real tokenizer stops counting one past the limit; token ids are counted to the end.
        least = "at least " if text is not None or len(ids) == limit + 1 else ""
        count = limit + 1 if text is not None else len(ids)
        message = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains {least}{count} "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
            "input prompt."
        )
        raise Refusal(400, message, param="input_tokens", value=count)
    return PromptTokens(ids, text, _token_budget(ids, options, profile), options.cache_salt)


def encode_prompt(text: str, profile: AgentProfile, *, add_special_tokens: bool) -> list[int]:
    """Tokenize a text, with the begin-of-text token in front where the model has one."""
    ids = tokenizer.encode(text)
    if add_special_tokens and profile.begins_with_token:
        return [tokenizer.SPECIAL_IDS["<|begin_of_text|>"], *ids]
    return ids


def check_tokens(prompt: PromptTokens) -> None:
    """Make the checks that vLLM makes only when a prompt goes into the engine."""
    if not prompt.ids:
        raise Refusal(400, "The decoder prompt cannot be empty", late=True)
    if prompt.text is None:
        highest = max(prompt.ids)
        if highest >= tokenizer.VOCABULARY_SIZE:
            raise Refusal(400, f"Token id {highest} is out of vocabulary", late=True)


def _items(prompt: Any, profile: AgentProfile) -> Sequence[str | Sequence[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        raise invalid("prompt", "Input should be a valid string or list", prompt)
    if not prompt:
        raise Refusal(400, "You must pass at least one prompt")
    if all(isinstance(item, int) for item in prompt):
        _check_ids(prompt, "prompt")
        return [prompt]
    limit = profile.prompt_limit
    if limit is not None and len(prompt) > limit:
        message = (
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of {limit}. To increase this limit, "
            "set the VLLM_MAX_COMPLETION_PROMPTS environment variable."
        )
        raise Refusal(400, message, param="prompt")
    kind = type(prompt[0])
    for number, item in enumerate(prompt):
        if type(item) is not kind or kind not in (str, list):
            raise invalid(f"prompt.{number}", "Input should be a valid string or a list of token ids", item)
        if kind is list:
            _check_ids(item, f"prompt.{number}")
    return prompt


def _check_ids(ids: list[Any], place: str) -> None:
    for number, token in enumerate(ids):
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise invalid(f"{place}.{number}", "Input should be an integer greater than or equal to 0", token)


def _truncated(ids: Sequence[int], options: Options, limit: int) -> Sequence[int]:
    keep = options.truncate if options.truncate is not None else limit
    if keep > limit:
        message = f"truncate_prompt_tokens={keep} cannot be greater than max_model_len = {limit}. Please request a "
        raise Refusal(400, f"{message}smaller truncation size.", param="truncate_prompt_tokens", value=keep)
    if keep < 0:
        keep = limit - 1
    if len(ids) <= keep:
        return ids
    return ids[:keep] if options.truncate_right else ids[len(ids) - keep :]


def _token_budget(ids: Sequence[int], options: Options, profile: AgentProfile) -> int:
    limit = profile.max_model_len
    left = limit - len(ids)
    wanted = left if options.max_tokens is None else options.max_tokens
    if wanted > left and not profile.at_least(0, 32):
        message = (
            f"This model's maximum context length is {limit} tokens. However, you requested {wanted} output tokens and "
            f"your prompt contains {len(ids)} input tokens, for a total of {wanted + len(ids)} tokens. Please reduce "
            "the length of the input prompt or the number of requested output tokens."
        )
        raise Refusal(400, message, param="input_tokens", value=len(ids))
    if left < 1:
        raise Refusal(400, "max_tokens must be at least 1, got 0.", param="max_tokens", value=0)
    return max(1, min(wanted, left))
