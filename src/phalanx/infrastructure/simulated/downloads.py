"""Bringing an image from the repository to a PoP and booting it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId, link_id
from phalanx.infrastructure.reservations.allocations import LinkAllocations
from phalanx.infrastructure.reservations.instances import Fail, Instance, Ready
from phalanx.infrastructure.reservations.topology import Path, Topology
from phalanx.infrastructure.simulated.engine import TrafficEngine
from phalanx.infrastructure.simulated.flows import Flows
from phalanx.infrastructure.simulated.fluid import Fluid

_DONE_MB = 1e-9


@dataclass(slots=True, eq=False)
class ImageTransfer:
    """One download."""

    row: int
    path: Path
    left_mb: float
    done: Callable[[], None]
    counted_mb: float
    """What the row had delivered when ``left_mb`` was last worked out."""
    rate_mb_s: float = 0.0
    timer: Timer | None = None


class Transfers:
    """All downloads: bulk flows that compete with the other traffic."""

    def __init__(self, clock: Clock, fluid: Fluid, engine: TrafficEngine, flows: Flows) -> None:
        self._clock = clock
        self._fluid = fluid
        self._engine = engine
        self._flows = flows
        self._active: list[ImageTransfer] = []
        self._spare: list[int] = []
        self._ended: list[int] = []
        """Rows that stay as they are until the next tick, then are spare."""

    def __len__(self) -> int:
        return len(self._active)

    def start(self, size_mb: float, path: Path, done: Callable[[], None]) -> ImageTransfer:
        """Carry ``size_mb`` over ``path`` (at least one link), then call ``done``."""
        fluid = self._fluid
        if not self._spare:
            self._spare.extend(map(int, fluid.add_rows(np.zeros(1), np.zeros(1, bool), bulk=True)))
        row = self._spare.pop()
        hops = pairwise(path)
        fluid.route(row, [self._flows.stages[link_id(a, b)] for a, b in hops])
        fluid.active[row] = True
        self._engine.sync()
        transfer = ImageTransfer(row, path, size_mb, done, float(self._engine.delivered[row]))
        self._active.append(transfer)
        self._engine.wake()
        return transfer

    def abort(self, transfer: ImageTransfer) -> None:
        """End a transfer early; its ``done`` is not called. Without effect once it ended."""
        if transfer in self._active:
            self._end(transfer)

    def react(self) -> None:
        """Work out anew when the transfers will be done; to be called after each tick."""
        self._spare.extend(self._ended)
        self._ended.clear()
        for transfer in self._active:
            rate = float(self._fluid.delivering[transfer.row])
            if rate != transfer.rate_mb_s or transfer.timer is None:
                self._count(transfer)
                transfer.rate_mb_s = rate
                self._arm(transfer)

    def over(self, a: PopId, b: PopId) -> list[ImageTransfer]:
        """Return the transfers that use the link between ``a`` and ``b``."""
        return [
            transfer
            for transfer in self._active
            if any(
                {a, b} == {here, there}
                for here, there in zip(transfer.path, transfer.path[1:], strict=False)
            )
        ]

    def stop(self) -> None:
        """End all transfers."""
        for transfer in list(self._active):
            self._end(transfer)

    def _arm(self, transfer: ImageTransfer) -> None:
        if transfer.timer is not None:
            transfer.timer.cancel()
            transfer.timer = None
        if transfer.rate_mb_s > 0:
            due = self._clock.now() + transfer.left_mb / transfer.rate_mb_s
            transfer.timer = self._clock.call_at(due, lambda: self._finish(transfer))

    def _finish(self, transfer: ImageTransfer) -> None:
        self._engine.sync()
        self._count(transfer)
        if transfer.left_mb > _DONE_MB * max(1.0, transfer.counted_mb):
            self._arm(transfer)  # Rounding: a moment is missing.
            return
        self._end(transfer)
        transfer.done()

    def _count(self, transfer: ImageTransfer) -> None:
        delivered = float(self._engine.delivered[transfer.row])
        transfer.left_mb = max(0.0, transfer.left_mb - (delivered - transfer.counted_mb))
        transfer.counted_mb = delivered

    def _end(self, transfer: ImageTransfer) -> None:
        self._active.remove(transfer)
        self._ended.append(transfer.row)
        self._fluid.active[transfer.row] = False
        if transfer.timer is not None:
            transfer.timer.cancel()
        self._engine.wake()


@dataclass(slots=True, eq=False)
class _Waiting:
    """An instance that does not run yet, and what it waits for."""

    instance: Instance
    fail: Fail
    transfer: ImageTransfer | None = None
    boot: Timer | None = None


class SimulatedDownloads:
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
