"""Predicates that agents believe, and goals over them.

A predicate is a frozen class with typed fields, never a string to be parsed. A goal
wants a predicate to be believed (b), wants its negation (¬b), or wants to find out
whether it holds (?b): dissertation, section 5.1, below table 5.2.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import astuple

from phalanx.domain.network import PopId


class Predicate(Struct, frozen=True, tag=True):
    """Base of all predicates; subclass it with typed, hashable fields."""

    at_tap: ClassVar[bool] = False
    """Whether only the agent at the tap of the traffic can make it true."""
    travels: ClassVar[bool] = False
    """Whether a call for proposals carries such beliefs along to whoever will do the work."""
    classes: ClassVar[int] = 0
    """How many classes of predicates were made so far."""

    def __init_subclass__(cls) -> None:
        Predicate.classes += 1

    def __str__(self) -> str:
        name = type(self).__name__
        return f"{name[0].lower()}{name[1:]}({', '.join(str(v) for v in astuple(self))})"


class Mode(Enum):
    """The three kinds of goal over a predicate b."""

    ACHIEVE = ""
    AVERT = "¬"
    FIND_OUT = "?"


class Goal(Struct, frozen=True):
    """What an agent wants to be true of its beliefs."""

    predicate: Predicate
    mode: Mode = Mode.ACHIEVE

    def __str__(self) -> str:
        return f"{self.mode.value}{self.predicate}"


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


class Preferences(Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the bid components (definition 8); they sum to 1."""

    time: float = 1 / 3
    cost: float = 1 / 3
    decentralisation: float = 1 / 3


class ConstrainedGoal(Struct, frozen=True):
    """A goal as it is auctioned (definition 6), with what bidders need to know."""

    goal: Goal
    constraints: Constraints
    preferences: Preferences
    traffic_mb_s: float = 0.0
    """Traffic to be processed: scales the VNF and is the path's bandwidth constraint."""
    tap: PopId = ""
    """The PoP where that traffic is taken: the far end of the bidder's path."""
