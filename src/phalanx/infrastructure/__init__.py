"""The Infrastructure port: the network as an agent perceives it and acts on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from phalanx.domain.actions import Action, Outcome, Percept
from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId

Answer = Callable[[Outcome], None]


class Infrastructure(Protocol):
    """Carries out actions at PoPs. A driver may answer at once or later, but only once."""

    def attach(self, agent: AgentId, pop: PopId, perceive: Callable[[Percept], None]) -> None:
        """Tell ``agent`` of changes at ``pop`` from now on; begins with a ``SiteState``."""

    def detach(self, agent: AgentId, pop: PopId) -> None:
        """Tell ``agent`` nothing more; leases go on until they run out."""

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out ``action`` at ``pop`` and call ``answer`` with its outcome.

        Args:
            pop: where the asking agent stands.
            action: what to do.
            cause: id of the event that led to it.
            answer: called once, maybe before this returns. A refusal is ``Failed``.

        """
