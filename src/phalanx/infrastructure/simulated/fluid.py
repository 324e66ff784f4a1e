"""Traffic as a fluid: the rates of all flows over all links, one step of time at a time.

A flow follows a sequence of stages: directed links and policers. A stage passes at most its
capacity, shared in proportion to what arrives (FIFO, drop tail). In front of a link stands a
queue of at most ``QUEUE_S`` seconds, which delays; only when it is full is there loss. What
waits there is credited to no flow; the link counts it when it sends it.

Three kinds of flow: unresponsive ones send their demand; responsive ones follow TCP
(``pftk_mb_s``) up to their demand; bulk transfers pace themselves to what the others leave of
their path. Bulk transfers do not mistake random loss for congestion: with 2.5 % a link, as in
the dissertation's network, a textbook TCP would need half an hour for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import inf

import numpy as np
from numpy.typing import NDArray

SEGMENT_MB = 1460e-6
"""Octets of a full segment, in MB."""
INITIAL_SEGMENTS = 10
"""Segments that a new connection sends in its first round trip (RFC 6928)."""
_LEAST_TIMEOUT_S = 0.2
"""What the retransmission timeout adds to the round trip at least, as in Linux."""
_LEAST_RTT_S = 1e-3
_LEAST_LOSS = 1e-9


def pftk_mb_s(loss: Floats, rtt_s: Floats) -> Floats:
    """Return the sending rate of TCP in MB/s, retransmissions included.

    Padhye, Firoiu, Towsley, Kurose: Modeling TCP Throughput (SIGCOMM 1998), eq. 30 without
    the receiver's window, with one acknowledgement a segment (b = 1).

    Args:
        loss: share of the packets lost on the path, 0 to 1.
        rtt_s: round trip time in seconds, queueing included.

    Returns:
        Rates, in the shape of the arguments.

    """
    p = np.maximum(loss, _LEAST_LOSS)
    rtt = np.maximum(rtt_s, _LEAST_RTT_S)
    timeout = rtt + _LEAST_TIMEOUT_S
    recovery = rtt * np.sqrt(2 * p / 3)
    waiting = timeout * np.minimum(1.0, 3 * np.sqrt(3 * p / 8)) * p * (1 + 32 * p * p)
    return np.asarray(SEGMENT_MB / (recovery + waiting), dtype=np.float64)


def first_mb_s(rtt_s: Floats) -> Floats:
    """Return the rate in MB/s of a connection's first round trip of ``rtt_s`` seconds."""
    return INITIAL_SEGMENTS * SEGMENT_MB / np.maximum(rtt_s, _LEAST_RTT_S)


Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Stages = tuple[int, ...]


