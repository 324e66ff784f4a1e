"""What the web API tells of a run: what stands now, kept event by event, and pages of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from phalanx.console.feed import Feed, Line
from phalanx.domain.events import Event
from phalanx.store.causes import climb


class PageQuery(Struct, frozen=True):
    """Which events to give."""

    after: Annotated[int, Meta(ge=-1, le=2**53)] = -1
    """Number of the event before the first; -1: from the first on."""
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500
    """Events that are looked at."""
    kind: Annotated[str, Meta(max_length=100)] = ""
    """Only this kind, or family of kinds such as ``auction``."""
    agent: Annotated[str, Meta(max_length=200)] = ""
    """Only what this agent recorded."""


class EventPage(Struct, frozen=True):
    """Events in the order of the log."""

    events: list[Line]
    next: int
    """To be given as ``after``, for the next page."""
    count: int
    """Events of the log so far."""
    whole: bool
    """Whether no more come."""


class CausesAnswer(Struct, frozen=True):
    """An event with what led to it, the root first."""

    events: list[Line]
    broken: str = ""
    """Where the chain does not reach its root, and why."""


class ResourceItem(Struct, frozen=True):
    """One thing that stands now."""

    name: str
    since: float
    """Seconds of the run."""
    event: str
    """Id of the event that tells of it; its causes are why it is so."""
    kind: str
    """Of that event."""
    data: dict[str, Any]


class ResourceList(Struct, frozen=True):
    """What stands now, by its beginning."""

    items: list[ResourceItem]


_BEGINS: dict[str, tuple[str, str]] = {
    "agent.started": ("agents", ""),
    "agent.restored": ("agents", ""),
    "instance.started": ("functions", "instance"),
    "measure.applied": ("measures", "measure"),
    "auction.called": ("auctions", "auction"),
    "auction.awarded": ("auctions", "auction"),
    "auction.failed": ("auctions", "auction"),
    "goal.adopted": ("goals", "instance_id"),
    "attestation.result": ("attestations", "attester"),
    "trust.changed": ("standings", "agent"),
    "key.installed": ("keys", ""),
    "policy.issued": ("policies", "slice"),
    "service.requested": ("services", "service"),
    "service.deployed": ("services", "service"),
    "service.reconfigured": ("services", "service"),
    "service.rolled_back": ("services", "service"),
    "chain.opened": ("chains", "chain"),
    "run.started": ("topology", "scenario"),
}
"""By kind: the resource that it tells of, and the field that names it ("": its agent)."""
_ENDS: dict[str, tuple[str, str]] = {
    "agent.left": ("agents", ""),
    "agent.crashed": ("agents", "pop"),
    "instance.stopped": ("functions", "instance"),
    "instance.replaced": ("functions", "instance"),
    "measure.lifted": ("measures", "measure"),
    "goal.ended": ("goals", "instance_id"),
    "service.removed": ("services", "service"),
    "chain.closed": ("chains", "chain"),
}
RESOURCES: Mapping[str, str] = {
    "services": "services that are deployed, by their last change",
    "topology": "PoPs, links, hosts and sources, as the run began",
    "agents": "agents that run",
    "functions": "instances of VNFs that run",
    "measures": "limits, blocks and replicas in force",
    "chains": "chains and mirrors of traffic",
    "auctions": "calls for proposals and what came of them, the latest 2,000",
    "goals": "goals that are open",
    "attestations": "the last result of each agent",
    "standings": "who is trusted",
    "keys": "epochs of the overlay's keys that agents use; never a key",
    "policies": "policies in force, by slice",
}
MOST_KEPT = 2000
"""Of the auctions, which have no end."""


class StandingView:
    """Follows the log event by event."""

    def __init__(self) -> None:
        self._now: dict[str, dict[str, Event]] = {name: {} for name in RESOURCES}

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        begins, ends = _BEGINS.get(event.kind), _ENDS.get(event.kind)
        if begins is not None:
            items = self._now[begins[0]]
            name = str(event.data.get(begins[1], event.agent)) if begins[1] else event.agent
            items.pop(name, None)
            items[name] = event
            if begins[0] == "auctions" and len(items) > MOST_KEPT:
                items.pop(next(iter(items)))
        elif ends is not None:
            name = str(event.data.get(ends[1], "")) if ends[1] else event.agent
            self._now[ends[0]].pop(name, None)

    def read(self, name: str) -> ResourceList:
        """Return what stands now of a resource."""
        items = list(self._now[name].items())
        return ResourceList([ResourceItem(key, e.time, e.id, e.kind, e.data) for key, e in items])


def page(feed: Feed, query: PageQuery) -> EventPage:
    """Return the events that a query asks for."""
    end = min(query.after + 1 + query.limit, len(feed))
    lines = [line for line in feed.read(query.after + 1, end) if _wanted(line, query)]
    return EventPage(lines, max(end - 1, query.after), len(feed), feed.whole)


def _wanted(line: Line, query: PageQuery) -> bool:
    family, rest = line.kind[: len(query.kind)], line.kind[len(query.kind) :]
    of_kind = not query.kind or (family == query.kind and rest[:1] in {"", "."})
    return of_kind and query.agent in {"", line.agent}


def causes(feed: Feed, event_id: str) -> CausesAnswer | None:
    """Return what led to an event, by the walker of the log; None if there is no such event."""
    chain = climb(event_id, feed.get)
    if not chain.entries:
        return None
    return CausesAnswer(list(chain.entries), str(chain.broken or ""))
