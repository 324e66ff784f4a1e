"""Discovery: services by what they can do, for whom, how well, and how far they are trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from msgspec import Struct

from phalanx.clock import Clock
from phalanx.fabric.directory import Change, Entry
from phalanx.fabric.registration import HealthStatus, State, Tier
from phalanx.fabric.registry import Registry
from phalanx.fabric.scope import Scope
from phalanx.identity.names import Role


class Query(Struct, frozen=True):
    """What is looked for; each field that is given narrows it."""

    capability: str | None = None
    operation: str | None = None
    role: Role | None = None
    scope: Scope | None = None
    """The scope that the service must care for."""
    containing: bool = True
    """Whether a service that cares for more than ``scope`` will do; else exactly for it."""
    least_trust: Tier = Tier.UNATTESTED
    least_health: HealthStatus = HealthStatus.DEGRADED
    states: tuple[State, ...] = (State.SERVING,)

    def matches(self, entry: Entry) -> bool:
        """Whether ``entry`` is one of those looked for."""
        service = entry.registration
        return (
            entry.state in self.states
            and (self.capability is None or self.capability in service.capabilities)
            and (self.operation is None or self.operation in service.operations)
            and (self.role is None or self.role is service.role)
            and (self.scope is None or self._in_scope(service.scope, self.scope))
            and entry.trust.tier.rank >= self.least_trust.rank
            and _badness(service.health.status) <= _badness(self.least_health)
        )

    def _in_scope(self, found: Scope, wanted: Scope) -> bool:
        return found.contains(wanted) if self.containing else found == wanted


_HEALTH = tuple(HealthStatus)


def _badness(status: HealthStatus) -> int:
    return _HEALTH.index(status)


def find(entries: Iterable[Entry], query: Query) -> tuple[Entry, ...]:
    """Return the entries that match, best first.

    The order is: best health, narrowest scope, most trust, least load (unknown last), name.
    """
    return tuple(sorted(filter(query.matches, entries), key=_order))


def _order(entry: Entry) -> tuple[int, int, int, float, str]:
    service = entry.registration
    return (
        _badness(service.health.status),
        -service.scope.depth,
        -entry.trust.tier.rank,
        inf if service.load is None else service.load,
        entry.owner,
    )


def wait_for(
    registry: Registry,
    clock: Clock,
    query: Query,
    answer: Callable[[tuple[Entry, ...]], None],
    *,
    timeout_s: float,
    count: int = 1,
) -> Callable[[], None]:
    """Call ``answer`` once: when ``count`` services match, or with fewer when the time is over.

    It is called by the clock, also if enough match already. Call what is returned to give up.
    """
    done = False

    def end() -> None:
        nonlocal done
        done = True
        timer.cancel()
        stop_watching()

    def finish() -> None:
        if not done:
            end()
            answer(find(registry.entries(), query))

    def changed(change: Change) -> None:
        if query.matches(change.entry):
            look()

    def look() -> None:
        if not done and len(find(registry.entries(), query)) >= count:
            finish()

    timer = clock.call_at(clock.now() + timeout_s, finish)
    # What is there already is looked at once, by the clock, not while the watch begins.
    stop_watching = registry.watch(lambda change: clock.call_soon(lambda: changed(change)))
    return end
