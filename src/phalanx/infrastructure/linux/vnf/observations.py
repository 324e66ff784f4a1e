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
from threading import BoundedSemaphore, Lock
from typing import Any

from .http import Fields, RefusedError
from .netlink import NETDEV, NetlinkReader
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
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}

_PER_MILLION = 1_000_000
_FLOW_TYPE = "type ipv4_addr . ipv4_addr . inet_service . inet_proto; flags dynamic"
_TUPLE_TYPE = f"{TUPLE_TYPE}; flags dynamic"
_FLOW = "ip saddr . ip daddr . th dport . meta l4proto"
_FLOW_BACK = "ip daddr . ip saddr . th sport . meta l4proto"
_FLOW_KEY = struct.Struct("!4s4sHxxB3x")
_COUNTED = ("flows", "syn", "replies", "established", "answered", "ended")
"""Sets with a counter for each flow."""
_ONCE = ("acked", "spoke", "closed")
"""Sets of connections of which something has been counted."""


class Observations:
    """Observations of one process, each in a table of its own with the process's as prefix."""

    def __init__(self, table: str) -> None:
        """Remove what an earlier process of that table left."""
        self._table = table
        self._room = BoundedSemaphore(MOST)
        self._lock = Lock()
        self._count = 0
        self._active: set[str] = set()
        nft = Nft()
        for item in nft.json("list tables netdev")["nftables"]:
            name = item.get("table", {}).get("name", "")
            if name.startswith(f"{table}_"):
                nft.run(f"delete table netdev {name}")

    def observe(self, body: object) -> dict[str, Any]:
        """Watch for as long as ``body`` says and return the flows seen.

        Raises:
            RefusedError: 400 if the body is wrong, 409 if nftables refuses, 503 if too much is
                observed at a time.

        """
        fields = Fields(
            body, ("devices", "seconds", "address", "enters", "part", "parts", "sampling")
        )
        seconds = fields.number("seconds", 0.01, LONGEST_S)
        with self._lock:
            self._count += 1
            table = f"{self._table}_{self._count}"
        script = _script(table, fields, seconds)
        if not self._room.acquire(blocking=False):
            raise RefusedError(503, f"{MOST} observations are under way already")
        self._active.add(table)
        try:
            return _observe(table, script, seconds)
        except (NftError, OSError) as error:
            raise RefusedError(409, f"the observation was refused: {error}") from error
        finally:
            self._active.discard(table)
            self._room.release()

    def close(self) -> None:
        """End all observations."""
        nft = Nft()
        for table in list(self._active):
            nft.run(_removal(table))


def _observe(table: str, script: str, seconds: float) -> dict[str, Any]:
    nft, reader = Nft(), NetlinkReader()  # of its own: a long listing holds nobody up
    begin = time.monotonic()
    nft.run(script)
    try:
        time.sleep(seconds)
        chains = "".join(f"flush chain netdev {table} {hook}\n" for hook in ("towards", "back"))
        nft.run(chains)  # nothing changes while it is read
        watched = time.monotonic() - begin
        counts = {
            name: {e.key: e for e in reader.elements(NETDEV, table, name)} for name in _COUNTED
        }
        packets, octets = reader.counter(NETDEV, table, "seen")
        unlisted, _ = reader.counter(NETDEV, table, "unlisted")
    finally:
        nft.run(_removal(table))
        reader.close()
        nft.close()
    flows = []
    for key, flow in counts["flows"].items():
        source, target, port, protocol = _FLOW_KEY.unpack(key)
        of = {name: (e.packets if (e := counts[name].get(key)) else 0) for name in _COUNTED[1:]}
        flows.append(
            {
                "source": socket.inet_ntoa(source),
                "target": socket.inet_ntoa(target),
                "port": port,
                "protocol": PROTOCOLS[protocol],
                "packets": flow.packets,
                "octets": flow.octets,
                "syn": of["syn"],
                "established": of["established"],
                "replies": of["replies"],
                "answered": of["answered"],
                "open": max(0, of["established"] - of["ended"]),
            }
        )
    return {
        "seconds": watched, "octets": octets, "packets": packets, "unlisted": unlisted,
        "flows": flows,
    }  # fmt: skip


