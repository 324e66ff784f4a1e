"""The network among agents: VXLAN between the PoPs, encrypted below with pre-shared secrets.

An IKE re-authentication in place loses what one side sends with the new key before the other
has it, or with the old one after the other has dropped it. Here the new association is made
beside the old one, between the other endpoints of both PoPs, and authenticated with the new
secret; when both sides have it, the VXLAN devices turn to it, one table entry each; what was
still on the way arrives by the old one, which is removed after that.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import TypeVar

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.kernel.links import has_kernel_esp
from phalanx.infrastructure.linux.overlay_node import (
    EspEngine,
    OverlayError,
    OverlayNode,
    OverlaySite,
)

_IKE = "aes128gcm16-prfsha256-x25519"
_ESP = "aes128gcm16"
_PATIENCE_S = 6.0
_CHILD = "vxlan"
DRAIN_S = 0.25
"""How long packets may be on their way by an old association before it is removed."""
_THREADS = 16

S = TypeVar("S")
T = TypeVar("T")


class Channel:
    """What two PoPs share. Its methods block, and may be called from several threads.

    Attributes:
        epoch: of the secret that protects it; 0 before the first.
        name: of the connection in use, at both IKE daemons.

    """

    def __init__(self, a: OverlayNode, b: OverlayNode) -> None:
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
                a.device.connect(b.site.address, b.endpoints[self._half])
                b.device.connect(a.site.address, a.endpoints[self._half])

    def release(self) -> None:
        """Remove all associations but the one in use, and their secrets."""
        with self._lock:
            for name in [] if self._ended else self._made[:-1]:
                self._remove(name)

    def cut(self, revoked: OverlayNode) -> None:
        """End it for good at the other side of ``revoked``, which is asked for nothing."""
        (other,) = (node for node in self.ends if node is not revoked)
        self._ended = True  # before the lock: what is being made meanwhile will not be used
        other.shut_out(revoked)
        with self._lock:
            other.device.disconnect(revoked.site.address)
            for name in self._made:
                _unload(other, name)

    def _remove(self, name: str) -> None:
        self._made.remove(name)
        for node in self.ends:
            _unload(node, name)


def _identity(node: OverlayNode, name: str) -> str:
    """Return an identity that only this connection uses, so that only its secret fits."""
    return f"fqdn:{node.site.underlay}.{name}"


def _unload(node: OverlayNode, name: str) -> None:
    """Forget a connection, its secret and its association, as far as ``node`` has them."""
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        session.unload_shared({"id": name})
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        session.unload_conn({"name": name})
    with contextlib.suppress(OverlayError), node.daemon.session() as session:
        # Forced and without waiting: the peer is told once, and may be dead.
        list(session.terminate({"ike": name, "force": "yes", "timeout": "-1"}))


def _load(own: OverlayNode, other: OverlayNode, name: str, half: int, secret: bytes) -> None:
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
                    "local_addrs": [own.site.underlay],
                    "remote_addrs": [other.site.underlay],
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


class LocalKeys:
    """Random secrets of 32 octets, kept in this process's memory and nowhere else.

    Safe to use from several threads.
    """

    def __init__(self, members: Iterable[PopId]) -> None:
        self._members = frozenset(members)
        self._epoch = 1
        self._secrets: dict[frozenset[PopId], bytes] = {}
        self._lock = Lock()

    def epoch(self) -> int:
        """Return the number of the secrets that hold now, from 1."""
        return self._epoch

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that are authorised now."""
        return self._members

    def secret(self, a: PopId, b: PopId) -> bytes:
        """Return the secret of a pair at the current epoch, the same in either order.

        Raises:
            KeyError: if one of them is not authorised, or both are the same.

        """
        pair = frozenset((a, b))
        with self._lock:
            if len(pair) != 2 or not pair <= self._members:
                raise KeyError(f"{a} and {b} share no secret")
            if pair not in self._secrets:
                self._secrets[pair] = secrets.token_bytes(32)
            return self._secrets[pair]

    def rotate(self) -> int:
        """Forget all secrets, begin the next epoch and return its number."""
        with self._lock:
            self._secrets.clear()
            self._epoch += 1
            return self._epoch

    def revoke(self, pop: PopId) -> None:
        """Take the authorisation of ``pop`` away, and forget what it shares with others."""
        with self._lock:
            self._members -= {pop}
            self._secrets = {p: secret for p, secret in self._secrets.items() if pop not in p}

    def __repr__(self) -> str:
        return f"LocalKeys({sorted(self._members)}, epoch {self._epoch})"


