"""Throw-away identities and NATS servers on the loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError
from phalanx.bus.nats.audit import BrokerAudit, BrokerRefusal
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import Cluster, ServerLimits, ServerSettings
from phalanx.bus.nats.server import (
    DEFAULT_RETENTION,
    NatsServer,
    StreamRetention,
    find_server,
    setup,
)
from phalanx.clock.wall import WallClock
from phalanx.identity.credentials import Files
from phalanx.identity.names import Identity, Role

DOMAIN = "lab"
HOST = "127.0.0.1"
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)

KEEPER = Identity("keeper", Role.BROKER, DOMAIN)
A = Identity("a", Role.AGENT, DOMAIN)
B = Identity("b", Role.AGENT, DOMAIN)
NETWORK = Identity("net", Role.NETWORK, DOMAIN)
RECORDER = Identity("rec", Role.RECORDER, DOMAIN)
ORCHESTRATOR = Identity("orc", Role.ORCHESTRATOR, DOMAIN)
OPERATOR = Identity("op", Role.OPERATOR, DOMAIN)
OBSERVER = Identity("eye", Role.OBSERVER, DOMAIN)
ALL = (KEEPER, A, B, NETWORK, RECORDER, ORCHESTRATOR, OPERATOR, OBSERVER)


def needs_server() -> None:
    """Skip the module with one line if the server's program is not here."""
    try:
        find_server()
    except BrokerError as error:
        pytest.skip(str(error), allow_module_level=True)


class Authority:
    """A certification authority that lives as long as its directory."""

    def __init__(self, directory: Path, name: str = "lab") -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(self._name, self._key, NOW - DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = self.directory / "ca.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        uri: str,
        *,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        until: dt.datetime = NOW + DAY,
        common_name: str = "someone",
    ) -> Files:
        """Certify that the bearer is ``uri``; with names and addresses also a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
        names += map(x509.DNSName, dns)
        names += (x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        usages += [ExtendedKeyUsageOID.SERVER_AUTH] * bool(dns or addresses)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            self._builder(subject, key, min(until, NOW) - DAY, until)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        place = self.directory / os.urandom(8).hex()
        place.mkdir()
        made = Files(place / "cert.pem", place / "key.pem", self.path, place / "crl.pem")
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def certify(self, identity: Identity) -> Files:
        """Certify an identity as the product does."""
        return self.issue(identity.uri, common_name=identity.name)

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        since: dt.datetime,
        until: dt.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )


def client_context(credentials: Files) -> ssl.SSLContext:
    """Return the TLS of a client: version 1.3, the server's name checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(credentials.authority)
    context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def free_ports(count: int) -> list[int]:
    """Return ports that the kernel has free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Lab:
    """A domain of identities and its servers."""

    def __init__(self, directory: Path, identities: Iterable[Identity] = ALL) -> None:
        self.directory = directory
        self.identities = tuple(identities)
        self.authority = Authority(directory)
        self.servers: list[NatsServer] = []
        self._contexts: dict[Identity, ssl.SSLContext] = {}

    def add_servers(self, count: int = 1, limits: ServerLimits | None = None) -> list[NatsServer]:
        """Make servers that are not yet started; more than one are a cluster."""
        ports, routes = free_ports(count), free_ports(count)
        for number in range(count):
            credentials = self.authority.issue(
                f"phalanx://{DOMAIN}/broker/server{number}", dns=[HOST], addresses=[HOST]
            )
            cluster = Cluster(HOST, routes[number], tuple((HOST, port) for port in routes))
            settings = ServerSettings(
                name=f"server{number}",
                domain=DOMAIN,
                directory=self.directory / f"server{number}",
                host=HOST,
                port=ports[number],
                credentials=credentials,
                identities=self.identities,
                cluster=cluster if count > 1 else None,
                limits=limits or ServerLimits(),
            )
            self.servers.append(NatsServer(settings))
        return self.servers

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the servers listen."""
        return [server.address for server in self.servers]

    def context(self, identity: Identity) -> ssl.SSLContext:
        """Return the TLS of an identity, certified once."""
        if identity not in self._contexts:
            self._contexts[identity] = client_context(self.authority.certify(identity))
        return self._contexts[identity]


