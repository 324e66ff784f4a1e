"""An infrastructure in one file outside the package: a network that notes what is asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phalanx.clock.wall import WallClock
from phalanx.domain.actions import Action, Outcome
from phalanx.runtime.environment import BuildContext
from phalanx.runtime.simulation import SimulatedEnvironment

ASKED: Counter[str] = Counter()
"""How often each action was asked for."""


class NotingNetwork:
    """Passes everything on to a network, and counts the actions."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def perform(
        self, pop: str, action: Action, cause: str, answer: Callable[[Outcome], None]
    ) -> None:
        ASKED[type(action).__name__] += 1
        self._network.perform(pop, action, cause, answer)


class LabEnvironment(SimulatedEnvironment):
    def __init__(
        self,
        say: Callable[[str], None],
        *,
        clock: WallClock | None = None,
        state: Path | None = None,
    ) -> None:
        super().__init__(say, clock=clock, state=state)
        self._say = say

    def build(self, context: BuildContext) -> Any:
        self._say(f"a lab for {len(context.scenario.network.pops)} PoPs")
        return NotingNetwork(super().build(context))
