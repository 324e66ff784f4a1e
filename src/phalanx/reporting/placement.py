"""What was placed where and when: instances, chains and measures, with the auction behind each."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.auctions import Auction
from phalanx.reporting.log import Log, names, number, text

Span = tuple[float, float | None]
"""From when to when something was in place; None: to the end of the log."""


class Placed(Struct, frozen=True):
    """A VNF instance."""

    order: int
    instance: str
    vnf: str
    pop: str
    units: int
    span: Span
    auction: int | None
    """Number of the auction that placed it; None: it was there without one."""
    ended: str = ""


class Chain(Struct, frozen=True):
    """A path that traffic took to an instance; the same path of the same instance is one chain."""

    chain: str
    purpose: str
    instance: str
    vnf: str
    path: tuple[str, ...]
    mb_s: float
    spans: tuple[Span, ...]
    auctions: tuple[int, ...]


class Measure(Struct, frozen=True):
    """A limit, block or split that was in force."""

    measure: str
    effect: str
    pop: str
    instance: str
    rate_mb_s: float
    span: Span
    auction: int | None


class Placement(Struct, frozen=True):
    """Everything that was ever placed, each in the order of its beginning."""

    instances: tuple[Placed, ...]
    chains: tuple[Chain, ...]
    measures: tuple[Measure, ...]


def placement_of(log: Log, auctions: list[Auction]) -> Placement:
    """Read all instances, chains and measures of ``log``."""
    by_id = {auction.auction: auction.number for auction in auctions}

    def auction_of(event: Event) -> int | None:
        cause = log.nearest(event, "contract.accepted", "auction.awarded")
        return by_id.get(text(cause.data, "auction")) if cause else None

    stops = _ends(log, "instance.stopped", "instance")
    closes = _ends(log, "chain.closed", "chain")
    lifts = _ends(log, "measure.lifted", "measure")
    instances: dict[str, Placed] = {}
    placed: list[Placed] = []
    for event in log.of("instance.started"):
        name = text(event.data, "instance")
        stop = _end(stops, name, event)
        instance = Placed(
            len(placed) + 1,
            name,
            text(event.data, "vnf"),
            text(event.data, "pop"),
            int(number(event.data, "units", 1)),
            (event.time, stop.time if stop else None),
            auction_of(event),
            text(stop.data, "reason") if stop else "",
        )
        instances[name] = instance
        placed.append(instance)

    chains: dict[tuple[str, tuple[str, ...]], Chain] = {}
    for event in log.of("chain.opened"):
        instance_name, path = text(event.data, "instance"), names(event.data, "path")
        stop = _end(closes, text(event.data, "chain"), event)
        owner, auction = instances.get(instance_name), auction_of(event)
        same = chains.get((instance_name, path))
        chains[instance_name, path] = Chain(
            text(event.data, "chain"),
            text(event.data, "purpose"),
            instance_name,
            owner.vnf if owner else "",
            path,
            max(number(event.data, "mb_s"), same.mb_s if same else 0.0),
            (*(same.spans if same else ()), (event.time, stop.time if stop else None)),
            tuple(sorted({*(same.auctions if same else ()), *([auction] if auction else [])})),
        )
    measures = []
    for event in log.of("measure.applied"):
        stop = _end(lifts, text(event.data, "measure"), event)
        measures.append(
            Measure(
                text(event.data, "measure"),
                text(event.data, "effect"),
                text(event.data, "pop"),
                text(event.data, "instance"),
                number(event.data, "rate_mb_s"),
                (event.time, stop.time if stop else None),
                auction_of(event),
            )
        )
    return Placement(tuple(placed), tuple(chains.values()), tuple(measures))


def _ends(log: Log, kind: str, key: str) -> dict[str, list[Event]]:
    ends: dict[str, list[Event]] = {}
    for event in log.of(kind):
        ends.setdefault(text(event.data, key), []).append(event)
    return ends


def _end(ends: dict[str, list[Event]], name: str, begin: Event) -> Event | None:
    """Return the first end of ``name`` after ``begin``."""
    return next((event for event in ends.get(name, ()) if event.time >= begin.time), None)
