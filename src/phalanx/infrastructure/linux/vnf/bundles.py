"""Rule bundles: all that one measure has in a table, made, leased and removed as one.

The names of its parts begin with the measure's name in hexadecimal, so that a process which
finds its tables again knows what is in them. Its rules are gated by a set with one element
that times out, so the kernel itself ends what nobody renews. That element is the ether type
of IPv4: one kind of lease for every hook.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from .netlink import INET, NETDEV, NetlinkReader
from .nft import (
    ATTESTED,
    ENDS,
    HELD_MARK,
    SYN,
    TUPLE,
    TUPLE_BACK,
    TUPLE_TYPE,
    Nft,
    NftError,
    share,
    with_payload,
)

FAMILIES = {"netdev": NETDEV, "inet": INET}
_KINDS = ("set", "counter", "limit", "chain")
PRIORITY, COPIES, BLOCKS = -10, -20, -30
"""Before the counters of links (0), so that these see what limits leave. Observations and copies
stand between them: they see what limits hold back, and nothing of what is blocked already."""
RESETS_S = 1000
"""Connections of a blocked flow that are reset in a second, at most."""
AGAIN_S = 10
"""Seconds until a connection that was reset, and still sends, is reset again."""
_LEAST_BURST = 16_384
_BURST_S = 0.05
_DRAIN_PORT = 9  # discard
_DATAGRAM = 65_000
_CHARGES = 16
KNOWN_S = 300
"""How long a connection that was open before may be silent and still be known, in seconds."""
KNOWN = 16_384
UNKNOWN_S = 500
"""Packets of unknown connections that may ask the server about them in a second."""
_SYSCTLS = {
    "net/netfilter/nf_conntrack_tcp_loose": "0",  # packets in mid-stream make no connection
    "net/ipv4/tcp_syncookies": "1",
    "net/ipv4/tcp_timestamps": "1",  # the cookie carries the options in them
}


class RuleBundle:
    """The parts of a measure; references between them are by name."""

    __slots__ = ("family", "parts", "prefix", "rules")

    def __init__(
        self,
        family: str,
        prefix: str,
        parts: dict[str, str],
        rules: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.family = family
        self.prefix = prefix
        self.parts = parts
        """What each part is, by name: its kind, then for nft what it consists of."""
        self.rules = rules
        """Chain and rule, in order."""

    def among(self, sources: list[str], outside: list[str]) -> RuleBundle:
        """Add the sets ``sources`` and ``outside`` that its rules match with, if not empty."""
        for name, listed in (("sources", sources), ("outside", outside)):
            if listed:
                flags = " flags interval; auto-merge;" * any("/" in each for each in listed)
                elements = f"type ipv4_addr;{flags} elements = {{ {', '.join(listed)} }};"
                self.parts[f"{self.prefix}{name}"] = f"set {{ {elements} }}"
        return self

    @property
    def delays(self) -> bool:
        """Whether it sends packets to a process that holds them."""
        return f"{self.prefix}matched" in self.parts


def prefix(name: str) -> str:
    """Return what the names of the parts of a measure begin with."""
    return "m" + name.encode().hex() + "_"


def gate(own: str) -> str:
    """Return the match that holds as long as the lease does, for packets that were not held."""
    return f"meta protocol @{own}lease meta mark != {HELD_MARK}"


def addition(table: str, bundle: RuleBundle, ttl_s: float) -> str:
    """Return the commands that put a bundle into force."""
    place = f"{bundle.family} {table}"
    lines = [
        f"add table {place}",
        f"add set {place} {bundle.prefix}lease {{ type ether_type; flags timeout; }}",
        renewal(table, bundle, ttl_s),
    ]
    for name, what in bundle.parts.items():
        kind, _, body = what.partition(" ")
        lines.append(f"add {kind} {place} {name} {body}")
    lines.extend(f"add rule {place} {chain} {rule}" for chain, rule in bundle.rules)
    return "\n".join(lines) + "\n"


def renewal(table: str, bundle: RuleBundle, ttl_s: float) -> str:
    """Return the commands that set the end of a lease anew; no packet passes in between."""
    lease = f"{bundle.family} {table} {bundle.prefix}lease"
    return (
        f"add element {lease} {{ ip }}\n"
        f"delete element {lease} {{ ip }}\n"
        f"add element {lease} {{ ip timeout {round(ttl_s * 1000)}ms }}\n"
    )


def expiry(table: str, bundle: RuleBundle) -> str:
    """Return the commands that end a lease now and leave all else."""
    lease = f"{bundle.family} {table} {bundle.prefix}lease"
    return f"add element {lease} {{ ip }}\ndelete element {lease} {{ ip }}\n"


def removal(table: str, bundle: RuleBundle) -> str:
    """Return the commands that remove a bundle that is there."""
    place = f"{bundle.family} {table}"
    parts = [(what.partition(" ")[0], name) for name, what in bundle.parts.items()]
    chains = [name for kind, name in parts if kind == "chain"]
    lines = [f"flush chain {place} {name}" for name in chains]
    lines += [f"delete chain {place} {name}" for name in chains]
    lines += [f"delete {kind} {place} {name}" for kind, name in parts if kind != "chain"]
    return "\n".join([*lines, f"delete set {place} {bundle.prefix}lease"]) + "\n"


def remaining_s(reader: NetlinkReader, table: str, bundle: RuleBundle) -> float:
    """Return how long a lease still holds, in seconds; 0 if it has run out."""
    elements = reader.elements(FAMILIES[bundle.family], table, f"{bundle.prefix}lease")
    return elements[0].expires_s or 0.0 if elements else 0.0


def found(nft: Nft, table: str) -> dict[str, RuleBundle]:
    """Return the bundles that tables of the name ``table`` hold, by the measure's name."""
    bundles: dict[str, RuleBundle] = {}
    for family in FAMILIES:
        try:
            listing = nft.json(f"list table {family} {table}")["nftables"]
        except NftError:
            continue  # no such table
        for item in listing:
            for kind in _KINDS:
                full = item.get(kind, {}).get("name", "")
                own, _, rest = full.partition("_")
                if own[:1] != "m" or not rest:
                    continue
                name = bytes.fromhex(own[1:]).decode()
                bundle = bundles.setdefault(name, RuleBundle(family, f"{own}_", {}))
                if rest != "lease":
                    bundle.parts[full] = kind
    return bundles


