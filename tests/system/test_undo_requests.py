"""Who may have a measure undone: the agents that it was made for, and those that they award."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Connected
from phalanx.bdi.steps import Adopt
from phalanx.bus.memory import MemoryBus
from phalanx.checking import check
from phalanx.domain.goals import Goal, avert, want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Message,
    Performative,
    Result,
    UndoRequest,
    Verdict,
)
from phalanx.domain.predicates import IpRateLimited
from phalanx.reporting.log import Log
from phalanx.reporting.why_not import why_not_agent
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.system import System
from tests.system.process_plan import plan

MALLORY = "mallory"


def ring(**changes: object) -> System:
    document = plan(duration_s=40) | changes
    return System(parse_scenario(json.dumps(document), "ring.yaml"))


def kept(system: System) -> list[tuple[str, object]]:
    """Return the holders of measures in force, with what each keeps true."""
    return [
        (name, effect)
        for name, agent in system.agents.items()
        for instance in agent.agent.capability(Bidder).inventory
        for effect in instance.measures
    ]


@pytest.mark.parametrize("strategy", ["published", "service"])
def test_an_agent_that_keeps_to_no_rule_has_nothing_undone(strategy: str) -> None:
    system = ring(strategy=strategy)
    asked: list[tuple[str, object]] = []

    def ask() -> None:
        for holder, effect in kept(system):
            for mandate in ("", "0123456789abcdef"):
                request = UndoRequest(avert(effect), mandate)  # type: ignore[arg-type]
                name = f"lie{len(asked)}"
                system.bus.send(
                    Message(name, Performative.REQUEST, MALLORY, holder, name, request, name)
                )
                asked.append((holder, effect))
        still = kept(system)
        system.clock.call_at(system.clock.now() + 0.5, partial(check, still))

    def check(before: list[tuple[str, object]]) -> None:
        assert set(before) <= set(kept(system))

    system.clock.call_at(35.0, ask)
    events = system.run().events
    assert asked
    refused = [e for e in events if e.kind == "access.refused"]
    assert {(e.data["subject"], e.data["action"]) for e in refused} == {(MALLORY, "undo")}
    assert sum(1 + e.data["suppressed"] for e in refused) == len(asked)
    known = {e.id for e in events}
    assert all(e.cause in known for e in refused)


def test_mandates_stand_in_results_and_awards_and_in_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Message] = []
    send = MemoryBus.send

    def spy(bus: MemoryBus, message: Message) -> None:
        sent.append(message)
        send(bus, message)

    monkeypatch.setattr(MemoryBus, "send", spy)
    spread = {"default": {"preferences": {"time": 0, "cost": 0, "decentralisation": 1}}}
    events = ring(strategy="published", goals=spread).run().events
    contents = [message.content for message in sent]
    calls = [c.context for c in contents if isinstance(c, CallForProposals)]
    awards = [c.cfp.context for c in contents if isinstance(c, Award)]
    results = [c.facts for c in contents if isinstance(c, Result)]
    assert any(calls)
    assert not any(fact.mandate for context in calls for fact in context)
    for told in (*awards, *results):
        assert all(fact.mandate for fact in told if fact.value and fact.holder is not None)
    assert any(fact.mandate for context in awards for fact in context)
    undone = [m for m in sent if isinstance(m.content, UndoRequest)]
    assert len({m.receiver for m in undone}) == 2
    refusals = [m for m in sent if isinstance(m.content, Verdict) and m.content.final]
    assert not {m.conversation for m in undone} & {m.conversation for m in refusals}
    assert not [e for e in events if e.kind == "access.refused"]


def test_another_agent_that_wants_what_is_in_force_relies_on_who_keeps_it() -> None:
    system = ring(strategy="published")
    wanted: list[tuple[str, object]] = []

    def want_too() -> None:
        holder, effect = kept(system)[0]
        agent = next(a.agent for n, a in system.agents.items() if n != holder and not asks(a))
        wanted.append((holder, effect))
        agent.cause = "run-1"
        adopt = Adopt(want(effect), 20, traffic_mb_s=1.0, tap=agent.pop)  # type: ignore[arg-type]
        system.agents[agent.name].node.carry_out(agent.take_on(adopt, system.clock.now()))

    def asks(agent: Any) -> bool:
        return bool(agent.agent.capability(Auctioneer).delegations.by_effect)

    system.clock.call_at(35.0, want_too)
    events = system.run().events
    ((holder, effect),) = wanted
    late = [e for e in events if e.kind == "auction.awarded" and e.time >= 35.0]
    award = next(e for e in late if e.data["goal"] == str(effect))
    assert award.data["winner"] == holder
    assert len(award.data["ranking"]) == 1
    made = [e for e in events if e.kind == "measure.applied" and e.data["effect"] == str(effect)]
    assert len(made) == 1
    assert [name for name, each in kept(system) if each == effect] == [holder]
    at = events.index(award)
    other = {**award.data["ranking"][0], "kept": False}
    forged = replace(award, data={**award.data, "ranking": [other]})
    assert "awards" in {v.rule for v in check([*events[:at], forged, *events[at + 1 :]])}
    assert "bids" in {v.rule for v in check([e for e in events if e is not made[0]])}
    loser = next(agent for agent in award.data["refusals"])
    told = " ".join(why_not_agent(Log(events), award.id, loser).words)
    assert f"{loser} bid, and was refused: {holder} keeps it so." in told


def ask_for(system: System, wanted: Goal, name: str) -> None:
    agent = system.agents[name].agent
    agent.cause = "run-1"
    adopt = Adopt(wanted, 20, tap=agent.pop)  # type: ignore[arg-type]
    system.agents[name].node.carry_out(agent.take_on(adopt, system.clock.now()))


@pytest.mark.parametrize("apart_s", [0.0, 0.004, 0.5])
def test_agents_that_want_the_same_at_the_same_time_have_it_made_once(apart_s: float) -> None:
    """As those do which relied on a measure that its holder has lost; each would do it itself."""
    wanted = want(IpRateLimited("10.9.9.9"))
    cheap = {"default": {"preferences": {"time": 0, "cost": 1, "decentralisation": 0}}}
    system = ring(strategy="published", goals=cheap)
    for turn, name in enumerate(["west", "south", "north"]):
        system.clock.call_at(2.0 + turn * apart_s, partial(ask_for, system, wanted, name))
    events = system.run(until=15.0).events
    effect = str(wanted.predicate)
    made = [e for e in events if e.kind == "measure.applied" and e.data["effect"] == effect]
    assert len(made) == 1
    twice = replace(made[0], data={**made[0].data, "measure": f"second.1:{effect}"})
    assert "measures" in {v.rule for v in check([*events[: events.index(made[0]) + 1], twice])}
    ends = [e for e in events if e.kind == "goal.ended" and e.data["goal"] == effect]
    assert {"west", "south", "north"} <= {e.agent for e in ends if e.data["outcome"] == "achieved"}
    waits = {e.agent for e in events if e.kind == "auction.waiting"}
    assert len(waits) == (2 if apart_s < 0.1 else 0)


def test_what_was_made_twice_as_the_word_of_it_came_late_is_made_once_again() -> None:
    """No agent was cut off: between machines that are busy words take long."""
    cheap = {"default": {"preferences": {"time": 0, "cost": 1, "decentralisation": 0}}}
    cut = {"at_s": 1.0, "kind": "partition", "groups": [["north"]], "for_s": 0.1}
    system = ring(strategy="published", goals=cheap, faults=[cut])
    wanted = want(IpRateLimited("10.9.9.9"))
    effect = str(wanted.predicate)
    send, late = system.bus.send, []

    def slow(message: Message) -> None:
        mine = isinstance(message.content, CallForProposals) and message.sender == "south"
        if mine and message.receiver == "west" and message.content.goal.goal == wanted:
            late.append(message)
        else:
            send(message)

    system.bus.send = slow  # type: ignore[method-assign]
    for name in ("west", "south"):
        system.clock.call_at(2.0, partial(ask_for, system, wanted, name))
    system.clock.call_at(2.1, lambda: [send(message) for message in late])
    events = system.run(until=25.0).events
    told = [e for e in events if e.kind in ("measure.applied", "measure.lifted")]
    kinds = [e.kind.removeprefix("measure.") for e in told if e.data["effect"] == effect]
    assert late
    assert kinds == ["applied", "applied", "lifted"]


@pytest.mark.parametrize("notices", ["south", "west"])
def test_what_was_made_twice_during_a_cut_is_made_once_again_afterwards(notices: str) -> None:
    """As the word of the elder auction was lost: whoever was cut off asks all, and relies on it."""
    cut = {"at_s": 1.5, "kind": "partition", "groups": [["south"]], "for_s": 1.2}
    system = ring(strategy="published", faults=[cut])
    wanted = want(IpRateLimited("10.9.9.9"))
    effect = str(wanted.predicate)
    for name in ("west", "south"):
        system.clock.call_at(2.0, partial(ask_for, system, wanted, name))
    back = partial(system.agents[notices].node.tell, Connected(up=True), "run-1")
    system.clock.call_at(4.0, back)
    events = system.run(until=20.0).events
    told = [e for e in events if e.kind in ("measure.applied", "measure.lifted")]
    told = [e for e in told if e.data["effect"] == effect]
    kinds = [e.kind.removeprefix("measure.") for e in told]
    assert kinds == ["applied", "applied", "lifted"]
    assert told[-1].time > 4.0
    (holder,) = [name for name, made in kept(system) if made == wanted.predicate]
    for name in ("west", "south"):
        belief = system.agents[name].agent.beliefs.get(wanted.predicate)
        assert belief is not None
        assert (belief.value, belief.holder) == (True, holder)
    assert not check(events)
