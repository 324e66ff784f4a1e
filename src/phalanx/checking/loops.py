"""Rules about closed loops: what is passed on ends, and what is agreed to fits together."""

from __future__ import annotations

from typing import Any, ClassVar

from phalanx.checking.rules import RuleGroup
from phalanx.domain.events import Event

PASSED_S = 180.0
"""Longest that a passed goal may be on its way: 120 s of work, and the time to find loops gone."""
LAPSED_S = 60.0
"""Longest that a claim may outlive its holder: a few leases."""
EXCLUDING = {("isolate", "restart"), ("isolate", "scale"), ("restart", "scale")}
TWICE = {"restart", "scale"}
"""Actions that two holders may not do at once."""


class LoopRules(RuleGroup):
    """What loops pass to each other, and what they agree to."""

    rules: ClassVar = {
        "passes": "A goal that a loop passes on comes to an end, unless that life ends, within "
        "180 s; an end has a beginning.",
        "slices": "A loop passes a goal only to those that serve the slice it is about, and serves "
        "that slice itself.",
        "claims": "Claims on one function that exclude each other are never in force at once, but "
        "for a moment of the clock.",
        "lapses": "A claim ends at most 60 s after its holder died.",
    }

    def begin(self) -> None:
        """Know no loops yet."""
        self._serving: dict[str, set[str]] = {}
        self._open: dict[str, Event] = {}
        """What is passed on now, by conversation."""
        self._claims: dict[tuple[str, str], Event] = {}
        """What is in force, by the loop that agreed and the conversation."""
        self._both: tuple[Event, Event] | None = None
        """Two claims that exclude each other, of which the later was granted just now."""
        self._dead: dict[str, Event] = {}

    def on_run_started(self, event: Event) -> None:
        """Learn which loops serve which slices."""
        loops: list[dict[str, Any]] = event.data.get("loops", [])
        self._serving = {loop["name"]: {*loop["slices"]} for loop in loops}

    def on_loop_passed(self, event: Event) -> None:
        """Note what is on its way, and whether it may go there."""
        of, to = event.data["slice"], event.data["to"]
        self._open[event.data["conversation"]] = event
        for name in (event.agent, to):
            known = of in self._serving.get(name, {of})
            self.require(known, "slices", event, f"{name} does not serve {of}")

    def on_loop_returned(self, event: Event) -> None:
        """Note that it is on its way no more."""
        began = self._open.pop(event.data["conversation"], None)
        lasted = event.time - (event.time if began is None else began.time)
        self.require(began is not None, "passes", event, "it was not passed on")
        self.require(lasted <= PASSED_S, "passes", event, f"after {lasted:g} s")

    on_loop_relieved = on_loop_returned

    def on_claim_granted(self, event: Event) -> None:
        """Note what is in force, and what that excludes."""
        self._settled(event)
        mine = event.data
        for (agent, _), other in self._claims.items():
            both = tuple(sorted((mine["action"], other.data["action"])))
            again = both[0] == both[1] and both[0] in TWICE
            rival = mine["holder"] != other.data["holder"] or not again
            if agent == event.agent and rival and (both in EXCLUDING or again):
                self._both = other, event
        self._claims[event.agent, mine["conversation"]] = event

    def on_claim_ended(self, event: Event) -> None:
        """Note what is in force no more."""
        self._settled(event)
        self._claims.pop((event.agent, event.data["conversation"]), None)
        if self._both is not None and event.data["conversation"] in (
            each.data["conversation"] for each in self._both
        ):
            self._both = None

    on_claim_overruled = on_claim_ended

    def _settled(self, event: Event) -> None:
        if self._both is not None and event.time > self._both[1].time:
            first, second = (f"{e.data['action']} of {e.data['holder']}" for e in self._both)
            self.broken("claims", self._both[1], f"{second} beside {first}")
            self._both = None

    def on_agent_started(self, event: Event) -> None:
        """Note that an agent lives."""
        self._dead.pop(event.agent, None)

    on_agent_restored = on_agent_started

    def gone(self, event: Event, agent: str) -> None:
        """Forget what a loop passed on and agreed to: it may begin anew."""
        self._dead[agent] = event
        self._open = {c: e for c, e in self._open.items() if e.agent != agent}
        self._claims = {key: e for key, e in self._claims.items() if key[0] != agent}

    def end(self, last: Event) -> None:
        """Look at what should have ended."""
        self._settled(last)
        for event in self._open.values():
            on = last.time - event.time
            self.require(on <= PASSED_S, "passes", event, f"on its way for {on:g} s")
        for event in self._claims.values():
            death = self._dead.get(event.data["holder"])
            since = 0.0 if death is None else last.time - death.time
            self.require(since <= LAPSED_S, "lapses", event, f"its holder is dead for {since:g} s")
