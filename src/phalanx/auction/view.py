"""The network as one agent believes it to be: immutable, and shared by all who believe the same.

An agent learns the states of agents and their PoPs one by one, in any order, some twice and
some late. The view it ends up with depends only on the states themselves: of two states of one
agent the later stamp wins, at equal stamps the report of a death wins over the state it is about,
and what differs still is settled by the larger fingerprint. So views form a semilattice:
agents that heard the same states hold the same view, and in one process the same object.

Two views tell whether agents that have all refused a goal may answer otherwise now.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import asdict

from phalanx.domain.agents import AgentId, AgentState
from phalanx.domain.network import LinkState, PopId
from phalanx.domain.resources import NOTHING, Resources

T = TypeVar("T")

Arc = tuple[PopId, float, float, float, float, float]
"""A usable link at one of its ends: the PoP at the other end, free MB/s of the link (both
directions together), latency in ms, loss as a fraction, free MB/s in this direction, capacity
in MB/s."""

MEMO_LIMIT = 1024
"""Results kept with one view; past that all are forgotten and found again when asked for."""

_encode = msgspec.msgpack.Encoder().encode


class _Entry:
    """One agent's state with what decides between two of them."""

    __slots__ = ("links", "order", "state", "token")

    def __init__(self, state: AgentState) -> None:
        self.state = state
        self.token = int.from_bytes(blake2b(_encode(state), digest_size=16).digest(), "big")
        self.order = (state.incarnation, state.version, not state.alive, self.token)
        self.links: dict[PopId, LinkState] | None = None

    def usable(self) -> dict[PopId, LinkState]:
        """Return the links that are up by the neighbour they lead to.

        All of a PoP whose agent is gone: a switch, and a repository on it, outlive the agent
        beside them. Whether such a link is up now is known from its other end.
        """
        if self.links is None:
            links, own, gone = self.state.links, self.state.pop, not self.state.alive
            self.links = {link.to: link for link in links if (link.up or gone) and link.to != own}
        return self.links


