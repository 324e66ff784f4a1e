"""Why no placement keeps the needs of a service, and what would: one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from phalanx.orchestration.mlfo.model import Problem, build
from phalanx.orchestration.mlfo.need import GuardedVnf, Latencies, Need
from phalanx.orchestration.mlfo.search import Effort, solve

_SHOWN = 3
_PROBE_NODES = 200
_BOTH = (
    "the limits on latency between agents and the room at the sites cannot be kept together; "
    "no change of one alone would do"
)


def why_none(need: Need, latencies: Latencies, problem: Problem, effort: Effort) -> str:
    """Return which need cannot be met, and the least that would meet it.

    ``problem`` has been proven to have no solution.
    """
    for vnf, allowed in zip(need.vnfs, np.isfinite(problem.serving), strict=True):
        if not allowed.any():
            return f"{need.service}: {_no_site(need, latencies, vnf)}"
    probe = _Probe(need, latencies, effort)
    return f"{need.service}: {_peers(probe) or _room(probe) or _BOTH}"


def _no_site(need: Need, latencies: Latencies, vnf: GuardedVnf) -> str:
    """Say what would have to change for ``vnf`` alone."""
    ms = {site.name: latencies.between(vnf.site, site.name) for site in need.sites}
    keeps = {
        site.name: {
            "latency": ms[site.name] <= vnf.latency_ms,
            "trust": site.trust >= vnf.least_trust or site.name in need.outside,
            "image": need.agent.image in site.images,
            "room": _lacking(need, site.name) is None,
            "without": site.name not in need.without,
            "location": site.name not in need.outside,
        }
        for site in need.sites
    }

    def only(what: str) -> list[str]:
        """Return the sites that fail in this alone."""
        return [
            name for name, kept in keeps.items() if all(ok != (k == what) for k, ok in kept.items())
        ]

    trust = {site.name: site.trust for site in need.sites}
    cures = []
    if near := [name for name in only("latency") if np.isfinite(ms[name])]:
        nearest = min(near, key=ms.__getitem__)
        cures.append(f"latency-ms {_up(ms[nearest])} ({nearest})")
    if trusted := only("trust"):
        best = max(trusted, key=trust.__getitem__)
        cures.append(f"least-trust {trust[best]:g} ({best})")
    if image := only("image"):
        cures.append(f"the image at {_some(image, 'or')}")
    if room := only("room"):
        cures.append(f"room at {room[0]} ({_lacking(need, room[0])})")
    if closed := only("without"):
        cures.append(f"agents at {_some(closed, 'or')} again")
    law = [need.outside[name] for name in only("location")]
    why = (
        f"{vnf.name} at {vnf.site} can have no agent: no site within {vnf.latency_ms:g} ms with "
        f"a trust of at least {vnf.least_trust:g} has the image {need.agent.image!r} and room"
    )
    return "; ".join((why, *law[:1], _would_do(cures)))


def _lacking(need: Need, name: str) -> str | None:
    """Return what a site lacks for an agent that serves one VNF; None if nothing."""
    site = next(site for site in need.sites if site.name == name)
    one = need.agent.resources() + need.agent.each_vnf.resources()
    return one.lacking(need.free(site))


class _Probe:
    """Tells whether the needs could be met if some were other than they are."""

    def __init__(self, need: Need, latencies: Latencies, effort: Effort) -> None:
        self.need = need
        self.latencies = latencies
        # Many questions are asked, and an answer that takes long is one that is not given.
        seconds = None if effort.seconds is None else effort.seconds / 10
        self._effort = replace(effort, seconds=seconds, nodes=_PROBE_NODES)

    def meets(self, need: Need, room: dict[str, int] | None = None) -> bool:
        problem = build(need, self.latencies)
        rooms = problem.room.copy()
        for name, vnfs in (room or {}).items():
            rooms[self.latencies.place[name]] = vnfs
        free = Problem(
            opening=np.zeros_like(problem.opening),
            serving=np.where(np.isfinite(problem.serving), 0.0, np.inf),
            pairs=np.where(np.isfinite(problem.pairs), 0.0, np.inf),
            room=rooms,
            edges=problem.edges,
        )
        return solve(free, self._effort).places is not None

    def least(self, values: list[float], meets: Callable[[float], bool]) -> float | None:
        """Return the least of the ascending ``values`` that would do; None if none does."""
        if not values or not meets(values[-1]):
            return None
        low, high = 0, len(values) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(values[middle]) else (middle + 1, high)
        return values[low]


def _peers(probe: _Probe) -> str | None:
    need = probe.need
    ms = np.unique(probe.latencies.ms)
    longer = [float(v) for v in ms[np.isfinite(ms)] if v > need.peer_latency_ms]
    found = probe.least(longer, lambda v: probe.meets(replace(need, peer_latency_ms=v)))
    if found is None:
        return None
    return (
        f"agents of neighbours cannot all be within {need.peer_latency_ms:g} ms of each other; "
        f"peer-latency-ms {_up(found)} would do"
    )


def _room(probe: _Probe) -> str | None:
    need = probe.need
    why = f"the sites have too little room for agents that serve all {len(need.vnfs)} VNFs"
    more = [float(n) for n in range(need.agent.most_vnfs + 1, len(need.vnfs) + 1)]
    served = probe.least(
        more, lambda n: probe.meets(replace(need, agent=replace(need.agent, most_vnfs=int(n))))
    )
    if served is not None:
        return f"{why}; most-vnfs {served:g} would do"
    roomy = [site.name for site in need.sites if probe.meets(need, {site.name: len(need.vnfs)})]
    if roomy:
        return f"{why}; more cores, memory or disk at {_some(roomy, 'or')} would do"
    if probe.meets(need, {site.name: len(need.vnfs) for site in need.sites}):
        return f"{why}; more cores, memory or disk at several sites would do"
    return None


def _would_do(cures: list[str]) -> str:
    if not cures:
        return "no change of one need alone would do"
    return f"{' or '.join(cures)} would do"


def _some(names: list[str], word: str) -> str:
    shown = names[:_SHOWN]
    rest = f" ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return f" {word} ".join(shown) + rest


def _up(ms: float) -> str:
    """Return ``ms``, rounded up so that it still does."""
    return f"{np.ceil(ms * 1000 - 1e-9) / 1000:.10g}"
