"""Every auction as a table (the shape of table 5.8): bids, utilities, refusals, what followed."""

from __future__ import annotations

from msgspec import Struct, structs

from phalanx.domain.events import Event
from phalanx.reporting.log import (
    Data,
    Log,
    finite,
    names,
    number,
    predicate_of,
    rows,
    table,
    text,
)
from phalanx.reporting.svg import figure


class BidRow(Struct, frozen=True):
    """One bid: T in s, C in MB/s, D in ms; a low utility wins (eq. 3.1)."""

    agent: str
    vnf: str
    units: int
    time_s: float
    cost: float
    latency_ms: float
    utility: float | None
    """None: the bid was made, but the auctioneer never ranked it."""
    path: tuple[str, ...]
    reuse: str
    won: bool


class Auction(Struct, frozen=True):
    """One call for proposals and what came of it."""

    number: int
    auction: str
    goal: str
    predicate: str
    auctioneer: str
    called_s: float
    closed_s: float | None
    event: str
    """Id of the event that closed it, or that called it while it is open."""
    traffic_mb_s: float
    tap: str
    constraints: tuple[tuple[str, str], ...]
    """What must hold, and its limit with unit."""
    preferences: tuple[tuple[str, float], ...]
    outcome: str
    """``awarded``, ``failed`` or ``open``."""
    winner: str
    reason: str
    bids: tuple[BidRow, ...]
    refusals: tuple[tuple[str, str], ...]
    silent: tuple[str, ...]
    earlier: tuple[str, ...]
    """Winners that failed before this award."""
    fallback: str = ""
    """Goal adopted because this auction failed."""
    fallback_event: str = ""
    repeats: int | None = None
    """Number of the auction of this predicate before, if its answers were the same."""

    @property
    def answers(self) -> object:
        """What was answered, as far as two auctions of one kind can be told apart by it."""
        bids = tuple((bid.agent, bid.time_s, bid.cost, bid.latency_ms) for bid in self.bids)
        return self.winner, bids, self.refusals, self.silent

    @property
    def best(self) -> BidRow | None:
        """The winning bid."""
        return next((bid for bid in self.bids if bid.won), None)


def auctions_of(log: Log) -> list[Auction]:
    """Return all auctions in the order in which they were called."""
    calls: list[Event] = []
    parts: dict[str, list[Event]] = {}
    latest: dict[str, str] = {}
    kinds = ("auction.called", "auction.bid", "auction.refused", "auction.awarded")
    for event in log.of(*kinds, "auction.failed"):
        name = text(event.data, "auction")
        if event.kind == "auction.called" or name not in latest:
            calls.append(event)
            latest[name] = event.id
        parts.setdefault(latest[name], []).append(event)
    auctions: list[Auction] = []
    last: dict[str, Auction] = {}
    for at, call in enumerate(calls, 1):
        auction = _auction(log, at, call, parts[call.id])
        before = last.get(auction.predicate)
        if before and before.answers == auction.answers:
            auction = structs.replace(auction, repeats=before.repeats or before.number)
        last[auction.predicate] = auction
        auctions.append(auction)
    return auctions


def _auction(log: Log, place: int, call: Event, events: list[Event]) -> Auction:
    closing = [e for e in events if e.kind in {"auction.awarded", "auction.failed"}]
    close = closing[-1] if closing else None
    data: Data = close.data if close else {}
    outcome = "open" if close is None else close.kind.partition(".")[2]
    refusals = {e.agent: text(e.data, "reason") for e in events if e.kind == "auction.refused"} | {
        agent: str(reason) for agent, reason in table(data, "refusals").items()
    }
    winner = text(data, "winner")
    fallback = _fallback(log, close) if close and outcome == "failed" else None
    goal = text(call.data, "goal")
    return Auction(
        place,
        text(call.data, "auction"),
        goal,
        predicate_of(goal),
        call.agent,
        call.time,
        close.time if close else None,
        (close or call).id,
        number(call.data, "traffic_mb_s"),
        text(call.data, "tap"),
        tuple(_constraint(k, v) for k, v in table(call.data, "constraints").items() if v),
        tuple((k, finite(v)) for k, v in table(call.data, "preferences").items()),
        outcome,
        winner,
        text(data, "reason"),
        _bids(events, rows(data, "ranking"), winner),
        tuple(sorted(refusals.items(), key=lambda item: natural(item[0]))),
        names(data, "silent"),
        tuple(text(e.data, "after") for e in closing if text(e.data, "after")),
        text(fallback.data, "goal") if fallback else "",
        fallback.id if fallback else "",
    )


def _fallback(log: Log, failure: Event) -> Event | None:
    """Return the first goal that the auctioneer adopted because of ``failure``."""
    queue = [failure]
    for event in queue:
        for effect in log.effects(event):
            if effect.kind == "goal.adopted" and effect.agent == failure.agent:
                return effect
            if effect.kind in {"plan.ended", "goal.ended", "belief.changed"}:
                queue.append(effect)
    return None


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key under which ``pop2`` comes before ``pop10``."""
    parts: list[tuple[int, str]] = []
    word = ""
    for letter in name:
        if word and letter.isdecimal() != word[-1].isdecimal():
            parts.append((int(word[:15]) if word.isdecimal() else -1, word))
            word = ""
        word += letter
    return [*parts, (int(word[:15]) if word.isdecimal() else -1, word)]


def _bids(events: list[Event], ranking: list[Data], winner: str) -> tuple[BidRow, ...]:
    ranked = [_bid(text(row, "agent"), row) for row in ranking]
    best = next((at for at, bid in enumerate(ranked) if bid.agent == winner), None)
    listed = {(bid.agent, bid.vnf, bid.units) for bid in ranked}
    unranked = [
        bid
        for event in events
        if event.kind == "auction.bid"
        for bid in (_bid(event.agent, row) for row in rows(event.data, "bids"))
        if (bid.agent, bid.vnf, bid.units) not in listed
    ]
    return (*(_bid(b.agent, ranking[i], won=i == best) for i, b in enumerate(ranked)), *unranked)


def _bid(agent: str, row: Data, *, won: bool = False) -> BidRow:
    return BidRow(
        agent,
        text(row, "vnf"),
        int(number(row, "units", 1)),
        number(row, "T"),
        number(row, "C"),
        number(row, "D"),
        number(row, "utility") if "utility" in row else None,
        names(row, "path"),
        text(row, "reuse"),
        won,
    )


def _constraint(name: str, limit: object) -> tuple[str, str]:
    value = finite(limit)
    written = {
        "latency_ms": ("latency", f"≤ {figure(value)} ms"),
        "loss": ("loss", f"≤ {figure(100 * value)} %"),
        "hops": ("hops", f"≤ {figure(value)}"),
        "accuracy": ("accuracy", f"≥ {figure(100 * value)} %"),
    }
    return written.get(name, (name, str(limit)))
