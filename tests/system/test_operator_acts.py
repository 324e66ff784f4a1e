"""What an operator has agents do: a measure is taken back, an agent pauses; the log says who."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.auction.bidder import PAUSED
from phalanx.fabric.calls import CallFailed, CallRefused
from phalanx.fabric.operations import (
    INVENTORY,
    PAUSE,
    RELEASE,
    Accepted,
    InventoryRequest,
    PauseRequest,
    ReleaseRequest,
)
from phalanx.identity.names import Role
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec
from phalanx.runtime.system import System
from phalanx.store.causes import CauseIndex
from tests.nightly import sample

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def system(scenario: str) -> System:
    return System(load_scenario(SCENARIOS / f"{scenario}.yaml"))


def at(run: System, time: float, call: Any, role: Role = Role.OPERATOR) -> list[Any]:
    """Have ``call`` made with a client and somewhere to put the answer; return that."""
    answers: list[Any] = []
    client = run.calls("person", role)
    run.clock.call_at(time, partial(call, client, answers))
    return answers


def test_a_measure_that_is_released_is_lifted_because_of_the_operator() -> None:
    run = system("ddos-resilience")

    def release(client: Any, answers: list[Any]) -> None:
        measure = next(e for e in run.log.events if e.kind == "measure.applied")
        owner = measure.data["instance"].split(".")[0]
        asked = ReleaseRequest(measure.data["measure"], "session-1")
        client.invoke(owner, RELEASE, asked, answers.append, timeout_s=5)

    answers = at(run, 60.0, release)
    events = run.run(until=70).events
    assert isinstance(answers[0], Accepted)
    acted = next(e for e in events if e.kind == "operator.acted")
    assert acted.data["by"] == "person (session-1)"
    applied = next(e for e in events if e.kind == "measure.applied")
    assert (acted.data["action"], acted.data["subject"]) == ("release", applied.data["effect"])
    lifted = next(e for e in events if e.kind == "measure.lifted" and e.time < 61)
    assert lifted.data["measure"] == applied.data["measure"]
    assert acted in list(CauseIndex(events).causes(lifted))
    # The attack goes on, so the agents find it again and filter it.
    again = [e for e in events if e.kind == "measure.applied" and e.time > 60]
    assert applied.data["sources"] in [e.data["sources"] for e in again]


def test_a_measure_that_is_not_there_is_not_released() -> None:
    run = system("quickstart-ring")

    def release(client: Any, answers: list[Any]) -> None:
        client.invoke("north", RELEASE, ReleaseRequest("none"), answers.append, timeout_s=5)

    answers = at(run, 5.0, release)
    events = run.run(until=12).events
    assert isinstance(answers[0], CallFailed)
    assert not [e for e in events if e.kind == "operator.acted"]


@pytest.mark.parametrize("operation", [RELEASE, PAUSE])
def test_an_agent_may_not_have_another_act(operation: Any) -> None:
    run = system("quickstart-ring")

    def ask(client: Any, answers: list[Any]) -> None:
        asked = ReleaseRequest("m") if operation is RELEASE else PauseRequest(paused=True)
        client.invoke("north", operation, asked, answers.append, timeout_s=5)

    answers = at(run, 5.0, ask, Role.AGENT)
    run.run(until=12)
    assert isinstance(answers[0], CallRefused)


def test_a_paused_agent_refuses_to_bid_until_it_is_resumed() -> None:
    run = system("ddos-resilience")

    client = run.calls("person")
    for time, paused in ((10.0, True), (40.0, False)):
        ask = partial(
            client.invoke, "pop4", PAUSE, PauseRequest(paused), lambda _: None, timeout_s=5
        )
        run.clock.call_at(time, ask)
    events = run.run(until=80).events
    refused = [e for e in events if e.kind == "auction.refused" and e.agent == "pop4"]
    assert {e.data["reason"] for e in refused if 10 < e.time < 40} == {PAUSED}
    assert not [e for e in refused if e.time > 41]
    assert [e.data["action"] for e in events if e.kind == "operator.acted"] == ["pause", "resume"]


def test_what_was_awarded_before_a_pause_is_not_put_in_force_after_it() -> None:
    events = system("ddos-resilience").run(until=60).events
    applied = next(e for e in events if e.kind == "measure.applied")
    owner = applied.data["instance"].split(".")[0]
    won = [e.time for e in events if e.kind == "contract.accepted" and e.agent == owner]
    assert min(won) < applied.time - 0.01, "the pause comes between the award and the rule"

    run = system("ddos-resilience")
    asked = owner, PAUSE, PauseRequest(paused=True), lambda _: None
    pause = partial(run.calls("person").invoke, *asked, timeout_s=5)
    run.clock.call_at(applied.time - 0.01, pause)
    again = [e for e in run.run(until=60).events if e.kind == "measure.applied"]
    assert again, "others filter it"
    assert owner not in {e.data["instance"].split(".")[0] for e in again}


def test_what_nobody_did_during_a_pause_is_done_soon_after_it() -> None:
    run = system("ddos-resilience")
    client = run.calls("person")
    for time, paused in ((10.0, True), (40.0, False)):
        for pop in sorted(run.agents):
            asked = pop, PAUSE, PauseRequest(paused), lambda _: None
            run.clock.call_at(time, partial(client.invoke, *asked, timeout_s=5))
    events = run.run(until=70).events
    times = [e.time for e in events if e.kind == "measure.applied" and e.time > 10]
    assert 40 < min(times) < 55


@pytest.mark.parametrize("remembers", sample([True, False], 2))
def test_a_pause_outlives_the_agent_as_far_as_its_memory_does(remembers: bool) -> None:
    ends = FaultSpec(4.0, "crash", agent="pop4", for_s=2.0, memory=remembers)
    run = System(replace(load_scenario(SCENARIOS / "ddos-resilience.yaml"), faults=(ends,)))
    pause = partial(run.calls("person").invoke, "pop4", PAUSE, PauseRequest(paused=True))
    run.clock.call_at(2.0, partial(pause, lambda _: None, timeout_s=5))
    events = run.run(until=80).events
    bids = [e for e in events if e.kind == "auction.bid" and e.agent == "pop4" and e.time > 6]
    refused = [e for e in events if e.kind == "auction.refused" and e.agent == "pop4"]
    paused = [e for e in refused if e.data["reason"] == PAUSED and e.time > 6]
    assert (bool(bids), bool(paused)) == (not remembers, remembers)


def test_an_inventory_says_what_the_network_has_in_force_and_fits_into_an_answer() -> None:
    many = tuple(f"10.9.{n // 250}.{n % 250}" for n in range(4096))
    run = system("ddos-resilience")
    answers: list[Any] = []

    def asks() -> None:
        applied = next(e for e in run.log.events if e.kind == "measure.applied")
        owner = applied.data["instance"].split(".")[0]
        kept = next(iter(run.infrastructure._measures._measures.values()))
        match = replace(kept.rule.match, sources=many)
        kept.rule = replace(kept.rule, match=match)
        told = answers.append
        run.calls().invoke(owner, INVENTORY, InventoryRequest(), told, timeout_s=5)

    run.clock.call_at(60.0, asks)
    run.run(until=62)
    (entry,) = answers[0].measures
    assert entry.rule.reason.startswith("syn flood")
    assert 0 < entry.lease_left_s <= 15
    assert entry.rule.held_mb > 0
    assert 0 < entry.rule.age_s < 60
    assert len(entry.rule.rule.match.sources) == 64
