"""Agreements are watched by the loops of their slices; breaches are found, explained, repaired."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from phalanx.bdi.capability import Capability, starts
from phalanx.domain.events import Event
from phalanx.domain.messages import Insight, Performative
from phalanx.fabric.calls import CallFailed
from phalanx.identity.names import Role
from phalanx.policy.assessment import SslaAssessment
from phalanx.policy.enforcement import PolicyEnforcer
from phalanx.policy.plan import PolicyPlan, Revocation
from phalanx.policy.rules import PolicyVerdict, RuleSet
from phalanx.policy.ssla import Remediation, SecurityMetric
from phalanx.reporting.event_text import describe_whole
from phalanx.runtime.composition import AGREEMENTS, told_of
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import RunResult, System, run_scenario
from tests.nightly import NIGHTLY
from tests.policy.pages import applied
from tests.system.rings import causes, of

PLAN = load_scenario(Path(__file__).parents[2] / "scenarios" / "isolated-slices.yaml")
ISOLATE = "ruleEnforced(cameras, nvr, 10.0.1.10, isolate-cameras"
LOOP = "nsi-cameras"


@cache
def shipped() -> RunResult:
    return run_scenario(PLAN)


def calm(*faults: FaultSpec, **changes: Any) -> Scenario:
    """Return the cameras' part of it alone, with such faults."""
    kept = {"cameras", "curious"}
    assert PLAN.policy is not None
    (city, _) = PLAN.policy.agreements
    city = replace(city, terms=tuple(t for t in city.terms if t.slice == "cameras"))
    policy = replace(PLAN.policy, agreements=(city,), revoked=())
    given = {
        "faults": faults,
        "updates": (),
        "duration_s": 42,
        "policy": policy,
        "traffic": tuple(g for g in PLAN.traffic if g.name in kept),
    }
    return replace(PLAN, **{**given, **changes})


def removed(effect: str = ISOLATE, at_s: float = 25.0) -> FaultSpec:
    return FaultSpec(at_s, "remove-rule", effect=effect)


def story(result: RunResult, metric: str, since: float = 0.0) -> tuple[Event, Event]:
    """Return the first breach of a metric, and its end."""
    breach = next(e for e in of(result, "ssla.breached", metric=metric) if e.time >= since)
    return breach, next(e for e in of(result, "ssla.restored") if e.data["breach"] == breach.id)


@pytest.mark.parametrize(
    ("metric", "at_s", "found_s", "remedy", "by"),
    [
        ("deploy-delay", 0, 6, "redeploy", "core"),
        ("foreign-sources", 30, 2, "reject", "core"),
        ("clear-text", 45, 2, "encrypt", "core"),
        ("availability", 70, 3, "replicate", "core"),
        ("geolocation", 110, 1, "relocate", "core"),
        ("gtp-tunnels", 130, 2, "reject", "edge"),
        ("analysis-interval", 140, 4, "analyse", "edge"),
        ("patch-delay", 152, 6, "redeploy", "core"),
        ("reconfigure-delay", 165, 4, "redeploy", "core"),
        ("revoke-delay", 185, 1, "reject", "core"),
        ("switch-delay", 210, 5, "replicate", "edge"),
    ],
)
def test_each_metric_is_broken_once_found_and_repaired(
    metric: str, at_s: float, found_s: float, remedy: str, by: str
) -> None:
    breach, over = story(shipped(), metric, at_s)
    assert at_s <= breach.time <= at_s + found_s
    assert (over.data["remedy"], over.data["by"]) == (remedy, by)
    slice_name = breach.data["slice"]
    assert breach.agent == over.agent == f"nsi-{slice_name}"
    # The loop of the slice asks downwards, and the agent of the function's PoP does it.
    passed = [e for e in of(shipped(), "loop.passed", to=by) if e.time >= breach.time]
    goal = f"remedied({slice_name}, {breach.data['entity']}, {metric}, {remedy})"
    assert any(e.data["goal"] == goal for e in passed)


