"""The emergent outcome of the dissertation's scenario (sections 5.3 and 5.4)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.checking import check as log_check
from phalanx.reporting.event_text import KINDS
from phalanx.runtime.system import run_scenario
from phalanx.runtime.topology import from_graphml
from tests.nightly import sample
from tests.system.conftest import SCENARIOS
from tests.system.rings import of

SOURCES = Path(__file__).parents[2] / "src" / "phalanx"


def predicate(text):
    return text.lstrip("?¬").partition("(")[0]


def test_selection_and_placement(run):
    deployed = [
        (e.data["vnf"], e.data["pop"], e.data["units"]) for e in of(run, "instance.started")
    ]
    assert deployed[1:4] == [
        ("rate-limiter", "pop5", 1),
        ("anomaly-detector", "pop5", 2),
        ("load-balancer", "pop5", 1),
    ]
    assert sorted(deployed[4:]) == [("classifier", "pop3", 1), ("classifier", "pop4", 1)]


def test_winners_in_the_order_of_the_auctions(run):
    won = [(predicate(e.data["goal"]), e.data["winner"]) for e in of(run, "auction.awarded")]
    assert won == [
        ("linkRateLimited", "pop5"),
        ("anomalousUsage", "pop5"),
        ("ipRateLimited", "pop5"),
        ("splitTrafficTowardsIp", "pop5"),
        ("flowRecord", "pop3"),
        ("flowRecord", "pop4"),
        *[("flowRateLimited", "pop5")] * 8,
    ]


def test_the_idle_rate_limiter_is_used_again(run):
    limiters = of(run, "instance.started", vnf="rate-limiter")
    assert len(limiters) == 1
    instance = limiters[0].data["instance"]
    effects = [predicate(e.data["effect"]) for e in of(run, "measure.applied", instance=instance)]
    assert effects == ["linkRateLimited", "ipRateLimited", *["flowRateLimited"] * 8]


def test_nobody_can_run_a_classifier_of_four_cores(run):
    (failed,) = of(run, "auction.failed")
    assert failed.data["goal"] == "flowRecord(10.0.6.10, 0, 1)"
    assert failed.data["refusals"] == {
        "pop1": "needs 8 GB memory, 6 free",
        "pop2": "needs 8 GB memory, 6 free",
        "pop3": "needs 4 cores, 2 free",
        "pop4": "needs 4 cores, 2 free",
        "pop5": "needs 4 cores, 1 free",
        "pop6": "needs 4 cores, 1 free",
    }


def test_the_eight_attackers_are_blocked_and_nobody_else(run):
    attackers = {f"10.5.0.{i}" for i in range(1, 9)}
    blocked = {
        e.data["effect"].split("(")[1].split(",")[0]
        for e in of(run, "measure.applied")
        if predicate(e.data["effect"]) == "flowRateLimited"
    }
    assert blocked == attackers


def test_service_is_back_while_the_attack_goes_on(run):
    server = next(h for h in run.summary.hosts if h.host == "server")
    assert server.worst_mb_s < 0.5 * server.before_mb_s
    assert server.after_mb_s >= 0.95 * server.before_mb_s
    assert server.attack_peak_mb_s > 4.5
    assert server.attack_after_mb_s <= 0.01 * server.attack_peak_mb_s
    assert run.summary.mitigated


def test_the_bystander_never_notices(run):
    office = next(h for h in run.summary.hosts if h.host == "office")
    assert office.worst_mb_s >= 0.99 * office.before_mb_s


def test_traffic_has_the_steps_of_figure_5_4(run):
    def arriving(start, end):
        rates = [
            sum(e.data["hosts"]["server"][k] for k in ("legitimate_mb_s", "malicious_mb_s"))
            for e in of(run, "network.sample")
            if start < e.time < end
        ]
        return sum(rates) / len(rates)

    limits = {predicate(e.data["effect"]): e.time for e in of(run, "measure.applied")}
    attack = run.summary.attack_start_s
    link, ip, flow = (limits[f"{n}RateLimited"] for n in ("link", "ip", "flow"))
    assert arriving(attack + 1, link - 1) > 5.5
    assert 3.0 < arriving(link + 2, ip - 1) < 4.05
    assert 1.5 < arriving(ip + 2, flow - 5) < 2.05
    assert 0.9 < arriving(flow + 10, 345) < 1.1


def test_everything_is_given_back(run):
    assert run.summary.returned
    (end,) = of(run, "run.ended")
    assert end.data["leases"] == ["pop6/installed1/link-monitor"]
    assert end.data["reserved_mb_s"] == 0
    applied = {e.data["measure"] for e in of(run, "measure.applied")}
    assert applied == {e.data["measure"] for e in of(run, "measure.lifted")}


def test_every_event_has_a_cause_and_a_documented_kind(run):
    assert not log_check(run.events)
    assert {e.kind for e in run.events} <= set(KINDS)


def test_no_name_of_a_pop_stands_in_the_code():
    for source in SOURCES.rglob("*.py"):
        for number, line in enumerate(source.read_text().splitlines(), 1):
            assert not re.search(r"""["']pop\d""", line), f"{source.name}:{number}: {line}"


def test_the_same_seed_gives_the_same_log_and_report_in_any_process(tmp_path):
    plan, until = tmp_path / "plan.yaml", "150"
    cut = "faults: [{at_s: 60, kind: link-down, link: [pop3, pop4], for_s: 5}]\n"
    plan.write_text((SCENARIOS / "ddos-resilience.yaml").read_text(encoding="utf-8") + cut)
    written = []
    for hashseed in ("0", "12345"):
        log, page = tmp_path / f"{hashseed}.jsonl", tmp_path / f"{hashseed}.html"
        command = [sys.executable, "-m", "phalanx", "run", plan, "--until", until]
        subprocess.run(
            [*command, "--log", log, "--report", page],
            env={**os.environ, "PYTHONHASHSEED": hashseed},
            check=True,
            capture_output=True,
        )
        written.append((log.read_bytes(), page.read_bytes()))
    assert written[0] == written[1]
    assert b'"link.changed"' in written[0][0]


# -- on real networks (Internet Topology Zoo), where the data is at hand ----------------------


DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GRAPHS = sorted((DATA / "topologies").glob("*.graphml"))


@pytest.mark.skipif(not GRAPHS, reason=f"no GraphML files in {DATA / 'topologies'}")
@pytest.mark.parametrize("path", sample(GRAPHS, 24), ids=lambda p: p.stem)
def test_mitigated_on(path, resilience):
    result = run_scenario(from_graphml(path, like=resilience))
    assert result.summary.mitigated, result.summary
    assert result.summary.returned
