from __future__ import annotations

from pathlib import Path

import pytest
from fabric_lab import DOMAIN
from hypothesis import given
from hypothesis import strategies as st
from tests.one_line import taken_or_refused

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import call
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.errors import ScenarioError
from phalanx.fabric.access import (
    CALLERS,
    STANDARD_POLICY,
    AccessDecision,
    AccessPolicy,
    AccessRule,
    Gate,
    Resource,
    ResourceMatch,
    Subject,
    SubjectMatch,
    decide,
    load_policy,
    parse_policy,
)
from phalanx.fabric.audit import BURST, WINDOW_S, AccessAudit, AccessRefusal
from phalanx.fabric.audit import CALLERS as TRACKED
from phalanx.fabric.operations import STATUS, STOP
from phalanx.fabric.registration import Area
from phalanx.identity.names import Identity, Role

VIDEO = Area(domain=DOMAIN, slice="video")
POP1 = Resource("pop1", DOMAIN, VIDEO, ("classifier",))
EVERYBODY, EVERYONE = SubjectMatch(name=("*",)), ResourceMatch(owner=("*",))


def caller(name: str, role: Role = Role.AGENT, area: Area | None = None) -> Subject:
    return Subject(Identity(name, role, DOMAIN), area)


def test_without_rules_reads_are_allowed_and_changes_denied() -> None:
    assert decide(AccessPolicy(), caller("pop2"), "status", False, POP1).allowed
    denied = decide(AccessPolicy(), caller("alice", Role.OPERATOR), "stop", True, POP1)
    assert denied == AccessDecision(False, "no rule allows it, and it changes something")


def test_a_denial_wins_over_any_permission_and_says_which_rule_decided() -> None:
    rules = (
        AccessRule("all", "allow", EVERYBODY, ("*",), EVERYONE),
        AccessRule("not-pop1", "deny", EVERYBODY, ("st*",), ResourceMatch(owner=("pop1",))),
    )
    decision = decide(AccessPolicy(rules), caller("pop2"), "stop", True, POP1)
    assert decision == AccessDecision(False, "rule 'not-pop1' denies it", "not-pop1")
    assert decide(AccessPolicy(rules), caller("pop2"), "drain", True, POP1).rule == "all"


def test_operators_and_orchestrators_may_all_and_agents_may_read() -> None:
    gate = Gate(STANDARD_POLICY, lambda: POP1)
    for role in (Role.OPERATOR, Role.ORCHESTRATOR):
        assert gate.check(caller("alice", role).identity, STOP).allowed
    mallory = caller("operator").identity  # a name proves no role
    assert not gate.check(mallory, STOP).allowed
    assert gate.check(mallory, STATUS).allowed
    gate.policy = AccessPolicy()
    assert not gate.check(caller("alice", Role.OPERATOR).identity, STOP).allowed
    elsewhere = Identity("alice", Role.OPERATOR, "core")
    assert not gate.check(elsewhere, STATUS).allowed


def test_scopes_and_capabilities() -> None:
    inside = AccessRule(
        "slice", "allow", SubjectMatch(area=VIDEO), ("stop",), ResourceMatch(area=VIDEO)
    )
    policy = AccessPolicy((inside,))
    near = caller("a", area=Area(domain=DOMAIN, slice="video", function="cache"))
    assert decide(policy, near, "stop", True, POP1).allowed
    for wider in (None, Area(), Area(domain=DOMAIN), Area(domain=DOMAIN, slice="voice")):
        assert not decide(policy, caller("a", area=wider), "stop", True, POP1).allowed
    outside = Resource("pop1", DOMAIN, Area(domain=DOMAIN))
    assert not decide(policy, near, "stop", True, outside).allowed
    analysers = AccessRule(
        "ml", "allow", EVERYBODY, ("stop",), ResourceMatch(capability=("class*",))
    )
    assert decide(AccessPolicy((analysers,)), near, "stop", True, POP1).allowed
    assert not decide(AccessPolicy((analysers,)), near, "stop", True, outside).allowed


def test_an_unknown_scope_is_inside_of_what_is_denied() -> None:
    rules = (
        AccessRule("all", "allow", EVERYBODY, ("*",), EVERYONE),
        AccessRule("not-video", "deny", SubjectMatch(area=VIDEO), ("*",), EVERYONE),
    )
    assert not decide(AccessPolicy(rules), caller("a"), "stop", True, POP1).allowed
    elsewhere = caller("a", area=Area(domain="core"))
    assert decide(AccessPolicy(rules), elsewhere, "stop", True, POP1).allowed


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("pop*", "pop12", True),
        ("pop*", "xpop1", False),
        ("p?p", "pop", False),
        ("[a-z]", "a", False),
        (".*", "pop1", False),
        ("a*c", "abbc\n", False),
        ("a*b*c", "a1b2c", True),
    ],
)
def test_only_the_star_is_special_in_a_pattern(pattern: str, name: str, fits: bool) -> None:
    rule = AccessRule("r", "allow", SubjectMatch(name=("*",)), (pattern,), EVERYONE)
    assert decide(AccessPolicy((rule,)), caller("a"), name, True, POP1).allowed is fits


