"""A scenario on another network: a GraphML graph, such as those of the Internet Topology Zoo.

Such graphs give places and sometimes link speeds; everything else is assumed, and every
assumption is noted:

- A link's latency is the great-circle distance between its ends over 200 km/ms (light in
  fibre), at least 0.05 ms. A node without coordinates gets the mean of its located
  neighbours; where that fails too, 1 ms is taken for the link.
- Its bandwidth is ``LinkSpeedRaw`` (bit/s), else the median of the graph's known ones, else
  1,250 MB/s (10 Gbit/s). Parallel edges become one link with the sum. Loss is 0.0005.
- Only the largest connected part is kept.

The scenario's roles are spread over the nodes. A role is a PoP that the scenario names in hosts,
traffic, monitors, faults, agents or as the repository. Roles are taken in the order of the
scenario's PoPs: the first gets the node with the most links, each next one the node whose least
latency to those taken is greatest; ties go to the first node in the file. With more roles than
nodes, nodes are taken again in the same order. A role keeps its resources; all other nodes get
the resources of the scenario's PoPs, dealt round robin in the order of the file. Goals,
functions and traffic stay as they are.
"""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import unicodedata
import warnings
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import networkx as nx
from msgspec import Struct, structs

from phalanx.domain.errors import ScenarioError
from phalanx.domain.network import link_ends, link_id
from phalanx.loading import read_text
from phalanx.loading.refusals import one_line, show
from phalanx.runtime.loading import offences
from phalanx.runtime.scenario import (
    FaultSpec,
    LinkSpec,
    MonitorSpec,
    NetworkSpec,
    PopSpec,
    Scenario,
)

MAX_BYTES = 16 << 20
MAX_NODES = 10_000
MAX_EDGES = 100_000
KM_PER_MS = 200.0
EARTH_RADIUS_KM = 6371.0
LEAST_LATENCY_MS = 0.05
UNKNOWN_LATENCY_MS = 1.0
LINK_LOSS = 0.0005
UNKNOWN_BANDWIDTH_MB_S = 1250.0
_BITS_PER_MB = 8e6
Place = tuple[float, float]
"""Longitude and latitude in degrees."""
Graph: TypeAlias = "nx.MultiGraph[str] | nx.MultiDiGraph[str]"


class PlacedTopology(Struct, frozen=True):
    """A network without resources and roles, and what was assumed about it."""

    places: dict[str, Place | None]
    """PoP name to place, in the order of the file."""
    links: tuple[LinkSpec, ...]
    notes: tuple[str, ...]


def read_topology(text: str, reserved: Iterable[str] = ()) -> PlacedTopology:
    """Return the largest connected part of a GraphML text; no PoP gets a ``reserved`` name.

    Raises:
        ScenarioError: if it is no XML or no GraphML, has no node, or an edge leads nowhere.

    """
    graph = _read_graph(text)
    kept = max(nx.connected_components(nx.Graph(graph)), key=len)
    nodes = {node: data for node, data in graph.nodes(data=True) if node in kept}
    names = _unique_names(nodes, {*reserved, "network", "recorder", "run"})
    located = {node: place for node, data in nodes.items() if (place := _place(data)) is not None}
    places = _spread_places(nodes, graph, located)
    links, link_notes = _links(graph, names, places)
    unknown, placed = len(nodes) - len(located), len(places) - len(located)
    notes = [f"{len(nodes)} PoPs and {len(links)} links"]
    if len(graph) > len(nodes):
        notes.append(f"{len(graph) - len(nodes)} nodes outside the largest connected part left out")
    if unknown:
        notes.append(
            f"{unknown} nodes without coordinates, {placed} of them placed between their neighbours"
        )
    notes += link_notes
    return PlacedTopology({names[node]: places.get(node) for node in nodes}, links, tuple(notes))


def _read_graph(text: str) -> Graph:
    """Return the graph, each edge of which leads from one declared node to another.

    Files that declare entities are refused: a few lines of them can grow to gigabytes.
    """
    if "<!DOCTYPE" in text:
        raise ScenarioError("document types and entities are not allowed")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  # without entities it is safe
    except ElementTree.ParseError as error:
        raise ScenarioError(f"line {error.position[0]}: no XML: {error}") from None
    tag = root.tag.rpartition("}")[2]
    if tag != "graphml":
        raise ScenarioError(f"begins with <{tag[:40]}>; <graphml> is expected")
    nodes = [node.get("id") for node in root.findall(".//{*}node")]
    edges = [(e.get("source"), e.get("target")) for e in root.findall(".//{*}edge")]
    if not nodes:
        raise ScenarioError("holds no node; a GraphML graph is expected")
    if len(nodes) > MAX_NODES or len(edges) > MAX_EDGES:
        raise ScenarioError(f"more than {MAX_NODES} nodes or {MAX_EDGES} edges")
    if None in nodes:
        raise ScenarioError("<node> has no attribute 'id'")
    if len({*nodes}) < len(nodes):
        raise ScenarioError("two nodes have the same id")
    known = {*nodes}
    for source, target in edges:
        if source not in known or target not in known:
            raise ScenarioError(f"an edge leads from {source!r} to {target!r}: no such node")
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = nx.parse_graphml(text, force_multigraph=True)
    except (nx.NetworkXError, KeyError, ValueError, AttributeError) as error:
        raise ScenarioError(f"no GraphML: {error}") from None
    assert isinstance(parsed, nx.MultiGraph)
    graph: Graph = parsed
    if not graph:
        raise ScenarioError("holds no node inside <graph>; a GraphML graph is expected")
    return graph


