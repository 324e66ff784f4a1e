"""The configuration of one NATS server, as the file that it reads; users and their permissions.

**What must stand in a certificate.** With ``verify_and_map`` the server takes the first of these
that is one of its users: each e-mail address of the subject alternative name, then each DNS
name, then each URI, then the subject as a string. A certificate of an identity therefore has
exactly one alternative name, the URI of ``user_of``, and no other: with a DNS name or an
address it could be mapped to another user. The common name is for people and maps to nothing.
A certificate of a broker has its DNS names and addresses beside its URI, and no user is ever
called as a host.

**Accounts.** The account of the domain holds the streams, and only the brokers' own identities
are users of it. Every other identity has an account for itself. It has no JetStream, and what
leaves or enters it are its imports from the account of the domain, which are exactly its
permissions. A subject for an answer counts in the account of who asks: wherever a client aims an
answer of the server, it stays in the client's own account, or goes on as a message that the
client may send anyway. Of the interface of JetStream nothing is imported but direct reads, and
how streams are (STREAM.INFO).

What a client hears is imported under a prefix of its own (``heard_by``), so that what it sends does
not come back to it inside of its account as well, and servers tell the interest of one identity
from that of others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import EVENTS, REGISTRY, answers, token
from phalanx.bus.transports import server_text
from phalanx.bus.wire import MAX_OCTETS
from phalanx.identity.credentials import Files
from phalanx.identity.names import Identity, Role

CURSORS = "cursors"
"""The table of how far each durable follower has come; its keys are ``<follower>.<name>``."""
STREAMS = (EVENTS, f"KV_{REGISTRY}", f"KV_{CURSORS}")
"""The streams of a domain, those behind tables too."""
HEARD = "in_"
"""Begins what stands before each subject that a client hears of the others."""
DIRECT_GET = "$JS.API.DIRECT.GET"
INFO = "info"
"""What an identity calls ``STREAM.INFO``: as that its own account would answer it as well."""
_STREAM_INFO = "$JS.API.STREAM.INFO"
NOW = "$SYS.REQ.USER.INFO"
"""Asks the server for what it knows of the client; its answer has the server's time."""
_KEPT, _SAID = "kept", "said"
"""Begin, in the domain's account, what streams tell, and what comes from an identity's account. The
server would find a circle if that had the subjects under which it goes on to others."""
HEADER_OCTETS = 4096
"""Room for the headers of a message, which the server counts with its payload."""

_ROUTE_PING, _ROUTE_PINGS = "1s", 3
"""How often the servers of a cluster ask each other, and how many unanswered pings cut one."""

_ANSWERED_S = 10
"""How long the server keeps the way back for an answer that does not come."""

_HANDSHAKE_S = 5.0
_MIB = 1 << 20
Tree = dict[str, Any]


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
    connections_each: int = 32
    """Of one identity, so that a stolen key does not keep the others out."""
    subscriptions: int = 1024
    """For each connection."""
    waiting_octets: int = 16 * _MIB
    """What may wait for one connection before it is cut as a slow consumer."""
    write_s: float = 5.0
    """How long a connection may take nothing before it is cut."""
    file_octets: int = 4096 * _MIB
    """Of the streams in files."""


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