class Paths:
    """Distinct routes; every array has one entry a route, or is hops x routes.

    Almost no stage is short of capacity at a time. What is constant along a route (random loss,
    latency) is worked out once; only the few stages that are *tight* are looked at again and
    again while the rates settle.

    Args:
        routes: the stages of each route; stage 0 does not occur.
        loss: random loss of each stage, a fraction.
        latency_s: latency of each stage, in seconds.

    """

    def __init__(self, routes: Sequence[Stages], loss: Floats, latency_s: Floats) -> None:
        self._stages = len(loss)
        self.count = len(routes)
        lengths = np.fromiter(map(len, routes), dtype=np.intp, count=len(routes))
        self._route = np.repeat(np.arange(len(routes)), lengths)
        self._stage = np.fromiter(
            chain.from_iterable(routes), dtype=np.intp, count=int(lengths.sum())
        )
        self._first = (np.cumsum(lengths) - lengths)[self._route]
        hop: Indices = np.arange(len(self._stage)) - self._first
        kept: Floats = np.ones((int(lengths.max(initial=0)) + 1, len(routes)))
        kept[hop + 1, self._route] = 1.0 - loss[self._stage]
        kept = np.multiply.accumulate(kept, axis=0)
        self._kept_before: Floats = kept[hop, self._route]
        self.kept: Floats = kept[-1]
        """Share that random loss lets through to the end of the route."""
        self.rtt_s = _sums(self._route, 2.0 * latency_s[self._stage], len(routes))
        """Round trip time without queues, in seconds."""
        self.tighten(np.zeros(self._stages, dtype=bool))

    def tighten(self, tight: NDArray[np.bool_]) -> None:
        """Look at the stages in ``tight`` (a flag a stage) from now on, and at no others."""
        hit = tight[self._stage]
        before: Indices = np.cumsum(hit) - hit
        rank: Indices = before - before[self._first]
        depth = int(rank[hit].max(initial=-1)) + 1
        self.tight: Indices = np.zeros((depth, self.count), dtype=np.intp)
        """The tight stages of each route in order, ended by stage 0."""
        self._kept_until: Floats = np.zeros((depth, self.count))
        self.tight[rank[hit], self._route[hit]] = self._stage[hit]
        self._kept_until[rank[hit], self._route[hit]] = self._kept_before[hit]
        self._cell: Indices = rank * self.count + self._route

    def left(self, rates: Floats, passing: Floats) -> Floats:
        """Return what is left of ``rates`` before each tight stage, and after the last.

        Random loss is not counted.

        Args:
            rates: what enters each route.
            passing: share that each stage lets pass.

        Returns:
            Rates, (tight hops + 1) x routes.

        """
        left = np.empty((len(self.tight) + 1, self.count))
        left[0] = rates
        for hop, stages in enumerate(self.tight):
            np.multiply(left[hop], passing[stages], out=left[hop + 1])
        return left

    def at_tight(self, left: Floats) -> Floats:
        """Sum what arrives at each stage, right for the tight ones alone.

        Args:
            left: as ``left`` returns it.

        """
        weights = (left[:-1] * self._kept_until).ravel()
        return self._per_stage(self.tight.ravel(), weights)

    def at_all(self, left: Floats) -> Floats:
        """Sum what arrives at each stage, from what ``left`` returned."""
        return self._per_stage(self._stage, left.ravel()[self._cell] * self._kept_before)

    def _per_stage(self, stages: Indices, weights: Floats) -> Floats:
        arriving = _sums(stages, weights, self._stages)
        arriving[0] = 0.0
        return arriving


def alike(one: Floats, other: Floats, relative: float, absolute: float) -> bool:
    """Return whether two arrays agree; ``np.allclose`` without what it does for infinities."""
    return bool((np.abs(one - other) <= absolute + relative * np.abs(other)).all())


def _sums(indices: Indices, weights: Floats, size: int) -> Floats:
    """Sum ``weights`` by their index, 0 to ``size`` - 1."""
    return np.asarray(np.bincount(indices, weights, minlength=size), dtype=np.float64)


QUEUE_S = 0.2
"""Longest queueing delay of a link, in seconds."""
BULK_LEAST_SHARE = 0.1
"""Share of a link that bulk transfers take even if others would use it."""
BACKGROUND_MOST = 0.8
"""Share of a link that background transfers fill up to, with all else that is on it."""
NOWHERE = 0
"""A stage that stands for none: it passes everything."""
_SMOOTHING_S = 1.0
"""Least time constant of a TCP's adjustment."""
_DRAIN_S = 1.0
"""Time in which bulk transfers let a queue run empty that they found."""
_SWEEPS = 16
_DAMPED_SWEEPS = 48
_TOLERANCE = 1e-9
_STEADY = 1e-6
_CONSERVED = 1e-6
"""What a stage may send above its capacity or its arrivals, as a share: rounding."""


