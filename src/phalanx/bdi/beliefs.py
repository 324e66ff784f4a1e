"""The belief base: what an agent holds for true, for false, or does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from msgspec import Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Mode, Predicate
from phalanx.domain.messages import Fact

P = TypeVar("P", bound=Predicate)


class Belief(Struct, frozen=True):
    """A belief in a predicate or in its negation."""

    value: bool
    holder: AgentId | None
    """The agent whose measure keeps it true, and who can undo it; None: plain knowledge."""
    event: str
    """The ``belief.changed`` event that tells of it."""
    since: float
    """When it was formed, in seconds of the run."""
    mandate: str = ""
    """As in ``Fact``."""


class BeliefBase:
    """Beliefs by type of predicate, in the order they were formed."""

    __slots__ = ("_by_type", "denied")

    def __init__(self) -> None:
        self._by_type: dict[type[Predicate], dict[Predicate, Belief]] = {}
        self.denied: dict[Predicate, None] = {}
        """What is believed not to be so, in the order in which that was found."""

    def get(self, predicate: Predicate) -> Belief | None:
        """Return the belief about ``predicate``; None if nothing is known."""
        beliefs = self._by_type.get(type(predicate))
        return None if beliefs is None else beliefs.get(predicate)

    def holds(self, predicate: Predicate) -> bool:
        """Whether ``predicate`` is believed."""
        belief = self.get(predicate)
        return belief is not None and belief.value

    def denies(self, predicate: Predicate) -> bool:
        """Whether the negation of ``predicate`` is believed."""
        belief = self.get(predicate)
        return belief is not None and not belief.value

    def matching(self, kind: type[P], **fields: object) -> Iterator[P]:
        """Yield the believed predicates of ``kind`` whose fields have the given values."""
        for predicate, belief in list(self._by_type.get(kind, {}).items()):
            if belief.value and all(getattr(predicate, n) == v for n, v in fields.items()):
                yield predicate  # type: ignore[misc]  # the key of this dict is the type

    def satisfies(self, goal: Goal) -> bool:
        """Whether ``goal`` is achieved in these beliefs.

        b needs the belief; ?b needs b or ¬b; ¬b needs that b is not believed.
        """
        belief = self.get(goal.predicate)
        if goal.mode is Mode.ACHIEVE:
            return belief is not None and belief.value
        if goal.mode is Mode.FIND_OUT:
            return belief is not None
        return belief is None or not belief.value

    def put(self, predicate: Predicate, belief: Belief) -> None:
        """Form or replace a belief."""
        self.denied.pop(predicate, None)
        if not belief.value:
            self.denied[predicate] = None
        self._by_type.setdefault(type(predicate), {})[predicate] = belief

    def remove(self, predicate: Predicate) -> None:
        """Forget what is known of ``predicate``."""
        self.denied.pop(predicate, None)
        self._by_type.get(type(predicate), {}).pop(predicate, None)

    def held_by(self, holder: AgentId) -> list[Predicate]:
        """Return what ``holder`` keeps true."""
        return [p for p, b in self if b.value and b.holder == holder]

    def facts(self) -> tuple[Fact, ...]:
        """Return what travels in a cfp: measures that an agent can undo, and what explains them."""
        return tuple(
            Fact(p, True, b.holder, b.mandate)
            for p, b in self
            if b.value and not type(p).private and (b.holder is not None or type(p).travels)
        )

    def __iter__(self) -> Iterator[tuple[Predicate, Belief]]:
        for beliefs in self._by_type.values():
            yield from beliefs.items()

    def __len__(self) -> int:
        return sum(len(beliefs) for beliefs in self._by_type.values())
