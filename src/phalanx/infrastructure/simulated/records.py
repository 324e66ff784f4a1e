"""What a flow recorder writes down: counters drawn from the traffic it saw, never a label."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

import numpy as np

from phalanx.domain.actions import FlowStats
from phalanx.domain.traffic import Profile, Source

ROOM = 16_384
"""Flows that a recorder has room for; it counts the packets of any others together."""
_LOWEST, _HIGHEST = int(IPv4Address("11.0.0.0")), int(IPv4Address("224.0.0.0"))
"""Between these lie forged addresses."""


def record(
    rng: np.random.Generator,
    seen: Iterable[tuple[Source, float, float]],
    looked_at: float,
) -> tuple[tuple[FlowStats, ...], int]:
    """Return the flow records of an observation, and the packets of flows not listed.

    Args:
        rng: source of the sampling noise.
        seen: of each flow its source, the MB that passed the recorder, and the share of
            those that got through to the target.
        looked_at: share of the packets that the recorder looked at, 0 to 1.

    Returns:
        Records of the flows of which at least one packet was looked at. Counters are those
        of the packets looked at, not scaled up. Forged packets are flows of one packet each;
        those that share the room of the list are a sample of all.

    """
    flows: list[FlowStats] = []
    forged: list[tuple[Source, int, float]] = []
    for source, mb, delivered in seen:
        packets = _packets(rng, source.profile, mb, looked_at)
        if packets and source.profile.spoofed:
            forged.append((source, packets, delivered))
        elif packets:
            flows.append(_flow(rng, source, packets, delivered, looked_at))
    total = sum(packets for _, packets, _ in forged)
    share = min(1.0, max(0, ROOM - len(flows)) / total) if total else 0.0
    listed = 0
    for source, packets, delivered in forged:
        own = int(packets * share)
        flows += _forged(rng, source, own, delivered)
        listed += own
    return tuple(flows), total - listed


def _packets(rng: np.random.Generator, profile: Profile, mb: float, looked_at: float) -> int:
    sent = rng.poisson(mb * 1e6 / profile.packet_octets)
    return int(rng.binomial(sent, looked_at))


def _flow(
    rng: np.random.Generator, source: Source, packets: int, delivered: float, looked_at: float
) -> FlowStats:
    profile = source.profile
    syn = int(rng.binomial(packets, profile.syn_share))
    established = int(rng.binomial(syn, delivered)) if profile.establishes else 0
    still_open = round(profile.connections * looked_at) if delivered > 0 else 0
    return FlowStats(
        source=source.address,
        target=source.target,
        port=source.port,
        protocol=profile.protocol,
        packets=packets,
        octets=round(packets * profile.packet_octets),
        syn=syn,
        established=established,
        replies=int(rng.poisson(packets * delivered * profile.reply_share)),
        answered=0 if profile.holds else max(established, still_open),
        open=still_open,
    )


def _forged(
    rng: np.random.Generator, source: Source, packets: int, delivered: float
) -> list[FlowStats]:
    profile = source.profile
    addresses = rng.integers(_LOWEST, _HIGHEST, packets)
    syn = rng.binomial(1, profile.syn_share, packets)
    replies = rng.poisson(delivered * profile.reply_share, packets)
    return [
        FlowStats(
            source=str(IPv4Address(address)),
            target=source.target,
            port=source.port,
            protocol=profile.protocol,
            packets=1,
            octets=round(profile.packet_octets),
            syn=asks,
            established=0,
            replies=replied,
        )
        for address, asks, replied in zip(
            addresses.tolist(), syn.tolist(), replies.tolist(), strict=True
        )
    ]
