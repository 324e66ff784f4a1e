"""Floods, told from flow counters (never from who sends them).

A TCP source that asks for thousands of connections and completes none is flooding; a crowd
completes what it begins, even when the network loses much of it. How sure the counts make
one is the Wilson score interval of the share of completed handshakes (Wilson 1927).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from phalanx.domain.actions import FlowStats

Z = 3.0
"""Standard deviations of the interval: about one error in 700."""
COMPLETES = 0.05
"""A source that certainly completes less than this share of its handshakes is flooding."""
REPLIED = 0.02
"""A UDP source that gets certainly fewer replies than this a packet speaks to nobody."""
UDP_PACKETS_S = 200.0
"""Rate below which a one-way UDP flow is left alone, in packets/s."""
FLOODED = 0.2
"""Share of a target's octets from flooding sources that makes it anomalous."""


class FlowVerdict(Struct, frozen=True):
    """A flow that is malicious, and why."""

    source: str
    target: str
    kind: str
    """``syn flood`` or ``udp flood``."""
    evidence: dict[str, float]


class TargetVerdict(Struct, frozen=True):
    """An address whose traffic is anomalous, and why."""

    ip: str
    mb_s: float
    """Traffic towards it that was seen, in MB/s."""
    evidence: dict[str, float]


def wilson(hits: float, trials: float, z: float = Z) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of ``hits`` out of ``trials``."""
    if trials <= 0:
        return 0.0, 1.0
    share = min(1.0, hits / trials)
    square = z * z / trials
    middle = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    return max(0.0, low), min(1.0, high)


def malicious_flows(flows: Iterable[FlowStats], seconds: float) -> list[FlowVerdict]:
    """Return the flows that certainly flood, by source and target; merged over their ports."""
    merged: dict[tuple[str, str, str], list[FlowStats]] = {}
    for flow in flows:
        merged.setdefault((flow.source, flow.target, flow.protocol), []).append(flow)
    verdicts = []
    for (source, target, protocol), parts in merged.items():
        packets = sum(f.packets for f in parts)
        if protocol == "tcp":
            syn, established = sum(f.syn for f in parts), sum(f.established for f in parts)
            most = wilson(established, syn)[1]
            if most < COMPLETES:
                evidence = {
                    "syn_s": round(syn / seconds, 3),
                    "established": established,
                    "completes_at_most": round(most, 6),
                }
                verdicts.append(FlowVerdict(source, target, "syn flood", evidence))
        elif packets / seconds > UDP_PACKETS_S:
            most = wilson(sum(f.replies for f in parts), packets)[1]
            if most < REPLIED:
                evidence = {
                    "packets_s": round(packets / seconds, 3),
                    "replied_at_most": round(most, 6),
                }
                verdicts.append(FlowVerdict(source, target, "udp flood", evidence))
    return sorted(verdicts, key=lambda v: (v.source, v.target))


def anomalous_targets(flows: Iterable[FlowStats], seconds: float) -> list[TargetVerdict]:
    """Return the addresses whose traffic comes to a good part from flooding sources."""
    flows = list(flows)
    flooding = {(v.source, v.target) for v in malicious_flows(flows, seconds)}
    octets: dict[str, int] = {}
    flooded: dict[str, int] = {}
    for flow in flows:
        octets[flow.target] = octets.get(flow.target, 0) + flow.octets
        if (flow.source, flow.target) in flooding:
            flooded[flow.target] = flooded.get(flow.target, 0) + flow.octets
    verdicts = []
    for ip, amount in flooded.items():
        share = amount / octets[ip]
        if share >= FLOODED:
            sources = sum(1 for _, target in flooding if target == ip)
            evidence = {"flooded_share": round(share, 6), "flooding_sources": sources}
            verdicts.append(TargetVerdict(ip, octets[ip] / seconds / 1e6, evidence))
    return sorted(verdicts, key=lambda v: v.ip)
