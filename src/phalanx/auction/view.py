"""The network as one agent believes it to be: immutable, and shared by all who believe the same.

An agent learns the states of PoPs one by one, in any order, some twice and some late. The
view it ends up with depends only on the states themselves: of two states of one PoP the
later stamp wins, at equal stamps the report of a death wins over the state it is about,
and what differs still is settled by the larger fingerprint. So views form a semilattice:
agents that heard the same states hold the same view, and in one process the same object.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import msgspec

from phalanx.domain.network import LinkState, PopId, PopState

T = TypeVar("T")

Arc = tuple[PopId, float, float, float, float]
"""A usable link at one of its ends: the PoP at the other end, free MB/s of the link (both
directions together), latency in ms, loss as a fraction, free MB/s in this direction."""

MEMO_LIMIT = 1024
"""Results kept with one view; past that all are forgotten and found again when asked for."""

_encode = msgspec.msgpack.Encoder().encode


class _Entry:
    """One PoP's state with what decides between two of them."""

    __slots__ = ("links", "order", "state", "token")

    def __init__(self, state: PopState) -> None:
        self.state = state
        self.token = int.from_bytes(blake2b(_encode(state), digest_size=16).digest(), "big")
        self.order = (state.incarnation, state.version, not state.alive, self.token)
        self.links: dict[PopId, LinkState] | None = None

    def usable(self) -> dict[PopId, LinkState]:
        """Return the links that are up by the neighbour they lead to.

        Those of a PoP whose agent is gone too, as it last told of them: a switch, and a
        repository on it, outlive the agent beside them. A link that went down since then is
        known from its other end.
        """
        if self.links is None:
            own = self.state.pop
            self.links = {link.to: link for link in self.state.links if link.up and link.to != own}
        return self.links


class NetworkView:
    """What one agent believes of all PoPs. Make one from ``NetworkView.EMPTY``.

    Args:
        digest: xor of the fingerprints of all states (Zobrist hashing).
        entries: the states.
        pops: their names, sorted, if already known.

    """

    EMPTY: ClassVar[NetworkView]

    _views: ClassVar[WeakValueDictionary[int, NetworkView]] = WeakValueDictionary()

    def __init__(
        self, digest: int, entries: dict[PopId, _Entry], pops: tuple[PopId, ...] | None = None
    ) -> None:
        self.digest = digest
        """128 bits; equal for views of equal content, however they came about."""
        self.memo: dict[Hashable, Any] = {}
        """Results of searches on this view, for all agents that hold it; see ``remember``."""
        self._entries = entries
        if pops is not None:
            self.__dict__["pops"] = pops
        self._views[digest] = self

    def apply(self, state: PopState) -> NetworkView:
        """Return the view that also knows ``state``; the same object if that is no news."""
        return self.apply_all((state,))

    def apply_all(self, states: Iterable[PopState]) -> NetworkView:
        """Return the view that also knows ``states``: one copy, however many are new."""
        entries, digest, grown = self._entries, self.digest, False
        news: dict[PopId, _Entry] = {}
        for state in states:
            old = news.get(state.pop) or entries.get(state.pop)
            if old is None:
                grown = True
                entry = _Entry(state)
            else:
                if state is old.state or state.stamp < old.state.stamp:
                    continue
                entry = _Entry(state)
                if entry.order <= old.order:
                    continue
                digest ^= old.token
            digest ^= entry.token
            news[state.pop] = entry
        if not news:
            return self
        known = self._views.get(digest)
        if known is not None:
            return known
        pops = None if grown else self.__dict__.get("pops")
        return NetworkView(digest, {**entries, **news}, pops)

    def get(self, pop: PopId) -> PopState | None:
        """Return what is believed of ``pop``; None if nothing was heard of it."""
        entry = self._entries.get(pop)
        return None if entry is None else entry.state

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, pop: PopId) -> bool:
        return pop in self._entries

    @cached_property
    def pops(self) -> tuple[PopId, ...]:
        """Names of all PoPs heard of, dead ones too, sorted."""
        return tuple(sorted(self._entries))

    @cached_property
    def dead(self) -> frozenset[PopId]:
        """Names of the PoPs whose agent is believed gone."""
        entries = self._entries.values()
        return frozenset(entry.state.pop for entry in entries if not entry.state.alive)

    @property
    def states(self) -> tuple[PopState, ...]:
        """The states of all PoPs, by name."""
        entries = self._entries
        return tuple(entries[pop].state for pop in self.pops)

    def stamps(self) -> tuple[tuple[PopId, int, int], ...]:
        """Return (pop, incarnation, version) of each PoP, by name."""
        return tuple((state.pop, *state.stamp) for state in self.states)

    @cached_property
    def _arcs(self) -> tuple[dict[PopId, list[Arc]], dict[PopId, list[Arc]]]:
        entries = self._entries
        outgoing: dict[PopId, list[Arc]] = {pop: [] for pop in self.pops}
        incoming: dict[PopId, list[Arc]] = {pop: [] for pop in self.pops}
        for pop in self.pops:
            for to, link in entries[pop].usable().items():
                other = entries.get(to)
                back = None if other is None else other.usable().get(pop)
                if back is None:
                    continue
                room = link.bandwidth_mb_s - link.reserved_mb_s
                free = room - back.reserved_mb_s
                if free < 0.0:  # states of different age can contradict each other
                    free, room = 0.0, max(room, 0.0)
                latency, loss = link.latency_ms, link.loss
                outgoing[pop].append((to, free, latency, loss, room))
                incoming[to].append((pop, free, latency, loss, room))
        return outgoing, incoming

    @property
    def outgoing(self) -> dict[PopId, list[Arc]]:
        """The usable links that leave each PoP.

        A link is usable if both ends say that it is up. Latency and loss
        are those of the sending end. Reservations of both directions count against the link
        in costs and constraints, but only those of one direction against a download that
        takes it. That is the reading under which table 5.8 agrees with itself: after the
        second auction link 5-6 costs as 4 MB/s although 6 downloads over it at 8 MB/s.
        """
        return self._arcs[0]

    @property
    def incoming(self) -> dict[PopId, list[Arc]]:
        """The usable links that arrive at each PoP, by the name of the PoP they leave."""
        return self._arcs[1]

    def remember(self, key: Hashable, result: T) -> T:
        """Keep ``result`` under ``key`` in ``memo`` and return it."""
        if len(self.memo) >= MEMO_LIMIT:
            self.memo.clear()
        self.memo[key] = result
        return result


NetworkView.EMPTY = NetworkView(0, {}, ())
