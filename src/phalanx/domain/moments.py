"""Moments in messages, for agents whose clocks do not agree.

Some contents name a moment by their sender's clock. On the way it is told as seconds from the
sending, so that it means the same by the receiver's clock, however wrong either of them is.
"""

from __future__ import annotations

from msgspec.structs import replace

from phalanx.domain.messages import Award, CallForProposals, Message


def shifted(message: Message, by_s: float) -> Message:
    """Return ``message`` with every moment in it ``by_s`` seconds later."""
    match message.content:
        case CallForProposals():
            return replace(message, content=_call(message.content, by_s))
        case Award():
            award = replace(message.content, cfp=_call(message.content.cfp, by_s))
            return replace(message, content=award)
        case _:
            return message


def _call(call: CallForProposals, by_s: float) -> CallForProposals:
    return replace(call, deadline=call.deadline + by_s, since=call.since + by_s)
