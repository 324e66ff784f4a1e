"""The network among agents: VXLAN between the PoPs, encrypted below with pre-shared secrets.

An IKE re-authentication in place loses what one side sends with the new key before the other
has it, or with the old one after the other has dropped it. Here the new association is made
beside the old one, between the other endpoints of both PoPs, and authenticated with the new
secret; when both sides have it, the VXLAN devices turn to it, one table entry each; what was
still on the way arrives by the old one, which is removed after that.

What protects each pair of PoPs in the overlay, and since when.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, count
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

from msgspec import Struct
from vici.exception import CommandException

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.enforcement import EncryptedWay
from phalanx.infrastructure.linux.kernel.links import has_kernel_esp
from phalanx.infrastructure.linux.overlay_node import (
    ONWARD,
    TABLE,
    EspEngine,
    OverlayError,
    OverlayNode,
    OverlaySite,
)


class PairKey(Struct, frozen=True):
    """The secret of a pair of PoPs."""

    generation: int
    """0 or more; it grows with each secret that the pair is given."""
    secret: bytes
    late: bool = False
    """Whether a better one is to come: until then the pair keeps what it has, if it may."""
    least: int = 0
    """Generation below which a secret protects nothing any more: a pair goes without rather."""

    def __repr__(self) -> str:
        return f"PairKey({self.generation}, …)"


class KeyProvider(Protocol):
    """Where the secrets of an overlay come from. Asked from several threads."""

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that are authorised now."""

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now, the same in either order.

        Raises:
            KeyError: if one of them is not authorised, or both are the same.

        """


class LocalKeys:
    """Random secrets of 32 octets, kept in this process's memory and nowhere else.

    Safe to use from several threads.
    """

    def __init__(self, members: Iterable[PopId]) -> None:
        self._members = frozenset(members)
        self._epoch = 1
        self._secrets: dict[frozenset[PopId], bytes] = {}
        self._lock = Lock()

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

    def rotate(self) -> None:
        """Forget all secrets, and begin the next epoch."""
        with self._lock:
            self._secrets.clear()
            self._epoch += 1

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now; see ``KeyProvider``."""
        return PairKey(self._epoch, self.secret(a, b))

    def revoke(self, pop: PopId) -> None:
        """Take the authorisation of ``pop`` away, and forget what it shares with others."""
        with self._lock:
            self._members -= {pop}
            self._secrets = {p: secret for p, secret in self._secrets.items() if pop not in p}

    def admit(self, pop: PopId) -> None:
        """Authorise ``pop`` from now on; it shares new secrets."""
        with self._lock:
            self._members |= {pop}

    def __repr__(self) -> str:
        return f"LocalKeys({sorted(self._members)}, epoch {self._epoch})"


_IKE = "aes128gcm16-prfsha256-x25519"
_ESP = "aes128gcm16"
_PATIENCE_S = 6.0
_ANSWER_S = 3.0
"""How long a daemon may take for a command, which takes it some ms."""
_CHILD = "vxlan"
DRAIN_S = 0.25
"""How long packets may be on their way by an old association before it is removed."""
_THREADS = 16

S = TypeVar("S")
T = TypeVar("T")


