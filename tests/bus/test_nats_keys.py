"""Keys that brokers let in, or no more, while they run; and certificates of their own."""

from __future__ import annotations

import datetime as dt
import random
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from nats_lab import (
    ALL,
    DOMAIN,
    HOST,
    KEEPER,
    A,
    B,
    Ground,
    Lab,
    client_context,
    needs_server,
    running,
    told,
)

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.audit import BrokerAudit, BrokerRefusal
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import keys_in
from phalanx.bus.nats.server import NatsServer, setup
from phalanx.identity.certificates import fingerprint
from phalanx.identity.credentials import Files
from phalanx.identity.names import Identity
from phalanx.identity.trust import read_certificate

needs_server()
pytestmark = [pytest.mark.nats, pytest.mark.processes]


def key_of(credentials: Files) -> str:
    return fingerprint(read_certificate(credentials.certificate))


class Keys:
    """A lab whose servers know the keys of their clients."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.of: dict[Identity, str] = {}
        for identity in (KEEPER, A, B):
            self.certify(identity)

    def certify(self, identity: Identity) -> None:
        """Give an identity a key, another one if it has one."""
        credentials = self.lab.authority.certify(identity)
        self.of[identity] = key_of(credentials)
        self.lab._contexts[identity] = client_context(credentials)

    def reload(self, *servers: NatsServer, routes: tuple[str, ...] | None = None) -> None:
        for server in servers or self.lab.servers:
            server.reload(ALL, tuple(self.of.values()), routes)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.add_servers(1)
    with running(made):
        yield made


def test_a_revoked_key_is_cut_off_and_its_name_goes_on_with_another(lab: Lab) -> None:
    keys = Keys(lab)
    keys.reload()
    (server,) = lab.servers
    assert keys_in(server.settings.configuration) == {*keys.of.values()}
    audit = BrokerAudit(server.settings.log)
    with Ground(lab).closing() as ground:
        old, other = ground.join(A), ground.join(B)
        revoked = keys.of[A]
        keys.certify(A)
        keys.reload()
        ground.until(lambda: not old.connected)
        cut = told(ground, audit, lambda one: one.what == "key")
        assert (cut.who, cut.key) == (A.uri, revoked)
        new = ground.join(A)
        tried = told(ground, audit, lambda one: one.what == "key")
        assert (tried.who, tried.key, tried.address) == (None, revoked, HOST)
        ground.rest(0.5)
        assert (old.connected, new.connected, other.connected) == (False, True, True)
        heard: list[bytes] = []
        other.subscribe(f"phx.{DOMAIN}.msg.b.*", lambda d: heard.append(d.payload))
        ground.rest()
        new.publish(f"phx.{DOMAIN}.msg.b.a", b"here")
        ground.until(lambda: heard == [b"here"])
        assert not [r for r in audit.read() if r.what != "key"]
    audit.close()


def test_who_is_certified_and_not_known_stays_out(lab: Lab) -> None:
    keys = Keys(lab)
    keys.of.pop(A)
    keys.reload()
    with Ground(lab).closing() as ground:
        client = ground.client(A)
        with pytest.raises(BrokerError, match="no connection to NATS"):
            client.ready(0.6)
        ground.join(B)


def shown(server: NatsServer, context: ssl.SSLContext) -> int:
    """Return the serial number of the certificate that a server shows."""
    with (
        socket.create_connection(server.address) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as tls,
    ):
        octets = tls.getpeercert(binary_form=True)
    assert octets is not None
    return x509.load_der_x509_certificate(octets).serial_number


def fresh_broker(lab: Lab, number: int = 0) -> Files:
    made: Files = lab.authority.issue(
        f"phalanx://{DOMAIN}/broker/server{number}", dns=[HOST], addresses=[HOST]
    )
    return made


def test_a_broker_shows_its_new_certificate_and_keeps_its_connections(lab: Lab) -> None:
    (server,) = lab.servers
    own = server.settings.credentials
    with Ground(lab).closing() as ground:
        a = ground.join(A)
        changes: list[bool] = []
        a.on_change(changes.append)
        fresh = fresh_broker(lab)
        own.key.write_bytes(fresh.key.read_bytes())
        own.certificate.write_bytes(fresh.certificate.read_bytes())
        server.reload(ALL)
        serial = read_certificate(fresh.certificate).serial_number
        assert shown(server, lab.context(B)) == serial
        ground.rest(0.3)
        assert a.connected
        assert changes == []


@pytest.mark.parametrize("how", ["half", "garbage", "gone", "key of another"])
def test_a_broker_goes_on_with_what_it_had_if_its_files_are_of_no_use(lab: Lab, how: str) -> None:
    (server,) = lab.servers
    own = server.settings.credentials
    before = read_certificate(own.certificate).serial_number
    octets = own.certificate.read_bytes()
    if how == "half":
        own.certificate.write_bytes(octets[: len(octets) // 2])
    elif how == "garbage":
        own.certificate.write_bytes(b"\0garbage\xff" * 99)
    elif how == "gone":
        own.certificate.unlink()
    else:
        own.certificate.write_bytes(fresh_broker(lab).certificate.read_bytes())
    with Ground(lab).closing() as ground:
        a = ground.join(A)
        with pytest.raises(BrokerError, match="server0 goes on as before: Failed to reload") as e:
            server.reload(ALL)
        assert "\n" not in str(e.value)
        ground.rest()
        assert a.connected
        assert shown(server, lab.context(B)) == before
        own.certificate.write_bytes(octets)
        server.reload(ALL)


def test_a_broker_that_says_nothing_to_a_reload_is_named(lab: Lab) -> None:
    (server,) = lab.servers
    server.settings.log.unlink()  # whatever it says, nobody hears it
    with pytest.raises(BrokerError, match="did not read its configuration anew within"):
        server.reload(ALL, within_s=0.2)


def test_a_broker_that_was_revoked_is_out_of_the_cluster(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3) as ground:
        lab = ground.lab
        routes = tuple(key_of(server.settings.credentials) for server in lab.servers)
        first, _, last = lab.servers
        audit = BrokerAudit(first.settings.log)
        for server in lab.servers[:2]:
            server.reload(ALL, None, routes[:2])
        refused = told(ground, audit, lambda one: one.what == "key")
        assert (refused.who, refused.key) == (None, routes[2])
        # What is left is a cluster: who is at one of the two hears who is at the other.
        lab.servers.remove(last)
        a, b = ground.join(A), ground.join(B)
        heard: list[bytes] = []
        b.subscribe(f"phx.{DOMAIN}.msg.b.*", lambda d: heard.append(d.payload))

        def comes_through() -> bool:
            a.publish(f"phx.{DOMAIN}.msg.b.a", b"x")
            return bool(heard)

        ground.until(comes_through)
        lab.servers.append(last)
        audit.close()


def test_no_reload_makes_claimants_of_those_who_connect_meanwhile(lab: Lab) -> None:
    setup(KEEPER, lab.addresses, lab.context(KEEPER))
    (server,) = lab.servers
    audit = BrokerAudit(server.settings.log)
    chance = random.Random(4)
    end = time.monotonic() + 6.0
    found: list[BrokerRefusal] = []
    with Ground(lab).closing() as ground:
        ground.join(A)
        while time.monotonic() < end and audit.reloads < 60:
            comes = NatsClient(B, ground.clock, lab.addresses, lab.context(B))
            ground.rest(chance.uniform(0.0, 0.03))
            server.reload(ALL)
            ground.rest(0.02)
            comes.close()
            ground.rest(0.02)
            found += (one for one in audit.read() if one.what == "identity")
    assert audit.reloads > 5
    assert found == []
    audit.close()


def test_a_claim_is_told_with_the_name_that_was_proven(lab: Lab) -> None:
    (server,) = lab.servers
    audit = BrokerAudit(server.settings.log)
    with (
        socket.create_connection(server.address) as plain,
        lab.context(A).wrap_socket(plain, server_hostname=HOST) as tls,
        Ground(lab).closing() as ground,
    ):
        tls.sendall(b'CONNECT {"user":"%b"}\r\nPING\r\n' % B.uri.encode())
        claim = told(ground, audit, lambda one: one.what == "identity")
    assert (claim.who, claim.address) == (A.uri, HOST)
    assert B.uri in claim.detail
    audit.close()


def test_expired_certificates_stay_out_whatever_their_key(lab: Lab) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    expired = lab.authority.issue(A.uri, until=yesterday)
    keys = Keys(lab)
    keys.of[A] = key_of(expired)
    keys.reload()
    audit = BrokerAudit(lab.servers[0].settings.log)
    with Ground(lab).closing() as ground:
        client = ground.client(A, context=client_context(expired))
        assert told(ground, audit, lambda one: one.what == "certificate").who is None
        assert not client.connected
    audit.close()
