"""Security agreements of a run, from its log alone: what was kept and broken, what is owed."""

from __future__ import annotations

from msgspec import Struct, field

from phalanx.domain.events import Event
from phalanx.reporting.log import Data, number, table, text

Key = tuple[str, str, str]


class BreachStory(Struct):
    """One time that a term was broken."""

    event: str
    """Of the log, for ``phalanx explain``."""
    at_s: float
    value: float
    """The worst."""
    evidence: str
    lasted_s: float | None = None
    """None: to the end of the log."""
    remedied_s: float | None = None
    """How long after it was found the remedy was done, in s; None: none was."""
    remedy: str = ""
    by: str = ""
    credit: float = 0.0
    """Share of the price that is owed for it."""


class TermStory(Struct):
    """One term of an agreement at one function."""

    agreement: str
    term: str
    entity: str
    slice: str
    metric: str
    intent: str = ""
    since_s: float = 0.0
    """When it was measured first."""
    until_s: float = 0.0
    breaches: list[BreachStory] = field(default_factory=list)
    kept_share: float = 1.0
    """Share of the time since then in which it was kept."""
    credit: float = 0.0
    """Share of the price that is owed in all, 1 at the most."""
    provider: str = ""
    """With which it was negotiated last; empty: it was not, and so with what follows."""
    asked: float | None = None
    """Objective that was asked for first."""
    agreed: float | None = None
    rounds: int = 0


class AgreementsView:
    """Follows a run event by event."""

    def __init__(self) -> None:
        self._terms: dict[Key, TermStory] = {}
        self.agreed: dict[str, Event] = {}
        """The latest ``ssla.agreed`` of each agreement."""
        self._open: dict[str, tuple[TermStory, BreachStory]] = {}
        """Breaches that last, by their event."""
        self._now = 0.0

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._now, data = event.time, event.data
        if event.kind == "goal.ended" and data.get("outcome") == "achieved":
            self._remedied(event, text(data, "goal"))
        if event.kind == "ssla.agreed":
            self.agreed[text(data, "agreement")] = event
        if not event.kind.startswith("ssla.") or not text(data, "term"):
            return
        if event.kind == "ssla.restored":
            self._restored(event.time, data)
            return
        key = text(data, "agreement"), text(data, "term"), text(data, "entity")
        if key not in self._terms:
            about = text(data, "slice"), text(data, "metric"), text(data, "intent")
            self._terms[key] = TermStory(*key, *about, event.time)
        term = self._terms[key]
        if event.kind == "ssla.breached":
            found = BreachStory(event.id, event.time, number(data, "value"), text(data, "evidence"))
            term.breaches.append(found)
            self._open[event.id] = term, found

    def _remedied(self, event: Event, goal: str) -> None:
        for term, breach in self._open.values():
            begins = f"remedied({term.slice}, {term.entity}, {term.metric}, "
            if goal.startswith(begins) and breach.remedied_s is None:
                breach.remedied_s = round(event.time - breach.at_s, 6)

    def _restored(self, now: float, data: Data) -> None:
        known = self._open.pop(text(data, "breach"), None)
        if known is not None:
            breach = known[1]
            breach.lasted_s, breach.value = round(now - breach.at_s, 6), number(data, "worst")
            breach.remedy, breach.by = text(data, "remedy"), text(data, "by")
            breach.credit = number(data, "credit")

    def result(self) -> tuple[TermStory, ...]:
        """Return all terms that were measured, by agreement, term and function."""
        for term in self._terms.values():
            term.until_s = self._now
            if term.agreement in self.agreed:
                deal = self.agreed[term.agreement].data
                term.provider, term.rounds = text(deal, "provider"), int(number(deal, "rounds"))
                term.asked = number(table(deal, "asked"), term.term)
                term.agreed = number(table(deal, "objectives"), term.term)
            whole = max(term.until_s - term.since_s, 1e-9)
            lasted = (
                self._now - b.at_s if b.lasted_s is None else b.lasted_s for b in term.breaches
            )
            term.kept_share = round(max(0.0, 1.0 - sum(lasted) / whole), 6)
            term.credit = min(1.0, round(sum(each.credit for each in term.breaches), 6))
        return tuple(self._terms[key] for key in sorted(self._terms))
