"""Hugging Face's transformers in this process: for machines without vLLM. Needs transformers and torch."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aurora_pool.engines.pool import EngineDied, Question, QuestionRefused
from aurora_pool.engines.sampling import given_fields, tokens_of
from aurora_pool.errors import ConfigError, PoolClosedError, PoolError
from aurora_pool.messages import Response

__all__ = ["TransformersEngine"]

BATCH = 16
"""How many prompts are computed together; the next ones start when the longest answer has ended."""
BUDGET = 8192
"""How many tokens they may have in all, padding included: each prompt is padded to the longest one beside it."""

_NAMES = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "stop": "stop_strings"}
_NAMES |= {"repetition_penalty": "repetition_penalty", "seed": "seed"}
_IGNORED = ("chat_template_kwargs", "stream", "stream_options", "model", "user")


@dataclass(slots=True)
class _Waiting:
    ids: list[int]
    options: dict[str, Any]
    max_tokens: int
    answer: asyncio.Future[tuple[str, str, int]]
    key: str
    ended: bool = False


class TransformersEngine:
    """A model that ``AutoModelForCausalLM`` loads; on a GPU if torch finds one.

    >>> pool = EnginePool(TransformersEngine("HuggingFaceTB/SmolLM2-135M-Instruct"))  # doctest: +SKIP

    Raises :class:`ConfigError` for ``arguments``: there are none.
    """

    def __init__(self, model: str, arguments: str = "") -> None:
        if arguments:
            raise ConfigError("--engine-args: there are none for transformers")
        self.model = model
        self.capacity = 2 * BATCH
        self._waiting: deque[_Waiting] = deque()
        self._computed: list[_Waiting] = []
        self._over: PoolError | None = None
        self._come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._tokenizer: Any = None
        self._model: Any = None
        self._vocabulary = 0
        self.context = 0

    async def start(self) -> None:
        """Load the model. Raises :class:`ConfigError` if it can't be."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._worker = asyncio.create_task(self._work())
        self._worker.add_done_callback(self._ended)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Give the token ids of a text."""
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    async def close(self) -> None:
        """End after the token that is being computed."""
        self._closing = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def answer(self, question: Question) -> Response:
        """Answer one prompt."""
        if self._over is not None:
            raise self._over
        began = time.monotonic()
        ids = tokens_of(self._tokenizer, question)
        beyond = next((token for token in ids if not 0 <= token < self._vocabulary), None)
        if beyond is not None:
            raise QuestionRefused(f"the token id {beyond} is beyond the model's vocabulary of {self._vocabulary}")
        left = self.context - len(ids)
        if left < 1 or not ids:
            raise QuestionRefused(f"the prompt has {len(ids)} tokens, and the context {self.context}")
        options = self._options(question)
        waiting = _Waiting(
            ids,
            options,
            min(question.max_tokens or left, left),
            asyncio.get_running_loop().create_future(),
            json.dumps(options, sort_keys=True),
        )
        self._waiting.append(waiting)
        self._come.set()
        text, reason, count = await waiting.answer
        return Response(
            True,
            text,
            agent_index=0,
            finish_reason=reason,
            prompt_tokens=len(ids),
            completion_tokens=count,
            attempts=1,
            latency=time.monotonic() - began,
        )

    def _load(self) -> None:
        try:
            import torch  # noqa: PLC0415 - takes many seconds
            from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - so does it
        except ImportError as error:
            raise ConfigError(f"--engine transformers needs transformers and torch here ({error})") from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto")
        except (OSError, ValueError) as error:
            raise ConfigError(f"transformers can't load {self.model!r}: {error}") from error
        if torch.cuda.is_available():
            model = model.to("cuda")
        elif getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
            model = model.to("xpu")
        self._model = model.eval()
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._vocabulary = int(model.get_input_embeddings().num_embeddings)
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 2048)

    async def _work(self) -> None:
        while True:
            await self._come.wait()
            self._computed = self._next_batch()
            if self._computed:
                await self._compute(self._computed)
            else:
                self._come.clear()

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Tell all that wait: a worker that has ended answers nobody."""
        error = None if worker.cancelled() else worker.exception()
        self._over = PoolClosedError("the pool was closed while prompts were in flight")
        if error is not None:
            self._over = EngineDied(f"the engine has failed with {_told(error)}")
        for each in (*self._computed, *self._waiting):
            if not each.answer.done():
                each.answer.set_exception(self._over)

    async def _compute(self, batch: list[_Waiting]) -> None:
        """Compute answers; where several fail together, one by one, so that only the bad one fails."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._generate, batch)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            left = [each for each in batch if not (each.ended or each.answer.done())]
            if len(batch) == 1:
                for each in left:
                    each.answer.set_exception(QuestionRefused(_told(error)))
                return
            for each in left:
                await self._compute([each])

    def _next_batch(self) -> list[_Waiting]:
        """Take what waits and is sampled alike, the shortest together: all are padded to the longest."""
        alive = [each for each in self._waiting if not each.answer.done()]
        if not alive:
            self._waiting.clear()
            return []
        alike = [each for each in alive if each.key == alive[0].key]
        alike.sort(key=lambda each: len(each.ids) + each.max_tokens)
        batch = alike[:1]
        for each in alike[1:BATCH]:
            if (len(batch) + 1) * max(len(one.ids) for one in (*batch, each)) > BUDGET:
                break
            batch.append(each)
        self._waiting = deque(each for each in alive if each not in batch)
        return batch

    def _generate(self, batch: list[_Waiting]) -> None:
        import torch  # noqa: PLC0415 - loaded by now
        from transformers import StoppingCriteriaList  # noqa: PLC0415 - loaded by now

        options = dict(batch[0].options)
        seed = options.pop("seed", None)
        if seed is not None:
            torch.manual_seed(seed)
        if "stop_strings" in options:
            options["tokenizer"] = self._tokenizer
        inputs = self._tokenizer.pad({"input_ids": [each.ids for each in batch]}, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        read = inputs["input_ids"].shape[1]
        eos = self._model.generation_config.eos_token_id
        stops = {eos} if isinstance(eos, int) else set(eos or ())

        def ended(ids: Any, _scores: Any, **_: Any) -> Any:
            """Tell which answers have ended with the newest token, and give them to who waits for them."""
            for row, token in enumerate(ids[:, -1].tolist()):
                each = batch[row]
                if not each.ended and (token in stops or ids.shape[1] - read >= each.max_tokens):
                    self._tell(each, ids[row, read:].tolist(), stops)
            over = [self._closing or each.ended or each.answer.done() for each in batch]
            return torch.tensor(over, device=ids.device)

        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                max_new_tokens=max(each.max_tokens for each in batch),
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=StoppingCriteriaList([ended]),
                **options,
            )
        for each, ids in zip(batch, output[:, read:].tolist(), strict=True):
            if not (each.ended or self._closing):  # a stop string came
                self._tell(each, ids, stops)

    def _tell(self, each: _Waiting, ids: list[int], stops: set[int]) -> None:
        each.ended = True
        result = self._result(each, ids, stops)

        def tell() -> None:
            if not each.answer.done():
                each.answer.set_result(result)

        each.answer.get_loop().call_soon_threadsafe(tell)

    def _result(self, each: _Waiting, ids: list[int], stops: set[int]) -> tuple[str, str, int]:
        kept = ids[: each.max_tokens]
        end = next((number for number, token in enumerate(kept) if token in stops), None)
        reason = "length" if end is None and len(kept) == each.max_tokens else "stop"
        kept = kept if end is None else kept[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        for stop in each.options.get("stop_strings", ()):
            text, found, _ = text.partition(stop)
            reason = "stop" if found else reason
        return text, reason, len(kept) + (end is not None)

    def _options(self, question: Question) -> dict[str, Any]:
        fields = {key: value for key, value in given_fields(question.sampling).items() if key not in _IGNORED}
        unknown = sorted(fields.keys() - _NAMES.keys())
        if unknown:
            raise QuestionRefused(f"not understood by transformers in process: {', '.join(unknown)}")
        options = {_NAMES[key]: value for key, value in fields.items()}
        if options.get("temperature") == 0:
            options = {key: value for key, value in options.items() if key in {"stop_strings", "seed"}}
            options["do_sample"] = False
        elif "temperature" in options:
            options["do_sample"] = True
        return options


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
