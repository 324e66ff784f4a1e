"""A loop has what goes to its function encrypted by the way that it takes, while that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.bdi.capability import Capability, starts
from phalanx.bdi.steps import Adopt
from phalanx.checking import check
from phalanx.domain.events import Event
from phalanx.domain.goals import avert, want
from phalanx.domain.predicates import Encrypted
from phalanx.domain.rules import TrafficVerdict
from phalanx.functions.gateway import Gateway, encryption_of
from phalanx.reporting.event_text import describe
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)

BASE = load_scenario(Path(__file__).parents[2] / "scenarios" / "secured-detour.yaml")
SHOP = "10.0.0.10"
SECRET = Encrypted("s1", "shop", SHOP)
SLICES = SlicesSpec(
    (ManagedFunction("shop", "UPF", "shop", capabilities=("discreet",)),),
    (NetworkSliceSubnet("core", "CN", ("shop",)),),
    (NetworkSlice("s1", SNssai(1), ("core",)),),
)


class Discreet(Capability):
    """Of the loop of the shop: wants it encrypted from 20 s to 40 s."""

    name = "discreet"

    @starts
    def begin(self, me):
        me.call_at(20.0, lambda: [Adopt(want(SECRET))])
        me.call_at(40.0, lambda: [Adopt(avert(SECRET))])


def run() -> list[Event]:
    """Play it with a way from the west, by which most customers come, that others run."""
    links = (replace(k, trusted="west" not in k.between) for k in BASE.network.links)
    network = replace(BASE.network, links=tuple(links))
    more = {"network": network, "slices": SLICES, "faults": (), "monitors": ()}
    return run_scenario(replace(BASE, **more), functions=(Discreet,), until=60).events


def of(events: list[Event], kind: str, **data: object) -> list[Event]:
    return [e for e in events if e.kind == kind and data.items() <= e.data.items()]


def sample(events: list[Event], at_s: float) -> dict[str, Any]:
    return [e.data for e in of(events, "network.sample") if e.time <= at_s][-1]


@pytest.mark.parametrize("slice_name", ["", "s1"])
def test_a_rule_does_what_its_name_says_and_any_other_is_seen(slice_name: str) -> None:
    effect, rule = str(Encrypted(slice_name, "shop", SHOP)), encryption_of(SHOP)
    assert rule.problem((TrafficVerdict.STEER,)) is None
    assert Gateway.confirms(effect, rule)
    assert not Gateway.confirms(effect, encryption_of("10.0.0.11"))
    assert not Gateway.confirms(effect, replace(rule, parameters={}))
    assert not Gateway.confirms(str(Encrypted(slice_name, "shop", "10.0.0.11")), rule)


def test_it_is_encrypted_by_the_same_way_while_that_is_wanted() -> None:
    events = run()
    passed = [(e.agent, e.data["to"], e.data["goal"]) for e in of(events, "loop.passed")]
    assert passed == [("sem-shop", "south", str(SECRET)), ("sem-shop", "south", f"¬{SECRET}")]
    assert len(of(events, "loop.relieved")) == 2
    (applied,) = of(events, "measure.applied", effect=str(SECRET))
    (lifted,) = of(events, "measure.lifted", effect=str(SECRET))
    assert (applied.time, lifted.time) == (pytest.approx(20, abs=2), pytest.approx(40, abs=1))
    assert describe(applied).endswith("all of it passes there, encrypted on its way")
    before, during, after = (sample(events, at_s) for at_s in (15, 30, 50))
    in_the_clear = [seen["hosts"]["shop"]["exposed_mb_s"] for seen in (before, during, after)]
    assert in_the_clear == pytest.approx([1.0, 0.0, 1.0])
    assert during["links"] == before["links"]
    assert during["hosts"]["shop"]["legitimate_mb_s"] == pytest.approx(1.5)
    assert check(events) == []
