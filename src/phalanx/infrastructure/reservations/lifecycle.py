"""Holds and instances under their leases: from a hold to an instance to its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from msgspec.structs import replace

from phalanx.clock import Clock, Timer
from phalanx.domain.actions import (
    Deploy,
    Done,
    Failed,
    HeldBids,
    Hold,
    InstanceLost,
    Outcome,
    Rechain,
    Renew,
    Renewed,
    Scale,
    Stop,
)
from phalanx.domain.actions import Transfer as Replace
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure import Answer
from phalanx.infrastructure.reservations.allocations import Percepts, Reservations, as_data
from phalanx.infrastructure.reservations.images import ImageCache
from phalanx.infrastructure.reservations.instances import (
    Downloads,
    Held,
    Instance,
    Measures,
    Observer,
    ReservedPath,
    deploy_refusal,
    hold_refusal,
    ttl_refusal,
)

OFFERS = 64
"""Holds of a PoP whose bids can be read, the latest."""
ENDED = 1024
"""Instances of which it is known that they were there, beside those that are."""

Lease = tuple[str, str]
"""What it is for (``hold`` or ``instance``), and the id of that."""


class Leases:
    """Expiry times, and one timer for the earliest."""

    def __init__(self, clock: Clock, expire: Callable[[Lease], None]) -> None:
        self._clock = clock
        self._expire = expire
        self._until: dict[Lease, float] = {}
        self._heap: list[tuple[float, int, Lease]] = []
        self._count = 0
        self._timer: Timer | None = None
        self._armed = 0.0

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._until

    def grant(self, lease: Lease, ttl_s: float) -> None:
        """Let ``lease`` run for ``ttl_s`` seconds from now, or as long as it already does."""
        until = max(self._clock.now() + ttl_s, self._until.get(lease, 0.0))
        known = lease in self._until
        self._until[lease] = until
        if not known:
            self._push(until, lease)
            self._arm()

    def left_s(self, lease: Lease) -> float | None:
        """Return how long ``lease`` still runs, in seconds; None if there is none."""
        return self._until[lease] - self._clock.now() if lease in self._until else None

    def drop(self, lease: Lease) -> None:
        """Forget a lease: what it was for has ended."""
        self._until.pop(lease, None)

    def stop(self) -> None:
        """Let nothing expire any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._until.clear()
        self._heap.clear()

    def _push(self, until: float, lease: Lease) -> None:
        self._count += 1
        heappush(self._heap, (until, self._count, lease))

    def _arm(self) -> None:
        if self._heap and (self._timer is None or self._heap[0][0] < self._armed):
            if self._timer is not None:
                self._timer.cancel()
            self._armed = self._heap[0][0]
            self._timer = self._clock.call_at(self._armed, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            _, _, lease = heappop(self._heap)
            until = self._until.get(lease)
            if until is None:
                continue
            if until > now:  # Renewed since it was pushed.
                self._push(until, lease)
                continue
            del self._until[lease]
            self._expire(lease)
        self._arm()


class Lifecycle:
    """All holds and instances, each under its lease."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        *,
        reservations: Reservations,
        downloads: Downloads,
        measures: Measures,
        observer: Observer,
        percepts: Percepts,
        images: ImageCache,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._reservations = reservations
        self._downloads = downloads
        self._measures = measures
        self._observer = observer
        self._percepts = percepts
        self._images = images
        self._leases = Leases(clock, self._expire)
        self._holds: dict[str, Held] = {}
        self._instances: dict[str, Instance] = {}
        self._offers: dict[PopId, deque[tuple[float, HeldBids]]] = {}
        self._ended: deque[str] = deque(maxlen=ENDED)
        """Of agents that do not know it yet, too, and those that were refused."""

    def names(self) -> list[str]:
        """Return the ids of all holds and instances."""
        return sorted([*self._holds, *self._instances])

    def has(self, instance: str) -> bool:
        """Whether there is an instance of that id."""
        return instance in self._instances

    def shutdown(self) -> None:
        """Let no lease run out and no instance boot any more."""
        self._leases.stop()
        for instance in self._instances.values():
            self._downloads.abort(instance)

    def running(self, instance: str, pop: PopId) -> Instance | str:
        """Return an instance that runs at ``pop``; as text why there is none."""
        found = self._at(instance, pop)
        if found is None:
            return f"no instance {instance} at {pop}"
        return found if found.runs else f"instance {instance} does not run yet"

    def hold(self, pop: PopId, action: Hold, cause: str) -> Outcome:
        """Carry out ``Hold``."""
        if action.hold in self._holds:
            return Failed(f"hold {action.hold} exists already")
        refusal = hold_refusal(action) or self._reservations.hold(pop, action)
        if refusal is not None:
            return Failed(refusal)
        event = self._recorder.record(
            "hold.granted",
            cause,
            hold=action.hold,
            pop=pop,
            **as_data(action.resources),
            path=list(action.path),
            mb_s=action.mb_s,
            group=action.group,
            ttl_s=action.ttl_s,
        )
        self._holds[action.hold] = Held(action, pop, event)
        self._leases.grant(("hold", action.hold), action.ttl_s)
        if action.bids:
            again = (bid.reuse for bid in action.bids if bid.reuse is not None)
            unknown = (i for i in again if i not in self._instances and i not in self._ended)
            offer = HeldBids(action.hold, action.bids, 0.0, tuple(unknown))
            offers = self._offers.setdefault(pop, deque(maxlen=OFFERS))
            offers.append((self._clock.now(), offer))
        return Done()

    def offers(self, pop: PopId) -> tuple[HeldBids, ...]:
        """Return the bids of the latest holds at ``pop``, the oldest first."""
        now = self._clock.now()
        return tuple(replace(each, age_s=now - at) for at, each in self._offers.get(pop, ()))

    def lease_left_s(self, instance: str) -> float | None:
        """Return how long an instance stays without being renewed, in seconds; None: unknown."""
        return self._leases.left_s(("instance", instance))

    def release(self, pop: PopId, hold: str) -> Outcome:
        """Carry out ``Release``."""
        if self._held(hold, pop) is not None:
            self._give_back(hold, "released")
        return Done()

    def deploy(self, pop: PopId, action: Deploy, cause: str, answer: Answer) -> None:
        """Carry out ``Deploy``."""
        held = self._held(action.hold, pop)
        refusal: str | None
        if held is None:
            refusal = f"no hold {action.hold} at {pop}"
        elif action.instance in self._instances:
            refusal = f"instance {action.instance} exists already"
        else:
            refusal = deploy_refusal(action, held)
        if held is None or refusal is not None:
            self._ended.append(action.instance)
            answer(Failed(str(refusal)))
            return
        hold, vnfd = held.hold, action.vnfd
        self._give_back(action.hold, "used")
        chain = self._reservations.open(action.instance, pop, hold, cause)
        if isinstance(chain, str):
            self._ended.append(action.instance)
            answer(Failed(chain))
            return
        self._images.use(pop, vnfd, action.instance)
        # Never refused: it is part of what the hold has just given back.
        self._reservations.allocate(pop, action.instance, vnfd.scaled(action.units), cause)
        self._images.give_way(pop, cause)
        instance = Instance(
            action.instance, pop, vnfd, action.units, chain, cause, answer, self._clock.now()
        )
        self._instances[instance.id] = instance
        self._leases.grant(("instance", instance.id), action.ttl_s)
        refusal = self._downloads.begin(instance, self._ready, self._end)
        if refusal is not None:
            self._end(instance, refusal, cause)

    def install(
        self, pop: PopId, instance_id: str, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> str | None:
        """Put a running instance in place; return why that is not possible."""
        if instance_id in self._instances:
            return f"instance {instance_id} exists already"
        refusal = ttl_refusal(ttl_s) or self._reservations.allocate(
            pop, instance_id, vnfd.scaled(units), cause
        )
        if refusal is not None:
            return refusal
        self._images.give_way(pop, cause)
        chain = ReservedPath("", "", (pop,), 0.0)
        instance = Instance(instance_id, pop, vnfd, units, chain, cause, None, self._clock.now())
        self._instances[instance_id] = instance
        self._leases.grant(("instance", instance_id), ttl_s)
        self._images.keep(pop, vnfd, cause, instance_id)
        self._ready(instance)
        return None

    def rechain(self, pop: PopId, action: Rechain, cause: str) -> Outcome:
        """Carry out ``Rechain``."""
        instance, held = self.running(action.instance, pop), self._held(action.hold, pop)
        if isinstance(instance, str):
            return Failed(instance)
        if held is None:
            return Failed(f"no hold {action.hold} at {pop}")
        self._give_back(action.hold, "used")
        chain = self._reservations.open(instance.id, pop, held.hold, cause)
        if isinstance(chain, str):
            return Failed(chain)
        self._reservations.close(instance.chain, cause)
        instance.chain = chain
        return Done(chain.event)

    def scale(self, pop: PopId, action: Scale, cause: str) -> Outcome:
        """Carry out ``Scale``."""
        instance = self.running(action.instance, pop)
        if isinstance(instance, str):
            return Failed(instance)
        if action.units < 1 or not 0 <= action.mb_s < float("inf"):
            return Failed(f"cannot scale to {action.units} units and {action.mb_s:g} MB/s")
        before = instance.units
        amount = instance.vnfd.scaled(action.units)
        refusal = self._reservations.fits(pop, instance.id, amount)
        if refusal is not None:
            return Failed(refusal)
        chain = self._reservations.resize(instance.chain, action.mb_s, instance.id, cause)
        if isinstance(chain, str):
            return Failed(chain)
        instance.chain, instance.units = chain, action.units
        self._reservations.allocate(pop, instance.id, amount, cause)
        self._images.give_way(pop, cause)
        event = self._recorder.record(
            "instance.scaled",
            cause,
            instance=instance.id,
            pop=pop,
            from_units=before,
            to_units=action.units,
        )
        return Done(event)

    def replace(self, pop: PopId, action: Replace, cause: str) -> Outcome:
        """Carry out ``Transfer``: another instance takes over the work."""
        instance, to = self.running(action.instance, pop), self.running(action.to, pop)
        if isinstance(instance, str):
            return Failed(instance)
        if isinstance(to, str):
            return Failed(to)
        if instance is to:
            return Failed(f"instance {action.to} cannot replace itself")
        self._measures.move(instance, to)
        self._reservations.close(to.chain, cause)
        to.chain = self._reservations.hand_over(instance.chain, to.id, cause)
        instance.chain = ReservedPath("", "", (pop,), 0.0)
        event = self._recorder.record(
            "instance.replaced",
            cause,
            instance=instance.id,
            by=to.id,
            pop=pop,
            version=to.vnfd.version,
        )
        return Done(event)

    def stop(self, pop: PopId, action: Stop, cause: str) -> Outcome:
        """Carry out ``Stop``."""
        found = self._at(action.instance, pop)
        return Done() if found is None else Done(self._end(found, action.reason, cause))

    def renew(self, pop: PopId, action: Renew) -> Outcome:
        """Carry out ``Renew``."""
        refusal = ttl_refusal(action.ttl_s)
        if refusal is not None:
            return Failed(refusal)
        gone = []
        for name in action.instances:
            leases: list[Lease] = []
            if self._at(name, pop) is not None:
                leases.append(("instance", name))
            if self._held(name, pop) is not None:
                leases.append(("hold", name))
            for lease in leases:
                self._leases.grant(lease, action.ttl_s)
            if not leases:
                gone.append(name)
        return Renewed(tuple(gone))

    def kill(self, instance: str, cause: str) -> None:
        """End an instance as a crash does.

        Raises:
            KeyError: if there is none of that id.

        """
        self._lose(self._instances[instance], "crashed", cause)

    def _held(self, hold: str, pop: PopId) -> Held | None:
        found = self._holds.get(hold)
        return found if found is not None and found.pop == pop else None

    def _give_back(self, hold: str, reason: str) -> None:
        held = self._holds.pop(hold)
        self._recorder.record("hold.ended", held.cause, hold=hold, pop=held.pop, reason=reason)
        self._leases.drop(("hold", hold))
        self._reservations.release(held.pop, held.hold)

    def _at(self, instance: str, pop: PopId) -> Instance | None:
        found = self._instances.get(instance)
        return found if found is not None and found.pop == pop else None

    def _ready(self, instance: Instance) -> None:
        """Note that an instance has booted."""
        amount = as_data(instance.vnfd.scaled(instance.units))
        instance.cause = self._recorder.record(
            "instance.started",
            instance.cause,
            instance=instance.id,
            vnf=instance.vnfd.name,
            version=instance.vnfd.version,
            pop=instance.pop,
            units=instance.units,
            **amount,
            downloaded_s=round(instance.downloaded_s, 6),
        )
        answer, instance.answer = instance.answer, None
        if answer is not None:
            answer(Done(instance.cause))

    def _expire(self, lease: Lease) -> None:
        what, name = lease
        if what == "hold":
            held = self._holds[name]
            self._recorder.record("lease.expired", held.cause, what=what, name=name, pop=held.pop)
            self._give_back(name, "expired")
            return
        instance = self._instances[name]
        event = self._recorder.record(
            "lease.expired", instance.cause, what=what, name=name, pop=instance.pop
        )
        self._lose(instance, "lease ran out", event)

    def _lose(self, instance: Instance, reason: str, cause: str) -> None:
        """End an instance unasked; its agent is told, by a failed deployment or a percept."""
        ran = instance.runs
        event = self._end(instance, reason, cause)
        if ran:
            self._percepts.tell(instance.pop, InstanceLost(instance.id, reason, event))

    def _end(self, instance: Instance, reason: str, cause: str) -> str:
        """Undo all that belongs to an instance and return the event that tells of its end."""
        del self._instances[instance.id]
        self._ended.append(instance.id)
        self._leases.drop(("instance", instance.id))
        self._downloads.abort(instance)
        event = self._recorder.record(
            "instance.stopped",
            cause,
            instance=instance.id,
            vnf=instance.vnfd.name,
            pop=instance.pop,
            reason=reason,
        )
        self._measures.lift_all(instance, reason, cause)
        self._reservations.close(instance.chain, cause)
        self._reservations.free_up(instance.pop, instance.id, cause)
        self._images.release(instance, cause)
        self._observer.lost(instance, f"instance {instance.id} ended: {reason}")
        answer, instance.answer = instance.answer, None
        if answer is not None:
            answer(Failed(reason))
        return event
