"""The firewall closes passages, and leaves all others open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from phalanx.bdi.capability import Capability, starts
from phalanx.bdi.steps import Adopt
from phalanx.domain.events import Event
from phalanx.domain.goals import avert, want
from phalanx.domain.predicates import Firewalled
from phalanx.domain.rules import TrafficVerdict
from phalanx.functions.firewall import Firewall, rule_of
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.system import System, run_scenario

ROOT = Path(__file__).parents[2]
AMF, WEB = "10.0.0.11", "10.0.0.10"


SLICES = {
    "functions": [{"name": "amf", "kind": "AMF", "host": "amf", "capabilities": ["wary"]}],
    "subnets": [{"name": "core", "domain": "CN", "functions": ["amf"]}],
    "slices": [{"name": "iot", "s_nssai": {"sst": 3}, "subnets": ["core"]}],
}
CLOSED = Firewalled("iot", "amf", AMF, "tcp", 38412)


class Wary(Capability):
    """Of the loop of the AMF: wants it closed for ten seconds."""

    name = "wary"

    @starts
    def begin(self, me):
        me.call_at(me.now + 10, lambda: [Adopt(want(CLOSED))])
        me.call_at(me.now + 20, lambda: [Adopt(avert(CLOSED))])


class Operator(Capability):
    """Wants a port closed after ten seconds, and open again after twenty."""

    name = "operator"

    @starts
    def begin(self, me):
        closed = Firewalled("", "", WEB, "tcp", 8080)
        me.call_at(me.now + 10, lambda: [Adopt(want(closed))])
        me.call_at(me.now + 20, lambda: [Adopt(avert(closed))])


def raw(**more: object) -> dict[str, object]:
    raw = yaml.safe_load((ROOT / "scenarios" / "quickstart-ring.yaml").read_text())
    raw["hosts"].append({"name": "amf", "at": "south", "address": AMF, "bandwidth_mb_s": 6})
    web = {"profile": "http", "count": 4, "at": ["north", "west"], "demand_mb_s": 0.1}
    raw["traffic"] = [
        {**web, "name": "customers", "target": "shop", "port": 443},
        {**web, "name": "testers", "target": "shop", "port": 8080},
        {**web, "name": "devices", "target": "amf", "port": 38412},
    ]
    raw |= {"duration_s": 60, "functions": {"firewall": {"image_mb": 1}}}
    raw |= {"monitors": [], "parameters": {}, "strategy": "service"}
    raw["agents"] = [{"name": "operator", "pop": "south", "capabilities": ["operator"]}]
    return raw | more


def run(*functions: type[Capability], **more: object) -> list[Event]:
    plan = parse_scenario(json.dumps(raw(**more)), "f.yaml")
    return run_scenario(plan, functions=functions).events


def got(events: list[Event], host: str, at_s: float) -> float:
    """Return what arrived at a host at some second, in MB/s."""
    sample = [e for e in events if e.kind == "network.sample" and e.time <= at_s][-1]
    return sample.data["hosts"][host]["legitimate_mb_s"]


def of(events: list[Event], kind: str, **data: object) -> list[Event]:
    return [e for e in events if e.kind == kind and data.items() <= e.data.items()]


@pytest.mark.parametrize(
    "closed",
    [
        Firewalled("", "", WEB),
        Firewalled("", "", WEB, "tcp", 8080),
        Firewalled("", "", WEB, "udp"),
        Firewalled("", "", WEB, source="10.1.0.1"),
    ],
)
def test_a_rule_does_what_its_name_says_and_any_other_is_seen(closed: Firewalled) -> None:
    rule = rule_of(closed)
    assert rule.problem((TrafficVerdict.DROP,)) is None
    assert Firewall.confirms(str(closed), rule)
    assert not Firewall.confirms(str(closed), rule_of(Firewalled("", "", AMF)))
    assert not Firewall.confirms(str(Firewalled("", "", WEB, "tcp", 443)), rule)


def test_a_port_is_closed_while_that_is_wanted_and_nothing_else() -> None:
    events = run(Operator)
    (applied,) = of(events, "measure.applied")
    (lifted,) = of(events, "measure.lifted")
    assert applied.data["effect"] == "firewalled(, , 10.0.0.10, tcp, 8080, )"
    assert (applied.time, lifted.time) == (pytest.approx(12, abs=2), pytest.approx(20.5, abs=1))
    assert got(events, "shop", 8) == pytest.approx(0.8, rel=0.1)
    assert got(events, "shop", 40) == pytest.approx(0.8, rel=0.1)
    assert got(events, "shop", 17) == pytest.approx(0.4, rel=0.1)
    assert got(events, "amf", 17) == pytest.approx(0.4, rel=0.1)


def test_a_loop_asks_for_it_though_it_deploys_nothing_itself() -> None:
    events = run(Wary, agents=[], slices=SLICES)
    passed = [(e.agent, e.data["to"], e.data["goal"]) for e in of(events, "loop.passed")]
    assert passed == [("sem-amf", "south", str(want(CLOSED))), ("sem-amf", "south", f"¬{CLOSED}")]
    assert len(of(events, "loop.relieved")) == 2
    assert of(events, "auction.awarded", goal=str(CLOSED))
    assert got(events, "amf", 8) == pytest.approx(0.4, rel=0.1)
    assert got(events, "amf", 17) == pytest.approx(0.0, abs=0.01)
    assert got(events, "shop", 17) == pytest.approx(0.8, rel=0.1)
    assert got(events, "amf", 40) == pytest.approx(0.4, rel=0.1)


def test_what_is_wanted_closed_is_closed_again_when_its_vnf_dies_wherever_that_was() -> None:
    """Whether the agent that wants it keeps it itself, or another does for it."""

    class Closing(Operator):
        name = "closing"

        @starts
        def begin(self, me):
            closed = Firewalled("", "", WEB, "tcp", 8080)
            me.call_at(me.now + 10, lambda: [Adopt(want(closed))] if me.name == "operator" else [])

    agents = [{"name": "operator", "pop": "south", "capabilities": ["closing"]}]
    plan = parse_scenario(json.dumps(raw(agents=agents)), "f.yaml")
    system = System(plan, functions=(Closing,))

    def kill() -> None:
        began = of(system.log.events, "instance.started", vnf="firewall")
        system.infrastructure.kill_instance(began[-1].data["instance"])

    for at_s in (20, 30):
        system.clock.call_at(at_s, kill)
    events = system.run().events
    assert len(of(events, "instance.stopped", reason="crashed")) == 2
    assert len(of(events, "measure.applied")) == 3
    assert got(events, "shop", 28) == pytest.approx(0.4, rel=0.1)
    assert got(events, "shop", 55) == pytest.approx(0.4, rel=0.1)
