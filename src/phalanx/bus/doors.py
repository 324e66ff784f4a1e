"""Doors: a bus that many agents share in one process, as one of them may use it."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.bus import Bus, Handler
from phalanx.domain.messages import Message


class Door:
    """A bus for one agent, that speaks and hears in its own name only; implements ``Bus``.

    It holds in memory what the exchange holds between processes (``bus.permissions``): what is
    sent in another's name is refused and counted, and goes nowhere.
    """

    __slots__ = ("_bus", "_name", "_on_refused", "refused")

    def __init__(
        self, bus: Bus, name: str, on_refused: Callable[[Message], None] | None = None
    ) -> None:
        """Open a door.

        Args:
            bus: what all agents share.
            name: the agent that stands behind the door.
            on_refused: told of each message that it may not send.

        """
        self.refused = 0
        """Messages in another's name."""
        self._bus = bus
        self._name = name
        self._on_refused = on_refused

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address``, which is the agent's name, from now on.

        Raises:
            ValueError: if it is another's name, or attached already.

        """
        self._check(address)
        self._bus.attach(address, handler)

    def detach(self, address: str) -> None:
        """Stop delivering, as the bus does.

        Raises:
            ValueError: if it is another's name.

        """
        self._check(address)
        self._bus.detach(address)

    def send(self, message: Message) -> None:
        """Send to the message's receiver, if the sender is the agent; else refuse and count it."""
        if message.sender == self._name:
            self._bus.send(message)
        else:
            self.refused += 1
            if self._on_refused is not None:
                self._on_refused(message)

    def peers(self) -> tuple[str, ...]:
        """Return the addresses of the bus."""
        return self._bus.peers()

    def _check(self, address: str) -> None:
        if address != self._name:
            raise ValueError(f"{self._name!r} cannot hear or leave as {address!r}")