class Overlay:
    """A VXLAN among PoPs with IPsec below (seeds III.C and 3.B). Its methods block.

    ``revoke`` never waits for another call; the others wait for each other.

    Args:
        run_folder: ``/run/phalanx/<run>``; its last part is the mark of this run.
        vni: the VXLAN network identifier, 0 to 2^24 - 1.
        sites: the PoPs; one at least.
        keys: where secrets come from. A PoP that is no member takes no part.

    Attributes:
        engine: what encrypts, once it is up.

    """

    def __init__(
        self, run_folder: Path, vni: int, sites: Sequence[OverlaySite], keys: LocalKeys
    ) -> None:
        self.engine = EspEngine.USER_SPACE
        self._folder = run_folder
        self._vni = vni
        self._sites = {site.pop: site for site in sites}
        self._keys = keys
        self._nodes: dict[PopId, OverlayNode] = {}
        self._channels: list[Channel] = []
        self._revoked: set[PopId] = set()
        self._changing = Lock()

    def address(self, pop: PopId) -> str:
        """Return the address of a PoP in the overlay."""
        return self._sites[pop].address

    def up(self) -> None:
        """Set up devices, rules and daemons, and join all members in pairs.

        Raises:
            OverlayError: if a part cannot be; nothing is left then.

        """
        try:
            with self._changing:
                self._set_up()
        except BaseException:
            self.down()
            raise

    def rotate(self) -> None:
        """Bring in the keys' present epoch: make, turn, then remove what was before.

        Who is no member any more is revoked first. A pair that cannot agree on the new secret
        keeps the old one and is tried again by the next call; all others have moved on.

        Raises:
            OverlayError: naming those pairs.

        """
        members = self._keys.members()
        for pop in self._nodes.keys() - members - self._revoked:
            self.revoke(pop)
        with self._changing:
            epoch = self._keys.epoch()
            self._renew([c for c in self._channels if c.epoch != epoch])

    def revoke(self, pop: PopId) -> None:
        """Have all others drop, forget and disconnect ``pop``; it cannot come back.

        Its own daemon is not asked: it may go on with the old secrets, which open nothing.

        Raises:
            KeyError: if there is no such PoP.
            OverlayError: if another PoP cannot put the rule in force.

        """
        revoked = self._nodes[pop]
        self._revoked.add(pop)
        self._all(lambda channel: channel.cut(revoked), self._of(pop))

    def dropped(self) -> dict[PopId, int]:
        """Return the packets that each PoP's rules have dropped since ``up``.

        They are VXLAN that did not come or would not go encrypted, packets from elsewhere to
        overlay addresses, and all from and to revoked PoPs.
        """
        nodes = list(self._nodes.values())
        counts = self._all(lambda node: node.guard.dropped(), nodes)
        return {node.site.pop: count for node, count in zip(nodes, counts, strict=True)}

    def down(self) -> None:
        """Take all of it away; idempotent, also after a half ``up``."""
        with self._changing:
            nodes, self._nodes, self._channels = list(self._nodes.values()), {}, []
            self._all(OverlayNode.down, nodes)
            if (self._folder / "ike").is_dir():
                (self._folder / "ike").rmdir()

    def _set_up(self) -> None:
        members = self._keys.members()
        self.engine = engine = EspEngine.KERNEL if has_kernel_esp() else EspEngine.USER_SPACE
        for number, site in enumerate(self._sites.values(), 1):
            if site.pop in members:
                self._nodes[site.pop] = OverlayNode(site, number, self._folder, self._vni)
        self._all(lambda node: node.up(engine), self._nodes.values())
        self._channels = [Channel(a, b) for a, b in combinations(self._nodes.values(), 2)]
        self._renew(self._channels)

    def _renew(self, channels: Iterable[Channel]) -> None:
        epoch = self._keys.epoch()
        wanted = [channel for channel in channels if not channel.ended]

        def make(channel: Channel) -> str | None:
            a, b = (node.site.pop for node in channel.ends)
            try:
                channel.make(self._keys.secret(a, b), epoch)
            except (OverlayError, KeyError) as error:
                # Of a PoP that was revoked meanwhile nothing else is to be expected.
                return None if channel.ended else f"{a} and {b} ({error})"
            return None

        refused = self._all(make, wanted)
        made = [c for c, why in zip(wanted, refused, strict=True) if why is None]
        self._all(Channel.turn, made)
        if any(channel.replaces for channel in made):
            time.sleep(DRAIN_S)
        self._all(Channel.release, made)
        failures = [why for why in refused if why is not None]
        if failures:
            raise OverlayError(f"no new association between {'; '.join(failures)}")

    def _of(self, pop: PopId) -> list[Channel]:
        return [c for c in self._channels if any(node.site.pop == pop for node in c.ends)]

    @staticmethod
    def _all(work: Callable[[S], T], on: Iterable[S]) -> list[T]:
        """Do ``work`` on all at once; the first error is raised after all have ended."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="overlay") as threads:
            tasks = [threads.submit(work, each) for each in on]
        return [task.result() for task in tasks]
