"""Labelled flows of simulated networks: the same again, and labelled as they were sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scripts.flow_data import FAMILIES, networks, runs_of, simulate

from phalanx.analytics.flow_models import COLUMNS, HONEST, read_flows


def test_runs_are_labelled_as_they_were_sent_and_the_same_again(tmp_path: Path) -> None:
    ring = networks()["quickstart-ring"]
    for folder, place in (("first", "a"), ("first", "b"), ("second", "a")):
        for family in ("udp flood", "forged syn flood"):
            path = tmp_path / folder / place / f"{family}.csv"
            simulate(ring, family, family, "weak", path)
    for path in (tmp_path / "second" / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "first" / "a" / path.name).read_bytes()
    flows = read_flows(tmp_path / "first")
    found = set(flows.labels)
    assert {"udp flood", "forged syn flood", "users", "calls", "reports"} <= found <= HONEST | found
    of = dict(zip(COLUMNS, flows.rows.T, strict=True))
    flood = flows.labels == "udp flood"
    assert np.all(of["udp"][flood] == 1)
    assert np.all(of["replies"][flood] == 0)
    forged = flows.labels == "forged syn flood"
    assert np.all(of["syn"][forged] == of["packets"][forged])
    assert np.all(of["packets"][forged] == 1)
    assert np.all(of["convicted"][np.isin(flows.labels, ["users", "calls"])] == 0)


def test_every_family_is_played_at_both_strengths_and_at_last_a_crowd_and_nothing() -> None:
    runs = list(runs_of())
    assert len({name for name, _, _ in runs}) == len(runs)
    for family in FAMILIES:
        assert {strength for _, own, strength in runs if own == family} == {"strong", "weak"}
    assert [family for _, family, _ in runs][-2:] == ["flash crowd", ""]
    assert len(FAMILIES) >= 6
    assert len(networks()) >= 3
    assert not set(FAMILIES) & HONEST
