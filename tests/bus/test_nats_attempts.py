"""Stolen keys of four roles against the broker, with every request aimed at what it must not reach.

An attempt is octets that a client with the key sends; generated from what a client may ask for and
where the answer could go. After each the administrator finds streams, tables and their contents
as the victims left them, nobody has heard anything in another's name, and the victims go on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from nats_lab import (
    ALL,
    DOMAIN,
    KEEPER,
    OBSERVER,
    OPERATOR,
    ORCHESTRATOR,
    RECORDER,
    A,
    B,
    Ground,
    needs_server,
)
from test_nats_hostile import Wild

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored
from phalanx.bus.nats.config import permissions_of
from phalanx.bus.subjects import REGISTRY, matches
from phalanx.identity.names import Identity, Role

needs_server()
pytestmark = pytest.mark.nats

KEEPSAKE = Identity("rec2", Role.RECORDER, DOMAIN)
"""A recorder whose key nobody has stolen."""
THIEVES = [
    A,
    *(pytest.param(o, marks=pytest.mark.processes) for o in (OBSERVER, RECORDER, OPERATOR)),
]
"""Those behind a mark take a minute, and go with the tests over processes."""
STREAMS = ("EVENTS", "KV_registry", "KV_cursors")
VICTIMS = [
    "$KV.registry.b",
    "$KV.cursors.rec2.EVENTS-history",
    subjects.event(DOMAIN, "b", "auction.awarded"),
    subjects.message(DOMAIN, "b", "orc"),
    subjects.multicast(DOMAIN, "orc"),
    subjects.announcement(DOMAIN, "orc", "x"),
    subjects.call(DOMAIN, "b", "drain", "orchestrator", "orc"),
    "phx.lab.ans.orc.b.1",
    "_INBOX_b.x.1",
]
"""Subjects under which others alone speak."""
INNER = [
    *(f"{prefix}.{subject}" for prefix in ("in_a", "in_b", "said") for subject in VICTIMS[2:6]),
    "kept.EVENTS.phx.lab.evt.b.x",
    "kept.KV_registry.$KV.registry.b",
]
"""Those that only the broker's own configuration has."""
ADMINISTRATION = [
    *(
        f"$JS.API.STREAM.{verb}.{stream}"
        for verb in (
            "DELETE",
            "PURGE",
            "UPDATE",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "PEER.REMOVE",
        )
        for stream in STREAMS
    ),
    "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.TEMPLATE.CREATE.MINE",
    "$JS.API.CONSUMER.CREATE.EVENTS.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.x",
    "$JS.API.CONSUMER.CREATE.KV_registry.x.$KV.registry.>",
    "$JS.API.CONSUMER.DELETE.EVENTS.x",
    "$JS.API.CONSUMER.PAUSE.EVENTS.x",
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.x",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.x",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.ACCOUNT.PURGE.lab",
    "$JS.ACK.EVENTS.x.1.1.1.1.0",
    "$JS.FC.EVENTS.x.y",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.x.RELOAD",
    "$SYS.REQ.CLAIMS.DELETE",
    "$NRG.V.x",
]
AIMS = [*VICTIMS, *INNER, *ADMINISTRATION]

Attempt = Callable[[Wild, Identity], None]
PLANTED = b'{"seq":1,"stream":"EVENTS"}'
"""What a thief keeps under its own name, to have the server say it elsewhere."""


def with_headers(wild: Wild, subject: str, reply: str, head: str, body: bytes = b"") -> None:
    octets = f"NATS/1.0\r\n{head}\r\n\r\n".encode()
    line = f"HPUB {subject} {reply} {len(octets)} {len(octets) + len(body)}\r\n"
    wild.say(line.encode() + octets + body + b"\r\n")


def own(me: Identity) -> list[str]:
    """Return subjects that an identity may publish under, one for each of its permissions."""
    found = [allowed.replace("*", "b").replace(">", "x") for allowed in permissions_of(me).publish]
    return [subject for subject in found if "CONSUMER" not in subject]


def straight(aim: str, wild: Wild, me: Identity) -> None:
    for body in (b"", b"{}", PLANTED):
        wild.publish(aim, body, f"_INBOX_{me.name}.x")


def aimed(aim: str, wild: Wild, me: Identity) -> None:
    """Ask for all that may be asked, and name ``aim`` for the answers."""
    for subject in own(me):
        wild.publish(subject, PLANTED, aim)
        if "DIRECT.GET" in subject:
            for question in (
                {"seq": 1_000_000},
                {"seq": 1, "batch": 5},
                {"last_by_subj": f"$KV.registry.{me.name}", "no_hdr": True},
                {"last_by_subj": subjects.event(DOMAIN, me.name, "x"), "no_hdr": True},
                {"multi_last": [">"], "batch": 3},
            ):
                wild.publish(subject, json.dumps(question).encode(), aim)


