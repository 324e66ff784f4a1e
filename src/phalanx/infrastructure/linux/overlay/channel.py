"""The protected channel of one pair of PoPs, and how it gets new keys without losing a packet.

An IKE re-authentication in place loses what one side sends with the new key before the other
has it, or with the old one after the other has dropped it. Here the new association is made
beside the old one, between the other endpoints of both PoPs, and authenticated with the new
secret; when both sides have it, the VXLAN devices turn to it, one table entry each; what was
still on the way arrives by the old one, which is removed after that.
"""

from __future__ import annotations

import contextlib
from threading import Lock

from phalanx.infrastructure.linux.overlay.errors import OverlayError
from phalanx.infrastructure.linux.overlay.node import Node

_IKE = "aes128gcm16-prfsha256-x25519"
_ESP = "aes128gcm16"
_PATIENCE_S = 6.0
_CHILD = "vxlan"


class Channel:
    """What two PoPs share. Its methods block, and may be called from several threads.

    Attributes:
        epoch: of the secret that protects it; 0 before the first.
        name: of the connection in use, at both IKE daemons.

    """

    def __init__(self, a: Node, b: Node) -> None:
        self.ends = (a, b)
        self.epoch = 0
        self.name = ""
        self._serial = 0
        self._half = 0
        self._made: list[str] = []
        self._ended = False
        self._lock = Lock()

    @property
    def ended(self) -> bool:
        """Whether it was cut for good."""
        return self._ended

    @property
    def replaces(self) -> bool:
        """Whether an association made earlier is still there beside the one in use."""
        return len(self._made) > 1

    def make(self, secret: bytes, epoch: int) -> None:
        """Make a new association with ``secret`` beside the one in use, which goes on.

        Raises:
            OverlayError: if the other side does not answer, or does not prove the secret.

        """
        a, b = self.ends
        self._serial += 1
        name = f"{a.number}-{b.number}-{self._serial}"
        half = 1 - self._half
        try:
            with self._lock:
                if self._ended:
                    return
                self._made.append(name)
                for own, other in ((a, b), (b, a)):
                    _load(own, other, name, half, secret)
            with a.daemon.session(_PATIENCE_S + 1) as session:
                patience = str(round(1e3 * _PATIENCE_S))
                # The answers are the daemon's log lines; all must be read to know its verdict.
                list(session.initiate({"ike": name, "child": _CHILD, "timeout": patience}))
        except OverlayError:
            with self._lock:
                self._remove(name)
            raise
        self.epoch, self.name, self._half = epoch, name, half

    def turn(self) -> None:
        """Send by the association made last, both ways."""
        a, b = self.ends
        with self._lock:
            if not self._ended:
                a.device.connect(b.place.address, b.endpoints[self._half])
                b.device.connect(a.place.address, a.endpoints[self._half])

    def release(self) -> None:
        """Remove all associations but the one in use, and their secrets."""
        with self._lock:
            for name in [] if self._ended else self._made[:-1]:
                self._remove(name)

    def cut(self, revoked: Node) -> None:
        """End it for good at the other side of ``revoked``, which is asked for nothing."""
        (other,) = (node for node in self.ends if node is not revoked)
        self._ended = True  # before the lock: what is being made meanwhile will not be used
        other.shut_out(revoked)
        with self._lock:
            other.device.disconnect(revoked.place.address)
            for name in self._made:
                _unload(other, name)

    def _remove(self, name: str) -> None:
        self._made.remove(name)
        for node in self.ends:
            _unload(node, name)


def _identity(node: Node, name: str) -> str:
    """Return an identity that only this connection uses, so that only its secret fits."""
    return f"fqdn:{node.place.underlay}.{name}"


def _unload(node: Node, name: str) -> None:
    """Forget a connection, its secret and its association, as far as ``node`` has them."""
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        session.unload_shared({"id": name})
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        session.unload_conn({"name": name})
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        # Forced and without waiting: the peer is told once, and may be dead.
        list(session.terminate({"ike": name, "force": "yes", "timeout": "-1"}))


def _load(own: Node, other: Node, name: str, half: int, secret: bytes) -> None:
    with own.daemon.session() as session:
        session.load_shared(
            {
                "id": name,
                "type": "IKE",
                "data": secret,
                "owners": [_identity(own, name), _identity(other, name)],
            }
        )
        session.load_conn(
            {
                name: {
                    "version": "2",
                    "local_addrs": [own.place.underlay],
                    "remote_addrs": [other.place.underlay],
                    "proposals": [_IKE],
                    "mobike": "no",
                    "unique": "replace",
                    "keyingtries": "0",
                    "dpd_delay": "30s",
                    "local": {"auth": "psk", "id": _identity(own, name)},
                    "remote": {"auth": "psk", "id": _identity(other, name)},
                    "children": {
                        _CHILD: {
                            "mode": "tunnel",
                            "local_ts": [f"{own.endpoints[half]}/32[udp]"],
                            "remote_ts": [f"{other.endpoints[half]}/32[udp]"],
                            "esp_proposals": [_ESP],
                            "dpd_action": "restart",
                        }
                    },
                }
            }
        )
