"""A scenario on another network: its roles spread over the nodes of a GraphML graph.

A role is a PoP that the scenario names in hosts, traffic, monitors, faults or as the
repository. Roles are taken in the order of the scenario's PoPs: the first gets the node with
the most links, each next one the node whose least latency to those taken is greatest; ties go
to the first node in the file. With more roles than nodes, nodes are taken again in the same
order. A role keeps its resources; all other nodes get the resources of the scenario's PoPs,
dealt round robin in the order of the file. Goals, functions and traffic stay as they are.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import networkx as nx
from msgspec import structs

from phalanx.domain.errors import ScenarioError
from phalanx.domain.network import link_ends, link_id
from phalanx.loading import read_text
from phalanx.loading.refusals import one_line
from phalanx.runtime.checks import offences
from phalanx.runtime.graphml import MAX_BYTES, GraphError, read_graph
from phalanx.runtime.scenario import FaultSpec, MonitorSpec, NetworkSpec, PopSpec, Scenario
from phalanx.runtime.zoo import LINK_LOSS, Topology, read_topology


def from_graphml(path: str | Path, like: Scenario) -> Scenario:
    """Return ``like`` on the network in the GraphML file ``path``; its notes say what is assumed.

    Raises:
        ScenarioError: with one line, if the file cannot be used.

    """
    try:
        topology = read_topology(
            read_graph(read_text(path, MAX_BYTES)), reserved=[host.name for host in like.hosts]
        )
    except GraphError as error:
        raise ScenarioError(one_line(f"{path}: {error}")) from None
    scenario = _Move(like, topology).scenario(Path(path).name)
    for field, why in offences(scenario):
        raise ScenarioError(one_line(f"{path}: {field}: {why}"))
    return scenario


def roles(scenario: Scenario) -> tuple[str, ...]:
    """Return the PoPs that ``scenario`` names for a purpose, in its order of PoPs."""
    named = {scenario.network.repository}
    named.update(host.at for host in scenario.hosts)
    named.update(pop for group in scenario.traffic for pop in group.at)
    for monitor in scenario.monitors:
        named.update((monitor.at, *link_ends(monitor.link)))
    for fault in scenario.faults:
        named.update(filter(None, (fault.agent, *(fault.link or ()))))
    return tuple(pop.name for pop in scenario.network.pops if pop.name in named)


class _Move:
    """One scenario on its way to another network."""

    def __init__(self, like: Scenario, topology: Topology) -> None:
        self._like = like
        self._topology = topology
        self._graph: nx.Graph[str] = nx.Graph()
        self._graph.add_nodes_from(topology.places)
        for link in topology.links:
            self._graph.add_edge(*link.between, latency=link.latency_ms)
        self._roles = roles(like)
        chosen = spread(self._graph, len(self._roles))
        self._node = dict(zip(self._roles, cycle(chosen), strict=False))

    def scenario(self, source: str) -> Scenario:
        like, node = self._like, self._node
        return structs.replace(
            like,
            network=NetworkSpec(
                pops=self._pops(),
                repository=node[like.network.repository],
                links=self._topology.links,
                default_link_loss=LINK_LOSS,
            ),
            hosts=tuple(structs.replace(host, at=node[host.at]) for host in like.hosts),
            traffic=tuple(
                structs.replace(group, at=tuple(node[pop] for pop in group.at))
                for group in like.traffic
            ),
            monitors=tuple(self._monitor(monitor) for monitor in like.monitors),
            faults=tuple(self._fault(fault) for fault in like.faults),
            notes=(
                *like.notes,
                *(f"{source}: {note}" for note in self._topology.notes),
                f"{source}: roles are played by "
                + ", ".join(f"{self._node[role]} ({role})" for role in self._roles),
            ),
        )

    def _pops(self) -> tuple[PopSpec, ...]:
        own = {pop.name: pop for pop in self._like.network.pops}
        players: dict[str, PopSpec] = {}
        for role in self._roles:
            players.setdefault(self._node[role], own[role])
        dealt = cycle(self._like.network.pops)
        return tuple(
            structs.replace(
                players[name] if name in players else next(dealt),
                name=name,
                x=place[0] if place else None,
                y=place[1] if place else None,
            )
            for name, place in self._topology.places.items()
        )

    def _monitor(self, monitor: MonitorSpec) -> MonitorSpec:
        source, target = link_ends(monitor.link)
        if target not in self._node:  # an access link
            at = self._node[source]
            return structs.replace(monitor, at=at, link=link_id(at, target))
        ends = self._link(source, target)
        at = ends[0] if monitor.at == source else ends[1]
        return structs.replace(monitor, at=at, link=link_id(*ends))

    def _fault(self, fault: FaultSpec) -> FaultSpec:
        return structs.replace(
            fault,
            agent=self._node[fault.agent] if fault.agent else None,
            link=self._link(*fault.link) if fault.link else None,
        )

    def _link(self, source: str, target: str) -> tuple[str, str]:
        """Return the first link on the way from one role to the other."""
        start, end = self._node[source], self._node[target]
        if start == end:
            return start, next(iter(self._graph[start]))
        path = nx.shortest_path(self._graph, start, end, weight="latency")
        return path[0], path[1]


def spread(graph: nx.Graph[str], count: int) -> list[str]:
    """Return up to ``count`` nodes, each as far as can be (by ``latency``) from those before."""
    nodes = list(graph)
    degrees = dict(graph.degree)
    chosen = [max(nodes, key=degrees.__getitem__)]
    nearest = dict.fromkeys(nodes, float("inf"))
    while len(chosen) < min(count, len(nodes)):
        lengths = nx.single_source_dijkstra_path_length(graph, chosen[-1], weight="latency")
        nearest = {node: min(nearest[node], lengths[node]) for node in nodes}
        chosen.append(max((n for n in nodes if n not in chosen), key=lambda n: nearest[n]))
    return chosen
