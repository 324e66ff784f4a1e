"""Capabilities: bundles of beliefs, goals and plans around one VNF (definition 2).

A capability is one class. What it can do is declared by decorating its methods::

    class Doorman(Capability):
        name = "doorman"
        vnfd = Vnfd("doorman", Resources(1, 1, 2))

        @when(Knocking)                        # option generation
        def look(self, me, knocking): yield Adopt(find_out(Friendly(knocking.who)))

        @plan(find_out(Friendly))              # a plan for a goal
        def ask(self, me, goal): ...

The class is found by its entry point in the group ``phalanx.capabilities``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.goals import Goal, Mode, Predicate
from phalanx.domain.rules import TrafficVerdict
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


class Capability:
    """Base of all capabilities. Keep what an agent must remember in its beliefs.

    Beliefs and goals survive a crash of the agent by themselves. A capability with a state of
    its own that must survive names its type in ``memory`` and has ``remember`` and ``recall``.

    ``begin(me)``, if there is one, is called when the agent begins to live, and ``drain(me)``
    when it is to leave; both may return steps.
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
    program: ClassVar[str] = ""
    """Name of a file beside the class's, which its VNF's process runs on Linux: a module of the
    standard library alone whose ``start(table)`` returns a function that ends it, or None."""

    memory: ClassVar[type[Struct] | None] = None
    """What ``remember`` returns."""

    plans: ClassVar[tuple[PlanSpec, ...]] = ()
    rules: ClassVar[tuple[tuple[type[Predicate], bool | None, bool, str], ...]] = ()
    percepts: ClassVar[tuple[tuple[type[Any], str], ...]] = ()
    handlers: ClassVar[tuple[tuple[type[Any], str], ...]] = ()
    fallbacks: ClassVar[tuple[tuple[type[Predicate], Mode, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        """Collect what the methods declare, inherited ones included."""
        plans: list[PlanSpec] = []
        rules: list[tuple[type[Predicate], bool | None, bool, str]] = []
        percepts: list[tuple[type[Any], str]] = []
        handlers: list[tuple[type[Any], str]] = []
        fallbacks: list[tuple[type[Predicate], Mode, str]] = []
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
        if cls.vnfd is not None:
            code = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
            cls.vnfd = replace(
                cls.vnfd,
                enforces=cls.enforces,
                observes=cls.observes,
                code=code,
                program=str(Path(code).with_name(cls.program)) if cls.program else "",
            )
        cls.plans = tuple(sorted(plans, key=lambda spec: spec.rank))
        cls.rules, cls.percepts = tuple(rules), tuple(percepts)
        cls.handlers, cls.fallbacks = tuple(handlers), tuple(fallbacks)

    def remember(self, me: Any) -> Struct | None:  # noqa: ARG002  # of use to who overrides it
        """Return what this capability needs to go on after a crash; None: nothing.

        A change of it that leaves no event must count up ``me.changes``.
        """
        return None

    def recall(self, me: Any, part: Any, shift: float) -> Any:  # noqa: ARG002  # as above
        """Go on with what ``remember`` returned in an earlier life; may return steps.

        Args:
            me: the agent, which has its beliefs and its own goals back.
            part: what was remembered; None if that life had nothing, or no such capability.
            shift: seconds to add to a time of that life's clock.

        """
        return None

    @classmethod
    def achieves(cls, goal: Goal) -> bool:
        """Whether a plan of this capability is for goals such as ``goal``."""
        return any(spec.matches(goal) and not spec.local for spec in cls.plans)
