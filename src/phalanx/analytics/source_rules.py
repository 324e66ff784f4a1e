"""What one source does towards one target, judged by its own counters alone.

The assumptions are told in ``fixed_rules``, which uses these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import erfc, exp, inf, sqrt

from msgspec import Struct
from msgspec.structs import replace

from phalanx.analytics.detectors import (
    ACK_FLOOD,
    HTTP_FLOOD,
    ICMP_FLOOD,
    RST_FLOOD,
    SLOW,
    SYN_ACK_FLOOD,
    SYN_FLOOD,
    TCP_FRAGMENTS,
    UDP_FLOOD,
    UDP_FRAGMENTS,
    Finding,
)
from phalanx.analytics.statistics import Z, confidence, fewest, wilson
from phalanx.domain.actions import FlowStats


class FlowAggregate(Struct, gc=False):
    """What one source did towards one target over one protocol, over all ports and records.

    The fields mean what those of ``FlowStats`` mean.
    """

    source: str
    target: str
    protocol: str
    packets: int = 0
    octets: int = 0
    syn: int = 0
    established: int = 0
    replies: int = 0
    answered: int = 0
    resets: int = 0
    syn_acks: int = 0
    source_port: int = 0
    """0: records have several."""
    open: int = 0
    """Connections held open at all ports."""
    port: int = 0
    """0: records have several."""
    aborts: int = 0
    fragments: int = 0
    """Packets without ports: of a fragmented packet all but the first."""
    opened: int = 0
    """Open connections that began in the record in which they are open."""
    sampling: int = 1
    """All counts are of samples of 1 packet in so many."""
    open_at: dict[int, int] | None = None
    """Open connections by port, where there are several records."""
    held: int = 0
    """Sum of ``open_at``."""

    def add(self, flow: FlowStats | FlowAggregate) -> None:
        """Add a record, or what the source did towards another target.

        A flow that is recorded again, in a later turn of one observation, has the connections
        that stayed open in both records: they count once, unless they began in it.
        """
        if self.open and self.open_at is None:
            self.open_at, self.held = {self.port: self.open}, self.open
        self.packets += flow.packets
        self.octets += flow.octets
        self.syn += flow.syn
        self.established += flow.established
        self.replies += flow.replies
        self.answered += flow.answered
        self.resets += flow.resets
        self.syn_acks += flow.syn_acks
        self.aborts += flow.aborts
        fragments = flow.fragments
        if fragments < flow.packets:
            if self.fragments == self.packets - flow.packets:  # the first that has ports
                self.source_port, self.port = flow.source_port, flow.port
            self.source_port *= self.source_port == flow.source_port
            self.port *= self.port == flow.port
        self.fragments += fragments
        if flow.open and isinstance(flow, FlowStats):
            self.opened += min(flow.open, flow.syn)
            self.open_at = self.open_at or {}
            known = self.open_at.get(flow.port, 0)
            self.open_at[flow.port] = most = max(flow.open, known)
            self.held += most - known
            self.open = max(self.opened, self.held)

    def sample(self, sampling: int) -> None:
        """Count samples of 1 in ``sampling`` instead of what they stand for.

        Finer samples count as so many fewer, rounded in favour of the source.
        """
        self.sampling = sampling
        for name in ("packets", "octets", "syn", "resets", "syn_acks", "aborts", "fragments"):
            setattr(self, name, getattr(self, name) // sampling)
        for name in ("established", "replies", "answered"):
            setattr(self, name, -(-getattr(self, name) // sampling))

    def faster(self, rate: float, seconds: float) -> float:
        """Return how surely it sends more packets/s than ``rate``; all packets seen: 0 or 1."""
        return faster(self.packets, rate, seconds, self.sampling)


def faster(packets: float, rate: float, seconds: float, sampling: int) -> float:
    """Return how surely ``packets`` samples in ``seconds`` / ``sampling`` mean more than ``rate``.

    Where all packets are seen that is 0 or 1.
    """
    expected = rate * seconds
    if sampling == 1:
        return float(packets > expected)
    return 0.5 * erfc((expected - packets) / sqrt(2 * expected))


def aggregate(flows: Iterable[FlowStats]) -> list[FlowAggregate]:
    """Return one aggregate for each source, target and protocol."""
    aggregates: dict[tuple[str, str, str], FlowAggregate] = {}
    for flow in flows:
        key = flow.source, flow.target, flow.protocol
        one = aggregates.get(key)
        if one is not None:
            one.add(flow)
            continue
        ported = flow.port or flow.source_port
        aggregates[key] = FlowAggregate(
            *key, flow.packets, flow.octets, flow.syn, flow.established, flow.replies,
            flow.answered, flow.resets, flow.syn_acks, flow.source_port, flow.open, flow.port,
            flow.aborts, 0 if ported else flow.packets, flow.open and min(flow.open, flow.syn),
        )  # fmt: skip
    return list(aggregates.values())


def figure(value: float) -> str:
    """Return a count or rate as text."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def counted(count: float) -> str:
    """Return how many sources as text."""
    return f"{count:,.0f} source{'s' * (count != 1)}"


