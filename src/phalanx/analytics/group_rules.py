"""What is certain of many together: reflectors, scans, and floods from forged sources.

The assumptions are told in ``fixed_rules``, which uses these rules.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from ipaddress import ip_network

from msgspec import Struct, field
from msgspec.structs import replace

from phalanx.analytics.detectors import REFLECTION, SCAN, SYN_ACK_FLOOD, SYN_FLOOD, Finding
from phalanx.analytics.source_rules import (
    CERTAIN,
    FEW_REPLIED,
    QUIET_S,
    REPLIED,
    FlowAggregate,
    aggregate,
    connectionless,
    counted,
    faster,
    figure,
    percent,
    together,
)
from phalanx.analytics.statistics import confidence, fewest, wilson
from phalanx.domain.series import TrafficWindow


class JudgedWindow:
    """What is judged together."""

    def __init__(self, window: TrafficWindow) -> None:
        """Take the records of a window."""
        self.window = window
        aggregates = aggregate(window.flows)
        self.sampling = max([flow.sampling for flow in window.flows], default=1)
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
        self.heard = {one.target for one in self.aggregates if one.replies > one.resets}
        self.heard.update(window.answering)
        """Targets that reply to somebody, with more than resets."""
        self.towards: dict[str, list[FlowAggregate]] = {}
        """Aggregates of each target."""
        for one in self.aggregates:
            self.towards.setdefault(one.target, []).append(one)
        self.times = Counter([one.source for one in self.aggregates])
        """Aggregates of each source."""


def _judged(aggregates: list[FlowAggregate]) -> list[FlowAggregate]:
    """Return what can be judged, with what a target asked of a UDP source among its replies.

    Of targets of which only one way of the traffic is seen (connections to them are open, and
    not one packet comes back), UDP traffic and open connections are left out; of all targets, if
    that is so of all together.
    """
    connected, replies = Counter[str](), Counter[str]()
    for one in aggregates:
        if one.protocol == "tcp" and (one.established or one.open or one.replies):
            connected[one.target] += one.established + one.open
            replies[one.target] += one.replies
    datagrams = [one for one in aggregates if one.protocol != "tcp"]
    targets = {one.target for one in datagrams}
    mutual = {(o.source, o.target, o.protocol): o for o in datagrams if o.source in targets}
    for (source, target, protocol), one in mutual.items():
        if (other := mutual.get((target, source, protocol))) is not None:
            one.replies += other.packets
    one_way = {each for each, count in connected.items() if count > 0 and replies[each] == 0}
    if not one_way:
        return aggregates
    blind = one_way if any(replies.values()) else {one.target for one in aggregates}
    for one in aggregates:
        one.open *= one.target not in blind
    return [one for one in aggregates if one.protocol == "tcp" or one.target not in blind]


@lru_cache(65_536)
def prefix_of(address: str) -> str:
    """Return the longest prefix with an address that networks route to each other."""
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


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


def reflections(look: JudgedWindow) -> list[Finding]:
    """Return the reflectors that certainly flood a target with answers it did not ask for.

    What is certain is that all together are unasked for (counts as of one source, as of UDP that
    is not answered); then each of them that sends large answers, or SYN-ACKs, and gets nothing is
    named. Where that is not certain of a target, it may be of all targets of its prefix together.
    """
    groups: dict[tuple[str, int], list[FlowAggregate]] = {}
    for one in look.aggregates:
        if not (one.syn_acks or one.source_port in AMPLIFIED):
            continue
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
            wide.setdefault((prefix_of(target), port), []).extend(group)
    for (prefix, port), group in wide.items():
        of: dict[str, list[FlowAggregate]] = {}
        for one in group:
            of.setdefault(one.source, []).append(one)
        for finding in _reflectors(port, [together(some) for some in of.values()], look.seconds):
            for one in of[finding.source or ""]:
                found.append(replace(finding, target=one.target, prefix=prefix))
    return found


def _reflectors(port: int, group: list[FlowAggregate], seconds: float) -> list[Finding]:
    """Return the findings on senders of answers from a port (0: of SYN-ACKs), if it is certain."""
    packets, sources = sum(o.packets for o in group), len({o.source for o in group})
    replies, rate = sum(o.replies - o.resets for o in group), packets / seconds
    fast = faster(packets, QUIET_S, seconds, group[0].sampling)
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
            f"sends {figure(evidence['packets_s'])} {what}/s of "
            f"{figure(evidence['packet_octets'])} octets from port {one.source_port} that nothing "
            f"was seen to ask for, one of {counted(sources)} with {figure(rate)}/s in all"
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


def scans(look: JudgedWindow) -> dict[str, Finding | None]:
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
            f"certainly less than {percent(most)} are there"
        )
        sure = confidence(accepted, tried, ACCEPTED)
        found[source] = Finding(SCAN, "", source, sure, reason, evidence)
    return found


FORGED = 0.9
"""Share of a target's SYNs (or UDP packets) from silent sources that makes them forged."""
FEW_SOURCES = fewest(1 - FORGED)
"""So few sources are never certain to be forged, even if all of them are silent."""
FEW_SYN = 16
"""A silent source sent so many SYNs at most: one that sends more can be judged by itself."""
BARE = -1
"""Stands for the port of packets that have none."""
FEW_PACKETS = 4
"""The same for other packets, fewer because one-way streams may be honest; and for targets."""


