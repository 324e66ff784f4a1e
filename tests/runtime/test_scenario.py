"""Scenarios as data: what they say of the network, the traffic and the goals."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nightly import examples

from phalanx.domain.goals import Constraints, Preferences
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.runtime.scenario import FunctionSpec, Scenario, fingerprint

FOLDER = Path(__file__).parents[2] / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.yaml"))
DDOS = load_scenario(FOLDER / "ddos-resilience.yaml")

SMALL = """
name: small
duration_s: 10
network:
  repository: a
  default_link_loss: 0.01
  pops:
    - {name: a, cores: 2, memory_gb: 4, disk_gb: 10, x: 1, y: 2}
    - {name: b, cores: 1, memory_gb: 1, disk_gb: 1}
  links:
    - {between: [a, b], bandwidth_mb_s: 10, latency_ms: 1}
hosts:
  - {name: h, at: b, address: 10.0.0.1, bandwidth_mb_s: 5}
traffic:
  - {name: t, profile: http, count: 300, at: [a, b], target: h, port: [80, 81, 82],
     demand_mb_s: 0.1, start_s: 2, end_s: 9, spread_s: 3}
functions: {rate-limiter: {}}
"""


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_every_scenario_loads_and_is_named_after_its_file(file: Path) -> None:
    scenario = load_scenario(file)
    assert scenario.name == file.stem
    sources = scenario.to_sources()
    assert len({source.address for source in sources}) == len(sources)
    assert len({source.name for source in sources}) == len(sources)


def test_the_ddos_scenario_holds_the_figures_of_the_dissertation() -> None:
    network = DDOS.to_network()
    totals = {pop.name: pop.total for pop in network.pops}
    assert totals["pop1"] == Resources(6, 6, 700)
    assert totals["pop6"] == Resources(2, 4, 500)
    assert network.repository == "pop5"
    assert {link.loss for link in network.links} == {0.025}
    attackers = [source for source in DDOS.to_sources() if source.profile.malicious]
    assert Counter(source.port for source in attackers) == {8000: 4, 8080: 4}
    assert Counter(source.at for source in attackers) == dict.fromkeys(
        ("pop1", "pop2", "pop3", "pop4"), 2
    )
    assert sum(source.demand_mb_s for source in attackers) == 6
    users = [s for s in DDOS.to_sources() if s.target == "10.0.6.10" and not s.profile.malicious]
    assert len([user for user in users if user.start_s < 10]) == 50
    assert DDOS.terms("FlowRecord") == (Constraints(loss=0.08), Preferences(0.0, 0.2, 0.8))
    assert DDOS.terms("LinkRateLimited") == (
        Constraints(latency_ms=100, loss=0.08),
        Preferences(0.8, 0.1, 0.1),
    )


def test_the_flash_crowd_has_no_attacker() -> None:
    sources = load_scenario(FOLDER / "flash-crowd.yaml").to_sources()
    assert not any(source.profile.malicious for source in sources)
    access = 6
    assert sum(source.demand_mb_s for source in sources) > access


def test_network_takes_the_default_loss_where_a_link_has_none() -> None:
    text = SMALL.replace("latency_ms: 1}", "latency_ms: 1, loss: 0}")
    assert parse_scenario(SMALL, "f").to_network().links[0].loss == 0.01
    assert parse_scenario(text, "f").to_network().links[0].loss == 0


def test_sources_are_dealt_over_pops_and_ports() -> None:
    sources = parse_scenario(SMALL, "f").to_sources()
    assert [source.at for source in sources[:4]] == ["a", "b", "a", "b"]
    assert Counter(source.port for source in sources) == {80: 100, 81: 100, 82: 100}
    assert sources[0].address == "10.1.0.1"
    assert sources[255].address == "10.1.1.0"
    assert len({source.address for source in sources}) == 300
    assert all(2 <= source.start_s <= 5 and source.end_s == 9 for source in sources)


def test_the_seed_alone_draws_the_starts() -> None:
    scenario = parse_scenario(SMALL, "f")
    assert scenario.to_sources(7) == scenario.to_sources(7)
    assert scenario.to_sources(7) != scenario.to_sources(8)
    assert scenario.to_sources() == scenario.to_sources(scenario.seed)
    assert scenario.to_sources(0) != scenario.to_sources()


def test_another_group_does_not_shift_the_starts() -> None:
    more = SMALL.replace(
        "functions:",
        "  - {name: u, profile: video, count: 5, at: [a], target: h, port: 1, demand_mb_s: 1}\n"
        "functions:",
    )
    alone = parse_scenario(SMALL, "f").to_sources()
    assert parse_scenario(more, "f").to_sources()[: len(alone)] == alone


def test_terms_fall_back_to_the_default_entry_and_then_to_equal_weights() -> None:
    goals = """
