"""Transports by URL: which broker a process speaks to, from this package or from another one.

A transport is a callable ``(url, clock) -> Broker`` under the entry point group
``phalanx.transports``; its name is the scheme of the URLs that it takes::

    [project.entry-points."phalanx.transports"]
    mqtt = "my_package.mqtt:open_mqtt"

====================================  =====================================================
URL                                   broker
====================================  =====================================================
``memory:``                           in this process, on any clock; what joins it is lost
                                      with it (``memory_broker``)
``nats://HOST:PORT[,HOST:PORT…]``     NATS servers over mutual TLS; the wall clock only
====================================  =====================================================

What every transport must do is the contract in ``tests/bus/client_contract.py``.
"""

from __future__ import annotations

import ssl
from importlib.metadata import EntryPoint
from typing import Protocol

from msgspec import Struct

from phalanx.bus.client import BrokerClient, BrokerError
from phalanx.clock import Clock
from phalanx.identity.names import Identity
from phalanx.loading import installed

GROUP = "phalanx.transports"


def server_text(host: str, port: int) -> str:
    """Return ``HOST:PORT``, or ``[IPv6]:PORT``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Access(Struct, frozen=True):
    """By what an identity proves itself to a broker, and how soon it leaves a silent one."""

    tls: ssl.SSLContext
    """Of a client, with the identity's certificate and key."""
    secret: bytes | None = None
    """Octets that are known to the identity alone and stay the same after a restart."""
    deaf_s: float | None = None
    """Seconds for which a server may be silent at most; None: as the transport has it."""


class Broker(Protocol):
    """Where the clients of one domain meet."""

    def join(self, identity: Identity, access: Access | None = None) -> BrokerClient:
        """Return a client that speaks and hears for ``identity``.

        Raises:
            BrokerError: if the transport needs ``access`` and there is none.

        """


class Transport(Protocol):
    """Opens brokers; what an entry point names."""

    def __call__(self, url: str, clock: Clock) -> Broker:
        """Return the broker at ``url``, whose clients are called by ``clock``.

        Raises:
            BrokerError: if the URL or the clock is none that it can use.

        """


def transports() -> dict[str, EntryPoint]:
    """Return the transports that are installed, by the scheme of their URLs."""
    return installed(GROUP)


def open_broker(url: str, clock: Clock) -> Broker:
    """Return the broker at ``url``.

    Raises:
        BrokerError: if no transport has the scheme, it cannot be loaded, or it refuses the URL.

    """
    scheme, found = url.partition(":")[0], transports()
    if scheme not in found:
        known = ", ".join(sorted(found))
        raise BrokerError(f"{url!r} is no broker that is known; there are transports for {known}")
    try:
        transport: Transport = found[scheme].load()
    except (ImportError, AttributeError) as error:
        raise BrokerError(
            f"the transport {found[scheme].value} cannot be loaded: {error}"
        ) from None
    return transport(url, clock)
