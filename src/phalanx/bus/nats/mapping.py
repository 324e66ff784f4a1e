"""From identities to users of a NATS server, and from their grants to its permissions.

**What must stand in a certificate.** With ``verify_and_map`` the server takes the first of these
that is one of its users: each e-mail address of the subject alternative name, then each DNS
name, then each URI, then the subject as a string. A certificate of an identity therefore has
exactly one alternative name, the URI of ``user_of``, and no other: with a DNS name or an
address it could be somebody else. The common name is for people to read and maps to nothing.
A certificate of a broker has its DNS names and addresses beside its URI, and no user is ever
called as a host.

**What is not granted.** Three powers of NATS look harmless and are not; tests hold each:

- ``allow_responses`` lets a client publish wherever a request asks for the answer. Who sends a
  request to itself may then publish anywhere, also where it is denied. Answers have subjects
  of their own instead (``subjects.answers``).
- Direct reads of a stream put what somebody wrote under the subject that the reader names, so
  that it seems to be said by another. Nobody has them, and the tables forbid them.
- Who may read from a durable consumer of another takes what is meant for the other. Consumers
  have names that cannot be guessed; how far a follower has come is kept in a table.
"""

from __future__ import annotations

from msgspec import Struct

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import answers, token
from phalanx.identity.names import Identity, Role

CURSORS = "cursors"
"""The table of how far each durable follower has come; its keys are ``<follower>.<name>``."""


class Permissions(Struct, frozen=True):
    """What a user may publish and subscribe, as patterns of NATS."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def user_of(identity: Identity) -> str:
    """Return the server's name of ``identity``: the URI in its certificate."""
    return identity.uri


def inbox_of(identity: Identity) -> str:
    """Return the subject below which the server answers ``identity``, and nobody else hears."""
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
