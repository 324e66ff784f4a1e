"""What the traffic really was: counters of devices and hosts, and samples for the log alone."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from msgspec import Struct

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import LinkId, link_ends
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError
from phalanx.testrange.users import Received, Users

_READ = 1 << 20
_ETHERNET = 14  # octets that nftables does not count in a packet and a link does
_USERS, _OTHERS = "from_users", "from_others"
_LAG_S = 0.02
"""Samples are taken this much after their time, so that the users' lines of it are in."""
_BUSY = 0.01
"""Share of its bandwidth from which on a link is busy."""
_MOST_LINKS = 64
_DIGITS = 6


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


class OctetsArrived(Struct, frozen=True):
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

    def submit(self) -> Future[OctetsArrived]:
        """Have the counters read by the thread inside the namespace."""
        return self._inside.submit(self._read)

    def close(self) -> None:
        """Remove the table and end the thread."""
        self._inside.call(self._nft.run, f"delete table {self._table}")
        self._inside.close()

    def _read(self) -> OctetsArrived:
        answer = self._nft.json(f"list counters table {self._table}")
        octets = {
            counter["name"]: counter["bytes"] + _ETHERNET * counter["packets"]
            for entry in answer["nftables"]
            if (counter := entry.get("counter")) is not None
        }
        return OctetsArrived(octets[_USERS], octets[_OTHERS])


class MeasuredLink(Struct):
    """A link whose traffic is measured."""

    name: LinkId
    device: str
    bandwidth_mb_s: float
    access: bool
    """Whether it leads to a host: such links are always shown, others when busy."""
    octets: int = 0
    """That it has carried when it was last read."""


class TrafficSampler:
    """Records averages over each period.

    Args:
        clock: when.
        tasks: reads what takes time to read.
        recorder: where samples go.
        cause: id of the event that began the run.
        period_s: pause between two samples, in seconds.
        hosts: name of each host, with its address.
        devices: counters of the PoPs' devices, by PoP.
        links: what is measured there.
        arrivals: counters of each host that is served, by its name.
        users: the measuring clients.
        wanted: says what the benign sources of an address want now, in MB/s.
        failed: told in one line if counters cannot be read.

    """

    def __init__(
        self,
        clock: Clock,
        tasks: Tasks,
        recorder: Recorder,
        cause: str,
        *,
        period_s: float,
        hosts: Mapping[str, str],
        devices: Mapping[str, Devices],
        links: Sequence[MeasuredLink],
        arrivals: Mapping[str, Arrivals],
        users: Sequence[Users],
        wanted: Callable[[str], float],
        failed: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._recorder = recorder
        self._cause = cause
        self._period_s = period_s
        self._hosts = hosts
        self._devices = devices
        self._links = links
        self._arrivals = arrivals
        self._users = users
        self._wanted = wanted
        self._failed = failed
        self._arrived = {name: counters.submit().result() for name, counters in arrivals.items()}
        self._link_rates()
        self._began = clock.now()
        self._taken = self._began
        self._count = 0
        self._timer: Timer | None = None
        self._next()

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        # A sample that could not be taken in time is left out, and the next one is longer.
        passed = self._clock.now() - self._began
        self._count = max(self._count, int((passed - _LAG_S) / self._period_s)) + 1
        due = self._began + self._count * self._period_s + _LAG_S
        self._timer = self._clock.call_at(due, self._begin)

    def _begin(self) -> None:
        now = self._clock.now()
        seconds, self._taken = now - self._taken, now
        record = partial(self._record, seconds, self._received(), self._link_rates(seconds))
        self._tasks.start(self._arrivals_now(), record, self._failed)

    def _record(
        self,
        seconds: float,
        received: Mapping[str, Received],
        links: dict[str, dict[str, float]],
        arrived: dict[str, OctetsArrived],
    ) -> None:
        self._recorder.record(
            "network.sample",
            self._cause,
            hosts={
                name: self._host(name, address, seconds, received, arrived)
                for name, address in sorted(self._hosts.items())
            },
            links=links,
        )
        self._arrived = arrived
        self._next()

    async def _arrivals_now(self) -> dict[str, OctetsArrived]:
        """Return what has reached each host.

        Raises:
            KernelError: if nftables does not tell.

        """
        readings = [asyncio.wrap_future(counters.submit()) for counters in self._arrivals.values()]
        try:
            return dict(zip(self._arrivals, await asyncio.gather(*readings), strict=True))
        except NftError as error:
            raise KernelError(f"the counters of the hosts cannot be read: {error}") from None

    def _received(self) -> dict[str, Received]:
        """Return what users received since the last call, by the address of their server."""
        sums: dict[str, Received] = {}
        for users in self._users:
            sums.setdefault(users.target, Received()).add(users.take())
        return sums

    def _host(
        self,
        name: str,
        address: str,
        seconds: float,
        received: Mapping[str, Received],
        arrived: Mapping[str, OctetsArrived],
    ) -> dict[str, float]:
        got = received.get(address, Received())
        new, old = arrived.get(name, OctetsArrived()), self._arrived.get(name, OctetsArrived())
        return {
            "legitimate_mb_s": _rate(got.octets, seconds),
            "malicious_mb_s": _rate(new.from_others - old.from_others, seconds),
            "wanted_mb_s": round(self._wanted(address), _DIGITS),
            "answered": got.ok,
            "failed": got.failed,
            "latency_ms": round(1e3 * got.waited_s / got.ok, 3) if got.ok else 0.0,
            "latency_max_ms": round(1e3 * got.slowest_s, 3),
        }

    def _link_rates(self, seconds: float = 1.0) -> dict[str, dict[str, float]]:
        """Return the rates since the last call, of access links and of the busiest others."""
        sent = {pop: devices.read() for pop, devices in self._devices.items()}
        shown = []
        for link in self._links:
            # A link that is down may have lost its device; what it sent before stays.
            counted = sent[link_ends(link.name)[0]].get(link.device)
            octets = counted.octets if counted is not None else link.octets
            rate = _rate(octets - link.octets, seconds)
            link.octets = octets
            if link.access or rate > _BUSY * link.bandwidth_mb_s:
                shown.append((not link.access, -rate, link))
        shown.sort(key=lambda entry: entry[:2])
        return {
            link.name: {"mb_s": -rate, "bandwidth_mb_s": round(link.bandwidth_mb_s, _DIGITS)}
            for _, rate, link in sorted(shown[:_MOST_LINKS], key=lambda entry: entry[2].name)
        }


def _rate(octets: int, seconds: float) -> float:
    return round(octets / seconds / 1e6, _DIGITS)