def test_nothing_else_is_broken_and_all_is_known_of_each_metric() -> None:
    breaches = of(shipped(), "ssla.breached")
    metrics = [e.data["metric"] for e in breaches]
    assert set(metrics) == {each.value for each in SecurityMetric}
    # To relocate a replica costs users some answers until it runs elsewhere.
    assert len(metrics) == len(set(metrics)) + 1
    assert metrics.count("availability") == 2
    terms = {(t.agreement, t.term): t for t in shipped().summary.agreements}
    assert len(terms) == 11
    answers = terms["city", "answers"]
    assert answers.credit == pytest.approx(0.2)
    assert all(0.9 < term.kept_share < 1 for term in terms.values())


def test_the_same_bytes_again() -> None:
    again, until = run_scenario(PLAN, until=None if NIGHTLY else 50), 240 if NIGHTLY else 50
    both = ([e for e in run.events if e.time < until] for run in (again, shipped()))
    first, second = map(msgspec.json.encode, both)
    assert first == second


def test_a_page_of_sentences_is_enforced_broken_explained_and_repaired(tmp_path: Path) -> None:
    broken = (
        (10.0, "ruleEnforced(cameras", "cameras-isolation", "of 10.2.0.", "reject"),
        (22.0, "encrypted(cameras", "cameras-encryption", "of 10.1.0.", "encrypt"),
    )
    faults = tuple(FaultSpec(at_s, "remove-rule", effect=what) for at_s, what, *_ in broken)
    plan = replace(load_scenario(applied(tmp_path)), faults=faults)
    run, again = run_scenario(plan), run_scenario(plan)
    assert msgspec.json.encode(run.events) == msgspec.json.encode(again.events)
    breaches = of(run, "ssla.breached")
    for (at_s, _, intent, senders, remedy), breach in zip(broken, breaches, strict=True):
        over = next(e for e in of(run, "ssla.restored") if e.data["breach"] == breach.id)
        repaired = next(e for e in of(run, "measure.applied") if e.time > at_s)
        assert at_s < breach.time < at_s + 2
        assert repaired.time < at_s + 5
        assert (breach.data["intent"], over.data["remedy"]) == (intent, remedy)
        assert senders in breach.data["evidence"]


def test_a_breach_names_intent_term_evidence_cause_and_what_would_have_prevented_it() -> None:
    breach, _ = story(shipped(), "foreign-sources")
    words = describe_whole(breach)
    assert words.startswith(
        "finds city/isolation broken at nvr of cameras (intent cameras-isolated)"
    )
    assert re.search(r"[0-9]+ packets? of 10\.4\.0\.[12].* to 10\.0\.1\.10:443 \(tcp\)", words)
    assert "isolate-cameras is in force no more, though no agent lifted it" in words
    assert "To prevent it: a rule that denies what is from outside the slice" in words
    line = [*causes(shipped(), breach)]
    assert [e.kind for e in line].count("measure.applied") == 1  # the rule that was in force
    assert of(shipped(), "belief.changed", belief="entityTrouble(cameras, nvr, city/isolation)")


def test_without_faults_nothing_is_broken_once_all_is_in_force() -> None:
    result = run_scenario(calm())
    assert not of(result, "ssla.breached")
    held = {e.data["rule"] for e in of(result, "policy.enforced")}
    assert held == {"isolate-cameras"}
    seen = [e for e in of(result, "network.sample") if e.time > 20]
    got = [e.data["hosts"]["recorder"]["legitimate_mb_s"] for e in seen]
    assert got[-1] == pytest.approx(1.0, rel=0.05)  # of the cameras, and nothing of the curious


def test_what_is_promised_and_cannot_be_repaired_goes_up_and_is_said_plainly() -> None:
    (city,) = calm().policy.agreements
    terms = tuple(
        replace(t, remediation=(Remediation.NOTIFY,)) for t in city.terms if t.name == "isolation"
    )
    policy = replace(calm().policy, agreements=(replace(city, terms=terms),))
    result = run_scenario(calm(removed(), policy=policy))
    assert of(result, "ssla.breached", metric="foreign-sources")
    assert not of(result, "ssla.restored")
    told = next(e for e in of(result, "loop.unrelieved"))
    assert told.data["kind"] == "city/isolation"
    assert told.agent == LOOP
    believes = "entityTrouble(cameras, nvr, city/isolation)"
    assert {e.agent for e in of(result, "belief.changed", belief=believes)} >= {LOOP, "domain-CN"}


