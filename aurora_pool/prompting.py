"""How a pool puts prompts: through the model's chat template or as they are, and what becomes of those too long."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from aurora_pool.chat_template import Shape, shape_of
from aurora_pool.errors import ConfigError, NoAgentsError, ServerError, TransportError
from aurora_pool.fitting import TokenEstimate, TooLong
from aurora_pool.fleet import Fleet
from aurora_pool.tickets import Rules, as_conversation
from aurora_pool.tokens import Tokenizer

log = logging.getLogger("aurora_pool")

PromptFormat = Literal["auto", "chat", "raw"]

AGAIN = 1.0
"""Seconds between tries while no agent tells its template."""


class Prompting:
    """A pool's settings for prompts, and what it has learnt from the servers about them."""

    def __init__(
        self, fleet: Fleet, *, prompt_format: PromptFormat, system_prompt: str | None, on_too_long: TooLong, buffer: int
    ) -> None:
        if prompt_format not in ("auto", "chat", "raw"):
            raise ConfigError(f"prompt_format: expected 'auto', 'chat' or 'raw', got {prompt_format!r}")
        if on_too_long not in ("error", "truncate", "split"):
            raise ConfigError(f"on_too_long: expected 'error', 'truncate' or 'split', got {on_too_long!r}")
        if system_prompt is not None and prompt_format == "raw":
            raise ConfigError("system_prompt: prompts that are sent raw have none; use prompt_format='chat'")
        self.format = prompt_format
        self.system_prompt = system_prompt
        self.on_too_long = on_too_long
        self.buffer = buffer
        self.estimate = TokenEstimate()
        self.tokenizer = Tokenizer(fleet)
        self._fleet = fleet
        self._shape: Shape | None = None
        self._chat_lists = False
        self._separates_reasoning = False

    async def learn(self, model: str) -> None:
        """Learn the template for plain text. Raises :class:`NoAgentsError` if no agent tells within the patience."""
        if self.format == "raw":
            return
        key = shape_of(as_conversation("", self.system_prompt), None)
        assert key is not None, "a plain conversation has a shape"
        deadline = self._fleet.now + self._fleet.timeouts.patience
        while True:
            try:
                self._shape = await self.tokenizer.learn_shape(model, key, None)
                self._chat_lists = (
                    self._shape is not None and not self._shape.splits and await self.tokenizer.has_chat_batches(model)
                )
                if self.format == "auto" and self._shape is not None:
                    self._separates_reasoning = await self.tokenizer.separates_reasoning(model)
                break
            except (TransportError, ServerError) as error:
                if self._fleet.now + AGAIN > deadline:
                    raise NoAgentsError(f"no agent tells the model's chat template: {error}") from error
            await asyncio.sleep(AGAIN)
        if self._shape is None and self.format == "auto":
            log.info("the model has no chat template: prompts are sent as they are")

    def rules(self, model: str, *, batched: bool) -> Rules:
        """What holds for the prompts of one call."""
        shape = self._shape
        return Rules(
            model=model,
            batched=batched,
            text_shape=shape if shape is not None and shape.splits and not self._separates_reasoning else None,
            wraps_text=not batched or self.format == "chat" or shape is not None,
            separates_reasoning=self._separates_reasoning,
            chat_lists=self._chat_lists,
            system_prompt=self.system_prompt,
            on_too_long=self.on_too_long,
            buffer=self.buffer,
            estimate=self.estimate,
            tokenizer=self.tokenizer,
        )
