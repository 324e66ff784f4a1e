"""Figures over time, as monitors perceive them and detectors examine them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from phalanx.domain.actions import FlowStats


class TimeSeries(Struct, frozen=True):
    """One figure over time."""

    name: str
    """What is measured, such as ``link rate``."""
    subject: str
    """What it is measured of: a link or an address."""
    unit: str
    times: tuple[float, ...]
    """When each value was read, in seconds of the agent's clock; ascending."""
    values: tuple[float, ...]
    """As many as ``times``."""


class TrafficWindow(Struct, frozen=True):
    """What was seen in a span of time: series, flow records, or both. A percept of its own."""

    seconds: float
    series: tuple[TimeSeries, ...] = ()
    flows: tuple[FlowStats, ...] = ()
    unlisted: int = 0
    """Packets of flows that the recorder had no room for."""
    answering: tuple[str, ...] = ()
    """Targets that are known to answer others, though no answer is seen here."""


class Forecast(Struct, frozen=True):
    """What one metric of a service, or of a PoP, will be."""

    service: str
    metric: str
    at_s: float
    """When it was made, in seconds of the metrics' clock."""
    ahead_s: float
    value: float
    """In the metric's unit."""
    low: float
    high: float
    """Between these it lies nine times of ten."""
    skill: float | None = None
    """Squared error that such forecasts saved lately, in shares of that of saying that all stays as
    it is; None: nobody knows."""


INDICATORS = ("cores", "memory", "disk", "tx", "rx")
"""Of a PoP's load: shares of what it has; of its links that of the fullest, by direction."""
Advice = Literal["scale", "migrate", "throttle", "leave"]
"""What should be done about a PoP's load."""


class LoadOutlook(Struct, frozen=True):
    """One indicator of a PoP's load, as a share of what it has: what is, was usual, and will be."""

    name: str
    """One of ``INDICATORS``."""
    now: float
    expected: float
    low: float
    high: float
    """Between these it lies nine times of ten."""
    usual_low: float
    usual_high: float
    """Usual fluctuation; 0 and 1 while too little was seen."""
    skill: float
    """As of ``Forecast``."""


class WorkloadForecast(Struct, frozen=True):
    """What is expected of a PoP, whether that is odd, and what should be done (D3.3, 4.2)."""

    subject: str
    """Name of the PoP."""
    at_s: float
    """When it was made, in seconds of the agent's clock."""
    ahead_s: float
    """How far ahead it looks."""
    indicators: tuple[LoadOutlook, ...]
    anomaly: float
    """Likelihood that what happens is no usual growth, from 0 to 1."""
    signs: tuple[str, ...]
    """Signatures of anomalies that were seen: ``unusual``, ``sudden``, ``one-sided``, ``alarm``."""
    advice: Advice
    reason: str
