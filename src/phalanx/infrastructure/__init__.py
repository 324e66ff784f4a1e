"""The Infrastructure port: the network as an agent perceives it and acts on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from phalanx.domain.actions import Action, Outcome, Percept
from phalanx.domain.network import PopId

Answer = Callable[[Outcome], None]


class Infrastructure(Protocol):
    """Carries out actions at PoPs. A driver may answer at once or later, but only once."""

    def attach(self, pop: PopId, perceive: Callable[[Percept], None]) -> None:
        """Tell the agent of ``pop`` of changes from now on; begins with its ``SiteState``."""

    def detach(self, pop: PopId) -> None:
        """Stop telling; leases go on until they run out."""

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out ``action`` at ``pop`` and call ``answer`` with its outcome.

        Args:
            pop: where the asking agent stands.
            action: what to do.
            cause: id of the event that led to it.
            answer: called once, maybe before this returns. A refusal is ``Failed``.

        """
