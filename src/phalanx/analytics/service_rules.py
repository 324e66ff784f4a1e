"""Fixed rules that tell a service's troubles from its metrics.

They know the five kinds of deliverable D3.3 (table 4), and that connections are used up.
They need no training, and say nothing of what they cannot see; a trained model may be named in
their place. Each rule compares the last ``IN_A_ROW`` samples with a limit, or with what was usual.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import fmean, median

from phalanx.analytics.detectors import Finding
from phalanx.domain.series import TimeSeries, TrafficWindow

HIGH_CPU = "high cpu"
HIGH_MEMORY = "high memory"
TRAFFIC_SPIKE = "traffic spike"
LOAD_STEP = "load step"
NETWORK_DELAY = "network delay"
FULL = "connections full"
OVERLOADED = (TRAFFIC_SPIKE, HIGH_CPU, LOAD_STEP, FULL)
"""Kinds that another replica would relieve."""
RELIEVED = (*OVERLOADED, HIGH_MEMORY, NETWORK_DELAY)
"""Kinds that something can be done about; any other is told."""
NOT_JUDGED = "not judged"
"""Kind of a finding that says why a detector cannot say all that it could."""

IN_A_ROW = 3
"""Samples that have to show it."""
LEARNED = 10
"""Samples before them that make what is usual."""
BUSY = 0.85
"""Share of the processor, of the memory, or of all connections, from which on it is too much."""
SPIKE = 2.0
"""A spike is so many times what was usual, and more than ``SPIKE_BUSY`` of the processor."""
SPIKE_BUSY = 0.6
AHEAD_S = 20.0
"""A load that grows is an alarm if it will be too much within this time."""
SURE = 3.0
"""Standard errors that its growth has to be above 0."""
DELAYED = 2.0
"""So many times the usual time on the way, and ``DELAYED_MS`` more, are a delay."""
DELAYED_MS = 50.0


class ServiceRules:
    """Implements ``Detector``: looks at series alone, and finds at most one overload."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return what troubles the services; a finding's target is the subject of its series."""
        series = {(one.subject, one.name): one for one in window.series}
        found = []
        for subject in dict.fromkeys(one.subject for one in window.series):
            of = {name: one for (about, name), one in series.items() if about == subject}
            overload = (rule(of) for rule in (_spike, _high_cpu, _step, _full))
            found += [next((each for each in overload if each is not None), None)]
            found += [_high_memory(of), _delay(of)]
        return [each for each in found if each is not None]


Named = dict[str, TimeSeries]


def _finding(kind: str, one: TimeSeries, reason: str, **evidence: float) -> Finding:
    figures = {name: round(value, 6) for name, value in evidence.items()}
    return Finding(kind, one.subject, None, 1.0, reason, figures)


def _lately(of: Named, name: str) -> tuple[TimeSeries, float] | None:
    """Return a series and the least of its last samples."""
    one = of.get(name)
    if one is None or len(one.values) < IN_A_ROW:
        return None
    return one, min(one.values[-IN_A_ROW:])


def _usual(one: TimeSeries) -> float | None:
    before = one.values[:-IN_A_ROW]
    return median(before) if len(before) >= LEARNED else None


def _too_much(kind: str, name: str, what: str) -> Callable[[Named], Finding | None]:
    def rule(of: Named) -> Finding | None:
        lately = _lately(of, name)
        if lately is None or lately[1] < BUSY:
            return None
        one, least = lately
        return _finding(kind, one, f"uses at least {least:.0%} of its {what}", **{name: least})

    return rule


_high_cpu = _too_much(HIGH_CPU, "cpu_share", "processors")
_high_memory = _too_much(HIGH_MEMORY, "memory_share", "memory")
_full = _too_much(FULL, "connections_share", "connections")


def _spike(of: Named) -> Finding | None:
    requests, cpu = _lately(of, "requests_s"), _lately(of, "cpu_share")
    usual = None if requests is None else _usual(requests[0])
    if requests is None or cpu is None or usual is None or cpu[1] < SPIKE_BUSY:
        return None
    one, least = requests
    if least < SPIKE * usual:
        return None
    reason = f"gets {least:.3g} requests/s, usually {usual:.3g}"
    return _finding(TRAFFIC_SPIKE, one, reason, requests_s=least, usual_s=usual)


def _step(of: Named) -> Finding | None:
    """A trend, by least squares, that reaches too much soon: the forecast without training."""
    one = of.get("cpu_share")
    if one is None or len(one.values) < LEARNED:
        return None
    times, values = one.times[-LEARNED:], one.values[-LEARNED:]
    middle, mean = fmean(times), fmean(values)
    spread = sum((t - middle) ** 2 for t in times)
    slope = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread
    off = sum((v - mean - slope * (t - middle)) ** 2 for t, v in zip(times, values, strict=True))
    error = sqrt(off / (len(times) - 2) / spread)
    expected = mean + slope * (times[-1] + AHEAD_S - middle)
    if slope <= SURE * error or expected < BUSY or mean < BUSY / 2:
        return None
    reason = f"will use {min(expected, 9.99):.0%} of its processors in {AHEAD_S:g} s"
    return _finding(LOAD_STEP, one, reason, cpu_share=values[-1], expected_share=expected)


def _delay(of: Named) -> Finding | None:
    lately = _lately(of, "rtt_ms")
    usual = None if lately is None else _usual(lately[0])
    if lately is None or usual is None:
        return None
    one, least = lately
    if least < max(DELAYED * usual, usual + DELAYED_MS):
        return None
    reason = f"is {least:.3g} ms away there and back, usually {usual:.3g}"
    return _finding(NETWORK_DELAY, one, reason, rtt_ms=least, usual_ms=usual)