def percent(value: float) -> str:
    """Return a share as text."""
    return f"{value * 100:.3g} %"


def together(some: list[FlowAggregate]) -> FlowAggregate:
    """Return what a source did towards several targets, but for connections that it holds open."""
    total = replace(some[0], open=0)
    for one in some[1:]:
        total.add(one)
    return total


COMPLETES = 0.05
"""A source that certainly completes less than this share of its handshakes is flooding."""
CERTAIN = 0.5 * erfc(-Z / sqrt(2))
"""How surely a rate of samples is reached: Z standard deviations, as with shares."""
REPLIED = 0.05
"""A UDP source that gets certainly fewer replies than this a packet is flooding."""
QUIET_S = 200.0
"""Rate below which one-way UDP and packets of no connection are left alone, in packets/s."""
ANSWERED = 1 / 3
"""Share of the connections held open that a target answers, for an honest source. Fewer than 19
connections are never certain to be below it: a browser and its proxy stay under that."""
FEW_HANDSHAKES, FEW_REPLIED, FEW_OPEN = map(fewest, (COMPLETES, REPLIED, ANSWERED))
"""Of no more handshakes, packets or open connections than these a share is certainly low."""
ANSWER_S = 1.0
"""Time from a connection to the first answer on it, on average: asking takes some of it. As many
connections as would be answered by now say something; an honest client may be twice as slow."""


def remarkable(aggregates: Iterable[FlowAggregate], seconds: float) -> list[FlowAggregate]:
    """Return sources that do so much in ``seconds`` that anything might be certain of them."""
    most = QUIET_S * seconds
    return [
        one for one in aggregates
        if one.packets > most or one.syn > FEW_HANDSHAKES or one.open > FEW_OPEN
    ]  # fmt: skip


def judge(one: FlowAggregate, seconds: float, *, heard: bool) -> Finding | None:
    """Return the verdict on a source that was watched for ``seconds``; None: nothing certain.

    ``heard``: replies of its target to somebody are seen.
    """
    if one.protocol != "tcp":
        return _unreplied(one, seconds)
    known = _syn_flood(one, seconds) or _unconnected(one, seconds) or _slow(one, seconds)
    return unanswered_flood(one, seconds) if known is None and heard else known


def _syn_flood(one: FlowAggregate, seconds: float) -> Finding | None:
    most = wilson(one.established, one.syn)[1]
    if most >= COMPLETES:
        return None
    evidence = {
        "syn_s": round(one.syn / seconds, 3),
        "established": one.established,
        "completes_at_most": round(most, 6),
    }
    sure = confidence(one.established, one.syn, COMPLETES)
    reason = (
        f"asks for {figure(evidence['syn_s'])} connections/s and completed "
        f"{figure(one.established)}, certainly less than {percent(most)}"
    )
    return Finding(SYN_FLOOD, one.target, one.source, sure, reason, evidence)


def _unreplied(one: FlowAggregate, seconds: float) -> Finding | None:
    fast, most = one.faster(QUIET_S, seconds), wilson(one.replies, one.packets)[1]
    echoes = 2 * one.syn > one.packets
    if fast <= CERTAIN or (most >= REPLIED and not echoes):
        return None
    if echoes:
        asked = round(one.packets / seconds, 3)
        reason = f"sends {figure(asked)} echo requests/s, answered or not: nobody needs so many"
        return Finding(ICMP_FLOOD, one.target, one.source, fast, reason, {"packets_s": asked})
    evidence = {"packets_s": round(one.packets / seconds, 3), "replied_at_most": round(most, 6)}
    sure = min(fast, confidence(one.replies, one.packets, REPLIED))
    reason = (
        f"sends {figure(evidence['packets_s'])} packets/s and gets replies to certainly fewer "
        f"than {percent(most)} of them"
    )
    return Finding(connectionless(one), one.target, one.source, sure, reason, evidence)


def _slow(one: FlowAggregate, seconds: float) -> Finding | None:
    """Slow headers or slow bodies: connections held open by a source that never finishes asking.

    A crowd behind one address is answered; a starving user has few connections.
    """
    if one.open <= FEW_OPEN or not one.replies:
        return None
    waits = ANSWER_S / seconds
    early = exp(-1 / waits)  # share of those open all the time that no answer is due to yet
    due = one.open * (1 - early) - one.opened * (waits * (1 - early) - early)
    held = max(due, one.answered)
    most = wilson(one.answered, held)[1]
    if most >= ANSWERED:
        return None
    evidence = {"open": one.open, "answered": one.answered, "answered_at_most": round(most, 6)}
    sure = confidence(one.answered, held, ANSWERED)
    reason = (
        f"holds {figure(one.open)} connections open, {figure(one.answered)} of them answered, "
        f"certainly less than {percent(most)}"
    )
    return Finding(SLOW, one.target, one.source, sure, reason, evidence)


