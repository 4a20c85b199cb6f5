"""Ask the fleet's tokenizer: exact token counts, and the chat template. Answers are kept.

Not every agent can be asked: a proxy may show only ``/v1``, answer with a page of its own or fail for a moment. That an
agent could not be asked says nothing about its model, so another is asked, and another time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from aurora_pool.errors import PoolError, ServerError, TransportError
from aurora_pool.messages import Message
from aurora_pool.prompts.chat_template import CHECKS, ChatTemplate, candidates, checked, marked
from aurora_pool.runtime.fleet_runtime import FleetRuntime
from aurora_pool.runtime.health import fetch
from aurora_pool.runtime.once import answers_of
from aurora_pool.wire import chat, tokens

T = TypeVar("T")

KEPT = 8192
"""How many counts are kept."""
TEMPLATES_KEPT = 256
"""How many templates are kept, one for each list of roles and set of template arguments."""
LEARNT_EAGERLY = 8
"""Number of sets of template arguments that are learnt at first sight for a list of roles; further ones are learnt when
they are seen a second time: learning takes several questions, and arguments that differ with every prompt are never
needed again."""
ASK_AGAIN = 30.0
"""Seconds until a question that no agent could answer is asked again."""
COMPARED = 3
"""How many agents are asked what may differ between agents of one model."""
SHORT_ANSWER = 8
"""Tokens in which a reasoning model shows that it reasons."""
TRIES = 5
"""How many agents are asked in turn when they don't answer."""

log = logging.getLogger("aurora_pool")

TemplateKey = tuple[tuple[str, ...], bytes]


