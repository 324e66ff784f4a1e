"""Many routes over the same stages, compiled for summing and multiplying along them.

Almost no stage is short of capacity at a time. What is constant along a route (random loss,
latency) is worked out once; only the few stages that are *tight* are looked at again and
again while the rates settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Stages = tuple[int, ...]


class Paths:
    """Distinct routes; every array has one entry a route, or is hops x routes.

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


def _sums(indices: Indices, weights: Floats, size: int) -> Floats:
    """Sum ``weights`` by their index, 0 to ``size`` - 1."""
    return np.asarray(np.bincount(indices, weights, minlength=size), dtype=np.float64)
