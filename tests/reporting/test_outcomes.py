"""What a run says of each host, and why an attack was not mitigated."""

from __future__ import annotations

import pytest
from ddos_log import ddos_log
from msgspec import structs
from tests.system.rings import ring

from phalanx.domain.events import Event
from phalanx.reporting.summary import HostSummary, Summary, summarise
from phalanx.reporting.utility import comparison, utility
from phalanx.runtime.system import run_scenario


def event(name: str, time: float, kind: str, **data: object) -> Event:
    return Event(name, time, "pop1", kind, None, dict(data))


SETTING = event(
    "r",
    0.0,
    "run.started",
    hosts=[{"name": "h", "at": "pop1", "address": "10.0.0.9", "bandwidth_mb_s": 6.0}],
    sources=[
        {"group": "bots", "at": ["pop2"], "target": "h", "malicious": True, "count": 2}
        | {"profile": "syn-flood", "start_s": 10.0}
    ],
)


def run(
    *events: Event, malicious: float = 5.0, legitimate: float = 0.2, wanted: float = 1.0
) -> list[Event]:
    """Return 40 s of a run that is attacked from 10 s to 30 s, with what else happened."""
    log = [SETTING, *events]
    for second in range(1, 41):
        hit = 10 <= second < 30
        figures = {
            "legitimate_mb_s": legitimate if hit else 1.0,
            "malicious_mb_s": malicious if hit else 0.0,
            "wanted_mb_s": wanted if hit else 1.0,
        }
        links = {"pop1>h": {"mb_s": 6.0 if hit else 1.0, "bandwidth_mb_s": 6.0}}
        sample = {"hosts": {"h": figures}, "links": links}
        log.append(event(f"s{second}", float(second), "network.sample", **sample))
    attack = {"group": "bots", "malicious": True, "demand_mb_s": 5.0}
    log.append(event("on", 10.0, "traffic.changed", active=True, **attack))
    log.append(event("off", 30.0, "traffic.changed", active=False, **attack))
    log.append(event("end", 40.0, "run.ended", given_back=True, reserved_mb_s=0.0))
    order = {"r": -1.0, "end": 99.0}
    return sorted(log, key=lambda e: (order.get(e.id, e.time), e.kind != "traffic.changed"))


def host_of(summary: Summary) -> HostSummary:
    (host,) = summary.hosts
    return host


ALARM = event("a", 11.0, "belief.changed", belief="underAttack(10.0.0.9)", value=True)
LOOK = event(
    "l", 12.0, "analysis.done", goal="entryScreened(10.0.0.9, pop2)", found=["10.1.0.1>10.0.0.9"]
)
FAILED = event(
    "f",
    13.0,
    "auction.failed",
    goal="flowRateLimited(10.1.0.1, 10.0.0.9)",
    reason="all bidders refused",
    refusals={"pop2": "needs 4 cores, 1 free", "pop3": "no bandwidth free"},
)
BLOCK = event(
    "b", 14.0, "measure.applied", measure="m", effect="flowRateLimited(10.1.0.1, 10.0.0.9)"
)
LIFTED = event(
    "u", 20.0, "measure.lifted", measure="m", effect="flowRateLimited(10.1.0.1, 10.0.0.9)"
)