def _unique_names(nodes: dict[str, dict[str, Any]], taken: set[str]) -> dict[str, str]:
    """Return a PoP name for each node id: its label as far as the schema allows."""
    names: dict[str, str] = {}
    for node, data in nodes.items():
        label = str(data.get("label", "")).strip()
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
        name = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:48]
        if not name or name == "None":
            name = "node-" + re.sub(r"[^A-Za-z0-9]+", "-", node)[:24]
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        names[node] = unique
    return names


def _number(data: dict[str, Any], key: str) -> float | None:
    value = data.get(key)
    if value is None or not str(value).strip():
        return None
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(str(value))):
            return number
    raise ScenarioError(f"{key} {show(value)} is no number")


def _place(data: dict[str, Any]) -> Place | None:
    longitude, latitude = _number(data, "Longitude"), _number(data, "Latitude")
    if longitude is None or latitude is None or abs(longitude) > 180 or abs(latitude) > 90:
        return None
    return longitude, latitude


def _spread_places(
    nodes: Iterable[str], graph: Graph, located: dict[str, Place]
) -> dict[str, Place]:
    """Return ``located`` and places for what has neighbours there, round by round."""
    undirected = graph.to_undirected(as_view=True)
    places = dict(located)
    while True:
        found = {
            node: _mean(near)
            for node in nodes
            if node not in places and (near := [places[n] for n in undirected[node] if n in places])
        }
        if not found:
            return places
        places.update(found)


def _mean(places: list[Place]) -> Place:
    """Return the mean on the sphere, so that places beside the date line stay there."""
    x = y = z = 0.0
    for longitude, latitude in places:
        flat = math.cos(math.radians(latitude))
        x += flat * math.cos(math.radians(longitude))
        y += flat * math.sin(math.radians(longitude))
        z += math.sin(math.radians(latitude))
    return (
        round(math.degrees(math.atan2(y, x)), 5),
        round(math.degrees(math.atan2(z, math.hypot(x, y))), 5),
    )


def great_circle_km(a: Place, b: Place) -> float:
    """Return the distance of two places on the globe in km (haversine formula)."""
    lon_a, lat_a, lon_b, lat_b = map(math.radians, (*a, *b))
    half = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half)))


def _links(
    graph: Graph, names: dict[str, str], places: dict[str, Place]
) -> tuple[tuple[LinkSpec, ...], list[str]]:
    """Return one link for each pair of linked nodes, and notes on what was assumed."""
    pairs: dict[tuple[str, str], list[float | None]] = {}
    ids: dict[tuple[str, str], tuple[str, str]] = {}
    edges = list(graph.edges(data=True))
    for source, target, data in edges:
        if source in names and source != target:
            low, high = sorted((names[source], names[target]))
            pairs.setdefault((low, high), []).append(_speed(data))
            ids.setdefault((low, high), (source, target))
    known = [speed for speeds in pairs.values() for speed in speeds if speed is not None]
    usual = statistics.median(known) if known else UNKNOWN_BANDWIDTH_MB_S
    links = []
    guessed = 0
    for pair, speeds in pairs.items():
        a, b = (places.get(node) for node in ids[pair])
        guessed += a is None or b is None
        latency = UNKNOWN_LATENCY_MS
        if a is not None and b is not None:
            latency = max(LEAST_LATENCY_MS, great_circle_km(a, b) / KM_PER_MS)
        bandwidth = sum(usual if speed is None else speed for speed in speeds)
        links.append(LinkSpec(pair, bandwidth, round(latency, 4)))
    kept = sum(map(len, pairs.values()))
    notes = [f"latency by great circle at {KM_PER_MS:g} km/ms; loss taken as {LINK_LOSS:g} a link"]
    if guessed:
        notes.append(f"{guessed} links without places; latency taken as {UNKNOWN_LATENCY_MS:g} ms")
    if unknown := kept - len(known):
        notes.append(f"{unknown} of {kept} links without a speed; taken as {usual:g} MB/s")
    if kept > len(pairs):
        notes.append(f"{kept - len(pairs)} parallel links merged into others")
    if loops := nx.number_of_selfloops(graph):
        notes.append(f"{loops} links from a node to itself dropped")
    return tuple(links), notes


def _speed(data: dict[str, Any]) -> float | None:
    raw = _number(data, "LinkSpeedRaw")
    return raw / _BITS_PER_MB if raw is not None and 0 < raw / _BITS_PER_MB <= 1e9 else None


def from_graphml(path: str | Path, like: Scenario) -> Scenario:
    """Return ``like`` on the network in the GraphML file ``path``; its notes say what is assumed.

    Raises:
        ScenarioError: with one line, if the file cannot be used.

    """
    text = read_text(path, MAX_BYTES)
    try:
        taken = [host.name for host in like.hosts] + [agent.name for agent in like.agents]
        taken += [loop.name for loop in like.loops()]
        topology = read_topology(text, reserved=taken)
    except ScenarioError as error:
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
    named.update(agent.pop for agent in scenario.agents if agent.pop is not None)
    for monitor in scenario.monitors:
        named.update((monitor.at, *link_ends(monitor.link)))
    for fault in scenario.faults:
        groups = (agent for group in fault.groups or () for agent in group)
        named.update(filter(None, (fault.agent, *(fault.link or ()), *groups)))
    return tuple(pop.name for pop in scenario.network.pops if pop.name in named)


class _Move:
    """One scenario on its way to another network."""

    def __init__(self, like: Scenario, topology: PlacedTopology) -> None:
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
            agents=tuple(
                structs.replace(agent, pop=agent.pop and node[agent.pop]) for agent in like.agents
            ),
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
            agent=self._node.get(fault.agent, fault.agent) if fault.agent else None,
            link=self._link(*fault.link) if fault.link else None,
            groups=tuple(tuple(self._node.get(a, a) for a in group) for group in fault.groups)
            if fault.groups
            else None,
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
