"""The fixed rules: attacks, told from flow counters (never from addresses).

A TCP source that asks for thousands of connections and completes none is flooding; a crowd
completes what it begins, even when the network loses much of it. Sources that are many and
never complete anything are forged. How sure the counts make a finding is the score test of a
share (``statistics``). Windows may be short: nothing is said that the counts do not make
certain. A recorder lists a flow with all its counters or not at all, and counts the packets of
flows that it has no room for as unlisted.

Each source is judged by its own counters alone. Assumptions, without which counters cannot tell:
an honest source completes at least 5 % of the handshakes that it begins; a UDP service answers at
least 5 % of the packets of a source that sends more than 200 a second; nobody sends so many echo
requests, answered or not; of many connections that an
honest source holds open, the target answers at least a third of those to which an answer is due;
and of many services that it asks for, at least a fifth are there. Each verdict errs for one honest
source in 700 that lies just on its threshold, and for far fewer above it: of sources that complete
a quarter of their handshakes (half of the packets lost, both ways), fewer than one in 10^20.

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
Where the target answers others, but nothing to a thousand packets a second, they are a flood too.
Reflection is told by the port of a service that amplifies, by answers larger than honest ones
are on average, and by a target that was not seen to ask. Where only one way of the traffic is
seen, no reset and no request is: connections that complete without one reply show that, and
then nothing is said of UDP, nor of connections that are not answered.

What is spread over many targets may be certain of none of them. Then it is judged for all targets
in the longest prefix that networks route to each other, and each of them has the finding.

Counts of samples (1 packet in R) are judged as the samples that they are, not as what they stand
for: a share is as sure as so many samples make it. Rates are scaled up, and count as reached only
where sampling error cannot explain them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_network
from math import erfc, exp, sqrt

from msgspec import Struct, field
from msgspec.structs import replace

from phalanx.analytics.detectors import (
    ACK_FLOOD,
    HTTP_FLOOD,
    ICMP_FLOOD,
    REFLECTION,
    RST_FLOOD,
    SCAN,
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
from phalanx.domain.series import TrafficWindow


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
    open_at: dict[int, int] | None = None
    """Open connections by port; None: there are none."""
    port: int = 0
    """0: records have several."""
    aborts: int = 0
    fragments: int = 0
    """Packets without ports: of a fragmented packet all but the first."""
    opened: int = 0
    """Open connections that began in the record in which they are open."""
    sampling: int = 1
    """All counts are of samples of 1 packet in so many."""

    def add(self, flow: FlowStats | FlowAggregate) -> None:
        """Add a record, or what the source did towards another target.

        A flow that is recorded again, in a later turn of one observation, has the connections
        that stayed open in both records: they count once, unless they began in it.
        """
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
            self.open_at[flow.port] = max(flow.open, self.open_at.get(flow.port, 0))

    @property
    def open(self) -> int:
        """Connections held open at all ports."""
        return max(self.opened, sum(self.open_at.values())) if self.open_at else 0

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
        aggregates[key] = FlowAggregate(
            *key, flow.packets, flow.octets, flow.syn, flow.established, flow.replies,
            flow.answered, flow.resets, flow.syn_acks, flow.source_port,
            {flow.port: flow.open} if flow.open else None, flow.port, flow.aborts, flow.fragments,
            flow.open and min(flow.open, flow.syn),
        )  # fmt: skip
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
ANSWER_S = 1.0
"""Time from a connection to the first answer on it, on average: asking takes some of it. As many
connections as would be answered by now say something; an honest client may be twice as slow."""


def judge(one: FlowAggregate, seconds: float) -> Finding | None:
    """Return the verdict on a source that was watched for ``seconds``; None: nothing certain."""
    if one.protocol != "tcp":
        return _unreplied(one, seconds)
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


def _unreplied(one: FlowAggregate, seconds: float) -> Finding | None:
    if one.packets <= FEW_REPLIED or one.packets / seconds <= UDP_PACKETS_S:
        return None
    most = wilson(one.replies, one.packets)[1]
    fast = one.faster(UDP_PACKETS_S, seconds)
    echoes = 2 * one.syn > one.packets
    if fast <= CERTAIN or (most >= REPLIED and not echoes):
        return None
    if echoes:
        asked = round(one.packets / seconds, 3)
        reason = f"sends {_number(asked)} echo requests/s, answered or not: nobody needs so many"
        return Finding(ICMP_FLOOD, one.target, one.source, fast, reason, {"packets_s": asked})
    evidence = {"packets_s": round(one.packets / seconds, 3), "replied_at_most": round(most, 6)}
    sure = min(fast, confidence(one.replies, one.packets, REPLIED))
    reason = (
        f"sends {_number(evidence['packets_s'])} packets/s and gets replies to certainly fewer "
        f"than {_share(most)} of them"
    )
    return Finding(_connectionless(one), one.target, one.source, sure, reason, evidence)


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


def _connectionless(one: FlowAggregate) -> str:
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
    rate, fast = one.packets / seconds, one.faster(UNCONNECTED_S, seconds)
    # Of a sampled packet without a sampled reset nobody knows that its connection is not.
    established = one.established and one.sampling == 1
    if established or one.syn > ASKS * one.packets or fast <= CERTAIN:
        return None
    least = wilson(one.resets, one.replies)[0]
    if least <= RESET:
        return None
    kind = _connectionless(one)
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
    reason = f"sends {_number(rate)} packets/s of no connection, and nothing answers"
    sure = 1 - UNANSWERED_S / (2 * rate)
    evidence = {"packets_s": round(rate, 3), "replies": 0}
    return Finding(_connectionless(one), one.target, one.source, sure, reason, evidence)


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


class _Look:
    """What is judged together."""

    def __init__(self, window: TrafficWindow) -> None:
        """Take the records of a window."""
        self.window = window
        aggregates = aggregate(window.flows)
        self.sampling = max((flow.sampling for flow in window.flows), default=1)
        if self.sampling > 1:
            for each in aggregates:
                each.sample(self.sampling)
        self.aggregates = _judged(aggregates)
        self.seconds = window.seconds / self.sampling
        """As if all counts were of samples of their own."""
        listed = sum([one.packets for one in self.aggregates]) * self.sampling
        self.scale = 1 + window.unlisted / listed if listed else 1.0
        """All packets, as a multiple of the recorded ones. Those of flows that the recorder had no
        room for are taken to be like these: first come, first served, they are a sample."""
        self.prefixes = {each: _prefix(each) for each in {one.target for one in self.aggregates}}
        """Of each target the longest prefix that networks route to each other."""
        tcp = (one for one in self.aggregates if one.protocol == "tcp")
        self.heard = {one.target for one in tcp if one.replies > one.resets}
        """Targets of which replies over TCP to somebody are seen, that are no resets."""
        self.times = Counter([one.source for one in self.aggregates])
        """Aggregates of each source."""


@lru_cache(65_536)
def _prefix(address: str) -> str:
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


def _reflections(look: _Look) -> list[Finding]:
    """Return the reflectors that certainly flood a target with answers it did not ask for.

    What is certain is that all together are unasked for (counts as of one source, see
    ``_unreplied``); then each of them that sends large answers, or SYN-ACKs, and gets nothing is
    named. Where that is not certain of a target, it may be of all targets of its prefix together.
    """
    groups: dict[tuple[str, int], list[FlowAggregate]] = {}
    for one in look.aggregates:
        large = AMPLIFIED.get(one.source_port) if one.protocol == "udp" else None
        answers = large is not None and one.octets > large * one.packets
        accepts = 2 * one.syn_acks > one.packets > FEW_PACKETS
        if answers or (accepts and (one.replies or one.target in look.heard)):
            groups.setdefault((one.target, one.source_port if answers else 0), []).append(one)
    found: list[Finding] = []
    wide: dict[tuple[str, int], list[FlowAggregate]] = {}
    for (target, port), group in groups.items():
        named = _reflectors(port, group, look.seconds)
        found += named
        if not named:
            wide.setdefault((look.prefixes[target], port), []).extend(group)
    for (prefix, port), group in wide.items():
        of: dict[str, list[FlowAggregate]] = {}
        for one in group:
            of.setdefault(one.source, []).append(one)
        for finding in _reflectors(port, [_together(some) for some in of.values()], look.seconds):
            found += _spread(finding, prefix, of[finding.source or ""])
    return found


def _together(some: list[FlowAggregate]) -> FlowAggregate:
    """Return what a source did towards several targets, but for connections that it holds open."""
    total = replace(some[0], open_at=None)
    for one in some[1:]:
        total.add(one)
    return total


def _spread(finding: Finding, prefix: str, some: list[FlowAggregate]) -> Iterator[Finding]:
    """Yield what is certain of several targets together for each of them."""
    return (replace(finding, target=one.target, prefix=prefix) for one in some)


def _reflectors(port: int, group: list[FlowAggregate], seconds: float) -> list[Finding]:
    """Return the findings on senders of answers from a port (0: of SYN-ACKs), if it is certain."""
    packets, sources = sum(o.packets for o in group), len({o.source for o in group})
    replies, rate = sum(o.replies - o.resets for o in group), packets / seconds
    fast = faster(packets, UDP_PACKETS_S, seconds, group[0].sampling)
    if packets <= FEW_REPLIED or fast <= CERTAIN or wilson(replies, packets)[1] >= REPLIED:
        return []
    sure = min(fast, confidence(replies, packets, REPLIED))
    kind, what = (REFLECTION, "answers") if port else (SYN_ACK_FLOOD, "SYN-ACKs")
    found = []
    for one in (each for each in group if each.replies <= each.resets):
        evidence = {
            "source_port": one.source_port,
            "packets_s": round(one.packets / seconds, 3),
            "packet_octets": round(one.octets / one.packets, 1),
            "reflected_s": round(rate, 3),
            "reflectors": sources,
        }
        reason = (
            f"sends {_number(evidence['packets_s'])} {what}/s of "
            f"{_number(evidence['packet_octets'])} octets from port {one.source_port} that nothing "
            f"was seen to ask for, one of {_sources(sources)} with {_number(rate)}/s in all"
        )
        found.append(Finding(kind, one.target, one.source, sure, reason, evidence))
    return found


ACCEPTED = 0.2
"""Of the services that a source asks for the first time, at least this share accepts, if it is
honest (Jung et al. 2004, threshold random walk)."""
FEW_SERVICES = fewest(ACCEPTED)
FEW_ASKED, ASKED_AGAIN = 4, 0.05
"""SYNs to a service, on average, up to which none is flooded: a client asks again after 1, 3, 7 s.
Share of those that have answered which a scan asks again, since the answer is lost on its way."""
RETRY_S = 1.0
"""After so long without an answer a client asks again (RFC 6298)."""


def _scans(look: _Look) -> dict[str, Finding | None]:
    """Return, by source, who certainly asks for services to learn which there are.

    None: it asks for many and floods none, and it is not certain that few of them are there.

    A service is a port of a target. It fails if it refuses, or if nothing answers. A scan asks none
    again that has answered; a flood does, also one that draws its ports at random.
    """
    asking = [f for f in look.window.flows if f.syn and f.protocol == "tcp" and look.sampling == 1]
    many = {s for s, count in Counter([f.source for f in asking]).items() if count > FEW_SERVICES}
    asked: dict[str, dict[tuple[str, int], list[int]]] = {}
    for flow in asking if many else ():
        if flow.source in many:
            tries = asked.setdefault(flow.source, {}).setdefault((flow.target, flow.port), [0] * 3)
            tries[0] += flow.syn
            tries[1] += flow.established + (flow.replies > flow.resets)
            tries[2] += flow.resets
    found: dict[str, Finding | None] = {}
    ripe = max(0.0, 1 - RETRY_S / look.seconds)  # of those that were asked once
    for source, services in asked.items():
        accepted = sum(done > 0 for _, done, _ in services.values())
        refused = sum(no > 0 and not done for _, done, no in services.values())
        again = sum(syn - 1 for syn, done, no in services.values() if done or no)
        silent = [syn for syn, done, no in services.values() if not (done or no)]
        flooded = again + len(services) + sum(silent) - len(silent) > FEW_ASKED * len(services)
        if flooded or again > ASKED_AGAIN * (accepted + refused):
            continue
        tried = accepted + refused + sum(1.0 if syn > 1 else ripe for syn in silent)
        most = wilson(accepted, tried)[1]
        if tried <= FEW_SERVICES or most >= ACCEPTED:
            found[source] = None
            continue
        hosts = len({target for target, _ in services})
        evidence = {"services": 1.0 * len(services), "hosts": hosts, "accepted": accepted}
        reason = (
            f"asks for {len(services):,} services of {hosts:,} host{'s' * (hosts != 1)}, of which "
            f"certainly less than {_share(most)} are there"
        )
        sure = confidence(accepted, tried, ACCEPTED)
        found[source] = Finding(SCAN, "", source, sure, reason, evidence)
    return found


FORGED = 0.9
"""Share of a target's SYNs (or UDP packets) from silent sources that makes them forged."""
FEW_SOURCES = fewest(1 - FORGED)
"""So few sources are never certain to be forged, even if all of them are silent."""
FORGED_S = 200.0
"""Rate of such packets below which they are left alone, in packets/s."""
FEW_SYN = 16
"""A silent source sent so many SYNs at most: one that sends more can be judged by itself."""
FEW_PACKETS = 4
"""The same for other packets, fewer because one-way streams may be honest; and for targets."""


