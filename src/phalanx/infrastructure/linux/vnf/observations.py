"""Record the flows that pass for a while, with counters in the kernel: no packet is copied.

Dynamic sets count per flow. What needs a memory per connection (was it attested by the target
already?) has sets of tuples, of which only the first packet counts for its flow, so that
tuples need never be listed. All sets are bounded: a flood from random sources fills one and
costs no more after that; its packets are counted as unlisted.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from threading import BoundedSemaphore, Lock
from typing import Any

from .bundles import lasting
from .http import Fields, RefusedError
from .netlink import NETDEV, Element, NetlinkReader
from .nft import (
    ADDRESS_FAMILIES,
    ATTESTED,
    ENDS,
    FLAGGED,
    HELD_MARK,
    RESET,
    SYN,
    SYN_ACK,
    AddressFamily,
    Nft,
    NftError,
    family_of,
    share,
    with_payload,
)

FLOWS = 4096
TUPLES = 16_384
LONGEST_S = 60.0
MOST = 8
"""Observations at a time."""
MOST_TAPS, MOST_PARTS = 64, 4096
HOOKS = ("egress", "ingress")
PRIORITY = -20
"""Before the limits, which have -10: a flood shows only in what is offered. After blocks, -30: what
is blocked already is no news."""
PROTOCOLS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    **dict.fromkeys((socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6), "icmp"),
}

_PER_MILLION = 1_000_000
Families = tuple[AddressFamily, ...]
_PORT = struct.Struct("!Hxx")
_COUNTED = (
    *("flows", "syn", "replies", "established", "answered", "ended", "resets", "syn_acks"),
    "aborts",
    "clear",  # packets that came in the clear over a link that is not trusted
    "asked",  # datagrams of the target before the flow's first packet, and what has no ports
)
"""Sets with a counter for each flow. A look-up counts as well, so these are never looked up."""
_LISTED = ("known", "several", "askers")
"""Sets of flows: all; those from several ports; those that the target began."""
_ONCE = ("acked", "spoke", "closed")
"""Sets of connections of which something has been counted."""


class Observations:
    """Observations of one process, each in a table of its own with the process's as prefix."""

    def __init__(self, table: str) -> None:
        """Observe nothing yet; what an earlier process of that table left is without effect."""
        self._table = table
        self._room = BoundedSemaphore(MOST)
        self._lock = Lock()
        self._count = 0
        # To close a netlink socket takes the kernel 20 ms, so they are used again.
        self._idle: list[tuple[Nft, NetlinkReader]] = []

    def observe(self, body: object) -> dict[str, Any]:
        """Watch for as long as ``body`` says and return the flows seen.

        Raises:
            RefusedError: 400 if the body is wrong, 409 if nftables refuses, 503 if too much is
                observed at a time.

        """
        fields = Fields(
            body,
            ("devices", "seconds", "address", "enters", "part", "parts", "sampling", "untrusted"),
        )
        seconds = fields.number("seconds", 0.01, LONGEST_S)
        with self._lock:
            self._count += 1
            table = f"{self._table}_{self._count}"
        one = (family_of(fields.address("address")),) if fields.has("address") else ()
        families = one or ADDRESS_FAMILIES
        script = _removal(table) + _script(table, fields, seconds, families)
        if not self._room.acquire(blocking=False):
            raise RefusedError(503, f"{MOST} observations are under way already")
        try:
            handles = self._idle.pop() if self._idle else (Nft(), NetlinkReader())
            result = _observe(table, script, seconds, families, *handles)
            self._idle.append(handles)  # one that failed is in no known state
            return result
        except (NftError, OSError) as error:
            raise RefusedError(409, f"the observation was refused: {error}") from error
        finally:
            self._room.release()

    def close(self) -> None:
        """End all observations, and remove what an earlier process left."""
        nft = Nft()
        for item in nft.json("list tables netdev")["nftables"]:
            name = item.get("table", {}).get("name", "")
            if name.startswith(f"{self._table}_"):
                nft.run(_removal(name))