NAMES = st.sampled_from(("pop1", "pop2", "alice"))
WORDS = st.lists(st.sampled_from(("*", "pop*", "pop1", "alice")), min_size=1, max_size=2).map(tuple)
OPERATIONS = st.sampled_from(("status", "stop", "drain"))
SCOPES = st.sampled_from((None, Area(), Area(domain=DOMAIN), VIDEO))
ROLES = st.lists(st.sampled_from(("agent", "operator", "orchestrator")), max_size=2).map(tuple)
RULES = st.builds(
    AccessRule,
    name=st.sampled_from("abcdef"),
    effect=st.sampled_from(("allow", "deny")),
    subject=st.builds(SubjectMatch, role=ROLES, name=WORDS, area=SCOPES),
    operations=st.lists(st.sampled_from(("*", "st*", "stop", "status")), min_size=1).map(tuple),
    resource=st.builds(ResourceMatch, owner=WORDS, area=SCOPES, capability=st.just(())),
)
CASES = st.tuples(
    st.builds(
        Subject,
        st.builds(Identity, NAMES, st.sampled_from(Role), st.sampled_from((DOMAIN, "core"))),
        SCOPES,
    ),
    OPERATIONS,
    st.booleans(),
    st.builds(Resource, NAMES, st.just(DOMAIN), st.sampled_from((Area(), VIDEO))),
)
Case = tuple[Subject, str, bool, Resource]


@given(st.lists(RULES, max_size=6), CASES, st.randoms(use_true_random=False))
def test_neither_order_nor_doubles_change_anything(
    rules: list[AccessRule], case: Case, draw: object
) -> None:
    once = decide(AccessPolicy(tuple(rules)), *case)
    mixed = [*rules, *rules]
    draw.shuffle(mixed)  # type: ignore[attr-defined]  # a Random
    assert decide(AccessPolicy(tuple(mixed)), *case) == once


@given(st.lists(RULES, max_size=6), RULES, CASES)
def test_one_more_denial_never_widens_and_one_more_permission_never_beats_a_denial(
    rules: list[AccessRule], more: AccessRule, case: Case
) -> None:
    before = decide(AccessPolicy(tuple(rules)), *case)
    after = decide(AccessPolicy((*rules, more)), *case)
    if more.effect == "deny":
        assert before.allowed or not after.allowed
    elif before.rule is not None and not before.allowed:
        assert not after.allowed


@given(st.lists(RULES, max_size=6), CASES)
def test_to_know_less_of_a_caller_never_widens(rules: list[AccessRule], case: Case) -> None:
    who, *rest = case
    unknown = decide(AccessPolicy(tuple(rules)), Subject(who.identity), *rest)
    known = decide(AccessPolicy(tuple(rules)), *case)
    assert known.allowed or not unknown.allowed


@given(st.lists(RULES, max_size=6), CASES)
def test_nothing_is_allowed_that_the_broker_does_not_let_through(
    rules: list[AccessRule], case: Case
) -> None:
    who, operation, _, provider = case
    if decide(AccessPolicy(tuple(rules)), *case).allowed:
        subject = call(
            provider.domain,
            provider.owner,
            operation,
            who.identity.role.value,
            who.identity.name,
        )
        assert grants(who.identity).may_publish(subject)
        assert who.identity.role in CALLERS


def test_the_roles_that_may_call_are_those_of_the_broker() -> None:
    assert set(CALLERS) == {
        role
        for role in Role
        if grants(Identity("x", role, DOMAIN)).may_publish(
            call(DOMAIN, "pop1", "status", role.value, "x")
        )
    }


YAML = """
areas:
  pop2: {domain: edge, slice: video}
rules:
  - name: people
    effect: allow
    subject: {role: [operator]}
    operations: [stop, drain]
    resource: {owner: ["*"]}
"""
TOML = """
[areas]
pop2 = {domain = "edge", slice = "video"}
[[rules]]
name = "people"
effect = "allow"
subject = {role = ["operator"]}
operations = ["stop", "drain"]
resource = {owner = ["*"]}
"""