def configuration(settings: ServerSettings) -> Tree:
    """Return the configuration, which the server reads as JSON; it holds no secret."""
    limits = settings.limits
    tree: Tree = {
        "server_name": settings.name,
        "listen": server_text(settings.host, settings.port),
        "tls": _tls(settings.credentials, settings.keys)
        | {
            "verify_and_map": True,
            "handshake_first": True,
            "min_version": "1.3",
            "timeout": _HANDSHAKE_S,
        },
        "authorization": {"timeout": _HANDSHAKE_S},
        "accounts": {
            **_accounts(settings),
            "SYS": {"users": []},
        },
        "system_account": "SYS",
        "jetstream": {
            "store_dir": str(settings.directory / "jetstream"),
            "max_memory_store": 0,
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
        "logfile_size_limit": 16 * _MIB,
        "logfile_max_num": 5,
        "logtime_utc": True,
        "debug": True,  # what comes in and is not TLS is told at no other level
    }
    if settings.monitor_port is not None:
        tree["http"] = f"127.0.0.1:{settings.monitor_port}"
    if settings.cluster is not None:
        cluster = settings.cluster
        tree["cluster"] = {
            "name": settings.domain,
            "listen": server_text(cluster.host, cluster.port),
            "tls": _tls(settings.credentials, cluster.keys)
            | {"verify_cert_and_check_known_urls": True, "timeout": _HANDSHAKE_S},
            "routes": [f"nats://{server_text(*each)}" for each in cluster.routes],
            "ping_interval": _ROUTE_PING,
            "ping_max": _ROUTE_PINGS,
            "no_advertise": True,  # clients know the servers by the names in their certificates
        }
    return tree


def declared(before: Tree, after: Tree) -> Tree | None:
    """Return the configuration between two of a running server; None: there is no need of one.

    An account that comes at a reload has no imports until it is there at the next one
    (nats-server 2.15, ``configureAccounts``). Until a server knows an account it ignores the
    subscriptions that others name for it, also for later; it is told of those again that it
    refused, once it does no more (``reloadClusterPermissions``).
    """
    fresh = after["accounts"].keys() - before["accounts"].keys()
    if not fresh:
        return None
    between = before | {"accounts": before["accounts"] | {name: {} for name in sorted(fresh)}}
    if "cluster" in before:
        names = sorted(name.rpartition("/")[2] for name in fresh)
        refused = {"export": {"deny": [f"{HEARD}{name}.>" for name in names]}}
        between["cluster"] = before["cluster"] | {"permissions": refused}
    return between


def kept_accounts(before: Tree, after: Tree) -> Tree:
    """Return ``after`` with all accounts of ``before``, without users.

    A server forgets with an account what others subscribed to in it, but not that they did: of
    an account that comes back it would take no subscription from them.
    """
    return after | {"accounts": {name: {} for name in before["accounts"]} | after["accounts"]}


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


def _accounts(settings: ServerSettings) -> dict[str, Any]:
    """Return the account of the domain, and one for each identity that is no broker."""
    domain, accounts = settings.domain, {}
    users, heard = [], []
    messages = f"phx.{token(domain)}.>"
    for identity in sorted(settings.identities, key=user_of):
        permissions = permissions_of(identity)
        allowed = {verb: {"allow": patterns} for verb, patterns in asdict(permissions).items()}
        user = {"user": user_of(identity), "permissions": allowed}
        if identity.role is Role.BROKER:
            users.append(user)
            continue
        name, imports, exports = f"{identity.role.value}/{token(identity.name)}", [], []
        for subject in permissions.publish:
            inner = subject.replace(f"{INFO}.", f"{_STREAM_INFO}.")
            if subject.startswith("phx."):
                inner = f"{_SAID}.{subject}"
            if subject != NOW:  # which every account has
                service = {"account": domain, "subject": inner}
                imports.append({"service": service, "to": subject})
        for local in permissions.subscribe:
            root, _, subject = local.partition(".")
            if subject.startswith("phx."):
                exports.append({"service": local, "accounts": [domain]})
                heard.append({"service": {"account": name, "subject": local}, "to": subject})
            elif root == heard_by(identity):
                told = {"account": domain, "subject": subject}
                imports.append({"stream": told, "prefix": root})
        limits = {"max_connections": settings.limits.connections_each}
        accounts[name] = {"users": [user], "limits": limits, "exports": exports, "imports": imports}
    each = {"threshold": f"{_ANSWERED_S}s"}
    accounts[domain] = {
        "jetstream": "enabled",
        "users": users,
        "mappings": {f"{_SAID}.{messages}": messages},
        "imports": heard,
        "exports": [
            {"stream": f"{_KEPT}.>"},
            {"service": f"{_SAID}.{messages}"} | each,
            {"service": "$KV.>"} | each,
            {"service": f"{_STREAM_INFO}.*"} | each,
            {"service": f"{DIRECT_GET}.>", "response": "stream"} | each,
        ],
    }
    return accounts


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


def heard_by(identity: Identity) -> str:
    """Return what stands before each subject that ``identity`` hears of the others."""
    return f"{HEARD}{token(identity.name)}"


def bucket(table: str) -> str:
    """Return the name of the stream behind a table (a bucket of the NATS key-value store)."""
    return f"KV_{table}"


def entry(table: str, key: str) -> str:
    """Return the subject of a key of a table."""
    return f"$KV.{table}.{key}"


def cursor_key(identity: Identity, stream: str, durable: str) -> str:
    """Return the key under which ``identity`` remembers how far it has read a stream."""
    return f"{token(identity.name)}.{token(stream)}-{token(durable)}"


def kept(stream: str) -> str:
    """Return the pattern under which the server tells what a stream has taken."""
    return f"{_KEPT}.{stream}.>"


def permissions_of(identity: Identity) -> Permissions:
    """Return the permissions that ``identity`` needs for what it is granted, and no more."""
    granted = grants(identity)
    publish = [*granted.publish, *filter(None, map(answers, granted.subscribe))]
    publish += (entry(table, key) for table, key in granted.put)
    read = [*map(bucket, granted.watch), *granted.follow]
    publish += (f"{DIRECT_GET}.{stream}" for stream in read)
    if granted.follow:
        own = entry(CURSORS, f"{token(identity.name)}.*")
        publish += (f"{INFO}.{stream}" for stream in STREAMS)
        publish += (own, NOW, f"{DIRECT_GET}.{bucket(CURSORS)}.{own}")
    if identity.role is Role.BROKER:
        publish.append("$JS.API.>")
    heard = (*granted.subscribe, *filter(None, map(answers, granted.publish)), *map(kept, read))
    root = heard_by(identity)
    subscribe = (*(f"{root}.{subject}" for subject in heard), f"{inbox_of(identity)}.>")
    return Permissions(tuple(publish), subscribe)