class Channel:
    """What two PoPs share. Its methods block, and may be called from several threads.

    Args:
        a: one end.
        b: the other.
        serials: tell its connections from all others of the overlay.

    Attributes:
        generation: of the secret that protects it; -1: none does, and nothing passes.
        name: of the connection in use, at both IKE daemons.

    """

    def __init__(self, a: OverlayNode, b: OverlayNode, serials: Iterator[int]) -> None:
        self.ends = (a, b)
        self.generation = -1
        self.name = ""
        self._serials = serials
        self._half = 0
        self._made: list[str] = []
        self._ended = False
        self._lock = Lock()

    @property
    def ended(self) -> bool:
        """Whether it was cut for good."""
        return self._ended

    def renew(self, key: PairKey) -> None:
        """Bring a new secret in beside the one in use, turn to it, and forget the old one.

        Raises:
            OverlayError: if the other side does not answer, or does not prove the secret; what
                was in use stays so.

        """
        self._make(key)
        self._turn()
        if len(self._made) > 1:
            time.sleep(DRAIN_S)
        with self._lock:
            for name in [] if self._ended else self._made[:-1]:
                self._remove(name)

    def suspend(self) -> None:
        """Let nothing pass until the next secret is in use."""
        a, b = self.ends
        with self._lock:
            if not self._ended:
                a.device.disconnect(b.site.address)
                b.device.disconnect(a.site.address)
                self.generation = -1
                for name in list(self._made):
                    self._remove(name)

    def _make(self, key: PairKey) -> None:
        """Make a new association beside the one in use, which goes on."""
        a, b = self.ends
        name = f"{a.number}-{b.number}-{next(self._serials)}"
        half = 1 - self._half
        try:
            with self._lock:
                if self._ended:
                    return
                self._made.append(name)
                for own, other in ((a, b), (b, a)):
                    _load(own, other, name, half, key.secret)
            with a.daemon.session(_PATIENCE_S + 1) as session:
                patience = str(round(1e3 * _PATIENCE_S))
                # The answers are the daemon's log lines; all must be read to know its verdict.
                list(session.initiate({"ike": name, "child": _CHILD, "timeout": patience}))
        except OverlayError:
            with self._lock:
                self._remove(name)
            raise
        self.generation, self.name, self._half = key.generation, name, half

    def _turn(self) -> None:
        """Send by the association made last, both ways."""
        a, b = self.ends
        with self._lock:
            if not self._ended:
                a.device.connect(b.site.address, b.endpoints[self._half])
                b.device.connect(a.site.address, a.endpoints[self._half])

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
    # One that does not answer is not asked again.
    with contextlib.suppress(OverlayError), node.daemon.session(_ANSWER_S) as session:
        with contextlib.suppress(CommandException):
            session.unload_shared({"id": name})
        with contextlib.suppress(CommandException):
            session.unload_conn({"name": name})
        with contextlib.suppress(CommandException):
            # Forced and without waiting: the peer is told once, and may be dead.
            list(session.terminate({"ike": name, "force": "yes", "timeout": "-1"}))


