"""Which packets a BGP FlowSpec route is about, as octets and as the text that ExaBGP reads.

Source: RFC 8955, 4; RFC 8956, 3 for IPv6.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from typing import Literal

from msgspec import Struct

IpVersion = Literal[4, 6]
Spans = tuple[tuple[int, int], ...]
"""Ranges of numbers: the first, and the one after the last."""
PROTOCOLS: Spans = ((0, 256),)
PORTS: Spans = ((0, 65_536),)
LARGEST_RATE = 10**12
"""Octets/s: ExaBGP limits to this where more is asked for."""
_FRAGMENT = {True: "is-fragment first-fragment", False: "!is-fragment&!first-fragment"}
_FRAGMENT_OCTETS = {True: bytes((0, 2, 0x80, 4)), False: bytes((2, 2, 0xC2, 4))}


class FlowMatch(Struct, frozen=True):
    """The components of a FlowSpec route. None, or all numbers: the component is not there."""

    version: IpVersion
    target: str | None = None
    source: str | None = None
    protocols: Spans = PROTOCOLS
    ports: Spans = PORTS
    source_ports: Spans = PORTS
    fragment: bool | None = None

    def nlri(self) -> bytes:
        """Return the octets of the route (RFC 8955, 4; RFC 8956, 3)."""
        octets = b"".join(bytes((kind,)) + value for kind, value in self.components())
        size = len(octets)
        return (bytes((size,)) if size < 240 else (0xF000 | size).to_bytes(2, "big")) + octets

    @lru_cache(maxsize=4_000)  # noqa: B019  # small values, compared often when sorted
    def components(self) -> list[tuple[int, bytes]]:
        """Return type and octets of each component, in order of types."""
        pairs: list[tuple[int, bytes]] = []
        for kind, prefix in ((1, self.target), (2, self.source)):
            if prefix is not None:
                network = ip_network(prefix)
                size = -(-network.prefixlen // 8)
                offset = b"" if self.version == 4 else b"\0"
                pattern = network.network_address.packed[:size]
                pairs.append((kind, bytes((network.prefixlen,)) + offset + pattern))
        for kind, ranges in ((3, self.protocols), (5, self.ports), (6, self.source_ports)):
            if ranges not in (PROTOCOLS, PORTS):
                pairs.append((kind, _operators(ranges)))
        if self.fragment is not None:
            pairs.append((12, _FRAGMENT_OCTETS[self.fragment]))
        return pairs

    def text(self) -> str:
        """Return what ExaBGP reads inside ``match { }``; empty: all packets."""
        offset = "/0" if self.version == 6 else ""
        protocol = "next-header" if self.version == 6 else "protocol"
        terms = [
            *((f"destination {self.target}{offset}",) if self.target else ()),
            *((f"source {self.source}{offset}",) if self.source else ()),
        ]
        for word, ranges in (
            (protocol, self.protocols),
            ("destination-port", self.ports),
            ("source-port", self.source_ports),
        ):
            if ranges not in (PROTOCOLS, PORTS):
                spans = (f"={a}" if a + 1 == b else f">={a}&<={b - 1}" for a, b in ranges)
                terms.append(f"{word} [ {' '.join(spans)} ]")
        if self.fragment is not None:
            terms.append(f"fragment [ {_FRAGMENT[self.fragment]} ]")
        return "".join(f" {term};" for term in terms)


def limit_text(octets_s: int) -> str:
    """Return what ExaBGP reads inside ``then { }`` for a rate (RFC 8955, 7.3); 0 drops all."""
    return f"rate-limit {octets_s};" if octets_s else "discard;"


def _operators(spans: Spans) -> bytes:
    terms = []
    for first, after in spans:
        terms += [(1, first)] if first + 1 == after else [(3, first), (0x45, after - 1)]
    octets = b""
    for place, (operator, value) in enumerate(terms):
        size = 1 if value < 256 else 2
        end = 0x80 if place == len(terms) - 1 else 0
        octets += bytes((operator | end | (size - 1) << 4,)) + value.to_bytes(size, "big")
    return octets
