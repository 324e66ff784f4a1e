"""The fixed rules: attacks, told from flow counters (never from addresses).

A TCP source that asks for thousands of connections and completes none is flooding; a crowd
completes what it begins, even when the network loses much of it. Sources that are many and
never complete anything are forged. How sure the counts make a finding is the score test of a
share (``statistics``). Windows may be short: nothing is said that the counts do not make
certain. A recorder lists a flow with all its counters or not at all, and counts the packets of
flows that it has no room for as unlisted.

Each source is judged by its own counters alone. Assumptions, without which counters cannot
tell: an honest source completes at least 5 % of the handshakes that it begins; a UDP service
answers at least 5 % of the packets of a source that sends more than 200 a second; and of many
connections that an honest source holds open, the target answers at least a third while they
are watched. Each verdict errs for one honest source in 700 that lies just on its threshold,
and for far fewer above it: of sources that complete a quarter of their handshakes (half of the
packets lost, both ways), fewer than one in 10^20.

Of sources that are forged, none does much, but together they are a flood. A crowd of honest
users looks alike packet for packet: many sources that ask for one connection each. What tells
them apart is that some of the crowd's handshakes complete, whatever the network loses.
Assumption: of honest sources at least one in five gets through while watched (half of the
packets lost in each direction leaves one in four), and the service is alive: a crowd at a
service that is down for all is taken for forged, as counters cannot tell. The trials are
sources, not packets, since the packets of one source are lost together. The verdict needs 82
sources at least; such a crowd on the assumption's edge is blamed with a chance of 10^-8, a
larger one with less.

Packets of no connection (ACK and SYN-ACK floods) are told by what the target answers: resets, to
nearly all of them. Assumption: an honest client whose connection is reset asks for another one.
Reflection is told by the port of a service that amplifies, by answers larger than honest ones
are on average, and by a target that was not seen to ask. Where only one way of the traffic is
seen, no reset and no request is: connections that complete without one reply show that, and
then nothing is said of UDP, nor of connections that are not answered.

Counts of samples (1 packet in R) are judged as the samples that they are, not as what they stand
for: a share is as sure as so many samples make it. Rates are scaled up, and count as reached only
where sampling error cannot explain them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import erfc, sqrt

from msgspec import Struct, field
from msgspec.structs import replace

from phalanx.analytics.detectors import (
    ACK_FLOOD,
    HTTP_FLOOD,
    REFLECTION,
    SLOW,
    SYN_ACK_FLOOD,
    SYN_FLOOD,
    UDP_FLOOD,
    Finding,
)
from phalanx.analytics.statistics import Z, confidence, fewest, wilson
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TrafficWindow


class FlowAggregate(Struct):
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
    open_at: dict[int, int] | None = None
    """Open connections by port; None: there are none."""
    sampling: int = 1
    """All counts are of samples of 1 packet in so many."""

    def add(self, flow: FlowStats) -> None:
        """Add a record.

        A flow that is recorded again, in a later turn of one observation, has the connections
        that stayed open in both records: they count once.
        """
        self.packets += flow.packets
        self.octets += flow.octets
        self.syn += flow.syn
        self.established += flow.established
        self.replies += flow.replies
        self.answered += flow.answered
        self.resets += flow.resets
        self.syn_acks += flow.syn_acks
        if self.source_port != flow.source_port:
            self.source_port = 0
        if flow.open:
            self.open_at = self.open_at or {}
            self.open_at[flow.port] = max(flow.open, self.open_at.get(flow.port, 0))

    @property
    def open(self) -> int:
        """Connections held open at all ports."""
        return sum(self.open_at.values()) if self.open_at else 0

    def sample(self, sampling: int) -> None:
        """Count samples of 1 in ``sampling`` instead of what they stand for.

        Finer samples count as so many fewer, rounded in favour of the source.
        """
        self.sampling = sampling
        for name in ("packets", "octets", "syn", "resets", "syn_acks"):
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
        aggregates[key] = FlowAggregate(
            *key,
            flow.packets,
            flow.octets,
            flow.syn,
            flow.established,
            flow.replies,
            flow.answered,
            flow.resets,
            flow.syn_acks,
            flow.source_port,
            {flow.port: flow.open} if flow.open else None,
        )
    return list(aggregates.values())


COMPLETES = 0.05
"""A source that certainly completes less than this share of its handshakes is flooding."""
CERTAIN = 0.5 * erfc(-Z / sqrt(2))
"""How surely a rate of samples is reached: Z standard deviations, as with shares."""
REPLIED = 0.05
"""A UDP source that gets certainly fewer replies than this a packet is flooding."""
UDP_PACKETS_S = 200.0
"""Rate below which a one-way UDP flow is left alone, in packets/s."""
ANSWERED = 1 / 3
"""Share of the connections held open that a target answers, for an honest source. Fewer than 19
connections are never certain to be below it: a browser and its proxy stay under that."""
FEW_HANDSHAKES, FEW_REPLIED, FEW_OPEN = map(fewest, (COMPLETES, REPLIED, ANSWERED))
"""Of no more handshakes, packets or open connections than these a share is certainly low."""
ANSWER_S = 0.1
"""Time that a target may take to answer; connections as young as that say nothing yet."""


def judge(one: FlowAggregate, seconds: float) -> Finding | None:
    """Return the verdict on a source that was watched for ``seconds``; None: nothing certain."""
    if one.protocol != "tcp":
        return _udp_flood(one, seconds)
    few = one.syn <= FEW_HANDSHAKES and one.packets / seconds <= UNCONNECTED_S
    if few and one.open_at is None:  # most sources, most of the time
        return None
    return _syn_flood(one, seconds) or _unconnected(one, seconds) or _slow(one, seconds)


def _syn_flood(one: FlowAggregate, seconds: float) -> Finding | None:
    if one.syn <= FEW_HANDSHAKES:
        return None
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
        f"asks for {_number(evidence['syn_s'])} connections/s and completed "
        f"{_number(one.established)}, certainly less than {_share(most)}"
    )
    return Finding(SYN_FLOOD, one.target, one.source, sure, reason, evidence)


def _udp_flood(one: FlowAggregate, seconds: float) -> Finding | None:
    if one.packets <= FEW_REPLIED or one.packets / seconds <= UDP_PACKETS_S:
        return None
    most = wilson(one.replies, one.packets)[1]
    fast = one.faster(UDP_PACKETS_S, seconds)
    if fast <= CERTAIN or most >= REPLIED:
        return None
    evidence = {"packets_s": round(one.packets / seconds, 3), "replied_at_most": round(most, 6)}
    sure = min(fast, confidence(one.replies, one.packets, REPLIED))
    reason = (
        f"sends {_number(evidence['packets_s'])} packets/s and gets replies to certainly fewer "
        f"than {_share(most)} of them"
    )
    return Finding(UDP_FLOOD, one.target, one.source, sure, reason, evidence)


def _slow(one: FlowAggregate, seconds: float) -> Finding | None:
    """Slow headers or slow bodies: connections held open by a source that never finishes asking.

    A crowd behind one address is answered; a starving user has few connections.
    """
    if one.open <= FEW_OPEN:
        return None
    young = one.established * min(1.0, ANSWER_S / seconds)
    held = max(0.0, one.open - young, one.answered)
    most = wilson(one.answered, held)[1]
    if most >= ANSWERED:
        return None
    evidence = {"open": one.open, "answered": one.answered, "answered_at_most": round(most, 6)}
    sure = confidence(one.answered, held, ANSWERED)
    reason = (
        f"holds {_number(one.open)} connections open, {_number(one.answered)} of them answered, "
        f"certainly less than {_share(most)}"
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
            reason = f"makes {_number(evidence['requests_s'])} requests/s, users {_number(limit)}"
            found.append(Finding(HTTP_FLOOD, one.target, one.source, 0.977, reason, evidence))
    return found


RESET = 0.9
"""A source of which certainly a larger share of the replies are resets has no connection."""
UNCONNECTED_S = 200.0
"""Rate below which packets of no connection are left alone, in packets/s."""
ASKS = 0.05
"""A source that asks for connections with a larger share of its packets is judged by those."""


def _unconnected(one: FlowAggregate, seconds: float) -> Finding | None:
    rate, fast = one.packets / seconds, one.faster(UNCONNECTED_S, seconds)
    # Of a sampled packet without a sampled reset nobody knows that its connection is not.
    established = one.established and one.sampling == 1
    if established or one.syn > ASKS * one.packets or fast <= CERTAIN:
        return None
    least = wilson(one.resets, one.replies)[0]
    if least <= RESET:
        return None
    kind = SYN_ACK_FLOOD if 2 * one.syn_acks > one.packets else ACK_FLOOD
    evidence = {
        "packets_s": round(rate, 3),
        "resets": one.resets,
        "reset_at_least": round(least, 6),
    }
    what = "SYN-ACKs" if kind == SYN_ACK_FLOOD else "packets"
    reason = (
        f"sends {_number(evidence['packets_s'])} {what}/s of no connection: certainly more than "
        f"{_share(least)} of the replies are resets"
    )
    sure = min(fast, confidence(one.resets, one.replies, RESET))
    return Finding(kind, one.target, one.source, sure, reason, evidence)


UNANSWERED_S = 1_000.0
"""Rate of packets without one reply, in packets/s, that no sender reaches: it waits for some."""


def unanswered_floods(aggregates: Iterable[FlowAggregate], seconds: float) -> list[Finding]:
    """Return the sources that send packets of no connection, and get no reply at all.

    Where handshakes are answered in the target's place, such packets are dropped without a reset.
    To be asked only where replies to others are seen: they may take another way.
    """
    found = []
    for one in aggregates:
        rate, none = one.packets / seconds, not (one.replies or one.established or one.open)
        if one.protocol == "tcp" and none and rate > UNANSWERED_S and one.syn <= ASKS * one.packets:
            kind = SYN_ACK_FLOOD if 2 * one.syn_acks > one.packets else ACK_FLOOD
            evidence = {"packets_s": round(rate, 3), "replies": 0}
            reason = f"sends {_number(rate)} packets/s of no connection, and nothing answers"
            sure = 1 - UNANSWERED_S / (2 * rate)
            found.append(Finding(kind, one.target, one.source, sure, reason, evidence))
    return found


AMPLIFIED = {
    19: 100.0,  # character generator
    53: 512.0,  # DNS: most answers fit what the protocol allows without an extension
    123: 200.0,  # NTP: a time is told in 90 octets, the list of clients takes 482
    161: 512.0,  # SNMP
    389: 512.0,  # LDAP without connections
    1900: 200.0,  # SSDP
    11211: 512.0,  # memcached
}
"""UDP ports of services that amplify (US-CERT alert TA14-017A), and the mean octets of a packet
from which on their answers are larger than those to honest requests."""


def reflections(aggregates: Iterable[FlowAggregate], seconds: float) -> list[Finding]:
    """Return the reflectors that certainly flood a target with answers it did not ask for.

    What is certain is that all together are unasked for (counts as of one source, see
    ``_udp_flood``); then each of them that sends large answers and gets nothing is named.
    """
    groups: dict[tuple[str, int], list[FlowAggregate]] = {}
    for one in aggregates:
        large = AMPLIFIED.get(one.source_port)
        if one.protocol == "udp" and large is not None and one.octets > large * one.packets:
            groups.setdefault((one.target, one.source_port), []).append(one)
    found = []
    for (target, port), group in groups.items():
        packets, replies = sum(o.packets for o in group), sum(o.replies for o in group)
        most = wilson(replies, packets)[1]
        rate = packets / seconds
        fast = faster(packets, UDP_PACKETS_S, seconds, group[0].sampling)
        if packets <= FEW_REPLIED or fast <= CERTAIN or most >= REPLIED:
            continue
        sure = min(fast, confidence(replies, packets, REPLIED))
        for one in group:
            if one.replies:
                continue
            evidence = {
                "source_port": port,
                "packets_s": round(one.packets / seconds, 3),
                "packet_octets": round(one.octets / one.packets, 1),
                "reflected_s": round(rate, 3),
                "reflectors": len(group),
            }
            reason = (
                f"sends {_number(evidence['packets_s'])} answers/s of "
                f"{_number(evidence['packet_octets'])} octets from port {port} that nothing was "
                f"seen to ask for, one of {_sources(len(group))} with {_number(rate)}/s in all"
            )
            found.append(Finding(REFLECTION, target, one.source, sure, reason, evidence))
    return found


FORGED = 0.9
"""Share of a target's SYNs (or UDP packets) from silent sources that makes them forged."""
FORGED_S = 200.0
"""Rate of such packets below which they are left alone, in packets/s."""
FEW_SYN = 16
"""A silent source sent so many SYNs at most: one that sends more can be judged by itself."""
FEW_PACKETS = 4
"""The same for UDP packets, fewer because one-way streams may be honest."""