# -- what passes a device --------------------------------------------------------------------


class Place:
    """Where packets are met: at a hook of devices."""

    __slots__ = ("devices", "hook")

    def __init__(self, devices: list[str], hook: str = "egress") -> None:
        self.devices = devices
        self.hook = hook


def limit(own: str, place: Place, match: str, rate_mb_s: float) -> RuleBundle:
    """Let ``rate_mb_s`` of what ``match`` says pass; 0 drops it."""
    parts = _basis(own, place)
    held = f"counter name {own}held drop"
    if rate_mb_s > 0:
        rate = max(1, round(rate_mb_s * 1e6))
        burst = max(_LEAST_BURST, round(rate * _BURST_S))
        parts = {f"{own}rate": f"limit rate over {rate} bytes/second burst {burst} bytes", **parts}
        held = f"limit name {own}rate {held}"
    rules = [held, f"counter name {own}passed"]
    return RuleBundle("netdev", own, parts, _gated(own, match, rules))


def block(own: str, place: Place, match: str) -> RuleBundle:
    """Drop all that ``match`` says, and end the connections that it belongs to.

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
    parts = once | _basis(own, place, BLOCKS)
    return RuleBundle("netdev", own, parts, _gated(own, match, [reset, f"{held} drop"]))


def count(own: str, place: Place, match: str, parts: int) -> RuleBundle:
    """Let all pass, and count it; with several ``parts`` also each share of the sources."""
    numbers = range(parts) if parts > 1 else ()
    counters = {f"{own}part{n}": "counter" for n in numbers}
    rules = [f"counter name {own}passed"]
    rules += [f"{share('ip saddr', parts, n)} counter name {own}part{n}" for n in numbers]
    basis = counters | _basis(own, place)
    return RuleBundle("netdev", own, basis, _gated(own, match, rules))


def mirror(own: str, devices: list[str], target: str, to: str) -> RuleBundle:
    """Copy what leaves for ``target`` by a device, and what it answers, to the device ``to``."""
    parts = _basis(own, Place(devices), COPIES)
    parts[f"{own}back"] = _basis(own, Place(devices, "ingress"), COPIES)[f"{own}chain"]
    copy = f'counter name {own}passed dup to "{to}"'
    ways = ("chain", "daddr"), ("back", "saddr")
    rules = tuple((f"{own}{c}", f"{gate(own)} ip {end} {target} {copy}") for c, end in ways)
    return RuleBundle("netdev", own, parts, rules)


def delay(own: str, devices: list[str], match: str, taps: dict[str, str]) -> RuleBundle:
    """Send all that ``match`` says into a TAP device instead, by the device that it leaves by."""
    names = {device: f"{own}chain{n}" for n, device in enumerate(devices)}
    parts = {f"{own}matched": "counter"}
    rules = []
    for device, chain in names.items():
        # After the limits, so that what these hold back is not held here.
        parts[chain] = (
            f'chain {{ type filter hook egress device "{device}" priority {PRIORITY + 1}; }}'
        )
        away = f'counter name {own}matched dup to "{taps[device]}" drop'
        rules.append((chain, f"{gate(own)} {match} {away}"))
    return RuleBundle("netdev", own, parts, tuple(rules))


def drain(nft: Nft, table: str, own: str, rate_mb_s: float) -> None:
    """Empty the bucket of a new limit.

    The kernel gives it a second's worth of octets beyond the burst to begin with: under a
    flood, a second without any limit. Datagrams of our own use that up on the loopback, each
    charged several times.
    """
    here = f"netdev {table} {own}drain"
    marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with marker:
        try:
            marker.bind(("127.0.0.1", 0))
            port = marker.getsockname()[1]
            ours = f"ip daddr 127.0.0.1 udp sport {port} udp dport {_DRAIN_PORT}"
            charge = f"add rule {here} {ours} limit name {own}rate\n"
            # "rate over" matches only what is too much, so each rule is a charge of its own.
            nft.run(
                f'add chain {here} {{ type filter hook egress device "lo" priority 0; }}\n'
                + charge * _CHARGES
            )
        except (NftError, OSError):
            return  # no loopback here: the limit begins with a full bucket
        try:
            with contextlib.suppress(OSError):
                for _ in range(int(rate_mb_s * 1e6) // (_DATAGRAM * _CHARGES) + 1):
                    marker.sendto(bytes(_DATAGRAM), ("127.0.0.1", _DRAIN_PORT))
        finally:
            nft.run(f"flush chain {here}\ndelete chain {here}")


def _basis(own: str, place: Place, priority: int = PRIORITY) -> dict[str, str]:
    names = ", ".join(f'"{device}"' for device in place.devices)
    hook = f"type filter hook {place.hook} devices = {{ {names} }} priority {priority};"
    return {
        f"{own}passed": "counter",
        f"{own}held": "counter",
        f"{own}chain": f"chain {{ {hook} }}",
    }


def _gated(own: str, match: str, rules: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{own}chain", f"{gate(own)} {match} {rule}") for rule in rules)


# -- handshakes ------------------------------------------------------------------------------
# SYNPROXY for one address: handshakes are answered for it, only those completed reach it. Rules
# after iptables-extensions(8), SYNPROXY. Beyond them, connections that were open before live on:
# conntrack does not know them, so what the server itself acknowledges makes a tuple known. A
# client's data of an unknown tuple may pass, slowly, to make the server do so; a forged one earns
# a reset, which makes nothing known. A handshake never carries data: the proxy offers a window of
# zero until the server has answered.
#
# Servers on Linux 6.15 or later take the proxy's last acknowledgement for forged (its echoed time
# stamp is not theirs) and wait for the client's data, or a second. Without time stamps there would
# be neither window scaling nor selective acknowledgement, which costs more.


def prepare() -> dict[str, str]:
    """Set what SYNPROXY needs in this namespace; conntrack must be loaded.

    Returns:
        The settings that were others before, with what they were.

    Raises:
        OSError: if the kernel does not let us.

    """
    before = {name: Path("/proc/sys", name).read_text().strip() for name in _SYSCTLS}
    changed = {name: value for name, value in before.items() if value != _SYSCTLS[name]}
    for name in changed:
        Path("/proc/sys", name).write_text(_SYSCTLS[name])
    return changed


def restore(settings: dict[str, str]) -> None:
    """Give settings that ``prepare`` changed their values back.

    Raises:
        OSError: if the kernel does not let us.

    """
    for name, value in settings.items():
        Path("/proc/sys", name).write_text(value)


def proxy(own: str, address: str, entries: list[str]) -> RuleBundle:
    """Answer the handshakes with ``address``; passed counts those completed.

    With ``entries``, only those of clients whose packets come in by one of these devices.
    """
    names = ", ".join(f'"{device}"' for device in entries)
    comes, goes = (f"{way} {{ {names} }} " if entries else "" for way in ("iifname", "oifname"))
    leased = f"{gate(own)} {comes}ip daddr {address}"
    from_server = f"{goes}ip saddr {address}"
    unknown = f"{leased} ct state invalid"
    ask = f"limit rate {UNKNOWN_S}/second burst {UNKNOWN_S} packets accept"
    parts = {
        f"{own}known": f"set {{ {TUPLE_TYPE}; flags dynamic,timeout; size {KNOWN}; "
        f"timeout {KNOWN_S}s; }}",
        f"{own}asked": "counter",
        f"{own}passed": "counter",
        f"{own}raw": "chain { type filter hook prerouting priority raw; }",
        f"{own}forward": "chain { type filter hook forward priority filter; }",
        f"{own}out": "chain { type filter hook output priority filter; }",
    }
    forward = [
        f"{from_server} {ATTESTED} ct state invalid update @{own}known {{ {TUPLE_BACK} }} accept",
        f"{comes}ip daddr {address} {TUPLE} @{own}known ct state invalid accept",
        f"{unknown} {ENDS} {ask}",
        *with_payload(unknown, ask),
        f"{leased} meta l4proto tcp ct state invalid,untracked "
        "synproxy mss 1460 wscale 7 timestamp sack-perm",
        f"{unknown} meta l4proto tcp drop",
    ]
    rules = (
        (f"{own}raw", f"{leased} {SYN} counter name {own}asked notrack"),
        *((f"{own}forward", rule) for rule in forward),
        (f"{own}out", f"ip daddr {address} {SYN} counter name {own}passed"),
    )
    return RuleBundle("inet", own, parts, rules)
