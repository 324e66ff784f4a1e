"""The scenario's traffic as it truly is: when sources start and stop, and what they get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import LinkId
from phalanx.infrastructure.simulated.downloads import Transfers
from phalanx.infrastructure.simulated.engine import TrafficEngine
from phalanx.infrastructure.simulated.flows import Flows
from phalanx.infrastructure.simulated.fluid import Fluid

_BUSY = 0.01
"""Share of its bandwidth from which on a link is busy."""
_MOST_LINKS = 64
_LEAST_SHARE = 1e-3
"""Share of what a source wants that counts when it is missing."""
_DIGITS = 6


class GroundTruthSampler:
    """Records averages over each period."""

    def __init__(
        self,
        clock: Clock,
        *,
        fluid: Fluid,
        engine: TrafficEngine,
        flows: Flows,
        transfers: Transfers,
        recorder: Recorder,
        cause: str,
        period_s: float,
        watched: Sequence[LinkId],
    ) -> None:
        self._clock = clock
        self._fluid = fluid
        self._engine = engine
        self._flows = flows
        self._transfers = transfers
        self._recorder = recorder
        self._cause = cause
        self._period_s = period_s
        self._stages = np.array(list(flows.names), dtype=np.intp)
        self._watched = [flows.stages[link] for link in watched]
        sources = flows.sources
        addresses = list(flows.hosts)
        self._host = np.array([addresses.index(s.target) for s in sources], dtype=np.intp)
        self._malicious = np.array([s.profile.malicious for s in sources], dtype=bool)
        self._demand = np.array([s.demand_mb_s for s in sources], dtype=np.float64)
        self._passed = engine.passed()[self._stages]
        self._delivered = engine.delivered[: len(sources)].copy()
        self._count = 0
        self._began = clock.now()
        self._timer: Timer | None = None
        self._next()

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def denied_mb_s(self) -> dict[str, float]:
        """Return what honest sources lack now because of measures, in MB/s by host.

        What a source gets less than it wants counts as denied in the share that measures have
        in the loss on its way (of the logarithms of what passes); random loss is left out.
        """
        flows, fluid = self._flows, self._fluid
        rows = np.flatnonzero(~self._malicious & fluid.active[: len(self._malicious)])
        lacking = np.maximum(self._demand[rows] - fluid.delivering[rows], 0.0)
        short = lacking > _LEAST_SHARE * self._demand[rows]
        rows, lacking = rows[short], lacking[short]
        way = flows.ways(rows)
        closed = -np.log(np.maximum(fluid.fitting[way], _LEAST_SHARE**3))
        measured = np.sum(closed * ~fluid.queued[way], axis=0)
        share = measured / np.maximum(np.sum(closed, axis=0), _LEAST_SHARE**3)
        denied = np.bincount(self._host[rows], lacking * share, minlength=len(flows.hosts))
        return {
            host.name: float(mb_s)
            for host, mb_s in zip(flows.hosts.values(), denied.round(_DIGITS), strict=True)
        }

    def _next(self) -> None:
        self._count += 1
        due = self._began + self._count * self._period_s
        self._timer = self._clock.call_at(due, self._sample)

    def _sample(self) -> None:
        passed = self._engine.passed()[self._stages]
        delivered = self._engine.delivered[: len(self._flows.sources)].copy()
        self._recorder.record(
            "network.sample",
            self._cause,
            hosts=self._hosts((delivered - self._delivered) / self._period_s),
            links=self._links((passed - self._passed) / self._period_s),
            downloads=len(self._transfers),
        )
        self._passed, self._delivered = passed, delivered
        self._next()

    def _hosts(self, rates: np.ndarray) -> dict[str, dict[str, float]]:
        running = np.array(
            [self._flows.is_running(row) for row in range(len(rates))], dtype=np.float64
        )
        count = len(self._flows.hosts)

        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(self._host, weights=weights, minlength=count).round(_DIGITS)

        legitimate = total(rates * ~self._malicious)
        malicious = total(rates * self._malicious)
        wanted = total(self._demand * running * ~self._malicious)
        figures = {
            host.name: {
                "legitimate_mb_s": float(legitimate[index]),
                "malicious_mb_s": float(malicious[index]),
                "wanted_mb_s": float(wanted[index]),
            }
            for index, host in enumerate(self._flows.hosts.values())
        }
        return dict(sorted(figures.items()))

    def _links(self, rates: np.ndarray) -> dict[str, dict[str, float]]:
        fluid, stages = self._fluid, self._stages
        capacity = fluid.capacity[stages]
        order = np.lexsort((stages, -rates))[:_MOST_LINKS]
        shown = [int(stages[i]) for i in order if rates[i] > _BUSY * capacity[i]]
        rate = dict(zip(map(int, stages), map(float, rates), strict=True))
        figures = {
            self._flows.names[stage]: {
                "mb_s": round(rate[stage], _DIGITS),
                "bandwidth_mb_s": round(float(fluid.capacity[stage]), _DIGITS),
                "queue_ms": round(
                    1e3 * float(fluid.queue[stage]) / max(float(fluid.capacity[stage]), 1e-12),
                    _DIGITS,
                ),
            }
            for stage in {*dict.fromkeys(self._watched), *shown}
        }
        return dict(sorted(figures.items()))


class SourceSchedule:
    """Starts and stops sources, and tells of each group that changes."""

    def __init__(
        self, clock: Clock, flows: Flows, engine: TrafficEngine, recorder: Recorder, cause: str
    ) -> None:
        self._flows = flows
        self._engine = engine
        self._recorder = recorder
        self._cause = cause
        self._changes: dict[float, list[tuple[int, bool]]] = {}
        self._groups: dict[str, list[int]] = {}
        for row, source in enumerate(flows.sources):
            self._groups.setdefault(source.group, []).append(row)
            if source.end_s is None or source.end_s > source.start_s:
                self._changes.setdefault(source.start_s, []).append((row, True))
                if source.end_s is not None:
                    self._changes.setdefault(source.end_s, []).append((row, False))
        self._times = sorted(self._changes, reverse=True)
        self._clock = clock
        self._timer: Timer | None = None
        self._next()

    def stop(self) -> None:
        """Change nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = self._clock.call_at(self._times[-1], self._change) if self._times else None

    def _change(self) -> None:
        changed: dict[str, None] = {}
        for row, running in self._changes[self._times.pop()]:
            self._flows.start(row, running=running)
            changed[self._flows.sources[row].group] = None
        for group in changed:
            rows = [row for row in self._groups[group] if self._flows.is_running(row)]
            profile = self._flows.sources[self._groups[group][0]].profile
            self._recorder.record(
                "traffic.changed",
                self._cause,
                group=group,
                profile=profile.name,
                count=len(rows),
                active=bool(rows),
                demand_mb_s=round(sum(self._flows.sources[row].demand_mb_s for row in rows), 6),
                malicious=profile.malicious,
            )
        self._engine.wake()
        self._next()
