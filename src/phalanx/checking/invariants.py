"""The checker: every rule about a log, in one pass, with memory for what is open alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from phalanx.checking.awards import AuctionRules
from phalanx.checking.lives import CauseRules, GoalRules, LifeRules
from phalanx.checking.measures import MeasureRules, TrafficRules
from phalanx.checking.resources import ReservationRules
from phalanx.checking.rules import RuleGroup, RunFacts, Violation
from phalanx.domain.events import Event

GROUPS: tuple[type[RuleGroup], ...] = (
    CauseRules,
    LifeRules,
    GoalRules,
    AuctionRules,
    ReservationRules,
    MeasureRules,
    TrafficRules,
)

RULES: dict[str, str] = {
    "fields": "An event has the fields that its kind has, in their types.",
    **{name: text for group in GROUPS for name, text in group.rules.items()},
}
"""What each rule says, by its name."""


class Checker:
    """Sees the events of one log in their order; ``violations`` has what was found so far."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.events = 0
        run = RunFacts()
        self._groups = [group(run, self.violations.append) for group in GROUPS]
        self._handlers: dict[str, tuple[Callable[[Event], None], ...]] = {}
        self._last: Event | None = None

    def see(self, event: Event) -> None:
        """Check one more event."""
        handlers = self._handlers.get(event.kind)
        if handlers is None:
            name = "on_" + event.kind.replace(".", "_")
            found = [getattr(group, at, None) for group in self._groups for at in ("always", name)]
            handlers = tuple(handler for handler in found if handler is not None)
            self._handlers[event.kind] = handlers
        self.events += 1
        self._last = event
        for handler in handlers:
            try:
                handler(event)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as fault:
                text = f"{event.kind} cannot be read: {type(fault).__name__}: {fault}"
                self.violations.append(Violation("fields", event.id, event.time, text))

    def end(self) -> list[Violation]:
        """Check what is open at the end of the log, and return all violations."""
        if self._last is not None:
            for group in self._groups:
                group.end(self._last)
        return self.violations


def check(events: Iterable[Event]) -> list[Violation]:
    """Return the rules that a log breaks, in the order in which that shows; empty: none."""
    checker = Checker()
    for event in events:
        checker.see(event)
    return checker.end()
