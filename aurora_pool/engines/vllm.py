"""vLLM in this process, by its ``AsyncLLM``. Needs vLLM beside this package."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import time
from collections.abc import Iterator
from typing import Any

from aurora_pool.engines.pool import EngineDied, Question, QuestionRefused
from aurora_pool.engines.sampling import given_fields, tokens_of
from aurora_pool.errors import ConfigError
from aurora_pool.messages import Logprobs, Response, Sample

__all__ = ["VllmEngine"]

GOOD = frozenset({"stop", "length", "repetition"})


class VllmEngine:
    """A model that vLLM serves in this process.

    ``arguments`` are those of ``vllm serve``: ``"--max-model-len 4096 --tensor-parallel-size 2"``.

    >>> pool = EnginePool(VllmEngine("Qwen/Qwen2.5-7B-Instruct", "--max-model-len 4096"))  # doctest: +SKIP
    """

    def __init__(self, model: str, arguments: str = "") -> None:
        self.model = model
        self.capacity = 256
        self._arguments = arguments
        self._numbers = itertools.count()
        self._llm: Any = None
        self._tokenizer: Any = None
        self._defaults: dict[str, Any] = {}
        self.context = 0

    async def start(self) -> None:
        """Load the model. Raises :class:`ConfigError` if vLLM is not there or does not take the arguments."""
        # Standard output may be taken by the answers.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - takes many seconds
            from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415
            from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"--engine vllm needs vLLM in this Python environment ({error})") from error
        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
        try:
            options = parser.parse_args(["--model", self.model, *shlex.split(self._arguments)])
            with _deaf_children():
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(options))
        except SystemExit as error:  # argparse, which has told why
            raise ConfigError(f"vLLM does not take these arguments: {self._arguments}") from error
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"vLLM can't serve {self.model!r}: {error}") from error
        config = self._llm.vllm_config
        self.capacity = config.scheduler_config.max_num_seqs
        self.context = config.model_config.max_model_len
        self._defaults = config.model_config.get_diff_sampling_param()
        self._tokenizer = self._llm.get_tokenizer()
        if hasattr(self._tokenizer, "__await__"):
            self._tokenizer = await self._tokenizer

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Give the token ids of a text."""
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    async def close(self) -> None:
        """End the engine and its processes."""
        if self._llm is not None:
            llm, self._llm = self._llm, None  # gone before the interpreter is, in which its destructor fails
            llm.shutdown()

    async def answer(self, question: Question) -> Response:
        """Answer one prompt."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: PLC0415

        began = time.monotonic()
        ids = tokens_of(self._tokenizer, question)
        result: Any = None
        try:
            parameters = self._parameters(question, len(ids))
            requests = self._llm.generate({"prompt_token_ids": ids}, parameters, str(next(self._numbers)))
            async for output in requests:
                result = output
        except EngineDeadError as error:
            raise EngineDied("vLLM's engine has died; its own message is above") from error
        except (ValueError, TypeError, EngineGenerateError) as error:
            raise QuestionRefused(str(error)) from error
        return self._response(result, question, time.monotonic() - began)

    def _parameters(self, question: Question, prompt_tokens: int) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: PLC0415

        fields = self._defaults | given_fields(question.sampling)
        for name in _OF_THE_CHAT:
            fields.pop(name, None)
        form = fields.pop("response_format", None)
        if form is not None:
            fields["structured_outputs"] = StructuredOutputsParams(**_structure(form))
        left = self.context - prompt_tokens
        if left < 1:
            raise QuestionRefused(f"the prompt has {prompt_tokens} tokens, and the context {self.context}")
        if fields.pop("top_logprobs", None) is not None or fields.get("logprobs") is True:
            fields["logprobs"] = max(int(question.sampling.extra.get("top_logprobs", 0)), 1)
        fields["max_tokens"] = min(question.max_tokens or left, left)
        unknown = sorted(fields.keys() - set(SamplingParams.__struct_fields__))
        if unknown:
            raise QuestionRefused(f"not understood in process: {', '.join(unknown)}")
        return SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY)

    def _response(self, result: Any, question: Question, latency: float) -> Response:
        outputs = sorted(result.outputs, key=lambda each: each.index)
        samples = tuple(_sample(output, keep_ids=question.sampling.return_token_ids) for output in outputs)
        first = samples[0]
        bad = next((each.finish_reason for each in samples if each.finish_reason not in GOOD), None)
        if bad is not None:
            return Response(False, first.text, f"the engine ended it: {bad}", error_kind="exhausted", attempts=1)
        return Response(
            True,
            first.text,
            agent_index=0,
            finish_reason=first.finish_reason,
            prompt_tokens=len(result.prompt_token_ids),
            completion_tokens=sum(len(output.token_ids) for output in outputs),
            logprobs=first.logprobs,
            token_ids=first.token_ids,
            attempts=1,
            latency=latency,
            samples=samples if len(samples) > 1 else (),
            prompt_token_ids=list(result.prompt_token_ids) if question.sampling.return_token_ids else None,
        )


_OF_THE_CHAT = ("chat_template_kwargs", "add_generation_prompt", "stream", "stream_options", "model", "user")
"""Fields of a request that say nothing of sampling."""


def _structure(form: Any) -> dict[str, Any]:
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"json": schema}
        case {"type": "json_object"}:
            return {"json_object": True}
    raise QuestionRefused(f"response_format: not understood in process: {form!r}")


def _sample(output: Any, *, keep_ids: bool) -> Sample:
    logprobs = None
    if output.logprobs is not None:
        chosen = list(zip(output.token_ids, output.logprobs, strict=True))
        logprobs = Logprobs(
            [found[token].decoded_token or "" for token, found in chosen],
            [found[token].logprob for token, found in chosen],
            [{each.decoded_token or "": each.logprob for each in found.values()} for _, found in chosen],
        )
    ids = list(output.token_ids) if keep_ids else None
    return Sample(output.text, output.finish_reason, None, logprobs, ids)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started here not hear Ctrl-C, which is for this one: it needs them to end well."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
