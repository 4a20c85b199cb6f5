"""What an answer must be, whether it is that, and how it is asked for again. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from aurora_pool.arguments import check_callable, check_instance, check_one_of, check_whole, shown
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.requests import Request
from aurora_pool.messages import Prompt, Response, Sampling

__all__ = ["Check", "Expectation", "Problem", "Remedy", "fits_schema", "is_json", "matches"]

Check: TypeAlias = Callable[[str], str | None]
"""Says why an answer will not do, in words that a model could be given; None for one that will."""

Remedy: TypeAlias = Literal["temperature", "append"]
"""How an answer is asked for again: with a raised temperature, or with the answer and what is wrong with it added."""

Problem: TypeAlias = tuple[Literal["length", "invalid"], str]
"""What is wrong with an answer: of which kind, and why."""

WARMER = 0.3
"""By how much each further try is warmer."""
WARMEST = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What answers must be.

    - ``check``: of :func:`is_json`, :func:`matches`, :func:`fits_schema`, or any function of the text that gives a
      reason, or None;
    - ``retries``: how often one that fails is asked for again, and ``remedy`` how;
    - ``length_is_failure``: whether an answer that was cut at ``max_tokens`` is one that failed; it is not asked again.

    >>> Expectation(check=lambda text: None if text.strip() in {"yes", "no"} else "it is neither yes nor no")
    Expectation(check=<function <lambda> at ...>, retries=2, remedy='temperature', length_is_failure=False)

    Raises :class:`~aurora_pool.errors.ConfigError` for invalid arguments.
    """

    check: Check | None = None
    retries: int = 2
    remedy: Remedy = "temperature"
    length_is_failure: bool = False

    def __post_init__(self) -> None:
        check_callable(check=self.check)
        check_whole(0, optional=False, retries=self.retries)
        check_one_of("remedy", self.remedy, get_args(Remedy))
        check_instance("length_is_failure", self.length_is_failure, bool, optional=False)

    @property
    def checks(self) -> bool:
        """Whether there is anything that an answer must be."""
        return self.check is not None or self.length_is_failure

    def why_not(self, name: str, response: Response) -> Problem | None:
        """Say what is wrong with an answer to the request with the id ``name``; None if nothing is.

        Raises what :meth:`why_not_texts` raises.
        """
        return self.why_not_texts(name, response.texts, response.finish_reason)

    def why_not_texts(self, name: str, texts: Sequence[str], finish_reason: str | None) -> Problem | None:
        """Say what is wrong with the texts of an answer, and why it ended; None if nothing is.

        Raises what the check raises, with a note of the id, and
        :class:`~aurora_pool.errors.ConfigError` for a check that gives neither a text nor None.
        """
        if self.length_is_failure and finish_reason == "length":
            return "length", "the answer was cut at max_tokens"
        if self.check is not None:
            for text in texts:
                reason = self._reason(self.check, name, text)
                if reason is not None:
                    return "invalid", reason
        return None

    def _reason(self, check: Check, name: str, text: str) -> str | None:
        try:
            reason: Any = check(text)
        except Exception as error:
            error.add_note(f"in the check of the answer to {name!r}")
            raise
        if reason is None or isinstance(reason, str):
            return reason
        got = f"got {shown(reason)} for the answer to {name!r}"
        raise ConfigError(f"check: expected a text that says what is wrong, or None, {got}")

    def again(self, request: Request, prompt: Prompt, answer: str, reason: str, attempt: int) -> Prompt:
        """Make the prompt of a further try, the first of which is 1."""
        if self.remedy == "append":
            return msgspec.structs.replace(prompt, content=_told(request, prompt, answer, reason))
        sampling = prompt.sampling or Sampling()
        warmer = min(max(WARMEST, sampling.temperature or 0.0), (sampling.temperature or 0.0) + WARMER * attempt)
        seed = None if sampling.seed is None else sampling.seed + attempt
        return msgspec.structs.replace(
            prompt, sampling=msgspec.structs.replace(sampling, temperature=warmer, seed=seed)
        )


def _told(request: Request, prompt: Prompt, answer: str, reason: str) -> Any:
    complaint = f"This answer can't be used: {reason}. Answer again."
    if request.raw or not isinstance(prompt.content, str | list) or _is_tokens(prompt.content):
        return f"{prompt.content}{answer}\n\n{complaint}\n\n" if isinstance(prompt.content, str) else prompt.content
    before = prompt.content
    messages = [{"role": "user", "content": before}] if isinstance(before, str) else list(before)
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]


def _is_tokens(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], int)


def is_json(text: str) -> str | None:
    """Check that an answer is JSON. A fence of Markdown around it is not looked at.

    >>> is_json('{"a": 1}'), is_json("Sure! Here it is:")
    (None, 'it is not JSON: Expecting value at character 0')
    """
    try:
        json.loads(unfenced(text))
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)
        return f"it is not JSON: {where}"
    return None


def matches(pattern: str) -> Check:
    r"""Make a check that the whole answer, without space around it, matches a regular expression.

    >>> matches("yes|no")(" yes\n"), matches("yes|no")("maybe")
    (None, "it does not match 'yes|no'")

    Raises :class:`~aurora_pool.errors.ConfigError` for what is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"the regular expression {pattern!r} is none: {error}") from error
    return lambda text: None if compiled.fullmatch(text.strip()) else f"it does not match {pattern!r}"


def fits_schema(schema: Mapping[str, Any]) -> Check:
    """Make a check that an answer is JSON that a JSON Schema allows. Needs jsonschema, of the extra ``tables``.

    >>> expect = Expectation(check=fits_schema({"type": "object", "required": ["gene"]}))  # doctest: +SKIP

    Raises :class:`~aurora_pool.errors.ConfigError` for what is no schema.
    """
    try:
        import jsonschema  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("JSON Schemas need the package jsonschema: pip install 'aurora-pool[tables]'") from None
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"it is no JSON Schema: {error.message}") from error
    validator = kind(schema)

    def check(text: str) -> str | None:
        reason = is_json(text)
        if reason is not None:
            return reason
        error = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(unfenced(text))))
        return None if error is None else f"it does not fit the schema at {error.json_path}: {error.message}"

    return check


def unfenced(text: str) -> str:
    r"""Take an answer out of the fence of Markdown that models like to put around JSON.

    >>> unfenced('```json\n{"a": 1}\n```')
    '{"a": 1}'
    """
    fence = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return fence[1] if fence else text
