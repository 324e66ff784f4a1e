"""The scenario's traffic as it truly is: when sources start and stop, and what they get."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.network import LinkId
from phalanx.infrastructure.simulated.downloads import Transfers
from phalanx.infrastructure.simulated.engine import TrafficEngine
from phalanx.infrastructure.simulated.flows import Flows
from phalanx.infrastructure.simulated.fluid import Fluid
from phalanx.infrastructure.simulated.signalling import Signalling

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
        signalling: Signalling,
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
        self._signalling = signalling
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
        measured = np.sum(closed * np.isin(way, flows.policers), axis=0)
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
        count = len(self._flows.hosts)

        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(self._host, weights=weights, minlength=count).round(_DIGITS)

        answered = rates * self._signalling.answered[self._host]
        legitimate = total(answered * ~self._malicious)
        malicious = total(answered * self._malicious)
        asked = self._demand * self._flows.level + self._flows.extra
        wanted = total(asked * ~self._malicious)
        figures = {
            host.name: {
                "legitimate_mb_s": float(legitimate[index]),
                "malicious_mb_s": float(malicious[index]),
                "wanted_mb_s": float(wanted[index]),
            }
            for index, host in enumerate(self._flows.hosts.values())
        }
        if self._flows.untrusted:
            ways = self._flows.routes(range(len(rates)))
            exposed = total(rates * [bool(way.exposed) for way in ways])
            for index, host in enumerate(self._flows.hosts.values()):
                figures[host.name]["exposed_mb_s"] = float(exposed[index])
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
        self._groups: dict[str, list[int]] = {}
        self._levels = [s.shape.levels(s.start_s, s.end_s) for s in flows.sources]
        self._due: list[tuple[float, int, float]] = []
        for row, source in enumerate(flows.sources):
            self._groups.setdefault(source.group, []).append(row)
            self._plan(row)
        self._clock = clock
        self._timer: Timer | None = None
        self._next()

    def stop(self) -> None:
        """Change nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = self._clock.call_at(self._due[0][0], self._change) if self._due else None

    def _plan(self, row: int) -> None:
        following = next(self._levels[row], None)
        if following is not None:
            heappush(self._due, (following[0], row, following[1]))

    def _change(self) -> None:
        changed: dict[str, None] = {}
        now = self._due[0][0]
        while self._due and self._due[0][0] == now:
            _, row, level = heappop(self._due)
            if (level > 0) != self._flows.is_running(row) or level == 1:
                changed[self._flows.sources[row].group] = None  # Not each step of a ramp.
            self._flows.start(row, level)
            self._plan(row)
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
                demand_mb_s=round(
                    sum(
                        self._flows.sources[row].demand_mb_s * float(self._flows.level[row])
                        for row in rows
                    ),
                    6,
                ),
                malicious=profile.malicious,
            )
        self._engine.wake()
        self._next()


ADAPT_S = 1.0
"""Pause between two looks of an attacker at what gets through."""
_PATIENCE = 3
"""Looks in a row at which little got through, before it does something about it."""
_LITTLE = 0.5
"""Share of the best that got through ever since it began or moved."""
_REST_S = 30.0


class AdaptiveSources:
    """Attackers that watch what of theirs gets through, and rest or move when it is little."""

    def __init__(self, clock: Clock, flows: Flows, fluid: Fluid, engine: TrafficEngine) -> None:
        self._clock = clock
        self._flows = flows
        self._fluid = fluid
        self._engine = engine
        self._rows = [row for row, source in enumerate(flows.sources) if source.adapt]
        self._best = np.zeros(len(flows.sources))
        self._looks = np.zeros(len(flows.sources), dtype=np.intp)
        self._moves = np.zeros(len(flows.sources), dtype=np.intp)
        self._timer: Timer | None = None
        if self._rows:
            self._next()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = self._clock.call_at(self._clock.now() + ADAPT_S, self._look)

    def _look(self) -> None:
        for row in self._rows:
            sent = float(self._fluid.sending[row])
            if not (self._fluid.active[row] and sent > 0):
                continue
            share = float(self._fluid.delivering[row]) / sent
            self._best[row] = max(self._best[row], share)
            little = share < _LITTLE * self._best[row] or share == 0.0
            self._looks[row] = self._looks[row] + 1 if little else 0
            if self._looks[row] >= _PATIENCE:
                self._looks[row], self._best[row] = 0, 0.0
                self._react(row)
        self._next()

    def _react(self, row: int) -> None:
        source, moves = self._flows.sources[row], int(self._moves[row])
        if source.adapt == "quiet":
            self._flows.rest(row, resting=True)
            self._clock.call_at(self._clock.now() + _REST_S, lambda: self._resume(row))
        elif moves < len(source.places):
            self._flows.move(row, source.places[moves])
            self._moves[row] += 1
        self._engine.wake()

    def _resume(self, row: int) -> None:
        self._flows.rest(row, resting=False)
        self._engine.wake()
