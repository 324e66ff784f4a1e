"""Parts of closed loops that are services of their own, shared by loops of several slices.

Source: seed 002, II.A and B: the functions of a closed loop (MS, AE, DE, ES) may be dedicated to
one managed entity, or be common to several, as far as the isolation of slices allows it. Loops
invoke them over the fabric, so identity, access control and audit are those of any call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from msgspec import Struct

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability
from phalanx.bdi.steps import Steps
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.actions import Invoke, Invoked
from phalanx.domain.agents import AgentId
from phalanx.fabric.operations import Operation


class SliceRequest(Struct, frozen=True):
    """What a loop asks of a service, for one of its slices."""

    slice: str


class LoopService(Capability):
    """Serves one operation to loops; of an agent that stands for no slice, or for theirs."""

    operation: ClassVar[Operation[Any, Any]]

    def objection(self, me: Agent, caller: AgentId, request: SliceRequest) -> str:
        """Return why a caller is refused; empty: it is not."""
        contacts = me.capability(LoopContacts)
        loop = contacts.settings.loops.get(caller)
        if loop is None or request.slice not in loop.slices:
            return f"{caller} is no loop of slice {request.slice}"
        return "" if contacts.trusts(caller) else f"{caller} is not trusted enough"

    def serve(self, request: Any, now: float) -> Any:
        """Answer a request to which there is no objection.

        Raises:
            PhalanxError: with one line, if the request cannot be used.

        """
        raise NotImplementedError

    @classmethod
    def ask(
        cls, me: Agent, request: SliceRequest, told: Callable[[Any, AgentId], Steps | None]
    ) -> None:
        """Ask the best service of this kind that may know of the slice.

        Args:
            me: the agent of a loop.
            request: of the operation's type.
            told: gets the answer and who gave it; None and an empty name: nobody did in time, or
                none that is trusted.

        """

        def answered(outcome: Any) -> Steps | None:
            if isinstance(outcome, Invoked) and me.capability(LoopContacts).trusts(outcome.by):
                return told(outcome.answer, outcome.by)
            return told(None, "")

        me.perform(Invoke(cls.name, cls.operation, request, request.slice), answered)
