"""Agents that are processes keep to a policy that they are told of, over kill -9, too."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.fabric.audit_trail import AuditReading
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


def a_plan() -> dict[str, Any]:
    strangers = users(name="strangers", count=2)
    document = plan(
        traffic=[users(count=6, demand_mb_s=0.05), strangers],
        monitors=[],
        policy={"members": {"slices": {"shop": list(MEMBERS.slices["shop"])}}},
        strategy="service",
        functions={},
    )
    document["functions"] = {"policy-enforcer": {}}
    return document


def test_a_policy_is_kept_to_until_it_is_withdrawn_whatever_becomes_of_the_process(
    tmp_path: Path,
) -> None:
    with Lab(tmp_path, document=a_plan()) as lab:
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
        lab.until(lambda: {"south", "north"} <= sealed(lab), "two agents have sealed their trails")
        lab.testbed.signal("south", signal.SIGINT)
        lab.until(lambda: lab.of("process.ended", agent="south"), "it has ended in order")
        trail = AuditReading()
        for event in {heard.event.id: heard.event for heard in lab.heard}.values():
            trail.see(event)
        loose = trail.end()
        assert not trail.breaks
        assert "audit.south.2" in trail.heads
        assert "south.2" not in loose  # as it ended it sealed the rest


def sealed(lab: Lab) -> set[str]:
    return {heard.event.agent for heard in lab.of("audit.sealed")}


def test_sentences_become_rules_of_agents_that_run_and_are_taken_back(tmp_path: Path) -> None:
    page, plan_file = tmp_path / "page.txt", tmp_path / "ring.yaml"
    page.write_text(
        f"Shop has the addresses 10.1.0.0/16, {SERVER}.\n"
        "only: slice shop is isolated from every other slice.\n"
    )
    plan_file.write_text(yaml.safe_dump(a_plan()))

    def phalanx(*words: object, code: int = 0) -> str:
        given = [*map(str, words), "--domain", str(lab.testbed.domain.folder)]
        done = CliRunner(env={"COLUMNS": "120"}).invoke(app, given)
        assert done.exit_code == code, done.output
        return done.output

    with Lab(tmp_path, document=a_plan()) as lab:
        lab.start_all()
        new, less = tmp_path / "new.yaml", tmp_path / "less.yaml"
        said = phalanx("intent", "apply", page, "--scenario", plan_file, "--out", new)
        assert "south: policy 1 is kept to from now on" in said
        lab.until(lambda: lab.of("policy.enforced", agent="south"), "the rule is in force")
        enforced = lab.of("policy.enforced", agent="south")[0]
        assert enforced.event.data["intent"] == "only"
        said = phalanx("intent", "remove", new, "only", "--out", less)
        assert "south: policy 2 is kept to from now on" in said
        lab.until(lambda: not lab.in_force(), "nothing is in force any more")
        lab.testbed.signal("south", signal.SIGKILL)
        lab.until(lambda: "south" in lab.testbed.ended(), "it has ended")
        again = tmp_path / "again.yaml"
        said = phalanx("intent", "apply", page, "--scenario", less, "--out", again, code=1)
        assert "1 of 4 agents did not take it" in said
