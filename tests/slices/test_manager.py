"""Managers inform and issue policies; what would harm is refused, whoever says it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.auction.settings import GoalPolicy
from phalanx.cli.main import app
from phalanx.coordination.arbitration import MOST_CLAIMS
from phalanx.coordination.contacts import REFUSALS, LoopContacts
from phalanx.domain.goals import Constraints, avert, want
from phalanx.domain.messages import (
    ActionClaim,
    Insight,
    Message,
    PassedGoal,
    Performative,
    SecurityPolicy,
    TroubleReport,
)
from phalanx.domain.predicates import (
    AttackFiltered,
    ClaimHeld,
    Encrypted,
    EntityTrouble,
    Firewalled,
)
from phalanx.domain.trust import Scored
from phalanx.slices.loop import ASKED
from phalanx.slices.manager import MOST_REPORTS, ORDERS, ManagedLoop
from phalanx.slices.model import NetworkSlice, NetworkSliceSubnet, SlicesSpec, SNssai
from phalanx.testing import LoopBench
from tests.slices.loop_checks import check_fields
from tests.slices.small_slices import Healer, function, loops, small, suffer, trouble

FLOOD = AttackFiltered("10.0.6.10", "pop1", ("10.1.0.1",))


def bench(spec=None, **capabilities):
    given = {"nssi_core": ("healer",), **capabilities}
    return LoopBench(loops(spec, **given), Healer, parameters={"heal_s": 20.0})


def two_slices():
    """Return two slices that share the core, and have a RAN each."""
    one = small(sharing="shared")
    other = NetworkSliceSubnet("ran2", "RAN", ("gnb3",))
    second = NetworkSlice("s2", SNssai(2), ("ran2", "core"), "shared")
    functions = (*one.functions, function("gnb3", "gNB"))
    return SlicesSpec(functions, (*one.subnets, other), (*one.slices, second))


def order(lab, to, content, sender="domain-CN", conversation="order"):
    """Let a manager that was taken over, keys and all, say what it should not."""
    message = Message(
        f"{conversation}/{len(lab.sent)}",
        Performative.REQUEST,
        sender,
        to,
        conversation,
        content,
        "test",
    )
    lab.send(message)
    lab.run(0.1)


def answer(lab, to="domain-CN"):
    return [m for m in lab.sent if m.receiver == to][-1]


def judge_by(lab, name, **scores):
    """Let a loop know how far others are trusted, and the least that counts."""
    contacts = lab.nodes[name].agent.capability(LoopContacts)
    policy = GoalPolicy(constraints=Constraints(terms={"trust": 0.2}))
    contacts.settings.policies = {"default": policy}
    named = {each.replace("_", "-"): score for each, score in scores.items()}
    lab.nodes[name].tell(Scored(named), "test")


def issue(lab, name, policy):
    lab.nodes[name].tell(policy, "test")
    lab.run(1)
    return lab.of_kind("policy.issued")[-1].data


def own(lab, name):
    agent = lab.nodes[name].agent
    return agent.capability(LoopContacts).own(agent)


# -- what managers are for ------------------------------------------------------------------


def test_a_policy_is_taken_by_all_loops_that_the_manager_has_and_changes_what_they_do():
    lab = bench()
    said = SecurityPolicy(
        "s1", precedence=("block", "isolate"), limits=(("loop_sub_slice_s", 4.0),)
    )
    told = issue(lab, "domain-CN", said)
    assert (told["to"], told["refused"]) == (4, {})
    assert {e.agent for e in lab.of_kind("policy.taken")} == {
        *("nsi-s1", "nssi-core", "sem-amf", "sem-smf"),
    }
    assert own(lab, "sem-amf").precedence == ("block", "isolate")
    assert lab.nodes["nssi-core"].agent.parameters["loop_sub_slice_s"] == 4.0
    assert lab.nodes["nssi-ran"].agent.parameters.get("loop_sub_slice_s") is None
    issue(lab, "domain-CN", SecurityPolicy("s1"))
    assert own(lab, "sem-amf").precedence == ()
    assert lab.nodes["nssi-core"].agent.parameters.get("loop_sub_slice_s") is None
    check_fields(lab.events)


def test_of_two_policies_that_of_the_nearest_issuer_counts_whichever_came_last():
    for order_of_issue in (("domain-CN", "e2e"), ("e2e", "domain-CN")):
        lab = bench()
        for name in order_of_issue:
            first = "block" if name == "e2e" else "throttle"
            issue(lab, name, SecurityPolicy("s1", precedence=(first,)))
        assert own(lab, "nsi-s1").precedence == ("throttle",)


def test_a_loop_may_issue_a_policy_to_those_below_it():
    lab = bench()
    agent = lab.nodes["nssi-core"].agent
    adopt = agent.capability(ManagedLoop).issue(agent, SecurityPolicy("s1", precedence=("block",)))
    lab.pursue("nssi-core", adopt)
    lab.run(1)
    assert {e.agent for e in lab.of_kind("policy.taken")} == {"sem-amf", "sem-smf"}
    assert own(lab, "sem-smf").precedence == ("block",)


def test_managers_are_told_of_what_stands_for_long_and_of_its_end():
    lab = bench()
    one = suffer(lab, "sem-amf")
    lab.run(9)
    assert not [m for m in lab.sent if isinstance(m.content, TroubleReport)]
    lab.run(2)
    manager = lab.nodes["domain-CN"].agent
    assert [*manager.beliefs.matching(EntityTrouble)] == [one]
    assert [*lab.nodes["domain-RAN"].agent.beliefs.matching(EntityTrouble)] == []
    lab.run(15)
    assert lab.of_kind("loop.relieved")
    assert not [*manager.beliefs.matching(EntityTrouble)]
    suffer(lab, "nsi-s1", trouble("smf", "unreachable"))
    lab.run(11)
    assert lab.nodes["e2e"].agent.beliefs.holds(trouble("smf", "unreachable"))


def test_a_policy_outlives_a_restart_and_so_does_the_refusal_of_an_old_one():
    lab = bench()
    issue(lab, "domain-CN", SecurityPolicy("s1", precedence=("block",)))
    (old,) = [m.content for m in lab.sent if m.receiver == "sem-amf" and m.sender == "domain-CN"]
    issue(lab, "domain-CN", SecurityPolicy("s1", precedence=("throttle",)))
    lab.crash("sem-amf")
    lab.start("sem-amf", remembering=True)
    lab.run(1)
    assert own(lab, "sem-amf").precedence == ("throttle",)
    order(lab, "sem-amf", old)
    (refused,) = lab.of_kind("loop.refused", sender="domain-CN")
    assert "is no newer than" in refused.data["reason"]
    assert own(lab, "sem-amf").precedence == ("throttle",)


# -- without them ---------------------------------------------------------------------------


def test_with_all_managers_dead_in_the_midst_of_an_attack_the_loops_go_on():
    lab = bench()
    suffer(lab, "sem-gnb1")
    lab.run(1)
    for name in ("e2e", "domain-RAN", "domain-CN"):
        lab.crash(name)
    suffer(lab, "sem-smf")
    lab.run(60)
    assert {e.agent for e in lab.of_kind("loop.relieved")} >= {"sem-gnb1", "sem-smf"}
    assert not lab.of_kind("loop.unrelieved")
    assert not lab.of_kind("goal.ended", outcome="failed")


# -- one that was taken over, with its real keys ------------------------------------------------


def test_protection_is_not_taken_away_during_an_attack():
    lab = bench()
    suffer(lab, "nssi-core", trouble("amf"))
    lab.run(1)
    order(lab, "nssi-core", PassedGoal(avert(FLOOD), "s1", "it is over", ("domain-CN",)))
    (refused,) = lab.of_kind("loop.refused")
    assert refused.data["reason"] == "what protects is not taken away while a trouble stands"
    for kept in Firewalled("s1", "amf", "10.0.6.10"), Encrypted("s1", "amf", "10.0.6.10"):
        order(lab, "nssi-core", PassedGoal(avert(kept), "s1", "", ("domain-CN",)))
        assert lab.of_kind("loop.refused")[-1].data["reason"] == refused.data["reason"]
    order(lab, "nssi-core", SecurityPolicy("s1", 1, precedence=("throttle",)))
    assert "nothing that protects is changed while" in lab.of_kind("loop.refused")[3].data["reason"]
    assert own(lab, "nssi-core").precedence == ()


@pytest.mark.parametrize("kept", [FLOOD, Firewalled("s1", "amf", "a"), Encrypted("s1", "amf", "a")])
def test_a_manager_has_nothing_undone_in_quiet_times_either(kept):
    lab = bench()
    for sender, obeyed in ("domain-CN", False), ("e2e", False), ("nsi-s1", True):
        said = PassedGoal(avert(kept), "s1", "", (sender,))
        to = "nsi-s1" if sender == "e2e" else "nssi-core"
        order(lab, to, said, sender, sender)
        assert bool(lab.of_kind("goal.adopted", goal=str(avert(kept)))) == obeyed
    assert len(lab.of_kind("loop.refused")) == 2


@pytest.mark.parametrize("action", ["isolate", "block", "throttle"])
def test_the_only_amf_of_a_slice_is_not_cut_off_by_a_manager(action):
    lab = bench()
    order(lab, "sem-amf", ActionClaim("amf", action, "s1", "I say so", goal="x"))
    assert not lab.of_kind("claim.granted")
    (refused,) = lab.of_kind("claim.refused")
    assert refused.data["reason"].endswith("cuts nothing off")
    assert answer(lab).performative is Performative.REFUSE


@pytest.mark.parametrize("to", ["nssi-core", "sem-amf", "nsi-s1"])
@pytest.mark.parametrize("sender", ["domain-CN", "e2e", "nsi-s1"])
def test_no_loop_claims_or_closes_anything_in_the_name_of_another(sender, to):
    """What would be refused as a claim is not had by an order to claim it."""
    lab = bench()
    held = ClaimHeld("s1", "amf", "isolate", "", "I say so")
    order(lab, to, PassedGoal(want(held), "s1", "", (sender,)), sender=sender)
    lab.run(10)
    assert not lab.of_kind("claim.granted")
    assert [e.agent for e in lab.of_kind("loop.refused")] == [to]
    closed = want(Firewalled("s1", "amf", "10.0.6.10"))
    order(lab, to, PassedGoal(closed, "s1", "", (sender,)), sender=sender, conversation="two")
    adopted = lab.of_kind("goal.adopted", goal=str(closed))
    above = sender == "nsi-s1" and to != sender  # that one looks after the AMF
    assert [e.agent for e in adopted] == [to] * above


def test_nothing_is_closed_at_an_address_of_another_slice():
    found = loops(two_slices(), nssi_core=("healer",))
    own = {"gnb1": "10.0.1.10", "gnb3": "10.0.3.10"}
    lab = LoopBench([replace(x, address=own.get(x.entity, "")) for x in found], Healer)
    for entity, target, taken in (
        ("gnb1", "10.0.3.10", False),
        ("gnb1", "10.0.1.10", True),
        ("ran", "10.0.3.10", False),
        ("ran", "10.0.1.10", True),
    ):
        for make in Firewalled, Encrypted:
            goal = want(make("s1", entity, target))
            said = PassedGoal(goal, "s1", "", ("nsi-s1",))
            order(lab, "nssi-ran", said, sender="nsi-s1", conversation=f"{goal}")
            assert bool(lab.of_kind("goal.adopted", goal=str(goal))) == taken
    reasons = {e.data["reason"] for e in lab.of_kind("loop.refused")}
    assert reasons == {f"10.0.3.10 is no address of {entity}" for entity in ("gnb1", "ran")}


def test_what_is_of_one_slice_is_not_sent_to_a_loop_of_another():
    lab = bench(two_slices())
    for to in ("nssi-core", "sem-amf"):
        order(lab, to, SecurityPolicy("s1", 1, inform=("nsi-s2",)))
        (refused,) = lab.of_kind("loop.refused", sender="domain-CN", slice="s1")[-1:]
        assert refused.data["reason"] == "nsi-s2 may know nothing of slice s1"
        assert refused.agent == to
    suffer(lab, "nssi-core", trouble("amf"))
    lab.run(20)
    reports = [m for m in lab.sent if isinstance(m.content, TroubleReport)]
    assert reports
    assert "nsi-s2" not in {m.receiver for m in reports if m.content.slice == "s1"}


def test_no_role_falls_to_an_agent_that_is_not_trusted():
    lab = bench()
    judge_by(lab, "sem-amf", nsi_s1=0.1, nssi_core=0.9)
    order(lab, "sem-amf", SecurityPolicy("s1", 1, inform=("nsi-s1",)))
    (refused,) = lab.of_kind("loop.refused")
    assert refused.data["reason"] == "nsi-s1 is not trusted enough to know of slice s1"
    contacts = lab.nodes["sem-amf"].agent.capability(LoopContacts)
    before = {n for n in contacts.settings.loops if "nsi-s1" in contacts.heirs(n, "s1")}
    judge_by(lab, "sem-amf", nsi_s1=0.9)
    after = {n for n in contacts.settings.loops if "nsi-s1" in contacts.heirs(n, "s1")}
    assert not before
    assert after
    # Nor does a manager make a loop the heir of another, which it is not.
    goal = PassedGoal(avert(trouble("gnb1")), "s1", "", ("domain-CN",), instead_of="nssi-ran")
    order(lab, "sem-smf", replace(goal, slice="s1"), sender="domain-RAN")
    assert "is no loop that may ask sem-smf" in lab.of_kind("loop.refused")[-1].data["reason"]


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (SecurityPolicy("s1", 1, ("scale",)), "scale would go before isolate, which protects"),
        (SecurityPolicy("s1", 1, ("restart", "isolate")), "restart would go before isolate"),
        (SecurityPolicy("s1", 1, ("throttle", "block", "scale")), "scale would go before isolate"),
        (SecurityPolicy("s1", 1, ("nothing",)), "nothing is no action; allowed are isolate"),
        (SecurityPolicy("s1", 1, limits=(("loop_tries", 0.0),)), "would turn off what it limits"),
        (
            SecurityPolicy("s1", 1, limits=(("claim_lease_s", 1e9),)),
            "would turn off what it limits",
        ),
        (SecurityPolicy("s1", 1, limits=(("loop_nf_s", float("nan")),)), "would turn off"),
        (SecurityPolicy("s1", 1, limits=(("heal_s", 1.0),)), "heal_s is no figure of a loop"),
        (SecurityPolicy("s2", 1), "may issue no policy to sem-amf for slice s2"),
    ],
)
def test_a_policy_that_turns_things_off_is_refused(policy, why):
    lab = bench()
    order(lab, "sem-amf", policy)
    (refused,) = lab.of_kind("loop.refused")
    assert why in refused.data["reason"]
    assert answer(lab).performative is Performative.REFUSE
    assert not lab.of_kind("policy.taken")


def test_who_may_issue_nothing_and_who_is_not_trusted_is_refused():
    lab = bench()
    for sender in ("sem-smf", "domain-RAN", "stranger"):
        order(lab, "sem-amf", SecurityPolicy("s1", 1, ("block",)), sender=sender)
    judge_by(lab, "sem-amf", domain_CN=0.0)
    order(lab, "sem-amf", SecurityPolicy("s1", 1, ("block",)))
    reasons = [e.data["reason"] for e in lab.of_kind("loop.refused")]
    assert [reason.partition(" ")[0] for reason in reasons] == [
        *("sem-smf", "domain-RAN", "stranger", "domain-CN"),
    ]
    assert reasons[-1] == "domain-CN is not trusted enough"


def test_an_old_policy_that_is_said_again_is_refused_and_the_latest_is_confirmed():
    lab = bench()
    first, second = (SecurityPolicy("s1", n, (p,)) for n, p in ((1, "block"), (2, "throttle")))
    order(lab, "sem-amf", first)
    order(lab, "sem-amf", second)
    order(lab, "sem-amf", second)
    assert answer(lab).performative is Performative.AGREE
    order(lab, "sem-amf", first)
    assert answer(lab).performative is Performative.REFUSE
    assert own(lab, "sem-amf").precedence == ("throttle",)
    assert len(lab.of_kind("policy.taken")) == 2


def test_a_flood_of_orders_costs_little_and_nothing_else_waits_for_it():
    lab = bench()
    for number in range(500):
        order(lab, "sem-amf", SecurityPolicy("s1", number + 1, ("scale",)))
    refused = lab.of_kind("loop.refused")
    assert len(refused) == ORDERS + 1
    assert refused[-1].data["reason"].startswith(f"{ORDERS} orders in 60 s are read")
    assert sum(m.receiver == "domain-CN" for m in lab.sent) == ORDERS + 1
    order(lab, "sem-amf", SecurityPolicy("s1", 1, ("block",)), sender="nssi-core")
    assert own(lab, "sem-amf").precedence == ("block",)
    lab.run(61)
    order(lab, "sem-amf", SecurityPolicy("s1", 501, ("throttle",)))
    assert len(lab.of_kind("policy.taken")) == 2


def test_a_flood_of_reports_hides_none_of_others():
    lab = bench()
    for number in range(MOST_REPORTS + 50):
        said = TroubleReport("s1", "amf", f"kind{number}", True)
        order(lab, "domain-CN", said, sender="sem-smf")
    assert len(lab.of_kind("loop.refused")) == REFUSALS + 1
    order(lab, "domain-CN", TroubleReport("s1", "amf", "overloaded", True), sender="sem-amf")
    beliefs = lab.nodes["domain-CN"].agent.beliefs
    assert beliefs.holds(trouble("amf"))
    assert len([*beliefs]) == MOST_REPORTS + 1
    order(lab, "domain-CN", TroubleReport("s1", "amf", "kind0", False), sender="sem-smf")
    order(lab, "domain-CN", TroubleReport("s1", "amf", "kind_last", True), sender="sem-smf")
    assert beliefs.holds(trouble("amf", "kind_last"))
    order(lab, "domain-CN", TroubleReport("s1", "nowhere", "x", True), sender="sem-amf")
    assert lab.of_kind("loop.refused")[-1].data["reason"] == "slice s1 has no part nowhere"


@pytest.mark.parametrize("sender", ["sem-amf", "stranger"])
def test_a_flood_of_what_is_refused_fills_no_log(sender):
    lab = bench()
    for number in range(3 * REFUSALS):
        order(lab, "nssi-core", Insight("s1", f"x{number}", "k", 1.0), sender=sender)
        said = PassedGoal(want(FLOOD), "s1", "", (sender,))
        order(lab, "nssi-core", said, sender=sender, conversation=f"c{number}")
    refused = lab.of_kind("loop.refused")
    assert len(refused) == REFUSALS + 1
    assert "what follows is not" in refused[-1].data["reason"]
    order(lab, "nssi-core", Insight("s1", "x", "k", 1.0), sender="sem-smf")
    assert len(lab.of_kind("loop.refused")) == REFUSALS + 2  # of others it is told


def test_a_flood_of_goals_is_taken_on_up_to_a_number_and_others_have_their_turn():
    lab = bench(sem_amf=("healer",))
    for number in range(ASKED + 20):
        said = PassedGoal(avert(trouble("amf", f"k{number}")), "s1", "", ("nssi-core",))
        order(lab, "sem-amf", said, sender="nssi-core", conversation=f"c{number}")
    lab.run(1)
    assert len(lab.of_kind("loop.refused")) == 20
    other = avert(trouble("amf", "other"))
    order(lab, "sem-amf", PassedGoal(other, "s1", "", ("domain-CN",)), conversation="other")
    assert lab.of_kind("goal.adopted", goal=str(other))
    lab.run(61)
    order(lab, "sem-amf", replace(said, goal=avert(trouble())), "nssi-core", "late")
    assert len(lab.of_kind("loop.refused")) == 20


def test_a_flood_of_claims_keeps_nobody_else_from_the_function():
    lab = bench()
    for number in range(MOST_CLAIMS + 10):
        claim = ActionClaim("amf", "throttle", "s1", "x", goal=f"g{number}")
        order(lab, "sem-amf", claim, sender="nssi-core", conversation=f"c{number}")
    refused = lab.of_kind("claim.refused")
    assert {e.data["reason"] for e in refused} == {
        f"{MOST_CLAIMS} claims of nssi-core stand already"
    }
    order(lab, "sem-amf", ActionClaim("amf", "isolate", "s1", "x"), sender="nsi-s1")
    assert lab.of_kind("claim.granted", holder="nsi-s1")


def test_a_report_of_a_loop_that_does_not_serve_the_slice_is_not_believed():
    lab = bench(two_slices())
    report = TroubleReport("s1", "amf", "overloaded", stands=True)
    order(lab, "e2e", report, sender="nsi-s2")
    assert lab.of_kind("loop.refused")[0].data["sender"] == "nsi-s2"
    assert not [*lab.nodes["e2e"].agent.beliefs.matching(EntityTrouble)]


def test_the_agent_of_a_pop_takes_no_policy_from_the_loops_above_it():
    found = [replace(x, pop="pop1") if x.name == "sem-amf" else x for x in loops()]
    lab = LoopBench(found, providers=("pop1",))
    order(lab, "pop1", SecurityPolicy("s1", 1, ("block",)), sender="sem-amf")
    (refused,) = lab.of_kind("loop.refused")
    assert refused.data["reason"] == "sem-amf may issue no policy to pop1 for slice s1"
    agent = lab.nodes["sem-amf"].agent
    policy = SecurityPolicy("s1", precedence=("block",))
    lab.pursue("sem-amf", agent.capability(ManagedLoop).issue(agent, policy))
    lab.run(1)
    assert lab.of_kind("policy.issued")[0].data["to"] == 0
    assert not lab.of_kind("function.failed")


@pytest.mark.parametrize("text", ["loop_nf_s", "loop_nf_s=fast", "loop_nf_s=", "\x1b[31m=x"])
def test_a_figure_that_is_none_is_refused_in_one_line(text):
    done = CliRunner().invoke(app, ["slice", "policy", "domain-CN", "iot", "--limit", text])
    assert done.exit_code == 2
    assert "NAME=VALUE is expected" in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output
