"""Holds, allocations and chains: the two books, told of in the log and to the agents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from phalanx.domain.actions import Hold
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.infrastructure.books.accounts import ComputeBook, LinkBook
from phalanx.infrastructure.books.instances import Chain
from phalanx.infrastructure.books.percepts import Percepts
from phalanx.infrastructure.books.topology import Path, Topology


def as_data(amount: Resources) -> dict[str, float]:
    """Return ``amount`` as an event writes it."""
    return {"cores": amount.cores, "memory_gb": amount.memory_gb, "disk_gb": amount.disk_gb}


class Ownership:
    """Changes the books as a whole or not at all."""

    def __init__(
        self,
        topology: Topology,
        compute: ComputeBook,
        links: LinkBook,
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
            self._tell(pop, cause)
        return refusal

    def fits(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Return why ``amount`` cannot be allocated to ``key`` instead of what it has."""
        return self._compute.lacking(pop, key, amount)

    def free_up(self, pop: PopId, key: str, cause: str) -> None:
        """Take back what ``key`` was allocated."""
        self._compute.free_up(pop, key)
        self._tell(pop, cause)

    def open(self, instance: str, pop: PopId, hold: Hold, cause: str) -> Chain | str:
        """Reserve the path of ``hold``, given back before; return why not as text."""
        self._chains += 1
        name = f"chain-{self._chains}"
        path = hold.path or (pop,)
        refusal = self._links.commit(name, hold.group, path, hold.mb_s)
        if refusal is not None:
            return refusal
        self._percepts.changed(path)
        return self._told(Chain(name, hold.group, path, hold.mb_s), instance, cause)

    def resize(self, chain: Chain, mb_s: float, instance: str, cause: str) -> Chain | str:
        """Reserve another bandwidth on the same path; return why not as text."""
        if mb_s == chain.mb_s:
            return chain
        refusal = self._links.commit(chain.id, chain.group, chain.path, mb_s)
        if refusal is not None:
            return refusal
        self._percepts.changed(chain.path)
        if chain.event is not None:
            self._recorder.record("chain.closed", cause, chain=chain.id)
        return self._told(Chain(chain.id, chain.group, chain.path, mb_s), instance, cause)

    def close(self, chain: Chain, cause: str) -> None:
        """Give the path of ``chain`` back."""
        self._links.give_back(chain.id, chain.group, chain.path)
        self._percepts.changed(chain.path)
        if chain.event is not None:
            self._recorder.record("chain.closed", cause, chain=chain.id)

    def hand_over(self, chain: Chain, to: str, cause: str) -> Chain:
        """Tell that a chain now ends at another instance of the same PoP."""
        if chain.event is None:
            return chain
        self._recorder.record("chain.closed", cause, chain=chain.id)
        return self._told(chain, to, cause)

    def _told(self, chain: Chain, instance: str, cause: str) -> Chain:
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
        )
        return Chain(chain.id, chain.group, chain.path, chain.mb_s, event)

    def _tell(self, pop: PopId, cause: str) -> None:
        data: dict[str, Any] = {
            "pop": pop,
            "free": as_data(self._compute.free(pop)),
            "total": as_data(self._compute.totals[pop]),
        }
        self._recorder.record("resources.changed", cause, **data)
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
