"""The chat template of simulated models: ChatML, as Qwen and SmolLM have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aurora_pool.testing.options import Body
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import Refusal, invalid

BEGIN, END = "<|im_start|>", "<|im_end|>"


def read_messages(messages: object, place: str) -> list[dict[str, Any]]:
    """Take a list of messages, each with a role; ``place`` is its position in the request."""
    if not isinstance(messages, list):
        raise invalid(place, "Input should be a valid list", messages)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise invalid(f"{place}.{number}", "Input should be a message with a role", message)
    return messages


def render_chat(body: Body, messages: Sequence[Mapping[str, Any]], profile: AgentProfile) -> str:
    """Write a conversation as the text that the model continues.

    Raises :class:`Refusal` for what vLLM refuses. As with the real thing, what users write is not escaped: a special
    token in a message becomes one in the prompt.
    """
    if not messages:
        raise Refusal(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    if body.get("chat_template") is not None:
        reason = "Chat template is passed with request, but --trust-request-chat-template is not set."
        raise Refusal(400, f"{reason} Refused request with untrusted chat template.")
    continues = bool(body.get("continue_final_message"))
    prompts_for_answer = body.get("add_generation_prompt")
    if continues and prompts_for_answer:
        raise Refusal(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if continues and prompts_for_answer is None:
        # Omitted, it is True by default; the template notices that later, and in other words.
        raise Refusal(400, "continue_final_message and add_generation_prompt are not compatible.")
    if profile.template == "none":
        raise Refusal(400, "The model has no chat template, and the request brings none.")
    parts = ["<|begin_of_text|>"] if profile.begins_with_token else []
    for number, message in enumerate(messages):
        parts.append(f"{BEGIN}{message['role']}\n{_templated(content_of(message, number), profile)}{END}\n")
    if continues:
        parts[-1] = parts[-1].removesuffix(f"{END}\n")
    elif prompts_for_answer is None or prompts_for_answer:
        parts.append(f"{BEGIN}assistant\n")
    return "".join(parts)


def _templated(content: str, profile: AgentProfile) -> str:
    """What a template makes of a message's text."""
    match profile.template:
        case "trims":
            return content.strip()
        case "counts":
            return f"({len(content)} letters) {content}"
        case _:
            return content


def last_said(text: str) -> str:
    r"""Tell what the last message of a rendered conversation says; any other text is taken unchanged.

    >>> last_said("<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n")
    'Hi!'
    """
    ends = text.rfind(END)
    begins = text.rfind(BEGIN, 0, ends) if ends >= 0 else -1
    if begins < 0:
        return text
    return text[begins:ends].partition("\n")[2]


def content_of(message: Mapping[str, Any], number: int = 0) -> str:
    """Tell a message's text: its content, or the texts of its parts."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"messages.{number}.content", "Input should be a valid string", content)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text"):
            raise Refusal(400, f"At most 0 {kind}(s) may be provided in one prompt.")
        texts.append(str(part.get("text", "")))
    return "\n".join(texts)
