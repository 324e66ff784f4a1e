"""A run on virtual time has what processes have: registry, calls, access control, audit."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.published import load_published

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan, starts
from phalanx.bdi.steps import Act, Adopt, PlanFailed, Steps
from phalanx.domain.actions import ReadLink
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Event, Recorder
from phalanx.domain.goals import Predicate, want
from phalanx.domain.messages import SecurityPolicy
from phalanx.domain.predicates import IpRateLimited
from phalanx.fabric.access import STANDARD_POLICY
from phalanx.fabric.calls import CallRefused, CallTimedOut
from phalanx.fabric.join import Fabric
from phalanx.fabric.operations import (
    BELIEFS,
    DRAIN,
    POLICY,
    PROBE,
    STATUS,
    STOP,
    Accepted,
    BeliefsAnswer,
    BeliefsRequest,
    DrainRequest,
    ProbeAnswer,
    ProbeRequest,
    StatusAnswer,
    StatusRequest,
    StopRequest,
)
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Role
from phalanx.runtime.history import CAUSES, FIND, CausesRequest, FindRequest, serve_history
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import System
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)
from phalanx.store.history import EventQuery, History
from phalanx.store.sql import SqlEventStore

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"
POPS = ("east", "north", "south", "west")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """The ring, on a machine that has no sockets."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run on virtual time opens no socket")

    monkeypatch.setattr(socket, "socket", refuse)
    return load_published(RING)


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind == kind]


def test_the_registry_lists_the_agents_and_each_says_how_it_is(ring: Scenario) -> None:
    system = System(ring)
    answers: dict[str, object] = {}
    calls = system.calls()

    def ask() -> None:
        assert tuple(entry.owner for entry in system.registry.entries()) == POPS
        for entry in system.registry.entries():
            assert entry.state is ServiceState.SERVING
            assert "rate-limiter" in entry.registration.capabilities
            calls.invoke(
                entry.owner,
                STATUS,
                StatusRequest(),
                lambda answer, name=entry.owner: answers.setdefault(name, answer),
                timeout_s=2.0,
            )
        calls.invoke(
            "south", BELIEFS, BeliefsRequest(), lambda a: answers.setdefault("?", a), timeout_s=2
        )
        calls.invoke(
            "south", PROBE, ProbeRequest("north"), lambda a: answers.setdefault("!", a), timeout_s=5
        )

        calls.invoke(
            "south", PROBE, ProbeRequest("x"), lambda a: answers.setdefault("x", a), timeout_s=5
        )

    system.clock.call_at(30.0, ask)
    system.run(until=35)
    for name in POPS:
        status = answers[name]
        assert isinstance(status, StatusAnswer)
        assert (status.agent, status.incarnation, status.state) == (name, 1, ServiceState.SERVING)
        assert status.health.reasons == ()
        assert status.counters.sent > 0
    south, beliefs, probed = answers["south"], answers["?"], answers["!"]
    assert isinstance(south, StatusAnswer)
    assert south.instances >= 1
    assert isinstance(beliefs, BeliefsAnswer)
    assert beliefs.beliefs
    assert isinstance(probed, ProbeAnswer)
    assert probed.round_trip_ms is not None
    assert answers["x"] == ProbeAnswer(None, "no agent of that name is registered")


def test_a_caller_without_the_right_is_refused_and_that_is_in_the_log(ring: Scenario) -> None:
    system = System(ring)
    answers: list[object] = []
    calls = system.calls("east2", Role.AGENT)

    def ask() -> None:
        calls.invoke("south", STOP, StopRequest(), answers.append, timeout_s=2.0)
        calls.invoke("south", PROBE, ProbeRequest("north"), answers.append, timeout_s=2.0)

    system.clock.call_at(5.0, ask)
    result = system.run(until=10)
    assert [type(answer) for answer in answers] == [CallRefused] * 2
    refused = of("access.refused", result.events)
    assert {(e.agent, e.data["subject"], e.data["action"]) for e in refused} == {
        ("south", "east2", "stop"),
        ("south", "east2", "probe"),
    }
    assert system.lives("south")


