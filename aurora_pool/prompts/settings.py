"""How a pool sends prompts: in the model's chat template or raw, and whether long ones are cut or split."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aurora_pool.errors import ConfigError, NoAgentsError, PoolError, TransportError
from aurora_pool.options import OnTooLong, PromptOptions
from aurora_pool.prompts.chat_template import ChatTemplate, as_conversation, template_key
from aurora_pool.prompts.length import TokenEstimate
from aurora_pool.prompts.tokenizer import ASK_AGAIN, Tokenizer, may_pass
from aurora_pool.runtime.fleet_runtime import FleetRuntime
from aurora_pool.terminal import one_line

log = logging.getLogger("aurora_pool")

AGAIN = 1.0
"""Seconds between tries while no agent gives its template."""
FAILURES = 3
"""Number of times that agents are asked which answer with an error that may pass; then the chat endpoints are used."""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """What a pool does with all its prompts."""

    model: str
    batched: bool
    text_template: ChatTemplate | None
    """How text is put into the chat template; None where it is not, or where the template does not split cleanly."""
    applies_template: bool
    separates_reasoning: bool
    """Whether the chat endpoint separates reasoning from answer, which a list request can't."""
    chat_batches: bool
    """Whether the servers take many conversations in one request."""
    system_prompt: str | None
    on_too_long: OnTooLong
    buffer: int
    estimate: TokenEstimate
    tokenizer: Tokenizer
    keeps_messages: bool
    """Whether some agents may need conversations that were put into the template as chats."""


class PromptHandling:
    """A pool's settings for prompts, and what it has learnt from the servers about them."""

    def __init__(
        self,
        runtime: FleetRuntime,
        options: PromptOptions,
        *,
        system_prompt: str | None,
        buffer: int,
    ) -> None:
        if system_prompt is not None and options.prompt_format == "raw":
            raise ConfigError("system_prompt: prompts that are sent raw have none; use prompt_format='chat'")
        self._options = options
        self.format = options.prompt_format
        self.system_prompt = system_prompt
        self.on_too_long = options.on_too_long
        self.buffer = buffer
        self.estimate = TokenEstimate()
        self.tokenizer = Tokenizer(runtime)
        self._runtime = runtime
        self._ready = False
        self._learning = asyncio.Lock()
        self._template: ChatTemplate | None = None
        self._chat_batches = False
        self._separates_reasoning = False
        self._untold_until: float | None = None
        """Until when an unknown template is not asked for again; None where it is known."""

    def for_others(self) -> PromptHandling:
        """The same settings, for agents that may serve another model."""
        return PromptHandling(self._runtime, self._options, system_prompt=self.system_prompt, buffer=self.buffer)

    async def ready(self, model: str, agents: Sequence[int]) -> None:
        """Learn from these agents, unless others that serve the model have answered; raises as :meth:`learn`."""
        async with self._learning:
            if not self._ready:
                self.tokenizer.members = agents
                await self.learn(model)
                self._ready = True

    async def learn(self, model: str) -> None:
        """Learn the template for plain text.

        Where agents answer but none can be asked (a proxy shows only ``/v1``), chats go to the chat endpoints, and
        it is asked again later. Raises :class:`NoAgentsError` if no agent answers at all within the patience.
        """
        if self.format == "raw":
            return
        deadline = self._runtime.now + self._runtime.timeouts.patience
        failures = 0
        while True:
            try:
                await self._learn(model)
            except PoolError as error:
                failures += not isinstance(error, TransportError)
                if not may_pass(error) or failures == FAILURES:
                    await self._do_without(model, error)
                    return
                if self._runtime.now + AGAIN > deadline:
                    raise NoAgentsError(f"no agent tells the model's chat template: {error}") from error
            else:
                return
            await asyncio.sleep(AGAIN)

    async def ask_again(self, model: str) -> None:
        """Ask once more for what no agent could answer, if some time has passed since."""
        if self._untold_until is not None and self._runtime.now >= self._untold_until:
            self._untold_until = self._runtime.now + ASK_AGAIN
            with contextlib.suppress(PoolError):
                await self._learn(model)

    async def _learn(self, model: str) -> None:
        key = template_key(as_conversation("", self.system_prompt), None)
        assert key is not None, "a plain conversation has a template"
        template = await self.tokenizer.learn_template(model, key, None)
        if template is None and self.format == "auto":
            log.info("the model has no chat template: prompts are sent raw")
        self._untold_until = None
        await self._use(model, template)

    async def _do_without(self, model: str, error: PoolError) -> None:
        log.warning(
            "no agent can be asked for the model's chat template (%s): prompts go to the chat endpoints, which know "
            "it. Give PromptOptions(prompt_format='raw') or --prompt-format raw if the model has none",
            one_line(error),
        )
        await self._use(model, ChatTemplate((), (), str))
        self._untold_until = self._runtime.now + ASK_AGAIN

    async def _use(self, model: str, template: ChatTemplate | None) -> None:
        """Find out what else depends on there being a template, and use it."""
        if template is not None:
            if not template.separable:
                self._chat_batches = await self.tokenizer.has_chat_batches(model)
            if self.format == "auto":
                separates = await self.tokenizer.separates_reasoning(model)
                self._separates_reasoning = separates is not False  # the chat endpoints know it in any case
                if separates is None:
                    self._untold_until = self._runtime.now + ASK_AGAIN
        self._template = template

    def settings(self, model: str, *, batched: bool) -> PromptSettings:
        """The settings for the prompts of one call."""
        template = self._template
        return PromptSettings(
            model=model,
            batched=batched,
            text_template=template
            if template is not None and template.separable and not self._separates_reasoning
            else None,
            applies_template=self.format == "chat"
            or (self.format == "auto" and (template is not None or not self._ready)),
            separates_reasoning=self._separates_reasoning,
            chat_batches=self._chat_batches,
            system_prompt=self.system_prompt,
            on_too_long=self.on_too_long,
            buffer=self.buffer,
            estimate=self.estimate,
            tokenizer=self.tokenizer,
            keeps_messages=self._runtime.dialects.know_less(self.tokenizer.members),
        )