REQUESTS_S = 20.0
"""Requests a second that no user makes for long."""
FEW_REQUESTS = 20
"""Fewer requests than this that were seen are no rate."""


def request_floods(
    aggregates: Iterable[FlowAggregate], seconds: float, usual: Mapping[str, float] | None = None
) -> list[Finding]:
    """Return the sources that certainly ask for far more requests a second than a user does.

    They are answered as users are, and a proxy with many users behind it does the same: to be
    asked only of a service that cannot answer all. ``usual``: requests/s that are known of proxies.
    """
    found = []
    for one in aggregates:
        limit = max(REQUESTS_S, 2 * (usual or {}).get(one.source, 0.0))
        least = (one.syn - 2 * sqrt(one.syn)) / seconds
        if one.protocol == "tcp" and one.syn > FEW_REQUESTS and least > limit:
            evidence = {"requests_s": round(one.syn / seconds, 3), "users_at_most": limit}
            reason = f"makes {figure(evidence['requests_s'])} requests/s, users {figure(limit)}"
            found.append(Finding(HTTP_FLOOD, one.target, one.source, 0.977, reason, evidence))
    return found


def completes(one: FlowAggregate) -> bool:
    """Whether a source of TCP certainly completes too many handshakes for a flood of them."""
    return wilson(one.established, one.syn)[0] >= COMPLETES


RESET = 0.9
"""A source of which certainly a larger share of the replies are resets has no connection."""
ASKS = 0.05
"""A source that asks for connections with a larger share of its packets is judged by those."""


def in_vain(one: FlowAggregate, sampling: int = 1, few: float = inf) -> bool:
    """Whether a source of TCP or ICMP certainly gets no service for what it sends, however little.

    Nobody is served by echoes, nor by packets of no connection: they get resets, or nothing.
    Counts are scaled up from samples of 1 packet in ``sampling``. Of more than a ``few`` packets it
    is enough that none was answered.
    """
    if one.protocol == "icmp":
        return True
    if one.established or one.answered or one.syn > ASKS * one.packets:
        return False
    replies, packets = max(0, one.replies - one.resets) / sampling, one.packets / sampling
    served = wilson(replies, packets)[1] >= REPLIED and (replies or packets <= few)
    return not served


def connectionless(one: FlowAggregate | FlowStats) -> str:
    """Return the kind of a flood of packets that belong to no connection."""
    if one.protocol == "icmp":
        return ICMP_FLOOD
    if one.protocol == "udp":
        return UDP_FRAGMENTS if 2 * one.fragments > one.packets else UDP_FLOOD
    half = one.packets / 2
    if one.fragments > half:
        return TCP_FRAGMENTS
    return SYN_ACK_FLOOD if one.syn_acks > half else RST_FLOOD if one.aborts > half else ACK_FLOOD


def _unconnected(one: FlowAggregate, seconds: float) -> Finding | None:
    rate, fast = one.packets / seconds, one.faster(QUIET_S, seconds)
    # Of a sampled packet without a sampled reset nobody knows that its connection is not.
    established = one.established and one.sampling == 1
    if established or one.syn > ASKS * one.packets or fast <= CERTAIN:
        return None
    least = wilson(one.resets, one.replies)[0]
    if least <= RESET:
        return None
    kind = connectionless(one)
    evidence = {
        "packets_s": round(rate, 3),
        "resets": one.resets,
        "reset_at_least": round(least, 6),
    }
    what = "SYN-ACKs" if kind == SYN_ACK_FLOOD else "packets"
    reason = (
        f"sends {figure(evidence['packets_s'])} {what}/s of no connection: certainly more than "
        f"{percent(least)} of the replies are resets"
    )
    sure = min(fast, confidence(one.resets, one.replies, RESET))
    return Finding(kind, one.target, one.source, sure, reason, evidence)


UNANSWERED_S = 1_000.0
"""Rate of packets without one reply, in packets/s, that no sender reaches: it waits for some."""


def unanswered_flood(one: FlowAggregate, seconds: float) -> Finding | None:
    """Return the verdict on a source that sends packets of no connection and gets no reply at all.

    Where handshakes are answered in the target's place, or a firewall keeps state, such packets are
    dropped without a reset; resets and fragments never get a reply. To be asked only where replies
    to others are seen: they may take another way.
    """
    if one.protocol != "tcp" or one.replies or one.syn > ASKS * one.packets:
        return None
    if (one.syn and one.established) or one.faster(UNANSWERED_S, seconds) <= CERTAIN:
        return None
    rate = one.packets / seconds
    reason = f"sends {figure(rate)} packets/s of no connection, and nothing answers"
    sure = 1 - UNANSWERED_S / (2 * rate)
    evidence = {"packets_s": round(rate, 3), "replies": 0}
    return Finding(connectionless(one), one.target, one.source, sure, reason, evidence)