def made(wild: Wild, subject: str, question: bytes, inbox: str) -> None:
    """Ask for a consumer, and wait for it to be made or refused."""
    wild.say(f"SUB {inbox} 9\r\n".encode())
    wild.publish(subject, question, inbox)
    said = b""
    while not any(word in said for word in (b"consumer_create_response", b"Violation")):
        said += wild.hear()


def pulled(aim: str, wild: Wild, me: Identity) -> None:
    """Ask a consumer for more than there is: the server says so with an empty message."""
    inbox = f"_INBOX_{me.name}.x"
    for stream, name in (("KV_registry", f"$KV.{REGISTRY}.>"), ("EVENTS", "phx.lab.evt.*.>")):
        config = {"name": "c", "filter_subject": name, "ack_policy": "none", "mem_storage": True}
        question = json.dumps({"stream_name": stream, "config": config}).encode()
        made(wild, f"$JS.API.CONSUMER.CREATE.{stream}.c.{name}", question, inbox)
        more = json.dumps({"batch": 500, "no_wait": True}).encode()
        wild.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.c", more, aim)


def pushed(aim: str, wild: Wild, me: Identity) -> None:
    """Have a consumer deliver to ``aim``; its heartbeats are empty messages."""
    for stream, name in (("KV_registry", f"$KV.{REGISTRY}.>"), ("EVENTS", "phx.lab.evt.*.>")):
        config = {"name": "p", "filter_subject": name, "ack_policy": "none", "deliver_subject": aim}
        config |= {"idle_heartbeat": 100_000_000, "flow_control": True}
        question = json.dumps({"stream_name": stream, "config": config}).encode()
        made(wild, f"$JS.API.CONSUMER.CREATE.{stream}.p.{name}", question, f"_INBOX_{me.name}.x")


def headed(head: str, wild: Wild, me: Identity) -> None:
    """Send under all own subjects with a header that means something to a server."""
    for subject in own(me):
        if "$JS" not in subject:
            with_headers(wild, subject, f"_INBOX_{me.name}.x", head, PLANTED)


def heard(pattern: str, wild: Wild, _: Identity) -> None:
    """Subscribe to others' subjects, also as one of a group that shares messages."""
    wild.say(f"SUB {pattern} 7\r\nSUB {pattern} group 8\r\n".encode())


HEADS = [
    *(f"Nats-Rollup: {how}" for how in ("all", "sub")),
    *(f"Nats-Trace-Dest: {aim}" for aim in AIMS[:6] + ADMINISTRATION[:2]),
    "Nats-TTL: 1s",
    "Nats-Schedule: @at 2009-11-10T23:00:00Z\r\nNats-Schedule-Target: phx.lab.evt.b.x",
    "Nats-Batch-Id: x\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1",
    "Nats-Incr: +1",
    "Nats-Marker-Reason: Purge",
    "Nats-Sequence: 1000000\r\nNats-Subject: phx.lab.evt.b.x\r\nNats-Stream: EVENTS",
    'Nats-Request-Info: {"acc":"lab","svc":"lab","user":"keeper"}',
    "Nats-Expected-Last-Sequence: 0",
    "Nats-Required-Api-Level: 99",
    "Nats-Msg-Id: history-1",
    "KV-Operation: PURGE\r\nNats-Rollup: sub",
    "Phx-Answer: 1 phx.lab.ans.orc.b.1",
    "Status: 409",
]
PATTERNS = [
    ">",
    "*",
    "$JS.>",
    "$KV.>",
    "$SYS.>",
    "_R_.>",
    "_INBOX_b.>",
    "_INBOX_*.>",
    "*.phx.>",
    "in_b.>",
    "in_b.*.lab.msg.b.*",
    "in_a.phx.lab.msg.b.*",
    "in_b.phx.lab.call.b.*.*.*",
    "in_orc.phx.lab.ans.orc.>",
    "in_a.$KV.cursors.>",
    "said.>",
    "kept.>",
    "in_rec2.kept.KV_cursors.>",
    "phx.>",
]
ATTEMPTS: dict[str, Attempt] = {
    f"{how.__name__} {word}": partial(how, word)
    for how, words in (
        (straight, AIMS),
        (aimed, AIMS),
        (pulled, VICTIMS[:3] + ADMINISTRATION[::3]),
        (pushed, VICTIMS[:3] + ADMINISTRATION[::3]),
        (headed, HEADS),
        (heard, PATTERNS),
    )
    for word in words
}