def test_a_rule_that_is_removed_again_while_its_breach_still_counts_is_put_back_at_once() -> None:
    (city,) = calm().policy.agreements
    terms = tuple(replace(t, window_s=20.0) for t in city.terms if t.name == "isolation")
    policy = replace(calm().policy, agreements=(replace(city, terms=terms),))
    removals = (24.0, 30.0, 36.0)
    faults = (removed(at_s=at_s) for at_s in removals)
    result = run_scenario(calm(*faults, policy=policy, duration_s=60))
    assert len(of(result, "ssla.breached")) == 1
    enforced = [e.time for e in of(result, "policy.enforced", rule="isolate-cameras")]
    for removal, again in zip(removals, enforced[-3:], strict=True):
        assert removal < again < removal + 1
    assert not of(result, "loop.unrelieved")


def test_a_term_alone_has_its_traffic_encrypted_and_isolated_for_good() -> None:
    policy = replace(calm().policy, rules=RuleSet("none"))
    result = run_scenario(calm(policy=policy))
    for metric, effect in (("clear-text", "encrypted("), ("foreign-sources", "ruleEnforced(")):
        _, over = story(result, metric)
        assert over.time < 26
        assert len(of(result, "ssla.breached", metric=metric)) == 1
        assert [e for e in of(result, "measure.applied") if e.data["effect"].startswith(effect)]
    assert not of(result, "measure.lifted")


def test_a_loop_is_given_the_terms_of_its_own_slice_and_no_other() -> None:
    system = System(PLAN)
    for name, agent in system.agents.items():
        part = agent.agent.capability(SslaAssessment).part
        slices = {each.term.slice for each in part.terms} | {x.slice for x in part.functions}
        if name.startswith("nsi-"):
            assert slices == {name.removeprefix("nsi-")}
            assert part.judges
            assert not part.members
            assert not part.rules.rules
        elif agent.light:
            assert not slices
    core = system.agents["core"].agent.capability(PolicyEnforcer).part
    assert {each.slice for each in core.functions} == {"cameras", "sensors"}
    assert {each.term.slice for each in core.terms} == {"cameras", "sensors"}
    assert "lights" not in core.members
    assert told_of(PLAN, PLAN.policy)["nsi-lights"].agreements[0].terms == tuple(
        t for t in PLAN.policy.agreements[0].terms if t.slice == "lights"
    )


class Liar(Capability):
    """Of the loop of another slice: tells the cameras' loop of packets that there were not."""

    name = "liar"

    @starts
    def begin(self, me):
        if me.name == "nssi-telemetry":
            said = Insight("cameras", "nvr", "foreign-sources", 99.0, "", "so it says")
            me.call_at(20.0, lambda: me.tell(Performative.INFORM, LOOP, "lie", said))


def test_a_loop_of_another_slice_is_not_listened_to() -> None:
    spec = PLAN.slices
    subnets = tuple(
        replace(s, capabilities=("liar",)) if s.name == "telemetry" else s for s in spec.subnets
    )
    plan = calm(slices=replace(spec, subnets=subnets))
    result = run_scenario(plan, functions=(Liar,))
    assert not of(result, "ssla.breached")
    assert of(result, "loop.refused", sender="nssi-telemetry")


def test_breaches_outlive_the_loop_that_found_them() -> None:
    crash = FaultSpec(25.5, "crash", agent=LOOP, for_s=2.0, memory=True)
    result = run_scenario(calm(removed(at_s=24.0), crash))
    breach, over = story(result, "foreign-sources")
    assert breach.time < 25.5
    assert over.time > 27.5
    (term,) = (t for t in result.summary.agreements if t.metric == "foreign-sources")
    assert [b.lasted_s for b in term.breaches] == [pytest.approx(over.time - breach.time)]
    assert term.kept_share < 1


def test_agents_of_pops_judge_where_there_are_no_loops() -> None:
    members = PLAN.policy.members
    cameras = {"cameras": (*members.slices["cameras"], "10.0.1.10")}
    policy = replace(calm().policy, members=replace(members, slices=cameras))
    removes = removed("ruleEnforced(cameras, recorder, 10.0.1.10, isolate-cameras")
    result = run_scenario(calm(removes, slices=None, policy=policy))
    breach, over = story(result, "foreign-sources")
    assert breach.agent == over.agent == "core"
    assert breach.data["entity"] == "recorder"


