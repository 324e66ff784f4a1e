"""MANO's own loop: it has a busy function replicated, and gives back what it needs no more."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.checking import check
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, ShapeSpec
from phalanx.runtime.system import RunResult, run_scenario
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)
from tests.nightly import at_night, sample
from tests.system.conftest import SCENARIOS
from tests.system.rings import about, of

BASE = load_scenario(SCENARIOS / "autoscale-crowd.yaml")
CALM, MORE = BASE.traffic
"""144 requests/s of the 300 that the shop answers, and so many more."""
GROWS = replace(MORE, count=36, start_s=30.0, end_s=100.0, shape=ShapeSpec(ramp_s=20.0))


def run(*traffic: Any, form: str = "CNF", **changes: Any) -> RunResult:
    """Play it with an optimiser that acts before the analyst at the shop's PoP sees a trouble."""
    slices = SlicesSpec(
        (ManagedFunction("shop", "UPF", "shop", form),),
        (NetworkSliceSubnet("core", "CN", ("shop",)),),
        (NetworkSlice("s1", SNssai(1), ("core",)),),
    )
    mano = DeclaredAgent("mano", "domain", ("self-optimiser",), "east")
    few = {"optimise_s": 2.0, "optimise_above": 0.6, "optimise_below": 0.25}
    more: dict[str, Any] = {"parameters": BASE.parameters | few}
    more |= {"traffic": (CALM, *traffic), "slices": slices, "agents": (mano,), **changes}
    return run_scenario(replace(BASE, **more))


def served(result: RunResult, after: float) -> float:
    """Return the least share of what users wanted that they got over ten seconds."""
    seen = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if e.time > after]
    tens = [seen[i : i + 10] for i in range(len(seen) - 9)]
    return min(
        sum(s["legitimate_mb_s"] for s in t) / sum(s["wanted_mb_s"] for s in t) for t in tens
    )


def times(result: RunResult, kind: str) -> list[float]:
    return [event.time for event in about(result, kind, "effect", "replicated")]


CRASH = FaultSpec(60.0, "crash", agent="mano", for_s=5.0, memory=True)


@pytest.mark.parametrize("faults", sample([(CRASH,), ()], 2))
def test_what_growth_needed_is_given_back_once_it_is_over(faults: tuple[FaultSpec, ...]) -> None:
    result = run(GROWS, faults=faults)
    wanted = [e.agent for e in about(result, "auction.called", "goal", "replicated")]
    assert "mano" in wanted
    (added,), (gone,) = times(result, "measure.applied"), times(result, "measure.lifted")
    assert 30 < added < 50
    assert 130 <= gone < 140
    (undone,) = of(result, "plan.started", plan="give back")
    assert undone.agent == "mano"
    assert [e.time <= gone for e in of(result, "claim.granted", holder="mano")] == [True, True]
    assert served(result, 10) > 0.95
    assert check(result.events) == []


@at_night
def test_a_load_that_comes_and_goes_does_not_flap() -> None:
    saw = replace(GROWS, end_s=150.0, shape=ShapeSpec(on_s=12.0, off_s=12.0))
    result = run(saw)
    (added,), (gone,) = times(result, "measure.applied"), times(result, "measure.lifted")
    assert 30 < added < 50
    assert gone > 170
    assert served(result, 10) > 0.95
    assert not of(result, "claim.held")


@at_night
def test_a_physical_function_is_asked_for_once() -> None:
    result = run(GROWS, form="PNF")
    refused = of(result, "claim.refused", holder="mano")
    assert [e.data["reason"] for e in refused] == [
        "shop is a physical function: it cannot be scaled"
    ]
    assert not times(result, "measure.applied")
