"""Reply bodies as a vLLM 0.32 server writes them."""

from __future__ import annotations

from typing import Any

import msgspec


def choice(index: int, text: str, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
        **more,
    }


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def completion(*choices: dict[str, Any], usage: dict[str, Any] | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "id": "cmpl-8f2b0e7d",
            "object": "text_completion",
            "created": 1763719200,
            "model": "m",
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": "vllm-0.32.0-9f2f614b",
            "usage": usage,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


def error(message: str, code: int, kind: str = "BadRequestError", param: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def chat_message(content: str | None, **more: Any) -> dict[str, Any]:
    nothing = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "reasoning": None}
    return {"role": "assistant", "content": content, **nothing, **more}


def chat_choice(index: int, message: dict[str, Any], finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": None,
        "routed_experts": None,
        **more,
    }


def chat(*choices: dict[str, Any], usage: dict[str, Any] | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "id": "chatcmpl-8f2b0e7d",
            "object": "chat.completion",
            "created": 1763719200,
            "model": "m",
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": "vllm-0.32.0-9f2f614b",
            "usage": usage,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
        }
    )
