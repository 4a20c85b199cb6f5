"""Ask the fleet's tokenizer: exact token counts, and the chat template. Answers are kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from aurora_pool.errors import BadReply, PoolError, ServerError, TransportError
from aurora_pool.messages import Message
from aurora_pool.prompts.chat_template import CHECKS, ChatTemplate, candidates, checked, marked
from aurora_pool.runtime.driver import Driver
from aurora_pool.runtime.health import fetch
from aurora_pool.wire import chat, tokens

KEPT = 8192
"""How many counts are kept."""
SHORT_ANSWER = 8
"""Tokens in which a reasoning model shows that it reasons."""
TRIES = 5
"""How many agents are asked in turn when they don't answer."""


class Tokenizer:
    """The tokenizer of the served model, as the fleet's ``/tokenize`` and ``/detokenize`` show it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._template: dict[tuple[tuple[str, ...], bytes], ChatTemplate | None] = {}
        self._learning = asyncio.Lock()
        self._turn = 0
        self.unresponsive: set[int] = set()
        """Agents that did not answer when they were last asked: they are asked last."""

    async def count(self, model: str, content: str | Sequence[Message], *, add_special_tokens: bool) -> int | None:
        """How many tokens a text or a conversation has, exactly; None where no agent can tell."""
        if isinstance(content, str):
            body = tokens.tokenize_text(model, content, add_special_tokens=add_special_tokens)
        else:
            body = tokens.tokenize_messages(model, content, None)
        key = hashlib.blake2b(body, digest_size=16).digest()
        known = self._counts.get(key)
        if known is not None:
            self._counts.move_to_end(key)
            return known
        try:
            count = len(tokens.parse_tokens(await self._ask(tokens.TOKENIZE_PATH, body)))
        except PoolError:
            return None
        self._counts[key] = count
        if len(self._counts) > KEPT:
            self._counts.popitem(last=False)
        return count

    async def encode(self, model: str, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. Raises :class:`TransportError` and :class:`ServerError`."""
        return await self._tokens(tokens.tokenize_text(model, text, add_special_tokens=add_special_tokens))

    async def last_tokens(self, model: str, text: str, budget: int) -> str:
        """Return the end of a text, of this many tokens. Raises :class:`TransportError` and :class:`ServerError`."""
        ids = await self.encode(model, text, add_special_tokens=False)
        if len(ids) <= budget:
            return text
        return tokens.parse_text(await self._ask(tokens.DETOKENIZE_PATH, tokens.detokenize(model, ids[-budget:])))

    def known_template(self, key: tuple[tuple[str, ...], bytes]) -> ChatTemplate | None:
        """The template for conversations of this template, if it has been learnt and the model has one."""
        return self._template.get(key)

    def asked_template(self, key: tuple[tuple[str, ...], bytes]) -> bool:
        """Whether what there is to know about this template is known."""
        return key in self._template

    async def learn_template(
        self, model: str, key: tuple[tuple[str, ...], bytes], kwargs: Mapping[str, Any] | None
    ) -> ChatTemplate | None:
        """Learn the template for conversations of a template; None if the model has none.

        Raises :class:`TransportError` if no agent answers: then nothing has been learnt, and it may be tried again.
        """
        async with self._learning:  # whoever waited for one that failed or was cancelled asks for itself
            if key not in self._template:
                self._template[key] = await self._learn(model, key[0], kwargs)
        return self._template[key]

    async def _learn(self, model: str, roles: tuple[str, ...], kwargs: Mapping[str, Any] | None) -> ChatTemplate | None:
        try:
            ids = await self._tokens(tokens.tokenize_messages(model, marked(roles), kwargs))
        except (ServerError, BadReply):
            return None
        try:
            rendered = tokens.parse_text(await self._ask(tokens.DETOKENIZE_PATH, tokens.detokenize(model, ids)))
            for template in candidates(roles, rendered):
                if await self._holds(template, model, kwargs):
                    return template
        except (ServerError, BadReply):
            pass  # a template, but not one that can be learnt: the chat endpoints know it
        return ChatTemplate(roles, (), str)

    async def _holds(self, template: ChatTemplate, model: str, kwargs: Mapping[str, Any] | None) -> bool:
        for check in range(len(CHECKS)):
            messages = checked(template.roles, check)
            texts = [message["content"] for message in messages]
            theirs = await self._tokens(tokens.tokenize_messages(model, messages, kwargs))
            ours = await self._tokens(tokens.tokenize_text(model, template.render(texts), add_special_tokens=False))
            if theirs != ours:
                return False
        return True

    async def has_chat_batches(self, model: str) -> bool:
        """Whether ``/v1/chat/completions/batch`` exists (since 0.19): asked with nothing, it says so in its error."""
        try:
            await self._ask(chat.BATCH_PATH, chat.encode_batch(model, [], {}, 1))
        except ServerError as error:
            return error.status == 400
        return False

    async def separates_reasoning(self, model: str) -> bool:
        """Whether the chat endpoint tells reasoning from answer (``--reasoning-parser``): a short answer shows it."""
        body = chat.encode_request(model, [{"role": "user", "content": "Hi"}], {"temperature": 0.0}, SHORT_ANSWER)
        try:
            reply = await self._ask(chat.PATH, body, within=self._driver.timeouts.stall)
        except ServerError as error:
            if error.status < 500:
                return False
            raise
        return any(answer.reasoning for answer in chat.ChatReader().whole(reply))

    async def _tokens(self, body: bytes) -> list[int]:
        return tokens.parse_tokens(await self._ask(tokens.TOKENIZE_PATH, body))

    async def _ask(self, path: str, body: bytes, *, within: float | None = None) -> bytes:
        """Ask one agent, the next if it does not answer; which is first goes round."""
        driver = self._driver
        agents = [agent.index for agent in driver.dispatcher.ledger.agents if agent.in_service]
        agents = agents or list(range(len(driver.endpoints)))
        self._turn = (self._turn + 1) % len(agents)
        failure: PoolError | None = None
        for agent in sorted(agents[self._turn :] + agents[: self._turn], key=self.unresponsive.__contains__)[:TRIES]:
            try:
                content = await fetch(driver.transport, agent, path, body, within=within or driver.timeouts.probe)
            except TransportError as error:
                self.unresponsive.add(agent)
                failure = error
            except ServerError as error:
                if error.status < 500:
                    raise
                failure = error
            else:
                self.unresponsive.discard(agent)
                return content
        assert failure is not None
        raise failure
