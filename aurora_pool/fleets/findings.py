"""What a preflight's figures mean, in words, with what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from aurora_pool.fleets.check import AgentCheck

SHOWN = 3
"""How many agents a finding names before it counts the rest."""
SLOW = 0.5
"""An agent that answers a burst at less than this share of the median is slow."""
SKEW = 5.0
"""Seconds by which a clock may be wrong before it matters."""
LATE = 5.0
"""An agent whose one-token answer takes this many times the median, and a second at least, is late."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``serious`` ones fail the check: a job would fail, or its answers would depend on the agent."""

    text: str
    serious: bool


def find(checks: Sequence[AgentCheck]) -> list[Finding]:
    """Compare the agents of each model with each other; the serious findings first."""
    usable = [check for check in checks if check.usable]
    found = _unusable([check for check in checks if check.asked and not check.usable])
    found += _not_asked([check for check in checks if not check.asked], serious=not usable)
    models = _grouped(usable, lambda check: check.model)
    if len(models) > 1:
        text = f"agents serve different models: {_listed(models)}: name one with --model when a job starts"
        found.append(Finding(text, serious=False))
    for same in models.values():
        found += _differing(same)
        found += _slow(same)
    skewed = [check for check in usable if check.clock is not None and abs(check.clock) > SKEW]
    if skewed:
        worst = max((check.clock or 0.0 for check in skewed), key=abs)
        found.append(
            Finding(
                f"the clocks of {_named(skewed)} differ from this machine's, by up to {worst:+.0f} s: agents in a "
                "fleet's folder may seem to have no heartbeat; set the clocks by NTP",
                serious=abs(worst) > 2 * SKEW,
            )
        )
    cold = [check for check in usable if check.prefix_caching is False]
    if cold:
        found.append(
            Finding(
                f"{_named(cold)} have no prefix caching: prompts with a common beginning cost more than they need; "
                "start vLLM without --no-enable-prefix-caching",
                serious=False,
            )
        )
    bare = [check for check in usable if check.template is None]
    if bare:
        found.append(
            Finding(
                f"{_named(bare)} show no chat template through /tokenize: chats go one a request; for a base model "
                "that is right, use --prompt-format raw",
                serious=False,
            )
        )
    return sorted(found, key=lambda finding: not finding.serious)


def _unusable(checks: Sequence[AgentCheck]) -> list[Finding]:
    return [
        Finding(f"{_named(group)}: {error}; look at its log, or take it out of the hostfile", serious=True)
        for error, group in _grouped(checks, lambda check: check.error).items()
    ]


def _not_asked(checks: Sequence[AgentCheck], *, serious: bool) -> list[Finding]:
    if not checks:
        return []
    text = f"{_listed(_grouped(checks, lambda check: ', '.join(check.models)))}: not asked, as they serve other models"
    if serious:
        text = f"no agent that answers serves this model: {text}; name one of these with --model"
    return [Finding(text, serious)]


def _differing(checks: Sequence[AgentCheck]) -> list[Finding]:
    kinds: tuple[tuple[Callable[[AgentCheck], object], str, str, bool], ...] = (
        (
            lambda c: c.template,
            "have different chat templates",
            "one prompt has other tokens on each; start all from the same model files, with the same --chat-template",
            True,
        ),
        (
            lambda c: c.max_model_len,
            "have different context lengths",
            "long prompts go only to some; start all with the same --max-model-len",
            False,
        ),
        (
            lambda c: c.version,
            "run different versions",
            "answers may differ between them; install the same version everywhere",
            False,
        ),
        (
            lambda c: c.fingerprint,
            "are configured differently (system_fingerprint)",
            "answers may differ; compare their command lines, and start all with the same arguments",
            False,
        ),
    )
    found = []
    for value, what, consequence, serious in kinds:
        groups = _grouped([check for check in checks if value(check) is not None], value)
        if len(groups) > 1:
            found.append(Finding(f"agents {what}: {_listed(groups)}: {consequence}", serious))
    return found


def _slow(checks: Sequence[AgentCheck]) -> list[Finding]:
    found = []
    failed = [check for check in checks if check.burst_error]
    if failed:
        text = f"{_named(failed)}: several prompts at once fail: {failed[0].burst_error}; look at its log, and "
        text += "start it with a smaller --max-num-seqs, or take it out of the hostfile"
        found.append(Finding(text, serious=True))
    rates = {check.agent: check.prompts_per_second for check in checks if check.prompts_per_second}
    if len(rates) > 1:
        usual = median(rates.values())
        slow = [check for check in checks if rates.get(check.agent, usual) < SLOW * usual]
        if slow:
            least = min(rates.values())
            text = f"{_named(slow)}: {least:.1f} prompts/s and more, the median is {usual:.1f}: end what else uses "
            text += "its GPU (nvidia-smi shows it), or take it out of the hostfile"
            found.append(Finding(text, serious=False))
    latencies = [check.latency for check in checks if check.latency is not None]
    if len(latencies) > 1:
        usual = median(latencies)
        late = [check for check in checks if check.latency is not None and check.latency > max(1.0, LATE * usual)]
        if late:
            most = max(check.latency or 0.0 for check in late)
            text = (
                f"{_named(late)}: one token takes {most:.1f} s, the median is {usual:.2f} s: wait until its other jobs "
            )
            text += "have ended (aurora-pool top shows what runs), or take it out of the hostfile"
            found.append(Finding(text, serious=False))
    return found


def _grouped(checks: Sequence[AgentCheck], value: Callable[[AgentCheck], object]) -> dict[object, list[AgentCheck]]:
    groups: dict[object, list[AgentCheck]] = defaultdict(list)
    for check in checks:
        groups[value(check)].append(check)
    return groups


def _listed(groups: Mapping[object, Sequence[AgentCheck]]) -> str:
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{key} ({_named(group)})" for key, group in ordered)


def _named(checks: Sequence[AgentCheck]) -> str:
    more = f" and {len(checks) - SHOWN} more" if len(checks) > SHOWN else ""
    return ", ".join(check.agent for check in checks[:SHOWN]) + more
