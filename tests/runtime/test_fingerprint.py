"""What agents of one plan must agree on has one fingerprint, however the plan is written."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.scenario import fingerprint

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
        (("monitors",), [], False),
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
@settings(max_examples=25, deadline=None)
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