class Forgery(Struct, frozen=True):
    """The certainty that the sources of a target's traffic of one protocol are forged."""

    kind: str
    """``SYN_FLOOD``, ``UDP_FLOOD``, ``ACK_FLOOD`` or ``SYN_ACK_FLOOD``."""
    evidence: dict[str, float]
    confidence: float


class _Crowd(Struct):
    """All that ask one target for something over one protocol."""

    sources: int = 0
    asked: int = 0
    """SYNs, or UDP packets."""
    silent_sources: int = 0
    """Sources that asked a few times and completed nothing (got no reply)."""
    silent_asked: int = 0

    def add(self, asked: int, *, silent: bool) -> None:
        self.sources += 1
        self.asked += asked
        if silent:
            self.silent_sources += 1
            self.silent_asked += asked


def forgeries(
    aggregates: Iterable[FlowAggregate], seconds: float, unlisted: int = 0
) -> dict[str, list[Forgery]]:
    """Return, by target, what certainly is a flood from forged sources.

    Args:
        aggregates: what was recorded.
        seconds: time in which it was.
        unlisted: packets of flows that the recorder had no room for. They are taken to be
            like the recorded ones, which first come, first served, are a sample of them.

    """
    crowds: dict[tuple[str, str], _Crowd] = {}
    listed, sampling = 0, 1
    for one in aggregates:
        listed += one.packets
        tcp = one.protocol == "tcp"
        sampling = one.sampling
        asked = one.syn if tcp else one.packets
        kind = SYN_FLOOD if tcp else UDP_FLOOD
        if sampling > 1 and asked and not tcp:
            # That a source is answered shows in samples of answers, seldom beside its own.
            crowds.setdefault((one.source, kind), _Crowd()).add(asked, silent=False)
        if tcp and one.established and sampling > 1:
            asked, silent = max(1, asked), False  # its SYN need not be among the samples
        elif tcp and not asked:
            # Of packets without a request, each source that is answered counts once.
            if not one.replies or not one.packets:
                continue
            asked, kind = 1, SYN_ACK_FLOOD if one.syn_acks else ACK_FLOOD
            silent = one.packets <= FEW_PACKETS and 0 < one.resets == one.replies
        elif tcp:
            silent = asked <= FEW_SYN and not (one.established or one.answered)
        else:
            silent = asked <= FEW_PACKETS and not one.replies
        if not asked:
            continue
        crowd = crowds.get((one.target, kind))
        if crowd is None:
            crowd = crowds[one.target, kind] = _Crowd()
        crowd.add(asked, silent=silent)
    found: dict[str, list[Forgery]] = {}
    scale = 1 + unlisted / (listed * sampling) if listed else 1.0
    for (target, kind), crowd in crowds.items():
        forgery = _judge(kind, crowd, seconds, scale, unlisted, sampling)
        if forgery is not None:
            found.setdefault(target, []).append(forgery)
    return found


