"""Clients that keep to no rule, against a domain of real processes: refused, audited, no crash.

Each test ends with an attack on the network that the agents hold off: auctions work as before.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from phalanx.bus import subjects
from phalanx.bus.agents import AgentBus
from phalanx.bus.client import BrokerClient, Delivery
from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import SEALED
from phalanx.bus.wire import MAX_OCTETS, encode
from phalanx.domain.goals import avert
from phalanx.domain.messages import Message, Performative, UndoRequest, Verdict
from phalanx.domain.predicates import FlowRateLimited, IpRateLimited, LinkRateLimited
from phalanx.fabric.audit import BURST
from phalanx.fabric.calls import CallClient, CallRefused
from phalanx.fabric.operations import DRAIN, STATUS, DrainRequest, StatusRequest
from phalanx.identity.credentials import CERTIFICATE_FILE, Credentials, Files, tls_context
from phalanx.identity.names import Role
from phalanx.runtime.domain.spec import read_bundle
from phalanx.runtime.processes.auditor import start_auditor
from tests.system.process_checks import check_in_order
from tests.system.process_lab import Lab, processes
from tests.system.process_log import Heard, effect_of

pytestmark = processes()

MALLORY = "mallory"
"""An agent and a network that belong to the domain and keep to no rule."""
AUDIT_WINDOW_S = 2.0
"""The auditor reads the broker's log more often."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, others=((MALLORY, Role.AGENT),)) as made:
        auditor = start_auditor(made.testbed.domain, made.testbed.brokers.running)
        try:
            made.start(*made.pops)
            made.until(lambda: made.serving(*made.pops), "all agents serve")
            made.until(lambda: made.of("process.started", agent="broker1"), "the auditor runs")
            yield made
        finally:
            os.kill(auditor, signal.SIGKILL)
            os.waitpid(auditor, 0)


def still_works(lab: Lab) -> None:
    """See an attack held off, by auctions that begin now."""
    since = lab.last
    called = len(lab.of("auction.awarded"))
    lab.start_network()
    lab.until(lambda: len(lab.of("auction.awarded")) > called, "an auction is held")
    lab.until(lab.held_off, "the attack is held off")
    check_in_order(lab, max(since, lab.last))


def audited(lab: Lab, fits: Callable[[dict[str, Any]], bool], what: str) -> Heard:
    """Wait for an event that tells of a refusal."""

    def found() -> list[Heard]:
        return [h for h in lab.of("access.refused") if fits(h.event.data)]

    lab.until(found, f"audited: {what}")
    return found()[0]


