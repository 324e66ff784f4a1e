"""Words that the rules of several functions share."""

from __future__ import annotations

SEED = "0x1"
"""Seed of the hash that divides sources; the same in splits and in observations."""

SYN = "tcp flags & (fin | syn | rst | ack) == syn"
ATTESTED = "tcp flags & (syn | rst | ack) == ack"
"""From a server: a packet of a connection that it holds to be established."""
ENDS = "tcp flags & (fin | rst) != 0"

TUPLE = "ip saddr . tcp sport . ip daddr . tcp dport"
TUPLE_BACK = "ip daddr . tcp dport . ip saddr . tcp sport"
TUPLE_TYPE = "type ipv4_addr . inet_service . ipv4_addr . inet_service"
"""Client and server of a connection, in packets to the server and in packets back."""


def share(field: str, parts: int, part: int) -> str:
    """Return the match of the sources (in ``field``) that belong to a part; empty for all."""
    return f"jhash {field} mod {parts} seed {SEED} {part}" if parts > 1 else ""


def with_payload(match: str, verdict: str) -> list[str]:
    """Return rules that give ``verdict`` to TCP packets that carry data.

    One rule for each length of the TCP header: nftables cannot add two fields.
    """
    return [
        f"{match} tcp doff {words} ip length > {20 + 4 * words} {verdict}" for words in range(5, 16)
    ]
