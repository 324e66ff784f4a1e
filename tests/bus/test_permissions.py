"""Permissions by role: nobody speaks as another or reads another's messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus import subjects
from phalanx.bus.permissions import grants
from phalanx.identity.names import Identity, Role

NAMES = st.sampled_from(["pop1", "pop2", "pop.3", "3", "p_op"])
ROLES = st.sampled_from(list(Role))
KINDS = ["goal.ended", "agent.started"]


@given(NAMES, NAMES, NAMES, ROLES)
def test_nobody_speaks_as_another(me: str, other: str, third: str, role: Role) -> None:
    allowed = grants(Identity(me, role, "edge"))
    if me == other:
        return
    forged = [
        subjects.message("edge", third, other),
        subjects.multicast("edge", other),
        *(subjects.event("edge", other, kind) for kind in KINDS),
        *(subjects.call("edge", third, "status", any_.value, other) for any_ in Role),
        subjects.announcement("edge", other, "news"),
    ]
    assert not [subject for subject in forged if allowed.may_publish(subject)]
    assert not allowed.may_put(subjects.REGISTRY, subjects.token(other))


@given(NAMES, NAMES, NAMES, ROLES)
def test_nobody_reads_what_was_said_to_another(me: str, other: str, by: str, role: Role) -> None:
    allowed = grants(Identity(me, role, "edge"))
    if me != other:
        assert not allowed.may_subscribe(subjects.message("edge", other, by))
        assert not allowed.may_subscribe(subjects.call("edge", other, "status", "operator", by))
    for wide in subjects.Wildcard:
        assert not allowed.may_subscribe(subjects.pattern("edge", "msg", wide))
        assert not allowed.may_subscribe(f"phx.{wide}")


@given(NAMES, ROLES)
def test_domains_never_meet(me: str, role: Role) -> None:
    allowed = grants(Identity(me, role, "edge"))
    for pattern in (*allowed.publish, *allowed.subscribe):
        assert subjects.covers("phx.edge.>", pattern)


def test_an_agent_does_its_work() -> None:
    allowed = grants(Identity("pop1", Role.AGENT, "edge"))
    assert allowed.may_publish(subjects.message("edge", "pop2", "pop1"))
    assert allowed.may_publish(subjects.event("edge", "pop1", "auction.bid"))
    assert allowed.may_publish(subjects.call("edge", "history", "find", "agent", "pop1"))
    assert allowed.may_subscribe(subjects.pattern("edge", "msg", "pop1", subjects.ONE))
    assert allowed.may_put(subjects.REGISTRY, "pop1")
    everything = subjects.pattern("edge", "evt", subjects.ONE, subjects.REST)
    assert not allowed.may_subscribe(everything), "an agent has no business with what others do"
    assert not allowed.follow, "nor with what they recorded"


@given(NAMES, ROLES)
def test_nobody_calls_in_a_role_that_is_not_its_own(me: str, role: Role) -> None:
    allowed = grants(Identity(me, role, "edge"))
    for claimed in Role:
        called = allowed.may_publish(subjects.call("edge", "pop1", "stop", claimed.value, me))
        assert not called or claimed is role


@pytest.mark.parametrize("role", [Role.OBSERVER])
def test_an_observer_changes_nothing(role: Role) -> None:
    allowed = grants(Identity("eye", role, "edge"))
    assert not allowed.publish
    assert not allowed.put


@pytest.mark.parametrize("name", ["*", ">", "", "a b", "pop1.>" + "\n", "é", "-a", "x" * 65])
def test_a_name_that_could_stand_for_others_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        Identity(name, Role.AGENT, "edge")
    with pytest.raises(ValueError, match="domain is"):
        Identity("pop1", Role.AGENT, name)