def _load(own: OverlayNode, other: OverlayNode, name: str, half: int, secret: bytes) -> None:
    with own.daemon.session(_ANSWER_S) as session:
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
        self, run_folder: Path, vni: int, sites: Sequence[OverlaySite], keys: KeyProvider
    ) -> None:
        self.engine = EspEngine.USER_SPACE
        self._folder = run_folder
        self._vni = vni
        self._sites = {site.pop: site for site in sites}
        self._keys = keys
        self._nodes: dict[PopId, OverlayNode] = {}
        self._channels: list[Channel] = []
        self._revoked: set[PopId] = set()
        self._changing, self._leading = Lock(), Lock()
        self._ways: list[EncryptedWay] = []
        """What is led encrypted, the latest last."""
        self._serials = count(1)

    @property
    def revoked(self) -> frozenset[PopId]:
        """The PoPs that all others have shut out."""
        return frozenset(self._revoked)

    def generations(self) -> list[int]:
        """Return the generation of each pair's secret, of those that are not revoked."""
        return [channel.generation for channel in self._channels if not channel.ended]

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

    def carry(self, way: EncryptedWay) -> None:
        """Lead it there encrypted from now on; the same way may be asked for several times.

        Raises:
            OverlayError: if a PoP takes no part in the overlay, so that some of it would be read.

        """
        members = self._keys.members() - self._revoked
        needed = {way.to, way.entry, way.over} - {None} if way.entry else {*self._sites}
        if apart := needed - (members & self._nodes.keys()):
            raise OverlayError(f"{', '.join(sorted(map(str, apart)))}: no part of the overlay")
        with self._leading:
            self._ways.append(way)
            self._lead(way.address)

    def carry_no_more(self, way: EncryptedWay) -> None:
        """Let it go as it does without this way; one that is not led is no error."""
        with self._leading:
            if way in self._ways:
                self._ways.remove(way)
            self._lead(way.address)

    def carries(self, way: EncryptedWay) -> bool:
        """Whether all of it is still led so."""
        with self._leading:
            hops = {step: to for step, to in self._hops(way.address).items() if to is not None}
            mine = [(way.entry, TABLE), (way.over, ONWARD)] if way.entry else [*hops]
            asked = [(pop, table) for pop, table in mine if pop not in (None, way.to)]
            return way in self._ways and all(
                (pop, table) in hops
                and self._nodes[pop].device.leads(
                    way.address, self.address(hops[pop, table]), table
                )
                for pop, table in asked
            )

    def _hops(self, address: str) -> dict[tuple[PopId, int], PopId | None]:
        """Return where each PoP sends what is for an address; None: as it would anyway.

        By PoP and table: what enters there, and what comes there encrypted. The latest way goes
        first; one over a PoP that was revoked since is passed over.
        """
        ways = [w for w in self._ways if w.address == address and w.over not in self._revoked]
        hops: dict[tuple[PopId, int], PopId | None] = {}
        for pop in self._nodes:
            enters = [w.over for w in ways if w.entry == pop]
            enters = enters or [w.to for w in ways if w.entry is None and w.to != pop]
            onward = [w.to for w in ways if w.over == pop and w.to != pop]
            hops[pop, TABLE] = enters[-1] if enters else None
            hops[pop, ONWARD] = onward[-1] if onward else None
        return hops

    def _lead(self, address: str) -> None:
        # What comes by a PoP is led on before anything is led there.
        for (pop, table), to in sorted(self._hops(address).items(), key=lambda hop: hop[0][1]):
            device = self._nodes[pop].device
            if to is None:
                device.lead_no_more(address, table)
            else:
                device.lead(address, self.address(to), table)

    def rotate(self) -> None:
        """Bring in what protects each pair now: make, turn, then remove what was before.

        Who is no member any more is revoked first. A pair that cannot agree on the new secret
        keeps the old one, if that may still be used, and is tried again by the next call; no
        other one waits for it.

        Raises:
            OverlayError: naming those pairs.

        """
        members = self._keys.members()
        for pop in self._nodes.keys() - members - self._revoked:
            self.revoke(pop)
        with self._changing:
            self._renew(self._channels)

    def revoke(self, pop: PopId) -> None:
        """Have all others drop, forget and disconnect ``pop``, until it is readmitted.

        Its own daemon is not asked: it may go on with the old secrets, which open nothing.

        Raises:
            KeyError: if there is no such PoP.
            OverlayError: if another PoP cannot put the rule in force.

        """
        revoked = self._nodes[pop]
        self._all(lambda channel: channel.cut(revoked), self._of(pop))
        self._revoked.add(pop)
        with self._leading:
            for address in {way.address for way in self._ways if way.over == pop}:
                self._lead(address)

    def readmit(self, pop: PopId) -> None:
        """Join a PoP that was revoked with the others again, under new secrets.

        Its daemon is started anew, so that nothing is left of what it knew.

        Raises:
            KeyError: if there is no such PoP.
            OverlayError: naming the pairs that could not be joined, which the next rotation
                tries again; or if it stays revoked, as a part cannot be set up.

        """
        with self._changing:
            node = self._nodes[pop]
            others = [n for p, n in self._nodes.items() if p not in self._revoked | {pop}]
            node.daemon.stop()
            node.daemon.start(self.engine)
            for other in others:
                other.shut_out(node, back=True)
                node.shut_out(other, back=True)
            new = [Channel(node, other, self._serials) for other in others]
            self._channels = [c for c in self._channels if not c.ended] + new
            self._revoked.discard(pop)
            self._renew(new)

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
        pairs = combinations(self._nodes.values(), 2)
        self._channels = [Channel(a, b, self._serials) for a, b in pairs]
        self._renew(self._channels)

    def _renew(self, channels: Iterable[Channel]) -> None:
        refused = self._all(self._renewed, [c for c in channels if not c.ended])
        if any(refused):
            failures = "; ".join(filter(None, refused))
            raise OverlayError(f"no new association between {failures}")

    def _renewed(self, channel: Channel) -> str:
        """Give a pair what protects it now; return why that cannot be, empty if it has it."""
        a, b = (node.site.pop for node in channel.ends)
        has, least = channel.generation, 0
        try:
            key = self._keys.key(a, b)
            least = key.least
            if has != key.generation and not (key.late and has >= least):
                channel.renew(key)
        except (OverlayError, KeyError) as error:
            if 0 <= has < least:
                channel.suspend()
            # Of a PoP that was revoked meanwhile nothing else is to be expected.
            return "" if channel.ended else f"{a} and {b} ({error})"
        return ""

    def _of(self, pop: PopId) -> list[Channel]:
        return [c for c in self._channels if any(node.site.pop == pop for node in c.ends)]

    @staticmethod
    def _all(work: Callable[[S], T], on: Iterable[S]) -> list[T]:
        """Do ``work`` on all at once; the first error is raised after all have ended."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="overlay") as threads:
            tasks = [threads.submit(work, each) for each in on]
        return [task.result() for task in tasks]
