"""A domain on virtual time: an exchange in memory, identities, clocks that disagree."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.clock import Timer
from phalanx.clock.virtual import VirtualClock
from phalanx.fabric.registration import Registration
from phalanx.identity.names import Identity, Role

DOMAIN = "edge"


class OffClock:
    """A clock that is some seconds off from the one behind it."""

    def __init__(self, clock: VirtualClock, off_s: float) -> None:
        self._clock = clock
        self._off_s = off_s

    def now(self) -> float:
        return self._clock.now() + self._off_s

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        return self._clock.call_at(when - self._off_s, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        self._clock.call_soon(call)


class Lab:
    """A clock, a hub, and identities as they are asked for."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.hub = MemoryBroker(self.clock)

    def join(self, name: str, role: Role = Role.AGENT, domain: str = DOMAIN) -> MemoryClient:
        return self.hub.join(Identity(name, role, domain))

    def run(self, for_s: float = 0.0) -> None:
        self.clock.run(until=self.clock.now() + for_s)


def registration(owner: str, incarnation: int = 1, **fields: object) -> Registration:
    return Registration(owner=owner, role=Role.AGENT, incarnation=incarnation, **fields)  # type: ignore[arg-type]  # tests know