def test_a_crashed_agent_leaves_the_registry_and_a_restarted_one_comes_back(
    ring: Scenario,
) -> None:
    crash = FaultSpec(at_s=10.0, kind="crash", agent="north", for_s=40.0)
    system = System(replace(ring, faults=(crash,)))
    states: dict[float, tuple[ServiceState, bool]] = {}
    unanswered: list[object] = []
    calls = system.calls()

    def look() -> None:
        entry = system.registry.get("north")
        assert entry is not None
        states[system.clock.now()] = entry.state, entry.available

    for second in (9.0, 49.0, 60.0):
        system.clock.call_at(second, look)
    system.clock.call_at(
        20.0,
        lambda: calls.invoke("north", STATUS, StatusRequest(), unanswered.append, timeout_s=2.0),
    )
    system.run(until=61)
    assert states[9.0] == (ServiceState.SERVING, True)
    assert states[49.0] == (ServiceState.GONE, False)
    assert states[60.0] == (ServiceState.SERVING, True)
    assert isinstance(unanswered[0], CallTimedOut)
    entry = system.registry.get("north")
    assert entry is not None
    assert entry.registration.incarnation == 2


def test_agents_leave_and_stop_when_they_are_told_to(ring: Scenario) -> None:
    system = System(ring)
    answers: list[object] = []
    calls = system.calls()
    system.clock.call_at(
        5.0, lambda: calls.invoke("east", DRAIN, DrainRequest(), answers.append, timeout_s=2.0)
    )
    system.clock.call_at(
        5.0, lambda: calls.invoke("west", STOP, StopRequest(), answers.append, timeout_s=2.0)
    )
    system.run(until=40)
    assert [type(answer) for answer in answers] == [Accepted, Accepted]
    for name in ("east", "west"):
        entry = system.registry.get(name)
        assert entry is not None
        assert entry.state is ServiceState.LEFT
        assert not system.lives(name)
    assert "west" not in system.agents["south"].settings.peers


def test_an_operator_has_a_manager_issue_a_policy_to_its_loops(ring: Scenario) -> None:
    functions = (ManagedFunction("amf", "AMF", "shop"),)
    core = NetworkSliceSubnet("core", "CN", ("amf",))
    slices = SlicesSpec(functions, (core,), (NetworkSlice("iot", SNssai(3), ("core",)),))
    system = System(replace(ring, slices=slices))
    answers: list[object] = []
    calls, said = system.calls(), SecurityPolicy("iot", precedence=("throttle", "isolate"))
    for name in ("domain-CN", "sem-amf"):
        invoke = partial(calls.invoke, name, POLICY, said, answers.append, timeout_s=2.0)
        system.clock.call_at(5.0, invoke)
    system.run(until=10)
    assert isinstance(answers[0], Accepted) or isinstance(answers[1], Accepted)
    assert sum(isinstance(answer, Accepted) for answer in answers) == 1  # a SEM is no manager
    taken = [e for e in system.log.events if e.kind == "policy.taken"]
    assert {e.agent for e in taken} == {"nsi-iot", "nssi-core", "sem-amf"}
    assert system.agents["sem-amf"].settings.loops["sem-amf"].precedence == ("throttle", "isolate")


def keep_history(system: System, store: SqlEventStore) -> None:
    """Answer for the history of a run as a domain's recorder does, from a database in memory."""
    waiting = list(system.log.events)
    system.log.listen(waiting.append)

    def history() -> History:
        store.receive("run", waiting)
        waiting.clear()
        return History(store.database)

    fabric = Fabric(
        system.join("recorder", Role.RECORDER),
        system.clock,
        Recorder("recorder", system.log, system.clock.now).record,
        system.cause,
        incarnation=1,
        policy=STANDARD_POLICY,
        capabilities=("history",),
        lease_s=6.0,
        registry=system.registry,
    )
    serve_history(fabric.provider, history, "run")
    fabric.start()
    fabric.serving()


