"""What an IDS finds leads to decisions of the loop of the function, and to nothing else.

The simulated network has no packets, so alerts are written here; ``test_ids_linux.py`` has those of
Suricata.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from phalanx.bdi.capability import Capability, starts
from phalanx.bdi.steps import Adopt
from phalanx.checking import check
from phalanx.domain.actions import Enforce, MeasureSample, PacketAlert, ReadMeasure
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Event
from phalanx.domain.goals import want
from phalanx.domain.predicates import Firewalled
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.functions.ids import MOST, Ids, Inspected, inspection_of
from phalanx.infrastructure.simulated import OFFERED
from phalanx.reporting.event_text import describe
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.simulation import SimulatedEnvironment
from phalanx.runtime.system import System, run_scenario

ROOT = Path(__file__).parents[2]
AMF, WEB = "10.0.0.11", "10.0.0.10"
SLICES = {
    "functions": [
        {"name": "amf", "kind": "AMF", "host": "amf", "capabilities": ["intrusion-guard"]}
    ],
    "subnets": [{"name": "core", "domain": "CN", "functions": ["amf"]}],
    "slices": [{"name": "iot", "s_nssai": {"sst": 3}, "subnets": ["core"]}],
}
Script = Callable[[float], list[PacketAlert]]
"""The alerts that an IDS holds at a time."""


def alert(number: int, source: str, target: str = AMF, protocol: str = "tcp") -> PacketAlert:
    return PacketAlert(number, source, target, protocol, 7, "asks for what it may not have")


class Copying(SimulatedEnvironment):
    """A network that hands out copies, and in which alerts are those of a script."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script

    @property
    def verdicts(self) -> frozenset[TrafficVerdict]:
        return OFFERED | {TrafficVerdict.MIRROR}

    def build(self, context):
        network = super().build(context)
        perform, mirrors = network.perform, set()

        def copy(pop, action, cause, answer):
            if isinstance(action, Enforce) and action.rule.verdict is TrafficVerdict.MIRROR:
                mirrors.add(action.measure)  # what it does to traffic is to let it pass
                rule = TrafficRule(action.rule.match, TrafficVerdict.SPLIT)
                perform(pop, replace(action, rule=rule), cause, answer)
            elif isinstance(action, ReadMeasure) and action.measure in mirrors:
                answer(MeasureSample(0.1, 0.0, alerts=tuple(self._script(self.clock.now()))))
            else:
                perform(pop, action, cause, answer)

        network.perform = copy
        return network


def raw(**more: object) -> dict[str, object]:
    text = yaml.safe_load((ROOT / "scenarios" / "quickstart-ring.yaml").read_text())
    text["hosts"].append({"name": "amf", "at": "south", "address": AMF, "bandwidth_mb_s": 6})
    group = {"profile": "http", "count": 4, "at": ["north", "west"], "demand_mb_s": 0.1}
    text["traffic"] = [{**group, "name": "devices", "target": "amf", "port": 38412}]
    text |= {"duration_s": 60, "monitors": [], "strategy": "service", "slices": SLICES}
    text |= {"functions": {"firewall": {"image_mb": 1}, "ids": {}}, "parameters": {}}
    return text | more


def run(script: Script, *functions: type[Capability], **more: object) -> list[Event]:
    scenario = parse_scenario(json.dumps(raw(**more)), "ids.yaml")
    return System(scenario, functions=functions, environment=Copying(script)).run().events


def of(events: list[Event], kind: str, **data: object) -> list[Event]:
    return [e for e in events if e.kind == kind and data.items() <= e.data.items()]


def closed(source: str) -> str:
    return str(Firewalled("iot", "amf", AMF, source=source))


def got(events: list[Event], at_s: float) -> float:
    sample = [e for e in of(events, "network.sample") if e.time <= at_s][-1]
    return sample.data["hosts"]["amf"]["legitimate_mb_s"]


def test_without_packets_it_is_refused_by_name() -> None:
    with pytest.raises(ScenarioError, match=r"^functions\.ids: nothing here can mirror traffic"):
        run_scenario(parse_scenario(json.dumps(raw()), "ids.yaml"))


@pytest.mark.parametrize("slice_name", ["", "iot"])
def test_a_rule_does_what_its_name_says_and_any_other_is_seen(slice_name: str) -> None:
    effect, rule = str(Inspected(slice_name, "amf", AMF)), inspection_of(AMF)
    assert rule.problem([TrafficVerdict.MIRROR]) is None
    assert Ids.confirms(effect, rule)
    assert not Ids.confirms(effect, inspection_of(WEB))
    assert not Ids.confirms(effect, replace(rule, verdict=TrafficVerdict.DROP))
    assert not Ids.confirms(str(Firewalled("iot", "amf", AMF)), rule)


@pytest.mark.parametrize(
    "match", [TrafficMatch(target=AMF, source=WEB), TrafficMatch("a>b"), TrafficMatch(entry="a")]
)
def test_part_of_what_goes_to_an_address_is_not_copied(match: TrafficMatch) -> None:
    rule = TrafficRule(match, TrafficVerdict.MIRROR)
    assert rule.problem([TrafficVerdict.MIRROR]) is not None


