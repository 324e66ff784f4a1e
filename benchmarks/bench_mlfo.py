"""The MLFO's time and gap to the optimum, beside HiGHS and a greedy placement, on real networks.

Sites are the nodes of Internet Topology Zoo graphs (``--data FOLDER``, or the variable
PHALANX_DATA: a folder with ``topologies/*.graphml``); without them, random geometric graphs
of 10 to 150 sites. Services are chains of VNFs at random sites, some with a side branch that
closes a cycle; load, trust and room of the sites are random. All is seeded.

Run it with ``python benchmarks/bench_mlfo.py [--quick] [--data FOLDER]``.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from phalanx.loading import read_text
from phalanx.orchestration.descriptors.nsd import AgentRequirements, Share
from phalanx.orchestration.descriptors.service import Site, SiteLink
from phalanx.orchestration.mlfo.model import Problem, build
from phalanx.orchestration.mlfo.need import GuardedVnf, Need
from phalanx.orchestration.mlfo.search import Effort, LocalSearch, solve
from phalanx.runtime.topology import MAX_BYTES, read_topology
from tables import QUICK, console, extra, show

VNFS = (4,) if QUICK else (6, 12)
INSTANCES = 2 if QUICK else 6
PATIENCE_S = 5.0 if QUICK else 30.0
SIZES = (10, 20) if QUICK else (10, 30, 75, 150)
DIGEST = "sha256:" + "0" * 64


class Map(Struct, frozen=True):
    """A network of sites."""

    name: str
    sites: tuple[str, ...]
    links: tuple[SiteLink, ...]


def data() -> Path:
    """Return the folder of the data; one that holds nothing if none is named."""
    if "--data" in sys.argv[:-1]:
        return Path(sys.argv[sys.argv.index("--data") + 1])
    return Path(os.environ.get("PHALANX_DATA", os.devnull))


def maps() -> Iterator[Map]:
    """Yield networks, smaller ones first."""
    graphs = []
    for file in sorted((data() / "topologies").glob("*.graphml")):
        topology = read_topology(read_text(file, MAX_BYTES))
        links = (SiteLink(k.between, k.latency_ms, k.bandwidth_mb_s) for k in topology.links)
        graphs.append(Map(file.stem, tuple(topology.places), tuple(links)))
    if not graphs:
        console.print(
            "no graphs of the Topology Zoo here (PHALANX_DATA, --data); random ones are taken"
        )
        graphs = [geometric(size) for size in SIZES]
    graphs.sort(key=lambda graph: len(graph.sites))
    yield from graphs[:2] if QUICK else graphs


def geometric(size: int) -> Map:
    """Return a random geometric graph over 2,000 km: each site is linked to near ones."""
    rng = random.Random(size)
    places = {f"site{i}": (rng.uniform(0, 10), rng.uniform(0, 10)) for i in range(size)}
    links: dict[tuple[str, str], float] = {}
    names = list(places)
    for number, name in enumerate(names[1:], 1):
        near = sorted(names[:number], key=lambda other: math.dist(places[name], places[other]))
        for other in near[:2]:
            links[other, name] = math.dist(places[name], places[other])
    found = (SiteLink(pair, ms, 1250) for pair, ms in links.items())
    return Map(f"random-{size}", tuple(names), tuple(found))


def need(rng: random.Random, network: Map, vnfs: int) -> Need:
    """Return a service on ``network``."""
    sites = tuple(
        Site(
            name=name,
            pop=name,
            cores=rng.choice((4, 8, 16)),
            memory_gb=64,
            disk_gb=500,
            load=rng.uniform(0, 0.9),
            trust=rng.uniform(0.4, 1),
            images={"agent": DIGEST} if rng.random() < 0.9 else {},
        )
        for name in network.sites
    )
    names = [f"vnf{i}" for i in range(vnfs)]
    pairs = list(pairwise(names))
    if rng.random() < 0.5:
        pairs.append((names[0], names[vnfs // 2]))
    guarded = (
        GuardedVnf(
            name=name,
            site=rng.choice(network.sites),
            functions=("link-monitor",),
            latency_ms=rng.uniform(3, 15),
            least_trust=rng.choice((0.4, 0.6)),
        )
        for name in names
    )
    agent = AgentRequirements("agent", cores=1, memory_gb=1, each_vnf=Share(cores=0.5))
    return Need("service", agent, tuple(guarded), tuple(pairs), sites, network.links, 40.0)


def compare(network: Map, vnfs: int, highs: Any) -> list[str] | None:
    """Return the row of one network and length of service; None if none could be placed."""
    rng = random.Random(f"{network.name}/{vnfs}")
    seconds: list[float] = []
    its: list[float] = []
    claimed, above, greedy, nodes = 0.0, 0.0, [], 0
    unproven = impossible = 0
    for _ in range(INSTANCES):
        asked = need(rng, network, vnfs)
        begin = time.perf_counter()
        problem = build(asked, asked.latencies())
        found = solve(problem, Effort(seconds=PATIENCE_S))
        took = time.perf_counter() - begin
        begin = time.perf_counter()
        best = highs.optimum(problem, PATIENCE_S)
        theirs = time.perf_counter() - begin
        if found.places is None:
            assert not (best.proven and math.isfinite(best.objective)), "a placement was missed"
            impossible += 1
            continue
        seconds.append(took)
        its.append(theirs)
        nodes += found.nodes
        claimed = max(claimed, found.gap)
        if best.proven:
            gap = found.objective / best.objective - 1
            assert gap <= found.gap + 1e-6, "further from the optimum than the proven gap"
            assert found.bound <= best.objective * (1 + 1e-6), "no bound"
            above = max(above, gap)
        unproven += not best.proven
        first = cost_of_greedy(problem)
        if math.isfinite(first):
            greedy.append(first / found.objective - 1)
    if not seconds:
        return None
    return [
        f"{network.name}: {len(network.sites)} × {vnfs}",
        f"{impossible or '–'}",
        f"{1e3 * statistics.median(seconds):.0f}",
        f"{1e3 * max(seconds):.0f}",
        f"{nodes / len(seconds):.0f}",
        f"{claimed:.2%}",
        f"{max(0.0, above):.2%}" + (f" ({unproven} open)" if unproven else ""),
        f"{statistics.median(greedy):.1%}" if greedy else "–",
        f"{1e3 * statistics.median(its):.0f}",
        f"{sum(its) / sum(seconds):.1f}",
    ]


def cost_of_greedy(problem: Problem) -> float:
    """Return what placing VNF by VNF costs, each where it is cheapest then."""
    return problem.cost(LocalSearch(problem, problem.too_much).greedy())


def main() -> None:
    highs = extra("agents_optimum")
    rows = []
    with console.status("placing") as status:
        for network in maps():
            for vnfs in VNFS:
                status.update(f"{network.name}, {vnfs} VNFs")
                row = compare(network, vnfs, highs)
                rows += [row] if row else []
    show(
        f"Agents placed by the MLFO ({INSTANCES} random services each)",
        [
            "sites × VNFs",
            "none",
            "ms",
            "worst",
            "nodes",
            "proven gap",
            "gap",
            "greedy",
            "HiGHS ms",
            "HiGHS ×",
        ],
        rows,
        "none: services that no placement fits. proven gap: most the MLFO says it may be off. gap: "
        f"what it is off,\nwhere HiGHS proves it within {PATIENCE_S:g} s. greedy: what placing VNF "
        "by VNF costs more. HiGHS ×: its time\nover the MLFO's, all summed.",
    )


if __name__ == "__main__":
    main()
