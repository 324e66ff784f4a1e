"""A signalling storm is told from a crowd, and its devices from those that follow their timers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.analytics.detectors import SIGNALLING_STORM, Finding, load_detector
from phalanx.analytics.signalling_rules import AGAIN, NGAP, REQUESTS, asked
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TimeSeries, TrafficWindow

AMF = "10.0.6.10"
Look = tuple[float, float]
"""Requests a second, and those of devices that asked just before."""


def flow(device: int, requests: int, port: int = NGAP) -> FlowStats:
    packets = 10 * requests
    return FlowStats(
        f"10.1.0.{device}", AMF, port, "tcp", packets, 150 * packets, requests, requests, 0
    )


def examine(looks: list[Look], every_s: float = 5.0) -> list[Finding]:
    times = tuple(every_s * i for i in range(len(looks)))
    kinds = zip((REQUESTS, AGAIN), zip(*looks, strict=True), strict=True)
    series = (TimeSeries(kind, "ran", "requests/s", times, of) for kind, of in kinds)
    return load_detector("signalling-rules").examine(TrafficWindow(times[-1], tuple(series)))


def test_a_storm_that_no_gnb_shows_is_found_in_the_sum() -> None:
    """Four gNBs, each of which was as busy before, at another time, as all are now."""
    usual: list[list[Look]] = [
        [(70.0, 25.0) if look % 16 == 4 * gnb else (10.0, 1.0) for look in range(20)]
        for gnb in range(4)
    ]
    storm: Look = (90.0, 55.0)
    for looks in usual:
        assert not examine([*looks, storm])
    sums = [(sum(a for a, _ in at), sum(b for _, b in at)) for at in zip(*usual, strict=True)]
    (found,) = examine([*sums, (4 * storm[0], 4 * storm[1])])
    assert (found.kind, found.target, found.source) == (SIGNALLING_STORM, "ran", None)
    assert found.evidence["requests_s"] == 360.0
    assert found.evidence["usual_s"] == 100.0
    assert not examine(sums)


@given(st.floats(2, 1000), st.floats(0, 0.1))
def test_a_crowd_that_asks_once_each_is_none(times: float, again: float) -> None:
    calm = [(40.0, 3.0)] * 20
    assert not examine([*calm, (40.0 * times, 40.0 * times * again)])


@pytest.mark.parametrize("seconds", [0.0, 50.0])
def test_what_is_usual_has_to_be_known(seconds: float) -> None:
    looks = [(10.0, 1.0)] * 11 + [(100.0, 80.0)]
    assert not examine(looks, seconds / 11)
    assert examine(looks, 6.0)


def test_devices_are_named_that_ask_more_often_than_their_timers_allow() -> None:
    flows = (flow(1, 1), flow(2, 4), flow(3, 9), flow(3, 3), flow(4, 50, port=443))
    found = load_detector("signalling-rules").examine(TrafficWindow(8.0, (), flows))
    assert [(f.source, f.target, f.kind) for f in found] == [("10.1.0.3", AMF, SIGNALLING_STORM)]
    assert found[0].reason == "asked 12 times in 8 s, its timers allow 7"
    assert asked(flows)["10.1.0.3", AMF] == 12


def test_a_device_that_registers_and_asks_for_sessions_is_hardly_ever_named() -> None:
    """One in five seconds at random; a storm's ask twice a second."""
    draw = Random(1)

    def look(rate: float) -> int:
        return sum(draw.random() < rate / 100 for _ in range(300))  # of 3 s

    def named(rate: float) -> float:
        flows = tuple(flow(i, look(rate)) for i in range(1000))
        window = TrafficWindow(3.0, (), flows)
        return len(load_detector("signalling-rules").examine(window)) / 1000

    assert named(0.2) < 0.005
    assert named(2.0) > 0.6
