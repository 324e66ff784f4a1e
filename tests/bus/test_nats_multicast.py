"""One message to many over a NATS server: a single publication, of use to its members alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from bus_messages import Inbox
from nats_lab import DOMAIN, KEEPER, Ground, needs_server
from seal_lab import credentials

from phalanx.bus import subjects
from phalanx.bus.agents import AgentBus
from phalanx.bus.seal import Seal
from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.identity.names import Identity, Role

needs_server()
pytestmark = pytest.mark.nats

AGENTS = [Identity(name, Role.AGENT, DOMAIN) for name in "abcd"]


def test_a_call_is_one_publication_that_others_can_neither_read_nor_use(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, identities=[KEEPER, *AGENTS]) as ground:
        clients = {identity.name: ground.join(identity) for identity in AGENTS}
        buses, inboxes = {}, {name: Inbox() for name in clients}
        for name, client in clients.items():
            seal = Seal(credentials(name, Role.AGENT, DOMAIN, DOMAIN), 1)
            buses[name] = AgentBus(client, ground.clock, seal)
            buses[name].attach(name, inboxes[name])
        ground.rest()

        def say(performative: Performative, content: Verdict, *members: str) -> None:
            for name in members:
                said = Message(f"{performative}{name}", performative, "a", name, "c", content, "e")
                buses["a"].send(said)

        say(Performative.INFORM, Verdict("hello"), "b", "c", "d")
        ground.until(lambda: all(inboxes[name] for name in "bcd"))
        recorded: list[bytes] = []
        own = subjects.pattern(DOMAIN, "mcast", subjects.ONE)
        clients["d"].subscribe(own, lambda got: recorded.append(got.payload))
        ground.rest()
        before = clients["a"].counters.published
        say(Performative.CFP, Verdict("what is secret"), "b", "c")
        ground.until(lambda: all(len(inboxes[name]) == 2 for name in "bc") and bool(recorded))
        assert clients["a"].counters.published == before + 1
        assert b"what is secret" not in recorded[0]
        clients["d"].publish(subjects.multicast(DOMAIN, "d"), recorded[0])
        clients["d"].publish(subjects.message(DOMAIN, "b", "d"), recorded[0])
        clients["a"].publish(subjects.multicast(DOMAIN, "a"), recorded[0])  # a broker's replay
        ground.until(lambda: all(buses[name].refused for name in "bc"))
        ground.rest()
        assert [buses[name].refused for name in "bcd"] == [{"replayed": 1}, {"replayed": 1}, {}]
        assert [len(inboxes[name]) for name in "bcd"] == [2, 2, 1]
