"""What agents of one plan must agree on, and its fingerprint.

Agents never tell each other by which terms they bid: they have them from their plans. So all
that bids rest on is in the fingerprint: PoPs, links and the repository's place, the functions,
the goals' terms, parameters, timing, the path search. Not in it is what only one process acts
on (a PoP's monitors; hosts, traffic and faults of the network), nor what is for people.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import structs

from phalanx.runtime.scenario import Scenario

_OCTETS = 8
"""Enough to tell plans apart by accident; it proves nothing: each says it of itself."""


def fingerprint(plan: Scenario) -> str:
    """Return 16 hexadecimal digits: the same for plans by which agents bid alike.

    How a file is laid out does not count, nor whether it states a default, nor the order of
    PoPs and links.
    """
    network = plan.to_network()
    pops = sorted((pop.name, *structs.astuple(pop.total)) for pop in network.pops)
    links = sorted(
        (*sorted((link.a, link.b)), link.bandwidth_mb_s, link.latency_ms, link.loss)
        for link in network.links
    )
    common = (
        pops,
        links,
        network.repository,
        plan.functions,
        plan.goals,
        plan.parameters,
        plan.timing,
        plan.bidding,
    )
    octets = msgspec.json.encode(common, order="deterministic")
    return blake2b(octets, digest_size=_OCTETS).hexdigest()