def _judge(
    kind: str, crowd: _Crowd, seconds: float, scale: float, unlisted: int, sampling: int
) -> Forgery | None:
    share = crowd.silent_asked / crowd.asked
    least = wilson(share * crowd.sources, crowd.sources)[0]
    rate = crowd.silent_asked * scale / seconds
    fast = faster(crowd.silent_asked * scale, FORGED_S, seconds, sampling)
    if least <= FORGED or fast <= CERTAIN:
        return None
    evidence = {
        "silent_sources": crowd.silent_sources,
        "sources": crowd.sources,
        "forged_share": round(share, 6),
        "forged_at_least": round(least, 6),
        "forged_s": round(rate, 3),
        "unlisted": unlisted,
    }
    sure = min(fast, confidence(share * crowd.sources, crowd.sources, FORGED))
    return Forgery(kind, evidence, sure)


FLOODED = 0.2
"""Share of a target's octets from flooding sources, or of the connections that are held open
there by slow ones, that makes it anomalous."""


def _judged(aggregates: list[FlowAggregate]) -> list[FlowAggregate]:
    """Return what can be judged, with what a target asked of a UDP source among its replies.

    Of targets of which only one way of the traffic is seen (connections to them are open, and
    not one packet comes back), UDP traffic and open connections are left out; of all targets, if
    that is so of all together.
    """
    seen: dict[str, list[int]] = {}
    sent: dict[tuple[str, str], int] = {}
    for one in aggregates:
        if one.protocol == "tcp":
            total = seen.setdefault(one.target, [0, 0])
            total[0] += one.established + one.open
            total[1] += one.replies
        else:
            sent[one.source, one.target] = one.packets
    judged = []
    everywhere = _blind(*map(sum, zip(*seen.values(), strict=True))) if seen else False
    for one in aggregates:
        blind = everywhere or _blind(*seen.get(one.target, (0, 0)))
        if one.protocol == "tcp":
            one.open_at = None if blind else one.open_at
        elif blind:
            continue
        else:
            one.replies += sent.get((one.target, one.source), 0)
        judged.append(one)
    return judged


