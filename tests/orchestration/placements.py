"""Small placement problems, by hand and at random, and all their solutions."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from phalanx.orchestration.descriptors.nsd import AgentRequirements, Share
from phalanx.orchestration.descriptors.service import Service, Site, SiteLink, Weights
from phalanx.orchestration.mlfo.model import Problem
from phalanx.orchestration.mlfo.need import GuardedVnf, Need
from phalanx.runtime.services import read_asked

FOLDER = Path(__file__).parents[2] / "scenarios" / "services" / "edge-video"

DIGEST = "sha256:" + "a" * 64
AGENT = AgentRequirements("agent", cores=1, memory_gb=1, each_vnf=Share(cores=1))


def load(request: str = "request.yaml") -> Service:
    """Read the example of a service."""
    return read_asked(FOLDER, None, FOLDER / request).service()


def site(name: str, **changes) -> Site:
    given = {"cores": 8, "memory_gb": 8, "disk_gb": 8, "images": {"agent": DIGEST}, **changes}
    return Site(name=name, pop=f"pop-{name}", **given)


def line(names: str, ms: float = 10.0) -> tuple[SiteLink, ...]:
    """Links that make a line of the sites."""
    return tuple(SiteLink(pair, ms, 100) for pair in pairwise(names))


def vnf(name: str, at: str, latency_ms: float = 100.0, least_trust: float = 0.0) -> GuardedVnf:
    return GuardedVnf(name, at, (f"guard-{name}",), latency_ms, least_trust)


def need(sites, links, vnfs, neighbours, **changes) -> Need:
    given = {"agent": AGENT, "weights": Weights(), **changes}
    return Need(
        service="svc",
        vnfs=tuple(vnfs),
        neighbours=tuple(neighbours),
        sites=tuple(sites),
        links=tuple(links),
        **given,
    )


def random_problem(seed: int, most_vnfs: int = 5, most_sites: int = 7) -> Problem:
    """Return a problem of any shape: chains, cycles, parts; loose or tight; perhaps impossible."""
    rng = np.random.default_rng(seed)
    vnfs = int(rng.integers(1, most_vnfs + 1))
    sites = int(rng.integers(1, most_sites + 1))
    places = rng.random((sites, 2)) * 30
    ms = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    at = rng.integers(0, sites, vnfs)
    serving = np.where(ms[at] <= rng.uniform(2, 30, (vnfs, 1)), ms[at], math.inf)
    serving[rng.random(serving.shape) < 0.15] = math.inf
    # Every other problem has whole costs, and so many that cost the same.
    opening = rng.uniform(0, 25, sites)
    if seed % 2:
        serving, opening = np.round(serving), np.round(opening)
    pairs = np.where(ms <= rng.uniform(5, 45), rng.choice((0.0, 0.2, 2.0)) * ms, math.inf)
    room = rng.integers(1, vnfs + 1, sites) if seed % 3 else rng.integers(0, 3, sites)
    serving[:, room == 0] = math.inf
    likely = rng.choice((0.2, 0.5, 1.0))
    edges = [(a, b) for a in range(vnfs) for b in range(a + 1, vnfs) if rng.random() < likely]
    return Problem(opening, serving, pairs, room.astype(np.int64), tuple(edges))


def least_cost(problem: Problem) -> float:
    """Return the least cost of all placements; infinite if there is none."""
    may = [np.flatnonzero(np.isfinite(row)).tolist() for row in problem.serving]
    return min((problem.cost(np.array(places)) for places in product(*may)), default=math.inf)
