"""Which agents are in service: they go out when they fail or are removed, and return when a probe is answered."""

from __future__ import annotations

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.breaker import State
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.work import WorkItem


def agent_failed(ledger: Ledger, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
    """Record a failure of an agent; it may go out of service, and a probe is then due later."""
    agent.note_failure(outcome, reason)
    if agent.breaker.failed(outcome, now, ledger.rng):
        _take_out(ledger, agent, f"{outcome.value}: {reason}", now)
    elif agent.breaker.begin_trial():
        ledger.pending.probe.append(agent.index)


def _take_out(ledger: Ledger, agent: AgentState, reason: str, now: float) -> None:
    _went_out(ledger, agent, now)
    ledger.events.agent_state(agent.index, agent.breaker.state.value, reason)
    _probe_at(ledger, agent, agent.breaker.probe_at)


def agent_probed(ledger: Ledger, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
    """Record what a probe of an agent that is out, or on trial, has shown."""
    if agent.breaker.on_trial:
        if agent.breaker.tried(outcome, now, ledger.rng):
            _take_out(ledger, agent, f"{agent.last_error}; and a probe: {reason or outcome.value}", now)
        return
    if agent.breaker.state is not State.PROBING:
        return
    if agent.breaker.probed(outcome, now, ledger.rng):
        ledger.in_service += 1
        agent.last_byte = now
        agent.set_checking(False)
        ledger.touched[agent] = None
        busy = outcome is Outcome.OVERLOADED
        ledger.events.agent_state(agent.index, agent.breaker.state.value, "it is busy" if busy else "it answers")
    else:
        agent.last_error = reason
        _probe_at(ledger, agent, agent.breaker.probe_at)
    ledger.rescan()


def remove_agent(ledger: Ledger, agent: AgentState, now: float) -> list[WorkItem]:
    """Take an agent out for good; return the prompts that it held, unanswered."""
    left = [item for request in list(agent.requests) for item in ledger.close(request, now)]
    disable(ledger, agent, "it was removed from the fleet", now)
    return left


def disable(ledger: Ledger, agent: AgentState, reason: str, now: float) -> None:
    """Take an agent out for good. It may still answer what it holds."""
    was_in_service = agent.in_service
    agent.breaker.remove()
    agent.last_error = reason
    if was_in_service:
        _went_out(ledger, agent, now)
    ledger.events.agent_state(agent.index, agent.breaker.state.value, reason)


def restore_agent(ledger: Ledger, agent: AgentState, now: float) -> None:
    """Take an agent back that was removed: it is in service once a probe of it is answered."""
    agent.breaker.restore(now)
    _probe_at(ledger, agent, now)


def _went_out(ledger: Ledger, agent: AgentState, now: float) -> None:
    ledger.in_service -= 1
    ledger.touched[agent] = None
    agent.refresh()
    unsent = list(agent.staged)
    ledger.unassign(agent, unsent)
    ledger.requeue(reversed(unsent), now)
    ledger.affinity.forget(agent.index)
    for queue in ledger.queues:
        queue.items.lost(agent.index)
        if agent.index in queue.by_agent:
            queue.items.extend(list(queue.by_agent.pop(agent.index)))
            ledger.turns.enter(queue)
    ledger.rescan()


def _probe_at(ledger: Ledger, agent: AgentState, due: float) -> None:
    def probe(agent: AgentState, _now: float) -> None:
        if agent.breaker.state is State.OUT:
            agent.breaker.probing()
            ledger.pending.probe.append(agent.index)

    ledger.timers.add(due, probe, agent)