def test_policies_from_files(tmp_path: Path) -> None:
    for name, text in (("access.yaml", YAML), ("access.toml", TOML)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        policy = load_policy(tmp_path / name)
        alice = caller("alice", Role.OPERATOR).identity
        assert Gate(policy, lambda: POP1).check(alice, STOP).rule == "people"
        assert policy.subject(caller("pop2").identity).area == VIDEO
    assert load_policy(tmp_path / "access.yaml") == load_policy(tmp_path / "access.toml")
    with pytest.raises(ScenarioError, match=r"none\.yaml: cannot be read"):
        load_policy(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("effect: allow", "efect: allow", r"rules\[0\]\.efect .*unknown field; did you mean"),
        ("effect: allow", "effect: permit", r"rules\[0\]\.effect .*one of allow, deny"),
        ("role: [operator]", "role: [observer]", r"one of agent, operator, orchestrator"),
        ("subject: {role: [operator]}", "subject: {}", r"rules\[0\]\.subject .*nothing is named"),
        ('resource: {owner: ["*"]}', "resource: {}", r"rules\[0\]\.resource .*nothing is named"),
        ("operations: [stop, drain]", "operations: []", r"at least 1 expected"),
        ("    operations: [stop, drain]\n", "", r"rules\[0\]\.operations.*missing"),
        ("role: [operator]", "role: [king]", r"rules\[0\]\.subject\.role.*'king' is not allowed"),
        ("rules:", "rulez:", r"rulez .*did you mean 'rules'"),
        ("slice: video", "slise: video", r"slise.*unknown field"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(old: str, new: str, said: str) -> None:
    assert old in YAML
    with pytest.raises(ScenarioError, match=rf"^acl\.yaml: .*{said}") as caught:
        parse_policy(YAML.replace(old, new), "acl.yaml")
    assert "\n" not in str(caught.value)


def test_two_rules_of_one_name_are_refused() -> None:
    rule = YAML[YAML.index("  - name") :]
    with pytest.raises(ScenarioError, match=r"rules\[1\]\.name .*'people' is already"):
        parse_policy(YAML + rule, "acl.yaml")
    with pytest.raises(ScenarioError, match=r"^acl\.toml: rules\[0\]\.efect"):
        parse_policy(TOML.replace("effect", "efect"), "acl.toml")
    with pytest.raises(ScenarioError, match=r"^acl\.toml: no TOML"):
        parse_policy("rules = [", "acl.toml")


@given(st.text(max_size=200), st.sampled_from(("a.yaml", "a.toml")))
def test_any_text_is_a_policy_or_one_line(text: str, name: str) -> None:
    taken_or_refused(ScenarioError, lambda: parse_policy(text, name))


# -- the audit ------------------------------------------------------------------------------


def audit() -> tuple[VirtualClock, AccessAudit, list[dict[str, object]]]:
    clock, events = VirtualClock(), []

    def record(kind: str, cause: str | None, /, **data: object) -> None:
        assert (kind, cause) == ("access.refused", "e1")
        events.append(data)

    return clock, AccessAudit(clock, record, "e1"), events


def test_a_refusal_is_an_event() -> None:
    clock, refuse, events = audit()
    refuse(AccessRefusal("mallory", "stop", "pop1", "no rule allows it", None))
    assert events == [
        {
            "subject": "mallory",
            "action": "stop",
            "resource": "pop1",
            "reason": "no rule allows it",
            "rule": None,
            "suppressed": 0,
        }
    ]
    clock.run()
    assert len(events) == 1


def test_a_flood_of_refusals_does_not_flood_the_log_and_all_are_counted() -> None:
    clock, refuse, events = audit()
    for _ in range(10_000):
        refuse(AccessRefusal("mallory", "stop", "pop1", "no"))
    refuse(AccessRefusal("bob", "stop", "pop1", "no"))
    assert [event["subject"] for event in events] == ["mallory"] * BURST + ["bob"]
    clock.run()
    assert clock.now() == WINDOW_S
    assert len(events) == BURST + 2
    assert len(events) + sum(int(str(e["suppressed"])) for e in events) == refuse.refused == 10_001


@given(st.lists(st.tuples(st.integers(0, 600), st.sampled_from((0.0, 0.1, 11.0))), max_size=300))
def test_each_refusal_is_recorded_or_counted_once(steps: list[tuple[int, float]]) -> None:
    clock, refuse, events = audit()
    for name, pause in steps:
        clock.run(until=clock.now() + pause)
        refuse(AccessRefusal(f"x{name}", "stop", "pop1", "no"))
    clock.run()
    assert len(events) + sum(int(str(e["suppressed"])) for e in events) == len(steps)


def test_a_crowd_of_callers_shares_one_window() -> None:
    clock, refuse, events = audit()
    for number in range(10_000):
        refuse(AccessRefusal(f"x{number}", "stop", "pop1", "no"))
    clock.run()
    assert len(events) == TRACKED + BURST + 1
    assert events[-1]["suppressed"] == 10_000 - TRACKED - BURST - 1
    assert events[-1]["subject"] == "*"