def test_what_an_agent_holds_for_a_policy_ends_with_its_lease() -> None:
    result = run_scenario(calm(FaultSpec(20.0, "crash", agent="core"), duration_s=45))
    lifted = [e for e in of(result, "measure.lifted") if e.data["effect"].startswith("ruleEnf")]
    assert len(lifted) == 1
    assert lifted[0].time < 20 + PLAN.timing.lease_s + 1


class Told:
    """A run to which a policy is told by calls while it goes on."""

    def __init__(self, plan: Scenario, *said: tuple[float, PolicyPlan], role: Role = Role.OPERATOR):
        self.system = System(plan)
        self.answers: list[object] = []
        calls = self.system.calls("teller", role)
        for at_s, policy in said:
            for agent, part in told_of(plan, policy).items():
                self.system.clock.call_at(at_s, lambda a=agent, p=part: self._say(calls, a, p))
        self.result = self.system.run()

    def _say(self, calls, agent: str, policy: PolicyPlan) -> None:
        calls.invoke(agent, AGREEMENTS, policy, self.answers.append, timeout_s=2.0)


NOTHING = PolicyPlan()


def test_a_policy_is_applied_and_withdrawn_while_the_agents_run() -> None:
    told = Told(calm(policy=NOTHING), (18.0, calm().policy), (28.0, NOTHING))
    result = told.result
    assert not [a for a in told.answers if isinstance(a, CallFailed)]
    (enforced,) = of(result, "policy.enforced")
    (withdrawn,) = of(result, "policy.withdrawn")
    assert 18 <= enforced.time < 19.1
    assert 28 <= withdrawn.time < 29.1
    share = [e.data["hosts"]["recorder"]["legitimate_mb_s"] for e in of(result, "network.sample")]
    assert share[16] == pytest.approx(1.04, rel=0.05)
    assert share[25] == pytest.approx(1.0, rel=0.05)
    assert share[35] == pytest.approx(1.04, rel=0.05)
    encrypted = "encrypted(cameras, nvr, 10.0.1.10)"
    lifted = [e for e in of(result, "measure.lifted") if e.data["effect"] == encrypted]
    assert len(lifted) == 1


def test_who_may_not_change_anything_applies_no_policy() -> None:
    told = Told(calm(policy=NOTHING), (18.0, calm().policy), role=Role.AGENT)
    assert not of(told.result, "policy.enforced")
    assert of(told.result, "access.refused")


def test_a_user_that_is_revoked_while_agents_run_gets_nothing_more() -> None:
    policy = calm().policy
    gone = replace(policy, revoked=(Revocation("10.1.0.5", "cameras"),))
    told = Told(calm(), (20.0, gone))
    held = {e.data["rule"]: e.time for e in of(told.result, "policy.enforced")}
    assert 20 <= held["revoked-10.1.0.5"] < 21.1
    assert not of(told.result, "ssla.breached")


def test_a_plan_that_agents_cannot_keep_is_refused_at_the_door() -> None:
    rules = PLAN.policy.rules
    wrong = replace(rules.rules[2], match=replace(rules.rules[2].match, protocol="gre"))
    policy = replace(PLAN.policy, rules=replace(rules, rules=(*rules.rules[:2], wrong)))
    found = dict(offences(replace(PLAN, policy=policy)))
    assert "agents tell tcp and udp apart, not gre" in found["policy.rules.rules[2]"]
    functions = {n: f for n, f in PLAN.functions.items() if n != "gateway"}
    found = dict(offences(replace(PLAN, functions=functions)))
    assert found["functions"] == "gateway is missing; the policy needs it"
    bare = replace(PLAN.policy, members=replace(PLAN.policy.members, slices={}))
    found = dict(offences(replace(PLAN, policy=bare)))
    assert "everything would be foreign" in found["policy.agreements[0].terms[0].allowed"]
    denied = replace(PLAN.policy, rules=RuleSet("city", default=PolicyVerdict.DENY))
    assert not [*offences(replace(PLAN, policy=denied))]


@pytest.mark.parametrize("kind", ["stale", "blind"])
def test_who_enforces_no_policy_cannot_have_its_enforcer_broken(kind):
    for agent, wrong in ("core", False), ("sem-nvr", True), ("e2e", True):
        plan = replace(PLAN, faults=(FaultSpec(10, kind, agent=agent),))
        found = [why for _, why in offences(plan)]
        assert any("enforces no policy" in why for why in found) is wrong