def _observe(
    table: str, script: str, seconds: float, families: Families, nft: Nft, reader: NetlinkReader
) -> dict[str, Any]:
    begin = time.monotonic()
    nft.run(script)
    try:
        time.sleep(seconds)
        ways = [f"{way}{each.own}" for each in families for way in ("towards", "back")]
        # Nothing changes while it is read.
        nft.run("".join(f"flush chain netdev {table} {way}\n" for way in ways))
        watched = time.monotonic() - begin
        flows = [flow for each in families for flow in _flows(table, each, reader)]
        tunnels = {e.key for e in reader.elements(NETDEV, table, "tunnels")}
        packets, octets = reader.counter(NETDEV, table, "seen")
        unlisted, _ = reader.counter(NETDEV, table, "unlisted")
    finally:
        nft.run(_removal(table))
    return {
        "seconds": watched, "octets": octets, "packets": packets, "unlisted": unlisted,
        "flows": flows, "tunnels": Counter(socket.inet_ntoa(key[:4]) for key in tunnels),
    }  # fmt: skip


def _flows(table: str, family: AddressFamily, reader: NetlinkReader) -> list[dict[str, Any]]:
    """Return the flows of one family; their sources are its subscribers."""
    counts = {
        name: {e.key: e for e in reader.elements(NETDEV, table, f"{name}{family.own}")}
        for name in _COUNTED
    }
    several = {e.key for e in reader.elements(NETDEV, table, f"several{family.own}")}
    first = [e.key for e in reader.elements(NETDEV, table, f"first{family.own}")]
    layout = family.key
    ports = {k[: layout.size]: _PORT.unpack_from(k, layout.size)[0] for k in first}
    replies = _replies(counts, layout)
    flows = []
    for key, flow in counts["flows"].items():
        source, target, port, protocol = layout.unpack(key)
        of = {name: (e.packets if (e := counts[name].get(key)) else 0) for name in _COUNTED[1:]}
        open_ = max(0, of["established"] - of.pop("ended"))
        del of["asked"]
        flows.append(
            of
            | {
                "source": f"{socket.inet_ntop(family.number, source)}{family.prefix}",
                "target": socket.inet_ntop(family.number, target),
                "port": port,
                "protocol": PROTOCOLS[protocol],
                "packets": flow.packets,
                "octets": flow.octets,
                "replies": replies.get(key, 0),
                "open": open_,
                "source_port": 0 if key in several else ports.get(key, 0),
            }
        )
    return flows


def _replies(counts: dict[str, dict[bytes, Element]], layout: struct.Struct) -> dict[bytes, int]:
    """Return what the target sent back, by flow.

    What it sent before the first packet of a flow came counts, too: it may have asked for that.
    A question of which no answer has come yet stands for an earlier one of the same source.
    """
    replies = {key: e.packets for key, e in counts["replies"].items()}
    any_flow = {_pair(key, layout): key for key in counts["flows"]}
    for key, asked in counts["asked"].items():
        flow = key if key in counts["flows"] else any_flow.get(_pair(key, layout))
        if flow is not None:
            replies[flow] = replies.get(flow, 0) + asked.packets
    return replies


def _pair(key: bytes, layout: struct.Struct) -> tuple[bytes, bytes, int]:
    source, target, _, protocol = layout.unpack(key)
    return source, target, protocol


def _removal(table: str) -> str:
    return f"add table netdev {table}\ndelete table netdev {table}\n"


