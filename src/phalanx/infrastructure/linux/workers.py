"""What all parts of the driver share, such as a thread inside the namespace of each PoP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.tasks import TaskError, Tasks
from phalanx.infrastructure.linux.topology import LinuxTopology
from phalanx.infrastructure.linux.vnf.netlink import NETDEV, Element, NetlinkReader
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError
from phalanx.infrastructure.reservations.topology import Topology

T = TypeVar("T")


class NamespaceWorkers:
    """One thread, one nftables context and one netlink socket for each PoP, made at need."""

    def __init__(self, linux: LinuxTopology) -> None:
        self._linux = linux
        self._inside: dict[PopId, Inside] = {}
        self._nft: dict[PopId, Nft] = {}
        self._readers: dict[PopId, NetlinkReader] = {}

    def inside(self, pop: PopId) -> Inside:
        """Return the thread inside the namespace of ``pop``."""
        found = self._inside.get(pop)
        if found is None:
            found = self._inside[pop] = Inside(self._linux.namespace(pop))
        return found

    def nft(self, pop: PopId, script: str) -> None:
        """Run nftables commands at ``pop``, all or none; blocking.

        Raises:
            TaskError: if nftables refuses.

        """
        self._in_nft(pop, "run", script)

    def nft_json(self, pop: PopId, script: str) -> dict[str, Any]:
        """Run a command that lists something at ``pop``; blocking.

        Raises:
            TaskError: if nftables refuses.

        """
        return dict(self._in_nft(pop, "json", script))

    def packets(self, pop: PopId, table: str, *counters: str) -> list[int]:
        """Return how many packets counters of a netdev table at ``pop`` have counted; blocking.

        libnftables would list the elements of every set at the PoP first, which under a flood
        takes seconds.

        Raises:
            TaskError: if there is no such counter.

        """
        return self._read(
            pop, lambda reader: [reader.counter(NETDEV, table, name)[0] for name in counters]
        )

    def elements(self, pop: PopId, table: str, name: str) -> list[Element]:
        """Return the elements of a set of a netdev table at ``pop``; blocking.

        Raises:
            TaskError: if there is no such set.

        """
        return self._read(pop, lambda reader: reader.elements(NETDEV, table, name))

    def close(self) -> None:
        """End the threads."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        for inside in self._inside.values():
            inside.close()
        self._inside.clear()
        self._nft.clear()

    def _read(self, pop: PopId, what: Callable[[NetlinkReader], T]) -> T:
        def work() -> T:
            reader = self._readers.get(pop)
            if reader is None:
                reader = self._readers[pop] = NetlinkReader()
            return what(reader)

        try:
            return self.inside(pop).call(work)
        except OSError as error:
            raise TaskError(f"counters at {pop}: {error}") from error

    def _in_nft(self, pop: PopId, method: str, script: str) -> Any:
        def work() -> Any:
            nft = self._nft.get(pop)
            if nft is None:
                nft = self._nft[pop] = Nft()
            return getattr(nft, method)(script)

        try:
            return self.inside(pop).call(work)
        except NftError as error:
            raise TaskError(f"nftables at {pop}: {error}") from error


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What every part of a driver works with."""

    clock: WallClock
    tasks: Tasks
    recorder: Recorder
    linux: LinuxTopology
    workers: NamespaceWorkers
    topology: Topology
    cause: str
    """The event that failures of the driver itself name."""

    def failure(self, pop: PopId, what: str, cause: str | None = None) -> Callable[[str], None]:
        """Return a call that records, with a reason, that ``what`` failed at ``pop``."""

        def note(reason: str) -> None:
            event = {"pop": pop, "what": what, "reason": reason}
            self.recorder.record("driver.failed", cause or self.cause, **event)

        return note
