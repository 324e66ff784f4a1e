"""What a whole run comes to, for the page: its summary, and what each closed loop did."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.loops import LoopStep, LoopsView
from phalanx.reporting.summary import Summary, SummaryView

MOST_STEPS = 8
"""Of each loop, the latest."""


class LoopLine(Struct, frozen=True):
    """A closed loop."""

    name: str
    level: str
    duty: str
    """What it looks after, and for which slices."""
    now: str
    """What it does at the end."""
    steps: list[LoopStep]
    """The latest that it did, as far as it was more than routine."""


class RunStory(Struct, frozen=True):
    """What the run comes to so far; None where its log is damaged."""

    summary: Summary | None
    loops: list[LoopLine]


class StoryView:
    """Follows a run event by event."""

    def __init__(self) -> None:
        self._summary = SummaryView()
        self._loops = LoopsView()
        self._damaged = False

    def add(self, event: Event) -> None:
        """Take the next event; one that does not hold what its kind needs ends the story."""
        if self._damaged:
            return
        try:
            self._summary.add(event)
            self._loops.add(event)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self._damaged = True

    def result(self) -> RunStory:
        """Return the story so far."""
        if self._damaged:
            return RunStory(None, [])
        try:
            summary = self._summary.result()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return RunStory(None, [])
        loops = [
            LoopLine(
                loop.name,
                level,
                loop.duty,
                loop.now,
                [step for step in loop.steps if not step.routine][-MOST_STEPS:],
            )
            for level, found in self._loops.levels().items()
            for loop in found
        ]
        return RunStory(summary, loops)
