"""Figures over time, as monitors perceive them and detectors examine them."""

from __future__ import annotations

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
