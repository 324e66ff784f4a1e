"""Traffic that a scenario sends: what a source is like, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Literal

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
    source_port: int = 0
    """Port that its packets come from; 0: any."""
    unconnected: bool = False
    """Whether its packets belong to no connection, so that the target answers with resets."""
    syn_acks: bool = False
    """Whether its packets answer requests for connections, which the target never made."""
    aborts: bool = False
    """Whether its packets are resets."""
    bare: bool = False
    """Whether its packets have no ports: echoes, and all fragments but the first."""
    spoofed: bool = False
    """Whether nearly every packet carries another source address, none of them its own."""
    retry_s: float = 0.0
    """Mean pause after which a request that was not answered is made again; 0: it is not."""
    malicious: bool = False
    """The truth, for evaluation only: no agent and no detector ever sees it."""

    @property
    def request_share(self) -> float:
        """Share of its packets that ask for something: for connections, or for echoes."""
        return 1.0 if self.protocol == "icmp" else self.syn_share


VIDEO = Profile("video", responsive=True, packet_octets=900.0, syn_share=0.002, connections=1)
HTTP = Profile("http", responsive=True, packet_octets=400.0, syn_share=0.08, connections=1)
DNS = Profile(
    "dns",
    responsive=False,
    protocol="udp",
    packet_octets=80.0,
    syn_share=0.0,
    establishes=False,
    reply_share=1.0,
)
"""A client of a resolver: each packet asks, and is answered."""
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
HTTP_FLOOD = replace(HTTP, name="http-flood", responsive=False, malicious=True)
DNS_REFLECTION = replace(UDP_FLOOD, name="dns-reflection", packet_octets=1400.0, source_port=53)
NTP_REFLECTION = replace(UDP_FLOOD, name="ntp-reflection", packet_octets=482.0, source_port=123)
ACK_FLOOD = replace(SYN_FLOOD, name="ack-flood", syn_share=0.0, reply_share=0.95, unconnected=True)
ACK_FLOOD_SPOOFED = replace(ACK_FLOOD, name="ack-flood-spoofed", spoofed=True)
SYN_ACK_FLOOD = replace(ACK_FLOOD, name="syn-ack-flood", source_port=443, syn_acks=True)
SYN_ACK_FLOOD_SPOOFED = replace(SYN_ACK_FLOOD, name="syn-ack-flood-spoofed", spoofed=True)
RST_FLOOD = replace(ACK_FLOOD, name="rst-flood", reply_share=0.0, aborts=True)
RST_FLOOD_SPOOFED = replace(RST_FLOOD, name="rst-flood-spoofed", spoofed=True)
UDP_FRAGMENTS = replace(UDP_FLOOD, name="udp-fragments", bare=True)
UDP_FRAGMENTS_SPOOFED = replace(UDP_FRAGMENTS, name="udp-fragments-spoofed", spoofed=True)
ICMP_FLOOD = replace(UDP_FRAGMENTS, name="icmp-flood", protocol="icmp", reply_share=1.0)
ICMP_FLOOD_SPOOFED = replace(ICMP_FLOOD, name="icmp-flood-spoofed", spoofed=True)
SIGNALLING = Profile(
    "signalling",
    responsive=False,
    packet_octets=150.0,
    syn_share=0.1,
    retry_s=25.0,
)
"""A device that registers and asks for sessions: ten messages of 150 octets a request. One that is
not answered is made again after T3510 and T3511: 15 s and 10 s (3GPP TS 24.501, table 10.2.1)."""
SIGNALLING_STORM = replace(SIGNALLING, name="signalling-storm", malicious=True)
CALLS = replace(SIGNALLING, name="calls", packet_octets=1000.0, syn_share=0.5, retry_s=0.0)
"""What one network function asks of another for the requests that it answers."""
PROFILES = {
    p.name: p
    for p in (
        VIDEO,
        HTTP,
        DNS,
        SYN_FLOOD,
        SYN_FLOOD_SPOOFED,
        UDP_FLOOD,
        UDP_FLOOD_SPOOFED,
        DNS_REFLECTION,
        NTP_REFLECTION,
        ACK_FLOOD,
        ACK_FLOOD_SPOOFED,
        SYN_ACK_FLOOD,
        SYN_ACK_FLOOD_SPOOFED,
        RST_FLOOD,
        RST_FLOOD_SPOOFED,
        UDP_FRAGMENTS,
        UDP_FRAGMENTS_SPOOFED,
        ICMP_FLOOD,
        ICMP_FLOOD_SPOOFED,
        SLOW_HTTP,
        HTTP_FLOOD,
        SIGNALLING,
        SIGNALLING_STORM,
    )
}


class Shape(Struct, frozen=True):
    """How what a source sends changes over time."""

    ramp_s: float = 0.0
    """It grows to its full strength for this long."""
    on_s: float = 0.0
    off_s: float = 0.0
    """It sends for ``on_s`` and rests for ``off_s``, in turn; 0: it never rests."""

    def levels(self, start_s: float, end_s: float | None) -> Iterator[tuple[float, float]]:
        """Yield the times at which the strength changes, and the strength from then on, 0 to 1."""
        end = inf if end_s is None else end_s
        time, edge, on = start_s, inf, True
        if self.on_s > 0 and self.off_s > 0:
            edge = start_s + self.on_s
        while time < end:
            level = 1.0
            if self.ramp_s > 0:
                level = min(1.0, (time - start_s + RAMP_STEP_S) / self.ramp_s)
            yield time, level if on else 0.0
            time = min(edge, end, time + RAMP_STEP_S if level < 1 else inf)
            if time == edge:
                on = not on
                edge += self.on_s if on else self.off_s
        if start_s < end < inf:
            yield end, 0.0


STEADY = Shape()
RAMP_STEP_S = 1.0
"""A ramp grows in steps of this length."""


class SourcePlace(Struct, frozen=True):
    """Where a source sends from, and to which port."""

    at: PopId
    address: str
    port: int


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
    shape: Shape = STEADY
    adapt: Literal["", "quiet", "move"] = ""
    """What it does once much less of it gets through: rest a while, or go to its next place."""
    places: tuple[SourcePlace, ...] = ()
    """Where it moves to, in order."""
    asymmetric: bool = False
    """Whether what the target answers takes another way: no recorder but at the target sees it."""
    tunnels: int = 0
    """GTP-U tunnels that it has open."""
    dealt_by: str = ""
    """What it is dealt to shares of the sources by; empty: its address."""


def source_address(group: int, number: int) -> str:
    """Return the address of source ``number`` of group ``group``, both counted from 1.

    The first 255 groups are in 10.0.0.0/8; a scenario file has at most 200.
    """
    return f"{10 + group // 256}.{group % 256}.{number // 256}.{number % 256}"
