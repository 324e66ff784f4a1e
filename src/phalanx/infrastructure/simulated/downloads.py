"""Bringing an image to a PoP, from the repository or another PoP, and booting it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Done, Failed, Outcome, Prefetch
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId, link_id
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.reservations.allocations import LinkAllocations
from phalanx.infrastructure.reservations.images import ImageCache
from phalanx.infrastructure.reservations.instances import Fail, Instance, Ready
from phalanx.infrastructure.reservations.topology import Edge, Path, Topology
from phalanx.infrastructure.simulated.engine import TrafficEngine
from phalanx.infrastructure.simulated.flows import Flows
from phalanx.infrastructure.simulated.fluid import Fluid

_DONE_MB = 1e-9
_STALLED_MB_S = 1e-6


@dataclass(slots=True, eq=False)
class ImageTransfer:
    """One download."""

    row: int
    path: Path
    left_mb: float
    done: Callable[[], None]
    counted_mb: float
    """What the row had delivered when ``left_mb`` was last worked out."""
    rate_mb_s: float
    """As far as it is known: what its narrowest link has, at first."""
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
        self.load: Counter[tuple[Edge, bool]] = Counter()
        """How many transfers, by whether in the background, are on a link in one direction."""

    def __len__(self) -> int:
        return len(self._active)

    def start(
        self, size_mb: float, path: Path, done: Callable[[], None], *, background: bool = False
    ) -> ImageTransfer:
        """Carry ``size_mb`` over ``path`` (at least one link), then call ``done``.

        In the ``background`` it takes only what all others leave idle.
        """
        fluid = self._fluid
        if not self._spare:
            self._spare.extend(map(int, fluid.add_rows(np.zeros(1), np.zeros(1, bool), bulk=True)))
        row = self._spare.pop()
        stages = [self._flows.stages[link_id(a, b)] for a, b in pairwise(path)]
        fluid.route(row, stages)
        fluid.active[row], fluid.background[row] = True, background
        self._engine.sync()
        delivered = float(self._engine.delivered[row])
        most_mb_s = float(fluid.capacity[stages].min())
        transfer = ImageTransfer(row, path, size_mb, done, delivered, most_mb_s)
        self._active.append(transfer)
        self.load.update((edge, background) for edge in pairwise(path))
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
        active = self._active
        return [t for t in active if any({a, b} == {*hop} for hop in pairwise(t.path))]

    def left_mb(self, transfer: ImageTransfer) -> float:
        """Return what is still to be carried, as of now."""
        self._engine.sync()
        self._count(transfer)
        return transfer.left_mb

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
        background = bool(self._fluid.background[transfer.row])
        self.load.subtract((edge, background) for edge in pairwise(transfer.path))
        if transfer.timer is not None:
            transfer.timer.cancel()
        self._engine.wake()


@dataclass(slots=True, eq=False)
class _Fetch:
    """An image on its way to a PoP: for an instance, or before any is wanted."""

    vnfd: Vnfd
    pop: PopId
    cause: str
    left_mb: float
    instance: Instance | None = None
    ready: Ready = lambda _: None
    fail: Fail = lambda _instance, _reason, _cause: None
    transfer: ImageTransfer | None = None
    awaits: _Fetch | None = None
    """Another that brings the image to where this one will get it from."""
    boot: Timer | None = None


_Way = tuple[float, int, PopId, _Fetch | None]
"""How an image can come to a PoP: seconds, hops, source, and what is awaited there; the least
is the best."""


class SimulatedDownloads:
    """The instances that do not run yet, and the images on their way.

    An image comes from where it takes the least time: the repository, a PoP that has it, or one
    that is about to have it. So one copy passes a thin link, however many PoPs want it.
    """

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        *,
        topology: Topology,
        links: LinkAllocations,
        images: ImageCache,
        transfers: Transfers,
        repository: PopId,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._topology = topology
        self._links = links
        self._images = images
        self._transfers = transfers
        self._repository = repository
        self._fetches: list[_Fetch] = []
        self.away = False
        """Whether the repository cannot be reached (a fault)."""
        images.on_gone = self._gone

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download and boot ``instance``, then call ``ready``.

        ``fail`` is called if that becomes impossible on the way. An image of 0 MB is there
        already and needs no repository.

        Returns:
            Why there can be no download; None if it began.

        """
        pop, vnfd = instance.pop, instance.vnfd
        fetch = _Fetch(vnfd, pop, instance.cause, vnfd.image_mb, instance, ready, fail)
        early = next((f for f in self._of(vnfd) if f.pop == pop and f.instance is None), None)
        if early is not None:
            self._interrupt(early)
            self._fetches.remove(early)
            fetch.left_mb = early.left_mb
        refusal = self._start(fetch)
        if early is not None:
            self._moved(early, f"{pop} wants it now")
        return refusal

    def prefetch(self, pop: PopId, action: Prefetch, cause: str) -> Outcome:
        """Carry out ``Prefetch``; once the image is there or on its way, it is done already."""
        vnfd = action.vnfd
        if not self._images.keeps:
            return Failed("no image is kept here")
        if self._images.use(pop, vnfd) or any(f.pop == pop for f in self._of(vnfd)):
            return Done()
        room = self._images.room_mb(pop)
        if not 0 < vnfd.image_mb <= room:
            return Failed(f"an image of {vnfd.image_mb:g} MB, {room:g} MB of disk free")
        refusal = self._start(_Fetch(vnfd, pop, cause, vnfd.image_mb), action.reason)
        return Done() if refusal is None else Failed(refusal)

    def abort(self, instance: Instance) -> None:
        """Stop the download or boot of ``instance``; without effect if it runs."""
        for fetch in self._fetches:
            if fetch.instance is instance:
                self._fetches.remove(fetch)
                if fetch.boot is not None:
                    fetch.boot.cancel()
                if fetch.transfer is not None:
                    self._transfers.abort(fetch.transfer)
                self._moved(fetch, f"{fetch.pop} fetches it no more")
                return

    def cut(self, a: PopId, b: PopId, cause: str) -> None:
        """Let the downloads over a link that went down go on elsewhere, or fail."""
        hit, reason = self._transfers.over(a, b), f"link {a}-{b} went down"
        for fetch in list(self._fetches):
            if fetch in self._fetches and fetch.transfer in hit:
                self._again(fetch, reason, cause)

    def go_away(self, cause: str) -> None:
        """Take the repository away: what it is sending goes on elsewhere, or fails."""
        self.away = True
        self._lose(self._repository, "", "the VNF repository went away", cause)

    def _of(self, vnfd: Vnfd) -> list[_Fetch]:
        """Return the fetches of an image that are under way."""
        return [f for f in self._fetches if f.vnfd.image == vnfd.image and f.boot is None]

    def _start(self, fetch: _Fetch, reason: str = "") -> str | None:
        self._fetches.append(fetch)
        refusal = self._go(fetch, reason)
        if refusal is not None:
            self._fetches.remove(fetch)
        return refusal

    def _go(self, fetch: _Fetch, reason: str, *, again: bool = False) -> str | None:
        """Begin, or go on, on the quickest way; return why there is none."""
        vnfd, instance, keeps = fetch.vnfd, fetch.instance, self._images.keeps
        if vnfd.image_mb <= 0:
            self._boot(fetch)
            return None
        ways = sorted(self._ways(fetch), key=lambda way: way[:3])
        if not ways:
            nobody = "no PoP has the image, and " if keeps else ""
            if self.away:
                return f"{nobody}the VNF repository is away"
            return f"{nobody}no path from the VNF repository at {self._repository} to {fetch.pop}"
        seconds, _, source, awaits = ways[0]
        path = self._topology.widest(source, fetch.pop, partial(self._width, instance is None))
        assert path is not None
        if len(path) == 1 and keeps and awaits is None and self._images.use(fetch.pop, vnfd):
            self._arrived(fetch)
            return None
        data: dict[str, Any] = {} if instance is None else {"instance": instance.id}
        data |= {"vnf": vnfd.name, "pop": fetch.pop, "image_mb": vnfd.image_mb, "path": list(path)}
        if keeps:
            others = [f"{other} in {later:.4g} s" for later, _, other, _ in ways[1:4]]
            data |= {"source": source, "takes_s": round(seconds, 3), "others": others}
            data |= {"reason": reason, "left_mb": round(fetch.left_mb, 3)}
            data |= {} if awaits is None else {"awaits": source}
        kind = "image.prefetching" if instance is None else "instance.downloading"
        if awaits is None or not again:  # it waits for others in turn: said once
            fetch.cause = self._recorder.record(kind, fetch.cause, **data)
        if instance is not None:
            instance.cause = fetch.cause
        self._images.use(source, vnfd)
        if awaits is not None:
            fetch.awaits = awaits
        elif len(path) > 1:
            fetch.transfer = self._transfers.start(
                fetch.left_mb, path, partial(self._arrived, fetch), background=instance is None
            )
        else:
            self._arrived(fetch)
        return None

    def _ways(self, fetch: _Fetch) -> Iterator[_Way]:
        """Yield from where the image can come: who has it, and who will have it."""
        widths = self._topology.widths(fetch.pop, partial(self._width, fetch.instance is None))
        sources: dict[PopId, _Fetch | None] = {}
        if self._images.keeps:
            loading = (f for f in self._of(fetch.vnfd) if f.transfer is not None)
            wanted = fetch.instance is not None  # does not wait for what yields to others
            sources = {f.pop: f for f in loading if f.instance is not None or not wanted}
            sources |= dict.fromkeys(self._images.holders(fetch.vnfd))
        if not self.away:
            sources[self._repository] = None
        for source, awaits in sources.items():
            if widths.get(source, 0.0) > 0:
                hops = len(self._topology.route(source, fetch.pop) or ())
                seconds = fetch.left_mb / widths[source]
                if awaits is not None and awaits.transfer is not None:
                    left_mb = self._transfers.left_mb(awaits.transfer)
                    seconds += left_mb / max(awaits.transfer.rate_mb_s, _STALLED_MB_S)
                yield seconds, hops, source, awaits

    def _arrived(self, fetch: _Fetch) -> None:
        """Keep an image that came, boot the instance it is for, and let those who waited go on."""
        instance, fetch.transfer = fetch.instance, None
        name = "" if instance is None else instance.id
        self._images.keep(fetch.pop, fetch.vnfd, fetch.cause, name)
        if instance is None:
            self._fetches.remove(fetch)
        else:
            self._images.use(fetch.pop, fetch.vnfd, name)
            self._boot(fetch)
        self._moved(fetch, f"{fetch.pop} has it now")

    def _moved(self, ended: _Fetch, reason: str) -> None:
        """Let those who waited for another download choose anew: it has ended."""
        for fetch in list(self._fetches):
            if fetch.awaits is ended and fetch in self._fetches:
                self._again(fetch, reason, fetch.cause)

    def _again(self, fetch: _Fetch, reason: str, cause: str) -> None:
        """Let a download go on from elsewhere with what is left of it, or fail."""
        if self._images.keeps:
            self._interrupt(fetch)
            fetch.cause = cause
            refusal = self._go(fetch, reason, again=True)
            if refusal is None:
                return
            reason = f"{reason}; {refusal}"
        if fetch.instance is not None:
            fetch.fail(fetch.instance, reason, cause)
        else:
            self._fetches.remove(fetch)
            self._images.note_gone(fetch.pop, fetch.vnfd, reason, cause)
            self._moved(fetch, reason)

    def _interrupt(self, fetch: _Fetch) -> None:
        if fetch.transfer is not None:
            fetch.left_mb = self._transfers.left_mb(fetch.transfer)
            self._transfers.abort(fetch.transfer)
        fetch.transfer = fetch.awaits = None

    def _gone(self, pop: PopId, vnfd: Vnfd, cause: str) -> None:
        """Let the downloads from a PoP that deleted the image go on elsewhere."""
        if pop != self._repository:
            self._lose(pop, vnfd.image, f"{pop} has it no more", cause)

    def _boot(self, fetch: _Fetch) -> None:
        now, instance = self._clock.now(), fetch.instance
        assert instance is not None
        instance.downloaded_s = now - instance.asked
        due = now + instance.vnfd.boot_s
        fetch.boot = self._clock.call_at(due, partial(self._booted, fetch, instance))

    def _booted(self, fetch: _Fetch, instance: Instance) -> None:
        self._fetches.remove(fetch)
        fetch.ready(instance)

    def _lose(self, source: PopId, image: str, reason: str, cause: str) -> None:
        """Let what ``source`` is sending go on elsewhere: one image, or all if none is named."""
        for fetch in list(self._fetches):
            sent = fetch.transfer is not None and fetch.transfer.path[0] == source
            if sent and fetch in self._fetches and image in ("", fetch.vnfd.image):
                self._again(fetch, reason, cause)

    def _width(self, background: bool, a: PopId, b: PopId) -> float:
        """Return the bandwidth from ``a`` to ``b`` that no chain has reserved, MB/s.

        Where images come from several PoPs it is what one more download gets of it.
        """
        free = self._topology.neighbours[a][b].bandwidth_mb_s - self._links.reserved(a, b)
        if not self._images.keeps:
            return free
        load = self._transfers.load
        return free / (1 + load[(a, b), False] + (load[(a, b), True] if background else 0))
