"""The scenario's traffic as it truly is: when sources start and stop, and what they get.

Signalling load: devices that ask again, and network functions that ask each other.

A device whose registration is not answered waits for T3510 (15 s), then for T3511 (10 s), and asks
again; after five attempts it gives up for T3502 (12 min), longer than it is followed here (3GPP TS
24.501, 5.5.1.2.7 and table 10.2.1). A session that is not answered is asked for again after T3580
(16 s), as often (6.4.1.6); both are treated alike. So an overload feeds itself: nobody is answered
sooner because more ask again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from itertools import count
from math import inf

import numpy as np
from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, LinkId, Network
from phalanx.domain.traffic import CALLS, Source
from phalanx.infrastructure.simulated.downloads import Transfers
from phalanx.infrastructure.simulated.engine import Timed, TrafficEngine
from phalanx.infrastructure.simulated.flows import Flows, Rows, part_of
from phalanx.infrastructure.simulated.fluid import Floats, Fluid

ATTEMPTS = 5
"""A device asks at most so often for one thing (TS 24.501, 5.5.1.2.7)."""
PARTS = 16
"""Shares of the devices, and of what a function asks for them: replicas answer some of these."""
_PORT = 443


def call_sources(network: Network) -> list[Source]:
    """Return what stands for the requests between functions, none of which begins by itself.

    All come from the address of the host that asks; those for attackers differ by the truth alone.

    Raises:
        ValueError: if a host asks one that there is not, or calls lead back to where they began.

    """
    return [source for _, _, _, sources in _calls(network) for source in sources]


def _calls(network: Network) -> Iterator[tuple[Host, Host, float, list[Source]]]:
    """Yield who asks which other for which share of its requests, those asked last first."""
    hosts = {host.name: host for host in network.hosts}
    asked = {host.name: host.calls or {} for host in network.hosts}
    for name in TopologicalSorter(asked).static_order():
        if name not in hosts:
            raise ValueError(f"no host {name} to call")
        for other, share in asked[name].items():
            sources = [_call(hosts[name], hosts[other], part) for part in range(PARTS)]
            storm = replace(CALLS, malicious=True)
            sources += [replace(source, profile=storm) for source in sources]
            yield hosts[name], hosts[other], share, sources


def _call(caller: Host, called: Host, part: int) -> Source:
    keys = (f"{caller.name}-{k}" for k in count())
    return Source(
        name=f"{caller.name}>{called.name}-{part}",
        group=f"{caller.name}>{called.name}",
        at=caller.at,
        address=caller.address,
        target=called.address,
        port=_PORT,
        profile=CALLS,
        demand_mb_s=0.0,
        start_s=inf,
        dealt_by=next(key for key in keys if part_of(key, PARTS) == part),
    )


class Signalling:
    """Adds to what sources ask for; follows the fluid one tick behind.

    Args:
        flows: the sources, with those of ``call_sources`` last.
        fluid: what they get.
        network: who asks whom.
        requests: requests that each source makes in a MB.
        now: the time, in seconds.

    """

    def __init__(
        self, flows: Flows, fluid: Fluid, network: Network, requests: Floats, now: float
    ) -> None:
        self._flows, self._fluid, self._requests = flows, fluid, requests
        sources, hosts = flows.sources, list(flows.hosts)
        self._host = np.array([hosts.index(s.target) for s in sources], dtype=np.intp)
        self.answered = np.ones(len(hosts))
        """Share of the requests that each host has taken for which those it asks answered."""
        again_s = np.array([source.profile.retry_s for source in sources])
        self._rows = np.flatnonzero(again_s)
        self._again_s = again_s[self._rows]
        self._demand = np.array([sources[row].demand_mb_s for row in self._rows])
        self._waiting = np.zeros((ATTEMPTS - 1, len(self._rows)))
        """What is going to be asked for again, in MB of requests, by attempt."""
        self._settled = now
        self._new = np.zeros(len(self._rows))
        """What was asked for the first time since then, in MB/s."""
        self._calls: list[tuple[int, int, float, Rows, Rows, Rows]] = []
        """Who asks whom, for which share, with the rows of who asks it, the part and the truth of
        each, and the rows of what it asks in turn."""
        kind = np.array(
            [flows.part(row, PARTS) + PARTS * s.profile.malicious for row, s in enumerate(sources)]
        )
        begin = len(sources) - len(call_sources(network))
        for caller, called, share, made in _calls(network):
            at, own = hosts.index(caller.address), np.arange(begin, begin + len(made))
            rows, begin = np.flatnonzero(self._host == at), begin + len(made)
            asked = hosts.index(called.address)
            self._calls.append((at, asked, share, rows, kind[rows], own))
            for row in own:
                flows.start(int(row), 1.0, now)

    def settle(self, now: float) -> bool:
        """Bring up to date what is asked for beside all demands; to be called before each tick.

        Returns:
            Whether it changes, though nothing else does.

        """
        elapsed, self._settled = now - self._settled, now
        delivering, sending = self._fluid.delivering, self._fluid.sending
        changed, self.answered = False, np.ones(len(self.answered))
        for caller, called, share, rows, kinds, own in self._calls:
            asked, got = float(sending[own].sum()), float(delivering[own].sum())
            if asked > 0:
                missing = share * (1.0 - self.answered[called] * got / asked)
                self.answered[caller] = max(0.0, self.answered[caller] - missing)
            made = np.bincount(kinds, delivering[rows] * self._requests[rows], len(own))
            changed |= self._flows.ask(own, share * made / self._requests[own], now)
        if len(rows := self._rows):
            sent, level = sending[rows], self._flows.level[rows]
            served = delivering[rows] * self.answered[self._host[rows]]
            missed = 1.0 - np.divide(served, sent, out=np.zeros_like(sent), where=sent > 0)
            made = np.vstack([self._new, self._waiting / self._again_s])
            self._new = self._demand * level
            steady = missed * made[:-1] * self._again_s
            kept = np.exp(-elapsed / self._again_s)
            self._waiting = (steady + (self._waiting - steady) * kept) * (level > 0)
            changed |= self._flows.ask(rows, self._waiting.sum(axis=0) / self._again_s, now)
        return changed


_BUSY = 0.01
"""Share of its bandwidth from which on a link is busy."""
_MOST_LINKS = 64
_LEAST_SHARE = 1e-3
"""Share of what a source wants that counts when it is missing."""
_DIGITS = 6


class GroundTruthSampler(Timed):
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
        self._passed = engine.passed()[self._stages]
        self._got = engine.goodput[: len(sources)].copy()
        self._asked = flows.asked(clock.now())
        self._count = 0
        self._began = clock.now()
        self._next()

    def denied_mb_s(self) -> dict[str, float]:
        """Return what honest sources lack now because of measures, in MB/s by host.

        What a source gets less than it wants counts as denied in the share that measures have
        in the loss on its way (of the logarithms of what passes); random loss is left out.
        """
        flows, fluid = self._flows, self._fluid
        rows = np.flatnonzero(~self._malicious & fluid.active[: len(self._malicious)])
        lacking = np.maximum(flows.demand[rows] - fluid.delivering[rows], 0.0)
        short = lacking > _LEAST_SHARE * flows.demand[rows]
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
        got = self._engine.goodput[: len(self._flows.sources)].copy()
        asked = self._flows.asked(self._clock.now())
        self._recorder.record(
            "network.sample",
            self._cause,
            hosts=self._hosts(
                (got - self._got) / self._period_s,
                (asked - self._asked) / self._period_s,
            ),
            links=self._links((passed - self._passed) / self._period_s),
            downloads=len(self._transfers),
        )
        self._passed, self._got, self._asked = passed, got, asked
        self._next()

    def _hosts(self, rates: np.ndarray, asked: np.ndarray) -> dict[str, dict[str, float]]:
        count = len(self._flows.hosts)

        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(self._host, weights=weights, minlength=count).round(_DIGITS)

        answered = rates * self._signalling.answered[self._host]
        legitimate = total(answered * ~self._malicious)
        malicious = total(answered * self._malicious)
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


class SourceSchedule(Timed):
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
        self._next()

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
            self._flows.start(row, level, now)
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


class AdaptiveSources(Timed):
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
        if self._rows:
            self._next()

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