goals:
  default: {preferences: {time: 1, cost: 0, decentralisation: 0}, constraints: {hops: 3}}
  FlowRecord: {constraints: {accuracy: 0.9}}
"""
    scenario = parse_scenario(SMALL + goals, "f")
    assert scenario.terms("LinkRateLimited") == (Constraints(hops=3), Preferences(1, 0, 0))
    assert scenario.terms("FlowRecord") == (Constraints(accuracy=0.9), Preferences())
    assert parse_scenario(SMALL, "f").terms("FlowRecord") == (Constraints(), Preferences())


def test_a_function_changes_only_what_it_says() -> None:
    own = Vnfd("x", Resources(1, 2, 3), image_mb=7, handles_mb_s=4, boot_s=1, shared=True)
    assert FunctionSpec().applied_to(own) == own
    changed = FunctionSpec(cores=5, handles_mb_s=9, version="2", shared=False).applied_to(own)
    assert changed == Vnfd(
        "x", Resources(5, 2, 3), 7, handles_mb_s=9, version="2", boot_s=1, shared=False
    )
    assert FunctionSpec(memory_gb=0).applied_to(own).requires == Resources(1, 0, 3)


def test_a_scenario_survives_a_round_trip() -> None:
    assert msgspec.json.decode(msgspec.json.encode(DDOS), type=Scenario) == DDOS


# -- the fingerprint of what agents of one plan must agree on ---------------------------------


PLAN = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"
TREE: dict[str, Any] = yaml.safe_load(PLAN.read_text(encoding="utf-8"))


def mark(tree: dict[str, Any]) -> str:
    return fingerprint(parse_scenario(json.dumps(tree), "plan"))


OWN = mark(TREE)


def put(tree: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    made = copy.deepcopy(tree)
    node: Any = made
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "changes"),
    [
        (("network", "links", 0, "latency_ms"), 77.5, True),
        (("network", "links", 0, "bandwidth_mb_s"), 77.5, True),
        (("network", "pops", 0, "cores"), 77, True),
        (("network", "repository"), TREE["network"]["pops"][1]["name"], True),
        (("network", "default_link_loss"), 0.125, True),
        (("functions", "rate-limiter"), {"cores": 7}, True),
        (("timing",), {"silence_s": 8.5}, True),
        (("goals",), {"default": {"constraints": {"hops": 2}}}, True),
        (("parameters",), {"some_setting": 1}, True),
        (("bidding",), "published", True),
        (("name",), "another", False),
        (("description",), "for people", False),
        (("seed",), 4711, False),
        (("duration_s",), 4711, False),
        (("monitors",), [], True),
        (("traffic",), [], False),
        (("network", "pops", 0, "x"), 1.5, False),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_bids_rest_on_changes_it_and_nothing_else(
    path: tuple[str | int, ...], value: object, changes: bool
) -> None:
    assert (mark(put(TREE, path, value)) != OWN) is changes


@given(st.randoms(use_true_random=False))
@settings(max_examples=examples(10))
def test_how_it_is_written_does_not(random: random.Random) -> None:
    made = copy.deepcopy(TREE)
    for part in ("pops", "links"):
        random.shuffle(made["network"][part])
    for link in made["network"]["links"]:
        random.shuffle(link["between"])
        link.setdefault("loss", made["network"].get("default_link_loss", 0))
    items = list(made["functions"].items())
    random.shuffle(items)
    made["functions"] = dict(items)
    made.setdefault("timing", {}).setdefault("lease_s", 15)
    assert mark(made) == OWN


def test_it_is_short_and_the_same_in_every_process() -> None:
    ring = PLAN.with_name("quickstart-ring.yaml").read_text(encoding="utf-8")
    found = fingerprint(parse_scenario(ring, "ring"))
    assert len(found) == 16
    assert int(found, 16) >= 0
    assert found == fingerprint(parse_scenario(f"# a remark\n{ring}", "the same"))
