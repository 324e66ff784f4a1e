"""What an operator sets for all auctions of a system, and what the repository offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from phalanx.auction.cost import Pricing
from phalanx.auction.terms import BUILT_IN, BidTerm
from phalanx.bdi.steps import Steps
from phalanx.domain.agents import AgentId, Loop
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Duty, Goal, Preferences
from phalanx.domain.network import PopId
from phalanx.domain.rules import AllowList
from phalanx.domain.vnf import Vnfd


class GoalPolicy(Struct, frozen=True):
    """Constraints and preferences of one kind of goal (table 5.7)."""

    constraints: Constraints = Constraints()
    preferences: Preferences = Preferences()
    under_anomaly: Preferences | None = None
    """Preferences while an anomaly is likely at the auctioneer's PoP; None: the same."""

    def under(self, anomaly: float, forecast: ForecastTerms | None) -> tuple[GoalPolicy, str]:
        """Return what holds at a likelihood of an anomaly, and in words why; empty: it is as ever.

        What is expected to be stable may be placed for its cost or energy; otherwise what stays up
        counts (deliverable D3.3, 4.2).
        """
        if self.under_anomaly is None or forecast is None:
            return self, ""
        if anomaly < forecast.likely:
            return self, f"an anomaly is unlikely here ({anomaly:.0%}): as usual"
        weighed = replace(self, preferences=self.under_anomaly)
        return weighed, f"an anomaly is likely here ({anomaly:.0%}): for resilience"


class ForecastTerms(Struct, frozen=True):
    """How agents forecast the load of their PoPs."""

    every_s: Annotated[float, Meta(ge=5, le=600)] = 5.0
    """Pause between two looks at a PoP and its links, each of which makes a forecast."""
    ahead: Annotated[int, Meta(ge=0, le=20)] = 4
    """How many looks ahead is told; 0: bids tell how full a PoP is now."""
    likely: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Likelihood of an anomaly at the auctioneer's PoP from which on ``under_anomaly`` counts."""


class Settings(Struct):
    """Shared by all agents of a process; only ``catalogue`` changes, as the repository does."""

    peers: tuple[AgentId, ...]
    """All agents that may be asked, this one included, sorted."""
    repository: PopId
    catalogue: dict[str, Vnfd]
    """Descriptors by name of their capability."""
    duties: Mapping[Goal, Duty] = field(default_factory=dict)
    """What some agent must see to at any time, as the plan declares it."""
    loops: Mapping[AgentId, Loop] = field(default_factory=dict)
    """The closed loops of slices that this agent may know of, by name, itself included."""
    policies: Mapping[str, GoalPolicy] = field(default_factory=dict)
    """By name of the goal's predicate; ``default`` for all others."""
    terms: tuple[BidTerm, ...] = BUILT_IN
    """Terms that bids are made of and compared by; further ones as the policies name them."""
    method: Literal["exact", "published"] = "exact"
    """Path search of the bids: exact, or algorithm 1 as printed."""
    pricing: Pricing = "published"
    """How bids price PoPs and links."""
    outside: Mapping[PopId, str] = field(default_factory=dict)
    """PoPs at which nothing may begin to run, and why."""
    barred: Mapping[str, str] = field(default_factory=dict)
    """Addresses for which nothing may begin to run at the agent's PoP, and why."""
    allow: AllowList = field(default_factory=AllowList)
    """Sources that are never blocked or limited."""
    references: Mapping[str, float] | None = None
    """What each term's value is divided by in a utility (``phalanx.auction.references``); None:
    utilities by eq. 3.1."""
    deadline_s: float = 2.0
    """How long proposals are waited for."""
    grace_s: float = 5.0
    """How much longer than that a proposal holds what it offers."""
    probe_s: float = 5.0
    """How often a working winner is asked whether it lives."""
    probes: int = 3
    """After how many unanswered questions a winner counts as failed."""
    rounds: int = 3
    """How many auctions a goal is worth."""
    backoff_s: float = 2.0
    """Pause before another auction for the same goal."""
    persistent_from: int | None = None
    """Goals of this priority and above are never given up: each waits for what could change the
    answer, and is auctioned again. Idle instances then give way to goals that need their room.
    None: every goal is given up in the end, and no instance gives way."""
    retry_s: float = 60.0
    """How long such a goal waits at most, after all have refused."""
    foreseen: tuple[str, ...] | None = None
    """Functions that the strategy needs wherever an attack enters: agents bring their images, and
    those of functions that are asked for again, before they are wanted. None: they do not."""
    forecast: ForecastTerms | None = None
    """How the load of PoPs is forecast; None: it is not."""
    lease_s: float = 15.0
    """How long the infrastructure keeps what an agent does not renew."""
    idle_s: float = 90.0
    """How long an idle VNF is kept for the next goal."""
    heartbeat_s: float = 2.0
    """How often an agent tells its guardian that it lives."""
    silence_s: float = 7.0
    """After how long a silence a guardian takes an agent for dead."""
    drain_s: float = 120.0
    """How long an agent that leaves keeps in force what others are still to take over."""
    gossip_s: float = 5.0
    """How often an agent compares its view with one peer's."""

    def policy(self, goal: Goal) -> GoalPolicy:
        """Return constraints and preferences for ``goal``."""
        name = type(goal.predicate).__name__
        return self.policies.get(name) or self.policies.get("default") or GoalPolicy()


class Tender(Protocol):
    """How goals of one kind are called and bid for, where the settings of all do not say it."""

    def terms(self, goal: Goal) -> tuple[BidTerm, ...]:
        """Return the terms of bids beside those of the settings, as this agent values them."""

    def call(self, goal: Goal) -> tuple[GoalPolicy, tuple[AgentId, ...]]:
        """Return what the auctioneer asks for in the next round, and of whom; empty: of all."""

    def shortfalls(self, call: ConstrainedGoal) -> tuple[str, dict[str, float]]:
        """Return why this agent cannot bid (empty: it can), and the nearest that it can hold."""

    def concede(self, goal: Goal, nearest: Mapping[AgentId, Mapping[str, float]], turn: int) -> str:
        """Ask for less after round ``turn``, by what was refused; return why not, if so."""

    def concluded(self, goal: Goal, winner: AgentId, bid: Bid, turn: int) -> Steps:
        """Take note of the bid that was awarded and kept."""


class Configured:
    """A capability that is given the terms of auctions before its agent starts.

    Derive from this class beside ``Capability``; ``settings`` is set when the agent is composed.
    """

    settings: Settings