class Fluid:
    """All stages and flows as arrays; knows neither clock nor names.

    Stage arrays have one entry a stage, flow arrays one a row. Rates are in MB/s, volumes in
    MB, times in seconds, losses and shares are fractions.
    """

    checked = False
    """Whether each step asserts that traffic is conserved; tests turn it on."""

    def __init__(self) -> None:
        self.capacity: Floats = np.array([inf])
        self.loss: Floats = np.zeros(1)
        self.latency_s: Floats = np.zeros(1)
        self.queued: NDArray[np.bool_] = np.zeros(1, dtype=bool)
        self.up: NDArray[np.bool_] = np.ones(1, dtype=bool)
        """Whether the link carries anything; no flow is routed over one that is down."""
        self.priority: Floats = np.zeros(1)
        """Traffic that is served before all flows (mirrors on their reserved bandwidth)."""
        self.arriving: Floats = np.zeros(1)
        self.passing: Floats = np.zeros(1)
        """What the stage sends, priority traffic and queue included."""
        self.fitting: Floats = np.ones(1)
        """Share of what arrives that the capacity suffices for."""
        self.dropping: Floats = np.zeros(1)
        """Share of what arrives that is dropped for want of capacity."""
        self.queue: Floats = np.zeros(1)

        self.demand: Floats = np.zeros(0)
        self.active: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.responsive: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.bulk: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.background: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        """Which of the bulk transfers take what all others, bulk transfers too, leave idle."""
        self.sending: Floats = np.zeros(0)
        self.delivering: Floats = np.zeros(0)
        self._started: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._routes: list[Stages] = []
        self._paths: Paths | None = None
        self._path_of: Indices = np.zeros(0, dtype=np.intp)
        self._ends: Indices = np.zeros(0, dtype=np.intp)
        self._tight: NDArray[np.bool_] = np.zeros(1, dtype=bool)

    def add_stages(
        self, capacity: Floats, loss: Floats, latency_s: Floats, *, queued: bool = True
    ) -> Indices:
        """Add links, or with ``queued`` false policers, and return their indices."""
        more = len(capacity)
        self.capacity = np.append(self.capacity, capacity)
        self.loss = np.append(self.loss, loss)
        self.latency_s = np.append(self.latency_s, latency_s)
        self.queued = np.append(self.queued, np.full(more, queued))
        self.fitting = np.append(self.fitting, np.ones(more))
        self.up = np.append(self.up, np.ones(more, dtype=bool))
        for name in ("priority", "arriving", "passing", "dropping", "queue"):
            setattr(self, name, np.append(getattr(self, name), np.zeros(more)))
        self._paths = None
        return np.arange(len(self.capacity) - more, len(self.capacity))

    def reshape(self, stages: Sequence[int], capacity: float, loss: float, latency: float) -> None:
        """Give links another capacity, loss and latency (s) from the next step on."""
        rows = list(stages)
        self.capacity[rows], self.loss[rows], self.latency_s[rows] = capacity, loss, latency
        self._paths = None

    def add_rows(
        self, demand: Floats, responsive: NDArray[np.bool_], *, bulk: bool = False
    ) -> Indices:
        """Add flows, without a route and not active yet, and return their rows."""
        more = len(demand)
        self.demand = np.append(self.demand, demand)
        self.active = np.append(self.active, np.zeros(more, dtype=bool))
        self.responsive = np.append(self.responsive, responsive)
        self.bulk = np.append(self.bulk, np.full(more, bulk))
        self.background = np.append(self.background, np.zeros(more, dtype=bool))
        self.sending = np.append(self.sending, np.zeros(more))
        self.delivering = np.append(self.delivering, np.zeros(more))
        self._started = np.append(self._started, np.zeros(more, dtype=bool))
        self._routes.extend(() for _ in range(more))
        self._paths = None
        return np.arange(len(self.demand) - more, len(self.demand))

    def route(self, row: int, stages: Sequence[int]) -> None:
        """Send the flow of ``row`` over ``stages`` from the next step on."""
        self._routes[row] = tuple(stages)
        self._paths = None

    def step(self, dt: float) -> bool:
        """Work out the rates of the next ``dt`` seconds from those of the last.

        Returns:
            Whether anything changed; if not, no later step would change anything either.

        """
        before = self.sending, self.arriving, self.dropping, self.queue
        paths = self._compiled()
        self.sending = self._adjusted(paths, dt)
        room = np.maximum(self.capacity - self.priority, 0.0)
        self._settle(paths, room)
        excess = np.where(self.queued, self.arriving - room, 0.0)
        limit = np.where(self.queued, QUEUE_S * self.capacity, 0.0)
        waiting = self.queue + excess * dt
        self.queue = np.clip(waiting, 0.0, limit)
        refused = np.maximum(self.arriving - room, 0.0)
        lost = np.where(self.queued, np.maximum(waiting - limit, 0.0) / dt, refused)
        some = self.arriving > 0
        self.dropping = np.divide(lost, self.arriving, out=np.zeros_like(lost), where=some)
        self.passing = self.priority + self.arriving - lost - (self.queue - before[3]) / dt
        if self.checked:
            self._check(before[3], dt)
        after = self.sending, self.arriving, self.dropping, self.queue
        return not all(
            alike(old, new, _STEADY, _STEADY * 1e-3) for old, new in zip(before, after, strict=True)
        )

    def through(self, rows: Indices, routes: Indices) -> Floats:
        """Return what of the flows in ``rows`` is left behind ``routes`` (hops x rows), MB/s."""
        share = self.fitting * (1.0 - self.loss)
        return np.asarray(self.sending[rows] * np.prod(share[routes], axis=0))

    def _check(self, queue: Floats, dt: float) -> None:
        """Assert that what leaves a stage neither exceeds what came nor its capacity."""
        most = np.where(self.up, self.capacity, 0.0) * (1.0 + _CONSERVED) + _CONSERVED
        arrived = (self.priority + self.arriving) * (1.0 + _CONSERVED) + queue / dt + _CONSERVED
        leaving = self.priority + self.arriving * self.fitting
        ended = self.priority + _sums(self._ends, self.delivering, len(self.capacity))
        ended[NOWHERE] = 0.0
        rates = np.stack((self.passing, leaving, ended))
        bad = (rates > np.minimum(most, arrived)) | (rates < -_CONSERVED)
        if bad.any():
            which, stage = (int(place[0]) for place in np.nonzero(bad))
            raise AssertionError(
                f"stage {stage} {('passes', 'hands on', 'ends')[which]} "
                f"{rates[which, stage]:g} MB/s, of {arrived[stage]:g} that came and "
                f"a capacity of {self.capacity[stage]:g}"
            )
        total = float(np.sum(self.arriving * (1.0 - self.fitting * (1.0 - self.loss))))
        total += float(np.sum(self.delivering)) - float(np.sum(self.sending))
        assert abs(total) <= _CONSERVED * (1.0 + float(np.sum(self.sending))), (
            f"{total:g} MB/s more came out than flows sent"
        )

    def _compiled(self) -> Paths:
        if self._paths is None:
            index = {stages: i for i, stages in enumerate(dict.fromkeys(self._routes))}
            self._path_of = np.array([index[stages] for stages in self._routes], dtype=np.intp)
            self._ends = np.array([(NOWHERE, *stages)[-1] for stages in self._routes], np.intp)
            self._paths = Paths(list(index), self.loss, self.latency_s)
            self._tight = (self.fitting < 1) | (self.dropping > 0) | (self.queue > 0)
            self._paths.tighten(self._tight)
        return self._paths

    def _settle(self, paths: Paths, room: Floats) -> None:
        """Find the arrivals and the shares that agree with each other."""
        rates = _sums(self._path_of, self.sending, paths.count)
        while True:
            settled = False
            for sweep in range(_SWEEPS + _DAMPED_SWEEPS):
                arriving = paths.at_tight(paths.left(rates, self.fitting))
                fitting = np.divide(room, arriving, out=np.ones_like(room), where=arriving > room)
                settled = alike(fitting, self.fitting, 0.0, _TOLERANCE)
                # Routes that cross in opposite order swing between two states: go halfway.
                self.fitting = fitting if sweep < _SWEEPS else np.sqrt(fitting * self.fitting)
                if settled:
                    break
            if not settled:
                # Shares can only sink below those that fit the arrivals they bring about, so no
                # stage sends more than it can, even before the rates agree.
                arriving = paths.at_tight(paths.left(rates, self.fitting))
                fitting = np.divide(room, arriving, out=np.ones_like(room), where=arriving > room)
                self.fitting = np.minimum(fitting, self.fitting)
            left = paths.left(rates, self.fitting)
            self.arriving = paths.at_all(left)
            missed = (self.arriving > room * (1 + _TOLERANCE)) & ~self._tight
            if not missed.any():
                break
            self._tight |= missed
            paths.tighten(self._tight)
        ends = paths.kept * np.divide(left[-1], rates, out=np.ones_like(rates), where=rates > 0)
        self.delivering = self.sending * ends[self._path_of]

    def _adjusted(self, paths: Paths, dt: float) -> Floats:
        """Return what each flow sends next."""
        sending = np.where(self.active, self.demand, 0.0)
        sending[self.bulk] = 0.0
        rows = np.flatnonzero(self.responsive & self.active)
        if len(rows):
            sending[rows] = self._tcp(paths, rows, dt)
        self._started = self.active.copy()
        bulk = np.flatnonzero(self.bulk & self.active & ~self.background)
        if len(bulk):
            sending[bulk] = self._paced(bulk)
        idle = np.flatnonzero(self.background & self.active)
        if len(idle):
            rates = _sums(self._path_of, sending, paths.count)
            others = paths.at_all(paths.left(rates, self.fitting))  # in this very step
            room = BACKGROUND_MOST * self.capacity - self.priority - others
            sending[idle] = self._shared(idle, np.maximum(room - self.queue / _DRAIN_S, 0.0))
        return sending

    def _tcp(self, paths: Paths, rows: Indices, dt: float) -> Floats:
        path = self._path_of[rows]
        delay = np.divide(
            self.queue, self.capacity, out=np.zeros_like(self.queue), where=self.capacity > 0
        )
        loss = (1.0 - paths.kept * np.prod(1.0 - self.dropping[paths.tight], axis=0))[path]
        rtt = (paths.rtt_s + np.sum(delay[paths.tight], axis=0))[path]
        wanted = self.demand[rows] / np.maximum(1.0 - loss, 1e-9)
        aim = np.minimum(wanted, pftk_mb_s(loss, rtt))
        weight = 1.0 - np.exp(-dt / np.maximum(4.0 * rtt, _SMOOTHING_S))
        last = self.sending[rows]
        adjusted = np.minimum(last + (aim - last) * weight, wanted)  # nothing else to send
        first = np.minimum(self.demand[rows], first_mb_s(rtt))  # nothing is to be sent again yet
        return np.asarray(np.where(self._started[rows], adjusted, first))

    def _paced(self, rows: Indices) -> Floats:
        """Return for each bulk transfer its part of what its narrowest link has left."""
        own = np.zeros_like(self.capacity)
        through = self.fitting * (1.0 - self.loss)
        for row in np.flatnonzero(self.bulk & (self.sending > 0)):
            stages = list(self._routes[row])
            before = np.append(1.0, np.multiply.accumulate(through[stages])[:-1])
            own[stages] += self.sending[row] * before
        left = self.capacity - self.priority - (self.arriving - own) - self.queue / _DRAIN_S
        return self._shared(rows, np.maximum(left, BULK_LEAST_SHARE * self.capacity))

    def _shared(self, rows: Indices, room: Floats) -> Floats:
        """Return for each bulk transfer its part of ``room``, MB/s by stage, on its route."""
        routes = [list(self._routes[row]) for row in rows]
        transfers = np.zeros_like(self.capacity)
        for stages in routes:
            transfers[stages] += 1.0
        fair = room / np.maximum(transfers, 1.0)
        kept = [np.multiply.accumulate(1.0 - self.loss[stages]) for stages in routes]
        return np.array(
            [
                (fair[stages] / np.append(1.0, share[:-1])).min()
                for stages, share in zip(routes, kept, strict=True)
            ]
        )
