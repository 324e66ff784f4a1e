"""The brokers of a domain that run on this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.config import Cluster, ServerLimits, ServerSettings
from phalanx.bus.nats.server import NatsServer, StreamRetention, setup
from phalanx.identity.credentials import Credentials, Files, tls_context
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec

_GB = 1 << 30
_DAY_S = 86_400.0


class Brokers:
    """Starts, tells of changes and stops the brokers of this machine.

    Args:
        domain: whose they are.
        names: which of them; none: all whose address is one of this machine's.

    Raises:
        IdentityError: if one has no certificate, there is none of a name, none is of this
            machine, or they are not NATS servers.

    """

    def __init__(self, domain: Domain, names: Sequence[str] = ()) -> None:
        self.domain = domain
        if domain.spec.transport != "nats":
            raise IdentityError(
                f"{domain.folder}: its transport is {domain.spec.transport}, whose brokers are "
                "not started here"
            )
        known = {broker.name: broker for broker in domain.spec.brokers}
        for name in names:
            if name not in known:
                raise IdentityError(f"there is no broker {name!r}; there are {', '.join(known)}")
        self.specs = tuple(
            broker
            for broker in domain.spec.brokers
            if (broker.name in names if names else is_here(broker.listen or broker.host))
        )
        if not self.specs:
            hosts = ", ".join(broker.host for broker in domain.spec.brokers)
            raise IdentityError(f"no broker is of this machine; the domain's are at {hosts}")
        self.servers = tuple(map(self._server, self.specs))

    @property
    def running(self) -> tuple[str, ...]:
        """The names of those that run."""
        return tuple(s.settings.name for s in self.servers if s.pid is not None)

    @property
    def complete(self) -> bool:
        """Whether these are all brokers of the domain."""
        return len(self.specs) == len(self.domain.spec.brokers)

    def start(self) -> tuple[str, ...]:
        """Start those that do not run; all or none. Return their names.

        They are processes of their own sessions: what ends this process does not end them.

        Raises:
            BrokerError: if one does not start.

        """
        started: list[NatsServer] = []
        try:
            for server in self.servers:
                if server.pid is None:
                    server.start(detached=True)
                    started.append(server)
        except (BrokerError, KeyboardInterrupt):
            for server in started:
                server.stop()
            raise
        return tuple(server.settings.name for server in started)

    def prepare(self, within_s: float = 30.0) -> None:
        """Make the streams and tables that the domain needs, or find them there.

        Raises:
            BrokerError: if the cluster is not there within this time.

        """
        folder = self.domain.broker(self.specs[0].name)
        credentials = Credentials.read(Files.of(folder))
        limits = self.domain.spec.limits
        setup(
            credentials.identity,
            [(broker.host, broker.port) for broker in self.domain.spec.brokers],
            tls_context(Files.of(folder)),
            replicas=min(3, len(self.domain.spec.brokers)),
            retention=StreamRetention(
                age_s=limits.history_days * _DAY_S, octets=int(limits.history_gb * _GB)
            ),
            within_s=within_s,
        )

    def reload(self) -> tuple[str, ...]:
        """Tell those that run who belongs to the domain now; return their names.

        Revoked identities are cut off there, and the brokers show their own certificates as they
        are now.

        Raises:
            BrokerError: if one did not take it; it goes on as before, the others know.

        """
        failed: BrokerError | None = None
        with self.domain.alone():  # so that a later command's news are not undone by an earlier's
            admission = _Admission.of(self.domain)
            running = [server for server in self.servers if server.pid is not None]
            for server in running:
                try:
                    server.reload(admission.identities, admission.keys, admission.route_keys)
                except BrokerError as error:
                    failed = failed or error
        if failed is not None:
            raise failed
        return tuple(server.settings.name for server in running)

    def stop(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """Stop those of ``names`` that run, or all; return the names of those that did."""
        running = [name for name in self.running if names is None or name in names]
        for server in self.servers:
            if server.settings.name in running:
                server.stop()
        return tuple(running)

    def log(self, name: str) -> Path:
        """Return the file that a broker of this machine writes its log to."""
        return next(s.settings.log for s in self.servers if s.settings.name == name)

    def _server(self, broker: BrokerSpec) -> NatsServer:
        spec, folder = self.domain.spec, self.domain.broker(broker.name)
        if not folder.is_dir():
            raise IdentityError(
                f"the broker {broker.name} has no certificate; "
                f"phalanx domain add {self.domain.folder} {broker.name} --role broker makes one"
            )
        listen = broker.listen or broker.host
        own = Files.of(folder.resolve())
        admission, cluster = _Admission.of(self.domain), None
        if len(spec.brokers) > 1:
            routes = tuple((other.host, other.meets_at) for other in spec.brokers)
            cluster = Cluster(listen, broker.meets_at, routes, admission.route_keys)
        return NatsServer(
            ServerSettings(
                name=broker.name,
                domain=spec.name,
                directory=folder.resolve() / "server",
                host=listen,
                port=broker.port,
                credentials=own,
                identities=admission.identities,
                keys=admission.keys,
                cluster=cluster,
                monitor_port=broker.monitor_port,
                limits=ServerLimits(
                    connections=spec.limits.connections,
                    # A server books a stream that it is told of again as if it came on top.
                    file_octets=int((2 * spec.limits.history_gb + 1) * _GB),
                ),
            )
        )


class _Admission(Struct, frozen=True):
    """Who may connect, and with which keys."""

    identities: tuple[Identity, ...]
    keys: tuple[str, ...]
    route_keys: tuple[str, ...]

    @classmethod
    def of(cls, domain: Domain) -> _Admission:
        members = domain.admitted()
        brokers = tuple(m.key for m in members if m.identity.role is Role.BROKER)
        return cls(tuple(m.identity for m in members), tuple(m.key for m in members), brokers)


def is_here(host: str) -> bool:
    """Whether ``host`` is a name or an address of this machine."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as tried:
            try:
                tried.bind(address)
            except OSError:
                continue
            return True
    return False
