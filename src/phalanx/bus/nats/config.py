"""The configuration of one NATS server, as the file that it reads; users and their permissions.

**What must stand in a certificate.** With ``verify_and_map`` the server takes the first of these
that is one of its users: each e-mail address of the subject alternative name, then each DNS
name, then each URI, then the subject as a string. A certificate of an identity therefore has
exactly one alternative name, the URI of ``user_of``, and no other: with a DNS name or an
address it could be mapped to another user. The common name is for people and maps to nothing.
A certificate of a broker has its DNS names and addresses beside its URI, and no user is ever
called as a host.

**What is not granted.** Three powers of NATS look harmless and are not; tests hold each:

- ``allow_responses`` lets a client publish wherever a request asks for the answer. Who sends a
  request to itself may then publish anywhere, also where it is denied. Answers have subjects
  of their own instead (``subjects.answers``).
- Direct reads of a stream put what one client wrote under the subject that the reader names, so
  that it seems to be said by another. No user has them, and the tables forbid them.
- Who may read from a durable consumer of another takes what is meant for the other. Consumers
  have names that cannot be guessed; how far a follower has come is kept in a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import answers, token
from phalanx.bus.wire import MAX_OCTETS
from phalanx.identity import Files
from phalanx.identity.names import Identity, Role

CURSORS = "cursors"
"""The table of how far each durable follower has come; its keys are ``<follower>.<name>``."""
HEADER_OCTETS = 4096
"""Room for the headers of a message, which the server counts with its payload."""

_ROUTE_PING, _ROUTE_PINGS = "1s", 3
"""How often the servers of a cluster ask each other, and how many unanswered pings cut one."""

_MIB = 1 << 20


class Cluster(Struct, frozen=True):
    """What makes several servers one."""

    host: str
    port: int
    """Where the others reach this server."""
    routes: tuple[tuple[str, int], ...]
    """(host, port) of every member, itself too. A server is let in whose certificate has one
    of these hosts as a DNS name – also a host that is an address. Those of agents have none."""
    keys: tuple[str, ...] | None = None
    """As ``ServerSettings.keys``, of the members."""


class ServerLimits(Struct, frozen=True):
    """What a server bears before it refuses or cuts a connection."""

    connections: int = 1024
    subscriptions: int = 1024
    """For each connection."""
    waiting_octets: int = 16 * _MIB
    """What may wait for one connection before it is cut as a slow consumer."""
    write_s: float = 5.0
    """How long a connection may take nothing before it is cut."""
    handshake_s: float = 5.0
    memory_octets: int = 64 * _MIB
    """Of the streams in memory, which hold where readers stand."""
    file_octets: int = 4096 * _MIB
    """Of the streams in files."""
    log_octets: int = 16 * _MIB
    """A longer log is set aside, and a new one begun."""
    logs: int = 5
    """So many logs are kept."""


class ServerSettings(Struct, frozen=True):
    """One server of a domain."""

    name: str
    domain: str
    directory: Path
    """Its own; holds its configuration, its log, its process id and what streams keep."""
    host: str
    port: int
    credentials: Files
    identities: tuple[Identity, ...]
    """Who may connect, the broker's own identity too."""
    keys: tuple[str, ...] | None = None
    """With which keys: the SHA-256 of each one's SubjectPublicKeyInfo, hexadecimal. A certificate
    with another key is refused. None: with any key that the authority certified."""
    cluster: Cluster | None = None
    monitor_port: int | None = None
    """Where it tells figures of itself, on the loopback; None: nowhere."""
    limits: ServerLimits = ServerLimits()

    @property
    def configuration(self) -> Path:
        """The file that the server reads."""
        return self.directory / "nats.conf"

    @property
    def log(self) -> Path:
        """The file that the server writes its log to."""
        return self.directory / "nats.log"

    @property
    def pid_file(self) -> Path:
        """The file with the id of the server's process."""
        return self.directory / "nats.pid"


