"""Identities that come, go and come back while the servers run."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from nats_lab import (
    ALL,
    DOMAIN,
    ORCHESTRATOR,
    RECORDER,
    A,
    B,
    Ground,
    needs_server,
)

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.subjects import REGISTRY
from phalanx.identity.names import Identity, Role

needs_server()
pytestmark = [pytest.mark.nats, pytest.mark.processes]
LATE = Identity("late", Role.AGENT, DOMAIN)


class Agent:
    """A client that serves calls, hears messages and watches the registry."""

    def __init__(self, client: NatsClient) -> None:
        self.client, self.name = client, client.identity.name
        self.heard: list[tuple[str, bytes]] = []
        self.registry: dict[str, bytes | None] = {}
        client.subscribe(subjects.calls(DOMAIN, self.name), lambda c: client.respond(c, b"yes"))
        for pattern in (("msg", self.name, subjects.ONE), ("mcast", subjects.ONE)):
            client.subscribe(subjects.pattern(DOMAIN, *pattern), self._hear)
        client.watch(REGISTRY, self.registry.__setitem__)

    def _hear(self, delivery: Delivery) -> None:
        self.heard.append((subjects.speaker(delivery.subject), delivery.payload))


def check(ground: Ground, agents: list[Agent], octets: bytes) -> None:
    """See that each reaches each other in every way, and that streams take and tell."""
    recorder, caller = ground.join(RECORDER), ground.join(ORCHESTRATOR)
    events: list[Stored] = []
    recorder.follow(subjects.EVENTS, events.append, new_only=True)
    answers: dict[str, object] = {}
    kept: list[str | None] = []
    ground.rest(0.2)
    for agent in agents:
        me = agent.name
        asked = subjects.call(DOMAIN, me, "status", "orchestrator", ORCHESTRATOR.name)
        caller.request(asked, b"", lambda a, me=me: answers.update({me: a}), timeout_s=5.0)
        agent.client.put(REGISTRY, me, octets)
        agent.client.append(subjects.event(DOMAIN, me, "x"), octets, me + octets.hex(), kept.append)
        agent.client.publish(subjects.multicast(DOMAIN, me), octets)
        for other in agents:
            agent.client.publish(subjects.message(DOMAIN, other.name, me), octets)
    names = {agent.name for agent in agents}

    def done() -> bool:
        return (
            answers.keys() == names
            and len(kept) == len(agents)
            and {e.subject.split(".")[3] for e in events if e.payload == octets} == names
            and all(
                {n for n, value in agent.registry.items() if value == octets} == names
                and {s for s, o in agent.heard if o == octets} == names
                for agent in agents
            )
        )

    try:
        ground.until(done)
    finally:
        recorder.close()
        caller.close()
    assert {type(answer) for answer in answers.values()} == {Delivery}
    assert set(kept) == {None}


def test_an_identity_that_comes_at_a_reload_is_served(ground: Ground) -> None:
    a, b = Agent(ground.join(A)), Agent(ground.join(B))
    check(ground, [a, b], b"1")
    ground.lab.servers[0].reload((*ALL, LATE))
    check(ground, [a, b, Agent(ground.join(LATE))], b"2")


def test_an_identity_that_comes_back_is_served(ground: Ground) -> None:
    a, b = Agent(ground.join(A)), Agent(ground.join(B))
    (server,) = ground.lab.servers
    for octets in (b"1", b"2", b"3"):
        server.reload(tuple(one for one in ALL if one != A))
        ground.until(lambda: not a.client.connected)
        assert b.client.connected
        server.reload(ALL)
        ground.until(lambda: a.client.connected)
        check(ground, [a, b], octets)


@pytest.mark.processes
@pytest.mark.parametrize("order", [*permutations(range(3))], ids=str)
def test_brokers_that_are_reloaded_one_after_another_serve_all(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """A newcomer connects to the first broker that knows it, while the others do not."""
    with Ground.at_servers(tmp_path, 3) as ground:
        servers = ground.lab.servers
        first, *others = (servers[number] for number in order)

        def at(identity: Identity, number: int) -> Agent:
            return Agent(ground.join(identity, addresses=[servers[number].address]))

        a, b = at(A, order[1]), at(B, order[2])
        for octets in (b"1", b"2"):  # a second time it comes back
            first.reload((*ALL, LATE))
            late = at(LATE, order[0])
            ground.rest(0.5)
            for server in others:
                server.reload((*ALL, LATE))
                ground.rest(0.2)
            check(ground, [a, b, late], octets)
            late.client.close()
            for server in servers:
                server.reload(ALL)
