"""The network of a service's slice as a scenario file.

Its PoPs are the service's agents and its hosts are the VNFs. Between two agents there is a link
if a shortest way between their sites passes no third agent's site; it has the latency of that
way, and the bandwidth of its narrowest link.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, TypeAlias

import networkx as nx
import yaml
from msgspec.structs import asdict

from phalanx.orchestration.descriptors.service import Service, Site
from phalanx.orchestration.workflow.model import Deployment, ServiceMember
from phalanx.runtime.composition import MONITOR
from phalanx.runtime.loading import parse_scenario

Graph: TypeAlias = "nx.Graph[str]"

SHARE = 0.8
"""A monitor finds a VNF overloaded above this share of what its access can carry."""
ACCESS_MB_S = 1250.0
"""What a VNF's access can carry at a site without links."""
LEAST_MS = 0.1
"""From a VNF to its agent at the same site."""


def plan_of(service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
    """Return the plan of a slice's network (YAML).

    Args:
        service: what is deployed.
        target: its agents, and where they stand.
        leaving: agents that are about to leave; they keep their places.

    Raises:
        ScenarioError: if there can be no such network.

    """
    sites = {site.name: site for site in service.sites.sites}
    graph: Graph = nx.Graph()
    graph.add_nodes_from(sites)
    for link in service.sites.links:
        graph.add_edge(
            *link.between, latency_ms=link.latency_ms, bandwidth_mb_s=link.bandwidth_mb_s
        )
    members = [*target.agents, *(m for m in leaving if m.serves and m.site in sites)]
    # Agents that stay come first: what is installed for the plan is numbered by its order.
    hosts = _hosts(service, target, graph)
    plan: dict[str, Any] = {
        "name": service.request.name,
        "description": f"The network of the slice {service.request.name}.",
        "duration_s": 604_800,
        "network": {
            "pops": [_pop(member, sites[member.site]) for member in members],
            "repository": members[0].name,
            "links": _links(members, graph),
        },
        "hosts": hosts,
        "monitors": [
            {
                "link": f"{host['at']}>{host['name']}",
                "at": host["at"],
                "threshold_mb_s": SHARE * host["bandwidth_mb_s"],
            }
            for member in target.agents
            for host in hosts
            if host["name"] in member.serves and MONITOR in member.unit.capabilities
        ],
        "functions": {f: {} for f in sorted({f for m in members for f in m.unit.capabilities})},
    }
    text: str = yaml.safe_dump(plan, sort_keys=False, width=100)
    parse_scenario(text, f"the slice of {service.request.name}")
    return text


def _pop(member: ServiceMember, site: Site) -> dict[str, Any]:
    free = {name: round(value, 6) for name, value in asdict(site.free).items()}
    places = {"x": site.longitude, "y": site.latitude}
    return {"name": member.name} | free | {k: v for k, v in places.items() if v is not None}


def _hosts(service: Service, target: Deployment, graph: Graph) -> list[dict[str, Any]]:
    """Return the VNFs; those that nobody serves are on the switch of the nearest agent."""
    serving = {vnf: member for member in target.agents for vnf in member.serves}
    found = []
    for number, (vnf, site) in enumerate(service.request.vnfs.items(), 1):
        away = nx.single_source_dijkstra_path_length(graph, site, weight="latency_ms")
        reached = [m for m in target.agents if m.site in away]
        agent = serving.get(vnf) or min(reached, key=lambda m: away[m.site], default=None)
        if agent is None:
            continue  # nothing leads from there to any agent
        links = (link["bandwidth_mb_s"] for _, _, link in graph.edges(agent.site, data=True))
        found.append(
            {
                "name": vnf,
                "at": agent.name,
                "address": f"10.0.{number // 250}.{number % 250 + 1}",
                "bandwidth_mb_s": max(links, default=ACCESS_MB_S),
                "latency_ms": max(away.get(agent.site, 0.0), LEAST_MS),
            }
        )
    return found


def _links(members: list[ServiceMember], graph: Graph) -> list[dict[str, Any]]:
    standing = {member.site for member in members}
    found = []
    for a, b in combinations(members, 2):
        if not nx.has_path(graph, a.site, b.site):
            continue
        way = nx.dijkstra_path(graph, a.site, b.site, weight="latency_ms")
        ms = nx.path_weight(graph, way, weight="latency_ms")
        if standing & {*way[1:-1]}:
            continue
        narrowest = min(graph.edges[ends]["bandwidth_mb_s"] for ends in nx.utils.pairwise(way))
        found.append({"between": [a.name, b.name], "bandwidth_mb_s": narrowest, "latency_ms": ms})
    return found
