"""What the traffic really was, measured for the log alone: ``network.sample``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import LinkId, link_ends
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.infrastructure.linux.vnf.nft import NftError
from phalanx.testrange.workload.counters import Arrivals, Arrived, Devices
from phalanx.testrange.workload.users import Received, Users

_LAG_S = 0.02
"""Samples are taken this much after their time, so that the users' lines of it are in."""
_BUSY = 0.01
"""Share of its bandwidth from which on a link is busy."""
_MOST_LINKS = 64
_DIGITS = 6


class Link:
    """A link whose traffic is measured."""

    def __init__(self, name: LinkId, device: str, bandwidth_mb_s: float, *, access: bool) -> None:
        self.name = name
        self.device = device
        self.bandwidth_mb_s = bandwidth_mb_s
        self.access = access
        """Whether it leads to a host: such links are always shown, others when busy."""
        self.octets = 0


class Sampler:
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
        links: Sequence[Link],
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
        arrived: dict[str, Arrived],
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

    async def _arrivals_now(self) -> dict[str, Arrived]:
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
            sums.setdefault(users.target, Received()).merge(users.take())
        return sums

    def _host(
        self,
        name: str,
        address: str,
        seconds: float,
        received: Mapping[str, Received],
        arrived: Mapping[str, Arrived],
    ) -> dict[str, float]:
        got = received.get(address, Received())
        new, old = arrived.get(name, Arrived()), self._arrived.get(name, Arrived())
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
