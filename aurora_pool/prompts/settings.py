"""How a pool sends prompts: in the model's chat template or raw, and what becomes of those too long."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from aurora_pool.errors import ConfigError, NoAgentsError, ServerError, TransportError
from aurora_pool.options import OnTooLong, PromptOptions
from aurora_pool.prompts.chat_template import ChatTemplate, as_conversation, template_key
from aurora_pool.prompts.length import TokenEstimate
from aurora_pool.prompts.tokenizer import Tokenizer
from aurora_pool.runtime.driver import Driver

log = logging.getLogger("aurora_pool")

AGAIN = 1.0
"""Seconds between tries while no agent tells its template."""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """What a pool does with all its prompts."""

    model: str
    batched: bool
    text_template: ChatTemplate | None
    """How text is put into the chat template; None where it is not, or where the template does not split cleanly."""
    applies_template: bool
    separates_reasoning: bool
    """Whether the chat endpoint tells reasoning from answer, which a list request can't."""
    chat_batches: bool
    """Whether the servers take many conversations in one request."""
    system_prompt: str | None
    on_too_long: OnTooLong
    buffer: int
    estimate: TokenEstimate
    tokenizer: Tokenizer


class PromptHandling:
    """A pool's settings for prompts, and what it has learnt from the servers about them."""

    def __init__(
        self,
        driver: Driver,
        options: PromptOptions,
        *,
        system_prompt: str | None,
        buffer: int,
    ) -> None:
        if system_prompt is not None and options.prompt_format == "raw":
            raise ConfigError("system_prompt: prompts that are sent raw have none; use prompt_format='chat'")
        self.format = options.prompt_format
        self.system_prompt = system_prompt
        self.on_too_long = options.on_too_long
        self.buffer = buffer
        self.estimate = TokenEstimate()
        self.tokenizer = Tokenizer(driver)
        self._driver = driver
        self._template: ChatTemplate | None = None
        self._chat_batches = False
        self._separates_reasoning = False

    async def learn(self, model: str) -> None:
        """Learn the template for plain text. Raises :class:`NoAgentsError` if no agent tells within the patience."""
        if self.format == "raw":
            return
        key = template_key(as_conversation("", self.system_prompt), None)
        assert key is not None, "a plain conversation has a template"
        deadline = self._driver.now + self._driver.timeouts.patience
        while True:
            try:
                self._template = await self.tokenizer.learn_template(model, key, None)
                self._chat_batches = (
                    self._template is not None
                    and not self._template.separable
                    and await self.tokenizer.has_chat_batches(model)
                )
                if self.format == "auto" and self._template is not None:
                    self._separates_reasoning = await self.tokenizer.separates_reasoning(model)
                break
            except (TransportError, ServerError) as error:
                if self._driver.now + AGAIN > deadline:
                    raise NoAgentsError(f"no agent tells the model's chat template: {error}") from error
            await asyncio.sleep(AGAIN)
        if self._template is None and self.format == "auto":
            log.info("the model has no chat template: prompts are sent raw")

    def settings(self, model: str, *, batched: bool) -> PromptSettings:
        """What holds for the prompts of one call."""
        template = self._template
        return PromptSettings(
            model=model,
            batched=batched,
            text_template=template
            if template is not None and template.separable and not self._separates_reasoning
            else None,
            applies_template=not batched or self.format == "chat" or template is not None,
            separates_reasoning=self._separates_reasoning,
            chat_batches=self._chat_batches,
            system_prompt=self.system_prompt,
            on_too_long=self.on_too_long,
            buffer=self.buffer,
            estimate=self.estimate,
            tokenizer=self.tokenizer,
        )