def _blind(connected: float, replies: float) -> bool:
    return connected > 0 and replies == 0


class FixedRules:
    """Implements ``Detector``: looks at flow records alone."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return malicious flows, then anomalous targets, each sorted by address.

        Flow records of one source and target are merged. A target is anomalous if a good part
        of its traffic is an attack: forged floods come first, then floods by what they send,
        then slow connections.
        """
        aggregates = aggregate(window.flows)
        sampling = max((flow.sampling for flow in window.flows), default=1)
        if sampling > 1:
            for each in aggregates:
                each.sample(sampling)
        aggregates, seconds = _judged(aggregates), window.seconds / sampling
        reflected = {(f.source, f.target): f for f in reflections(aggregates, seconds)}
        flows: list[Finding] = []
        targets: dict[str, _Target] = {}
        for each in aggregates:
            target = targets.get(each.target)
            if target is None:
                target = targets[each.target] = _Target()
            finding = judge(each, seconds)
            if each.protocol == "udp":
                finding = reflected.get((each.source, each.target), finding)
            target.add(each, finding)
            if finding is not None:
                flows.append(_of_samples(finding, each.packets, sampling))
        forged = forgeries(aggregates, seconds, window.unlisted)
        judged = []
        for ip, target in sorted(targets.items()):
            finding = target.finding(ip, seconds, forged.get(ip, []))
            if finding is not None:
                judged.append(_of_samples(finding, target.packets, sampling))
        flows.sort(key=lambda f: (f.source or "", f.target, f.kind))
        return [*flows, *judged]


