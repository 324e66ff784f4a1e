"""What an agent is given before its life begins: terms of auctions, a first view, its monitors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from msgspec.structs import asdict

from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import VnfInstance
from phalanx.auction.settings import GoalPolicy, Settings
from phalanx.auction.terms import load_terms
from phalanx.auction.view import NetworkView
from phalanx.bdi import Adopt, Agent, Instruction
from phalanx.domain.actions import SiteState
from phalanx.domain.agents import AgentState
from phalanx.domain.goals import want
from phalanx.domain.network import LinkState, Network, Pop, PopId
from phalanx.domain.predicates import Monitored
from phalanx.domain.traffic import PROFILES
from phalanx.domain.version import VERSION
from phalanx.domain.vnf import InstanceId
from phalanx.runtime.catalogue import Catalogue
from phalanx.runtime.scenario import MonitorSpec, Scenario

MONITOR = "link-monitor"


def settings_of(scenario: Scenario, peers: Iterable[PopId], catalogue: Catalogue) -> Settings:
    """Return the terms of all auctions, as the scenario sets them."""
    timing = scenario.timing
    policies = {name: GoalPolicy(*scenario.terms(name)) for name in scenario.goals}
    named = (t for p in policies.values() for t in (*p.preferences.terms, *p.constraints.terms))
    return Settings(
        peers=tuple(sorted(peers)),
        repository=scenario.network.repository,
        catalogue=dict(catalogue.vnfds),
        policies=policies,
        terms=load_terms(named),
        method=scenario.bidding,
        deadline_s=timing.auction_deadline_s,
        lease_s=timing.lease_s,
        idle_s=timing.idle_timeout_s,
        heartbeat_s=timing.heartbeat_s,
        silence_s=timing.silence_s,
        probe_s=timing.probe_s,
        gossip_s=timing.gossip_s,
        drain_s=timing.drain_s,
    )


def planned_site(network: Network, pop: Pop) -> SiteState:
    """Return the state of a PoP as the plan of the network has it, with nothing in use."""
    links = []
    for link in network.links:
        for here, there in ((link.a, link.b), (link.b, link.a)):
            if here == pop.name:
                state = LinkState(there, link.bandwidth_mb_s, link.latency_ms, link.loss)
                links.append(state)
    return SiteState(pop.total, pop.total, tuple(links))


def first_view(sites: Iterable[tuple[PopId, SiteState]]) -> NetworkView:
    """Return what everybody knows before the first word is said."""
    states = [AgentState(pop, pop, 1, 0, site.total, site.free, site.links) for pop, site in sites]
    return NetworkView.EMPTY.apply_all(states)


def installed(number: int, monitor: MonitorSpec) -> InstanceId:
    """Return the id of the instance behind the plan's monitor ``number``, counted from 1."""
    return f"{monitor.at}/installed{number}/{MONITOR}"


def take_up(
    agent: Agent, instance_id: InstanceId, monitor: MonitorSpec, settings: Settings
) -> partial[list[Instruction]]:
    """Give the agent an instance that runs already, and the standing goal that it works on.

    Returns:
        a call that makes the agent pursue the goal at the time that it is given.

    """
    instance = VnfInstance(instance_id, settings.catalogue[MONITOR], 1)
    instance.running = True
    instance.jobs["installed"] = "monitor"
    agent.capability(Bidder).inventory.add(instance)
    agent.active.add(MONITOR)
    goal = Adopt(
        want(Monitored(monitor.link, monitor.threshold_mb_s, monitor.connections or 0)),
        instance=instance.id,
        standing=True,
    )
    return partial(agent.take_on, goal)


def description(scenario: Scenario, seed: int, catalogue: Catalogue) -> dict[str, Any]:
    """Return what ``run.started`` says of a run."""
    network = scenario.to_network()
    return {
        "scenario": scenario.name,
        "seed": seed,
        "version": VERSION,
        "duration_s": scenario.duration_s,
        "pops": [{"name": p.name, **asdict(p.total), "x": p.x, "y": p.y} for p in network.pops],
        "links": [asdict(link) for link in network.links],
        "hosts": [{k: v for k, v in asdict(h).items() if k != "latency_ms"} for h in network.hosts],
        "repository": network.repository,
        "sources": [
            {
                "group": group.name,
                "at": list(group.at),
                "target": group.target,
                "profile": group.profile,
                "malicious": PROFILES[group.profile].malicious,
                "count": group.count,
                "demand_mb_s": group.demand_mb_s,
                "start_s": group.start_s,
                "end_s": group.end_s,
            }
            for group in scenario.traffic
        ],
        "functions": [
            {
                "name": v.name,
                "version": v.version,
                **asdict(v.requires),
                "image_mb": v.image_mb,
                "handles_mb_s": v.handles_mb_s,
            }
            for v in catalogue.vnfds.values()
        ],
        "notes": list(scenario.notes),
    }