def test_the_history_of_a_run_answers_while_it_lasts(ring: Scenario) -> None:
    system = System(ring)
    store = SqlEventStore("memory:")
    keep_history(system, store)
    answers: list[Any] = []

    def ask() -> None:
        calls = system.calls()
        wanted = FindRequest(EventQuery(kinds=("measure.applied",)))
        calls.invoke("recorder", FIND, wanted, answers.append, timeout_s=2.0)
        first = system.log.events[-1].id
        calls.invoke("recorder", CAUSES, CausesRequest(first), answers.append, timeout_s=2.0)

    system.clock.call_at(60.0, ask)
    result = system.run(until=61)
    store.close()
    found, chain = answers
    applied = [e for e in result.events if e.kind == "measure.applied" and e.time <= 60.0]
    assert applied
    assert [entry.event.id for entry in found.entries] == [event.id for event in applied]
    assert chain.entries[0].event.kind == "run.started"
    assert chain.broken is None


# -- agents beside the one at each PoP ---------------------------------------------------------


class Recorded(Predicate, frozen=True):
    """Something that only the agent of the slice takes care of."""

    what: str


class SliceKeeper(Capability):
    """Wants a host protected from the start on, and tries to act at a PoP itself."""

    name = "slice-keeper"

    @starts
    def begin(self, me: Agent) -> Steps:
        """Want one thing of others, and one of itself."""
        yield Adopt(want(IpRateLimited("10.0.0.10")), traffic_mb_s=1.0, tap="south")
        yield Adopt(want(Recorded("a look")))

    @plan(Recorded)
    def look(self, me: Agent, _goal: object) -> Steps:
        """Read a link, which needs a PoP."""
        outcome = yield Act(ReadLink("south>shop"))
        raise PlanFailed(str(outcome))


def test_an_agent_without_a_pop_has_its_goals_auctioned_and_bids_for_none(ring: Scenario) -> None:
    camera = DeclaredAgent("camera", "slice", ("slice-keeper",))
    second = DeclaredAgent("south2", pop="south")
    scenario = replace(ring, agents=(camera, second))
    system = System(scenario, functions=[SliceKeeper])
    result = system.run(until=40)
    assert {entry.owner for entry in system.registry.entries()} == {*POPS, "camera", "south2"}
    awarded = [event for event in of("auction.awarded", result.events) if event.agent == "camera"]
    assert awarded
    assert {event.agent for event in of("auction.bid", result.events)} <= {*POPS, "south2"}
    failed = [
        event.data["reason"]
        for event in of("plan.ended", result.events)
        if event.agent == "camera" and not event.data["succeeded"]
    ]
    assert any("camera stands at no PoP" in reason for reason in failed), failed
    assert not any(event.agent == "camera" for event in of("vnf.started", result.events))
    again = System(scenario, functions=[SliceKeeper]).run(until=40)
    assert again.events == result.events


def test_unknown_scopes_and_capabilities_of_agents_are_refused() -> None:
    ring = load_published(RING)
    for agent, why in (
        (DeclaredAgent("a", "slise"), r"agents\[0\].scope: there is no scope"),
        (DeclaredAgent("a", "slice", ("nothing",)), r"agents\[0\].capabilities: no such"),
    ):
        with pytest.raises(ScenarioError, match=why):
            System(replace(ring, agents=(agent,)))


class Unset(Capability):
    """Annotates settings that nothing would set."""

    name = "unset"
    settings: object


def test_settings_that_nothing_would_set_are_refused_at_load() -> None:
    agent = DeclaredAgent("a", "slice", ("unset",))
    with pytest.raises(ScenarioError, match=r"derive it from phalanx\.auction\.settings"):
        System(replace(load_published(RING), agents=(agent,)), functions=[Unset])


class Broken(Capability):
    """Has a defect."""

    name = "broken"

    @starts
    def begin(self, me: Agent) -> Steps:
        """Want what the broken plan is for."""
        yield Adopt(want(Recorded("anything")))

    @plan(Recorded)
    def look(self, me: Agent, _goal: object) -> Steps:
        """Divide by zero."""
        yield Act(ReadLink(f"south>{1 / 0}"))


def test_a_function_that_raises_is_named_in_the_result(ring: Scenario) -> None:
    agent = DeclaredAgent("camera", "slice", ("broken",))
    result = System(replace(ring, agents=(agent,)), functions=[Broken]).run(until=5)
    assert result.defects
    assert result.defects[0].startswith("broken.look: ")
    assert "division by zero" in result.defects[0]
    assert System(ring).run(until=5).defects == ()
