r"""The placement of agents as an optimisation problem.

Given are sites s, guarded VNFs v with the site l(v) they stand at, and the pairs E of VNFs
whose agents speak with each other (see ``need``). Two binary variables decide: y_s, an agent
stands at s; x_vs, the agent at s serves v. With latencies d in ms over the links between the
sites, minimise

    Σ_s  y_s · (agent + load·load_s + distrust·(1 − trust_s) + start·[s had no agent])
  + Σ_vs x_vs · (latency·d(l(v), s) + handover·[v was served elsewhere])
  + Σ_uv∈E Σ_st x_us·x_vt · peer_latency·d(s, t)

subject to

    Σ_s x_vs = 1            every guarded VNF is served by one agent
    x_vs ≤ y_s              that stands there
    Σ_v x_vs ≤ room_s       the site has the resources for its agent and the VNFs it serves
    x_vs = 0                where d(l(v), s) > latency-ms of v, trust_s < least-trust of v, or
                            the image is not available at s
    x_us·x_vt = 0           where uv ∈ E and d(s, t) > peer-latency-ms

The weights (``Weights``) are prices: of one agent, of a full load, of a total lack of trust, of
one ms. ``start`` and ``handover`` count only when a running pipeline is changed; with them, an
agent stays where it is unless moving it saves more than the move costs. An agent costs a fixed
part and the same for each VNF, so that ``room_s`` is a whole number: the least, over cores,
memory and disk, of (free − agent) / each-vnf, and at most most-vnfs. It is facility location
with limited room and neighbours that attract each other, which is NP-hard.

E joins all guarded VNFs, so the agents form one connected pipeline whatever the placement is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.domain.resources import Resources
from phalanx.orchestration.descriptors.nsd import AgentRequirements
from phalanx.orchestration.mlfo.need import Latencies, Need

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Places = NDArray[np.int64]
"""For each VNF the number of the site whose agent serves it."""

_TOLERANCE = 1e-9


class Problem(Struct, frozen=True):
    """The optimisation problem in numbers; V VNFs, S sites."""

    opening: Floats
    """[S] cost of an agent at each site."""
    serving: Floats
    """[V, S] cost of serving a VNF from a site; infinite where that is not allowed."""
    pairs: Floats
    """[S, S] cost of the agents of two neighbours; symmetric, infinite where too far apart."""
    room: Ints
    """[S] how many VNFs an agent at each site can serve."""
    edges: tuple[tuple[int, int], ...]
    """The pairs E."""

    @property
    def too_much(self) -> float:
        """More than any placement costs that keeps all limits."""
        finite = np.where(np.isfinite(self.serving), self.serving, 0.0)
        far = self.pairs[np.isfinite(self.pairs)].max(initial=0.0)
        return 1.0 + float(
            self.opening.sum() + finite.max(axis=1, initial=0.0).sum() + far * len(self.edges)
        )

    def cost(self, places: Places) -> float:
        """Return the objective of a placement; infinite if it breaks a limit."""
        counts = np.bincount(places, minlength=len(self.opening))
        if (counts > self.room).any():
            return math.inf
        served = self.serving[np.arange(len(places)), places].sum()
        apart = sum(self.pairs[places[u], places[v]] for u, v in self.edges)
        return float(self.opening[counts > 0].sum() + served + apart)


def build(need: Need, latencies: Latencies, previous: Mapping[str, str] | None = None) -> Problem:
    """Return the problem of ``need``.

    Args:
        need: what the service asks.
        latencies: those between the sites of ``need``.
        previous: the site of each VNF's agent in the pipeline that runs; None: none does.

    """
    weights = need.weights
    numbers = {vnf.name: number for number, vnf in enumerate(need.vnfs)}
    trust = np.array([site.trust for site in need.sites])
    load = np.array([site.load for site in need.sites])
    opening = weights.agent + weights.load * load + weights.distrust * (1.0 - trust)
    serving = np.full((len(need.vnfs), len(need.sites)), np.inf)
    image = np.array([need.agent.image in s.images for s in need.sites])
    image &= np.array([s.name not in need.without for s in need.sites])
    image &= np.array([s.name not in need.outside for s in need.sites])
    room = np.array([room_at(need.agent, need.free(site), len(need.vnfs)) for site in need.sites])
    for number, vnf in enumerate(need.vnfs):
        ms = latencies.ms[latencies.place[vnf.site]]
        allowed = (ms <= vnf.latency_ms) & (trust >= vnf.least_trust) & image & (room > 0)
        serving[number, allowed] = weights.latency * ms[allowed]
    if previous is not None:
        agents = set(previous.values())
        started = np.array([site.name not in agents for site in need.sites])
        opening = opening + weights.start * started
        for number, vnf in enumerate(need.vnfs):
            if vnf.name in previous:
                elsewhere = np.array([site.name != previous[vnf.name] for site in need.sites])
                serving[number] += weights.handover * elsewhere
    near = latencies.ms <= need.peer_latency_ms
    pairs = np.where(near, weights.peer_latency * np.where(near, latencies.ms, 0.0), np.inf)
    neighbours, joins = need.connections(latencies)
    speak = (*neighbours, *joins)
    edges = tuple((numbers[a], numbers[b]) for a, b in speak if a != b)
    return Problem(opening, serving, pairs, room.astype(np.int64), edges)


def room_at(agent: AgentRequirements, free: Resources, vnfs: int) -> int:
    """Return how many VNFs, of ``vnfs``, an agent can serve with the resources ``free``."""
    left, each = free - agent.resources(), agent.each_vnf.resources()
    most = min(vnfs, agent.most_vnfs)
    for have, takes in (
        (left.cores, each.cores),
        (left.memory_gb, each.memory_gb),
        (left.disk_gb, each.disk_gb),
    ):
        if have < -_TOLERANCE:
            return 0
        if takes > 0:
            most = min(most, math.floor(have / takes + _TOLERANCE))
    return most