@pytest.mark.parametrize(
    ("events", "said", "unsaid"),
    [
        ([], "No agent raised an alarm about h.", "The alarm came"),
        ([], "No analysis of its traffic was finished.", "were named"),
        ([], "No measure was ever in force.", "kept out"),
        ([], "Links that were full in the end: pop1>h (6 MB/s).", "lifted"),
        ([ALARM, LOOK], "1 of 2 attackers were named, in 1 analysis; not 10.1.0.2.", "No agent"),
        (
            [ALARM, LOOK, FAILED],
            "No agent for flowRateLimited: all bidders refused; pop2: needs 4 cores, 1 free; "
            "pop3: no bandwidth free (1 auction, the first at 13.0 s).",
            "No agent raised",
        ),
        (
            [ALARM, LOOK, BLOCK],
            "1 of 2 attackers were kept out when the attack ended or the log did; not 10.1.0.2.",
            "No measure",
        ),
        (
            [ALARM, LOOK, BLOCK, LIFTED],
            "flowRateLimited(10.1.0.1, 10.0.0.9) was lifted at 20.0 s, during the attack.",
            "1 of 2 attackers were kept out",
        ),
    ],
)
def test_not_mitigated_names_its_causes(events: list[Event], said: str, unsaid: str) -> None:
    log = run(*events)
    host = host_of(summarise(log))
    assert (host.verdict, host.mitigated) == ("not mitigated", False)
    causes = [cause.replace("\u00a0", " ") for cause in host.causes]
    assert said in causes
    assert not [cause for cause in causes if unsaid in cause]


def test_mitigated_has_no_causes() -> None:
    summary = summarise(ddos_log())
    assert summary.mitigated is True
    assert [host.causes for host in summary.hosts] == [(), ()]
    assert [(host.host, host.mitigated) for host in summary.hosts] == [
        ("server", True),
        ("office", None),
    ]


def test_resources_count_as_returned_only_once_the_attack_is_over() -> None:
    assert summarise(ddos_log()).returned is True
    cut = summarise(ddos_log(until=60))
    assert (cut.returned, cut.mitigated) == (None, False)
    log = run()
    assert summarise(log).returned is True
    assert summarise([e for e in log if e.id != "off"]).returned is None
    kept = [e if e.id != "end" else event("end", 40.0, "run.ended", given_back=False) for e in log]
    assert summarise(kept).returned is False


def test_a_dip_of_the_demand_is_no_harm() -> None:
    calm = host_of(summarise(run(legitimate=0.4, wanted=0.4, malicious=0.01)))
    assert (calm.worst_mb_s, calm.worst_share, calm.mean_share) == (0.4, 1.0, 1.0)
    harmed = host_of(summarise(run(legitimate=0.4, wanted=0.8)))
    assert (harmed.worst_share, harmed.mean_share) == (0.5, 0.5)


def test_utilities_with_references_are_taken_apart_by_them() -> None:
    call = {
        "preferences": {"time": 0.5, "cost": 0.25, "decentralisation": 0.25},
        "references": {"T": 10.0, "C": 4.0, "D": 20.0},
    }
    rows = [{"T": 5.0, "C": 2.0, "D": 15.0}, {"T": 0.0, "C": 8.0, "D": 0.0}]
    compared = comparison(call, rows)
    first, second = compared.shares()
    assert [share.normalised for share in first] == [0.5, 0.5, 0.25]
    assert [utility(first), utility(second)] == [0.4375, 0.75]
    assert "T 10 s, C 4 MB/s, D 20 ms" in compared.scale
    assert compared.needed(1, 0, "C") == pytest.approx(3.0)
    assert comparison({"preferences": call["preferences"]}, rows).scale == ""


@pytest.mark.parametrize("ahead_s", [-1.5, 1.5])
def test_a_network_whose_clock_is_off_leaves_no_time_of_the_response_out(ahead_s: float) -> None:
    """Over processes each clock is its own; the events are read in the order of their times."""
    events = run_scenario(ring()).events
    usual = summarise(events).response
    moved = [
        structs.replace(e, time=max(0.0, e.time + ahead_s)) if e.agent == "network" else e
        for e in events
    ]
    seen = summarise(sorted(moved, key=lambda event: event.time)).response
    assert usual.alarm_after_s is not None
    for field in ("alarm_after_s", "throttle_after_s", "named_after_s", "blocked_after_s"):
        assert getattr(seen, field) == pytest.approx(getattr(usual, field), abs=2.0)
    assert seen.attackers_limited == usual.attackers_limited