class NetworkView:
    """What one agent believes of all PoPs. Make one from ``NetworkView.EMPTY``.

    Args:
        digest: xor of the fingerprints of all states (Zobrist hashing).
        entries: the states.
        agents: their names, sorted, if already known.

    """

    EMPTY: ClassVar[NetworkView]

    _views: ClassVar[WeakValueDictionary[int, NetworkView]] = WeakValueDictionary()

    def __init__(
        self,
        digest: int,
        entries: dict[AgentId, _Entry],
        agents: tuple[AgentId, ...] | None = None,
    ) -> None:
        self.digest = digest
        """128 bits; equal for views of equal content, however they came about."""
        self.memo: dict[Hashable, Any] = {}
        """Results of searches on this view, for all agents that hold it; see ``remember``."""
        self._logged: tuple[dict[PopId, Any], dict[tuple[PopId, PopId], float]] = {}, {}
        """What is free of the PoPs and links that bids have shown so far, as ``along`` does."""
        self._entries = entries
        self._properties: dict[AgentId | PopId, Mapping[str, float]] = {}
        if agents is not None:
            self.__dict__["agents"] = agents
        self._views[digest] = self

    def apply(self, state: AgentState) -> NetworkView:
        """Return the view that also knows ``state``; the same object if that is no news."""
        return self.apply_all((state,))

    def apply_all(self, states: Iterable[AgentState]) -> NetworkView:
        """Return the view that also knows ``states``: one copy, however many are new."""
        entries, digest, grown = self._entries, self.digest, False
        news: dict[AgentId, _Entry] = {}
        for state in states:
            old = news.get(state.agent) or entries.get(state.agent)
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
            news[state.agent] = entry
        if not news:
            return self
        known = self._views.get(digest)
        if known is None:
            agents = None if grown else self.__dict__.get("agents")
            known = NetworkView(digest, {**entries, **news}, agents)
        return known._with(self._properties) if self._properties else known

    def described(self, subject: AgentId | PopId, properties: Mapping[str, float]) -> NetworkView:
        """Return the view that also knows ``properties`` of an agent or a PoP by name.

        They are what this agent found out by itself, such as the trust score of another. They
        are no part of the digest: agents that differ in them alone agree about the network.
        """
        return self._with({**self._properties, subject: {**self.properties(subject), **properties}})

    def along(self, path: tuple[PopId, ...]) -> dict[str, Any]:
        """Return what is free at the PoPs and links of ``path``, as the log shows it."""
        if len(path) < 2:
            return {}
        sites, rooms = self._logged  # on a ring all paths share what they have of it
        for pop in path:
            if pop not in sites:
                sites[pop] = asdict(self.sites[pop].free)
        ends = [*pairwise(path)]
        for a, b in ends:
            if (a, b) not in rooms:
                rooms[a, b] = next(arc[1] for arc in self.outgoing[a] if arc[0] == b)
        return {"free": [sites[pop] for pop in path], "free_mb_s": [rooms[link] for link in ends]}

    def properties(self, subject: AgentId | PopId) -> Mapping[str, float]:
        """Return the properties that are known of an agent or a PoP; empty if none are."""
        return self._properties.get(subject, {})

    def _with(self, properties: dict[AgentId | PopId, Mapping[str, float]]) -> NetworkView:
        view = copy(self)
        view._properties = properties
        return view

    def get(self, agent: AgentId) -> AgentState | None:
        """Return what is believed of ``agent``; None if nothing was heard of it."""
        entry = self._entries.get(agent)
        return None if entry is None else entry.state

    def site(self, pop: PopId) -> AgentState | None:
        """Return what is believed of the resources and links of ``pop``; None: nothing."""
        return self.sites.get(pop)

    def __len__(self) -> int:
        return len(self._entries)

    @cached_property
    def agents(self) -> tuple[AgentId, ...]:
        """Names of all agents heard of, dead ones too, sorted."""
        return tuple(sorted(self._entries))

    @cached_property
    def _sites(self) -> dict[PopId, _Entry]:
        """Of each PoP the state that one agent there tells.

        All agents of a PoP perceive the same state of it, so any living one that told of it
        serves: the first by name.
        """
        chosen: dict[PopId, tuple[bool, bool, _Entry]] = {}
        for agent in self.agents:
            entry = self._entries[agent]
            state = entry.state
            if state.pop is None:
                continue
            rank = state.alive, bool(state.links) or state.total != NOTHING
            if state.pop not in chosen or rank > chosen[state.pop][:2]:
                chosen[state.pop] = (*rank, entry)
        return {pop: chosen[pop][2] for pop in sorted(chosen)}

    @cached_property
    def sites(self) -> dict[PopId, AgentState]:
        """The state of each PoP, by its name in order."""
        return {pop: entry.state for pop, entry in self._sites.items()}

    @cached_property
    def holders(self) -> dict[str, list[PopId]]:
        """The PoPs that have an image, sorted, by its name (``Vnfd.image``).

        Those whose agents are gone too: their images outlive them as their switches do.
        """
        found: dict[str, list[PopId]] = {}
        for pop, state in self.sites.items():
            for image in state.images:
                found.setdefault(image, []).append(pop)
        return found

    @cached_property
    def pops(self) -> tuple[PopId, ...]:
        """Names of all PoPs that an agent told of, sorted."""
        return tuple(self._sites)

    @cached_property
    def dead(self) -> frozenset[AgentId]:
        """Names of the agents that are believed gone."""
        entries = self._entries.values()
        return frozenset(entry.state.agent for entry in entries if not entry.state.alive)

    @property
    def states(self) -> tuple[AgentState, ...]:
        """The states of all agents, by name."""
        entries = self._entries
        return tuple(entries[agent].state for agent in self.agents)

    def stamps(self) -> tuple[tuple[AgentId, int, int], ...]:
        """Return (agent, incarnation, version) of each agent, by name."""
        return tuple((state.agent, *state.stamp) for state in self.states)

    @cached_property
    def _arcs(self) -> tuple[dict[PopId, list[Arc]], dict[PopId, list[Arc]]]:
        entries = self._sites
        outgoing: dict[PopId, list[Arc]] = {pop: [] for pop in entries}
        incoming: dict[PopId, list[Arc]] = {pop: [] for pop in entries}
        for pop, entry in entries.items():
            for to, link in entry.usable().items():
                other = entries.get(to)
                back = None if other is None else other.usable().get(pop)
                if back is None:
                    continue
                capacity = link.bandwidth_mb_s
                # No download is faster than either end says, and no end gives bandwidth back.
                room = min(capacity, back.bandwidth_mb_s) - max(link.reserved_mb_s, 0.0)
                free = room - max(back.reserved_mb_s, 0.0)
                if free < 0.0:  # states of different age can contradict each other
                    free, room = 0.0, max(room, 0.0)
                latency, loss = link.latency_ms, link.loss
                outgoing[pop].append((to, free, latency, loss, room, capacity))
                incoming[to].append((pop, free, latency, loss, room, capacity))
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


class Change:
    """Whether something came, since ``begin``, that could change the answers to a call.

    Args:
        key: the plan that waits for it is resumed by this.
        needs: what VNFs require that could do the work.

    """

    def __init__(self, key: str, needs: Sequence[Resources]) -> None:
        self.key = key
        self.came = False
        self.waits = 0
        """How often it was waited for."""
        self._needs = needs
        self._view = NetworkView.EMPTY

    def begin(self, view: NetworkView) -> None:
        """Look for changes from ``view`` on."""
        self._view, self.came = view, False

    def see(self, view: NetworkView) -> bool:
        """Compare the next view with the one before."""
        self.came = self.came or could_change(self._view, self._needs, view)
        self._view = view
        return self.came


def could_change(before: NetworkView, needs: Sequence[Resources], now: NetworkView) -> bool:
    """Whether agents may answer otherwise than they did by the view ``before``.

    An agent is new, back or without its memory; one of ``needs`` (what VNFs require that could do
    the work) fits into a PoP where it did not; or a link is up again or carries less.
    """
    if now is before:
        return False
    return any(
        state.alive and _opens(before.get(state.agent), needs, state)
        for state in now.states
        if state is not before.get(state.agent)
    )


def _opens(old: AgentState | None, needs: Sequence[Resources], new: AgentState) -> bool:
    if old is None or not old.alive or old.incarnation != new.incarnation:
        return True
    if any(needed.within(new.free) and not needed.within(old.free) for needed in needs):
        return True
    links = {link.to: link for link in old.links if link.up}
    return any(
        link.up and (link.to not in links or link.reserved_mb_s < links[link.to].reserved_mb_s)
        for link in new.links
    )
