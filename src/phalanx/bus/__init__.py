"""The Bus port: messages from agent to agent. At most once, unordered, may be late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from phalanx.domain.messages import Message

Handler = Callable[[Message], None]


class Bus(Protocol):
    """Carries messages between named agents."""

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address`` to ``handler`` from now on."""

    def detach(self, address: str) -> None:
        """Stop delivering; what is on its way is lost, as with a process that died."""

    def send(self, message: Message) -> None:
        """Send to the message's receiver; never blocks, sheds and counts when a queue is full."""

    def peers(self) -> tuple[str, ...]:
        """Return the addresses that the bus was configured with, sorted."""