def configuration(settings: ServerSettings) -> str:
    """Return the text of the configuration file; it holds no secret."""
    limits = settings.limits
    tree: dict[str, Any] = {
        "server_name": settings.name,
        "listen": f"{settings.host}:{settings.port}",
        "tls": _tls(settings.credentials, settings.keys)
        | {
            "verify_and_map": True,
            "handshake_first": True,
            "min_version": "1.3",
            "timeout": limits.handshake_s,
        },
        "authorization": {"timeout": limits.handshake_s},
        "accounts": {
            settings.domain: {"jetstream": "enabled", "users": _users(settings.identities)},
            "SYS": {"users": []},
        },
        "system_account": "SYS",
        "jetstream": {
            "store_dir": str(settings.directory / "jetstream"),
            "max_memory_store": limits.memory_octets,
            "max_file_store": limits.file_octets,
        },
        "max_payload": MAX_OCTETS + HEADER_OCTETS,
        "max_pending": limits.waiting_octets,
        "max_control_line": 4096,
        "max_connections": limits.connections,
        "max_subscriptions": limits.subscriptions,
        "write_deadline": f"{limits.write_s}s",
        "ping_interval": "10s",
        "ping_max": 2,
        "lame_duck_grace_period": "1s",
        "lame_duck_duration": "30s",
        "pid_file": str(settings.pid_file),
        "log_file": str(settings.log),
        "logfile_size_limit": limits.log_octets,
        "logfile_max_num": limits.logs,
        "logtime_utc": True,
        "debug": True,  # what comes in and is not TLS is told at no other level
    }
    if settings.monitor_port is not None:
        tree["http"] = f"127.0.0.1:{settings.monitor_port}"
    if settings.cluster is not None:
        cluster = settings.cluster
        tree["cluster"] = {
            "name": settings.domain,
            "listen": f"{cluster.host}:{cluster.port}",
            "tls": _tls(settings.credentials, cluster.keys)
            | {"verify_cert_and_check_known_urls": True, "timeout": limits.handshake_s},
            "routes": [f"nats://{host}:{port}" for host, port in cluster.routes],
            "ping_interval": _ROUTE_PING,
            "ping_max": _ROUTE_PINGS,
            "no_advertise": True,  # clients know the servers by the names in their certificates
        }
    return json.dumps(tree, indent=1) + "\n"


def keys_in(path: Path) -> frozenset[str]:
    """Return the keys that a configuration file lets in; none if it names none or is not there."""
    try:
        return frozenset(json.loads(path.read_text())["tls"]["pinned_certs"])
    except (OSError, ValueError, KeyError):
        return frozenset()


def _tls(credentials: Files, keys: tuple[str, ...] | None) -> dict[str, Any]:
    tls: dict[str, Any] = {
        "cert_file": str(credentials.certificate),
        "key_file": str(credentials.key),
        "ca_file": str(credentials.authority),
    }
    if keys is not None:
        tls["pinned_certs"] = sorted(set(keys))
    return tls


def _users(identities: Iterable[Identity]) -> list[dict[str, Any]]:
    users = []
    for identity in sorted(identities, key=user_of):
        permissions = permissions_of(identity)
        users.append(
            {
                "user": user_of(identity),
                "permissions": {
                    "publish": {"allow": list(permissions.publish)},
                    "subscribe": {"allow": list(permissions.subscribe)},
                },
            }
        )
    return users


class Permissions(Struct, frozen=True):
    """What a user may publish and subscribe, as patterns of NATS."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def user_of(identity: Identity) -> str:
    """Return the server's name of ``identity``: the URI in its certificate."""
    return identity.uri


def inbox_of(identity: Identity) -> str:
    """Return the subject below which the server answers ``identity`` and no other user."""
    return f"_INBOX_{token(identity.name)}"


def bucket(table: str) -> str:
    """Return the name of the stream behind a table (a bucket of the NATS key-value store)."""
    return f"KV_{table}"


def entry(table: str, key: str) -> str:
    """Return the subject of a key of a table."""
    return f"$KV.{table}.{key}"


def cursor_key(identity: Identity, stream: str, durable: str) -> str:
    """Return the key under which ``identity`` remembers how far it has read a stream."""
    return f"{token(identity.name)}.{token(stream)}-{token(durable)}"


def permissions_of(identity: Identity) -> Permissions:
    """Return the permissions that ``identity`` needs for what it is granted, and no more."""
    granted = grants(identity)
    publish = list(granted.publish)
    publish += filter(None, map(answers, granted.subscribe))
    publish += (entry(table, key) for table, key in granted.put)
    for table in granted.watch:
        publish += _reading(bucket(table), entry(table, ">"))
    for stream in granted.follow:
        publish += _reading(stream)
    if granted.follow:
        own = entry(CURSORS, f"{token(identity.name)}.*")
        publish += (own, *_reading(bucket(CURSORS), own))
    if identity.role is Role.BROKER:
        publish.append("$JS.API.>")
    subscribe = (*granted.subscribe, *filter(None, map(answers, granted.publish)))
    return Permissions(tuple(publish), (*subscribe, f"{inbox_of(identity)}.>"))


def _reading(stream: str, only: str | None = None) -> tuple[str, ...]:
    """Return what reading a stream takes; with ``only``, no more than those subjects."""
    create = f"$JS.API.CONSUMER.CREATE.{stream}.*"
    creations = (create, f"{create}.>") if only is None else (f"{create}.{only}",)
    return (*creations, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*")
