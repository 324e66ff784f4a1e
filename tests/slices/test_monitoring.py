"""Monitoring as a service: what it keeps, of whom, and that a loop goes on by it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.analytics.detectors import SIGNALLING_STORM
from phalanx.checking import check
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TimeSeries
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import run_scenario
from phalanx.slices.model import loops_of
from phalanx.slices.monitoring import (
    MOST_SAMPLES,
    MOST_SERIES,
    SAME_S,
    MonitoringSystem,
    SamplesRequest,
)
from phalanx.testing import LoopBench
from tests.nightly import at_night, examples, sample
from tests.slices.descriptors import slices_specs

STORM = load_scenario(Path(__file__).parents[2] / "scenarios" / "signalling-storm.yaml")
FIGURES = ("load", "requests")


def figure(name: str, times: list[float], value: float = 1.0) -> TimeSeries:
    return TimeSeries(name, "amf", "1/s", tuple(times), tuple(value + t for t in times))


# -- what it keeps ------------------------------------------------------------------------


@settings(max_examples=examples(24), deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=slices_specs(3), data=st.data())
def test_each_slice_is_answered_as_if_it_had_the_service_for_itself(spec, data) -> None:
    found = loops_of(spec)
    bench = LoopBench(found, MonitoringSystem, providers=("ms",))
    me = bench.nodes["ms"].agent
    shared = me.capability(MonitoringSystem)
    alone = {each.name: MonitoringSystem() for each in spec.slices}
    entities = sorted({loop.entity for loop in found} | {"nowhere"})
    now = 100.0
    for _ in range(data.draw(st.integers(1, 12))):
        now += data.draw(st.floats(0, 5))
        loop = data.draw(st.sampled_from(found))
        caller = data.draw(st.sampled_from([loop.name, "ms", "stranger"]))
        entity = data.draw(st.sampled_from([loop.entity, data.draw(st.sampled_from(entities))]))
        which = data.draw(st.sampled_from([each.name for each in spec.slices]))
        times = data.draw(st.lists(st.floats(0, 99), max_size=4, unique=True).map(sorted))
        names = data.draw(st.sets(st.sampled_from(FIGURES))) if times else ()
        request = SamplesRequest(which, entity, 99.0, tuple(figure(n, times) for n in names))
        refused = shared.objection(me, caller, request)
        mine = caller == loop.name and which in loop.slices
        serves = any(entity == x.entity and which in x.slices for x in found)
        assert bool(refused) == (not mine or not serves or bool(names and entity != loop.entity))
        if not refused:
            assert shared.serve(request, now) == alone[which].serve(request, now)


@given(
    st.lists(st.lists(st.floats(0, 1000), min_size=1, max_size=200, unique=True), max_size=5),
    st.floats(-1e6, 1e6),
)
def test_it_keeps_the_latest_of_each_figure_whatever_the_clocks_say(reports, ahead) -> None:
    service, kept = MonitoringSystem(), []
    for report in reports:
        times = sorted(report)[-MOST_SAMPLES:]
        if any(b - a < 1e-6 for a, b in pairwise(times)):
            continue  # no clock so far ahead tells them apart
        request = SamplesRequest("s", "amf", 1000.0, (figure("load", times),))
        answer = service.serve(request, 1000.0 + ahead)
        kept = [t for t in kept if t < times[0] - SAME_S] + times
        kept = kept[-MOST_SAMPLES:]
        (told,) = answer.series
        assert [t - ahead for t in told.times] == pytest.approx(kept, abs=1e-6)
        assert told.values == tuple(1.0 + t for t in kept)
        assert service.serve(request, 1000.0 + ahead) == answer  # said twice


@pytest.mark.parametrize(
    ("series", "line"),
    [
        ([TimeSeries("a", "amf", "", (), ())], r"series\[0\]: as many times as values, 1 to 120"),
        ([TimeSeries("a", "amf", "", (1.0, 2.0), (1.0,))], r"series\[0\]: as many times as"),
        ([figure("a", [float(n) for n in range(121)])], r"series\[0\]: as many times as values"),
        ([figure("a", [1.0]), figure("b", [2.0, 2.0])], r"series\[1\]\.times: not ascending"),
        ([figure("a", [300.0])], r"series\[0\]\.times: not ascending, or later than at_s"),
        ([figure("a" * 65, [1.0])], r"series\[0\]: a name has more than 64 signs"),
        ([figure(f"a{n}", [1.0]) for n in range(MOST_SERIES)], "series: more than 16 figures"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_of_it_is_kept(series, line) -> None:
    service = MonitoringSystem()
    before = service.serve(SamplesRequest("s", "amf", 9.0, (figure("load", [8.0]),)), 9.0)
    with pytest.raises(PhalanxError, match=f"^{line}"):
        service.serve(SamplesRequest("s", "amf", 200.0, tuple(series)), 200.0)
    assert service.serve(SamplesRequest("s", "amf", 9.0), 9.0) == before


# -- in a storm ---------------------------------------------------------------------------

LOOP_DIES, BEGAN = 64.0, 67.0


def monitored(*faults: FaultSpec, services: tuple[str, ...] = ("ms-a", "ms-b")) -> Scenario:
    """Return the storm, from second 67 on, at a RAN whose loop has its figures kept."""
    assert STORM.slices is not None
    subnets = tuple(
        replace(s, capabilities=(*s.capabilities, "shared-monitoring")) if s.name == "ran" else s
        for s in STORM.slices.subnets
    )
    agents = tuple(DeclaredAgent(n, "domain", ("monitoring-system",)) for n in services)
    traffic = tuple(
        replace(group, start_s=BEGAN if group.name == "storm" else group.start_s)
        for group in STORM.traffic
        if group.name != "newcomers"
    )
    return replace(
        STORM,
        slices=replace(STORM.slices, subnets=subnets),
        agents=(*STORM.agents, *agents),
        traffic=traffic,
        faults=faults,
    )


def dies(agent: str, at: float, for_s: float | None = None) -> FaultSpec:
    return FaultSpec(at, "crash", agent=agent, for_s=for_s)


def sums(plan: Scenario) -> tuple[list[Any], Any]:
    """Return the storms that the RAN's loop found, and the result of the run."""
    result = run_scenario(plan, until=BEGAN + 12)
    found = [e for e in result.events if e.data.get("trouble") == SIGNALLING_STORM]
    return [e for e in found if e.agent == "nssi-ran"], result


@pytest.mark.parametrize("first_dies", sample([None, 50.0], 2))
def test_a_loop_that_is_started_anew_goes_on_with_what_was_usual(first_dies) -> None:
    gone = () if first_dies is None else (dies("ms-a", first_dies),)
    found, result = sums(monitored(*gone, dies("nssi-ran", LOOP_DIES, 1.0)))
    (storm,) = found
    assert BEGAN < storm.time < BEGAN + 10
    assert check(result.events) == []


@at_night
def test_without_a_service_left_a_loop_started_anew_has_to_learn() -> None:
    gone = [dies(name, 50.0) for name in ("ms-a", "ms-b")]
    found, result = sums(monitored(*gone, dies("nssi-ran", LOOP_DIES, 1.0)))
    assert found == []
    assert check(result.events) == []


@at_night
def test_a_loop_whose_services_are_dead_finds_a_storm_by_itself() -> None:
    found, _ = sums(monitored(*[dies(name, 50.0) for name in ("ms-a", "ms-b")]))
    (storm,) = found
    assert BEGAN < storm.time < BEGAN + 10
