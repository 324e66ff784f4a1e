"""What a flow recorder writes down: counters drawn from the traffic it saw, never a label."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from phalanx.domain.actions import FlowStats
from phalanx.domain.traffic import Source


def record(
    rng: np.random.Generator,
    seen: Iterable[tuple[Source, float, float]],
    looked_at: float,
) -> tuple[FlowStats, ...]:
    """Return the flow records of an observation.

    Args:
        rng: source of the sampling noise.
        seen: of each flow its source, the MB that passed the recorder, and the share of
            those that got through to the target.
        looked_at: share of the packets that the recorder looked at, 0 to 1.

    Returns:
        Records of the flows of which at least one packet was looked at. Counters are those
        of the packets looked at, not scaled up.

    """
    return tuple(
        stats
        for source, mb, delivered in seen
        if (stats := _flow(rng, source, mb, delivered, looked_at)).packets > 0
    )


def _flow(
    rng: np.random.Generator, source: Source, mb: float, delivered: float, looked_at: float
) -> FlowStats:
    profile = source.profile
    sent = rng.poisson(mb * 1e6 / profile.packet_octets)
    packets = int(rng.binomial(sent, looked_at))
    syn = int(rng.binomial(packets, profile.syn_share))
    established = int(rng.binomial(syn, delivered)) if profile.establishes else 0
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
    )
