"""What a group of rules is: it sees the events of a log one by one, and reports violations."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, ClassVar

from msgspec import Struct

from phalanx.domain.events import Event

ROUNDING = 1e-6
"""Most by which figures that an event gives may differ from the same figures worked out anew."""


Amounts = tuple[float, float, float]
"""Cores, memory and disk."""

MESSAGES = ("lose", "duplicate", "delay", "reorder", "partition")
"""Faults of messages."""


class RunningVnf(Struct):
    """An instance that runs."""

    pop: str
    vnf: str
    version: str
    units: int
    busy: float
    """When it had work last."""


class MeasureInForce(Struct):
    """A measure in force."""

    instance: str
    pop: str
    effect: str


class PursuedGoal(Struct):
    """A goal that is open, and the plan that an agent follows for it."""

    agent: str
    goal: str
    since: float
    contract: str | None = None
    plan: str | None = None
    succeeded: bool | None = None
    runs: bool = False
    """Whether a VNF of its agent is at work for it."""


class Violation(Struct, frozen=True):
    """A rule that a log breaks."""

    rule: str
    """Name of the rule, as in ``RULES``."""
    event: str
    """Id of the event that breaks it."""
    time: float
    """Time of that event, in seconds of the run."""
    text: str
    """What is wrong, with figures."""


class RunFacts:
    """What all rules must know of the run that a log tells of."""

    def __init__(self, apart_s: float, *, whole: bool) -> None:
        self.apart_s = apart_s
        """Most by which the clocks of two processes differ, in seconds."""
        self.whole = whole
        """Whether the log has every event; that of a run does."""
        self.started: dict[str, Any] = {}
        """What ``run.started`` says; empty: the log is a part, or that of a domain."""
        self.one_clock = False
        """Whether all times are those of one virtual clock: the agents run in one process."""
        self.skewed = False
        """Whether the clock of an agent, or its disk, was made to differ from the others."""
        self.faulty = False
        """Whether the test bench has broken something, a queue was full, or messages share the
        links with all traffic, which delays them."""
        self.lossy = False
        """Whether messages may be lost or late: by faults, among all traffic, or in real time."""
        self.quiet = 0.0
        """When the last fault was over, or the last agent ended."""
        self.suspects: list[Violation] = []
        """What breaks a rule unless messages were lost, which the end of the run says."""
        self.life: dict[str, int] = {}
        """By agent that lives: its incarnation."""
        self.turned: dict[str, float] = {}
        """When each agent began or ended to live last."""
        self.goals: dict[str, PursuedGoal] = {}
        """By the id of a goal that is open."""
        self.out: set[str] = set()
        """Agents that are not trusted now."""
        self.cause: Event | None = None
        """The cause of the event that is seen now, if it is one of the last few thousand."""
        self.links: dict[tuple[str, str], dict[str, Any]] = {}
        """What ``run.started`` says of the link from a PoP to another, and back."""
        self.degraded: set[tuple[str, str]] = set()
        """Links that were made worse, and perhaps mended since."""
        self.total: dict[str, Amounts] = {}
        self.free: dict[str, Amounts] = {}
        self.chains: dict[str, tuple[list[str], str, float]] = {}
        """By chain that is open: its path, the instance that it is for, and its MB/s."""
        self.running: dict[str, RunningVnf] = {}
        self.in_force: dict[str, MeasureInForce] = {}
        self.withheld: dict[str, MeasureInForce] = {}
        """What would be in force in a run that only observes."""
        self.ended = False

    def timing(self, name: str) -> float | None:
        """Return a duration of the run's settings in seconds; None if the log does not say it.

        Also None once an agent is on another clock: then it does not last so long.
        """
        if self.skewed:
            return None
        known = self.started.get("timing", {}).get(name)
        return known if isinstance(known, int | float) and isfinite(known) else None

    def telling(self) -> set[str]:
        """Return the agents that tell others that they live; a domain's log does not say."""
        loops = {loop["name"] for loop in self.started.get("loops", ())}
        return {*self.started.get("agents", ())} - loops


class RuleGroup:
    """Rules about one subject. A method ``on_KIND`` sees the events of a kind, ``_`` for ``.``."""

    rules: ClassVar[dict[str, str]] = {}
    """What each rule says, by its name."""

    def __init__(self, run: RunFacts, report: Callable[[Violation], None]) -> None:
        self.run = run
        self._report = report
        self.begin()

    def begin(self) -> None:
        """Prepare what the group remembers."""

    def broken(self, rule: str, event: Event, text: str) -> None:
        """Report that ``event`` breaks a rule of this group."""
        assert rule in self.rules, rule
        self._report(Violation(rule, event.id, event.time, text))

    def suspect(self, event: Event, rule: str, text: str) -> None:
        """Report a violation at the end of a run in which no message was lost."""
        self.run.suspects.append(Violation(rule, event.id, event.time, text))

    def require(self, so: bool, rule: str, event: Event, text: str) -> None:
        """Report that ``event`` breaks a rule unless ``so``."""
        if not so:
            self.broken(rule, event, text)

    def passed(self, since: Event, now: Event) -> bool:
        """Whether time went on after an event; a process takes a while for all that follows."""
        if self.run.one_clock:
            return now.time > since.time
        return now.agent == since.agent and now.time > since.time + self.run.apart_s

    def on_agent_crashed(self, event: Event) -> None:
        """Note that an agent died."""
        self.gone(event, event.data["pop"])

    def on_agent_left(self, event: Event) -> None:
        """Note that an agent left."""
        self.gone(event, event.agent)

    def gone(self, event: Event, agent: str) -> None:
        """Note that the life of an agent is over."""

    def end(self, last: Event) -> None:
        """Look at what is still open after the last event of a log."""
