"""Rule bundles: all that one measure has in a table, made, leased and removed as one.

The names of its parts begin with the measure's name in hexadecimal, so that a process which
finds its tables again knows what is in them. Its rules are gated by a set with one element
that times out, so the kernel itself ends what nobody renews. Its elements are the ether types
of IPv4 and IPv6: one kind of lease for every hook.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from .netlink import INET, NETDEV, NetlinkReader
from .nft import (
    ADDRESS_FAMILIES,
    ATTESTED,
    ENDS,
    ERRORS_S,
    HELD_MARK,
    SYN,
    AddressFamily,
    Nft,
    NftError,
    family_of,
    share,
    with_payload,
)

FAMILIES = {"netdev": NETDEV, "inet": INET}
Matches = dict[AddressFamily, str]
"""What packets of each family must be like; those of others never match."""
_KINDS = ("set", "counter", "limit", "chain")
PRIORITY, COPIES, BLOCKS = -10, -20, -30
"""Before the counters of links (0), so that these see what limits leave. Observations and copies
stand between them: they see what limits hold back, and nothing of what is blocked already."""
RESETS, RESETS_S = 1000, 50
"""Connections of a blocked flow that are reset at once, and then in a second, at most. Those that
are open when the block begins are as good as all there are: who floods with packets of no
connection, each from another port, must not get as many resets through."""
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
            for family in ADDRESS_FAMILIES:
                if mine := [each for each in listed if family.has(each)]:
                    flags = " flags interval; auto-merge;" * any("/" in each for each in mine)
                    elements = f"type {family.type};{flags} elements = {{ {', '.join(mine)} }};"
                    self.parts[f"{self.prefix}{name}{family.own}"] = f"set {{ {elements} }}"
        return self

    @property
    def delays(self) -> bool:
        """Whether it sends packets to a process that holds them."""
        return f"{self.prefix}matched" in self.parts


def prefix(name: str) -> str:
    """Return what the names of the parts of a measure begin with."""
    return "m" + name.encode().hex() + "_"


def gate(own: str, family: AddressFamily) -> str:
    """Return the match that holds as long as the lease does, for packets that were not held."""
    return f"meta protocol {family.ip} meta protocol @{own}lease meta mark != {HELD_MARK}"


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
        f"add element {lease} {{ ip, ip6 }}\n"
        f"delete element {lease} {{ ip, ip6 }}\n"
        f"add element {lease} {{ {lasting(ttl_s)} }}\n"
    )


def lasting(seconds: float) -> str:
    """Return the elements of a lease that ends by itself."""
    return ", ".join(f"{each.ip} timeout {round(seconds * 1000)}ms" for each in ADDRESS_FAMILIES)


def expiry(table: str, bundle: RuleBundle) -> str:
    """Return the commands that end a lease now and leave all else."""
    lease = f"{bundle.family} {table} {bundle.prefix}lease"
    return f"add element {lease} {{ ip, ip6 }}\ndelete element {lease} {{ ip, ip6 }}\n"


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


def limit(own: str, place: Place, matches: Matches, rate_mb_s: float) -> RuleBundle:
    """Let ``rate_mb_s`` of what ``matches`` say pass; 0 drops it."""
    parts = _basis(own, place)
    held = f"counter name {own}held drop"
    if rate_mb_s > 0:
        rate = max(1, round(rate_mb_s * 1e6))
        burst = max(_LEAST_BURST, round(rate * _BURST_S))
        parts = {f"{own}rate": f"limit rate over {rate} bytes/second burst {burst} bytes", **parts}
        held = f"limit name {own}rate {held}"
    rules = [held, f"counter name {own}passed"]
    return RuleBundle("netdev", own, parts, _gated(f"{own}chain", own, matches, rules))


def block(own: str, place: Place, matches: Matches) -> RuleBundle:
    """Drop all that ``matches`` say, and end the connections that it belongs to.

    A packet of an established connection becomes a reset: its sequence number is the one that
    the target expects, so the target frees the connection at once (RFC 5961, 3.2). That is
    done once in a while for each: the source does not know, and goes on sending.
    """
    parts = _basis(own, place, BLOCKS)
    rules: list[tuple[str, str]] = []
    held = f"counter name {own}held"
    for family, match in matches.items():
        once, ends = f"{own}reset{family.own}", family.tuple
        parts[once] = (
            f"set {{ {family.tuple_type}; size 16384; flags dynamic; timeout {AGAIN_S}s; }}"
        )
        reset = (
            f"{family.whole} {ATTESTED} {ends} != @{once} "
            f"limit rate {RESETS_S}/second burst {RESETS} packets "
            f"add @{once} {{ {ends} }} "
            f"tcp flags set rst | ack {held} accept"
        )
        resets = [reset] * ("l4proto" not in match or "l4proto tcp" in match)
        rules += _gated(f"{own}chain", own, {family: match}, [*resets, f"{held} drop"])
    return RuleBundle("netdev", own, parts, tuple(rules))


def count(own: str, place: Place, matches: Matches, parts: int) -> RuleBundle:
    """Let all pass, and count it; with several ``parts`` also each share of the sources."""
    numbers = range(parts) if parts > 1 else ()
    counters = {f"{own}part{n}": "counter" for n in numbers}
    rules: list[tuple[str, str]] = []
    for family, match in matches.items():
        dealt = ((share(family.subscriber("saddr"), parts, n), n) for n in numbers)
        each = [f"{mine} counter name {own}part{n}" for mine, n in dealt]
        each.insert(0, f"counter name {own}passed")
        rules += _gated(f"{own}chain", own, {family: match}, each)
    return RuleBundle("netdev", own, counters | _basis(own, place), tuple(rules))


def mirror(own: str, devices: list[str], target: str, to: str) -> RuleBundle:
    """Copy what leaves for ``target`` by a device, and what it answers, to the device ``to``."""
    parts = _basis(own, Place(devices), COPIES)
    parts[f"{own}back"] = _basis(own, Place(devices, "ingress"), COPIES)[f"{own}chain"]
    copy = f'counter name {own}passed dup to "{to}"'
    ways = ("chain", "daddr"), ("back", "saddr")
    to_target = family_of(target)
    gated = gate(own, to_target)
    rules = tuple((f"{own}{c}", f"{gated} {to_target.ip} {end} {target} {copy}") for c, end in ways)
    return RuleBundle("netdev", own, parts, rules)


def delay(own: str, devices: list[str], matches: Matches, taps: dict[str, str]) -> RuleBundle:
    """Send all that ``matches`` say into a TAP device instead, by the device that it leaves by."""
    names = {device: f"{own}chain{n}" for n, device in enumerate(devices)}
    parts = {f"{own}matched": "counter"}
    rules: list[tuple[str, str]] = []
    for device, chain in names.items():
        # After the limits, so that what these hold back is not held here.
        parts[chain] = (
            f'chain {{ type filter hook egress device "{device}" priority {PRIORITY + 1}; }}'
        )
        away = f'counter name {own}matched dup to "{taps[device]}" drop'
        rules += _gated(chain, own, matches, [away])
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


def _gated(chain: str, own: str, matches: Matches, rules: list[str]) -> tuple[tuple[str, str], ...]:
    """Return rules for what matches, behind those for what is never held back."""
    kept = [f"{each} accept" for family in matches for each in family.neighbours]
    kept += [
        f"{family.errors} limit rate {ERRORS_S}/second burst {ERRORS_S} packets accept"
        for family in matches
    ]
    for family, match in matches.items():
        kept += [f"{gate(own, family)} {match} {rule}" for rule in rules]
    return tuple((chain, rule) for rule in kept)


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
    family = family_of(address)
    to_server, from_server = (f"{family.ip} {end} {address}" for end in ("daddr", "saddr"))
    leased = f"{gate(own, family)} {comes}{to_server}"
    known = f"update @{own}known {{ {family.tuple_back} }} accept"
    unknown = f"{leased} ct state invalid"
    ask = f"limit rate {UNKNOWN_S}/second burst {UNKNOWN_S} packets accept"
    parts = {
        f"{own}known": f"set {{ {family.tuple_type}; flags dynamic,timeout; size {KNOWN}; "
        f"timeout {KNOWN_S}s; }}",
        f"{own}asked": "counter",
        f"{own}passed": "counter",
        f"{own}raw": "chain { type filter hook prerouting priority raw; }",
        f"{own}forward": "chain { type filter hook forward priority filter; }",
        f"{own}out": "chain { type filter hook output priority filter; }",
    }
    forward = [
        f"{goes}{from_server} {ATTESTED} ct state invalid {known}",
        f"{comes}{to_server} {family.tuple} @{own}known ct state invalid accept",
        f"{unknown} {ENDS} {ask}",
        *with_payload(family, unknown, ask),
        f"{leased} meta l4proto tcp ct state invalid,untracked "
        f"synproxy mss {family.mss} wscale 7 timestamp sack-perm",
        f"{unknown} meta l4proto tcp drop",
    ]
    rules = (
        (f"{own}raw", f"{leased} {SYN} counter name {own}asked notrack"),
        *((f"{own}forward", rule) for rule in forward),
        (f"{own}out", f"{to_server} {SYN} counter name {own}passed"),
    )
    return RuleBundle("inet", own, parts, rules)
