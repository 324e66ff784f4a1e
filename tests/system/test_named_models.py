"""A scenario names a trained model: what it proposes, and what only a rule may have done."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.checking import check
from phalanx.cli.main import app
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FunctionSpec, HostLimitsSpec, Scenario, ShapeSpec
from phalanx.runtime.system import RunResult, run_scenario
from tests.nightly import at_night
from tests.system.conftest import SCENARIOS
from tests.system.named_models import save_models
from tests.system.rings import about, causes, of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


def with_model(name: str, models: Path) -> Scenario:
    plan = load_scenario(SCENARIOS / f"{name}.yaml")
    analyst = FunctionSpec(detector=f"model:{models}/")
    return replace(plan, functions={**plan.functions, "service-analyst": analyst})


def got(result: RunResult, start: float, end: float) -> float:
    """Return what users got, in MB/s."""
    seen = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if start < e.time <= end]
    return sum(each["legitimate_mb_s"] for each in seen)


def limited(result: RunResult) -> list[str]:
    return [event.data["reason"] for event in of(result, "diagnosis.limited")]


def test_a_way_that_no_rule_finds_slow_enough_is_led_around_on_a_model_s_word(
    models: Path,
) -> None:
    plan = with_model("detour", models)
    slow = replace(plan.faults[0], latency_ms=20.0)  # 8 ms there and back become 48
    plan = replace(plan, faults=(slow,))
    result = run_scenario(plan, until=110)
    first, *_ = of(result, "trouble.diagnosed")
    assert (first.data["detector"], first.data["trouble"]) == (f"model:{models}/", "network delay")
    assert first.data["entry"] == "west"
    assert 0.5 < first.data["certainty"] < 1
    assert first.data["evidence"]["rtt_ms"] == pytest.approx(48, abs=2)
    assert "is that to model" in first.data["reason"]
    applied = about(result, "measure.applied", "effect", "rerouted")
    assert [e.data["pop"] for e in applied] == ["west", "north"], "what it says of the way around"
    led = [e for e in causes(result, applied[-1]) if e.kind == "trouble.diagnosed"]
    assert led[0].data["certainty"] < 1
    known, full = limited(result)
    assert "has not been well for 30 rows yet" in known
    assert full == "is judged in full"
    assert check(result.events) == []
    rules = replace(plan, functions={**plan.functions, "service-analyst": FunctionSpec()})
    alone = run_scenario(rules, until=70)
    assert not of(alone, "trouble.diagnosed")
    assert got(result, 55, 70) > got(alone, 55, 70)


def test_on_a_model_s_word_attackers_get_no_replica_and_are_not_blocked_either(
    models: Path,
) -> None:
    plan = with_model("autoscale-attack", models)
    users, flood = plan.traffic
    few = replace(flood, count=2, demand_mb_s=0.25, shape=ShapeSpec(ramp_s=3))
    calm = replace(users, demand_mb_s=0.009)  # what both ask for the service answers with ease
    host = replace(plan.hosts[0], limits=HostLimitsSpec(requests_s=380))
    result = run_scenario(replace(plan, hosts=(host,), traffic=(calm, few)), until=55)
    assert all(e.data["certainty"] < 1 for e in of(result, "trouble.diagnosed"))
    refused = of(result, "scaling.refused")
    assert refused[0].data["kinds"] == ["http flood"]
    assert not of(result, "measure.applied")


@at_night
def test_a_service_is_not_started_anew_on_a_model_s_word_alone(models: Path) -> None:
    result = run_scenario(with_model("memory-restart", models), until=70)
    told, *_ = of(result, "trouble.diagnosed")
    assert told.data["trouble"] == "unusual memory"
    restarted, *_ = of(result, "host.restarted")
    assert restarted.time > told.time
    cause = [e for e in causes(result, restarted) if e.kind == "trouble.diagnosed"]
    assert [e.data["trouble"] for e in cause] == ["high memory"]
    assert not about(result, "goal.adopted", "goal", "unusual")
    assert check(result.events) == []


def test_a_model_that_takes_other_metrics_says_so_and_the_rules_go_on() -> None:
    plan = load_scenario(SCENARIOS / "autoscale-crowd.yaml")
    analyst = FunctionSpec(detector="model:vcdn")
    both = (plan, replace(plan, functions={**plan.functions, "service-analyst": analyst}))
    rules, model = (run_scenario(each, until=46) for each in both)
    assert "100% of the latest values are missing" in limited(model)[-1]
    assert limited(rules) == []
    found = [[e.data["trouble"] for e in of(r, "trouble.diagnosed")] for r in (rules, model)]
    assert found[0] == found[1]
    assert found[0]


def test_a_model_with_a_flipped_bit_ends_the_run_before_it_begins(
    models: Path, tmp_path: Path
) -> None:
    for path in models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    octets = bytearray((tmp_path / "small.onnx").read_bytes())
    octets[len(octets) // 2] ^= 1
    (tmp_path / "small.onnx").write_bytes(octets)
    text = (SCENARIOS / "autoscale-crowd.yaml").read_text(encoding="utf-8")
    scenario = tmp_path / "plan.yaml"
    named = f"service-analyst: {{detector: 'model:{tmp_path}/'}}"
    scenario.write_text(text.replace("service-analyst: {}", named), encoding="utf-8")
    for verb in ("validate", "run"):
        done = CliRunner().invoke(app, [verb, str(scenario)])
        assert (done.exit_code, done.stdout) == (2, "")
        told = " ".join(done.stderr.split())
        assert "functions.service-analyst.detector: detector" in told
        assert "model small: it is not what its card says; make it again" in told
