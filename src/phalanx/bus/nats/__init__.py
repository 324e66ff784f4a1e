"""The exchange over NATS: the client, one server, what is made at it, and what it refused."""

from __future__ import annotations

from phalanx.bus.nats.audit import BrokerAudit, BrokerRefusal, LogPosition
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import Cluster, ServerLimits, ServerSettings
from phalanx.bus.nats.connection import SendBounds
from phalanx.bus.nats.server import NatsServer, StreamRetention, find_server, setup

__all__ = [
    "BrokerAudit",
    "BrokerRefusal",
    "Cluster",
    "LogPosition",
    "NatsClient",
    "NatsServer",
    "SendBounds",
    "ServerLimits",
    "ServerSettings",
    "StreamRetention",
    "find_server",
    "setup",
]
