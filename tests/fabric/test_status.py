from __future__ import annotations

import json

from fabric_lab import registration

from phalanx.fabric.directory import RegistryEntry
from phalanx.fabric.operations import AgentCounters, StatusAnswer
from phalanx.fabric.registration import (
    Appraisal,
    Area,
    Health,
    HealthStatus,
    Registration,
    ServiceState,
    Tier,
)
from phalanx.fabric.status import OverallStatus, StatusReport, StatusRow, report, to_json
from phalanx.identity.names import Role


def entry(
    owner: str,
    state: ServiceState = ServiceState.SERVING,
    trust: Appraisal = Appraisal(),  # noqa: B008  # frozen
    **fields: object,
) -> RegistryEntry:
    declared = (
        state if state in (ServiceState.SERVING, ServiceState.DRAINING) else ServiceState.SERVING
    )
    return RegistryEntry(
        registration(owner, state=declared, lease_s=6, **fields), state, 10.0, True, trust
    )


def row(found: StatusReport, agent: str) -> StatusRow:
    return next(row for row in found.rows if row.agent == agent)


def test_all_is_well() -> None:
    scope = Area(domain="edge", slice="video")
    answer = StatusAnswer("pop1", 1, ServiceState.SERVING, Health(), 5.0, load=0.25)
    found = report([entry("pop2"), entry("pop1", area=scope)], {"pop1": answer}, 12.0)
    assert found.verdict is OverallStatus.WELL
    assert found.findings == ()
    assert [one.agent for one in found.rows] == ["pop1", "pop2"]
    one, two = found.rows
    assert (one.scope, one.state, one.health) == ("domain:edge/slice:video", "serving", "ok")
    assert (one.lease_left_s, one.load, one.refusals, one.sheds) == (4.0, 0.25, 0, 0)
    assert (two.load, two.refusals, two.sheds) == (None, None, None)
    assert one.trust == "unattested: nobody has checked this agent's code yet"
    assert found.notes == ("all of 2 are unattested: nobody has checked their code yet",)


def test_what_needs_a_look_is_said_in_words() -> None:
    entries = [
        entry("pop1", health=Health(HealthStatus.DEGRADED, ("store: the disk is full",))),
        entry("pop2", ServiceState.STALE),
        entry("pop3", ServiceState.GONE),
        entry("pop4", ServiceState.LEFT),
        entry("pop5"),
    ]
    counters = AgentCounters(shed={"msg": 3, "evt": 1}, refused={"forged": 2})
    answer = StatusAnswer("pop5", 1, ServiceState.SERVING, Health(), 5.0, counters=counters)
    found = report(entries, {"pop5": answer}, 12.0)
    assert found.verdict is OverallStatus.ATTENTION
    assert found.findings == (
        "pop1 is degraded: store: the disk is full",
        "pop2 is stale: its lease ran out and was not renewed",
        "pop3 is gone: its lease ran out and was not renewed",
    )
    assert found.notes[1:] == (
        "pop5 dropped messages from full queues since it started: 4",
        "pop5 refused messages or calls since it started: 2",
    )
    assert row(found, "pop3").health == "unknown"
    assert row(found, "pop2").lease_left_s == 0


def test_no_agent_serves() -> None:
    network = RegistryEntry(
        Registration("net", Role.NETWORK, 1, state=ServiceState.SERVING),
        ServiceState.SERVING,
        10.0,
        True,
    )
    assert report([], {}, 0.0).verdict is OverallStatus.DOWN
    found = report([network, entry("pop1", ServiceState.GONE)], {}, 12.0)
    assert found.verdict is OverallStatus.DOWN
    assert found.findings[0] == "no agent serves"


def test_a_duty_that_nobody_sees_to_is_the_worst_there_is() -> None:
    entries = [entry("pop1"), entry("pop2")]
    answers = {
        name: StatusAnswer(name, 1, ServiceState.SERVING, Health(), 5.0, duties=duties)
        for name, duties in (
            ("pop1", {"monitored(a)": True, "monitored(b)": False}),
            ("pop2", {"monitored(a)": False, "monitored(b)": False}),
        )
    }
    found = report(entries, answers, 12.0)
    assert found.verdict is OverallStatus.DOWN
    assert found.findings[0] == "nobody sees to monitored(b)"
    assert report(entries, answers, 12.0, only=("pop1",)).verdict is OverallStatus.WELL
    del answers["pop2"].duties["monitored(b)"]
    answers["pop1"].duties["monitored(b)"] = True
    assert report(entries, answers, 12.0).verdict is OverallStatus.WELL


