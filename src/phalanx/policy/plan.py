"""What intents come to: agreements that are watched, rules that are enforced, who belongs where.

The section ``policy:`` of a scenario has this shape, and so has what a running domain is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.loading import Name, Offence, twice, unknown
from phalanx.policy.rules import Cidr, PolicyInventory, RuleSet, rule_offences
from phalanx.policy.ssla import SecurityAgreement, SecurityMetric, agreement_offences


class Revocation(Struct, frozen=True, forbid_unknown_fields=True):
    """Says that a user, a device or an operator may use a slice no more."""

    address: Cidr
    slice: Name
    at_s: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    """Second of the run from which that is so; 0: as soon as the plan holds."""


class PolicyPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """Agreements, rules and members of one network."""

    agreements: Annotated[tuple[SecurityAgreement, ...], Meta(max_length=1000)] = ()
    rules: RuleSet = RuleSet("rules")
    members: PolicyInventory = PolicyInventory()
    """Addresses of the slices' devices and users; those of a slice's functions are known."""
    revoked: Annotated[tuple[Revocation, ...], Meta(max_length=10_000)] = ()
    intents: Annotated[dict[str, str], Meta(max_length=10_000)] = {}
    """Sentences that it follows from, by the name of the intent; further intents have to fit."""


def plan_of_slice(plan: PolicyPlan, name: str) -> PolicyPlan:
    """Return what the loop of a slice is told of a plan: its terms and revocations, and no more."""
    own = (
        replace(each, terms=tuple(term for term in each.terms if term.slice == name))
        for each in plan.agreements
    )
    revoked = tuple(each for each in plan.revoked if each.slice == name)
    return PolicyPlan(tuple(each for each in own if each.terms), revoked=revoked)


def plan_offences(plan: PolicyPlan, slices: Iterable[str] | None = None) -> Iterator[Offence]:
    """Yield everything in a plan that does not fit together; ``slices`` as in ``rule_offences``."""
    known = None if slices is None else list(slices)
    for path, why in rule_offences(plan.rules, known):
        yield f"rules.{path}", why
    yield from twice("agreements", (each.name for each in plan.agreements), ".name")
    for index, agreement in enumerate(plan.agreements):
        for path, why in agreement_offences(agreement, known):
            yield f"agreements[{index}].{path}", why
    for index, each in enumerate(plan.revoked):
        if known is not None and each.slice not in known:
            yield f"revoked[{index}].slice", unknown("slice", each.slice, known)


def member_offences(plan: PolicyPlan) -> Iterator[Offence]:
    """Yield the terms to which all users of a slice are foreign, for want of members."""
    for index, agreement in enumerate(plan.agreements):
        for place, term in enumerate(agreement.terms):
            foreign = term.metric is SecurityMetric.FOREIGN_SOURCES
            if foreign and not term.allowed and not plan.members.slices.get(term.slice):
                why = f"everything would be foreign; give members of {term.slice}, or allow some"
                yield f"agreements[{index}].terms[{place}].allowed", why
