"""How sure counts make one: the score test of a share and its interval (Wilson 1927)."""

from __future__ import annotations

import math

Z = 3.0
"""Standard deviations that make a finding certain: one error in 700 where a share just lies on
the threshold, and exponentially fewer the further away it is."""


def wilson(hits: float, trials: float, z: float = Z) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of ``hits`` out of ``trials``."""
    if trials <= 0:
        return 0.0, 1.0
    share = min(1.0, hits / trials)
    square = z * z / trials
    middle = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    return max(0.0, low), min(1.0, high)


def fewest(threshold: float, z: float = Z) -> float:
    """Return the trials up to which no share is certain to lie below ``threshold``."""
    return z * z * (1 - threshold) / threshold


def confidence(hits: float, trials: float, threshold: float) -> float:
    """Return how surely the share of ``hits`` lies on the side of ``threshold`` where it was seen.

    The interval of ``wilson`` ends at ``threshold`` for exactly this probability (one-sided):
    1 minus the chance that a share of ``threshold`` gives counts as far away as these.
    """
    if trials <= 0:
        return 0.5
    share = min(1.0, hits / trials)
    z = abs(share - threshold) / math.sqrt(threshold * (1 - threshold) / trials)
    return 0.5 * math.erfc(-z / math.sqrt(2))
