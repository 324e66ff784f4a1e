"""Every auction as a table (the shape of table 5.8), and what was placed because of it."""

from __future__ import annotations

from msgspec import Struct, structs

from phalanx.domain.events import Event
from phalanx.reporting.figures import figure
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
from phalanx.reporting.utility import Comparison, TermShare, comparison

_KINDS = {
    "auction.called",
    "auction.bid",
    "auction.refused",
    "auction.awarded",
    "auction.failed",
}


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
    shares: tuple[TermShare, ...] = ()
    """What each weighed term adds to the utility; empty if the bid was not ranked."""


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
    events: tuple[str, ...]
    """Ids of all its events."""
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
    earlier: tuple[tuple[str, str], ...]
    """Winners that failed before this award, and why."""
    asked: int
    """Agents that were called; 0 where the log does not say."""
    comparison: Comparison
    """Of the ranked bids, which come first in ``bids``."""
    fallback: str = ""
    """Goal adopted because this auction failed."""
    fallback_event: str = ""
    repeats: int | None = None
    """Number of the auction of this predicate before, if its answers were the same."""
    round: int = 0
    """Which attempt at the goal it was, from 1; 0 where the log does not say."""

    @property
    def answers(self) -> object:
        """What was answered, as far as two auctions of one kind can be told apart by it."""
        bids = tuple((bid.agent, bid.time_s, bid.cost, bid.latency_ms) for bid in self.bids)
        return self.winner, bids, self.refusals, self.silent

    @property
    def best(self) -> BidRow | None:
        """The winning bid."""
        return next((bid for bid in self.bids if bid.won), None)


class AuctionsView:
    """All auctions in the order in which they were called, event by event.

    Args:
        log: the same events, each added there before it is added here.

    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parts: list[list[Event]] = []
        self._latest: dict[str, list[Event]] = {}

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        if event.kind not in _KINDS:
            return
        name = text(event.data, "auction")
        if event.kind == "auction.called" or name not in self._latest:
            self._latest[name] = []
            self._parts.append(self._latest[name])
        self._latest[name].append(event)

    def result(self) -> list[Auction]:
        """Return the auctions so far."""
        auctions: list[Auction] = []
        last: dict[str, Auction] = {}
        for at, events in enumerate(self._parts, 1):
            auction = _auction(self._log, at, events)
            before = last.get(auction.predicate)
            if before and before.answers == auction.answers:
                auction = structs.replace(auction, repeats=before.repeats or before.number)
            last[auction.predicate] = auction
            auctions.append(auction)
        return auctions


def _auction(log: Log, place: int, events: list[Event]) -> Auction:
    call = events[0]
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
    ranking = rows(data, "ranking")
    compared = comparison(call.data, ranking)
    return Auction(
        place,
        text(call.data, "auction"),
        goal,
        predicate_of(goal),
        call.agent,
        call.time,
        close.time if close else None,
        (close or call).id,
        tuple(event.id for event in events),
        number(call.data, "traffic_mb_s"),
        text(call.data, "tap"),
        tuple(_constraint(k, v) for k, v in table(call.data, "constraints").items() if v),
        tuple((k, finite(v)) for k, v in table(call.data, "preferences").items()),
        outcome,
        winner,
        text(data, "reason"),
        _bids(events, ranking, compared, winner),
        tuple(sorted(refusals.items(), key=lambda item: natural(item[0]))),
        names(data, "silent"),
        tuple(
            (text(e.data, "after"), text(e.data, "reason")) for e in closing if "after" in e.data
        ),
        int(number(call.data, "bidders")),
        compared,
        text(fallback.data, "goal") if fallback else "",
        fallback.id if fallback else "",
        round=int(number(call.data, "round")),
    )


def _fallback(log: Log, failure: Event) -> Event | None:
    """Return the first goal that the auctioneer adopted because of ``failure``."""
    queue = [failure]
    for event in queue:
        for effect in log.effects(event.id):
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


def _bids(
    events: list[Event], ranking: list[Data], compared: Comparison, winner: str
) -> tuple[BidRow, ...]:
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
    rated = zip(ranked, compared.shares(), strict=True)
    won = (structs.replace(b, won=i == best, shares=s) for i, (b, s) in enumerate(rated))
    return (*won, *unranked)


def _bid(agent: str, row: Data) -> BidRow:
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
        won=False,
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
