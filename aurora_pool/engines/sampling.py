"""What a prompt and its sampling ask for, as engines in this process take it: token ids and fields."""

from __future__ import annotations

from typing import Any

from aurora_pool.engines.pool import Question, QuestionRefused
from aurora_pool.messages import Sampling


def given_fields(sampling: Sampling) -> dict[str, Any]:
    r"""Give what was said, by the names of the OpenAI API; ``extra`` wins over the named ones.

    >>> given_fields(Sampling(temperature=0.0, stop="\n", extra={"min_p": 0.1}))
    {'temperature': 0.0, 'stop': ['\n'], 'min_p': 0.1}
    """
    fields: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "seed", "logprobs", "prompt_logprobs", "response_format")
        if (value := getattr(sampling, name)) is not None
    }
    if sampling.n != 1:
        fields["n"] = sampling.n
    if sampling.stop is not None:
        fields["stop"] = [sampling.stop] if isinstance(sampling.stop, str) else list(sampling.stop)
    return fields | dict(sampling.extra)


def tokens_of(tokenizer: Any, question: Question) -> list[int]:
    """Turn a prompt into token ids, through the chat template where it belongs, as a server would.

    ``tokenizer`` is one of Hugging Face's. Raises :class:`QuestionRefused` for what the template does not take.
    """
    content = question.content
    try:
        if isinstance(content, str):
            if not (question.template and getattr(tokenizer, "chat_template", None)):
                return list(tokenizer(content)["input_ids"])
            content = [{"role": "user", "content": content}]
        if content and isinstance(content[0], int):
            return [token for token in content if isinstance(token, int)]
        extra = dict(question.sampling.extra.get("chat_template_kwargs") or {})
        text = tokenizer.apply_chat_template(list(content), add_generation_prompt=True, tokenize=False, **extra)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except (ValueError, TypeError, KeyError) as error:
        raise QuestionRefused(f"the prompt can't be turned into tokens: {error}") from error
