"""Access control: which subject may invoke which operation of which provider, and the reason.

A rule allows or denies. Whatever the order of the rules, a rule that denies wins over all that
allow. Where no rule speaks, a read within one's own domain is allowed, and what changes
something is denied. No rule gives what the broker would not let through: only the roles in
``CALLERS`` may publish calls at all.

A subject's name and role are proven by the subject of its call. A role that a service claims in
the registry never counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import call
from phalanx.fabric.operations import Operation
from phalanx.fabric.registration import END_TO_END, Area
from phalanx.identity.names import Identity, Role
from phalanx.loading import Offence, Tree, parse_as, parse_toml_as, read_text, refusal, twice

CallerRole = Literal["agent", "orchestrator", "operator"]
CALLERS = (Role.AGENT, Role.ORCHESTRATOR, Role.OPERATOR)
"""The roles that the broker lets publish calls."""

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Pattern = Text
"""A name, in which ``*`` stands for any signs, also none."""
Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=256)]


class SubjectMatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Callers that a rule is about; all given fields must match, at least one is needed."""

    role: tuple[CallerRole, ...] = ()
    """One of these."""
    name: Patterns = ()
    """One of these."""
    area: Area | None = None
    """The caller manages nothing outside of it."""


class ResourceMatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Providers that a rule is about; all given fields must match, at least one is needed."""

    owner: Patterns = ()
    """One of these."""
    area: Area | None = None
    """The provider manages nothing outside of it."""
    capability: Patterns = ()
    """The provider has one of these."""


class AccessRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an access control list."""

    name: Text
    """Stands in decisions and in the audit."""
    effect: Literal["allow", "deny"]
    subject: SubjectMatch
    operations: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=256)]
    resource: ResourceMatch


class AccessPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """An access control list, and the areas that callers manage."""

    rules: Annotated[tuple[AccessRule, ...], Meta(max_length=10_000)] = ()
    areas: dict[Text, Area] = {}
    """By the caller's name; the area of a caller that is not named is unknown."""

    def subject(self, identity: Identity) -> Subject:
        """Return what is known of a caller."""
        return Subject(identity, self.areas.get(identity.name))


class Subject(Struct, frozen=True):
    """A caller as a provider knows it."""

    identity: Identity
    area: Area | None = None
    """What it manages; None if unknown, which a rule that allows takes for outside of its area."""


class Resource(Struct, frozen=True):
    """A provider, as rules see it."""

    owner: str
    domain: str
    area: Area = END_TO_END
    capabilities: tuple[str, ...] = ()


class AccessDecision(Struct, frozen=True):
    """Whether a call may be made, and why."""

    allowed: bool
    reason: str
    rule: str | None = None
    """Name of the rule that decided; None: none did."""


STANDARD_RULES = (
    AccessRule(
        "people-and-orchestrators",
        "allow",
        SubjectMatch(role=("operator", "orchestrator")),
        ("*",),
        ResourceMatch(owner=("*",)),
    ),
)
"""Operators and orchestrators may invoke everything; agents may read."""
STANDARD_POLICY = AccessPolicy(STANDARD_RULES)


def decide(
    policy: AccessPolicy,
    subject: Subject,
    operation: str,
    changes: bool,
    provider: Resource,
    open_to: tuple[Role, ...] = (),
) -> AccessDecision:
    """Return whether ``subject`` may invoke ``operation``; depends on nothing but its arguments.

    Args:
        policy: the rules.
        subject: the caller.
        operation: its name.
        changes: whether it changes something.
        provider: the provider that is called.
        open_to: roles that need no rule.

    """
    me = subject.identity
    address = call(provider.domain, provider.owner, operation, me.role.value, me.name)
    if not grants(me).may_publish(address):
        return AccessDecision(
            False, f"the broker lets no {me.role.value} of {me.domain!r} call this"
        )
    applying = sorted(
        (rule for rule in policy.rules if _applies(rule, subject, operation, provider)),
        key=lambda rule: (rule.effect != "deny", rule.name),
    )
    if applying:
        rule = applying[0]
        allowed = rule.effect == "allow"
        verb = "allows" if allowed else "denies"
        return AccessDecision(allowed, f"rule {rule.name!r} {verb} it", rule.name)
    if not changes:
        return AccessDecision(True, "reads within one's own domain are allowed")
    if me.role in open_to:
        return AccessDecision(True, f"it is open to the role {me.role.value}")
    return AccessDecision(False, "no rule allows it, and it changes something")


def _applies(rule: AccessRule, subject: Subject, operation: str, provider: Resource) -> bool:
    """Whether a rule is about this call; what is unknown counts as it widens access least."""
    denies = rule.effect == "deny"
    who, on = rule.subject, rule.resource
    if who.area is not None and not (
        denies if subject.area is None else who.area.contains(subject.area)
    ):
        return False
    return (
        (not who.role or subject.identity.role.value in who.role)
        and (not who.name or _any(who.name, subject.identity.name))
        and _any(rule.operations, operation)
        and (not on.owner or _any(on.owner, provider.owner))
        and (on.area is None or on.area.contains(provider.area))
        and (not on.capability or any(_any(on.capability, c) for c in provider.capabilities))
    )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(_compiled(pattern).fullmatch(name) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


class Gate:
    """Decides for one provider; the policy may be changed while it runs."""

    def __init__(self, policy: AccessPolicy, provider: Callable[[], Resource]) -> None:
        self.policy = policy
        self._provider = provider

    def check(self, caller: Identity, operation: Operation[Any, Any]) -> AccessDecision:
        """Return whether ``caller`` may invoke ``operation`` now."""
        subject = self.policy.subject(caller)
        return decide(
            self.policy,
            subject,
            operation.name,
            operation.changes,
            self._provider(),
            operation.open_to,
        )


def load_policy(path: str | Path) -> AccessPolicy:
    """Return the access control list in the file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    return parse_policy(read_text(path), str(path))


def parse_policy(text: str, name: str) -> AccessPolicy:
    """Return the access control list that ``text`` describes; ``name`` is the file's, for errors.

    Raises:
        ScenarioError: as ``load_policy``.

    """
    if name.endswith(".toml"):
        policy, tree = parse_toml_as(AccessPolicy, text, name), Tree({}, {})
    else:
        policy, tree = parse_as(AccessPolicy, text, name)
    for field, why in _offences(policy):
        raise refusal(name, tree, field, why)
    return policy


def _offences(policy: AccessPolicy) -> Iterator[Offence]:
    """Yield what the fields say about each other and may not."""
    yield from twice("rules", (rule.name for rule in policy.rules), ".name")
    for index, rule in enumerate(policy.rules):
        if not (rule.subject.role or rule.subject.name or rule.subject.area is not None):
            yield f"rules[{index}].subject", "nothing is named; for all callers write name: ['*']"
        if not (rule.resource.owner or rule.resource.capability or rule.resource.area is not None):
            yield (
                f"rules[{index}].resource",
                "nothing is named; for all providers write owner: ['*']",
            )