def _of_samples(finding: Finding, samples: float, sampling: int) -> Finding:
    """Return the finding with what it was seen in, and how far off its counts may be.

    That is 196 * sqrt(1 / samples) % at most, in 19 cases of 20 (sFlow, sampling theory).
    """
    if sampling == 1:
        return finding
    error = 1.96 / sqrt(max(1.0, samples))
    reason = (
        f"{finding.reason}; seen in {_number(samples)} samples of 1 in {sampling:,}, so counts "
        f"are right within {_share(error)}"
    )
    figures = {"samples": round(samples, 1), "sampling": sampling, "error": round(error, 6)}
    return replace(finding, reason=reason, evidence=finding.evidence | figures)


class _Attack(Struct):
    """What the named sources of one kind do to a target."""

    sources: int = 0
    octets: int = 0
    open: int = 0
    confidence: float = 0.0
    """That of the surest verdict."""


class _Target(Struct):
    """All that was seen towards one address."""

    packets: int = 0
    octets: int = 0
    open: int = 0
    attacks: dict[str, _Attack] = field(default_factory=dict)

    def add(self, one: FlowAggregate, finding: Finding | None) -> None:
        self.packets += one.packets
        self.octets += one.octets
        if one.open_at:
            self.open += one.open
        if finding is not None:
            attack = self.attacks.setdefault(finding.kind, _Attack())
            attack.sources += 1
            attack.octets += one.octets
            attack.open += one.open
            attack.confidence = max(attack.confidence, finding.certainty)

    def finding(self, ip: str, seconds: float, forged: Sequence[Forgery]) -> Finding | None:
        """Return what is certain of this target, given the forgeries that were found there."""
        reasons: list[tuple[str, float, dict[str, float]]] = [
            (forgery.kind, forgery.confidence, forgery.evidence) for forgery in forged
        ]
        floods = [a for kind, a in self.attacks.items() if kind != SLOW]
        flooded = sum(a.octets for a in floods) / max(1, self.octets)
        if flooded >= FLOODED:
            evidence = {
                "flooded_share": round(flooded, 6),
                "flooding_sources": sum(a.sources for a in floods),
            }
            kind = max(sorted(self.attacks.keys() - {SLOW}), key=lambda k: self.attacks[k].octets)
            reasons.append((kind, self.attacks[kind].confidence, evidence))
        slow = self.attacks.get(SLOW)
        if slow is not None and slow.open / self.open >= FLOODED:
            evidence = {"held_share": round(slow.open / self.open, 6), "slow_sources": slow.sources}
            reasons.append((SLOW, slow.confidence, evidence))
        if not reasons:
            return None
        merged: dict[str, float] = {}
        for _, _, evidence in reversed(reasons):
            merged |= evidence
        kind, sure, _ = reasons[0]
        mb_s = self.octets / seconds / 1e6
        why = _why(kind, merged)
        return Finding(kind, ip, None, sure, why, merged, bool(forged), mb_s)