class Domain:
    """Victims that speak and hear, and an administrator who looks after each attempt."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.keeper = ground.join(KEEPER)
        self.b, self.orc = ground.join(B), ground.join(ORCHESTRATOR)
        self.keepsake = ground.join(KEEPSAKE)
        self.said: list[Delivery] = []
        self.events: list[Stored] = []
        self.registry: dict[str, bytes | None] = {}
        for pattern in ("msg.b.*", "mcast.*", "pub.*.>"):
            self.b.subscribe(f"phx.{DOMAIN}.{pattern}", self.said.append)
        self.b.subscribe(subjects.calls(DOMAIN, "b"), self._called)
        self.b.watch(REGISTRY, self.registry.__setitem__)
        self.keepsake.follow(subjects.EVENTS, self._stored, durable="history")
        self.b.put(REGISTRY, "b", b"here")
        ground.until(lambda: bool(self.registry))  # the server knows what b hears, too
        self.number = 0
        self.configs: dict[str, Any] = {}
        self.checked = 0
        self.step()
        self.configs = {stream: self.info(stream)["config"] for stream in STREAMS}

    def _called(self, call: Delivery) -> None:
        self.said.append(call)
        self.b.respond(call, b"yes")

    def _stored(self, stored: Stored) -> None:
        self.events.append(stored)
        stored.acknowledge()

    def ask(self, operation: str, question: Any) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        self.keeper.administer(operation, question, found.append)
        self.ground.until(lambda: bool(found))
        return found[0]

    def info(self, stream: str) -> dict[str, Any]:
        found = self.ask(f"STREAM.INFO.{stream}", {})
        assert "error" not in found, f"{stream}: {found['error']}"
        return found

    def value(self, stream: str, subject: str) -> bytes:
        found = self.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        assert "error" not in found, f"{subject}: {found['error']}"
        return base64.b64decode(found["message"].get("data", ""))

    def step(self) -> None:
        """See that victims go on: an event is kept and read, a call answered, a key written."""
        self.number += 1
        body, done, answers = b"%d" % self.number, [], []
        mine = subjects.event(DOMAIN, "b", "auction.awarded")
        self.b.append(mine, body, f"history-{self.number}", done.append)
        asked = subjects.call(DOMAIN, "b", "status", "orchestrator", "orc")
        self.orc.request(asked, body, answers.append, timeout_s=5.0)
        self.ground.until(lambda: bool(done and answers))
        assert done == [None]
        assert isinstance(answers[0], Delivery)
        assert answers[0].payload == b"yes"
        self.ground.until(lambda: any(e.subject == mine and e.payload == body for e in self.events))

    def check(self, thief: Identity) -> None:
        """Find everything whole, and nothing forged."""
        for stream, config in self.configs.items():
            info = self.info(stream)
            assert info["config"] == config
            assert info["state"]["consumer_count"] == 0
        names = self.ask("STREAM.NAMES", {})["streams"]
        assert sorted(names) == sorted(STREAMS)
        assert self.value("KV_registry", "$KV.registry.b") == b"here"
        assert self.registry["b"] == b"here"
        for said in self.said:
            assert subjects.speaker(said.subject) in (thief.name, "orc", "b"), said
            if subjects.speaker(said.subject) == "orc":
                assert (said.payload.isdigit(), said.subject.split(".")[2]) == (True, "call"), said
        self.said.clear()
        for one in self.events[self.checked :]:
            speaker = subjects.speaker(one.subject)
            assert speaker in (thief.name, "b"), one
            assert speaker != "b" or one.payload.isdigit(), one
        sequences = [one.sequence for one in self.events]
        assert sequences == list(range(1, len(sequences) + 1))
        self.checked = len(self.events)
        kept = [one for one in self.events if one.payload.isdigit() and ".b." in one.subject]
        assert [int(one.payload) for one in kept] == list(range(1, self.number + 1))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    place = tmp_path_factory.mktemp("lab")
    with Ground.at_servers(place, identities=(*ALL, KEEPSAKE)) as ground:
        yield Domain(ground)


@pytest.mark.parametrize("thief", THIEVES, ids=lambda thief: thief.role.value)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_stolen_key_reaches_nothing_beyond_its_own(
    domain: Domain, thief: Identity, attempt: str
) -> None:
    with Wild(domain.ground, thief) as wild, suppress(OSError):
        for subject in own(thief):
            if subject.startswith(("$KV", "phx.lab.evt")):
                wild.publish(subject, PLANTED)
        ATTEMPTS[attempt](wild, thief)
        for line in wild.hear().split(b"\r\n"):
            words = line.decode(errors="replace").split()
            if words[:1] in (["MSG"], ["HMSG"]):
                mine = permissions_of(thief).subscribe
                assert any(matches(pattern, words[1]) for pattern in mine), line
    domain.ground.rest(0.01)
    domain.step()
    domain.check(thief)


@pytest.mark.parametrize("thief", THIEVES, ids=lambda thief: thief.role.value)
def test_a_stolen_key_uses_up_no_more_than_its_own_connections(
    domain: Domain, thief: Identity
) -> None:
    wilds: list[Wild] = []
    try:
        with suppress(OSError):
            for _ in range(60):
                wilds.append(Wild(domain.ground, thief))
                if b"-ERR" in wilds[-1].hear():
                    break
        assert len(wilds) < 60
        domain.step()
        domain.check(thief)
    finally:
        for wild in wilds:
            wild.__exit__()
