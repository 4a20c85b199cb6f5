"""Prompts of a call -> items: which form of request, which sampling, which agents, how many tokens."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from aurora_pool.errors import ConfigError, PoolError
from aurora_pool.messages import AnyPrompt, Message, Prompt, Response, Sample, Sampling
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.work import Lot, Portable, WorkItem
from aurora_pool.prompts.chat_template import as_conversation, template_key
from aurora_pool.prompts.chunking import chunk_text
from aurora_pool.prompts.content import as_prompt, can_be_sent, encode_key, plain, why_unsendable
from aurora_pool.prompts.fields import survives_rendering
from aurora_pool.prompts.length import budget_or_none, exact_budget, most_tokens, rounded
from aurora_pool.prompts.settings import PromptSettings
from aurora_pool.runtime.plain_chat import is_portable
from aurora_pool.runtime.request_kinds import (
    ChatList,
    CompletionsList,
    Planned,
    PlanResult,
    RequestKind,
    SingleChat,
    Sink,
)
from aurora_pool.wire import completions

SendParts = Callable[[Sequence[Prompt]], Awaitable[list[Response]]]

Form = Literal["completions", "token_ids", "rendered", "single", "chat", "chat_batch"]
"""How a prompt travels: in a list request as text, as token ids (the server refuses a list of both) or as a
rendered conversation; as a single completion; as a single chat; in a chat batch."""

_CHATS = ("chat", "chat_batch")
_CONVERSATIONS = ("rendered", *_CHATS)


class PromptSpec(msgspec.Struct, frozen=True):
    """One prompt of the input, with the settings that apply to it."""

    index: int
    content: Any
    sampling: Sampling
    own_sampling: bool
    max_tokens: int | None
    apply_template: bool
    """Whether text goes through the chat template."""
    shortened: bool = False


class Planner:
    """Plans the prompts of one call.

    Text and token ids go to ``/v1/completions``, in lists where the pool batches. Conversations, and text where the
    pool applies the template, are put into the model's chat template here and travel in lists like text; where the
    template is not separable, they go to ``/v1/chat/completions/batch`` or one by one to ``/v1/chat/completions``.
    ``contexts`` are the context lengths in the fleet, ascending, each with the queue of the agents that have at least
    that much. ``send_parts`` answers the parts of a text that was split, each of which fits.
    """

    def __init__(
        self,
        settings: PromptSettings,
        sampling: Sampling,
        max_tokens: int | None,
        queue: PromptQueue,
        contexts: Sequence[tuple[int, PromptQueue]],
        send_parts: SendParts,
    ) -> None:
        self._settings = settings
        self._send_parts = send_parts
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._queue = queue
        self._contexts = contexts
        self._own: dict[Form, RequestKind] = {}
        self._others: weakref.WeakValueDictionary[tuple[Form, bytes], Any] = weakref.WeakValueDictionary()
        self._text_form = self._form_of_text(settings.applies_template, sampling)

    def __call__(self, start: int, prompts: Sequence[AnyPrompt], sink: Sink) -> Planned:
        """Plan successive prompts, the first of which has the index ``start``."""
        form, settings = self._text_form, self._settings
        if form == "chat" or not self._contexts or set(map(type, prompts)) != {str} or not can_be_sent(prompts):
            return (self._one(index, prompt, sink) for index, prompt in enumerate(prompts, start))
        works = self._written(prompts, form)
        context, queue = self._contexts[0]
        kind = self._own_kind(form, self._sampling, sink)
        limit, budget = kind.limit, self._max_tokens
        left = context - settings.buffer - (budget or 0)
        # A character has at most 4 bytes: what fits even then need not be counted.
        if budget is not None and 4 * max(map(len, works)) * settings.estimate.ratio < left - 1:
            lot = Lot(queue, kind, works, range(start, start + len(works)), budget, limit)
            if limit > 1 and len(lot) > 1 and not (queue.view.hosted or settings.keeps_messages):
                return lot
            items = lot.items()
            for item, prompt in zip(items, prompts, strict=True):
                self._make_portable(item, prompt, form, self._sampling)
            return items
        return self._plain(start, prompts, works, kind, sink)

    def _one(self, index: int, prompt: AnyPrompt, sink: Sink) -> PlanResult:
        try:
            sound = as_prompt(prompt)
        except ConfigError as error:  # from an input that could not be checked before
            return Response(False, "", str(error), None, "rejected")
        content: Any = sound.content
        reason = why_unsendable(content)
        if reason is not None:
            return Response(False, "", reason, None, "rejected")
        own = sound.sampling is not None
        sampling = sound.sampling or self._sampling
        apply_template = self._settings.applies_template if sound.format is None else sound.format == "chat"
        spec = PromptSpec(index, content, sampling, own, sound.max_tokens or self._max_tokens, apply_template)
        return self._make(spec, sink)

    def _make(self, spec: PromptSpec, sink: Sink) -> PlanResult:
        settings = self._settings
        content = spec.content
        if isinstance(content, str):
            form = self._form_of_text(spec.apply_template, spec.sampling)
            if form == "chat":
                return self._chat(spec, as_conversation(content, settings.system_prompt), sink)
            (work,) = self._written([content], form)
            return self._fitted(spec, work, form, sink)
        if isinstance(content[0], dict):
            return self._chat(spec, content, sink)
        return self._fitted(spec, content, "token_ids" if settings.batched else "single", sink)

    # -- text ---------------------------------------------------------------------------------------------------

    def _form_of_text(self, apply_template: bool, sampling: Sampling) -> Form:
        settings = self._settings
        if not apply_template:
            return "completions" if settings.batched else "single"
        separable = (
            settings.text_template is not None
            and settings.batched
            and "chat_template_kwargs" not in sampling.extra
            and survives_rendering(sampling.extra)
        )
        return "rendered" if separable else "chat"

    def _written(self, texts: Sequence[Any], form: Form) -> Sequence[str]:
        """Return the texts that are sent."""
        template = self._settings.text_template
        if form != "rendered" or template is None:
            return texts
        system_prompt = self._settings.system_prompt
        before = () if system_prompt is None else (system_prompt,)
        return [template.render((*before, text)) for text in texts]

    def _plain(
        self, start: int, prompts: Sequence[Any], works: Sequence[str], kind: RequestKind, sink: Sink
    ) -> Iterator[PlanResult]:
        """Make the items of plain texts one by one: most fit by the estimate, the others are counted."""
        context, queue = self._contexts[0]
        estimate, buffer = self._settings.estimate, self._settings.buffer
        for index, (prompt, work) in enumerate(zip(prompts, works, strict=True), start):
            budget = budget_or_none(context, estimate.of(work), buffer, self._max_tokens)
            if budget is None:
                yield self._one(index, prompt, sink)
            else:
                budget = budget if self._max_tokens else rounded(budget)
                item = WorkItem(queue, index, kind, work, budget, kind.limit)
                self._make_portable(item, prompt, self._text_form, self._sampling)
                yield item

    # -- conversations ------------------------------------------------------------------------------------------

    def _chat(self, spec: PromptSpec, messages: Sequence[Message], sink: Sink) -> PlanResult:
        settings = self._settings
        extra = spec.sampling.extra
        kwargs = extra.get("chat_template_kwargs")
        key = template_key(messages, kwargs) if settings.batched and survives_rendering(extra) else None
        if key is None:
            return self._fitted(spec, messages, "chat", sink)
        if not settings.tokenizer.asked_template(key):
            return partial(self._learn, spec, messages, sink, key, kwargs)
        template = settings.tokenizer.known_template(key)
        if template is not None and template.separable and not settings.separates_reasoning:
            return self._fitted(spec, template.render([message["content"] for message in messages]), "rendered", sink)
        listed = settings.chat_batches and not settings.separates_reasoning and spec.sampling.n == 1
        return self._fitted(spec, messages, "chat_batch" if listed else "chat", sink)

    async def _learn(
        self, spec: PromptSpec, messages: Sequence[Message], sink: Sink, key: tuple[tuple[str, ...], bytes], kwargs: Any
    ) -> WorkItem | Response:
        try:
            await self._settings.tokenizer.learn_template(self._settings.model, key, kwargs)
        except PoolError:  # unknown now: the chat endpoint always knows
            return await _answered(self._fitted(spec, messages, "chat", sink))
        return await _answered(self._chat(spec, messages, sink))

    # -- token budgets ----------------------------------------------------------------------------------------

    def _fitted(self, spec: PromptSpec, work: Any, form: Form, sink: Sink) -> PlanResult:
        """Find how many tokens the answer may have: by the estimate where that is safe, exactly where it is not."""
        settings = self._settings
        max_tokens = spec.max_tokens
        if not self._contexts:
            if max_tokens is None and form not in _CHATS:
                raise ConfigError("max_tokens can't be fitted: no agent tells its context length; give max_tokens")
            return self._item(spec, work, form, sink, self._queue, max_tokens or 0)
        context, queue = self._contexts[0]
        budget = budget_or_none(context, settings.estimate.of(work), settings.buffer, max_tokens)
        if budget is None:
            return partial(self._counted, spec, work, form, sink)
        if max_tokens is None:
            budget = 0 if form in _CHATS else rounded(budget)  # a chat request without max_tokens has the rest
        return self._item(spec, work, form, sink, queue, budget)

    async def _counted(self, spec: PromptSpec, work: Any, form: Form, sink: Sink) -> WorkItem | Response:
        settings = self._settings
        length: int | None = len(work)
        if isinstance(work, str) or form in _CHATS:
            special = form in ("completions", "single")
            length = await settings.tokenizer.count(settings.model, work, add_special_tokens=special)
        needed = (length or settings.estimate.of(work)) + (spec.max_tokens or 1)
        context, queue = next((pair for pair in self._contexts if needed <= pair[0]), self._contexts[-1])
        if length is None:  # unknown: the server that gets it will count
            budget = exact_budget(context, settings.estimate.of(work) + settings.buffer, spec.max_tokens)
        elif length >= context:
            return await self._too_long(spec, sink, length, context)
        else:
            budget = exact_budget(context, length, spec.max_tokens)
        if budget != spec.max_tokens:
            budget = 0 if spec.max_tokens is None and form in _CHATS else rounded(budget)
        return self._item(spec, work, form, sink, queue, budget)

    async def _too_long(self, spec: PromptSpec, sink: Sink, length: int, context: int) -> WorkItem | Response:
        if self._settings.on_too_long != "error" and isinstance(spec.content, str) and not spec.shortened:
            try:
                answer = await self._shortened(spec, sink, length, context)
            except PoolError:  # no agent can say where to cut it
                answer = None
            if answer is not None:
                return answer
        error = f"the prompt has {length} tokens, and the model's maximum context length is {context} tokens"
        return Response(False, "", error, None, "rejected")

    async def _shortened(self, spec: PromptSpec, sink: Sink, length: int, context: int) -> WorkItem | Response | None:
        """Cut or split a text; None where not even an empty one would fit."""
        settings = self._settings
        own = await settings.tokenizer.count(settings.model, spec.content, add_special_tokens=False) or length
        budget = context - (length - own) - min(spec.max_tokens or context, context // 4) - settings.buffer
        if budget < 1:
            return None
        if settings.on_too_long == "truncate":
            kept = await settings.tokenizer.last_tokens(settings.model, spec.content, budget)
            return await _answered(self._make(msgspec.structs.replace(spec, content=kept, shortened=True), sink))
        prompt_format: Literal["chat", "raw"] = "chat" if spec.apply_template else "raw"
        parts = chunk_text(spec.content, budget, count=settings.estimate.of)
        return join_parts(
            await self._send_parts([Prompt(p, spec.sampling, spec.max_tokens, prompt_format) for p in parts])
        )

    # -- kinds ------------------------------------------------------------------------------------------------

    def _item(self, spec: PromptSpec, work: Any, form: Form, sink: Sink, queue: PromptQueue, budget: int) -> WorkItem:
        kind = self._kind(form, spec, sink)
        item = WorkItem(queue, spec.index, kind, work, budget, kind.limit)
        self._make_portable(item, spec.content, form, spec.sampling)
        return item

    def _make_portable(self, item: WorkItem, content: Any, form: Form, sampling: Sampling) -> None:
        """Let a conversation go as a plain chat as well, if agents may need that and would understand all of it."""
        needed = item.queue.view.hosted or self._settings.keeps_messages
        if needed and form in _CONVERSATIONS and is_portable(sampling):
            messages = content
            if isinstance(content, str):
                messages = as_conversation(content, self._settings.system_prompt)
            read = self._settings.estimate.of(messages)
            item.portable = Portable(messages, read, most_tokens(messages), item.token_budget * sampling.n)

    def _kind(self, form: Form, spec: PromptSpec, sink: Sink) -> RequestKind:
        if not spec.own_sampling:
            return self._own_kind(form, spec.sampling, sink)
        key = form, encode_key(spec.sampling)
        found: RequestKind | None = self._others.get(key)
        if found is None:
            found = self._others[key] = self._new_kind(form, spec.sampling, sink)
        return found

    def _own_kind(self, form: Form, sampling: Sampling, sink: Sink) -> RequestKind:
        """The kind of request of prompts that have no sampling of their own."""
        kind = self._own.get(form)
        if kind is None:
            kind = self._own[form] = self._new_kind(form, sampling, sink)
        return kind

    def _new_kind(self, form: Form, sampling: Sampling, sink: Sink) -> RequestKind:
        fields = completions.sampling_fields(msgspec.convert(msgspec.to_builtins(sampling, enc_hook=plain), Sampling))
        model = self._settings.model
        if form == "chat":
            return SingleChat(sink, model, fields)
        if form == "chat_batch":
            return ChatList(sink, model, fields)
        if form == "rendered":
            fields.pop("chat_template_kwargs", None)
            fields["add_special_tokens"] = False  # the template has put them there
        return CompletionsList(sink, model, fields, self._settings.estimate.observe, single=form == "single")


def join_parts(parts: Sequence[Response]) -> Response:
    r"""The responses to the parts of one prompt as one: texts joined by empty lines, tokens added up, each a sample.

    >>> join_parts([Response(True, "One."), Response(True, "Two.")]).text
    'One.\n\nTwo.'
    """
    failed = next((part for part in parts if not part.success), None)
    first = failed or parts[0]
    return Response(
        failed is None,
        "\n\n".join(part.text for part in parts),
        first.error,
        first.agent_index,
        first.error_kind,
        first.finish_reason,
        sum(part.prompt_tokens or 0 for part in parts),
        sum(part.completion_tokens or 0 for part in parts),
        attempts=max(part.attempts for part in parts),
        latency=max(part.latency for part in parts),
        samples=tuple(Sample(part.text, part.finish_reason) for part in parts),
    )


async def _answered(result: PlanResult) -> WorkItem | Response:
    return result if isinstance(result, WorkItem | Response) else await result()