def test_the_loop_of_the_function_decides_and_the_source_is_shut_out_for_a_while() -> None:
    device = "10.1.0.1"
    events = run(lambda now: [alert(1, device)] if now > 20 else [], parameters={"ids_hold_s": 15})
    (found,) = of(events, "trouble.diagnosed")
    assert (found.agent, found.data["trouble"]) == ("south", "intrusion")
    assert describe(found).endswith(f"it is sent by {device} what asks for what it may not have")
    passed = [(e.agent, e.data["to"], e.data["goal"]) for e in of(events, "loop.passed")]
    assert passed == [
        ("sem-amf", "south", f"inspected(iot, amf, {AMF})"),
        ("south", "sem-amf", "¬entityTrouble(iot, amf, intrusion)"),
        ("sem-amf", "south", "intrudersShutOut(iot, amf)"),
    ]
    assert len(of(events, "loop.relieved")) == 3
    (applied,) = of(events, "measure.applied", effect=closed(device))
    (lifted,) = of(events, "measure.lifted", effect=closed(device))
    assert found.time < applied.time < found.time + 3
    assert lifted.time - applied.time == pytest.approx(15, abs=1)
    assert [got(events, at_s) for at_s in (15, 30, 55)] == pytest.approx([0.4, 0.3, 0.4], rel=0.1)
    assert check(events) == []


def test_who_goes_on_is_shut_out_again() -> None:
    device = "10.1.0.1"
    events = run(
        lambda now: [alert(n + 1, device) for n, at in enumerate((20, 45)) if now > at],
        parameters={"ids_hold_s": 10},
    )
    times = [e.time for e in of(events, "measure.applied", effect=closed(device))]
    assert times == [pytest.approx(21.5, abs=1.5), pytest.approx(46.5, abs=1.5)]


def test_of_a_source_that_may_be_forged_nothing_follows_but_a_word() -> None:
    events = run(lambda now: [alert(1, "10.1.0.1", protocol="udp")] if now > 20 else [])
    (found,) = of(events, "trouble.diagnosed")
    assert not of(events, "measure.applied", effect=closed("10.1.0.1"))
    assert found.agent == "south"


def test_what_others_get_or_answer_shuts_nobody_out() -> None:
    events = run(lambda now: [alert(1, "10.1.0.1", WEB), alert(2, AMF, "10.1.0.1")][: int(now)])
    assert not of(events, "trouble.diagnosed")
    assert not [e for e in of(events, "measure.applied") if "firewalled" in e.data["effect"]]


def test_alerts_of_many_sources_cost_no_more_than_those_that_are_shut_out() -> None:
    """One word for each rule in each look, and 64 sources at a time; what was lost is counted."""

    def flood(now: float) -> list[PacketAlert]:
        first = int(now * 1000)
        numbers = range(first, first + 256) if now > 20 else ()
        return [alert(n + 1, f"10.9.{n // 250 % 250}.{n % 250 + 1}") for n in numbers]

    events = run(flood, duration_s=30, functions={"firewall": {"image_mb": 1}, "ids": {}})
    shut = {e.data["effect"] for e in of(events, "measure.applied") if "firew" in e.data["effect"]}
    assert len(shut) == MOST
    words = of(events, "trouble.diagnosed")
    assert 1 < len(words) <= 21
    assert words[-1].data["evidence"]["lost_alerts"] > 0


class Watched(Capability):
    """Wants the AMF inspected, as an agent that is no loop."""

    name = "watched"

    @starts
    def begin(self, me):
        if me.name == "operator":
            yield Adopt(want(Inspected("", "", AMF)))


def test_an_agent_that_is_no_loop_has_what_it_wants_inspected_shut_out_at_once() -> None:
    agents = [{"name": "operator", "pop": "south", "capabilities": ["watched"]}]
    more = {"agents": agents, "slices": None}
    events = run(lambda now: [alert(1, "10.1.0.1")] if now > 20 else [], Watched, **more)
    effect = str(Firewalled("", "", AMF, source="10.1.0.1"))
    assert len(of(events, "measure.applied", effect=effect)) == 1


def test_an_interval_of_nothing_stops_no_run() -> None:
    events = run(lambda _: [], parameters={"ids_interval_s": 0.0}, duration_s=10)
    assert events[-1].time == 10


@pytest.mark.parametrize(
    ("brings", "line"),
    [
        ("ids", "sem-amf.capabilities: ids: it has a VNF, and loops deploy none"),
        ("idss", "no such"),
    ],
)
def test_a_loop_that_is_to_be_an_ids_itself_is_refused(brings: str, line: str) -> None:
    functions = [{**SLICES["functions"][0], "capabilities": [brings]}]
    with pytest.raises(ScenarioError, match=line):
        run(lambda _: [], slices={**SLICES, "functions": functions})


def test_where_no_vnf_is_offered_the_loop_says_so_and_goes_on() -> None:
    events = run(lambda _: [], functions={"firewall": {"image_mb": 1}}, duration_s=10)
    ended = of(events, "goal.ended", goal=f"inspected(iot, amf, {AMF})", outcome="failed")
    assert [e.agent for e in ended] == ["sem-amf"]