_ASKED = {
    SYN_FLOOD: "SYNs",
    UDP_FLOOD: "UDP packets",
    ACK_FLOOD: "senders of ACKs",
    SYN_ACK_FLOOD: "senders of SYN-ACKs",
}
"""What the share of a forgery is of."""


def _why(kind: str, seen: dict[str, float]) -> str:
    """Return why the traffic towards an address is an attack, as half a sentence about it."""
    reasons = []
    if "forged_share" in seen:
        asked = _ASKED.get(kind, "packets")
        reasons.append(
            f"{_share(seen['forged_share'])} of its {asked} ({_number(seen['forged_s'])}/s) come "
            f"from {_number(seen['silent_sources'])} sources that never go on: they are forged"
        )
    if "flooded_share" in seen:
        reasons.append(
            f"{_share(seen['flooded_share'])} of its octets come from "
            f"{_sources(seen['flooding_sources'])} certain to flood"
        )
    if "held_share" in seen:
        reasons.append(
            f"{_share(seen['held_share'])} of its open connections are held by "
            f"{_sources(seen['slow_sources'])} that it never answers"
        )
    return "; ".join(reasons)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _sources(count: float) -> str:
    return f"{count:,.0f} source{'s' * (count != 1)}"


def _share(value: float) -> str:
    return f"{value * 100:.3g} %"
