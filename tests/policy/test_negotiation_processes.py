"""Agents that are processes negotiate an agreement over NATS; a dead provider is replaced."""

from __future__ import annotations

import signal
from pathlib import Path

from msgspec import to_builtins

from phalanx.domain.events import Event
from phalanx.fabric.operations import Accepted
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.rules import PolicyInventory
from phalanx.policy.ssla import GuaranteeTerm, SecurityAgreement, SecurityMetric
from phalanx.runtime.composition import AGREEMENTS
from tests.policy.test_ssla_processes import MEMBERS, a_plan
from tests.system.process_lab import Lab, processes

pytestmark = processes()

TERM = GuaranteeTerm("looks", "shop", SecurityMetric.ANALYSIS_INTERVAL, 1.0, acceptable=5.0)
AGREED = SecurityAgreement("shop", (TERM,), negotiated_with=("north", "east"))


def test_an_agreement_is_negotiated_and_survives_the_death_of_its_provider(tmp_path: Path) -> None:
    plan = a_plan()
    policy = PolicyPlan((AGREED,), members=PolicyInventory(MEMBERS.slices))
    plan["policy"] = to_builtins(policy)
    with Lab(tmp_path, document=plan) as lab:
        lab.start_all()
        lab.until(lambda: lab.of("ssla.agreed", agent="south"), "it is agreed")
        agreed = lab.of("ssla.agreed", agent="south")[0].event.data
        assert agreed["objectives"] == {"looks": 1.2}
        assert agreed["rounds"] == 2
        belief = f"agreementFixed(shop, {agreed['digest']})"
        first = agreed["provider"]
        lab.until(
            lambda: (
                {"south", first}
                <= {
                    x.event.agent
                    for x in lab.of("belief.changed")
                    if x.event.data["belief"] == belief
                }
            ),
            "both hold it",
        )
        lab.testbed.signal(first, signal.SIGKILL)
        lab.until(lambda: len(lab.of("ssla.agreed", agent="south")) > 1, "another one provides")
        second = lab.of("ssla.agreed", agent="south")[-1].event.data["provider"]
        assert {first, second} == {"north", "east"}
        empty = PolicyPlan(members=PolicyInventory(MEMBERS.slices))
        assert isinstance(lab.ask("south", AGREEMENTS, empty), Accepted)
        lab.until(
            lambda: (
                {"south", second}
                <= {x.event.agent for x in lab.of("belief.changed", value=False) if fixed(x.event)}
            ),
            "both hold it no more",
        )


def fixed(event: Event) -> bool:
    return str(event.data["belief"]).startswith("agreementFixed(shop")
