"""Analytics and monitoring as services: loops of several slices share them, and none learns of
another slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from phalanx.analytics.detectors import SIGNALLING_STORM, load_detector
from phalanx.analytics.signalling_rules import AGAIN, REQUESTS
from phalanx.bdi.capability import Capability, perceives
from phalanx.checking import check
from phalanx.domain.actions import FlowStats, Invoke, Invoked
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import System, run_scenario
from phalanx.slices.analytics import EXAMINE, AnalyticsEngine, ExamineRequest
from phalanx.slices.model import SlicesSpec
from phalanx.slices.monitoring import MonitoringSystem, SamplesRequest
from phalanx.slices.services import LoopService, SliceRequest
from tests.nightly import at_night, examples, sample
from tests.slices.descriptors import slices_specs

SCENARIOS = Path(__file__).parents[2] / "scenarios"
RING = load_scenario(SCENARIOS / "quickstart-ring.yaml")
STORM = load_scenario(SCENARIOS / "signalling-storm.yaml")
RULES = "signalling-rules"
AE = DeclaredAgent("nwdaf", "domain", ("analytics-engine",))


def window(subject: str, last: float = 400.0) -> TrafficWindow:
    """Return what a storm looks like: a minute of 50 requests/s, then many more, asked again."""
    times = tuple(float(t) for t in range(0, 66, 2))
    usual = (50.0,) * (len(times) - 1)
    every = TimeSeries(REQUESTS, subject, "requests/s", times, (*usual, last))
    again = TimeSeries(AGAIN, subject, "requests/s", times, (*(5.0,) * len(usual), last * 0.8))
    return TrafficWindow(64.0, (every, again))


# -- what it examines ---------------------------------------------------------------------

figures = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 60.0, 1e308])
columns = st.lists(figures, max_size=5).map(tuple)
series = st.builds(
    TimeSeries, st.sampled_from([REQUESTS, AGAIN, "x"]), st.sampled_from(["a", ""]), st.just("u"),
    columns, columns,
)  # fmt: skip
number = st.integers(-3, 1 << 40)
flows = st.builds(
    FlowStats, st.just("10.0.0.1"), st.just("10.0.0.2"), st.sampled_from([38412, 0, -1]),
    st.sampled_from(["tcp", "udp", ""]), number, number, number, number, number,
)  # fmt: skip
windows = st.builds(
    TrafficWindow, figures, st.lists(series, max_size=4).map(tuple), st.lists(flows).map(tuple)
)


@settings(max_examples=examples(40), deadline=None)
@example(window("ran"), RULES)
@given(windows, st.sampled_from([RULES, "fixed-rules", "service-rules", "model:/etc/passwd", "no"]))
def test_it_finds_what_the_detector_finds_or_refuses_in_one_line(seen, detector) -> None:
    request = ExamineRequest("s", detector, seen)
    try:
        found: Any = AnalyticsEngine().serve(request).findings
    except PhalanxError as refusal:
        found = str(refusal)
    if isinstance(found, str):
        assert "\n" not in found
        assert "Traceback" not in found
    else:
        assert repr(found) == repr(tuple(load_detector(detector).examine(seen)))  # with NaN


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (
            ExamineRequest("s", "model:/etc/passwd", window("r")),
            "detector: 'model:/etc/passwd'",
        ),
        (ExamineRequest("s", "nothing", window("r")), "no detector 'nothing'; known are"),
        (
            ExamineRequest("s", RULES, TrafficWindow(1.0, (TimeSeries("a", "b", "c", (), ()),))),
            "window.series: each needs",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(request_, line: str) -> None:
    with pytest.raises(PhalanxError, match=f"^{line}"):
        AnalyticsEngine().serve(request_)


# -- who may ask whom ---------------------------------------------------------------------


class Ask(Struct, frozen=True):
    """Percept of a test: have something of a slice examined, or kept."""

    slice: str
    subject: str
    last: float = 400.0
    service: type[LoopService] = AnalyticsEngine

    def request(self) -> SliceRequest:
        seen = window(self.subject, self.last)
        if self.service is AnalyticsEngine:
            return ExamineRequest(self.slice, RULES, seen)
        return SamplesRequest(self.slice, self.subject, 100.0, seen.series)


class Asker(Capability):
    """Asks as it is told, also what it may not."""

    name = "asker"
    said: list[tuple[str, str, Any]] = []  # noqa: RUF012

    @perceives(Ask)
    def ask(self, me, percept):
        service = percept.service
        what = Invoke(service.name, service.operation, percept.request(), percept.slice)
        me.perform(what, lambda outcome: self.said.append((me.name, percept.slice, outcome)))


def two_slices(spec: SlicesSpec, *agents: DeclaredAgent, **brings: tuple[str, ...]) -> System:
    """Compose the loops of a descriptor; all of them can ask."""
    hosts = dict.fromkeys(("host1", "host2", "host3"), RING.hosts[0].name)

    def can(prefix: str, part: Any) -> Any:
        more = brings.get(f"{prefix}-{part.name}".replace("-", "_"), ())
        return replace(part, capabilities=("asker", *more))

    spec = replace(
        spec,
        functions=tuple(
            replace(can("sem", each), host=hosts.get(each.host, each.host))
            for each in spec.functions
        ),
        subnets=tuple(can("nssi", each) for each in spec.subnets),
        slices=tuple(can("nsi", each) for each in spec.slices),
    )
    plan: Scenario = replace(RING, slices=spec, agents=agents, traffic=(), monitors=(), faults=())
    return System(plan, functions=(Asker,))


@settings(max_examples=examples(6), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    spec=slices_specs(3),
    service=st.sampled_from([AnalyticsEngine, MonitoringSystem]),
    data=st.data(),
)
def test_no_loop_is_asked_about_a_slice_that_it_may_not_know(
    spec, service, data, monkeypatch
) -> None:
    names = [f"nsi_{each.name}" for each in spec.slices]
    serving = data.draw(st.sets(st.sampled_from(names), max_size=3))
    provider = (replace(AE, capabilities=(service.name,)),) if data.draw(st.booleans()) else ()
    asked: list[tuple[str, str, Any]] = []
    objection = LoopService.objection

    def noted(self, me, caller, request):
        asked.append((me.name, caller, request))
        return objection(self, me, caller, request)

    monkeypatch.setattr(LoopService, "objection", noted)
    monkeypatch.setattr(Asker, "said", [])
    brings = dict.fromkeys(serving, (service.name,))
    system = two_slices(spec, *provider, **brings)
    loops = {x.name: x for x in system.scenario.loops() if "asker" in x.capabilities}
    for number, (name, loop) in enumerate(sorted(loops.items())):
        for each in spec.slices:
            node = system.agents[name].node
            tell = Ask(each.name, loop.entity, 400.0 + number, service)
            system.clock.call_at(1.0, lambda n=node, t=tell: n.tell(t, system.cause))
    system.run(4.0)
    for owner, caller, request in asked:
        assert owner == AE.name or request.slice in loops[owner].slices
        told = request.window.series if service is AnalyticsEngine else request.series
        assert told[0].subject == loops[caller].entity
    assert len(Asker.said) == len(loops) * len(spec.slices)
    for name, of, outcome in Asker.said:
        mine, number = of in loops[name].slices, sorted(loops).index(name)
        if isinstance(outcome, Invoked):  # and then as if it were alone
            assert mine
            seen = window(loops[name].entity, 400.0 + number)
            if service is AnalyticsEngine:
                assert list(outcome.answer.findings) == load_detector(RULES).examine(seen)
                assert [f.target for f in outcome.answer.findings] == [loops[name].entity]
            else:
                told = sorted(outcome.answer.series, key=lambda one: one.name)
                expected = sorted(seen.series, key=lambda one: one.name)
                assert [(o.subject, o.values) for o in told] == [
                    (o.subject, o.values) for o in expected
                ]
        elif mine:
            served = {f"nsi-{n[4:]}" for n in serving if of in loops[f"nsi-{n[4:]}"].slices}
            others = (served | {a.name for a in provider}) - {name}
            assert not others


def test_a_loop_that_asks_about_another_slice_is_refused_and_that_is_audited(monkeypatch) -> None:
    monkeypatch.setattr(Asker, "said", [])
    spec = slices_of_two()
    system = two_slices(spec, AE)
    for of in ("video", "iot"):
        tell = Ask(of, "core")
        node = system.agents["nssi-core"].node
        system.clock.call_at(1.0, lambda n=node, t=tell: n.tell(t, system.cause))
    events = system.run(4.0).events
    (good, bad) = sorted(Asker.said, key=lambda said: said[1], reverse=True)
    assert isinstance(good[2], Invoked)
    assert good[2].by == AE.name
    assert bad[2].reason == "nwdaf: nssi-core is no loop of slice iot"
    (refused,) = [e for e in events if e.kind == "access.refused"]
    assert refused.agent == AE.name
    assert {"nssi-core", "examine"} <= {*refused.data.values()}


def test_figures_that_are_none_are_refused_on_the_way(monkeypatch) -> None:
    monkeypatch.setattr(Asker, "said", [])
    system = two_slices(slices_of_two(), AE)
    node, tell = system.agents["nssi-core"].node, Ask("video", "core", float("nan"))
    system.clock.call_at(1.0, lambda: node.tell(tell, system.cause))
    system.run(4.0)
    ((_, _, outcome),) = Asker.said
    assert outcome.reason.startswith("nwdaf: no request of 'examine'")


def test_an_engine_in_a_plan_without_slices_serves_nobody() -> None:
    guard = DeclaredAgent("guard", pop="north", capabilities=("intrusion-guard",))
    system = System(replace(RING, agents=(AE, guard)))
    system.run(2.0)
    served = system.agents[AE.name].fabric.provider.operations
    assert EXAMINE.name not in served


def slices_of_two() -> SlicesSpec:
    text = """
    {"functions": [{"name": "upf", "kind": "UPF", "host": "host1"},
                   {"name": "smf", "kind": "SMF", "host": "host1"}],
     "subnets": [{"name": "core", "domain": "CN", "functions": ["upf"]},
                 {"name": "edge", "domain": "CN", "functions": ["smf"]}],
     "slices": [{"name": "video", "s_nssai": {"sst": 1}, "subnets": ["core"]},
                {"name": "iot", "s_nssai": {"sst": 3}, "subnets": ["edge"]}]}
    """
    return msgspec.json.decode(text, type=SlicesSpec)


# -- in a storm ---------------------------------------------------------------------------


def sharing(**changes: Any) -> Scenario:
    """Return the storm of one slice whose RAN loop has what it adds up examined by a service."""
    assert STORM.slices is not None
    subnets = tuple(
        replace(s, capabilities=(*s.capabilities, "shared-analytics")) if s.name == "ran" else s
        for s in STORM.slices.subnets
    )
    slices = replace(STORM.slices, subnets=subnets)
    return replace(STORM, slices=slices, agents=(*STORM.agents, AE), **changes)


@at_night
@pytest.mark.parametrize("dies", sample([True, False], 2))
def test_a_storm_is_found_with_the_service_and_without_it_once_it_is_dead(dies: bool) -> None:
    faults = (FaultSpec(60.0, "crash", agent=AE.name),) if dies else ()
    began = 66.0
    traffic = (
        replace(group, start_s=began if group.name == "storm" else 0.0)
        for group in STORM.traffic
        if group.name in ("devices", "storm")
    )
    result = run_scenario(sharing(faults=faults, traffic=tuple(traffic)), until=began + 9)
    found = [e for e in result.events if e.data.get("trouble") == SIGNALLING_STORM]
    (sum_of_all,) = [e for e in found if e.agent == "nssi-ran"]
    assert sum_of_all.data["detector"] == (RULES if dies else f"{RULES} of nwdaf")
    assert began < sum_of_all.time < began + 8
    assert check(result.events) == []
