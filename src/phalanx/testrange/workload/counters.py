"""Counters that say what really passed: of devices, and of packets that reach a host."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import Future

from msgspec import Struct

from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.vnf.nft import Nft

_READ = 1 << 20
_ETHERNET = 14  # octets that nftables does not count in a packet and a link does
_USERS, _OTHERS = "from_users", "from_others"


class Sent(Struct, frozen=True):
    """What left a device since it was made."""

    octets: int
    packets: int


class Devices:
    """The devices of a namespace. A file of /proc stays with the namespace it was opened in."""

    def __init__(self, namespace: str) -> None:
        with Inside(namespace) as inside:
            self._file = inside.call(os.open, "/proc/thread-self/net/dev", os.O_RDONLY)

    def read(self) -> dict[str, Sent]:
        """Return the counters of each device."""
        figures = {}
        for line in os.pread(self._file, _READ, 0).decode().splitlines()[2:]:
            name, _, counts = line.partition(":")
            fields = counts.split()
            figures[name.strip()] = Sent(int(fields[8]), int(fields[9]))
        return figures

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Arrived(Struct, frozen=True):
    """Octets that reached a host since its counters were made, link headers included."""

    from_users: int = 0
    from_others: int = 0


class Arrivals:
    """Counts what reaches a host, apart for its users' addresses and for all others.

    A table in the host's own namespace, which no agent looks into.
    """

    def __init__(self, namespace: str, users: Iterable[str]) -> None:
        self._table = f"ip phx_{zlib.crc32(namespace.encode()):08x}"
        self._inside = Inside(namespace)
        elements = ", ".join(sorted(set(users)))
        known = f"elements = {{ {elements} }};" if elements else ""
        self._nft = self._inside.call(Nft)
        self._inside.call(
            self._nft.run,
            f"""table {self._table} {{
                set users {{ type ipv4_addr; {known} }}
                counter {_USERS} {{ }}
                counter {_OTHERS} {{ }}
                chain arrivals {{
                    type filter hook prerouting priority -300; policy accept;
                    iif lo accept
                    ip saddr @users counter name {_USERS} accept
                    counter name {_OTHERS}
                }}
            }}""",
        )

    def submit(self) -> Future[Arrived]:
        """Have the counters read by the thread inside the namespace."""
        return self._inside.submit(self._read)

    def close(self) -> None:
        """Remove the table and end the thread."""
        self._inside.call(self._nft.run, f"delete table {self._table}")
        self._inside.close()

    def _read(self) -> Arrived:
        answer = self._nft.json(f"list counters table {self._table}")
        octets = {
            counter["name"]: counter["bytes"] + _ETHERNET * counter["packets"]
            for entry in answer["nftables"]
            if (counter := entry.get("counter")) is not None
        }
        return Arrived(octets[_USERS], octets[_OTHERS])
