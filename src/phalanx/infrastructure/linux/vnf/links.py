"""Count what leaves by a device, and the TCP connections that are open towards its end."""

from __future__ import annotations

import time
from collections import deque
from threading import BoundedSemaphore, Lock
from typing import Any

from .bundles import prefix
from .http import Fields, RefusedError
from .netlink import NETDEV, NetlinkReader
from .nft import ADDRESS_FAMILIES, ATTESTED, ENDS, SYN, Nft, NftError

CONNECTIONS = 16_384
SILENT_S = 60
"""A connection on which the server has said nothing for this long is not counted, in seconds."""
CLOSED_S = 10
"""How long the last acknowledgements of an ended connection may come, in seconds."""
COUNT_EVERY_S = 0.5
LONGEST_NAME = 100
MOST = 256
SHORTEST_S, LONGEST_S = 0.01, 60.0
"""Rates are those of so long, in seconds."""
LONGEST_HOLD_S = 10.0
MOST_HELD = 16
"""Answers that are held back at a time; more are given at once."""
LARGEST_RATE = 1e12
"""Octets a second that no link carries."""


class _Link:
    """A link that is counted, and its last readings."""

    def __init__(self, device: str, connections: bool) -> None:
        self.asked = device, connections
        self.counted = -COUNT_EVERY_S, 0
        """When its connections were last counted, and how many there were."""
        self.readings: deque[tuple[float, int]] = deque()
        """(time, octets), cumulative."""

    def rate(self, seconds: float) -> float:
        """Return octets a second over the last ``seconds``; earlier readings are forgotten."""
        readings = self.readings
        while len(readings) > 2 and readings[-1][0] - readings[1][0] >= seconds:
            readings.popleft()
        (then, before), (now, after) = readings[0], readings[-1]
        return (after - before) / (now - then) if now > then else 0.0


class LinkCounters:
    """The links that one process counts, in ``table netdev`` of its name."""

    def __init__(self, table: str) -> None:
        """Begin anew: what an earlier process of that table counted is removed."""
        self._table = table
        self._nft = Nft()
        self._reader = NetlinkReader()
        self._lock = Lock()
        self._links: dict[str, _Link] = {}
        self._held = BoundedSemaphore(MOST_HELD)
        self.close()
        self._nft.run(f"add table netdev {table}")

    def put(self, name: str, body: object) -> None:
        """Begin to count a link; goes on if it is counted already.

        Raises:
            RefusedError: 400 if the body is wrong, 409 if nftables refuses or there are too many.

        """
        if not 1 <= len(name.encode()) <= LONGEST_NAME:
            raise RefusedError(400, f"the name of a link has 1 to {LONGEST_NAME} octets")
        fields = Fields(body, ("device", "connections"))
        asked = fields.device("device"), fields.flag("connections")
        with self._lock:
            if name in self._links:
                if self._links[name].asked == asked:
                    return
                raise RefusedError(409, "that link is counted on another device or in another way")
            if len(self._links) >= MOST:
                raise RefusedError(409, f"this VNF counts {MOST} links already")
            try:
                self._nft.run(_script(self._table, prefix(name), *asked))
            except NftError as error:
                raise RefusedError(409, f"the link was refused: {error}") from error
            self._links[name] = _Link(*asked)

    def get(self, name: str) -> dict[str, Any]:
        """Return octets, packets and open connections; time is CLOCK_MONOTONIC in seconds.

        Octets are those of whole frames, as a queueing discipline counts them. A connection
        that has ended may be counted for a second more, until the kernel clears it away.

        Raises:
            RefusedError: 404 if the link is unknown.

        """
        with self._lock:
            octets, packets, now = self._read(name)
            connections = self._connections(name, now)
        return {"octets": octets, "packets": packets, "connections": connections, "time": now}

    def watch(self, name: str, body: object) -> dict[str, Any]:
        """Return the rate over the last ``seconds``, octets per second, and open connections.

        The answer is held back for ``hold_s`` seconds as long as the rate differs from ``told``
        by no more than ``band``: who asks need not ask often to know soon. The link is read
        every ``seconds`` then.

        Raises:
            RefusedError: 400 if the body is wrong, 404 if the link is unknown.

        """
        fields = Fields(body, ("seconds", "told", "band", "hold_s"))
        seconds = fields.number("seconds", SHORTEST_S, LONGEST_S)
        told = fields.number("told", 0.0, LARGEST_RATE, 0.0)
        band = fields.number("band", 0.0, LARGEST_RATE, 0.0)
        until = time.monotonic() + fields.number("hold_s", 0.0, LONGEST_HOLD_S, 0.0)
        rate, connections, left = self._sample(name, seconds, until)
        if left > 0 and self._held.acquire(blocking=False):
            try:
                while left > 0 and abs(rate - told) <= band:
                    time.sleep(min(seconds, left))
                    rate, connections, left = self._sample(name, seconds, until)
            finally:
                self._held.release()
        return {"rate": rate, "connections": connections}

    def close(self) -> None:
        """Remove everything."""
        self._nft.run(f"add table netdev {self._table}\ndelete table netdev {self._table}")

    def _sample(self, name: str, seconds: float, until: float) -> tuple[float, int, float]:
        """Return the link's rate and connections, and how much time is left."""
        with self._lock:
            octets, _, now = self._read(name)
            link = self._links[name]
            link.readings.append((now, octets))
            return link.rate(seconds), self._connections(name, now), until - now

    def _read(self, name: str) -> tuple[int, int, float]:
        """Return octets and packets, and when they were so many."""
        if name not in self._links:
            raise RefusedError(404, "no such link")
        packets, octets = self._reader.counter(NETDEV, self._table, f"{prefix(name)}all")
        return octets, packets, time.monotonic()

    def _connections(self, name: str, now: float) -> int:
        """Return their number; listing a large set takes time, so it is done twice a second."""
        link = self._links[name]
        then, number = link.counted
        if link.asked[1] and now - then >= COUNT_EVERY_S:
            sets = (f"{prefix(name)}open{family.own}" for family in ADDRESS_FAMILIES)
            number = sum(self._reader.count(NETDEV, self._table, each) for each in sets)
            link.counted = now, number
        return number


def _script(table: str, own: str, device: str, connections: bool) -> str:
    place = f"netdev {table}"
    egress, ingress = (
        f"add chain {place} {own}{hook} "
        f'{{ type filter hook {hook} device "{device}" priority 0; }}\n'
        for hook in ("egress", "ingress")
    )
    script = f"add counter {place} {own}all\n{egress}"
    script += f"add rule {place} {own}egress counter name {own}all\n"
    if not connections:
        return script
    script += ingress
    for family in ADDRESS_FAMILIES:
        opened, closed = f"{own}open{family.own}", f"{own}closed{family.own}"
        there, back = f"{{ {family.tuple} }}", f"{{ {family.tuple_back} }}"
        rules = (
            ("egress", f"{SYN} delete @{closed} {there}"),  # a port that is used again
            ("egress", f"{ENDS} delete @{opened} {there} update @{closed} {there}"),
            ("ingress", f"{ENDS} delete @{opened} {back} update @{closed} {back} accept"),
            ("ingress", f"{ATTESTED} {family.tuple_back} != @{closed} update @{opened} {back}"),
        )
        for name, seconds in ((opened, SILENT_S), (closed, CLOSED_S)):
            script += (
                f"add set {place} {name} {{ {family.tuple_type}; flags dynamic,timeout; "
                f"size {CONNECTIONS}; timeout {seconds}s; }}\n"
            )
        script += "".join(f"add rule {place} {own}{hook} {rule}\n" for hook, rule in rules)
    return script
