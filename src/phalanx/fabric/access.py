"""Access control: who may invoke what on whom, decided by rules, with the reason.

A rule allows or denies. Whatever the order of the rules, a rule that denies wins over all that
allow. Where no rule speaks, a read within one's own domain is allowed, and what changes
something is denied. No rule gives what the broker would not let through: only the roles in
``CALLERS`` may publish calls at all.

A caller's name and role are proven by the subject of its call. A role that a service claims in
the registry never counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import call
from phalanx.fabric.operations import Operation
from phalanx.fabric.scope import END_TO_END, Scope
from phalanx.identity.names import Identity, Role

CallerRole = Literal["agent", "orchestrator", "operator"]
CALLERS = (Role.AGENT, Role.ORCHESTRATOR, Role.OPERATOR)
"""The roles that the broker lets publish calls."""

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Pattern = Text
"""A name, in which ``*`` stands for any signs, also none."""
Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=256)]


class Who(Struct, frozen=True, forbid_unknown_fields=True):
    """Callers that a rule is about: all that is given must fit, and something must be."""

    role: tuple[CallerRole, ...] = ()
    """One of these."""
    name: Patterns = ()
    """One of these."""
    scope: Scope | None = None
    """The caller cares for nothing outside of this."""


class Whom(Struct, frozen=True, forbid_unknown_fields=True):
    """Providers that a rule is about: all that is given must fit, and something must be."""

    owner: Patterns = ()
    """One of these."""
    scope: Scope | None = None
    """The provider cares for nothing outside of this."""
    capability: Patterns = ()
    """The provider has one of these."""


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an access control list."""

    name: Text
    """Stands in decisions and in the audit."""
    effect: Literal["allow", "deny"]
    who: Who
    what: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=256)]
    """Names of operations."""
    on: Whom


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """An access control list, and what those who call care for."""

    rules: Annotated[tuple[Rule, ...], Meta(max_length=10_000)] = ()
    scopes: dict[Text, Scope] = {}
    """By the caller's name; that of who is not named is unknown."""

    def caller(self, identity: Identity) -> Caller:
        """Return what is known of who calls."""
        return Caller(identity, self.scopes.get(identity.name))


class Caller(Struct, frozen=True):
    """Who calls."""

    identity: Identity
    scope: Scope | None = None
    """What it cares for; None: unknown, which no rule that allows takes for inside."""


class Provided(Struct, frozen=True):
    """Whom is called."""

    owner: str
    domain: str
    scope: Scope = END_TO_END
    capabilities: tuple[str, ...] = ()


class Decision(Struct, frozen=True):
    """Whether a call may be made, and why."""

    allowed: bool
    reason: str
    rule: str | None = None
    """Name of the rule that decided; None: none did."""


STANDARD_RULES = (
    Rule(
        "people-and-orchestrators",
        "allow",
        Who(role=("operator", "orchestrator")),
        ("*",),
        Whom(owner=("*",)),
    ),
)
"""Operators and orchestrators may invoke everything; agents may read."""
STANDARD_POLICY = Policy(STANDARD_RULES)


def decide(
    policy: Policy, caller: Caller, operation: str, changes: bool, provider: Provided
) -> Decision:
    """Return whether ``caller`` may invoke ``operation``; depends on nothing but its arguments.

    Args:
        policy: the rules.
        caller: who calls, as the provider knows it.
        operation: its name.
        changes: whether it changes something.
        provider: whom is called.

    """
    who = caller.identity
    subject = call(provider.domain, provider.owner, operation, who.role.value, who.name)
    if not grants(who).may_publish(subject):
        return Decision(False, f"the broker lets no {who.role.value} of {who.domain!r} call this")
    applying = sorted(
        (rule for rule in policy.rules if _applies(rule, caller, operation, provider)),
        key=lambda rule: (rule.effect != "deny", rule.name),
    )
    if applying:
        rule = applying[0]
        allowed = rule.effect == "allow"
        verb = "allows" if allowed else "denies"
        return Decision(allowed, f"rule {rule.name!r} {verb} it", rule.name)
    if not changes:
        return Decision(True, "reads within one's own domain are allowed")
    return Decision(False, "no rule allows it, and it changes something")


def _applies(rule: Rule, caller: Caller, operation: str, provider: Provided) -> bool:
    """Whether a rule is about this call; what is unknown counts as it widens access least."""
    denies = rule.effect == "deny"
    who, on = rule.who, rule.on
    if who.scope is not None and not (
        denies if caller.scope is None else who.scope.contains(caller.scope)
    ):
        return False
    return (
        (not who.role or caller.identity.role.value in who.role)
        and (not who.name or _any(who.name, caller.identity.name))
        and _any(rule.what, operation)
        and (not on.owner or _any(on.owner, provider.owner))
        and (on.scope is None or on.scope.contains(provider.scope))
        and (not on.capability or any(_any(on.capability, c) for c in provider.capabilities))
    )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(_compiled(pattern).fullmatch(name) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


class Gate:
    """Decides for one provider; the policy may be changed while it runs."""

    def __init__(self, policy: Policy, provider: Callable[[], Provided]) -> None:
        self.policy = policy
        self._provider = provider

    def check(self, caller: Identity, operation: Operation[Any, Any]) -> Decision:
        """Return whether ``caller`` may invoke ``operation`` now."""
        who = self.policy.caller(caller)
        return decide(self.policy, who, operation.name, operation.changes, self._provider())
