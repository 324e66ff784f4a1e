"""Traffic that a scenario sends: what a source is like, seen from outside."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.network import PopId


class Profile(Struct, frozen=True):
    """How the packets of a source look and whether it yields to congestion."""

    name: str
    responsive: bool
    """TCP-like: slows down under loss and delay. A flood does not."""
    protocol: str = "tcp"
    packet_octets: float = 600.0
    syn_share: float = 0.02
    """Share of packets that ask for a connection."""
    establishes: bool = True
    """Whether the source completes the handshakes that it begins."""
    reply_share: float = 0.9
    """Packets that the target sends back for each that it gets."""
    connections: int = 0
    """Connections that a source has open at a time."""
    holds: bool = False
    """Whether it keeps them open without ever finishing a request, so that no answer comes."""
    spoofed: bool = False
    """Whether nearly every packet carries another source address, none of them its own."""
    malicious: bool = False
    """The truth, for evaluation only: no agent and no detector ever sees it."""


VIDEO = Profile("video", responsive=True, packet_octets=900.0, syn_share=0.002, connections=1)
HTTP = Profile("http", responsive=True, packet_octets=400.0, syn_share=0.08, connections=1)
SYN_FLOOD = Profile(
    "syn-flood",
    responsive=False,
    packet_octets=60.0,
    syn_share=1.0,
    establishes=False,
    reply_share=0.5,
    malicious=True,
)
UDP_FLOOD = Profile(
    "udp-flood",
    responsive=False,
    protocol="udp",
    packet_octets=1200.0,
    syn_share=0.0,
    establishes=False,
    reply_share=0.0,
    malicious=True,
)
SYN_FLOOD_SPOOFED = replace(SYN_FLOOD, name="syn-flood-spoofed", spoofed=True)
UDP_FLOOD_SPOOFED = replace(UDP_FLOOD, name="udp-flood-spoofed", spoofed=True)
SLOW_HTTP = Profile(
    "slow-http",
    responsive=False,
    packet_octets=80.0,
    syn_share=0.02,
    reply_share=1.0,
    connections=100,
    holds=True,
    malicious=True,
)
PROFILES = {
    p.name: p
    for p in (
        VIDEO,
        HTTP,
        SYN_FLOOD,
        SYN_FLOOD_SPOOFED,
        UDP_FLOOD,
        UDP_FLOOD_SPOOFED,
        SLOW_HTTP,
    )
}


class Source(Struct, frozen=True):
    """One sender: a user or an attacker."""

    name: str
    group: str
    """What the scenario calls the sources that start and stop together."""
    at: PopId
    address: str
    target: str
    """Address of the host that it sends to."""
    port: int
    profile: Profile
    demand_mb_s: float
    """What it wants to get across, in MB/s (for a flood: what it sends)."""
    start_s: float = 0.0
    end_s: float | None = None
    """When it stops; None: never."""


def source_address(group: int, number: int) -> str:
    """Return the address of source ``number`` of group ``group``, both counted from 1."""
    return f"10.{group}.{number // 256}.{number % 256}"
