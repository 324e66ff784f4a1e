"""Least latencies between sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.orchestration.descriptors import SiteLink


class Latencies(Struct, frozen=True):
    """Least latency between all pairs of sites."""

    place: dict[str, int]
    """Row and column of each site."""
    ms: NDArray[np.float64]
    """Sites x sites, one way; infinite where no path leads."""

    def between(self, a: str, b: str) -> float:
        """Return the latency between two sites in ms, one way."""
        return float(self.ms[self.place[a], self.place[b]])


def shortest(sites: Sequence[str], links: Iterable[SiteLink], bandwidth_mb_s: float) -> Latencies:
    """Return the latencies over links of at least ``bandwidth_mb_s`` (Floyd and Warshall)."""
    place = {site: number for number, site in enumerate(sites)}
    ms = np.full((len(sites), len(sites)), np.inf)
    np.fill_diagonal(ms, 0.0)
    for link in links:
        if link.bandwidth_mb_s >= bandwidth_mb_s:
            a, b = place[link.between[0]], place[link.between[1]]
            ms[a, b] = ms[b, a] = min(ms[a, b], link.latency_ms)
    for via in range(len(sites)):
        np.minimum(ms, ms[:, via, None] + ms[None, via, :], out=ms)
    return Latencies(place, ms)