class Wild:
    """A client that says what it likes."""

    def __init__(self, lab: Lab, context: ssl.SSLContext) -> None:
        (server,) = lab.testbed.brokers.servers
        with ExitStack() as stack:
            plain = stack.enter_context(socket.create_connection(server.address, timeout=5.0))
            wrapped = context.wrap_socket(plain, server_hostname=server.address[0])
            self.socket = stack.enter_context(wrapped)
            self.say(b'CONNECT {"verbose":false,"headers":true}\r\n')
            stack.pop_all()

    @classmethod
    @contextmanager
    def of(cls, lab: Lab, folder: Path) -> Iterator[Wild]:
        client = cls(lab, tls_context(Files.of(folder)))
        try:
            yield client
        finally:
            client.socket.close()

    def say(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def publish(self, subject: str, payload: bytes = b"") -> None:
        self.say(f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def hear(self) -> bytes:
        """Return what the server has said up to now."""
        self.say(b"PING\r\n")
        heard = b""
        while not heard.endswith(b"PONG\r\n"):
            octets = self.socket.recv(1 << 16)
            assert octets, "the server hung up"
            heard += octets
        return heard


def messages(heard: bytes) -> list[tuple[str, bytes]]:
    """Return subject and payload of the messages in what a server said."""
    found = []
    while heard:
        line, _, heard = heard.partition(b"\r\n")
        words = line.split(b" ")
        if words[0] in (b"MSG", b"HMSG"):
            begin, size = int(words[-2]) if words[0] == b"HMSG" else 0, int(words[-1])
            found.append((words[1].decode(), heard[begin:size]))
            heard = heard[size + 2 :]
    return found


# -- who may come in ----------------------------------------------------------------------------


def folder_of(lab: Lab, name: str) -> Path:
    return lab.testbed.bus(name).parent


def of_another_with_ones_own_key(lab: Lab) -> ssl.SSLContext:
    """Show the certificate of an agent; the library takes the key, since it claims to be its."""
    theirs = Credentials.read(Files.of(folder_of(lab, "north"))).key.public_key()
    own = ec.generate_private_key(ec.SECP256R1())
    form = (Encoding.X962, PublicFormat.UncompressedPoint)
    octets = own.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    claimed = octets.replace(own.public_key().public_bytes(*form), theirs.public_bytes(*form))
    assert claimed != octets
    key = lab.folder / "claimed.pem"
    key.write_text(ssl.DER_cert_to_PEM_cert(claimed).replace("CERTIFICATE", "EC PRIVATE KEY"))
    context = ssl.create_default_context(cafile=str(Files.of(folder_of(lab, MALLORY)).authority))
    context.load_cert_chain(folder_of(lab, "north") / CERTIFICATE_FILE, key)
    return context


def test_what_the_broker_refuses_is_in_the_log_and_harms_nobody(lab: Lab) -> None:
    """All that it refuses is in tests/bus/test_nats_hostile: here, that the domain knows it."""
    with pytest.raises((OSError, AssertionError)):  # noqa: PT012  # refused at some point
        stranger = Wild(lab, of_another_with_ones_own_key(lab))
        try:
            stranger.hear()
        finally:
            stranger.socket.close()
    unproven = ("? 127.0.0.1", "certificate")
    found = audited(lab, lambda d: (d["subject"], d["action"]) == unproven, "an unproven identity")
    assert found.event.agent == "broker1"
    (server,) = lab.testbed.brokers.servers
    with socket.create_connection(server.address) as plain, suppress(OSError):
        plain.sendall(b"\x16\x03\x01" + b"\xff" * 600)
        plain.recv(100)
    audited(lab, lambda data: data["action"] == "handshake", "garbage instead of TLS")
    forbidden = [
        ("publish", subjects.event("run", "recorder", "auction.awarded")),
        ("subscribe", subjects.pattern("run", "msg", "north", subjects.ONE)),
    ]
    with Wild.of(lab, folder_of(lab, MALLORY)) as client:
        client.publish(forbidden[0][1], b"believe me")
        client.say(f"SUB {forbidden[1][1]} 1\r\n".encode())
        lab.rest(3.0)  # agents speak meanwhile
        assert not messages(client.hear())
        client.say(os.urandom(2000) + b"\r\n")
        with suppress(OSError):
            while client.socket.recv(1 << 16):
                pass
    for action in (*map(" ".join, forbidden), "protocol"):
        audited(lab, lambda d, w=(MALLORY, action): (d["subject"], d["action"]) == w, action)
    still_works(lab)


def test_no_restart_of_a_broker_is_told_as_an_attack(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        (server,) = lab.testbed.brokers.servers
        start_auditor(lab.testbed.domain, lab.testbed.brokers.running)
        lab.start_all()
        lab.until(lab.held_off, "the attack is held off")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        lab.rest(9.0)
        server.start(detached=True)
        auditor = start_auditor(lab.testbed.domain, lab.testbed.brokers.running)
        try:
            lab.until(lambda: len(lab.of("process.started", agent="broker1")) > 1, "it audits")
            lab.until(lambda: lab.serving(*lab.pops), "all agents serve")
            lab.rest(8.0)
            refused = [(h.event.agent, h.event.data) for h in lab.of("access.refused")]
            assert refused == []
        finally:
            os.kill(auditor, signal.SIGKILL)
            os.waitpid(auditor, 0)


# -- what a member may say ----------------------------------------------------------------------


NESTED = 200_000
GARBAGE = (
    b"",
    b"\0" * 1000,
    b"[" * NESTED,
    b'{"a":' * (NESTED // 5),
    b"\x91" * NESTED,
    bytes(range(256)) * 40,
    b"\x11" * 500,
    b"\x13" * 500,
    b"x" * MAX_OCTETS,
)


def test_garbage_from_a_member_is_refused_and_told(lab: Lab) -> None:
    mallory = lab.join(MALLORY)
    lab.until(lambda: mallory.connected, "it is connected")
    heard: list[tuple[BrokerClient, str]] = [
        (mallory, subjects.message("run", "north", MALLORY)),
        (mallory, subjects.call("run", "north", "status", "agent", MALLORY)),
        (mallory, subjects.call("run", "north", "drain", "agent", MALLORY)),
    ]
    for exchange, subject in heard:
        for payload in GARBAGE:
            exchange.publish(subject, payload)
        lab.rest(0.5)
    wanted = (MALLORY, "north")
    audited(lab, lambda d: (d["subject"], d["resource"]) == wanted, "garbage of a member")
    refused = lab.status("north").counters.refused
    assert refused.get("garbage", 0) >= len(GARBAGE) - 2
    still_works(lab)


def test_a_flood_of_calls_leaves_room_for_others(lab: Lab) -> None:
    mallory = lab.join(MALLORY)
    lab.until(lambda: mallory.connected, "it is connected")
    client = CallClient(mallory, lab.clock, life="1")
    answers: list[Any] = []
    client.invoke("north", DRAIN, DrainRequest(), answers.append, timeout_s=5.0)
    lab.until(lambda: answers, "an agent may not send another away")
    assert isinstance(answers[0], CallRefused)
    audited(
        lab,
        lambda d: (d["subject"], d["action"]) == (MALLORY, "drain"),
        "a call that is not allowed",
    )
    flood: list[Any] = []
    for _ in range(5_000):
        client.invoke("north", STATUS, StatusRequest(), flood.append, timeout_s=20.0)
    assert lab.status("north").agent == "north"  # others are answered meanwhile
    lab.until(lambda: len(flood) == 5_000, "each call is answered, or told that it is not")
    still_works(lab)


def test_a_measure_is_not_undone_for_a_member_that_did_not_ask_for_it(lab: Lab) -> None:
    mallory = lab.join(MALLORY)
    lab.start_network()
    lab.until(lab.held_off, "the attack is held off")
    seal = Seal(read_bundle(lab.testbed.bus(MALLORY)).credentials, 1)
    bus = AgentBus(mallory, lab.clock, seal, peers=lab.pops)
    heard: list[Message] = []
    bus.attach(MALLORY, heard.append)
    lab.rest(0.5)
    known = [IpRateLimited("10.0.0.10"), LinkRateLimited("south>shop")]
    known += [FlowRateLimited(f"10.{a}.0.{b}", "10.0.0.10") for a in range(9) for b in range(9)]
    holder = lab.holder()
    kept = {effect_of(m) for m in lab.in_force() if m.startswith(f"{holder}.")}
    effect = next(e for e in known if str(e) in kept)
    for number in range(100):
        request = UndoRequest(avert(effect), "0123456789abcdef")
        name = f"undo-{number}"
        bus.send(Message(name, Performative.REQUEST, MALLORY, holder, name, request, name))
    audited(lab, lambda d: (d["subject"], d["action"]) == (MALLORY, "undo"), "an undo")
    lab.until(lambda: len(heard) >= 100, "each is answered")
    assert all(isinstance(m.content, Verdict) and m.content.final for m in heard)
    assert lab.held_off()
    lab.until(
        lambda: (
            sum(1 + h.event.data["suppressed"] for h in lab.of("access.refused", agent=holder))
            >= 100
        ),
        "all are counted",
    )
    assert len(lab.of("access.refused", agent=holder)) <= 2 * (BURST + 1)


# -- what a compromised broker can do -----------------------------------------------------------


def compromise(lab: Lab) -> Path:
    """Let the identity of the broker itself say and hear all; return its folder."""
    (server,) = lab.testbed.brokers.servers
    path = server.settings.configuration
    tree = json.loads(path.read_text())
    for user in tree["accounts"]["run"]["users"]:
        if user["user"].endswith("/broker/broker1"):
            user["permissions"] = {"publish": {"allow": [">"]}, "subscribe": {"allow": [">"]}}
    path.write_text(json.dumps(tree))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGHUP)
    lab.rest(1.0)
    return lab.testbed.domain.broker("broker1")


def altered(frame: bytes) -> bytes:
    """Return a sealed frame with another number, so that it is new, and another proposal."""
    assert frame[0] == SEALED
    number = int.from_bytes(frame[9:17]) + 100
    return frame[:9] + number.to_bytes(8) + frame[17:-1] + bytes((frame[-1] ^ 1,))


def speak_for(lab: Lab, mallory: BrokerClient, to: str, name: str) -> None:
    """Come to an agreement with an agent as oneself, and then say something in another's name."""
    seal = Seal(read_bundle(lab.testbed.bus(MALLORY)).credentials, 1)
    subject = subjects.message("run", to, MALLORY)

    def say(frames: Iterable[bytes]) -> None:
        for frame in frames:
            mallory.publish(subject, frame)

    def hear(delivery: Delivery) -> None:
        say(seal.open(to, delivery.payload, lab.clock.now()).replies)

    mallory.subscribe(subjects.message("run", MALLORY, to), hear)
    lab.rest(0.3)
    lie = Message("lie", Performative.FAILURE, name, to, "any", Verdict("it failed"), "any")
    say(seal.wrap(to, encode(lie), lab.clock.now()))
    lab.until(lambda: not seal.counters.waiting, "it is heard")


def test_replayed_and_altered_proposals_are_not_believed(lab: Lab) -> None:
    with Wild.of(lab, compromise(lab)) as broker:
        broker.say(f"SUB {subjects.pattern('run', 'msg', subjects.REST)} 1\r\n".encode())
        lab.start_network()
        lab.until(lambda: lab.of("auction.awarded"), "an auction is held")
        found = lab.of("auction.awarded")[0].event
        initiator, bidder = found.agent, found.data["winner"]
        if bidder == initiator:
            bidder = next(pop for pop in lab.pops if pop != initiator)
        subject = subjects.message("run", initiator, bidder)
        frames = [payload for where, payload in messages(broker.hear()) if where == subject]
        assert frames
        for frame in frames:
            broker.publish(subject, frame)
        broker.publish(subject, altered(frames[-1]))
        mallory = lab.join(MALLORY)
        lab.until(lambda: mallory.connected, "it is connected")
        for frame in frames:
            mallory.publish(subjects.message("run", initiator, MALLORY), frame)
        speak_for(lab, mallory, initiator, bidder)
        for who, why in (
            (bidder, "replayed"),
            (bidder, "altered"),
            (MALLORY, "no-session"),
            (MALLORY, "forged"),
        ):
            audited(
                lab,
                lambda d, wanted=(who, initiator, why): (
                    (d["subject"], d["resource"], d["reason"].partition(":")[0]) == wanted
                ),
                f"{why} {who}",
            )
        lab.rest(AUDIT_WINDOW_S)
        assert not [h for h in lab.of("access.refused") if h.event.data["action"] == "identity"]
        refused = lab.status(initiator).counters.refused
        assert refused.get("replayed", 0) >= 1
        assert refused.get("no-session", 0) >= len(frames)
    lab.until(lab.held_off, "the attack is held off")
    check_in_order(lab, lab.last)
