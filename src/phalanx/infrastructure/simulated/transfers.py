"""Images on their way from the repository to a PoP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phalanx.clock import Clock, Timer
from phalanx.domain.network import PopId, link_id
from phalanx.infrastructure.reservations.topology import Path
from phalanx.infrastructure.simulated.engine import Engine
from phalanx.infrastructure.simulated.flows import Flows
from phalanx.infrastructure.simulated.fluid import Fluid

_DONE_MB = 1e-9


@dataclass(slots=True, eq=False)
class Transfer:
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

    def __init__(self, clock: Clock, fluid: Fluid, engine: Engine, flows: Flows) -> None:
        self._clock = clock
        self._fluid = fluid
        self._engine = engine
        self._flows = flows
        self._active: list[Transfer] = []
        self._spare: list[int] = []
        self._ended: list[int] = []
        """Rows that stay as they are until the next tick, then are spare."""

    def __len__(self) -> int:
        return len(self._active)

    def start(self, size_mb: float, path: Path, done: Callable[[], None]) -> Transfer:
        """Carry ``size_mb`` over ``path`` (at least one link), then call ``done``."""
        fluid = self._fluid
        if not self._spare:
            self._spare.extend(map(int, fluid.add_rows(np.zeros(1), np.zeros(1, bool), bulk=True)))
        row = self._spare.pop()
        hops = pairwise(path)
        fluid.route(row, [self._flows.stages[link_id(a, b)] for a, b in hops])
        fluid.active[row] = True
        self._engine.sync()
        transfer = Transfer(row, path, size_mb, done, float(self._engine.delivered[row]))
        self._active.append(transfer)
        self._engine.wake()
        return transfer

    def abort(self, transfer: Transfer) -> None:
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

    def over(self, a: PopId, b: PopId) -> list[Transfer]:
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

    def _arm(self, transfer: Transfer) -> None:
        if transfer.timer is not None:
            transfer.timer.cancel()
            transfer.timer = None
        if transfer.rate_mb_s > 0:
            due = self._clock.now() + transfer.left_mb / transfer.rate_mb_s
            transfer.timer = self._clock.call_at(due, lambda: self._finish(transfer))

    def _finish(self, transfer: Transfer) -> None:
        self._engine.sync()
        self._count(transfer)
        if transfer.left_mb > _DONE_MB * max(1.0, transfer.counted_mb):
            self._arm(transfer)  # Rounding: a moment is missing.
            return
        self._end(transfer)
        transfer.done()

    def _count(self, transfer: Transfer) -> None:
        delivered = float(self._engine.delivered[transfer.row])
        transfer.left_mb = max(0.0, transfer.left_mb - (delivered - transfer.counted_mb))
        transfer.counted_mb = delivered

    def _end(self, transfer: Transfer) -> None:
        self._active.remove(transfer)
        self._ended.append(transfer.row)
        self._fluid.active[transfer.row] = False
        if transfer.timer is not None:
            transfer.timer.cancel()
        self._engine.wake()
