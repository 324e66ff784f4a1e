"""Limits of a link, an address or a flow, and splits: netdev egress chains."""

from __future__ import annotations

import contextlib
import socket

from .bundles import Bundle, gate
from .nft import Nft, NftError
from .rules import ATTESTED, TUPLE, TUPLE_TYPE, share

PRIORITY = -10
"""Before the analysers (0), so that these see what limits leave."""
RESETS_S = 1000
"""Connections of a blocked flow that are reset in a second, at most."""
AGAIN_S = 10
"""Seconds until a connection that was reset, and still sends, is reset again."""
_LEAST_BURST = 16_384
_BURST_S = 0.05
_DRAIN_PORT = 9  # discard
_DATAGRAM = 65_000
_CHARGES = 16


def limit(own: str, devices: list[str], match: str, rate_mb_s: float) -> Bundle:
    """Let ``rate_mb_s`` of what ``match`` says pass; 0 drops it."""
    parts = _basis(own, devices)
    held = f"counter name {own}held drop"
    if rate_mb_s > 0:
        rate = max(1, round(rate_mb_s * 1e6))
        burst = max(_LEAST_BURST, round(rate * _BURST_S))
        parts = {f"{own}rate": f"limit rate over {rate} bytes/second burst {burst} bytes", **parts}
        held = f"limit name {own}rate {held}"
    rules = [held, f"counter name {own}passed"]
    return Bundle("netdev", own, parts, _gated(own, match, rules))


def block(own: str, devices: list[str], source: str, target: str) -> Bundle:
    """Drop all from ``source`` to ``target``, and end the connections that it has there.

    A packet of an established connection becomes a reset: its sequence number is the one that
    the target expects, so the target frees the connection at once (RFC 5961, 3.2). That is
    done once in a while for each: the source does not know, and goes on sending.
    """
    once = {
        f"{own}reset": f"set {{ {TUPLE_TYPE}; size 16384; flags dynamic; timeout {AGAIN_S}s; }}"
    }
    held = f"counter name {own}held"
    reset = (
        f"{ATTESTED} {TUPLE} != @{own}reset limit rate {RESETS_S}/second burst {RESETS_S} packets "
        f"add @{own}reset {{ {TUPLE} }} "
        f"tcp flags set rst | ack {held} accept"
    )
    match = f"ip saddr {source} ip daddr {target}"
    parts = once | _basis(own, devices)
    return Bundle("netdev", own, parts, _gated(own, match, [reset, f"{held} drop"]))


def split(own: str, devices: list[str], match: str, parts: int) -> Bundle:
    """Count the traffic of each of ``parts`` shares of the sources."""
    counters = {f"{own}part{n}": "counter" for n in range(parts)}
    rules = [f"counter name {own}passed"]
    rules += [f"{share('ip saddr', parts, n)} counter name {own}part{n}" for n in range(parts)]
    basis = counters | _basis(own, devices)
    return Bundle("netdev", own, basis, _gated(own, match, rules))


def drain(nft: Nft, table: str, own: str, rate_mb_s: float) -> None:
    """Empty the bucket of a new limit.

    The kernel gives it a second's worth of octets beyond the burst to begin with: under a
    flood, a second without any limit. Datagrams of our own use that up on the loopback, each
    charged several times.
    """
    here = f"netdev {table} {own}drain"
    marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with marker:
        marker.bind(("127.0.0.1", 0))
        port = marker.getsockname()[1]
        ours = f"ip daddr 127.0.0.1 udp sport {port} udp dport {_DRAIN_PORT}"
        charge = f"add rule {here} {ours} limit name {own}rate\n"
        # "rate over" matches only what is too much, so each rule is a charge of its own.
        try:
            nft.run(
                f'add chain {here} {{ type filter hook egress device "lo" priority 0; }}\n'
                + charge * _CHARGES
            )
        except NftError:
            return  # no loopback here: the limit begins with a full bucket
        try:
            with contextlib.suppress(OSError):
                for _ in range(int(rate_mb_s * 1e6) // (_DATAGRAM * _CHARGES) + 1):
                    marker.sendto(bytes(_DATAGRAM), ("127.0.0.1", _DRAIN_PORT))
        finally:
            nft.run(f"flush chain {here}\ndelete chain {here}")


def _basis(own: str, devices: list[str]) -> dict[str, str]:
    names = ", ".join(f'"{device}"' for device in devices)
    hook = f"type filter hook egress devices = {{ {names} }} priority {PRIORITY};"
    return {
        f"{own}passed": "counter",
        f"{own}held": "counter",
        f"{own}chain": f"chain {{ {hook} }}",
    }


def _gated(own: str, match: str, rules: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{own}chain", f"{gate(own)} {match} {rule}") for rule in rules)