def _removal(table: str) -> str:
    return f"add table netdev {table}\ndelete table netdev {table}\n"


def _script(table: str, fields: Fields, seconds: float) -> str:
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
    until = f"elements = {{ ip timeout {round((seconds + 1) * 1000)}ms }}"
    lines = [
        f"add table {place}",
        f"add set {place} lease {{ type ether_type; flags timeout; {until}; }}",
        *(f"add counter {place} {name}" for name in ("seen", "unlisted")),
        *(f"add set {place} {n} {{ {_FLOW_TYPE}; size {FLOWS}; counter; }}" for n in _COUNTED),
        *(f"add set {place} {n} {{ {_TUPLE_TYPE}; size {TUPLES}; }}" for n in _ONCE),
    ]
    towards = f"{share('ip saddr', parts, part)} goto towards"
    back = f"{share('ip daddr', parts, part)} goto back"
    hooks = {hook for _, hook in taps}
    enters = fields.flag("enters")
    chains = {**_CHAINS, **_entries(address, hooks, towards, back, enters=enters)}
    lines += [f"add chain {place} {chain}" for chain in chains]
    lines += [f"add rule {place} {chain} {rule}" for chain in chains for rule in chains[chain]]
    sample = ""
    if sampling < 1.0:
        sample = f"numgen random mod {_PER_MILLION} < {round(sampling * _PER_MILLION)}"
    for number, (device, hook) in enumerate(sorted(taps)):
        tap_chain = f"{place} tap{number}"
        kind = f'type filter hook {hook} device "{device}" priority {PRIORITY}'
        lines.append(f"add chain {tap_chain} {{ {kind}; }}")
        fresh = f"meta protocol @lease meta mark != {HELD_MARK}"
        lines.append(f"add rule {tap_chain} {fresh} {sample} goto {hook}")
    return "\n".join(lines) + "\n"


def _entries(
    address: str | None, hooks: set[str], towards: str, back: str, *, enters: bool
) -> dict[str, list[str]]:
    """Return the chains that tell packets towards the target from packets back."""
    if address is not None:
        rules = [f"ip daddr {address} {towards}", f"ip saddr {address} {back}"]
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
        f"{_FLOW} @flows {towards}",
        f"{_FLOW_BACK} @flows {back}",
        towards,
    ]
    return dict.fromkeys(HOOKS, rules)


_CHAINS = {
    "towards": [
        "counter name seen",
        "meta l4proto != { tcp, udp } accept",
        f"add @flows {{ {_FLOW} }} goto listed",
        "counter name unlisted",
    ],
    "listed": [
        f"{SYN} add @syn {{ {_FLOW} }}",
        f"{ENDS} {TUPLE} @acked {TUPLE} != @closed "
        f"add @closed {{ {TUPLE} }} add @ended {{ {_FLOW} }}",
    ],
    "back": [
        "meta l4proto != { tcp, udp } accept",
        f"{_FLOW_BACK} != @flows accept",
        f"add @replies {{ {_FLOW_BACK} }}",
        f"{ATTESTED} {TUPLE_BACK} != @acked "
        f"add @acked {{ {TUPLE_BACK} }} add @established {{ {_FLOW_BACK} }}",
        f"{ENDS} {TUPLE_BACK} @acked {TUPLE_BACK} != @closed "
        f"add @closed {{ {TUPLE_BACK} }} add @ended {{ {_FLOW_BACK} }}",
        *with_payload("", "goto answer"),
    ],
    "answer": [
        f"{TUPLE_BACK} != @spoke add @spoke {{ {TUPLE_BACK} }} add @answered {{ {_FLOW_BACK} }}"
    ],
}
