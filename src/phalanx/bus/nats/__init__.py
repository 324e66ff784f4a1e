"""The exchange over NATS: the client, one server, what is made at it, and what it refused."""

from __future__ import annotations

from phalanx.bus.nats.audit import Audit, Refused
from phalanx.bus.nats.client import NatsExchange
from phalanx.bus.nats.config import Cluster, Credentials, Limits, ServerSettings
from phalanx.bus.nats.link import Bounds
from phalanx.bus.nats.server import NatsServer, find_server
from phalanx.bus.nats.server_log import Place
from phalanx.bus.nats.setup import Retention, setup

__all__ = [
    "Audit",
    "Bounds",
    "Cluster",
    "Credentials",
    "Limits",
    "NatsExchange",
    "NatsServer",
    "Place",
    "Refused",
    "Retention",
    "ServerSettings",
    "find_server",
    "setup",
]
