"""Times in messages mean the same by any two clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.messages import Award, CallForProposals, Message, Performative, Verdict, rebased
from phalanx.domain.predicates import AnomalousUsage

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
