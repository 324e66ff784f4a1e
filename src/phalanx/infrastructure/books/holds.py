"""Holds of resources and bandwidth for proposals."""

from __future__ import annotations

from phalanx.domain.actions import Done, Failed, Hold, Outcome
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure.books.instances import Held, hold_refusal
from phalanx.infrastructure.books.leases import Leases
from phalanx.infrastructure.books.ownership import Ownership


class Holds:
    """What is held, each under its lease."""

    def __init__(self, recorder: Recorder, ownership: Ownership, leases: Leases) -> None:
        self._recorder = recorder
        self._ownership = ownership
        self._leases = leases
        self._holds: dict[str, Held] = {}

    def names(self) -> list[str]:
        """Return the ids of all holds."""
        return list(self._holds)

    def grant(self, pop: PopId, action: Hold, cause: str) -> Outcome:
        """Carry out ``Hold``."""
        if action.hold in self._holds:
            return Failed(f"hold {action.hold} exists already")
        refusal = hold_refusal(action) or self._ownership.hold(pop, action)
        if refusal is not None:
            return Failed(refusal)
        self._holds[action.hold] = Held(action, pop, cause)
        self._leases.grant(("hold", action.hold), action.ttl_s)
        return Done()

    def find(self, hold: str, pop: PopId) -> Held | None:
        """Return a hold of ``pop``."""
        found = self._holds.get(hold)
        return found if found is not None and found.pop == pop else None

    def give_back(self, hold: str) -> None:
        """End a hold."""
        held = self._holds.pop(hold)
        self._leases.drop(("hold", hold))
        self._ownership.release(held.pop, held.hold)

    def expire(self, hold: str) -> None:
        """End a hold whose lease ran out, and tell of it."""
        held = self._holds[hold]
        self._recorder.record("lease.expired", held.cause, what="hold", name=hold, pop=held.pop)
        self.give_back(hold)
