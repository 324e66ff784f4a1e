from __future__ import annotations

import random
from itertools import islice

import networkx as nx
import pytest

from phalanx.domain.network import Link, Network, Pop
from phalanx.domain.resources import NOTHING


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_dijkstra_nearest_first(seed: int) -> None:
    rng = random.Random(seed)
    graph: nx.Graph[str] = nx.gnm_random_graph(30, 40, seed)  # some of its parts are cut off
    links = tuple(
        Link(f"p{a}", f"p{b}", rng.uniform(1, 9), rng.uniform(0.1, 5)) for a, b in graph.edges
    )
    pops = tuple(Pop(f"p{number}", NOTHING) for number in graph)
    search = Network(pops, links, (), "p0").distances(lambda link: link.latency_ms)
    weighted: nx.Graph[str] = nx.Graph()
    weighted.add_nodes_from(pop.name for pop in pops)
    weighted.add_weighted_edges_from((link.a, link.b, link.latency_ms) for link in links)
    for pop in pops:
        found = list(search(pop.name))
        assert dict(found) == nx.single_source_dijkstra_path_length(weighted, pop.name)
        assert [far for _, far in found] == sorted(far for _, far in found)
        assert list(islice(search(pop.name), 1)) == [(pop.name, 0.0)]