class _Crowd(Struct):
    """All that ask one target, or those of a prefix, for something over one protocol."""

    sources: int = 0
    asked: int = 0
    """SYNs, or UDP packets; sources that sent no SYN."""
    silent_sources: int = 0
    """Sources that asked a few times and completed nothing (got no reply)."""
    silent_asked: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Silent sources by the kind of flood that they make together."""
    port: float = -1.0
    """Of the packets of all silent sources; 0: they have several, -1: there are none."""
    source_port: float = -1.0
    packet_octets: float = -1.0

    def add(self, asked: int, kind: str, one: FlowAggregate) -> None:
        """Add a source; ``kind`` is empty if it is not silent."""
        self.sources += 1
        self.asked += asked
        if not kind:
            return
        self.silent_sources += 1
        self.silent_asked += asked
        self.kinds[kind] += 1
        self._share(one.port, one.source_port, one.octets / (one.packets or 1))

    def _share(self, port: float, source_port: float, octets: float) -> None:
        self.port = port if self.port in (port, -1.0) else 0
        self.source_port = source_port if self.source_port in (source_port, -1.0) else 0
        self.packet_octets = octets if self.packet_octets in (octets, -1.0) else 0

    def merge(self, other: _Crowd) -> None:
        """Add those that ask another target."""
        for name in ("sources", "asked", "silent_sources", "silent_asked", "kinds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._share(other.port, other.source_port, other.packet_octets)

    def silent(self) -> tuple[float, int]:
        """Return how many sources would ask for the silent share, and all: trials are sources."""
        return self.silent_asked / self.asked * self.sources, self.sources


def _crowds(look: _Look) -> dict[tuple[str, str, int], _Crowd]:
    """Return those who ask for something, by target, protocol and port; protocol "": for nothing.

    Port 0 are all. Those who ask for one port over UDP are there once more, by it: of a flood at
    one port nothing is certain beside as many users of another.
    """
    crowds: dict[tuple[str, str, int], _Crowd] = {}
    sampled = look.sampling > 1
    for one in look.aggregates:
        tcp = one.protocol == "tcp"
        asked = one.syn if tcp else one.packets
        of, kind = one.protocol, SYN_FLOOD
        if sampled and asked and not tcp:
            # That a source is answered shows in samples of answers, seldom beside its own.
            crowds.setdefault((one.source, of, 0), _Crowd()).add(asked, "", one)
        if tcp and one.established and sampled:
            asked, silent = max(1, asked), False  # its SYN need not be among the samples
        elif tcp and not asked:
            # Of packets without a request, each source counts once: it may get an answer, as
            # others do.
            if not one.packets or not (one.replies or one.target in look.heard):
                continue
            asked, of, kind = 1, "", ""
            silent = one.packets <= FEW_PACKETS and one.resets == one.replies
        elif tcp:
            silent = asked <= FEW_SYN and not (one.established or one.answered)
        else:
            silent, kind = asked <= FEW_PACKETS and (one.syn > 0 or not one.replies), ""
        if not asked:
            continue
        silent = silent and look.times[one.source] <= FEW_PACKETS
        kind = (kind or _connectionless(one)) if silent else ""
        for port in (0, one.port) if one.port and of == "udp" else (0,):
            crowd = crowds.get((one.target, of, port))
            if crowd is None:
                crowd = crowds[one.target, of, port] = _Crowd()
            crowd.add(asked, kind, one)
    return crowds


def _forgeries(look: _Look) -> dict[str, list[Finding]]:
    """Return, by target, what certainly is a flood from forged sources.

    Where that is not certain of a target, it may be of all targets of its prefix together, but for
    those that certainly have others who ask.
    """
    found: dict[str, list[Finding]] = {}
    if len(look.aggregates) * look.sampling < FEW_SOURCES:
        return found
    crowds = _crowds(look)
    wide: dict[tuple[str, str], list[str]] = {}
    for (target, of, port), crowd in crowds.items():
        if port and crowd.asked == crowds[target, of, 0].asked:
            continue  # judged already, with all
        forged = _forged(crowd, look)
        if forged is not None:
            known = found.setdefault(target, [])
            if not port or all(each.kind != forged.kind for each in known):
                known.append(forged)
        elif not port and crowd.silent_sources and wilson(*crowd.silent())[1] > FORGED:
            wide.setdefault((look.prefixes[target], of), []).append(target)
    for (prefix, of), targets in wide.items():
        together = _Crowd()
        for target in targets:
            together.merge(crowds[target, of, 0])
        forged = _forged(together, look)
        if forged is not None:
            for target in targets:
                found.setdefault(target, []).append(replace(forged, prefix=prefix))
    return found


def _forged(crowd: _Crowd, look: _Look) -> Finding | None:
    share, least = crowd.silent_asked / crowd.asked, wilson(*crowd.silent())[0]
    asked = crowd.silent_asked * look.scale
    fast = faster(asked, FORGED_S, look.seconds, look.sampling)
    if least <= FORGED or fast <= CERTAIN:
        return None
    evidence = {
        "silent_sources": crowd.silent_sources,
        "sources": crowd.sources,
        "forged_share": round(share, 6),
        "forged_at_least": round(least, 6),
        "forged_s": round(asked / look.seconds, 3),
        "unlisted": look.window.unlisted,
        **{name: value for name in _SAME if (value := getattr(crowd, name))},
    }
    sure = min(fast, confidence(*crowd.silent(), FORGED))
    kind = max(crowd.kinds, key=crowd.kinds.__getitem__)
    return Finding(kind, "", None, sure, "", evidence, spoofed=True)


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
    sent: dict[tuple[str, str, str], int] = {}
    for one in aggregates:
        if one.protocol == "tcp":
            total = seen.setdefault(one.target, [0, 0])
            total[0] += one.established + (one.open if one.open_at else 0)
            total[1] += one.replies
        else:
            sent[one.source, one.target, one.protocol] = one.packets
    judged = []
    everywhere = _blind(*map(sum, zip(*seen.values(), strict=True))) if seen else False
    one_way = {target for target, counts in seen.items() if _blind(*counts)}
    if not (everywhere or one_way or sent):
        return aggregates
    for one in aggregates:
        blind = everywhere or one.target in one_way
        if one.protocol == "tcp":
            one.open_at = None if blind else one.open_at
        elif blind:
            continue
        else:
            one.replies += sent.get((one.target, one.source, one.protocol), 0)
        judged.append(one)
    return judged


def _blind(connected: float, replies: float) -> bool:
    return connected > 0 and replies == 0


def _verdicts(look: _Look) -> dict[tuple[str, str, str], Finding]:
    """Return the verdicts by source, target and protocol.

    What a source does to a target comes first; then what it does to all targets of a prefix; who
    scans is judged by nothing else that it asks for.
    """
    found: dict[tuple[str, str, str], Finding] = {}
    groups: dict[tuple[str, str, str], list[FlowAggregate]] = {}
    for one in look.aggregates:
        finding = judge(one, look.seconds)
        if finding is None and one.replies == 0 and one.target in look.heard:
            finding = unanswered_flood(one, look.seconds)
        if finding is not None:
            found[one.source, one.target, one.protocol] = finding
    for finding in _reflections(look):
        protocol = "udp" if finding.kind == REFLECTION else "tcp"
        found[finding.source or "", finding.target, protocol] = finding
    scanning = _scans(look)
    for one in [o for o in look.aggregates if look.times[o.source] > 1 or o.source in scanning]:
        key = one.source, one.target, one.protocol
        prefix = look.prefixes[one.target] if look.times[one.source] > 1 else ""
        if one.syn and one.source in scanning:
            found.pop(key, None)
            if (scan := scanning[one.source]) is not None:
                found[key] = replace(scan, target=one.target, prefix=prefix)
        elif prefix and key not in found:
            groups.setdefault((one.source, prefix, one.protocol), []).append(one)
    for (source, prefix, protocol), group in groups.items():
        total = _together(group)
        wide = judge(total, look.seconds)
        if wide is None and any(one.target in look.heard for one in group):
            wide = unanswered_flood(total, look.seconds)
        for finding in () if wide is None else _spread(wide, prefix, group):
            found[source, finding.target, protocol] = finding
    return found


class FixedRules:
    """Implements ``Detector``: looks at flow records alone."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return malicious flows, then anomalous targets, each sorted by address.

        Flow records of one source and target are merged. A target is anomalous if a good part
        of its traffic is an attack: forged floods come first, then floods by what they send,
        then slow connections.
        """
        look = _Look(window)
        verdicts, forged = _verdicts(look), _forgeries(look)
        if not (verdicts or forged):
            return []
        flows: list[Finding] = []
        targets: dict[str, _Target] = {}
        for each in look.aggregates:
            target = targets.get(each.target)
            if target is None:
                target = targets[each.target] = _Target()
            finding = verdicts.get((each.source, each.target, each.protocol))
            target.add(each, finding)
            if finding is not None:
                flows.append(_of_samples(finding, each.packets, look.sampling))
        judged = []
        for ip, target in sorted(targets.items()):
            finding = target.finding(ip, look.seconds, forged.get(ip, []))
            if finding is not None:
                judged.append(_of_samples(finding, target.packets, look.sampling))
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
    prefix: str = ""


class _Target(Struct):
    """All that was seen towards one address."""

    packets: int = 0
    octets: int = 0
    open: int = 0
    attacks: dict[str, _Attack] = field(default_factory=dict)
    """By kind; a scan does a target no harm."""

    def add(self, one: FlowAggregate, finding: Finding | None) -> None:
        self.packets += one.packets
        self.octets += one.octets
        if one.open_at:
            self.open += one.open
        if finding is not None and finding.kind != SCAN:
            attack = self.attacks.setdefault(finding.kind, _Attack())
            attack.sources += 1
            attack.octets += one.octets
            attack.open += one.open
            attack.confidence = max(attack.confidence, finding.certainty)
            attack.prefix = finding.prefix

    def finding(self, ip: str, seconds: float, forged: list[Finding]) -> Finding | None:
        """Return what is certain of this target, given the forgeries that were found there."""
        reasons = list(forged)
        floods = {kind: attack for kind, attack in self.attacks.items() if kind != SLOW}
        flooded = sum(a.octets for a in floods.values()) / max(1, self.octets)
        if flooded >= FLOODED:
            evidence = {
                "flooded_share": round(flooded, 6),
                "flooding_sources": sum(a.sources for a in floods.values()),
            }
            kind = max(sorted(floods), key=lambda k: floods[k].octets)
            most = floods[kind]
            told = Finding(kind, ip, None, most.confidence, "", evidence, prefix=most.prefix)
            reasons.append(told)
        slow = self.attacks.get(SLOW)
        if slow is not None and slow.open / self.open >= FLOODED:
            evidence = {"held_share": round(slow.open / self.open, 6), "slow_sources": slow.sources}
            reasons.append(Finding(SLOW, ip, None, slow.confidence, "", evidence))
        if not reasons:
            return None
        merged: dict[str, float] = {}
        for each in reversed(reasons):
            merged |= each.evidence
        mb_s, why = self.octets / seconds / 1e6, _why(reasons[0].kind, merged)
        return replace(reasons[0], target=ip, reason=why, evidence=merged, mb_s=mb_s)


_ASKED = {
    SYN_FLOOD: "SYNs",
    UDP_FLOOD: "UDP packets",
    UDP_FRAGMENTS: "UDP packets",
    ICMP_FLOOD: "ICMP packets",
}
"""What the share of a forgery is of; of other kinds it is of senders."""


_SAME = {"port": "to port", "source_port": "from port", "packet_octets": "of length"}


def _why(kind: str, seen: dict[str, float]) -> str:
    """Return why the traffic towards an address is an attack, as half a sentence about it."""
    reasons = []
    if "forged_share" in seen:
        asked = _ASKED.get(kind, f"senders of {kind.removesuffix(' flood')} packets")
        reasons.append(
            f"{_share(seen['forged_share'])} of its {asked} ({_number(seen['forged_s'])}/s) come "
            f"from {_number(seen['silent_sources'])} sources that never go on: they are forged"
        )
        same = [f"{text} {seen[name]:.0f}" for name, text in _SAME.items() if name in seen]
        reasons += [f"all of those {', '.join(same)}"] if same else []
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
