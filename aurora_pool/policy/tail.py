"""The end of a job: how many of the last prompts each agent should still take, so that all agents end together.

On a mixed fleet the tail decides the makespan: a prompt that a slow agent takes last ends last, and so do prompts that
wait at one server while another has nothing to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import End
from aurora_pool.policy.lengths import Lengths
from aurora_pool.policy.window import STEP

LONG = 0.9
"""The quantile of lengths to plan with: long answers end last."""
MARGIN = 1.15
"""An agent may take this many times as long as the fastest for a long answer, after all prompts have been taken."""


def foresee_end(agents: Iterable[AgentState], remaining: int, lengths: Lengths, now: float) -> End | None:
    """Foresee when these agents will have answered what they hold and ``remaining`` more prompts.

    None while one of them that has work has not shown how fast it is.
    """
    rate = 0.0
    held = 0
    fastest = soonest = math.inf
    long = lengths.quantile(LONG)
    for agent in agents:
        sustained = agent.flow.sustained
        if sustained:
            fastest = min(fastest, service(agent, long))
            soonest = min(soonest, service(agent, lengths.mean))
        elif agent.held:
            return None
        rate += sustained
        held += agent.held
    if not rate:
        return None
    return End(now + (remaining + held) / rate, now + remaining / rate, long, fastest, soonest)


def service(agent: AgentState, tokens: float) -> float:
    """The seconds that an agent takes for an answer of this many tokens once it has begun, at its usual load."""
    speed = agent.flow.decode_speed
    return tokens / speed if speed else agent.mean_seconds


def prompts_before_end(end: End, agent: AgentState, now: float) -> int:
    """How many more prompts an agent could answer before the end of a queue, as that was foreseen."""
    flow = agent.flow
    rate = flow.sustained
    if not rate:
        return agent.limit
    seconds = service(agent, end.long)
    wait = max(0.0, agent.held - agent.running - rate * (flow.latency + STEP)) / rate
    if wait + seconds > max(0.0, end.taken_at - now) + MARGIN * end.fastest + flow.latency:
        return 0
    return max(0, math.ceil(rate * max(end.at - now, end.soonest)) - agent.held)
