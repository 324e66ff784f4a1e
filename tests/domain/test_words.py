"""The words: scaling, resources, names of links, how goals are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.bids import Bid
from phalanx.domain.events import Recorder
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, avert, find_out, want
from phalanx.domain.messages import Award, CallForProposals, Message, Performative, Verdict, rebased
from phalanx.domain.network import link_ends, link_id
from phalanx.domain.predicates import AnomalousUsage, LinkRateLimited
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import Vnfd

amounts = st.integers(0, 10**6).map(float)
resources = st.builds(Resources, amounts, amounts, amounts)


@given(resources, resources)
def test_resources_add_up(a, b):
    assert a + b - b == a
    assert a.within(a + b)
    assert (a.lacking(b) is None) == a.within(b)
    assert a.within(a.most(b))
    assert b.within(a.most(b))
    assert a + NOTHING == a


def test_what_is_lacking_is_said_with_both_figures():
    assert Resources(2, 1, 1).lacking(Resources(1, 1, 1)) == "needs 2 cores, 1 free"
    assert Resources(1, 9, 1).lacking(Resources(1, 8.5, 1)) == "needs 9 GB memory, 8.5 free"
    assert Resources(1, 1, 3).lacking(Resources(1, 1, 2)) == "needs 3 GB disk, 2 free"


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_units_carry_the_traffic_and_not_one_too_many(traffic, each):
    vnfd = Vnfd("x", Resources(1, 1, 1), handles_mb_s=each)
    units = vnfd.units_for(traffic)
    assert units * each >= traffic * (1 - 1e-5) or units * each >= traffic - each * 1e-5
    assert units == 1 or (units - 1) * each < traffic


def test_the_documents_examples_of_scaling():
    detector = Vnfd("anomaly-detector", Resources(1, 2, 10), handles_mb_s=2.0)
    assert detector.units_for(4.0) == 2
    assert detector.scaled(2) == Resources(2, 4, 20)
    assert Vnfd("limiter", Resources(1, 1, 2)).units_for(1e9) == 1
    assert detector.units_for(0.0) == 1


def test_names_of_links():
    assert link_ends(link_id("a", "b")) == ("a", "b")
    for wrong in ("ab", ">b", "a>", ""):
        with pytest.raises(ValueError, match="is no link name"):
            link_ends(wrong)


def test_goals_are_written_as_in_the_literature():
    limited = LinkRateLimited("a>b")
    assert str(want(limited)) == "linkRateLimited(a>b)"
    assert str(avert(limited)) == "¬linkRateLimited(a>b)"
    assert str(find_out(AnomalousUsage("a>b"))) == "?anomalousUsage(a>b, 0, 1)"
    assert want(limited) == want(LinkRateLimited("a>b"))
    assert want(limited) != avert(limited)


def test_a_recorder_counts_and_tells():
    seen = []
    recorder = Recorder("a", seen.append, lambda: 1.5, "a.2")
    first = recorder.record("run.started", None)
    second = recorder.record("link.changed", first, link="a>b", up=False)
    assert [(e.id, e.cause, e.agent, e.time) for e in seen] == [
        ("a.2-1", None, "a", 1.5),
        ("a.2-2", "a.2-1", "a", 1.5),
    ]
    assert second == "a.2-2"
    assert seen[1].data == {"link": "a>b", "up": False}
    part = recorder.part("observe")
    assert (part.agent, part.record("measure.refused", second)) == ("a", "a.2.observe-1")
    assert recorder.record("run.ended", second) == "a.2-3", "each counts by itself"


# -- times in messages mean the same by any two clocks ----------------------------------------


TIMES = st.integers(-(10**6), 10**6).map(float)
GOAL = ConstrainedGoal(want(AnomalousUsage("a>b")), Constraints(), Preferences())
BID = Bid("classifier", 1, {"T": 0.0, "C": 0.0, "D": 0.0}, ("pop1",))


def _message(content: CallForProposals | Award | Verdict) -> Message:
    return Message("m", Performative.CFP, "pop1", "pop2", "c", content, "e")


@given(TIMES, TIMES, TIMES, TIMES)
def test_what_was_left_at_the_sender_is_left_at_the_receiver(
    deadline: float, since: float, sent: float, received: float
) -> None:
    call = CallForProposals(GOAL, deadline, since)
    for content in (call, Award(BID, call)):
        arrived = rebased(rebased(_message(content), -sent), received).content
        there = arrived.cfp if isinstance(arrived, Award) else arrived
        assert isinstance(there, CallForProposals)
        assert there.deadline - received == deadline - sent
        assert there.since - received == since - sent
        assert there.goal == call.goal


def test_other_contents_stay_as_they_are() -> None:
    message = _message(Verdict("no"))
    assert rebased(message, 5.0) is message
