from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from remote_lab import NETWORK, VNFD

from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import SiteState
from phalanx.domain.events import Recorder
from phalanx.domain.network import Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.fabric import calls
from phalanx.fabric.access import STANDARD_POLICY, Gate, Resource
from phalanx.fabric.calls import CallClient
from phalanx.fabric.network import admin, serve_network
from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Provider
from phalanx.identity.names import Identity, Role
from phalanx.infrastructure.simulated import SimulatedNetwork

SIZE = Resources(4.0, 4.0, 4.0)


class Lab:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.hub = MemoryBroker(self.clock)
        plan = Network((Pop("a", SIZE), Pop("b", SIZE)), (Link("a", "b", 10.0, 1.0),), (), "a")
        recorder = Recorder("network", lambda _: None, self.clock.now)
        self.net = SimulatedNetwork(plan, (), self.clock, recorder, seed=1, cause="run")
        gate = Gate(STANDARD_POLICY, lambda: Resource("network", "edge"))
        self.refusals: list[object] = []
        provider = Provider(
            self.hub.join(NETWORK), self.clock, gate.check, on_refused=self.refusals.append
        )
        serve_network(provider, self.net, self.clock)

    def invoke(
        self, operation: Operation[Any, Any], request: Struct, role: Role = Role.OPERATOR
    ) -> Any:
        name = {Role.OPERATOR: "ops", Role.ORCHESTRATOR: "smo", Role.AGENT: "a"}[role]
        client = CallClient(
            self.hub.join(Identity(name, role, "edge")), self.clock, life=str(id(request))
        )
        answers: list[Any] = []
        client.invoke("network", operation, request, answers.append, timeout_s=2.0)
        self.clock.run(self.clock.now() + 1.0)
        (answer,) = answers
        return answer


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.net.shutdown()


def test_an_operator_looks_and_changes(lab: Lab) -> None:
    nothing = admin.Nothing()
    install = admin.InstallRequest("a", "a/vnf", VNFD, 2, 60.0, "cause")
    assert lab.invoke(admin.INSTALL, install) == nothing
    left = Resources(2.0, 2.0, 2.0)
    assert lab.invoke(admin.FREE, nothing) == admin.FreeAnswer({"a": left, "b": SIZE})
    assert lab.invoke(admin.LEASES, nothing) == admin.LeasesAnswer(("a/vnf",))
    assert lab.invoke(admin.RESERVED, nothing) == admin.ReservedAnswer(0.0)
    assert lab.invoke(admin.FAIL_LINK, admin.LinkRequest("a", "b")) == nothing
    site = lab.invoke(admin.SITE, admin.SiteRequest("a"))
    assert isinstance(site, SiteState)
    assert (site.free, site.links[0].up) == (left, False)
    assert lab.invoke(admin.RESTORE_LINK, admin.LinkRequest("a", "b")) == nothing
    assert lab.net.site("a").links[0].up
    assert lab.invoke(admin.REPOSITORY_AWAY, admin.RepositoryRequest(True)) == nothing
    assert lab.net._downloads.away
    assert lab.invoke(admin.CLOCK, nothing).now_s == pytest.approx(lab.clock.now() - 1.0)
    assert lab.refusals == []


@pytest.mark.parametrize(
    ("operation", "request_", "reason"),
    [
        (admin.SITE, admin.SiteRequest("z"), "no PoP z"),
        (admin.FAIL_LINK, admin.LinkRequest("a", "z"), "no link joins a and z"),
        (admin.INSTALL, admin.InstallRequest("a", "x", VNFD, 9, 9.0, ""), "cannot be installed"),
        (admin.INSTALL, admin.InstallRequest("a", "x", VNFD, 0, 9.0, ""), ">= 1"),
        (admin.INSTALL, admin.InstallRequest("a", "x", VNFD, 1, -1.0, ""), "> 0"),
    ],
)
def test_what_cannot_be_is_said_in_words(
    lab: Lab, operation: Operation[Any, Any], request_: Struct, reason: str
) -> None:
    answer = lab.invoke(operation, request_)
    assert isinstance(answer, calls.CallFailed)
    assert reason in answer.reason


@pytest.mark.parametrize("operation", admin.OPERATIONS, ids=lambda one: one.name)
def test_agents_read_and_change_nothing(lab: Lab, operation: Operation[Any, Any]) -> None:
    requests: dict[str, Struct] = {
        "install": admin.InstallRequest("a", "x", VNFD, 1, 9.0, ""),
        "site": admin.SiteRequest("a"),
        "fail-link": admin.LinkRequest("a", "b"),
        "restore-link": admin.LinkRequest("a", "b"),
        "repository-away": admin.RepositoryRequest(True),
    }
    request = requests.get(operation.name, admin.Nothing())
    answer = lab.invoke(operation, request, Role.AGENT)
    assert isinstance(answer, calls.CallRefused) == operation.changes
    assert len(lab.refusals) == operation.changes
    assert not isinstance(lab.invoke(operation, request, Role.ORCHESTRATOR), calls.CallRefused)
