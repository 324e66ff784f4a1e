"""Checks that need a log and nothing else: what a correct run can never have recorded.

The checker: every rule about a log, in one pass, with memory for what is open alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from phalanx.checking.awards import AuctionRules
from phalanx.checking.findings import FindingRules
from phalanx.checking.lives import CauseRules, CourseRules, GoalRules, LifeRules
from phalanx.checking.loops import LoopRules
from phalanx.checking.measures import MeasureRules, TrafficRules
from phalanx.checking.resources import ReservationRules
from phalanx.checking.rules import RuleGroup, RunFacts, Violation
from phalanx.domain.events import Event, in_causal_order

__all__ = ["APART_S", "RULES", "Checker", "Violation", "as_seen", "check"]


GROUPS: tuple[type[RuleGroup], ...] = (
    CauseRules,
    CourseRules,
    LifeRules,
    GoalRules,
    AuctionRules,
    FindingRules,
    LoopRules,
    MeasureRules,
    ReservationRules,  # it keeps what runs, after the others have seen what stops
    TrafficRules,
)

RULES: dict[str, str] = {
    "fields": "An event has the fields that its kind has, in their types.",
    **{name: text for group in GROUPS for name, text in group.rules.items()},
}
"""What each rule says, by its name."""

APART_S = 2.0
"""Most by which the clocks of two processes differ, in seconds, unless a caller knows better."""


class Checker:
    """Sees the events of one log in their order; ``violations`` has what was found so far.

    Args:
        apart_s: most by which the clocks of two processes differ, in seconds.
        whole: whether a log without ``run.started`` has every event of its domain.

    """

    def __init__(self, *, apart_s: float = APART_S, whole: bool = False) -> None:
        self.violations: list[Violation] = []
        self.events = 0
        run = RunFacts(apart_s, whole=whole)
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


def as_seen(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events of a log in the order in which a ``Checker`` sees them.

    Those of several processes stand in the order of their causes, of a run otherwise in that of
    their times, of others in that of the log; all are held for that.
    """
    stream = iter(events)
    for first in stream:
        if first.kind == "run.started" and first.data.get("clocks") == 1:
            yield first
            yield from stream
            return
        several = [first, *stream]
        run = any(event.kind == "run.started" for event in several)
        yield from in_causal_order(sorted(several, key=lambda e: e.time if run else 0.0))


def check(
    events: Iterable[Event], *, apart_s: float = APART_S, whole: bool = False
) -> list[Violation]:
    """Return the rules that a log breaks, in the order in which that shows; empty: none.

    Arguments are those of ``Checker``.
    """
    checker = Checker(apart_s=apart_s, whole=whole)
    for event in as_seen(events):
        checker.see(event)
    return checker.end()
