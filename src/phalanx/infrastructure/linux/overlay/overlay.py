"""The overlay as a whole: set up, re-keyed, rid of a revoked PoP, taken down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import TypeVar

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.overlay.channel import Channel
from phalanx.infrastructure.linux.overlay.errors import OverlayError
from phalanx.infrastructure.linux.overlay.ipsec import Engine, probe
from phalanx.infrastructure.linux.overlay.keys import KeyProvider
from phalanx.infrastructure.linux.overlay.node import Node, Place, Started

S = TypeVar("S")
T = TypeVar("T")

DRAIN_S = 0.25
"""How long packets may be on their way by an old association before it is removed."""

_THREADS = 16


def _nothing(pop: PopId, pid: int) -> None:
    """Be told of a process and leave it be."""


class Overlay:
    """A VXLAN among PoPs with IPsec below (seeds III.C and 3.B). Its methods block.

    ``revoke`` never waits for another call; the others wait for each other.

    Args:
        run_folder: ``/run/phalanx/<run>``; its last part is the mark of this run.
        vni: the VXLAN network identifier, 0 to 2^24 - 1.
        places: the PoPs; one at least.
        keys: where secrets come from. A PoP that is no member takes no part.
        started: is told each process started.

    Attributes:
        engine: what encrypts; None before ``up``.

    """

    def __init__(
        self,
        run_folder: Path,
        vni: int,
        places: Sequence[Place],
        keys: KeyProvider,
        *,
        started: Started = _nothing,
    ) -> None:
        self.engine: Engine | None = None
        self._folder = run_folder
        self._vni = vni
        self._places = {place.pop: place for place in places}
        self._keys = keys
        self._started = started
        self._nodes: dict[PopId, Node] = {}
        self._channels: list[Channel] = []
        self._revoked: set[PopId] = set()
        self._changing = Lock()

    def address(self, pop: PopId) -> str:
        """Return the address of a PoP in the overlay."""
        return self._places[pop].address

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
        """Bring in the key provider's epoch: make, turn, then remove what was before.

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

    def healthy(self) -> dict[PopId, bool]:
        """Return for each PoP in use whether its daemon answers and protects all its pairs."""
        nodes = [node for pop, node in self._nodes.items() if pop not in self._revoked]
        installed = self._all(Node.installed, nodes)
        return {
            node.place.pop: node.daemon.pid is not None
            and names >= {c.name for c in self._of(node.place.pop) if not c.ended}
            for node, names in zip(nodes, installed, strict=True)
        }

    def restart(self, pop: PopId) -> None:
        """Start the IKE daemon of ``pop`` anew and join it to the others with current secrets.

        Raises:
            KeyError: if there is no such PoP.
            OverlayError: if it was revoked, or does not come up.

        """
        if pop in self._revoked:
            raise OverlayError(f"{pop} was revoked")
        node = self._nodes[pop]
        with self._changing:
            assert self.engine is not None
            node.daemon.stop()
            node.start(self.engine, self._started)
            self._renew(self._of(pop))

    def dropped(self) -> dict[PopId, int]:
        """Return the packets that each PoP's rules have dropped since ``up``.

        They are VXLAN that did not come or would not go encrypted, packets from elsewhere to
        overlay addresses, and all from and to revoked PoPs.
        """
        nodes = list(self._nodes.values())
        counts = self._all(lambda node: node.guard.dropped(), nodes)
        return {node.place.pop: count for node, count in zip(nodes, counts, strict=True)}

    def down(self) -> None:
        """Take all of it away; idempotent, also after a half ``up``."""
        with self._changing:
            nodes, self._nodes, self._channels = list(self._nodes.values()), {}, []
            self._all(Node.down, nodes)
            if (self._folder / "ike").is_dir():
                (self._folder / "ike").rmdir()

    def _set_up(self) -> None:
        members = self._keys.members()
        self.engine = engine = probe(next(iter(self._places.values())).namespace)
        for number, place in enumerate(self._places.values(), 1):
            if place.pop in members:
                self._nodes[place.pop] = Node(place, number, self._folder, self._vni)
        self._all(lambda node: node.up(engine, self._started), self._nodes.values())
        self._channels = [Channel(a, b) for a, b in combinations(self._nodes.values(), 2)]
        self._renew(self._channels)

    def _renew(self, channels: Iterable[Channel]) -> None:
        epoch = self._keys.epoch()
        wanted = [channel for channel in channels if not channel.ended]

        def make(channel: Channel) -> str | None:
            a, b = (node.place.pop for node in channel.ends)
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
        return [c for c in self._channels if any(node.place.pop == pop for node in c.ends)]

    @staticmethod
    def _all(work: Callable[[S], T], on: Iterable[S]) -> list[T]:
        """Do ``work`` on all at once; the first error is raised after all have ended."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="overlay") as threads:
            tasks = [threads.submit(work, each) for each in on]
        return [task.result() for task in tasks]
