"""Predicates that agents believe, and goals over them.

A predicate is a frozen class with typed fields, never a string to be parsed. A goal
wants a predicate to be believed (b), wants its negation (¬b), or wants to find out
whether it holds (?b): dissertation, section 5.1, below table 5.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha256
from typing import Annotated, ClassVar

from msgspec import Meta, Struct
from msgspec.structs import asdict, astuple

from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId


class Predicate(Struct, frozen=True, tag=True, cache_hash=True):
    """Base of all predicates; subclass it with typed, hashable fields."""

    at_tap: ClassVar[bool] = False
    """Whether only the agent at the tap of the traffic can make it true."""
    near_tap: ClassVar[bool] = False
    """Whether agents at the tap are asked first, and all others only where none of them can."""
    travels: ClassVar[bool] = False
    """Whether a call for proposals carries such beliefs along to the winner."""
    ends_with_asker: ClassVar[bool] = False
    """Whether it is no more once all agents that asked for it are gone: only these take it back."""
    private: ClassVar[bool] = False
    """Whether no call for proposals tells other agents of it, even if an agent keeps it true."""
    classes: ClassVar[int] = 0
    """How many classes of predicates were made so far."""

    def __init_subclass__(cls) -> None:
        Predicate.classes += 1

    def fixes(self, bidder: AgentId, terms: Mapping[str, float]) -> str:  # noqa: ARG002
        """Return the digest of what an award to a bidder fixes; empty: its bid says it all."""
        return ""

    def __str__(self) -> str:
        name = type(self).__name__
        return f"{name[0].lower()}{name[1:]}({', '.join(str(v) for v in astuple(self))})"


class Mode(Enum):
    """The three kinds of goal over a predicate b."""

    ACHIEVE = ""
    AVERT = "¬"
    FIND_OUT = "?"


class Goal(Struct, frozen=True, cache_hash=True):
    """What an agent wants to be true of its beliefs."""

    predicate: Predicate
    mode: Mode = Mode.ACHIEVE

    def __str__(self) -> str:
        return f"{self.mode.value}{self.predicate}"


class Duty(Struct, frozen=True):
    """A goal that some agent must see to at any time, whoever lives."""

    goal: Goal
    home: AgentId
    """Who sees to it while it lives."""
    tap: PopId
    """Where the traffic is that it is about."""
    among: tuple[AgentId, ...] = ()
    """The agents that may see to it; empty: any."""

    def heir(self, agents: Iterable[AgentId]) -> AgentId:
        """Return which of ``agents`` sees to it without its home: rendezvous hashing.

        Where none of them may, it stays with its home.
        """
        able = (agent for agent in agents if not self.among or agent in self.among)

        def weight(agent: AgentId) -> bytes:
            return sha256(f"{self.goal} {agent}".encode()).digest()

        return max(able, key=weight, default=self.home)


def want(predicate: Predicate) -> Goal:
    """Return the goal b: come to believe ``predicate``."""
    return Goal(predicate)


def avert(predicate: Predicate) -> Goal:
    """Return the goal ¬b: come to believe that ``predicate`` does not hold."""
    return Goal(predicate, Mode.AVERT)


def find_out(predicate: Predicate) -> Goal:
    """Return the goal ?b: come to believe either ``predicate`` or its negation."""
    return Goal(predicate, Mode.FIND_OUT)


class Constraints(Struct, frozen=True, forbid_unknown_fields=True):
    """The hard constraints C of a constrained goal (definition 6). None: no limit.

    Bandwidth is no field: it follows from the traffic that the goal is about.
    """

    latency_ms: float | None = None
    """Most accumulated latency of the path."""
    loss: float | None = None
    """Most accumulated packet loss of the path, as a fraction."""
    hops: int | None = None
    """Most links in the path."""
    accuracy: float | None = None
    """Least accuracy of the VNF."""
    time_s: float | None = None
    """Deadline: most seconds until the VNF is at hand (T). A bid that comes later is refused."""
    terms: dict[str, float] = {}
    """Worst value of a bid's term, by the term's name: the most, or the least where a higher
    value is better. A bid beyond it is refused."""
    encrypted: bool | None = None
    """Whether what is led around must cross links that are not trusted encrypted."""

    def __hash__(self) -> int:
        return hash(frozenset(self.row().items()))

    def term_limits(self) -> dict[str, float]:
        """Return the worst value of each term that has a limit; of T the stricter of both."""
        if self.time_s is None:
            return self.terms
        return {**self.terms, "T": min(self.time_s, self.terms.get("T", self.time_s))}

    def row(self) -> dict[str, float]:
        """Return all limits that are set, by name, as the log shows them."""
        return _row(self)


class Preferences(Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the terms of a bid (definition 8); they sum to 1."""

    time: float = 1 / 3
    cost: float = 1 / 3
    decentralisation: float = 1 / 3
    terms: dict[str, float] = {}
    """Of all further terms, by name."""

    def __hash__(self) -> int:
        return hash(frozenset(self.row().items()))

    def weights(self) -> dict[str, float]:
        """Return the weight of each term by its name."""
        return {"T": self.time, "C": self.cost, "D": self.decentralisation, **self.terms}

    def row(self) -> dict[str, float]:
        """Return all weights by name, as the log shows them."""
        return _row(self)


def _row(of: Constraints | Preferences) -> dict[str, float]:
    given = {name: value for name, value in asdict(of).items() if value is not None}
    terms: dict[str, float] = given.pop("terms")
    return {**given, **terms}


class ConstrainedGoal(Struct, frozen=True):
    """A goal as it is auctioned (definition 6), with what bidders need to know."""

    goal: Goal
    constraints: Constraints
    preferences: Preferences
    traffic_mb_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """Traffic to be processed: scales the VNF and is the path's bandwidth constraint."""
    tap: PopId = ""
    """The PoP where that traffic is taken: the far end of the bidder's path."""

    def named_terms(self) -> dict[str, None]:
        """Return the names of the terms beside T, C and D that are weighed or limited."""
        return dict.fromkeys((*self.preferences.terms, *self.constraints.terms))
