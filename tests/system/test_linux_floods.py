"""Floods without a handshake on real packets: found, blocked where they enter, users served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.linux_runs import SCENARIOS, Observed, lacking, observe

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

ATTACKERS = {f"10.4.0.{n}" for n in range(1, 9)}
BEGIN_S, END_S = 5, 15
SETTLED_S = 5
"""Within this time of the attack users are served again."""


@pytest.fixture(
    params=[
        ("dns-reflection", 0.35, {"source_port"}),
        ("ack-flood", 0.05, {"resets"}),
        ("syn-ack-flood", 0.05, {"resets", "reflectors"}),
    ],
    ids=lambda param: param[0],
)
def flood(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Observed, set[str]]:
    reason = lacking("nginx", "curl", "hping3", "ip", "nft")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")
    profile, demand_mb_s, telling = request.param
    text = (SCENARIOS / "ddos-linux.yaml").read_text()
    for old, new in (
        ("profile: syn-flood", f"profile: {profile}"),
        ("demand_mb_s: 0.135", f"demand_mb_s: {demand_mb_s}"),
        ("end_s: 20", f"end_s: {END_S}"),
        ("duration_s: 28", f"duration_s: {END_S + 4}"),
    ):
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "flood.yaml"
    file.write_text(text)
    return observe(str(file), "attackers", tmp_path), telling


def test_the_right_sources_are_blocked_at_their_entries_and_users_served(
    flood: tuple[Observed, set[str]],
) -> None:
    run, telling = flood
    analyses = [e.data for e in run.events if e.kind == "analysis.done"]
    found = {pair.partition(">")[0] for data in analyses for pair in data["found"]}
    assert found == ATTACKERS
    evidence = next(d["evidence"] for d in analyses if d["found"])
    assert any(telling & figures.keys() for figures in evidence.values())
    applied = [e.data for e in run.events if e.kind == "measure.applied"]
    assert {data["verdict"] for data in applied} == {"drop"}
    assert {source for data in applied for source in data["sources"]} == ATTACKERS
    assert all(data["pop"] == data["entry"] for data in applied)
    assert run.share(run.begins + SETTLED_S, run.ends) >= 0.9 * run.share(2, run.begins)
    response = run.summary.response
    assert (response.attackers_limited, response.users_limited) == (8, 0)
