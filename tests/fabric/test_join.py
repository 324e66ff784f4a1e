"""Joining the fabric on virtual time, over the broker in memory: no socket, no wall clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fabric_lab import Lab

from phalanx.bus.client import BrokerClient
from phalanx.domain.events import Event, Recorder
from phalanx.fabric.calls import CallError, CallRefused
from phalanx.fabric.directory import find
from phalanx.fabric.join import Fabric
from phalanx.fabric.operations import STOP, Accepted, StopRequest
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Role


class Domain(Lab):
    """Members of one domain, and the log of what was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Event] = []

    def enter(self, exchange: BrokerClient, incarnation: int = 1, **options: Any) -> Fabric:
        name = exchange.identity.name
        record = Recorder(name, self.log.append, self.clock.now, f"{name}.{incarnation}").record
        fabric = Fabric(
            exchange,
            self.clock,
            record,
            record("agent.started", None),
            incarnation=incarnation,
            **options,
        )
        fabric.start()
        return fabric


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Domain]:
    made = Domain()

    def no_socket(*_: object) -> None:
        raise AssertionError("a socket was opened")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_socket)
        yield made


def states(fabric: Fabric) -> dict[str, ServiceState]:
    return {entry.owner: entry.state for entry in fabric.registry.entries()}


def test_members_find_each_other_call_and_leave(domain: Domain) -> None:
    a = domain.enter(domain.join("a"), capabilities=("link-monitor",))
    ops = domain.enter(domain.join("ops", Role.OPERATOR))
    a.provider.serve(STOP, lambda call: call.done(Accepted(f"told by {call.caller.name}")))
    a.serving()
    domain.run(1.0)
    (found,) = find(ops.registry.entries(), "link-monitor")
    assert (found.owner, found.registration.operations) == ("a", ("stop",))
    answers: list[Accepted | CallError] = []
    ops.calls.invoke("a", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert answers == [Accepted("told by ops")]
    a.leave()
    domain.run(1.0)
    assert states(ops)["a"] is ServiceState.LEFT


def test_a_refused_call_is_in_the_log_with_its_cause(domain: Domain) -> None:
    a, b = domain.enter(domain.join("a")), domain.enter(domain.join("b"))
    a.provider.serve(STOP, lambda call: call.done(Accepted()))
    answers: list[Accepted | CallError] = []
    b.calls.invoke("a", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert isinstance(answers[0], CallRefused)
    started, refused = (event for event in domain.log if event.agent == "a")
    assert (refused.kind, refused.cause) == ("access.refused", started.id)


def test_an_earlier_incarnation_learns_that_it_was_superseded(domain: Domain) -> None:
    told: list[int] = []
    domain.enter(domain.join("a"), on_superseded=lambda other: told.append(other.incarnation))
    domain.run(1.0)
    domain.enter(domain.join("a"), incarnation=2)
    domain.run(1.0)
    assert told == [2]


def test_an_agent_of_a_slice_without_a_pop_is_found_and_called(domain: Domain) -> None:
    scopes = {"guard-1": ("slice", None), "pop1": ("pop", "pop1"), "pop1-ml": ("pop", "pop1")}
    for name, (scope, pop) in scopes.items():
        fabric = domain.enter(domain.join(name), scope=scope, pop=pop)
        fabric.provider.serve(STOP, lambda call: call.done(Accepted()))
        fabric.serving()
    ops = domain.enter(domain.join("ops", Role.OPERATOR))
    domain.run(1.0)

    entries = ops.registry.entries()
    assert [one.owner for one in find(entries, scope="slice")] == ["guard-1"]
    assert [one.owner for one in find(entries, pop="pop1")] == ["pop1", "pop1-ml"]
    answers: list[Accepted | CallError] = []
    ops.calls.invoke("guard-1", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert answers == [Accepted()]
