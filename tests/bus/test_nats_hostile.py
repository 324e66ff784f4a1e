"""Clients that keep to no rule: refused, told of by the audit, and the server lives on."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from nats_lab import (
    DOMAIN,
    HOST,
    NOW,
    OBSERVER,
    RECORDER,
    A,
    Authority,
    B,
    Ground,
    client_context,
    needs_server,
    told,
)

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored
from phalanx.bus.nats.audit import BrokerAudit
from phalanx.bus.nats.config import ServerLimits, user_of
from phalanx.identity.names import Identity, Role

needs_server()
pytestmark = pytest.mark.nats

CONNECT = b'CONNECT {"verbose":false,"headers":true,"name":"x"}\r\n'
TO_B = subjects.message(DOMAIN, "b", "a")
FORGED = subjects.message(DOMAIN, "b", "orc")


class Wild:
    """A raw client with a certificate."""

    def __init__(self, ground: Ground, identity: Identity = A) -> None:
        plain = socket.create_connection(ground.lab.addresses[0], timeout=5)
        self._socket = ground.lab.context(identity).wrap_socket(plain, server_hostname=HOST)
        self.say(CONNECT)

    def __enter__(self) -> Wild:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, *octets: bytes) -> None:
        for each in octets:
            self._socket.sendall(each)

    def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        self.say(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def hear(self) -> bytes:
        """Return what the server has said up to now."""
        self.say(b"PING\r\n")
        heard = b""
        while b"PONG\r\n" not in heard:
            octets = self._socket.recv(1 << 16)
            if not octets:
                break
            heard += octets
        return heard

    def until_the_end(self) -> bytes:
        heard = b""
        try:
            while octets := self._socket.recv(1 << 16):
                heard += octets
        except OSError:  # cut in the middle
            pass
        return heard


def still_serves(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    got: list[Delivery] = []
    b.subscribe(subjects.pattern(DOMAIN, "msg", "b", subjects.ONE), got.append)
    for _ in range(100):  # what is said before the server knows of the subscription is lost
        a.publish(TO_B, b"fine")
        ground.rest(0.05)
        if got:
            return
    raise AssertionError("nothing arrives")


# -- who may come in ----------------------------------------------------------------------------


def no_certificate(ground: Ground) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ground.lab.authority.path))


def foreign(ground: Ground) -> ssl.SSLContext:
    context = client_context(Authority(ground.lab.directory, "foreign").certify(A))
    context.load_verify_locations(ground.lab.authority.path)
    return context


def expired(ground: Ground) -> ssl.SSLContext:
    ended = NOW - dt.timedelta(hours=1)
    return client_context(ground.lab.authority.issue(user_of(A), until=ended))


def unknown(ground: Ground) -> ssl.SSLContext:
    stranger = Identity("stranger", Role.AGENT, DOMAIN)
    return client_context(ground.lab.authority.certify(stranger))


def another_role(ground: Ground) -> ssl.SSLContext:
    return client_context(ground.lab.authority.certify(Identity("a", Role.OPERATOR, DOMAIN)))


def the_name_alone(ground: Ground) -> ssl.SSLContext:
    return client_context(ground.lab.authority.issue("", dns=["a"], common_name=user_of(A)))


@pytest.mark.parametrize(
    ("context", "what"),
    [
        (no_certificate, "certificate"),
        (foreign, "certificate"),
        (expired, "certificate"),
        (unknown, "identity"),
        (another_role, "identity"),
        (the_name_alone, "identity"),
    ],
)
def test_who_cannot_prove_an_identity_stays_out(
    ground: Ground, audit: BrokerAudit, context: Callable[[Ground], ssl.SSLContext], what: str
) -> None:
    complaints: list[str] = []
    outsider = ground.client(A, context=context(ground))
    outsider.on_error(complaints.append)
    ground.until(lambda: bool(complaints))
    refused = told(ground, audit, lambda one: one.what == what)
    assert (refused.who, refused.address) == (None, HOST)
    assert not outsider.connected
    still_serves(ground)


def test_nobody_becomes_another_by_saying_so(ground: Ground, audit: BrokerAudit) -> None:
    with Wild(ground) as wild:
        wild.say(b'CONNECT {"user":"phalanx://lab/broker/keeper","verbose":false}\r\n')
        wild.publish("$JS.API.STREAM.DELETE.EVENTS")
        assert b"Permissions Violation" in wild.hear()
    told(ground, audit, lambda one: one.what == "identity")
    still_serves(ground)


# -- garbage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.0\r\n\r\n", bytes(1000), os.urandom(1 << 16)])
def test_garbage_on_the_port(ground: Ground, audit: BrokerAudit, octets: bytes) -> None:
    with socket.create_connection(ground.lab.addresses[0], timeout=5) as wild:
        wild.sendall(octets)
        told(ground, audit, lambda one: one.what == "handshake" and one.address == HOST)
    still_serves(ground)


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (b"XYZZY\r\n", "protocol"),
        (b"PUB phx.lab.msg.b.a abc\r\n\r\n", "protocol"),
        (b"HPUB phx.lab.msg.b.a 100 5\r\nabc\r\n", "protocol"),
        (b"PUB " + b"a" * 10_000, "oversize"),
        (b"PUB phx.lab.msg.b.a 104857600\r\n" + bytes(1 << 20), "oversize"),
        (b"".join(b"SUB in_a.phx.lab.msg.a.* %d\r\n" % sid for sid in range(1100)), "limit"),
    ],
)
def test_garbage_of_one_who_is_known(
    ground: Ground, audit: BrokerAudit, octets: bytes, what: str
) -> None:
    with Wild(ground) as wild:
        with suppress(OSError):  # the server need not read it all
            wild.say(octets)
        refused = told(ground, audit, lambda one: one.what == what)
        assert refused.who == user_of(A)
    still_serves(ground)


def test_one_who_does_not_read_is_cut_and_nobody_waits(tmp_path: Path) -> None:
    limits = ServerLimits(waiting_octets=2 << 20, write_s=1.0)
    with Ground.at_servers(tmp_path, limits=limits) as ground, Wild(ground, B) as wild:
        audit = BrokerAudit(ground.lab.servers[0].settings.log)
        wild.say(b"SUB in_b.phx.lab.msg.b.* 1\r\n")
        wild.hear()
        a = ground.join(A)
        for _ in range(40):
            a.publish(TO_B, bytes(1 << 20))
        refused = told(ground, audit, lambda one: one.what == "slow")
        assert refused.who == user_of(B)
        audit.close()
        still_serves(ground)


# -- speaking as another, hearing another -------------------------------------------------------


def test_an_agent_may_not_publish(ground: Ground, audit: BrokerAudit) -> None:
    forbidden = [
        FORGED,
        subjects.event(DOMAIN, "b", "x"),
        subjects.call(DOMAIN, "b", "x", "operator", "op"),
        subjects.call(DOMAIN, "b", "x", "operator", "a"),
        subjects.announcement(DOMAIN, "b", "x"),
        "phx.lab.ans.op.b.1",
        "phx.other.msg.b.a",
        "_INBOX_b.x",
        "$KV.registry.b",
        "$KV.cursors.a.x",
        "$JS.API.INFO",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.KV_registry",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.STREAM.MSG.GET.KV_registry",
        "$JS.API.DIRECT.GET.KV_registry.$KV.registry.a",
        "$JS.API.STREAM.SNAPSHOT.EVENTS",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.x",
        "$JS.API.CONSUMER.CREATE.EVENTS.x.phx.lab.evt.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.x",
        "$JS.API.CONSUMER.CREATE.KV_registry.x",
        "$JS.API.CONSUMER.CREATE.KV_cursors.x.$KV.cursors.rec.*",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.x",
        "$JS.API.CONSUMER.DELETE.KV_registry.x",
        "$JS.API.CONSUMER.LIST.KV_registry",
        "$JS.ACK.EVENTS.x.1.1.1.1.0",
        "$SYS.REQ.SERVER.PING",
    ]
    with Wild(ground) as wild:
        for subject in forbidden:
            wild.publish(subject, b"{}", "_INBOX_a.x")
        heard = wild.hear()
    assert heard.count(b"Permissions Violation for Publish") == len(forbidden)
    told_of: dict[str | None, tuple[str, str | None]] = {}

    def read() -> bool:
        told_of.update((one.subject, (one.what, one.who)) for one in audit.read())
        return told_of.keys() >= set(forbidden)

    ground.until(read)
    assert set(told_of.values()) == {("publish", user_of(A))}


def test_an_agent_may_not_hear_others(ground: Ground, audit: BrokerAudit) -> None:
    patterns = [
        ">",
        "phx.>",
        "*.lab.msg.a.*",
        "phx.lab.msg.b.*",
        "phx.lab.msg.*.*",
        "phx.lab.evt.>",
        "phx.lab.ans.b.>",
        "_INBOX_b.>",
        "_INBOX_*.>",
        "$JS.>",
        "$KV.>",
        "$SYS.>",
    ]
    with Wild(ground) as wild:
        for sid, pattern in enumerate(patterns):
            wild.say(f"SUB {pattern} {sid}\r\n".encode())
            wild.say(f"SUB {pattern} mine {sid + 100}\r\n".encode())
        heard = wild.hear()
    assert heard.count(b"Permissions Violation for Subscription") == 2 * len(patterns)
    seen: set[str | None] = set()
    ground.until(lambda: seen.update(one.subject for one in audit.read()) or seen >= set(patterns))


def test_a_request_to_oneself_opens_no_door(ground: Ground) -> None:
    """As ``allow_responses`` would: who is asked may answer anywhere."""
    with Wild(ground) as wild:
        wild.say(b"SUB in_a.phx.lab.call.a.*.*.* 1\r\n")
        wild.publish(
            subjects.call(DOMAIN, "a", "x", "agent", "a"), b"", "$JS.API.STREAM.DELETE.EVENTS"
        )
        assert b"MSG in_a.phx.lab.call.a.x.agent.a" in wild.hear()
        wild.publish("$JS.API.STREAM.DELETE.EVENTS")
        assert b"Permissions Violation" in wild.hear()


def test_an_answer_is_not_sent_where_the_asker_says(ground: Ground) -> None:
    b = ground.join(B)
    b.subscribe(subjects.calls(DOMAIN, "b"), lambda asked: b.respond(asked, b"no"))
    ground.rest()
    head = b"NATS/1.0\r\nPhx-Answer: x.y\r\n\r\n"
    with Wild(ground) as wild:
        asked = subjects.call(DOMAIN, "b", "x", "agent", "a")
        wild.publish(asked, b"", subjects.message(DOMAIN, "net", "b"))
        wild.say(with_headers(b"%b y" % asked.encode(), head))
        wild.hear()
    ground.until(lambda: b.counters.refused == {"reply": 1})
    assert b.counters.published == 0


HEADINGS = [
    b"garbage\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0\xff\r\n\xfe:\r\n\r\n",
    b"NATS/1.0 100\r\nx: \xff\r\n\r\n",
]


def with_headers(subject: bytes, heading: bytes) -> bytes:
    return b"HPUB %b %d %d\r\n%b\r\n" % (subject, len(heading), len(heading), heading)


def test_garbage_that_the_server_passes_on_cuts_nobody_off(ground: Ground) -> None:
    b = ground.join(B)
    got: list[Delivery] = []
    b.subscribe(subjects.pattern(DOMAIN, "pub", subjects.ONE, subjects.REST), got.append)
    ground.rest(0.05)
    with Wild(ground) as wild:
        for heading in HEADINGS:
            wild.say(with_headers(b"phx.lab.pub.a.x", heading))
        wild.say(b"PUB phx.lab.pub.a.\xff\xfe 0\r\n\r\n", b"PUB phx.lab.pub.a.x \xff 0\r\n\r\n")
        for octet in b"\x0b\x0c\r":  # space to some, but no end of a word to the server
            wild.say(b"PUB phx.lab.pub.a.x%c1%c1 0\r\n\r\n" % (octet, octet))
        wild.publish("phx.lab.pub.a.last")
        wild.hear()
    ground.until(lambda: bool(got) and got[-1].subject == "phx.lab.pub.a.last")
    assert b.counters.refused == {"garbage": 7}
    assert b.connected
    assert b.counters.reconnects == 0


def test_garbage_that_a_stream_keeps_stops_no_follower(ground: Ground) -> None:
    recorder = ground.join(RECORDER)
    got: list[Stored] = []
    complaints: list[str] = []
    recorder.on_error(complaints.append)
    with Wild(ground) as wild:
        for heading in HEADINGS:
            wild.say(with_headers(b"phx.lab.evt.a.x", heading))
        wild.say(b"PUB phx.lab.evt.a.\xff\x0b1 0\r\n\r\n")
        wild.publish("phx.lab.evt.a.last")
        wild.hear()
    recorder.follow(subjects.EVENTS, got.append)
    ground.until(lambda: bool(got) and got[-1].subject == "phx.lab.evt.a.last")
    assert [one.sequence for one in got] == [1, 2, 3, 4, 5, 6]
    assert complaints == []


def test_a_writer_cannot_empty_a_table_by_a_header(ground: Ground) -> None:
    b, observer = ground.join(B), ground.join(OBSERVER)
    b.put(subjects.REGISTRY, "b", b"here")
    ground.rest()
    with Wild(ground) as wild:
        for rollup in (b"all", b"sub"):
            heading = b"NATS/1.0\r\nNats-Rollup: " + rollup + b"\r\n\r\n"
            wild.say(b"SUB _INBOX_a.> 1\r\n")
            wild.say(with_headers(b"$KV.registry.a _INBOX_a.x", heading))
            heard = b""
            while b"rollup not permitted" not in heard:  # said when the stream has looked at it
                heard += wild.hear()
    table: dict[str, bytes | None] = {}
    observer.watch(subjects.REGISTRY, table.__setitem__)
    ground.until(lambda: table == {"b": b"here"})


def test_nobody_uses_the_id_of_another_s_event_first(ground: Ground) -> None:
    b, recorder = ground.join(B), ground.join(RECORDER)
    with Wild(ground) as wild:
        heading = b"NATS/1.0\r\nNats-Msg-Id: event-1\r\n\r\n"
        wild.say(with_headers(b"phx.lab.evt.a.x", heading))
        wild.hear()
    done: list[str | None] = []
    got: list[Stored] = []
    b.append(subjects.event(DOMAIN, "b", "x"), b"mine", "event-1", done.append)
    recorder.follow(subjects.EVENTS, got.append)
    ground.until(lambda: len(got) == 2 and bool(done))
    assert done == [None]


def test_another_s_certificate_of_a_route_is_refused(tmp_path: Path) -> None:
    """An agent's certificate is good for the clients' port, not for that between servers."""
    with Ground.at_servers(tmp_path, 2, streams=False) as ground:
        lab = ground.lab
        audit = BrokerAudit(lab.servers[0].settings.log)
        cluster = lab.servers[0].settings.cluster
        assert cluster is not None
        heard = b""
        with (
            socket.create_connection((HOST, cluster.port), timeout=5) as plain,
            lab.context(A).wrap_socket(plain, server_hostname=HOST) as wild,
            suppress(OSError),
        ):
            wild.sendall(CONNECT + b"PING\r\n")
            while octets := wild.recv(1 << 14):
                heard += octets
        assert b"PONG" not in heard
        refused = told(ground, audit, lambda one: one.what == "identity")
        assert refused.address == HOST
        audit.close()