def test_who_does_not_answer_is_told_before_its_lease_runs_out() -> None:
    entries = [entry("pop1"), entry("pop2")]
    why = "no process serves it"
    found = report(entries, {}, 12.0, silent={"pop2": why})
    assert found.verdict is OverallStatus.ATTENTION
    assert found.findings == (f"pop2 is stale: it does not answer: {why}",)
    assert [one.state for one in found.rows] == ["serving", "stale"]
    found = report(entries, {}, 12.0, silent={"pop1": why, "pop2": why})
    assert found.verdict is OverallStatus.DOWN
    ended = [entry("pop1"), entry("pop2", ServiceState.STALE)]
    found = report(ended, {}, 20.0, silent={"pop2": why})
    assert found.findings == ("pop2 is stale: its lease ran out and was not renewed",)


def test_what_is_wrong_with_the_streams_is_said_first() -> None:
    wrong = ("the brokers do not keep KV_registry: stream not found",)
    found = report([entry("pop1")], {}, 12.0, storage=wrong)
    assert (found.verdict, found.findings) == (OverallStatus.ATTENTION, wrong)
    found = report([], {}, 12.0, storage=wrong)
    assert (found.verdict, found.findings[0]) == (OverallStatus.DOWN, wrong[0])


def test_an_answer_of_an_earlier_life_does_not_count() -> None:
    answer = StatusAnswer("pop1", 1, ServiceState.DRAINING, Health(), 5.0)
    found = report([entry("pop1", incarnation=2)], {"pop1": answer}, 12.0)
    assert row(found, "pop1").state == "serving"
    later = StatusAnswer("pop1", 2, ServiceState.DRAINING, Health(), 5.0)
    found = report([entry("pop1", incarnation=2)], {"pop1": later}, 12.0)
    assert row(found, "pop1").state == "draining"


def test_who_gave_no_sign_of_life_is_named() -> None:
    seen = RegistryEntry(
        registration("pop1", state=ServiceState.SERVING), ServiceState.SERVING, 10.0, False
    )
    found = report([seen], {}, 12.0)
    assert "no sign of life was awaited from pop1" in found.notes
    answer = StatusAnswer("pop1", 1, ServiceState.SERVING, Health(), 5.0)
    assert len(report([seen], {"pop1": answer}, 12.0).notes) == 1


def test_attested_agents_are_told_apart() -> None:
    good = entry("pop1", trust=Appraisal(Tier.AFFIRMING, "verifier1"))
    bad = entry("pop2", trust=Appraisal(Tier.CONTRAINDICATED, "verifier1"))
    found = report([good, bad], {}, 12.0)
    assert found.notes == ()
    assert row(found, "pop1").trust.endswith("(says verifier1)")
    assert [line.partition(":")[0] for line in found.findings] == ["pop2 is contraindicated"]


def test_only_those_that_were_asked_about_count() -> None:
    recorder = RegistryEntry(
        Registration("rec", Role.RECORDER, 1, state=ServiceState.SERVING), ServiceState.SERVING, 10
    )
    entries = [entry("pop1", ServiceState.STALE), entry("pop2"), recorder]
    assert report(entries, {}, 12.0).verdict is OverallStatus.ATTENTION
    assert report(entries, {}, 12.0, only=["pop1"]).verdict is OverallStatus.DOWN
    found = report(entries, {}, 12.0, only=["rec"])
    assert (found.verdict, [one.agent for one in found.rows]) == (OverallStatus.WELL, ["rec"])
    assert report([recorder], {}, 12.0).verdict is OverallStatus.DOWN


def test_who_follows_another_plan_is_named_once_for_each_scope() -> None:
    video = Area(domain="edge", slice="video")
    entries = [
        *(entry(f"pop{number}", plan="aa") for number in range(1, 7)),
        entry("pop7", plan="bb"),
        entry("pop8", ServiceState.GONE, plan="cc"),
        entry("pop9"),
        entry("cache", area=video, plan="dd"),
        entry("origin", area=video, plan="ee"),
    ]
    found = report(entries, {}, 12.0)
    assert found.verdict is OverallStatus.ATTENTION
    lines = {line for line in found.findings if "plan" in line}
    assert lines == {
        "pop7 follows another plan (bb) than pop1, pop2, pop3, pop4 and 2 more (aa): "
        "their bids may not fit; start all with the same plan",
        "origin follows another plan (ee) than cache (dd): "
        "their bids may not fit; start all with the same plan",
    }
    assert report(entries, {}, 12.0, only=["pop1"]).findings == ()
    assert len(report(entries, {}, 12.0, only=["pop7"]).findings) == 1
    assert row(found, "pop7").plan == "bb"
    assert report(entries[:6], {}, 12.0).verdict is OverallStatus.WELL


def test_as_json() -> None:
    made = json.loads(to_json(report([entry("pop1")], {}, 12.0)))
    assert made["verdict"] == "well"
    assert made["rows"][0]["agent"] == "pop1"
    assert set(made["rows"][0]) == set(StatusRow.__struct_fields__)
    assert b"\n" not in to_json(report([entry("pop1")], {}, 12.0), indent=0)
