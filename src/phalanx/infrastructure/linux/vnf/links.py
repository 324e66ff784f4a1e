"""Count what leaves by a device, and the TCP connections that are open towards its end."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

from .bundles import prefix
from .fields import Fields, RefusedError
from .netlink import NETDEV, Reader
from .nft import Nft, NftError
from .rules import ATTESTED, ENDS, SYN, TUPLE, TUPLE_BACK, TUPLE_TYPE

CONNECTIONS = 16_384
SILENT_S = 60
"""A connection on which the server has said nothing for this long is not counted, in seconds."""
CLOSED_S = 10
"""How long the last acknowledgements of an ended connection may come, in seconds."""
COUNT_EVERY_S = 0.5
LONGEST_NAME = 100
MOST = 256


class Links:
    """The links that one process counts, in ``table netdev`` of its name."""

    def __init__(self, table: str) -> None:
        """Begin anew: what an earlier process of that table counted is removed."""
        self._table = table
        self._nft = Nft()
        self._reader = Reader()
        self._lock = Lock()
        self._devices: dict[str, tuple[str, bool]] = {}
        self._counted: dict[str, tuple[float, int]] = {}
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
            if self._devices.get(name) == asked:
                return
            if name in self._devices:
                raise RefusedError(409, "that link is counted on another device or in another way")
            if len(self._devices) >= MOST:
                raise RefusedError(409, f"this VNF counts {MOST} links already")
            try:
                self._nft.run(_script(self._table, prefix(name), *asked))
            except NftError as error:
                raise RefusedError(409, f"the link was refused: {error}") from error
            self._devices[name] = asked

    def get(self, name: str) -> dict[str, Any]:
        """Return octets, packets and open connections; time is CLOCK_MONOTONIC in seconds.

        Octets are those of whole frames, as a queueing discipline counts them. A connection
        that has ended may be counted for a second more, until the kernel clears it away.

        Raises:
            RefusedError: 404 if the link is unknown.

        """
        with self._lock:
            if name not in self._devices:
                raise RefusedError(404, "no such link")
            packets, octets = self._reader.counter(NETDEV, self._table, f"{prefix(name)}all")
            now = time.monotonic()
            connections = self._connections(name, now) if self._devices[name][1] else 0
        return {"octets": octets, "packets": packets, "connections": connections, "time": now}

    def close(self) -> None:
        """Remove everything."""
        self._nft.run(f"add table netdev {self._table}\ndelete table netdev {self._table}")

    def _connections(self, name: str, now: float) -> int:
        """Return their number; listing a large set takes time, so it is done twice a second."""
        then, number = self._counted.get(name, (-COUNT_EVERY_S, 0))
        if now - then >= COUNT_EVERY_S:
            number = self._reader.count(NETDEV, self._table, f"{prefix(name)}open")
            self._counted[name] = (now, number)
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
    opened, closed = f"@{own}open", f"@{own}closed"
    rules = {
        "egress": [
            f"{SYN} delete {closed} {{ {TUPLE} }}",  # a port that is used again
            f"{ENDS} delete {opened} {{ {TUPLE} }} update {closed} {{ {TUPLE} }}",
        ],
        "ingress": [
            f"{ENDS} delete {opened} {{ {TUPLE_BACK} }} update {closed} {{ {TUPLE_BACK} }} accept",
            f"{ATTESTED} {TUPLE_BACK} != {closed} update {opened} {{ {TUPLE_BACK} }}",
        ],
    }
    for name, seconds in (("open", SILENT_S), ("closed", CLOSED_S)):
        script += (
            f"add set {place} {own}{name} {{ {TUPLE_TYPE}; flags dynamic,timeout; "
            f"size {CONNECTIONS}; timeout {seconds}s; }}\n"
        )
    script += ingress
    for hook, lines in rules.items():
        script += "".join(f"add rule {place} {own}{hook} {rule}\n" for rule in lines)
    return script
