"""Which resources and which bandwidth are held or allocated, at each PoP and on each link.

Free amounts are always worked out from the claims that exist, never carried along, so that
they are exactly what they were at the start once every claim is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain.actions import Hold, Percept, SiteState
from phalanx.domain.agents import AgentId
from phalanx.domain.events import Recorder
from phalanx.domain.network import Link, LinkState, PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.reservations.instances import ReservedPath
from phalanx.infrastructure.reservations.topology import Edge, Path, Topology

_ROUNDING = 1e-9
"""Most by which sums of floats may exceed a limit that they meet."""


class InvariantError(AssertionError):
    """The reservations are wrong: something is over-committed."""


def _sum(amounts: Iterable[Resources]) -> Resources:
    return sum(amounts, NOTHING)


@dataclass(slots=True, eq=False)
class KeptImage:
    """An image on the disk of a PoP."""

    vnfd: Vnfd
    needed: float
    """When it was needed last, in seconds."""
    users: dict[str, None]
    """Instances that were made from it: its octets are among what they have allocated."""


class ComputeAllocations:
    """Cores, memory and disk of the PoPs."""

    def __init__(self, totals: Mapping[PopId, Resources]) -> None:
        self.totals = dict(totals)
        self._allocated: dict[PopId, dict[str, Resources]] = {pop: {} for pop in totals}
        self._held: dict[PopId, dict[str, Resources]] = {pop: {} for pop in totals}
        self.images: dict[PopId, dict[str, KeptImage]] = {pop: {} for pop in totals}
        """By name. Those without users lie on free disk, and are in nobody's way there."""

    def unused_mb(self, pop: PopId) -> float:
        """Return the size of all images without users, in MB."""
        return sum(kept.vnfd.image_mb for kept in self.images[pop].values() if not kept.users)

    def free(self, pop: PopId) -> Resources:
        """Return what is not allocated; holds are not subtracted."""
        allocated = self._allocated[pop]
        return self.totals[pop] - _sum(allocated.values()) if allocated else self.totals[pop]

    def unheld(self, pop: PopId) -> Resources:
        """Return what is neither allocated nor held."""
        held = self._held[pop]
        return self.free(pop) - _sum(held.values()) if held else self.free(pop)

    def hold(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Hold ``amount``; return why not if it does not fit."""
        lacking = amount.lacking(self._rounded(self.unheld(pop)))
        if lacking is None:
            self._held[pop][key] = amount
        return lacking

    def release(self, pop: PopId, key: str) -> None:
        """Give a hold back."""
        self._held[pop].pop(key, None)

    def allocate(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Allocate ``amount`` to ``key``, instead of what it has; return why not if too much."""
        lacking = self.lacking(pop, key, amount)
        if lacking is None:
            self._allocated[pop][key] = amount
        return lacking

    def lacking(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Return why ``key`` cannot have ``amount`` instead of what it has; None if it can."""
        own = self._allocated[pop].get(key, NOTHING)
        return amount.lacking(self._rounded(self.unheld(pop) + own))

    def free_up(self, pop: PopId, key: str) -> None:
        """Take back what ``key`` was allocated."""
        self._allocated[pop].pop(key, None)

    def check(self) -> None:
        """Raise ``InvariantError`` if a PoP has less than nothing left."""
        for pop in self.totals:
            lacking = NOTHING.lacking(self._rounded(self.unheld(pop)))
            if lacking is not None:
                raise InvariantError(f"{pop} is over-committed: {lacking}")
            if self.unused_mb(pop) > (self.free(pop).disk_gb + _ROUNDING) * 1e3:
                raise InvariantError(f"{pop} keeps {self.unused_mb(pop):g} MB of images")

    @staticmethod
    def _rounded(amount: Resources) -> Resources:
        return Resources(
            amount.cores + _ROUNDING, amount.memory_gb + _ROUNDING, amount.disk_gb + _ROUNDING
        )


class _Group:
    """Claims of one auction on one link: of the held ones only one will come true."""

    __slots__ = ("committed", "held")

    def __init__(self) -> None:
        self.held: dict[float, int] = {}
        """How many hold how much, MB/s: mostly one figure, however many bidders there are."""
        self.committed: dict[str, float] = {}

    def need(self) -> float:
        held = max(self.held) if self.held else 0.0
        return max(held, sum(self.committed.values())) if self.committed else held


class LinkAllocations:
    """Bandwidth of the links in MB/s, admitted for both directions of a link together.

    Claims belong to a group. What a group needs of a link is the larger of its largest hold
    and the sum of its commitments, so that a winner's hold can turn into a commitment while
    the losers have not released theirs yet.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._claims: dict[Edge, dict[str, _Group]] = {}
        for link in topology.links:  # one entry for both directions
            self._claims[link.a, link.b] = self._claims[link.b, link.a] = {}
        self._directed: dict[Edge, dict[str, float]] = {}
        self._ways: dict[tuple[str, float, Path], int] = {}
        """By group, MB/s and way: how many hold that way, or reach it over one link. Bidders of
        one auction share the ways to its tap, so that most add one link."""

    def free(self, link: Link) -> float:
        """Return the bandwidth that nobody holds or has."""
        taken = 0.0
        for claim in self._claims[link.a, link.b].values():
            taken += claim.need()
        return link.bandwidth_mb_s - taken

    def reserved(self, source: PopId, target: PopId) -> float:
        """Return what is committed in the direction from ``source`` to ``target``."""
        committed = self._directed.get((source, target))
        return sum(committed.values(), 0.0) if committed else 0.0

    def joins(self, path: Path) -> bool:
        """Whether links join each PoP of ``path`` to the next."""
        return all(map(self._claims.__contains__, pairwise(path)))

    def hold(self, group: str, path: Path, mb_s: float) -> str | None:
        """Hold ``mb_s`` on the links of ``path``; return why not if it does not fit."""
        if mb_s <= 0.0:
            return None
        ways, way, grown = self._ways, path, []
        while len(way) > 1:
            key = group, mb_s, way
            known = ways.get(key, 0)
            ways[key] = known + 1
            if known:
                break
            ends = way[0], way[1]
            groups = self._claims[ends]
            claim = groups.get(group)
            if claim is None:
                claim = groups[group] = _Group()
            held = claim.held
            if mb_s in held:  # as much is held already: the group needs no more than before
                held[mb_s] += 1
            else:
                held[mb_s] = 1
                grown.append(ends)
            way = way[1:]
        refusal = self._refusal(grown, mb_s)
        if refusal is not None:
            self.release(group, path, mb_s)
        return refusal

    def release(self, group: str, path: Path, mb_s: float) -> None:
        """Give a hold back."""
        if mb_s <= 0.0:
            return
        ways, way = self._ways, path
        while len(way) > 1:
            key = group, mb_s, way
            others = ways[key] - 1
            if others:
                ways[key] = others
                break
            del ways[key]
            groups = self._claims[way[0], way[1]]
            held = groups[group].held
            left = held[mb_s] - 1
            if left:
                held[mb_s] = left
            else:
                del held[mb_s]
                self._tidy(groups, group)
            way = way[1:]

    def commit(self, key: str, group: str, path: Path, mb_s: float) -> str | None:
        """Reserve ``mb_s`` for traffic from the end of ``path`` to its start.

        Replaces what ``key`` has committed for ``group`` on the same path. Returns why not
        if it does not fit; then nothing has changed.
        """
        before: list[float | None] = []
        for ends in pairwise(path):
            committed = self._claims[ends].setdefault(group, _Group()).committed
            before.append(committed.get(key))
            committed[key] = mb_s
        refusal = self._refusal(pairwise(path), mb_s)
        for (a, b), old in zip(pairwise(path), before, strict=True):
            groups = self._claims[a, b]
            if refusal is None:
                self._directed.setdefault((b, a), {})[key] = mb_s
            elif old is None:
                del groups[group].committed[key]
                self._tidy(groups, group)
            else:
                groups[group].committed[key] = old
        return refusal

    def give_back(self, key: str, group: str, path: Path) -> None:
        """Take back what ``key`` has committed on ``path``."""
        for a, b in pairwise(path):
            groups = self._claims[a, b]
            groups[group].committed.pop(key, None)
            self._directed.get((b, a), {}).pop(key, None)
            self._tidy(groups, group)

    def check(self) -> None:
        """Raise ``InvariantError`` if a link has less than nothing left."""
        for link in self._topology.links:
            if self.free(link) < -_ROUNDING:
                raise InvariantError(f"link {link.a}-{link.b} is over-committed: {self.free(link)}")

    def _refusal(self, hops: Iterable[Edge], mb_s: float) -> str | None:
        for a, b in hops:
            link = self._topology.neighbours[a][b]
            # The claim itself is booked already, so a link that can bear it is not below 0.
            free = self.free(link)
            if free < -_ROUNDING:
                return (
                    f"link {link.a}-{link.b} has {max(0.0, free + mb_s):g} MB/s free, "
                    f"needs {mb_s:g}"
                )
        return None

    @staticmethod
    def _tidy(groups: dict[str, _Group], group: str) -> None:
        claim = groups[group]
        if not claim.held and not claim.committed:
            del groups[group]


Perceive = Callable[[Percept], None]


class Percepts:
    """Tells attached agents; several changes of one instant become one percept."""

    def __init__(
        self, clock: Clock, topology: Topology, compute: ComputeAllocations, links: LinkAllocations
    ) -> None:
        self._clock = clock
        self._topology = topology
        self._compute = compute
        self._links = links
        self._agents: dict[PopId, dict[AgentId, Perceive]] = {}
        self._told: dict[AgentId, SiteState] = {}
        self._changed: dict[PopId, None] = {}
        self._had: dict[PopId, set[str]] = {}
        """Images that agents were ever told of."""

    def attach(self, agent: AgentId, pop: PopId, perceive: Perceive) -> None:
        """Tell ``agent`` from now on, beginning with the state of ``pop``."""
        self._agents.setdefault(pop, {})[agent] = perceive
        self._told.pop(agent, None)
        self.changed((pop,))

    def detach(self, agent: AgentId, pop: PopId) -> None:
        """Tell ``agent`` nothing more."""
        self._agents.get(pop, {}).pop(agent, None)

    def changed(self, pops: Iterable[PopId]) -> None:
        """Note that the state of ``pops`` may have changed."""
        if not self._changed:
            self._clock.call_soon(self._flush)
        self._changed.update(dict.fromkeys(pops))

    def tell(self, pop: PopId, percept: Percept) -> None:
        """Tell the agents of ``pop`` something at once, if there are any."""
        for perceive in list(self._agents.get(pop, {}).values()):
            perceive(percept)

    def state(self, pop: PopId) -> SiteState:
        """Return the state of ``pop`` as it is now."""
        return SiteState(
            total=self._compute.totals[pop],
            free=self._compute.free(pop),
            links=tuple(
                LinkState(
                    to=neighbour,
                    bandwidth_mb_s=link.bandwidth_mb_s,
                    latency_ms=link.latency_ms,
                    loss=link.loss,
                    reserved_mb_s=self._links.reserved(pop, neighbour),
                    up=self._topology.is_up(link),
                )
                for neighbour, link in self._topology.neighbours[pop].items()
            ),
            images=tuple(sorted(self._compute.images[pop])),
        )

    def ever(self, pop: PopId) -> SiteState:
        """Return the state of ``pop``, with all images that its agents ever knew there."""
        state = self.state(pop)
        return replace(state, images=tuple(sorted(self._had.get(pop, set()).union(state.images))))

    def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        for pop in changed:
            agents = self._agents.get(pop)
            if not agents:
                continue
            state = self.state(pop)
            self._had.setdefault(pop, set()).update(state.images)
            for agent, perceive in list(agents.items()):
                if state != self._told.get(agent):
                    self._told[agent] = state
                    perceive(state)


def as_data(amount: Resources) -> dict[str, float]:
    """Return ``amount`` as an event writes it."""
    return {"cores": amount.cores, "memory_gb": amount.memory_gb, "disk_gb": amount.disk_gb}


class Reservations:
    """Holds, allocations and paths: changed as a whole or not at all, and told in the log."""

    def __init__(
        self,
        topology: Topology,
        compute: ComputeAllocations,
        links: LinkAllocations,
        percepts: Percepts,
        recorder: Recorder,
    ) -> None:
        self._topology = topology
        self._compute = compute
        self._links = links
        self._percepts = percepts
        self._recorder = recorder
        self._chains = 0

    def hold(self, pop: PopId, hold: Hold) -> str | None:
        """Hold resources and bandwidth; return why not if they are not there."""
        refusal = self._path_refusal(pop, hold.path) or self._links.hold(
            hold.group, hold.path, hold.mb_s
        )
        if refusal is None:
            refusal = self._compute.hold(pop, hold.hold, hold.resources)
            if refusal is not None:
                self._links.release(hold.group, hold.path, hold.mb_s)
        return refusal

    def release(self, pop: PopId, hold: Hold) -> None:
        """Give a hold back."""
        self._compute.release(pop, hold.hold)
        self._links.release(hold.group, hold.path, hold.mb_s)

    def allocate(self, pop: PopId, key: str, amount: Resources, cause: str) -> str | None:
        """Allocate ``amount`` to ``key`` instead of what it has; return why not."""
        refusal = self._compute.allocate(pop, key, amount)
        if refusal is None:
            self._tell(pop, key, amount, cause)
        return refusal

    def fits(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Return why ``amount`` cannot be allocated to ``key`` instead of what it has."""
        return self._compute.lacking(pop, key, amount)

    def free_up(self, pop: PopId, key: str, cause: str) -> None:
        """Take back what ``key`` was allocated."""
        self._compute.free_up(pop, key)
        self._tell(pop, key, NOTHING, cause)

    def open(self, instance: str, pop: PopId, hold: Hold, cause: str) -> ReservedPath | str:
        """Reserve the path of ``hold``, given back before; return why not as text."""
        self._chains += 1
        name = f"chain-{self._chains}"
        path = hold.path or (pop,)
        refusal = self._links.commit(name, hold.group, path, hold.mb_s)
        if refusal is not None:
            return refusal
        self._percepts.changed(path)
        return self._told(ReservedPath(name, hold.group, path, hold.mb_s), instance, cause)

    def resize(
        self, chain: ReservedPath, mb_s: float, instance: str, cause: str
    ) -> ReservedPath | str:
        """Reserve another bandwidth on the same path; return why not as text."""
        if mb_s == chain.mb_s:
            return chain
        refusal = self._links.commit(chain.id, chain.group, chain.path, mb_s)
        if refusal is not None:
            return refusal
        self._percepts.changed(chain.path)
        if chain.event is not None:
            self._recorder.record("chain.closed", cause, chain=chain.id)
        return self._told(ReservedPath(chain.id, chain.group, chain.path, mb_s), instance, cause)

    def close(self, chain: ReservedPath, cause: str) -> None:
        """Give the path of ``chain`` back."""
        self._links.give_back(chain.id, chain.group, chain.path)
        self._percepts.changed(chain.path)
        if chain.event is not None:
            self._recorder.record("chain.closed", cause, chain=chain.id)

    def hand_over(self, chain: ReservedPath, to: str, cause: str) -> ReservedPath:
        """Tell that a chain now ends at another instance of the same PoP."""
        if chain.event is None:
            return chain
        self._recorder.record("chain.closed", cause, chain=chain.id)
        return self._told(chain, to, cause)

    def _told(self, chain: ReservedPath, instance: str, cause: str) -> ReservedPath:
        if len(chain.path) < 2:
            return chain
        event = self._recorder.record(
            "chain.opened",
            cause,
            chain=chain.id,
            purpose="mirror" if chain.mb_s > 0 else "steer",
            instance=instance,
            path=list(chain.path),
            mb_s=chain.mb_s,
            group=chain.group,
        )
        return ReservedPath(chain.id, chain.group, chain.path, chain.mb_s, event)

    def _tell(self, pop: PopId, key: str, amount: Resources, cause: str) -> None:
        free, total = as_data(self._compute.free(pop)), as_data(self._compute.totals[pop])
        data: dict[str, Any] = {"instance": key, "has": as_data(amount)}
        self._recorder.record("resources.changed", cause, pop=pop, free=free, total=total, **data)
        self._percepts.changed((pop,))

    def _path_refusal(self, pop: PopId, path: Path) -> str | None:
        if not path:
            return None
        if path[0] != pop:
            return f"the path begins at {path[0]}, not at {pop}"
        if len(set(path)) != len(path):
            return "the path passes a PoP twice"
        if self._topology.all_up and self._links.joins(path):
            return None
        for a, b in pairwise(path):
            link = self._topology.link(a, b)
            if link is None:
                return f"no link joins {a} and {b}"
            if not self._topology.is_up(link):
                return f"link {link.a}-{link.b} is down"
        return None
