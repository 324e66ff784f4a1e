"""Capabilities: bundles of beliefs, goals and plans around one VNF (definition 2).

A capability is one class. What it can do is declared by decorating its methods::

    class Doorman(Capability):
        name = "doorman"
        vnfd = Vnfd("doorman", Resources(1, 1, 2))

        @when(Knocking)                        # option generation
        def look(self, me, knocking): yield Adopt(find_out(Friendly(knocking.who)))

        @plan(find_out(Friendly))              # a plan for a goal
        def ask(self, me, goal): ...

The class is found by its entry point in the group ``phalanx.capabilities``. A ``Library`` is the
capability repository (figure 3.1): every capability known, indexed once for all agents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.goals import Goal, Mode, Predicate
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd

F = TypeVar("F", bound=Callable[..., Any])


class PlanSpec(Struct, frozen=True):
    """A plan as its capability declares it."""

    name: str
    achieves: type[Predicate]
    mode: Mode | None
    """None: any mode."""
    body: str
    """Name of the method."""
    rank: int
    """Order among the plans for one goal; low ones are tried first."""
    applies: Callable[[Any, Any], bool] | None
    """Precondition over (agent, goal instance)."""
    local: bool = False
    """For goals of the agent that runs the VNF alone; never auctioned."""

    def matches(self, goal: Goal) -> bool:
        """Whether the plan is for goals such as ``goal``."""
        return isinstance(goal.predicate, self.achieves) and (
            self.mode is None or goal.mode is self.mode
        )


def plan(
    achieves: type[Predicate],
    mode: Mode | None = Mode.ACHIEVE,
    *,
    rank: int = 0,
    applies: Callable[[Any, Any], bool] | None = None,
    local: bool = False,
) -> Callable[[F], F]:
    """Declare a plan for goals over ``achieves``. The method gets the agent and the goal.

    Args:
        achieves: type of the predicate that the goal is about.
        mode: kind of goal; None for all kinds.
        rank: order among the plans for one goal; low ones are tried first.
        applies: precondition over the agent and the goal instance.
        local: the goal is one of the agent that runs the VNF, and is never auctioned.

    """

    def mark(method: F) -> F:
        spec = PlanSpec(
            method.__name__.replace("_", " "), achieves, mode, method.__name__, rank, applies, local
        )
        method.__dict__.setdefault("_plans", []).append(spec)
        return method

    return mark


def when(
    kind: type[Predicate], value: bool | None = True, *, always: bool = False
) -> Callable[[F], F]:
    """Declare an option generation rule: the belief in a ``kind`` has become ``value``.

    Args:
        kind: type of the predicate.
        value: True: it is believed now; False: its negation is; None: it was forgotten.
        always: the rule is knowledge that every agent applies, not only one that runs the VNF.

    """

    def mark(method: F) -> F:
        method.__dict__.setdefault("_when", []).append((kind, value, always))
        return method

    return mark


def perceives(kind: type[Any]) -> Callable[[F], F]:
    """Declare a belief revision rule for percepts of ``kind``."""

    def mark(method: F) -> F:
        method.__dict__.setdefault("_perceives", []).append(kind)
        return method

    return mark


def hears(kind: type[Any]) -> Callable[[F], F]:
    """Declare a handler for messages whose content is a ``kind``."""

    def mark(method: F) -> F:
        method.__dict__.setdefault("_hears", []).append(kind)
        return method

    return mark


def instead_of(failed: type[Predicate], mode: Mode = Mode.ACHIEVE) -> Callable[[F], F]:
    """Declare a fallback: the method maps a failed goal to the ``Adopt`` to try in its place.

    Fallbacks are knowledge that every agent applies. The method may return None.
    """

    def mark(method: F) -> F:
        method.__dict__.setdefault("_instead_of", []).append((failed, mode))
        return method

    return mark


def starts(method: F) -> F:
    """Declare what is done when the agent begins to live; it may yield steps."""
    return _hook(method, "starts")


def drains(method: F) -> F:
    """Declare what is done when the agent is to leave; it may yield steps."""
    return _hook(method, "drains")


def remembers(kind: type[Struct]) -> Callable[[F], F]:
    """Declare what returns the state of the capability that must survive a crash, a ``kind``.

    The method gets the agent; None says that there is nothing to remember. A change of that
    state that leaves no event must count up ``me.changes``.
    """

    def mark(method: F) -> F:
        method.__dict__["_memory"] = kind
        return _hook(method, "remembers")

    return mark


def recalls(method: F) -> F:
    """Declare what goes on with a remembered state; it may yield steps.

    The method gets the agent, which has its beliefs and its own goals back; the state, None if
    that incarnation had none; and the seconds to add to a time of that incarnation's clock.
    """
    return _hook(method, "recalls")


def _hook(method: F, name: str) -> F:
    method.__dict__.setdefault("_hooks", []).append(name)
    return method


_TAKEN = frozenset(
    {"achieves", "fallbacks", "handlers", "hooks", "memory", "percepts", "plans", "rules"}
)
"""Names that a capability may not use for anything of its own."""


class Capability:
    """Base of all capabilities. Keep what an agent must remember in its beliefs.

    Beliefs and goals survive a crash of the agent by themselves. State of a capability's own
    that must survive is declared by ``remembers`` and ``recalls``.

    Raises:
        TypeError: if a subclass uses one of the names that the base class fills in, or declares
            two methods where there can be one.

    """

    name: ClassVar[str] = ""
    vnfd: ClassVar[Vnfd | None] = None
    """Descriptor of its VNF, which a scenario may override; None for those built into agents."""
    parameters: ClassVar[dict[str, float]] = {}
    """Numbers that an operator may set, with their defaults."""
    enforces: ClassVar[tuple[TrafficVerdict, ...]] = ()
    """Verdicts of the traffic rules that its plans ask for, checked as it is loaded."""
    observes: ClassVar[tuple[str, ...]] = ()
    """What its plans look at through its VNF: ``links`` (counters) or ``flows`` (records)."""
    detector: ClassVar[str] = ""
    """Name of the detector that its plans use, unless a scenario names another."""
    program: ClassVar[str] = ""
    """Name of a file beside the class's, which its VNF's process runs on Linux: a module of the
    standard library alone whose ``start(table)`` returns a function that ends it, or None. Files
    of that name with other suffixes, such as ``.rules``, go into the image as well."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Programs of the machine that its own program runs; without them it is refused on Linux."""

    memory: ClassVar[type[Struct] | None] = None
    """What it remembers; see ``remembers``."""
    hooks: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """Names of the methods for each of: starts, drains, remembers, recalls."""
    plans: ClassVar[tuple[PlanSpec, ...]] = ()
    rules: ClassVar[tuple[tuple[type[Predicate], bool | None, bool, str], ...]] = ()
    percepts: ClassVar[tuple[tuple[type[Any], str], ...]] = ()
    handlers: ClassVar[tuple[tuple[type[Any], str], ...]] = ()
    fallbacks: ClassVar[tuple[tuple[type[Predicate], Mode, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        """Collect what the methods declare, inherited ones included."""
        taken = sorted(_TAKEN & vars(cls).keys())
        if taken:
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__}.{taken[0]}: the name is taken by Capability; "
                f"choose another (taken are {', '.join(sorted(_TAKEN))})"
            )
        plans: list[PlanSpec] = []
        rules: list[tuple[type[Predicate], bool | None, bool, str]] = []
        percepts: list[tuple[type[Any], str]] = []
        handlers: list[tuple[type[Any], str]] = []
        fallbacks: list[tuple[type[Predicate], Mode, str]] = []
        hooks: dict[str, list[str]] = {}
        methods: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            methods.update(vars(base))
        for name, method in methods.items():
            marks = getattr(method, "__dict__", {})
            plans += marks.get("_plans", ())
            rules += [(kind, value, always, name) for kind, value, always in marks.get("_when", ())]
            percepts += [(kind, name) for kind in marks.get("_perceives", ())]
            handlers += [(kind, name) for kind in marks.get("_hears", ())]
            fallbacks += [(kind, mode, name) for kind, mode in marks.get("_instead_of", ())]
            for hook in marks.get("_hooks", ()):
                hooks.setdefault(hook, []).append(name)
            cls.memory = marks.get("_memory", cls.memory)
        for hook in ("remembers", "recalls"):
            if len(hooks.get(hook, ())) > 1:
                both = " and ".join(hooks[hook])
                raise TypeError(f"{cls.__module__}.{cls.__qualname__}: {both} both say @{hook}")
        cls.hooks = MappingProxyType({hook: tuple(names) for hook, names in hooks.items()})
        if cls.vnfd is not None:
            code = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
            cls.vnfd = replace(
                cls.vnfd,
                enforces=cls.enforces,
                observes=cls.observes,
                code=code,
                detector=cls.detector,
                program=str(Path(code).with_name(cls.program)) if cls.program else "",
                needs=cls.needs,
            )
        cls.plans = tuple(sorted(plans, key=lambda spec: spec.rank))
        cls.rules, cls.percepts = tuple(rules), tuple(percepts)
        cls.handlers, cls.fallbacks = tuple(handlers), tuple(fallbacks)

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool | None:  # noqa: ARG003
        """Whether ``rule`` is what makes ``effect`` true, as the log writes it; None: cannot tell.

        Other agents ask it of the rules that the network carries out for an agent.
        """
        return None

    @classmethod
    def achieves(cls, goal: Goal) -> bool:
        """Whether a plan of this capability is for goals such as ``goal``."""
        return any(spec.matches(goal) and not spec.local for spec in cls.plans)


class OptionRule(Struct, frozen=True):
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
        self._rules: dict[type[Predicate], list[OptionRule]] = {}
        self._for_kind: dict[type[Predicate], list[OptionRule]] = {}
        self._achievers: dict[tuple[type[Predicate], str], list[type[Capability]]] = {}
        self._fallbacks: dict[tuple[type[Predicate], Mode], list[tuple[str, str]]] = {}
        self._handlers: dict[type[Any], list[tuple[str, str]]] = {}
        self._percepts: dict[type[Any], list[tuple[str, str]]] = {}
        self._plans: list[tuple[str, PlanSpec]] = []
        for capability in capabilities:
            for heard, method in capability.handlers:
                self._handlers.setdefault(heard, []).append((capability.name, method))
            for kind, value, always, method in capability.rules:
                rule = OptionRule(capability.name, value, always, method)
                self._rules.setdefault(kind, []).append(rule)
            for kind, mode, method in capability.fallbacks:
                self._fallbacks.setdefault((kind, mode), []).append((capability.name, method))
            self._plans += [(capability.name, spec) for spec in capability.plans]
        self._plans.sort(key=lambda entry: entry[1].rank)

    def rules(self, predicate: Predicate) -> Sequence[OptionRule]:
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
