"""Bringing an image from the repository to a PoP and booting it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure.reservations.allocations import LinkAllocations
from phalanx.infrastructure.reservations.instances import Fail, Instance, Ready
from phalanx.infrastructure.reservations.topology import Path, Topology
from phalanx.infrastructure.simulated.transfers import Transfer, Transfers


@dataclass(slots=True, eq=False)
class _Waiting:
    """An instance that does not run yet, and what it waits for."""

    instance: Instance
    fail: Fail
    transfer: Transfer | None = None
    boot: Timer | None = None


class Downloads:
    """The instances that do not run yet."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        *,
        topology: Topology,
        links: LinkAllocations,
        transfers: Transfers,
        repository: PopId,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._topology = topology
        self._links = links
        self._transfers = transfers
        self._repository = repository
        self._waiting: dict[str, _Waiting] = {}
        self.away = False
        """Whether the repository cannot be reached (a fault)."""

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download and boot ``instance``, then call ``ready``.

        ``fail`` is called if that becomes impossible on the way. An image of 0 MB is there
        already and needs no repository.

        Returns:
            Why there can be no download; None if it began.

        """
        image_mb = instance.vnfd.image_mb
        path: Path = (self._repository,)
        if image_mb > 0:
            if self.away:
                return "the VNF repository is away"
            found = self._topology.widest(self._repository, instance.pop, self._unreserved)
            if found is None:
                return f"no path from the VNF repository at {self._repository} to {instance.pop}"
            path = found
            instance.cause = self._recorder.record(
                "instance.downloading",
                instance.cause,
                instance=instance.id,
                vnf=instance.vnfd.name,
                pop=instance.pop,
                image_mb=image_mb,
                path=list(path),
            )
        waiting = self._waiting[instance.id] = _Waiting(instance, fail)
        if image_mb > 0 and len(path) > 1:
            waiting.transfer = self._transfers.start(
                image_mb, path, lambda: self._boot(waiting, ready)
            )
        else:
            self._boot(waiting, ready)
        return None

    def abort(self, instance: Instance) -> None:
        """Stop the download or boot of ``instance``; without effect if it runs."""
        waiting = self._waiting.pop(instance.id, None)
        if waiting is None:
            return
        if waiting.transfer is not None:
            self._transfers.abort(waiting.transfer)
        if waiting.boot is not None:
            waiting.boot.cancel()

    def cut(self, a: PopId, b: PopId, cause: str) -> None:
        """Fail the downloads over a link that went down."""
        hit = self._transfers.over(a, b)
        self._fail(lambda waiting: waiting.transfer in hit, f"link {a}-{b} went down", cause)

    def go_away(self, cause: str) -> None:
        """Take the repository away: what it is sending fails."""
        self.away = True
        loading = "the VNF repository went away"
        self._fail(lambda waiting: waiting.boot is None, loading, cause)

    def _boot(self, waiting: _Waiting, ready: Ready) -> None:
        now, instance = self._clock.now(), waiting.instance
        instance.downloaded_s = now - instance.asked
        waiting.boot = self._clock.call_at(
            now + instance.vnfd.boot_s, lambda: self._booted(waiting, ready)
        )

    def _booted(self, waiting: _Waiting, ready: Ready) -> None:
        del self._waiting[waiting.instance.id]
        ready(waiting.instance)

    def _fail(self, hit: Callable[[_Waiting], bool], reason: str, cause: str) -> None:
        for waiting in list(self._waiting.values()):
            if waiting.instance.id in self._waiting and hit(waiting):
                waiting.fail(waiting.instance, reason, cause)

    def _unreserved(self, a: PopId, b: PopId) -> float:
        """Return the bandwidth from ``a`` to ``b`` that no chain has reserved, MB/s."""
        return self._topology.neighbours[a][b].bandwidth_mb_s - self._links.reserved(a, b)
