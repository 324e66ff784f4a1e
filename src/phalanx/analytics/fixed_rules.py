"""Sources that are malicious by themselves: each is judged by its own counters alone.

Assumptions, without which counters cannot tell: an honest source completes at least 5 % of the
handshakes that it begins; a UDP service answers at least 5 % of the packets of who sends more
than 200 a second; and of many connections that an honest source holds open, the target answers
at least a third while they are watched. Each verdict errs for one honest source in 700 that
lies just on its threshold, and for far fewer above it: of sources that complete a quarter of
their handshakes (half of the packets lost, both ways), fewer than one in 10^20.
"""

from __future__ import annotations

from msgspec import Struct

from phalanx.analytics.certainty import confidence, fewest, wilson
from phalanx.analytics.tallies import Tally

SYN_FLOOD = "syn flood"
UDP_FLOOD = "udp flood"
SLOW = "slow connections"

COMPLETES = 0.05
"""A source that certainly completes less than this share of its handshakes is flooding."""
REPLIED = 0.05
"""A UDP source that gets certainly fewer replies than this a packet speaks to nobody."""
UDP_PACKETS_S = 200.0
"""Rate below which a one-way UDP flow is left alone, in packets/s."""
ANSWERED = 1 / 3
"""Share of the connections held open that a target answers, for an honest source. Fewer than 19
connections are never certain to be below it: a browser and its proxy stay under that."""
ANSWER_S = 0.1
"""Time that a target may take to answer; connections as young as that say nothing yet."""


class FlowVerdict(Struct, frozen=True):
    """A flow that is malicious, and why."""

    source: str
    target: str
    kind: str
    """``syn flood``, ``udp flood`` or ``slow connections``."""
    evidence: dict[str, float]
    confidence: float
    """1 minus the chance that an honest source on the threshold gives such counts."""


def judge(tally: Tally, seconds: float) -> FlowVerdict | None:
    """Return the verdict on a source that was watched for ``seconds``; None: nothing certain."""
    if tally.protocol != "tcp":
        return _udp_flood(tally, seconds)
    return _syn_flood(tally, seconds) or _slow(tally, seconds)


def _syn_flood(tally: Tally, seconds: float) -> FlowVerdict | None:
    if tally.syn <= fewest(COMPLETES):
        return None
    most = wilson(tally.established, tally.syn)[1]
    if most >= COMPLETES:
        return None
    evidence = {
        "syn_s": round(tally.syn / seconds, 3),
        "established": tally.established,
        "completes_at_most": round(most, 6),
    }
    sure = confidence(tally.established, tally.syn, COMPLETES)
    return FlowVerdict(tally.source, tally.target, SYN_FLOOD, evidence, sure)


def _udp_flood(tally: Tally, seconds: float) -> FlowVerdict | None:
    if tally.packets <= fewest(REPLIED):
        return None
    most = wilson(tally.replies, tally.packets)[1]
    if tally.packets / seconds <= UDP_PACKETS_S or most >= REPLIED:
        return None
    evidence = {
        "packets_s": round(tally.packets / seconds, 3),
        "replied_at_most": round(most, 6),
    }
    sure = confidence(tally.replies, tally.packets, REPLIED)
    return FlowVerdict(tally.source, tally.target, UDP_FLOOD, evidence, sure)


def _slow(tally: Tally, seconds: float) -> FlowVerdict | None:
    """Slow headers or slow bodies: connections held open by somebody who never finishes asking.

    A crowd behind one address is answered; a starving user has few connections.
    """
    if tally.open <= fewest(ANSWERED):
        return None
    young = tally.established * min(1.0, ANSWER_S / seconds)
    held = max(0.0, tally.open - young, tally.answered)
    most = wilson(tally.answered, held)[1]
    if most >= ANSWERED:
        return None
    evidence = {
        "open": tally.open,
        "answered": tally.answered,
        "answered_at_most": round(most, 6),
    }
    sure = confidence(tally.answered, held, ANSWERED)
    return FlowVerdict(tally.source, tally.target, SLOW, evidence, sure)