@contextmanager
def running(lab: Lab) -> Iterator[Lab]:
    """Start the lab's servers, and end them by their ids."""
    try:
        for server in lab.servers:
            server.start(within_s=60.0)
        yield lab
    finally:
        for server in lab.servers:
            server.stop(within_s=5.0)


class Ground:
    """Where clients of the lab meet, on one clock."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.clock = WallClock()
        self.clients: list[NatsClient] = []

    @classmethod
    @contextmanager
    def at_servers(
        cls,
        directory: Path,
        count: int = 1,
        *,
        limits: ServerLimits | None = None,
        identities: Iterable[Identity] = ALL,
        retention: StreamRetention = DEFAULT_RETENTION,
        streams: bool = True,
    ) -> Iterator[Ground]:
        """Meet at so many servers; unless told otherwise their streams were set up."""
        lab = Lab(directory, identities)
        lab.add_servers(count, limits)
        with running(lab), cls(lab).closing() as ground:
            if streams:
                setup(
                    KEEPER,
                    lab.addresses,
                    lab.context(KEEPER),
                    retention=retention,
                    replicas=count,
                )
            yield ground

    @contextmanager
    def closing(self) -> Iterator[Ground]:
        """Close the clients and the clock in the end."""
        try:
            yield self
        finally:
            for client in self.clients:
                client.finish(within_s=1.0)
            self.clock.close()

    def join(self, identity: Identity, **options: Any) -> NatsClient:
        """Return an client that is connected."""
        client = self.client(identity, **options)
        client.ready(60.0)
        return client

    def client(
        self,
        identity: Identity,
        addresses: Sequence[tuple[str, int]] = (),
        context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> NatsClient:
        """Return a client that begins to connect."""
        made = NatsClient(
            identity,
            self.clock,
            addresses or self.lab.addresses,
            context or self.lab.context(identity),
            **options,
        )
        self.clients.append(made)
        return made

    def until(self, true: Callable[[], bool], within_s: float = 60.0) -> None:
        """Run the clock until ``true`` holds; fail if it never does."""
        end = self.clock.now() + within_s
        while not true() and self.clock.now() < end:
            self.clock.run(until=min(end, self.clock.now() + 0.01), stop=true)
        assert true()

    def rest(self, seconds: float = 0.15) -> None:
        """Run the clock until the servers have taken what they were sent, and a while longer."""
        links = [c._connection for c in self.clients if c.connected]
        taken = [self.clock.loop.create_task(flush(link)) for link in links]
        self.until(lambda: all(each.done() for each in taken))
        self.clock.run(until=self.clock.now() + seconds)


async def flush(link: Any) -> None:
    """Wait for a pong: one that was asked for on a connection since lost never comes."""
    while not link._closing:
        with suppress(TimeoutError):
            await link.nats.flush(5)
            return


def told(
    ground: Ground, audit: BrokerAudit, fits: Callable[[BrokerRefusal], bool]
) -> BrokerRefusal:
    """Wait until the audit tells of something."""
    found: list[BrokerRefusal] = []

    def look() -> bool:
        found.extend(one for one in audit.read() if fits(one))
        return bool(found)

    ground.until(look)
    return found[0]


def leader(ground: Ground) -> NatsServer:
    """Return the server that leads the stream of events."""
    keeper = ground.join(KEEPER)
    found: list[str] = []

    def ask() -> None:
        keeper.administer(f"STREAM.INFO.{subjects.EVENTS}", {}, take)

    def take(reply: dict[str, Any]) -> None:
        name = reply.get("cluster", {}).get("leader")
        if name:
            found.append(name)
        else:
            ask()

    ask()
    ground.until(lambda: bool(found))
    keeper.close()
    return next(server for server in ground.lab.servers if server.settings.name == found[0])
