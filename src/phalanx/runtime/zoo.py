"""Graphs of the Internet Topology Zoo as networks of PoPs and links.

Such graphs give places and sometimes link speeds; everything else is assumed, and every
assumption is noted:

- A link's latency is the great-circle distance between its ends over 200 km/ms (light in
  fibre), at least 0.05 ms. A node without coordinates gets the mean of its located
  neighbours; where that fails too, 1 ms is taken for the link.
- Its bandwidth is ``LinkSpeedRaw`` (bit/s), else the median of the graph's known ones, else
  1,250 MB/s (10 Gbit/s). Parallel edges become one link with the sum. Loss is 0.0005.
- Only the largest connected part is kept.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections.abc import Iterable

import networkx as nx
from msgspec import Struct

from phalanx.runtime.graphml import Edge, Graph, Node
from phalanx.runtime.scenario import LinkSpec

KM_PER_MS = 200.0
EARTH_RADIUS_KM = 6371.0
LEAST_LATENCY_MS = 0.05
UNKNOWN_LATENCY_MS = 1.0
LINK_LOSS = 0.0005
UNKNOWN_BANDWIDTH_MB_S = 1250.0
_BITS_PER_MB = 8e6

Place = tuple[float, float]
"""Longitude and latitude in degrees."""


class Topology(Struct, frozen=True):
    """A network without resources and roles, and what was assumed about it."""

    places: dict[str, Place | None]
    """PoP name to place, in the order of the file."""
    links: tuple[LinkSpec, ...]
    notes: tuple[str, ...]


def read_topology(graph: Graph, reserved: Iterable[str] = ()) -> Topology:
    """Return the largest connected part of ``graph``; no PoP gets a ``reserved`` name."""
    kept, left_out = _largest_part(graph)
    names = _unique_names(kept, {*reserved, "network", "run"})
    located = {node.id: place for node in kept if (place := _place(node)) is not None}
    places = _spread_places(kept, graph.edges, located)
    links, link_notes = _links(graph.edges, names, places)
    unknown, placed = len(kept) - len(located), len(places) - len(located)
    notes = [f"{len(kept)} PoPs and {len(links)} links"]
    if left_out:
        notes.append(f"{left_out} nodes outside the largest connected part left out")
    if unknown:
        notes.append(
            f"{unknown} nodes without coordinates, {placed} of them placed between their neighbours"
        )
    notes += link_notes
    return Topology(
        places={names[node.id]: places.get(node.id) for node in kept},
        links=links,
        notes=tuple(notes),
    )


def _largest_part(graph: Graph) -> tuple[list[Node], int]:
    connected: nx.Graph[str] = nx.Graph()
    connected.add_nodes_from(node.id for node in graph.nodes)
    connected.add_edges_from((edge.source, edge.target) for edge in graph.edges)
    largest = max(nx.connected_components(connected), key=len)
    kept = [node for node in graph.nodes if node.id in largest]
    return kept, len(graph.nodes) - len(kept)


def _unique_names(nodes: list[Node], taken: set[str]) -> dict[str, str]:
    """Return a PoP name for each node id: its label as far as the schema allows."""
    names: dict[str, str] = {}
    for node in nodes:
        label = node.data.get("label", "").strip()
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
        name = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:48]
        if not name or name == "None":
            name = "node-" + re.sub(r"[^A-Za-z0-9]+", "-", node.id)[:24]
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        names[node.id] = unique
    return names


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _place(node: Node) -> Place | None:
    longitude, latitude = _number(node.data.get("Longitude")), _number(node.data.get("Latitude"))
    if longitude is None or latitude is None or abs(longitude) > 180 or abs(latitude) > 90:
        return None
    return longitude, latitude


def _spread_places(
    nodes: list[Node], edges: tuple[Edge, ...], located: dict[str, Place]
) -> dict[str, Place]:
    """Return ``located`` and places for what has neighbours there, round by round."""
    neighbours: dict[str, list[str]] = {node.id: [] for node in nodes}
    for edge in edges:
        if edge.source in neighbours:
            neighbours[edge.source].append(edge.target)
            neighbours[edge.target].append(edge.source)
    places = dict(located)
    while True:
        found = {
            node.id: _mean(near)
            for node in nodes
            if node.id not in places
            and (near := [places[n] for n in neighbours[node.id] if n in places])
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
    edges: tuple[Edge, ...], names: dict[str, str], places: dict[str, Place]
) -> tuple[tuple[LinkSpec, ...], list[str]]:
    """Return one link for each pair of linked nodes, and notes on what was assumed."""
    pairs: dict[tuple[str, str], list[float | None]] = {}
    ids: dict[tuple[str, str], tuple[str, str]] = {}
    kept = [edge for edge in edges if edge.source in names and edge.source != edge.target]
    for edge in kept:
        ends = sorted((names[edge.source], names[edge.target]))
        pair = (ends[0], ends[1])
        pairs.setdefault(pair, []).append(_speed(edge))
        ids.setdefault(pair, (edge.source, edge.target))
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
    unknown = sum(speed is None for speeds in pairs.values() for speed in speeds)
    notes = [f"latency by great circle at {KM_PER_MS:g} km/ms; loss taken as {LINK_LOSS:g} a link"]
    if guessed:
        notes.append(f"{guessed} links without places; latency taken as {UNKNOWN_LATENCY_MS:g} ms")
    if unknown:
        notes.append(f"{unknown} of {len(kept)} links without a speed; taken as {usual:g} MB/s")
    if len(kept) > len(pairs):
        notes.append(f"{len(kept) - len(pairs)} parallel links merged into others")
    if loops := sum(edge.source == edge.target for edge in edges):
        notes.append(f"{loops} links from a node to itself dropped")
    return tuple(links), notes


def _speed(edge: Edge) -> float | None:
    raw = _number(edge.data.get("LinkSpeedRaw"))
    return raw / _BITS_PER_MB if raw is not None and 0 < raw / _BITS_PER_MB <= 1e9 else None