class Tokenizer:
    """The tokenizer of the served model, as the ``/tokenize`` and ``/detokenize`` of these agents show it."""

    def __init__(self, runtime: FleetRuntime) -> None:
        self._runtime = runtime
        self.members: Sequence[int] = range(len(runtime.endpoints))
        """The agents that are asked."""
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._templates: OrderedDict[TemplateKey, ChatTemplate | None] = OrderedDict()
        self._seen_once: OrderedDict[TemplateKey, None] = OrderedDict()
        self._begun: set[TemplateKey] = set()
        """Templates that are being learnt."""
        self._unanswered: dict[TemplateKey, float] = {}
        self._differ: bool | None = None
        """Whether agents have different templates; None while they have not been compared."""
        self._learning = asyncio.Lock()
        self._turn = 0
        self.unresponsive: set[int] = set()
        """Agents that could not answer when they were last asked: they are asked last."""

    async def count(self, model: str, content: str | Sequence[Message], *, add_special_tokens: bool) -> int | None:
        """How many tokens a text or a conversation has, exactly; None where no agent can count them."""
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
            count = len(await self._tokens(body))
        except PoolError:
            return None
        self._counts[key] = count
        if len(self._counts) > KEPT:
            self._counts.popitem(last=False)
        return count

    async def encode(self, model: str, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`."""
        return await self._tokens(tokens.tokenize_text(model, text, add_special_tokens=add_special_tokens))

    async def last_tokens(self, model: str, text: str, budget: int) -> str:
        """Return the end of a text, of this many tokens. Raises as :meth:`encode` does."""
        ids = await self.encode(model, text, add_special_tokens=False)
        return text if len(ids) <= budget else await self._text(tokens.detokenize(model, ids[-budget:]))

    # -- the chat template --------------------------------------------------------------------------------------

    def known_template(self, key: TemplateKey) -> ChatTemplate | None:
        """The template for conversations of this template, if it has been learnt and the model has one."""
        return self._templates.get(key)

    def asked_template(self, key: TemplateKey) -> bool:
        """Whether what there is to know about this template is known, or is not to be asked now."""
        if key in self._templates:
            self._templates.move_to_end(key)
            return True
        if self._runtime.now < self._unanswered.get(key, 0.0):
            return True
        roles, _ = key
        alike = sum(known[0] == roles for known in self._templates.keys() | self._begun)
        if alike < LEARNT_EAGERLY or key in self._seen_once or key in self._begun:
            self._begun.add(key)
            return False
        self._seen_once[key] = None
        if len(self._seen_once) > TEMPLATES_KEPT:
            self._seen_once.popitem(last=False)
        return True

    async def learn_template(
        self, model: str, key: TemplateKey, kwargs: Mapping[str, Any] | None
    ) -> ChatTemplate | None:
        """Learn the template for conversations of a template; None if the model has none.

        Raises :class:`PoolError` if no agent can answer: then nothing has been learnt, and it may be tried again.
        """
        async with self._learning:  # whoever waited for one that failed or was cancelled asks for itself
            if key not in self._templates:
                try:
                    template = await self._learn(model, key[0], kwargs)
                except PoolError:
                    self._unanswered[key] = self._runtime.now + ASK_AGAIN
                    raise
                finally:
                    self._begun.discard(key)
                self._unanswered.pop(key, None)
                self._templates[key] = template
                if len(self._templates) > TEMPLATES_KEPT:
                    self._templates.popitem(last=False)
        return self._templates[key]

    async def _learn(self, model: str, roles: tuple[str, ...], kwargs: Mapping[str, Any] | None) -> ChatTemplate | None:
        question = tokens.tokenize_messages(model, marked(roles), kwargs)
        try:
            ids = await self._tokens(question)
        except ServerError as error:
            if _is_answer(error):
                return None
            raise
        try:
            rendered = await self._text(tokens.detokenize(model, ids))
            # Of one list of roles, arguments hardly change how the texts are put in, so one check is enough.
            checks = 1 if any(known[0] == roles for known in self._templates) else len(CHECKS)
            if self._differ is None:
                self._differ = await self._templates_differ(question)
            for template in () if self._differ else candidates(roles, rendered):
                if await self._holds(template, model, kwargs, checks):
                    return template
        except PoolError:
            pass  # a template, but not one that can be learnt: the chat endpoints know it
        return ChatTemplate(roles, (), str)

    async def _holds(self, template: ChatTemplate, model: str, kwargs: Mapping[str, Any] | None, checks: int) -> bool:
        for check in range(checks):
            messages = checked(template.roles, check)
            rendered = template.render([message["content"] for message in messages])
            theirs, ours = await asyncio.gather(
                self._tokens(tokens.tokenize_messages(model, messages, kwargs)),
                self._tokens(tokens.tokenize_text(model, rendered, add_special_tokens=False)),
            )
            if theirs != ours:
                return False
        return True

    # -- what may differ between the agents of one model --------------------------------------------------------

    async def _templates_differ(self, question: bytes) -> bool:
        """Whether some agents, of a few that can be asked, put the same conversation into other tokens."""
        found = await self._compare(tokens.TOKENIZE_PATH, question, tokens.parse_tokens)
        told = [ids for ids in found if not isinstance(ids, PoolError)]
        differ = any(ids != told[0] for ids in told)
        if differ:
            log.warning("the agents have different chat templates: conversations go to their chat endpoints")
        return differ

    async def has_chat_batches(self, model: str) -> bool:
        """Whether ``/v1/chat/completions/batch`` exists (since 0.19): asked with nothing, it says so in its error.

        True if all of a few agents have it, so that no conversation is sent where it does not.
        """
        runtime, body = self._runtime, chat.encode_batch(model, [], {}, 1)

        async def has(agent: int) -> bool | None:
            try:
                await fetch(runtime.transport, agent, chat.BATCH_PATH, body, within=runtime.timeouts.probe)
            except ServerError as error:
                return None if error.status >= 500 else error.status == 400
            except PoolError:
                return None
            return False

        found = [known for known in await asyncio.gather(*map(has, self._some())) if known is not None]
        return bool(found) and all(found)

    async def separates_reasoning(self, model: str) -> bool | None:
        """Whether a chat endpoint separates reasoning from answer (``--reasoning-parser``): a short answer shows it.

        True if one of a few agents does, False where they don't, and None where they have not answered yet: a new
        server may need long for its first answer, and a busy one has others' prompts before it.
        """
        body = chat.encode_request(model, [{"role": "user", "content": "Hi"}], {"temperature": 0.0}, SHORT_ANSWER)
        found = await self._compare(chat.PATH, body, chat.ChatReader().whole, within=self._runtime.timeouts.stall)
        answered = [finished.answers for finished in found if not isinstance(finished, PoolError)]
        if not answered and any(isinstance(error, PoolError) and may_pass(error) for error in found):
            return None
        return any(answer.reasoning for answers in answered for answer in answers)

    async def _compare(
        self, path: str, body: bytes, read: Callable[[bytes], T], *, within: float | None = None
    ) -> list[T | PoolError]:
        """Ask a few agents the same, at the same time; return what they say, or why they do not.

        Once one has answered, the others have no longer than for a probe: one may be busy with others' work.
        """
        runtime = self._runtime

        async def ask(agent: int) -> T | PoolError:
            try:
                return read(await fetch(runtime.transport, agent, path, body, within=within or runtime.timeouts.probe))
            except PoolError as error:
                return error

        found = await answers_of({agent: ask(agent) for agent in self._some()}, grace=runtime.timeouts.probe)
        return list(found.values())

    def _some(self) -> Sequence[int]:
        """A few agents to be compared, of those that have answered so far where there are such."""
        agents = [agent for agent in self._agents() if agent not in self.unresponsive] or self._agents()
        step = -(-len(agents) // COMPARED)  # from all over the fleet: neighbours are often alike
        return agents[::step]

    # -- questions ----------------------------------------------------------------------------------------------

    async def _tokens(self, body: bytes) -> list[int]:
        return await self._ask(tokens.TOKENIZE_PATH, body, tokens.parse_tokens)

    async def _text(self, body: bytes) -> str:
        return await self._ask(tokens.DETOKENIZE_PATH, body, tokens.parse_text)

    async def _ask(self, path: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """Ask one agent, the next if it can't answer; the first is chosen round-robin.

        Raises :class:`ServerError` for a refusal that is an answer, else what the last agent came to.
        """
        runtime = self._runtime
        agents = self._agents()
        self._turn = (self._turn + 1) % len(agents)
        failure: PoolError | None = None
        for agent in sorted(agents[self._turn :] + agents[: self._turn], key=self.unresponsive.__contains__)[:TRIES]:
            try:
                written = runtime.dialects.write(agent, path, body)
                content = read(await fetch(runtime.transport, agent, path, written, within=runtime.timeouts.probe))
            except PoolError as error:
                if _is_answer(error):
                    raise
                self.unresponsive.add(agent)
                if failure is None or not may_pass(failure):
                    failure = error
            else:
                self.unresponsive.discard(agent)
                return content
        assert failure is not None
        raise failure

    def _agents(self) -> list[int]:
        agents = self._runtime.dispatcher.ledger.agents
        return [index for index in self.members if agents[index].in_service] or list(self.members)


def _is_answer(error: PoolError) -> bool:
    """Whether an error answers the question: the server has understood it, and says no."""
    return isinstance(error, ServerError) and error.status in (400, 422)


def may_pass(error: PoolError) -> bool:
    """Whether asking later can help: nobody answers, or a server or proxy fails. A 404 or a page means it.

    >>> may_pass(ServerError(502, "Bad Gateway")), may_pass(ServerError(404, "Not Found"))
    (True, False)
    """
    return isinstance(error, TransportError) or (isinstance(error, ServerError) and error.status >= 500)
