"""What a search for paths is asked and what it answers, whichever way it searches."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from phalanx.auction.cost import Needs, rsc_eval_hop
from phalanx.auction.view import NetworkView
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.network import PopId

TOLERANCE = 1e-9
"""How far a figure may exceed its limit: sums of floating-point numbers are not exact."""


class PathResult(Struct, frozen=True):
    """A path from a bidder to the tap."""

    path: tuple[PopId, ...]
    """PoPs from the bidder to the tap, both included."""
    cost: float
    """C: the sum of the link weights, in MB/s."""
    latency_ms: float
    """D: accumulated latency in ms."""
    loss: float
    """Accumulated loss, as a fraction."""
    hops: int


class Limits(Struct, frozen=True):
    """The hard constraints of a path, with a tolerance; ``inf`` where there is none."""

    tap: PopId
    latency_ms: float
    loss: float
    hops: float
    mb_s: float
    """Bandwidth that must be free on each link; 0 without a constraint."""

    @classmethod
    def of(cls, goal: ConstrainedGoal) -> Limits:
        """Return the limits that ``goal`` sets to the path."""
        wanted = goal.constraints
        return cls(
            goal.tap,
            inf if wanted.latency_ms is None else wanted.latency_ms + TOLERANCE,
            inf if wanted.loss is None else wanted.loss + TOLERANCE,
            inf if wanted.hops is None else wanted.hops,
            max(0.0, goal.traffic_mb_s - TOLERANCE),
        )

    def kept_by(self, latency_ms: float, loss: float, hops: int) -> bool:
        """Whether a path with these figures is within the limits."""
        return latency_ms <= self.latency_ms and loss <= self.loss and hops <= self.hops

    def no_path(self, *, latency: bool = True, loss: bool = True, hops: bool = True) -> str:
        """Say that no path has the bandwidth and keeps those of the limits, as a reason."""
        words = []
        if latency and self.latency_ms < inf:
            words.append(f"{self.latency_ms:.6g} ms")
        if loss and self.loss < inf:
            words.append(f"{100 * self.loss:.6g} % loss")
        if hops and self.hops < inf:
            words.append(f"{self.hops:.0f} hop{'' if self.hops == 1 else 's'}")
        bandwidth = f" with {self.mb_s:.6g} MB/s free" if self.mb_s > 0 else ""
        within = f" within {' and '.join(words)}" if words else ""
        return f"no path to {self.tap}{bandwidth}{within}"


def hop_costs(view: NetworkView, needs: Needs) -> dict[PopId, float]:
    """Return the cost of passing each PoP (eq. 4.3), kept with the view."""
    key = ("hop costs", needs)
    known: dict[PopId, float] | None = view.memo.get(key)
    if known is not None:
        return known
    return view.remember(
        key, {pop: rsc_eval_hop(s.total, s.free, needs) for pop, s in view.sites.items()}
    )


def is_connected(view: NetworkView, source: PopId, tap: PopId) -> bool:
    """Whether usable links lead from ``source`` to ``tap``, whatever their bandwidth."""
    key = ("connected", tap)
    reached: set[PopId] | None = view.memo.get(key)
    if reached is None:
        incoming = view.incoming
        reached = {tap} & incoming.keys()
        waiting = list(reached)
        while waiting:
            for before, *_ in incoming[waiting.pop()]:
                if before not in reached:
                    reached.add(before)
                    waiting.append(before)
        view.remember(key, reached)
    return source in reached


def unreachable(view: NetworkView, source: PopId, limits: Limits) -> str:
    """Say why no link leads on from ``source`` to the tap: cut off, or bandwidth taken."""
    if limits.mb_s > 0 and is_connected(view, source, limits.tap):
        return limits.no_path(latency=False, loss=False, hops=False)
    return f"{limits.tap} cannot be reached"