def _script(table: str, fields: Fields, seconds: float, families: Families) -> str:
    """Return the table that watches; the kernel stops it if nobody else does."""
    address = fields.address("address") if fields.has("address") else None
    parts = fields.whole("parts", 1, MOST_PARTS, 1)
    part = fields.whole("part", 0, parts - 1, 0)
    sampling = fields.number("sampling", 1 / _PER_MILLION, 1.0, 1.0)
    taps: set[tuple[str, str]] = set()
    for item in fields.items("devices", MOST_TAPS):
        tap = Fields(item, ("device", "hook"))
        taps.add((tap.device("device"), tap.choice("hook", HOOKS)))

    place = f"netdev {table}"
    until = f"elements = {{ {lasting(seconds + 1)} }}"
    lines = [
        f"add table {place}",
        f"add set {place} lease {{ type ether_type; flags timeout; {until}; }}",
        *(f"add counter {place} {name}" for name in ("seen", "unlisted")),
        f"add set {place} tunnels {{ {_TUNNEL_TYPE}; size {FLOWS}; }}",
    ]
    hooks = {hook for _, hook in taps}
    enters = fields.flag("enters")
    for family in families:
        one, type_ = family.own, f"type {family.type} . {family.type} . inet_service . inet_proto"
        flow = f"{type_}; flags dynamic; size {FLOWS};"
        port, ends = flow.replace(";", " . inet_service;", 1), f"{family.tuple_type}; flags dynamic"
        lines += [f"add set {place} {n}{one} {{ {flow} counter; }}" for n in _COUNTED]
        lines += [f"add set {place} {n}{one} {{ {flow} }}" for n in _LISTED]
        lines += [f"add set {place} first{one} {{ {port} }}"]
        lines += [f"add set {place} {n}{one} {{ {ends}; size {TUPLES}; }}" for n in _ONCE]
        towards, back = (
            f"{share(family.subscriber(end), parts, part)} goto {way}{one}"
            for end, way in (("saddr", "towards"), ("daddr", "back"))
        )
        chains = _chains(family) | _entries(family, address, hooks, towards, back, enters=enters)
        lines += [f"add chain {place} {chain}{one}" for chain in chains]
        rules = [(chain, rule) for chain in chains for rule in chains[chain]]
        lines += [f"add rule {place} {chain}{one} {rule}" for chain, rule in rules]
    sample = ""
    if sampling < 1.0:
        sample = f"numgen random mod {_PER_MILLION} < {round(sampling * _PER_MILLION)}"
    if fields.has("untrusted") and address is not None:
        devices = ", ".join(f'"{each}"' for each in fields.devices("untrusted", MOST_TAPS))
        kind = f"type filter hook ingress devices = {{ {devices} }} priority {PRIORITY}"
        lines.append(f"add chain {place} readable {{ {kind}; }}")
        one, family = families[0].own, families[0]
        counted = f"meta secpath missing {family.ip} daddr {address} meta l4proto {{ tcp, udp }}"
        rule = f"meta protocol @lease {counted} add @clear{one} {{ {family.flow} }}"
        lines.append(f"add rule {place} readable {rule}")
    for number, (device, hook) in enumerate(sorted(taps)):
        tap_chain = f"{place} tap{number}"
        kind = f'type filter hook {hook} device "{device}" priority {PRIORITY}'
        lines.append(f"add chain {tap_chain} {{ {kind}; }}")
        fresh = f"meta protocol @lease meta mark != {HELD_MARK}"
        for each in families:
            mine = f"meta protocol {each.ip} {fresh} {sample} goto {hook}{each.own}"
            lines.append(f"add rule {tap_chain} {mine}")
    return "\n".join(lines) + "\n"


def _entries(
    family: AddressFamily, address: str | None, hooks: set[str], *ways: str, enters: bool
) -> dict[str, list[str]]:
    """Return the chains that tell packets towards the target from packets back."""
    towards, back = ways
    if address is not None:
        ends = zip(("daddr", "saddr"), ways, strict=True)
        rules = [f"{family.ip} {end} {address} {way}" for end, way in ends]
        # Where sources are, the target's own packets may come in, and others' leave to it.
        if enters:
            return {"ingress": rules[:1], "egress": rules[1:]}
        return dict.fromkeys(HOOKS, rules)
    if len(hooks) == len(HOOKS):
        return {"egress": [towards], "ingress": [back]}
    # Both directions come in one mirror. Who opens a connection is its client; of others
    # the first packet seen decides.
    rules = [
        f"{SYN} {towards}",
        f"{family.flow} @known{family.own} {towards}",
        f"{family.flow_back} @known{family.own} {back}",
        towards,
    ]
    return dict.fromkeys(HOOKS, rules)