class _Crowd(Struct):
    """All that ask one target, or those of a prefix, for something over one protocol."""

    sources: int = 0
    asked: int = 0
    """SYNs, or UDP packets; sources that sent no SYN."""
    silent_asked: int = 0
    silent: list[FlowAggregate] = field(default_factory=list)
    """Sources that asked a few times and completed nothing (got no reply)."""

    def merge(self, other: _Crowd) -> None:
        """Add those that ask another target."""
        self.sources += other.sources
        self.asked += other.asked
        self.silent_asked += other.silent_asked
        self.silent += other.silent

    def trials(self) -> tuple[float, int]:
        """Return how many sources would ask for the silent share, and all: trials are sources."""
        return self.silent_asked / self.asked * self.sources, self.sources

    def forged(self, of: str, look: JudgedWindow) -> Finding | None:
        """Return what is certain of those who ask over a protocol; "": for nothing."""
        if self.sources <= FEW_SOURCES:
            return None
        least, asked = wilson(*self.trials())[0], self.silent_asked * look.scale
        fast = faster(asked, QUIET_S, look.seconds, look.sampling)
        if least <= FORGED or fast <= CERTAIN:
            return None
        kinds = Counter([SYN_FLOOD if of == "tcp" else connectionless(one) for one in self.silent])
        same: dict[str, set[float]] = {
            "port": {one.port for one in self.silent},
            "source_port": {one.source_port for one in self.silent},
            "packet_octets": {one.octets / (one.packets or 1) for one in self.silent},
        }
        evidence = {
            "silent_sources": len(self.silent),
            "sources": self.sources,
            "forged_share": round(self.silent_asked / self.asked, 6),
            "forged_at_least": round(least, 6),
            "forged_s": round(asked / look.seconds, 3),
            "unlisted": look.window.unlisted,
            **{name: sum(only) for name, only in same.items() if len(only) == 1 and any(only)},
        }
        sure = min(fast, confidence(*self.trials(), FORGED))
        kind = max(kinds, key=kinds.__getitem__)
        return Finding(kind, "", None, sure, "", evidence, spoofed=True)


def _crowd(of: str, askers: list[FlowAggregate], look: JudgedWindow) -> _Crowd:
    """Return those who ask a target for something over one protocol; "": for nothing."""
    if of == "tcp":
        silent = [o for o in askers if o.syn <= FEW_SYN and not (o.established or o.answered)]
    elif of:
        silent = [o for o in askers if o.packets <= FEW_PACKETS and (o.syn or not o.replies)]
    else:
        silent = [o for o in askers if o.packets <= FEW_PACKETS and o.resets == o.replies]
    times = look.times
    silent = [one for one in silent if times[one.source] <= FEW_PACKETS]
    if not of:  # each may get an answer, as others do
        return _Crowd(len(askers), len(askers), len(silent), silent)
    name = "syn" if of == "tcp" else "packets"
    asked, silent_asked = (sum([getattr(o, name) or 1 for o in each]) for each in (askers, silent))
    return _Crowd(len(askers), asked, silent_asked, silent)


def _crowds(look: JudgedWindow) -> dict[tuple[str, str, int], _Crowd]:
    """Return those who ask for something, by target, protocol and port; protocol "": for nothing.

    Port 0 are all. Many who ask for one port over UDP are there once more, by it, and so are
    fragments: of a flood at one port nothing is certain beside as many users of another.
    """
    crowds: dict[tuple[str, str, int], _Crowd] = {}
    sampled = look.sampling > 1
    for target, group in look.towards.items():
        tcp = [one for one in group if one.protocol == "tcp"]
        udp = [one for one in group if one.protocol == "udp" and one.packets]
        icmp = [one for one in group if one.protocol == "icmp" and one.packets]
        # Of an established one that is sampled the SYN need not be among the samples.
        asking = [o for o in tcp if o.syn or (sampled and o.established)]
        others = [o for o in tcp if o.packets and not (o.syn or (sampled and o.established))]
        if target not in look.heard:
            others = [o for o in others if o.replies]
        for of, some in (("tcp", asking), ("", others), ("udp", udp), ("icmp", icmp)):
            if some:
                crowds[target, of, 0] = _crowd(of, some, look)
        ports: dict[int, list[FlowAggregate]] = {}
        for one in udp if len(udp) > FEW_SOURCES else ():
            bare = one.fragments == one.packets
            ports.setdefault(BARE if bare else one.port, []).append(one)
        for port, some in ports.items():
            if port and len(some) > FEW_SOURCES:
                crowds[target, "udp", port] = _crowd("udp", some, look)
    for one in look.aggregates if sampled else ():
        # That a source is answered shows in samples of answers, seldom beside its own.
        crowd = crowds.get((one.source, one.protocol, 0))
        if crowd is not None and one.packets and one.protocol != "tcp":
            crowd.sources += 1
            crowd.asked += one.packets
    return crowds


def forgeries(look: JudgedWindow) -> dict[str, list[Finding]]:
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
        forged = crowd.forged(of, look)
        if forged is not None:
            known = found.setdefault(target, [])
            if not port or all(each.kind != forged.kind for each in known):
                known.append(forged)
        elif not port and crowd.silent and wilson(*crowd.trials())[1] > FORGED:
            wide.setdefault((prefix_of(target), of), []).append(target)
    for (prefix, of), targets in wide.items():
        total = _Crowd()
        for target in targets:
            total.merge(crowds[target, of, 0])
        forged = total.forged(of, look)
        if forged is not None:
            for target in targets:
                found.setdefault(target, []).append(replace(forged, prefix=prefix))
    return found
