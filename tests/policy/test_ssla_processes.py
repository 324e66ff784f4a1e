"""Agents that are processes keep to a policy that they are told of, over kill -9, too."""

from __future__ import annotations

import signal
from pathlib import Path

from phalanx.fabric.calls import CallFailed
from phalanx.fabric.operations import Accepted
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.rules import (
    PolicyInventory,
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleMatch,
    RuleSet,
    Segment,
)
from phalanx.policy.ssla import GuaranteeTerm, Remediation, SecurityAgreement, SecurityMetric
from phalanx.runtime.composition import AGREEMENTS
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import plan
from tests.system.rings import SERVER, users

pytestmark = processes()

MEMBERS = PolicyInventory({"shop": ("10.1.0.0/16", SERVER)})
OWN = PolicyRule(
    "own", RuleAction(PolicyVerdict.PERMIT), RuleMatch(Segment(slice="shop"), Segment(slice="shop"))
)
ISOLATE = PolicyRule(
    "isolate", RuleAction(PolicyVerdict.DENY), RuleMatch(target=Segment(slice="shop"))
)
TERM = GuaranteeTerm(
    "isolation",
    "shop",
    SecurityMetric.FOREIGN_SOURCES,
    0.0,
    2.0,
    remediation=(Remediation.REJECT,),
)
POLICY = PolicyPlan((SecurityAgreement("shop", (TERM,)),), RuleSet("shop", (OWN, ISOLATE)), MEMBERS)


def test_a_policy_is_kept_to_until_it_is_withdrawn_whatever_becomes_of_the_process(
    tmp_path: Path,
) -> None:
    strangers = users(name="strangers", count=2)
    document = plan(
        traffic=[users(count=6, demand_mb_s=0.05), strangers],
        monitors=[],
        policy={"members": {"slices": {"shop": list(MEMBERS.slices["shop"])}}},
        strategy="service",
        functions={},
    )
    document["functions"] = {"policy-enforcer": {}}
    with Lab(tmp_path, document=document) as lab:
        lab.start_all()
        gre = PolicyRule("gre", RuleAction(PolicyVerdict.DENY), RuleMatch(protocol="gre"))
        wrong = PolicyPlan(rules=RuleSet("r", (gre,)), members=MEMBERS)
        refused = lab.ask("south", AGREEMENTS, wrong)
        assert isinstance(refused, CallFailed)
        assert "not gre" in refused.reason
        answer = lab.ask("south", AGREEMENTS, POLICY)
        assert isinstance(answer, Accepted), answer
        lab.until(lambda: lab.of("policy.enforced", agent="south"), "the rule is in force")
        lab.testbed.signal("south", signal.SIGKILL)
        lab.until(lambda: "south" in lab.testbed.ended(), "it has ended")
        lab.restart("south")
        lab.rest(4)  # longer than a lease: what is not renewed ends
        held = {measure for measure in lab.in_force() if "isolate" in measure}
        assert len(held) == 1
        assert isinstance(lab.ask("south", AGREEMENTS, PolicyPlan(members=MEMBERS)), Accepted)
        lab.until(lambda: lab.of("policy.withdrawn", agent="south"), "the rule is lifted")
        lab.until(lambda: not lab.in_force(), "nothing is in force any more")
