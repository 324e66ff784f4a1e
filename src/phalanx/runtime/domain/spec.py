"""The files of a domain: ``domain.toml`` of its keeper, ``bus.toml`` of each identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from phalanx.bus.transports import server_text
from phalanx.domain.errors import ScenarioError
from phalanx.identity.authority import DAYS
from phalanx.identity.certificates import host_name
from phalanx.identity.credentials import Credentials, Files, LiveCredentials
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.loading import Name, nearest, parse_toml_as, read_toml, show
from phalanx.runtime.scenario import Port

PORT = 4222
CLUSTER_STEP = 2000
"""Brokers of a cluster meet at a port so far from that of their clients (NATS: 4222, 6222)."""
Host = Annotated[str, Meta(min_length=1, max_length=253)]
FileName = Annotated[str, Meta(min_length=1, max_length=4000)]
RESERVED = ("operator", "recorder")
"""Identities that every domain has from the beginning; their roles have the same names."""


class BrokerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A broker: where the agents reach it, and the other brokers."""

    name: Name
    host: Host
    """DNS name or address that agents connect to; it stands in the broker's certificate."""
    port: Port = PORT
    listen: Host | None = None
    """Address of its machine to listen on; none: ``host``."""
    cluster_port: Port | None = None
    """Where the other brokers reach it; none: 2000 above ``port``, or below."""
    monitor_port: Port | None = None
    """Where it tells figures of itself, on the loopback alone; none: nowhere."""

    @property
    def meets_at(self) -> int:
        """The port for the other brokers."""
        if self.cluster_port is not None:
            return self.cluster_port
        above = self.port + CLUSTER_STEP
        return above if above <= 65_535 else self.port - CLUSTER_STEP

    @property
    def server(self) -> str:
        """Where agents connect to, as it stands in their files."""
        return server_text(self.host, self.port)


class LimitsSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What the brokers bear and keep."""

    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """Processes connected to one broker at a time."""
    history_days: Annotated[float, Meta(gt=0, le=36_500)] = 7.0
    """Age from which on events are dropped from the brokers; a recorder keeps them longer."""
    history_gb: Annotated[float, Meta(gt=0, le=100_000)] = 2.0
    """Size from which on the oldest events are dropped, at each broker that keeps them."""


Transport = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9+.-]*\Z", max_length=64)]
"""Scheme of a transport: ``nats``, or one of another package (``phalanx.bus.transports``)."""


class DomainSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A domain: the set of agents that work together, and their brokers."""

    name: Name
    brokers: Annotated[tuple[BrokerSpec, ...], Meta(min_length=1, max_length=9)]
    """One, or an odd number of which fewer than half may fail."""
    certificate_days: Annotated[int, Meta(ge=1, le=3650)] = DAYS
    """How long certificates are valid."""
    limits: LimitsSpec = LimitsSpec()
    transport: Transport = "nats"
    """What carries it. Brokers of another transport are started by their own means."""


class BusSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How one identity reaches the brokers; file names are relative to the file itself."""

    domain: Name
    name: Name
    role: Role
    servers: Annotated[tuple[Host, ...], Meta(min_length=1, max_length=9)]
    """``HOST:PORT`` of each broker."""
    certificate: FileName = "cert.pem"
    key: FileName = "key.pem"
    authority: FileName = "ca.pem"
    revoked: FileName = "crl.pem"
    """Certificates that were taken back; no such file: none were."""
    transport: Transport = "nats"


class Bundle(Struct, frozen=True):
    """All that a process needs to act under an identity of a domain."""

    identity: Identity
    servers: tuple[tuple[str, int], ...]
    """(host, port) of each broker."""
    live: LiveCredentials
    transport: str = "nats"

    @property
    def url(self) -> str:
        """The brokers, as ``open_broker`` takes them."""
        return f"{self.transport}://{','.join(server_text(*server) for server in self.servers)}"

    @property
    def credentials(self) -> Credentials:
        """Those in use now."""
        return self.live.present


def read_domain(path: Path) -> DomainSpec:
    """Return the domain that ``domain.toml`` describes.

    Raises:
        ScenarioError: with one line ``FILE: FIELD: what is wrong; what is allowed``.

    """
    spec = read_toml(DomainSpec, path)
    _check(spec, str(path))
    return spec


def parse_domain(text: str, name: str) -> DomainSpec:
    """Return the domain that ``text`` describes; ``name`` stands for it in errors.

    Raises:
        ScenarioError: as ``read_domain``.

    """
    spec = parse_toml_as(DomainSpec, text, name)
    _check(spec, name)
    return spec


def read_bundle(path: Path) -> Bundle:
    """Return who a process is and what it proves that with, from its ``bus.toml``.

    Raises:
        ScenarioError: if the file is not usable; as ``read_domain``.
        IdentityError: if its certificate or key is not, or is another's.

    """
    spec = read_toml(BusSpec, path)
    folder = path.parent
    live = LiveCredentials(
        Files(
            folder / spec.certificate,
            folder / spec.key,
            folder / spec.authority,
            folder / spec.revoked,
        )
    )
    identity = Identity(spec.name, spec.role, spec.domain)
    if live.present.identity != identity:
        raise IdentityError(
            f"{folder / spec.certificate}: is that of {live.present.identity.uri}; "
            f"{path} says {identity.uri}"
        )
    servers = tuple(
        split_server(server, f"{path}: servers[{place}]")
        for place, server in enumerate(spec.servers)
    )
    return Bundle(identity, servers, live, spec.transport)


def split_server(text: str, where: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises:
        ScenarioError: if it is none; the line begins with ``where``.

    """
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, port = text, str(PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host_name(host)
    except IdentityError as error:
        raise ScenarioError(f"{where}: {error}") from None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ScenarioError(f"{where}: {show(port)} is no port; allowed are 1 to 65535")
    return host, int(port)


def domain_text(spec: DomainSpec) -> str:
    """Return ``domain.toml`` for a new domain."""
    lines = [
        "# A domain of agents that work together, and the brokers that carry what they say.",
        "# After a change of the brokers: phalanx domain add, then phalanx domain up.",
        f"name = {_quoted(spec.name)}",
        f"certificate_days = {spec.certificate_days}",
        *_transport_lines(spec),
    ]
    for broker in spec.brokers:
        lines += [
            "",
            "[[brokers]]",
            f"name = {_quoted(broker.name)}",
            f"host = {_quoted(broker.host)}  # where agents connect to",
            f"port = {broker.port}",
        ]
        if len(spec.brokers) > 1:
            lines.append(f"cluster_port = {broker.meets_at}  # where the other brokers do")
    limits = spec.limits
    lines += [
        "",
        "[limits]",
        f"connections = {limits.connections}",
        f"history_days = {limits.history_days}",
        f"history_gb = {limits.history_gb}",
    ]
    return "\n".join(lines) + "\n"


def bus_text(identity: Identity, spec: DomainSpec) -> str:
    """Return ``bus.toml`` of an identity."""
    servers = ", ".join(_quoted(broker.server) for broker in spec.brokers)
    return (
        f"# Who this process is in the domain {identity.domain}, and how it reaches the brokers.\n"
        f"# key.pem proves it: keep it to this machine and readable by its owner alone.\n"
        f"domain = {_quoted(identity.domain)}\n"
        f"name = {_quoted(identity.name)}\n"
        f"role = {_quoted(identity.role.value)}\n"
        f"servers = [{servers}]\n"
        + "".join(f"{line}\n" for line in _transport_lines(spec))
        + 'certificate = "cert.pem"\n'
        'key = "key.pem"\n'
        'authority = "ca.pem"\n'
        'revoked = "crl.pem"\n'
    )


def role_named(text: str) -> Role:
    """Return the role of this name.

    Raises:
        ScenarioError: if there is none.

    """
    names = [role.value for role in Role]
    if text not in names:
        raise ScenarioError(
            f"{show(text)} is no role; allowed are {', '.join(names)}{nearest(text, names)}"
        )
    return Role(text)


def _check(spec: DomainSpec, name: str) -> None:
    """Refuse what the types allow and no domain can be."""
    count = len(spec.brokers)
    if count % 2 == 0:
        raise ScenarioError(
            f"{name}: brokers: there are {count}; allowed are 1, 3, 5, 7 or 9: "
            "a cluster goes on while more than half of it does"
        )
    seen = dict.fromkeys(RESERVED, "an identity that every domain has")
    for place, broker in enumerate(spec.brokers):
        field = f"brokers[{place}]"
        try:
            host_name(broker.host)
        except IdentityError as error:
            raise ScenarioError(f"{name}: {field}.host: {error}") from None
        ports = [broker.port, broker.meets_at if count > 1 else None, broker.monitor_port]
        for use in (broker.name, *(f"{broker.host}:{port}" for port in ports if port)):
            if use in seen:
                raise ScenarioError(f"{name}: {field}: {use} is taken by {seen[use]}")
            seen[use] = field


def _transport_lines(spec: DomainSpec) -> list[str]:
    return [] if spec.transport == "nats" else [f"transport = {_quoted(spec.transport)}"]


def _quoted(text: str) -> str:
    return json.dumps(text)  # a JSON string of printable signs is one of TOML
