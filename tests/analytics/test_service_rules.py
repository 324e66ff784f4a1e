"""The rules that tell a service's troubles from its metrics."""

from __future__ import annotations

import random

import pytest

from phalanx.analytics.detectors import Finding, load_detector
from phalanx.analytics.service_rules import (
    AHEAD_S,
    FULL,
    HIGH_CPU,
    HIGH_MEMORY,
    IN_A_ROW,
    LEARNED,
    LOAD_STEP,
    NETWORK_DELAY,
    TRAFFIC_SPIKE,
)
from phalanx.analytics.source_rules import aggregate, request_floods
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TimeSeries, TrafficWindow

IP = "10.0.0.10"
BEFORE = [100.0] * LEARNED
CALM = [0.3] * (LEARNED + IN_A_ROW)


def series(name: str, values: list[float], subject: str = IP) -> TimeSeries:
    times = tuple(float(second) for second in range(len(values)))
    return TimeSeries(name, subject, name.partition("_")[2], times, tuple(values))


def found(*windows: TimeSeries) -> list[Finding]:
    return load_detector("service-rules").examine(TrafficWindow(60.0, windows))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cpu_share", HIGH_CPU), ("memory_share", HIGH_MEMORY), ("connections_share", FULL)],
)
def test_what_is_used_up_three_times_in_a_row_is_too_much(name: str, kind: str) -> None:
    (finding,) = found(series(name, [0.2, 0.9, 0.95, 0.86]))
    assert (finding.kind, finding.target, finding.source) == (kind, IP, None)
    assert finding.evidence == {name: 0.86}
    assert not found(series(name, [0.9, 0.9, 0.84]))
    assert not found(series(name, [0.9, 0.9, 0.84, 0.9, 0.9]))
    assert not found(series(name, [0.9, 0.9]))


def test_a_spike_is_told_by_what_is_usual_and_only_where_it_matters() -> None:
    busy = series("cpu_share", [0.3] * LEARNED + [0.7] * IN_A_ROW)
    (finding,) = found(series("requests_s", [*BEFORE, 210.0, 220.0, 230.0]), busy)
    assert finding.kind == TRAFFIC_SPIKE
    assert finding.evidence == {"requests_s": 210.0, "usual_s": 100.0}
    assert not found(series("requests_s", [*BEFORE, 210.0, 190.0, 230.0]), busy)
    idle = series("cpu_share", [0.1] * LEARNED + [0.5] * IN_A_ROW)
    assert not found(series("requests_s", [*BEFORE, 210.0, 220.0, 230.0]), idle)
    assert not found(series("requests_s", [100.0, 210.0, 220.0, 230.0]), busy)


def test_of_several_overloads_one_is_named() -> None:
    full = series("cpu_share", [0.3] * LEARNED + [0.99] * IN_A_ROW)
    spike = series("requests_s", [*BEFORE, 400.0, 400.0, 400.0])
    assert [f.kind for f in found(full, spike)] == [TRAFFIC_SPIKE]
    assert [f.kind for f in found(full, series("requests_s", [*BEFORE, 150.0, 150.0, 150.0]))] == [
        HIGH_CPU
    ]


def test_growth_that_will_be_too_much_soon_is_an_alarm_before_it_is() -> None:
    slope = 0.02
    growing = [0.4 + slope * second for second in range(LEARNED)]
    (finding,) = found(series("cpu_share", growing))
    assert finding.kind == LOAD_STEP
    assert finding.evidence["expected_share"] == pytest.approx(growing[-1] + slope * AHEAD_S)
    assert growing[-1] < 0.85
    assert not found(series("cpu_share", [0.4 + 0.005 * s for s in range(LEARNED)]))
    assert not found(series("cpu_share", [0.1 + slope * s for s in range(LEARNED)]))


def test_noise_is_no_growth() -> None:
    rng = random.Random(7)
    alarms = sum(
        bool(found(series("cpu_share", [rng.gauss(0.6, 0.05) for _ in range(LEARNED)])))
        for _ in range(1000)
    )
    assert alarms <= 20


def test_a_delay_is_told_for_each_entry_by_itself() -> None:
    slow = series("rtt_ms", [20.0] * LEARNED + [90.0] * IN_A_ROW, "west")
    fine = series("rtt_ms", [20.0] * LEARNED + [60.0] * IN_A_ROW, "east")
    (finding,) = found(slow, fine, series("cpu_share", CALM))
    assert (finding.kind, finding.target) == (NETWORK_DELAY, "west")
    assert finding.evidence == {"rtt_ms": 90.0, "usual_ms": 20.0}


def test_nothing_is_said_of_a_service_that_is_well_or_of_no_metrics() -> None:
    assert found() == []
    assert found(series("cpu_share", CALM), series("requests_s", BEFORE)) == []


def flow(source: str, syn: int) -> FlowStats:
    return FlowStats(source, IP, 443, "tcp", 10 * syn, 400 * syn, syn, syn, 9 * syn)


def test_sources_that_ask_for_more_than_a_user_are_named_but_known_proxies_are_not() -> None:
    flows = aggregate([flow("user", 12), flow("bot", 300), flow("proxy", 300), flow("few", 60)])
    assert [f.source for f in request_floods(flows, 3.0)] == ["bot", "proxy"]
    assert [f.source for f in request_floods(flows, 3.0, {"proxy": 70.0})] == ["bot"]
    assert [f.source for f in request_floods(flows, 3.0, {"proxy": 20.0})] == ["bot", "proxy"]
    assert not request_floods(aggregate([flow("bot", 20)]), 0.2)