_GTP = "udp dport 2152 @th,72,8 255"  # user data
_TUNNEL_TYPE = "typeof @th,224,32 . @th,96,32; flags dynamic"
_TUNNELS = (
    "@th,64,8 & 0x07 == 0 add @tunnels { @th,224,32 . @th,96,32 }",
    "@th,64,8 & 0x07 == 2 add @tunnels { @th,256,32 . @th,96,32 }",
    "@th,64,8 & 0x04 == 4 @th,160,8 1 @th,184,8 0 add @tunnels { @th,288,32 . @th,96,32 }",
)
"""Sender of the inner packet and tunnel id (TEID) of GTP-U (3GPP TS 29.281, 5.1): with a header of
8 octets, with a sequence number, and with one extension header of 4 octets, as 5G has it."""


def _chains(family: AddressFamily) -> dict[str, list[str]]:
    """Return the rules that count, by chain."""
    flow, back, one, bare = family.flow, family.flow_back, family.own, family.bare
    ends, ends_back, six = family.tuple, family.tuple_back, len(one)  # later fragments come first
    later = [f"{family.later} goto bare{one}"]
    later_back = [f"{family.later} add @asked{one} {{ {family.bare_back} }} accept"]
    return {
        "towards": [
            f"meta l4proto != {{ tcp, udp }} goto other{one}",
            "counter name seen",
            *later[:six],
            *(f"{_GTP} {rule}" for rule in _TUNNELS),
            f"{flow} != @known{one} add @known{one} {{ {flow} }} "
            f"add @first{one} {{ {flow} . th sport }}",
            f"add @flows{one} {{ {flow} }} goto listed{one}",
            *later[six:],  # what has no ports has come so far
            "counter name unlisted",
        ],
        "bare": [f"add @flows{one} {{ {bare} }} accept", "counter name unlisted"],
        "other": [
            *(f"{each} accept" for each in family.neighbours),
            "counter name seen",
            f"meta l4proto != {family.icmp} accept",
            *later,
            f"{family.request} add @flows{one} {{ {bare} }} add @syn{one} {{ {bare} }} accept",
            f"{family.echo} goto bare{one}",
        ],
        "listed": [
            f"{flow} . th sport != @first{one} add @several{one} {{ {flow} }}",
            f"{FLAGGED} goto flagged{one}",  # few are
        ],
        "flagged": [
            f"{SYN} add @syn{one} {{ {flow} }} accept",
            f"{RESET} add @aborts{one} {{ {flow} }}",
            f"{SYN_ACK} {flow} != @askers{one} add @syn_acks{one} {{ {flow} }}",
            f"{ENDS} {ends} @acked{one} {ends} != @closed{one} "
            f"add @closed{one} {{ {ends} }} add @ended{one} {{ {flow} }}",
        ],
        "back": [
            f"meta l4proto != {{ tcp, udp }} goto echoed{one}",
            *later_back[:six],
            f"{SYN} add @askers{one} {{ {back} }}",
            f"{back} @known{one} goto reply{one}",
            f"meta l4proto udp add @asked{one} {{ {back} }}",
            *later_back[six:],
        ],
        "echoed": [
            f"meta l4proto != {family.icmp} accept",
            *later_back,
            f"{family.echo} add @asked{one} {{ {family.bare_back} }}",
        ],
        "reply": [
            f"add @replies{one} {{ {back} }}",
            f"{RESET} add @resets{one} {{ {back} }}",
            f"{ATTESTED} {ends_back} != @acked{one} "
            f"add @acked{one} {{ {ends_back} }} add @established{one} {{ {back} }}",
            f"{ENDS} {ends_back} @acked{one} {ends_back} != @closed{one} "
            f"add @closed{one} {{ {ends_back} }} add @ended{one} {{ {back} }}",
            *with_payload(family, "", f"goto answer{one}"),
        ],
        "answer": [
            f"{ends_back} != @spoke{one} add @spoke{one} {{ {ends_back} }} "
            f"add @answered{one} {{ {back} }}"
        ],
    }
