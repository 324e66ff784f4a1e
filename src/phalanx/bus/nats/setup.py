"""What a domain's keeper makes at its servers: the stream of events, and the tables."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import CURSORS, bucket, entry
from phalanx.bus.nats.dispatcher import Reply
from phalanx.bus.subjects import EVENTS, REGISTRY, pattern
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

DUPLICATES_S = 120.0
"""How long a stream knows a message again by its id."""

_AGAIN_S = 0.25


class StreamRetention(Struct, frozen=True):
    """How much the stream of events keeps; the oldest are discarded beyond that.

    Who follows it finds what was discarded before it was read counted as shed.
    """

    age_s: float = 7 * 86_400.0
    octets: int = 2 << 30
    table_octets: int = 64 << 20
    """Of each table; more is refused there, not discarded."""


DEFAULT_RETENTION = StreamRetention()


def setup(
    keeper: Identity,
    servers: Sequence[tuple[str, int]],
    tls: ssl.SSLContext,
    *,
    replicas: int = 1,
    retention: StreamRetention = DEFAULT_RETENTION,
    within_s: float = 30.0,
) -> None:
    """Make what is not there yet, and set what is there as it should be.

    Args:
        keeper: an identity with the role of a broker.
        servers: (host, port) of the servers.
        tls: of a client, with the keeper's certificate and key.
        replicas: on how many servers everything is kept, 1 or 3.
        retention: how much is kept.
        within_s: how long a cluster may take to become one.

    Raises:
        BrokerError: if it was not done in time; says why.

    """
    clock = WallClock()
    exchange = NatsClient(keeper, clock, servers, tls)
    try:
        exchange.ready(within_s)
        pending = list(_streams(keeper.domain, replicas, retention))
        while pending:
            name = pending[0]["name"]
            there = _ask(exchange, clock, f"STREAM.INFO.{name}", {}).error is None
            operation = "UPDATE" if there else "CREATE"
            reply = _ask(exchange, clock, f"STREAM.{operation}.{name}", pending[0])
            if reply.error is None:
                pending.pop(0)
                continue
            if clock.now() > within_s:
                raise BrokerError(f"{name} cannot be made at NATS: {reply.error.description}")
            clock.run(until=clock.now() + _AGAIN_S)
    finally:
        exchange.finish()
        clock.close()


def _ask(exchange: NatsClient, clock: WallClock, operation: str, question: Any) -> Reply:
    replies: list[Reply] = []
    exchange.administer(operation, question, replies.append)
    clock.run(until=clock.now() + 10.0, stop=lambda: bool(replies))
    return replies[0]


def _streams(domain: str, replicas: int, retention: StreamRetention) -> list[dict[str, Any]]:
    """Return the configurations of all streams (NATS, "JetStream API").

    Nothing may be taken out of one by those who write to it: no deletion, no purge, also not by
    a header that rolls up (it would empty the stream), and no direct reads (``mapping``).
    """
    every: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": True,
        "allow_rollup_hdrs": False,
        "allow_direct": False,
        "duplicate_window": int(DUPLICATES_S * 1e9),
    }
    events = every | {
        "name": EVENTS,
        "subjects": [pattern(domain, "evt", "*", ">")],
        "discard": "old",
        "max_age": int(retention.age_s * 1e9),
        "max_bytes": retention.octets,
        "deny_purge": True,
    }
    tables = [
        every
        | {
            "name": bucket(table),
            "subjects": [entry(table, ">")],
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_bytes": retention.table_octets,
        }
        for table in (REGISTRY, CURSORS)
    ]
    return [events, *tables]
