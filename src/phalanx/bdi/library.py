"""The capability repository (figure 3.1): every capability known, indexed once for all agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from phalanx.bdi.capability import Capability, PlanSpec
from phalanx.domain.goals import Goal, Mode, Predicate


class Rule(Struct, frozen=True):
    """An option generation rule with the capability that it belongs to."""

    capability: str
    value: bool | None
    always: bool
    method: str


class Library:
    """Capabilities by name, and their rules and plans by what triggers them."""

    __slots__ = (
        "_achievers",
        "_fallbacks",
        "_for_kind",
        "_handlers",
        "_percepts",
        "_plans",
        "_rules",
        "capabilities",
    )

    def __init__(self, capabilities: Sequence[type[Capability]]) -> None:
        self.capabilities = {c.name: c for c in capabilities}
        self._rules: dict[type[Predicate], list[Rule]] = {}
        self._for_kind: dict[type[Predicate], list[Rule]] = {}
        self._achievers: dict[tuple[type[Predicate], str], list[type[Capability]]] = {}
        self._fallbacks: dict[tuple[type[Predicate], Mode], list[tuple[str, str]]] = {}
        self._handlers: dict[type[Any], list[tuple[str, str]]] = {}
        self._percepts: dict[type[Any], list[tuple[str, str]]] = {}
        self._plans: list[tuple[str, PlanSpec]] = []
        for capability in capabilities:
            for heard, method in capability.handlers:
                self._handlers.setdefault(heard, []).append((capability.name, method))
            for kind, value, always, method in capability.rules:
                rule = Rule(capability.name, value, always, method)
                self._rules.setdefault(kind, []).append(rule)
            for kind, mode, method in capability.fallbacks:
                self._fallbacks.setdefault((kind, mode), []).append((capability.name, method))
            self._plans += [(capability.name, spec) for spec in capability.plans]
        self._plans.sort(key=lambda entry: entry[1].rank)

    def rules(self, predicate: Predicate) -> Sequence[Rule]:
        """Return the rules that a change of the belief in ``predicate`` may trigger."""
        kind = type(predicate)
        rules = self._for_kind.get(kind)
        if rules is None:  # a rule over Predicate itself is for every kind
            rules = [*self._rules.get(kind, ()), *self._rules.get(Predicate, ())]
            self._for_kind[kind] = rules
        return rules

    def handlers(self, content: object) -> Sequence[tuple[str, str]]:
        """Return (capability, method) of what hears messages with such a ``content``."""
        return self._handlers.get(type(content), ())

    def percepts(self, percept: object) -> Sequence[tuple[str, str]]:
        """Return (capability, method) of the belief revision rules for ``percept``."""
        seen = type(percept)
        rules = self._percepts.get(seen)
        if rules is None:  # a rule for a class is one for those derived from it
            rules = self._percepts[seen] = [
                (capability.name, method)
                for capability in self.capabilities.values()
                for kind, method in capability.percepts
                if issubclass(seen, kind)
            ]
        return rules

    def fallbacks(self, goal: Goal) -> Sequence[tuple[str, str]]:
        """Return (capability, method) of what to try when ``goal`` has failed."""
        return self._fallbacks.get((type(goal.predicate), goal.mode), ())

    def plans(self, goal: Goal) -> list[tuple[str, PlanSpec]]:
        """Return (capability, plan) for ``goal``, in the order in which to try them."""
        return [entry for entry in self._plans if entry[1].matches(goal)]

    def achievers(self, goal: Goal) -> list[type[Capability]]:
        """Return the capabilities with a VNF that can achieve ``goal``, by name."""
        key = (type(goal.predicate), goal.mode._value_)  # hashing an Enum is slow
        found = self._achievers.get(key)
        if found is None:
            able = (c for c in self.capabilities.values() if c.vnfd is not None)
            found = sorted((c for c in able if c.achieves(goal)), key=lambda c: c.name)
            self._achievers[key] = found
        return found
