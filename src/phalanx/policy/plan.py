"""What intents come to: agreements that are watched, rules that are enforced, who belongs where.

The section ``policy:`` of a scenario has this shape, and so has what a running domain is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from msgspec import Meta, Struct

from phalanx.loading import Offence, twice
from phalanx.policy.rules import PolicyInventory, RuleSet, rule_offences
from phalanx.policy.ssla import SecurityAgreement, agreement_offences


class PolicyPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """Agreements, rules and members of one network."""

    agreements: Annotated[tuple[SecurityAgreement, ...], Meta(max_length=1000)] = ()
    rules: RuleSet = RuleSet("rules")
    members: PolicyInventory = PolicyInventory()
    """Addresses of the slices' devices and users; those of a slice's functions are known."""


def plan_offences(plan: PolicyPlan, slices: Iterable[str] | None = None) -> Iterator[Offence]:
    """Yield everything in a plan that does not fit together; ``slices`` as in ``rule_offences``."""
    known = None if slices is None else list(slices)
    for path, why in rule_offences(plan.rules, known):
        yield f"rules.{path}", why
    yield from twice("agreements", (each.name for each in plan.agreements), ".name")
    for index, agreement in enumerate(plan.agreements):
        for path, why in agreement_offences(agreement, known):
            yield f"agreements[{index}].{path}", why
