"""The closed loops of a run by level: what each decided, when and why, and what it passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe
from phalanx.reporting.log import names, rows, text

LEVELS = {
    "end-to-end": "End to end",
    "domain": "Domains",
    "slice": "Slices",
    "sub-slice": "Subnets",
    "network-function": "Functions",
    "pop": "PoPs that were asked",
}
"""Levels by scope, the widest first."""
_DUTIES = {
    "end-to-end": "manager end to end",
    "domain": "manager of {entity}",
    "slice": "slice {entity}",
    "sub-slice": "{kind} subnet {entity}",
    "network-function": "{kind} {entity}",
}
MOST_STEPS = 200
"""Steps that are kept of one loop, the latest; earlier ones are counted."""
_FAMILIES = {"loop", "claim", "policy"}
_OF_POPS = {"policy.enforced", "policy.unenforced", "policy.lost", "policy.withdrawn"}
_PASSED = {"loop.passed", "loop.relieved", "loop.returned"}
_ROUTINE = {"plan.started", "claim.granted", "claim.ended", "loop.relieved"}
_LIVES = {"agent.crashed": "gone", "agent.left": "left", "agent.started": ""}


class LoopStep(Struct, frozen=True):
    """Something that a loop decided, or passed on."""

    time: float
    words: str
    event: str
    """Id of the event that tells of it."""
    routine: bool = False
    """Whether all went as it should: a plan began, a claim was agreed to or given back."""


class LoopStory(Struct):
    """A closed loop, and what it did."""

    name: str
    scope: str = "pop"
    about: Mapping[str, Any] = {}
    """The loop as ``run.started`` tells of it."""
    state: str = ""
    """That it is gone or does not answer; empty: it lives."""
    steps: list[LoopStep] = []
    earlier: int = 0
    """Steps before those that are kept."""
    open: dict[str, str] = {}
    """Goals that it pursues, by id."""
    waits: dict[str, str] = {}
    """Loops that it has passed something to, by goal."""
    failed: str = ""
    """What nothing helped against, if that was the last that it said."""

    @property
    def duty(self) -> str:
        """What it looks after, and for which slices."""
        known = {field: text(self.about, field) for field in ("kind", "entity", "pop")}
        what = _DUTIES.get(self.scope, "{entity}").format(**known)
        slices = names(self.about, "slices") if self.scope != "slice" else ()
        at = f" at {known['pop']}" if known["pop"] else ""
        return what + at + (f", for {', '.join(slices)}" if slices else "")

    @property
    def now(self) -> str:
        """What it does at the end."""
        if self.state:
            return self.state
        waits = (f"waits for {loop} to see to {goal}" for goal, loop in self.waits.items())
        goals = f"pursues {', '.join(self.open.values())}" if self.open else ""
        return "; ".join(waits) or self.failed or goals or "idle"


class LoopsView:
    """Follows a run event by event."""

    def __init__(self) -> None:
        self.loops: dict[str, LoopStory] = {}

    def learn(self, about: Mapping[str, Any]) -> LoopStory:
        """Take in a loop, as ``run.started`` tells of it."""
        story = self.loops.setdefault(text(about, "name"), LoopStory(text(about, "name")))
        story.scope, story.about = text(about, "scope"), about
        return story

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        data, kind = event.data, event.kind
        if kind == "run.started":
            for about in rows(data, "loops"):
                self.learn(about)
        family = "" if kind in _OF_POPS else kind.partition(".")[0]
        if family in _FAMILIES:
            self.loops.setdefault(event.agent, LoopStory(event.agent))
        story = self.loops.get(text(data, "pop") if kind == "agent.crashed" else event.agent)
        if story is None:
            return
        goal = text(data, "goal")
        if kind in _LIVES:
            story.state = _LIVES[kind]
            story.open, story.waits = {}, {}
        elif kind in ("goal.adopted", "goal.ended"):
            story.open.pop(text(data, "instance_id"), None)
            if kind == "goal.adopted":
                story.open[text(data, "instance_id")] = goal
        elif kind in _PASSED:
            story.waits.pop(goal, None)
            if kind == "loop.passed":
                story.waits[goal] = text(data, "to")
        own = kind == "plan.started" and text(data, "capability") != "loop"
        if family in _FAMILIES or (own and story.scope in LEVELS and story.about):
            words = describe(event)
            story.failed = words if kind == "loop.unrelieved" else ""
            story.steps.append(LoopStep(event.time, words, event.id, kind in _ROUTINE))
            story.earlier += len(story.steps) > MOST_STEPS
            del story.steps[:-MOST_STEPS]

    def levels(self) -> dict[str, list[LoopStory]]:
        """Return the loops by level, the widest first; nothing where there are none."""
        found = {
            title: [loop for _, loop in sorted(self.loops.items()) if loop.scope == scope]
            for scope, title in LEVELS.items()
        }
        return {title: loops for title, loops in found.items() if loops}
