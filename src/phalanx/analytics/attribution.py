"""Which sources take service from the users of an address, look by look.

What a source does is judged by rules (``source_rules``); whether that harms anybody is not, and
some who do harm do no more than a user does. So what users get decides here (``goodput``): UDP that
nobody answers is left alone while they are served, and who came is told from who was there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from math import inf
from operator import attrgetter

from msgspec import Struct, field

from phalanx.analytics import source_rules
from phalanx.analytics.detectors import HTTP_FLOOD, ONE_WAY, Finding
from phalanx.analytics.goodput import (
    AFTER_S,
    CROWDED,
    GROWN,
    LEAST_REST,
    RESTORED,
    SERVED,
    UNFAIR,
    UNFAIR_LOOKS,
    Goodput,
)
from phalanx.analytics.group_rules import AMPLIFIED
from phalanx.domain.actions import FlowRecords, FlowStats, LinkSample

Pair = tuple[str, str]
"""Source and target."""
KbS = dict[str, dict[str, float]]
"""What each source sends or gets, in KB/s, by target."""
BUSY = 0.7
"""Share of its bandwidth from which a link has too little room for what nobody asked for."""
CROWDING_S = 5_000
"""Packets/s of one-way UDP that are too many for a host, however small."""
PART = 0.1
"""Who sends less than this part of what one of a swarm does on average is none of the swarm."""
FEW_ASKED = 16
"""A remembered offender is convicted again by so many SYNs or packets that got nothing."""
FEW_SENT = 4
"""One forged address of many sends not more packets in a look."""
GOES_ON_S = 2.0
"""Who asks for far too much is a flood once it has done so for so long ..."""
ASKING_LOOKS = 1, 2, 4
"""So many of the last looks are counted together: little more than a user does shows in several."""
LACKS = 0.05
"""Share of the connections without an answer from which a service is slow."""
SHORT_S = 0.5
"""What users send in a shorter look is a burst, and no rate."""
RUSH = 3.0
"""... or at once if it asks for so many times what is too much."""
OTHERS_S = 10.0
"""So long after an attack began it explains that users get less, filtered or not."""
REPLIED_S = 300.0
"""So long after answers were seen somewhere, they are expected to pass there."""

_what = attrgetter("source", "target", "protocol")
"""What a record or an aggregate is about."""


class Target(Struct):
    """What is known of the traffic towards one address."""

    goodput: Goodput = field(default_factory=Goodput)
    """What its users get."""
    since: float | None = None
    """When the present attack was first seen, in seconds; None: there is none."""
    named: frozenset[str] = frozenset()
    """Sources of it that were reported last."""
    heard: float = -1e9
    """When it was seen to answer last."""
    over_udp: float = -1e9
    """When it was seen to answer over UDP last."""
    swarmed: float = -1e9
    """When strangers, or one-way UDP that does harm, were seen last: those that come soon after are
    more of them."""

    def answers_udp(self, now: float) -> bool:
        """Whether it was seen to answer over UDP lately."""
        return now - self.over_udp < REPLIED_S


Targets = Mapping[str, Target]
"""By address; with what is new made as it is asked for."""


class LinkLook:
    """What one look at a link shows, and the looks before it.

    Args:
        now: when it ended, in seconds.
        looks: the last looks, as if nothing was sampled; this one is the last.
        sample: the counters of the link.
        targets: addresses that traffic went to so far.

    """

    def __init__(
        self,
        now: float,
        looks: Sequence[FlowRecords],
        sample: LinkSample,
        targets: Iterable[str],
    ) -> None:
        self.now, self.looks, self.targets = now, looks, targets
        self.flows, self.seconds = looks[-1].flows, looks[-1].seconds
        self.rate_kb_s, self.bandwidth_kb_s = sample.rate_mb_s * 1e3, sample.bandwidth_mb_s * 1e3
        self.full = sample.rate_mb_s >= BUSY * sample.bandwidth_mb_s
        """Whether little of the link is free."""
        self.stayed = {flow.source for flow in looks[-UNFAIR_LOOKS:][0].flows}
        """Who was there some looks ago, and had time to give way."""
        self.all_kb_s = sum(flow.octets for flow in self.flows) / self.seconds / 1e3
        self.one_way = _one_way(self.flows)
        """UDP that nobody answers."""
        echoes = (flow for flow in self.flows if flow.protocol == "icmp")
        self.one_way_kb_s = self.sent([*self.one_way, *echoes])  # to answer those is no service

    def sent(self, flows: Iterable[FlowStats | source_rules.FlowAggregate], few: int = 0) -> KbS:
        """Return what each source sent, but for flows of not more than a ``few`` packets."""
        sent: KbS = {}
        for flow in flows:
            if flow.packets > few:
                of = sent.setdefault(flow.target, {})
                of[flow.source] = of.get(flow.source, 0.0) + flow.octets / self.seconds / 1e3
        return sent


def harmful(
    look: LinkLook, findings: list[Finding], targets: Targets, hostile: Collection[str]
) -> list[Finding]:
    """Return the findings but for UDP that nothing answers and that takes nothing from users.

    Telemetry, media and logs are not answered, either. They do harm where they fill the link
    or are very many packets; and while users suffer, if they were not there before, or their
    sources attack others (``hostile``).
    """
    suspected = {f.target for f in findings if f.kind in ONE_WAY}
    if not suspected:
        return findings
    sent, packets = look.one_way_kb_s, Counter[str]()
    for flow in look.one_way:
        packets[flow.target] += flow.packets
    crowded = {
        target
        for target in suspected
        if packets[target] >= CROWDING_S * look.seconds
        or (look.full and sum(sent.get(target, {}).values()) >= CROWDED * look.rate_kb_s)
    }

    def strange(f: Finding) -> bool:
        if f.source is None and not f.spoofed:  # it sums up what its sources do
            of = (o for o in findings if o.source and (o.target, o.kind) == (f.target, f.kind))
            return any(map(strange, of))
        source = f.source or ""
        kb_s = sent.get(f.target, {}).get(source, 0.0)
        is_new = targets[f.target].goodput.is_new(source, kb_s)
        return is_new or f.spoofed or source in hostile

    begun = {f.target for f in findings if f.kind not in ONE_WAY or strange(f)}
    begun |= {
        target
        for target, known in targets.items()
        if known.since is not None and look.now - known.since < AFTER_S
    }

    def harms(f: Finding) -> bool:
        if f.kind not in ONE_WAY:
            return True
        # What fills a link is what came, not what was there and left users enough before;
        # unless that goes on for long.
        hurt = targets[f.target].goodput.hurt(look.now)
        if strange(f):
            return hurt or f.target in crowded
        return hurt and f.target in crowded and f.target not in begun

    return list(filter(harms, findings))


def asking(look: LinkLook, targets: Targets, attacked: Container[str]) -> list[Finding]:
    """Return who asks for far more than a user does, while users suffer, and did not before.

    They are answered as users are, so they have to take much of what passes as well, and to
    go on: users who got nothing for a while ask for all of that once they can.

    Args:
        look: what was seen.
        targets: what is known of each address.
        attacked: those that this look shows another attack on.

    """
    found: list[Finding] = []
    sent, floods, lacks = look.sent(look.flows), _much_asked(look, targets), _unanswered(look)
    connected = look.sent(f for f in look.flows if f.established) if look.full else {}
    for target in {**dict.fromkeys(look.targets), **sent}:
        known, of = targets[target], sent.get(target, {})
        goodput = known.goodput
        begun = goodput.usual or known.since is not None
        first = look.now if begun else -inf  # who is there already is none who came
        goodput.asking = {s: goodput.asking.get(s, first) for s in floods[target]}
        # Users may just rest, or ask for less; or a link that others do not use carries less.
        strained = look.full or target in lacks or goodput.lacking(of)
        hurt = goodput.hurt(look.now) and strained
        theirs = connected.get(target, {}) if target in lacks else {}
        goodput.overrun = goodput.overrunning(look.now, theirs, look.stayed, look.bandwidth_kb_s)
        goes_on = known.since is not None and look.full
        # What began meanwhile does harm, and explains it for a while.
        since = look.now if known.since is None and target in attacked else known.since
        explained = since is not None and (not hurt or look.now < since + OTHERS_S)
        before = goodput.asked_before()
        users = [of[s] for s in goodput.served if s in of]
        each = sum(users) / max(1, len(users))  # who gets no more than they do gives way
        some = {
            source: f
            for source, f in floods[target].items()
            if source not in goodput.overrun
            and of[source] > max(UNFAIR * each, SERVED * goodput.served.get(source, 0.0))
            if source in known.named
            or (goodput.served and source not in before and goodput.asking[source] > -inf)
            or not (explained or of[source] <= GROWN * before.get(source, 0.0))
        }
        found += [f for source, f in floods[target].items() if source in goodput.overrun]
        if sum(of[source] for source in some) >= CROWDED * look.all_kb_s and (goes_on or hurt):
            found += [
                f
                for source, f in some.items()
                if goes_on
                or goodput.asking[source] <= look.now - GOES_ON_S
                or f.evidence["requests_s"] > RUSH * f.evidence["users_at_most"]
            ]
    return found


def _much_asked(look: LinkLook, targets: Targets) -> dict[str, dict[str, Finding]]:
    """Return who asks each target for far more than a user does."""
    floods: dict[str, dict[str, Finding]] = defaultdict(dict)
    now = {(flow.source, flow.target) for flow in look.flows if flow.packets}
    attacked = any(k.since is not None or k.goodput.hurt(look.now) for k in targets.values())
    for count in ASKING_LOOKS if attacked else ASKING_LOOKS[:1]:
        looks = look.looks[-count:]
        flows = (f for each in looks for f in each.flows if (f.source, f.target) in now)
        both = source_rules.aggregate(flows)  # a flood of handshakes asks for nothing
        ones = {(one.source, one.target): one for one in both if one.protocol == "tcp"}
        for f in source_rules.request_floods(ones.values(), sum(each.seconds for each in looks)):
            if source_rules.completes(ones[f.source or "", f.target]):
                floods[f.target].setdefault(f.source or "", f)
    return floods


def _unanswered(look: LinkLook) -> set[str]:
    """Return the targets of which too many requests do not get their answers."""
    asked, lack = Counter[str](), Counter[str]()
    for flow in look.flows:
        if flow.protocol == "tcp":
            asked[flow.target] += flow.syn
            lack[flow.target] += max(0, flow.syn - flow.answered)
    return {target for target in asked if lack[target] > LACKS * asked[target]}


def crowding(
    look: LinkLook, targets: Targets, convicted: Container[Pair]
) -> tuple[dict[Pair, Finding], dict[str, float]]:
    """Return who came and crowds users out of a full link, and what is left for them, in MB/s.

    Each of them asks as a user does; but users give way to each other, and they do not.
    """
    found: dict[Pair, Finding] = {}
    rests: dict[str, float] = {}
    looks = look.looks if look.full else ()
    present = {flow.source for each in looks for flow in each.flows}
    tcp = (f for f in look.flows if look.full and f.protocol == "tcp")
    sent = look.sent(f for f in tcp if (f.source, f.target) not in convicted)
    for target in look.targets:
        goodput, link_kb_s = targets[target].goodput, look.bandwidth_kb_s
        of = {s: kb_s for s, kb_s in goodput.overrun.items() if (s, target) not in convicted}
        came, rest_kb_s = list(of), LEAST_REST * link_kb_s
        if not came and look.full and goodput.hurt(look.now):
            of = sent.get(target, {})
            came, rest_kb_s = goodput.crowding(look.now, of, present, look.stayed, link_kb_s)
        elif not came:
            goodput.unfair = 0
        why = f"one of {len(came)} that came and give no way to users of a full link"
        for source in came:
            evidence = {"kb_s": round(of[source], 3)}
            found[source, target] = Finding(HTTP_FLOOD, target, source, 1.0, why, evidence)
        rests[target] = rest_kb_s / 1e3
    return found, rests


def strangers(
    look: LinkLook, targets: Targets, convicted: Container[Pair], calm_s: float
) -> dict[Pair, Finding]:
    """Return sources that nobody serves, which came with a breach that they explain.

    Of echoes and packets of no connection nobody needs many, whether a breach is seen or not:
    who comes to watch in the middle of an attack sees none.
    Each of a swarm sends too little to be judged by itself. Who sends much less than the
    others is none of them: all of those together explain little.

    Args:
        look: what was seen.
        targets: what is known of each address.
        convicted: who is known to attack already.
        calm_s: time for which those that come after a swarm are more of it, in seconds.

    """
    found: dict[Pair, Finding] = {}
    for flow in look.flows:
        if flow.replies > flow.resets:
            targets[flow.target].heard = look.now
    # A flood may leave nobody an answer.
    heard = {target for target, each in targets.items() if look.now - each.heard < REPLIED_S}
    hurt = {target for target, each in targets.items() if each.goodput.hurt(look.now)}
    nobodys = unserved(look, heard, hurt)
    kinds = {(flow.source, flow.target): source_rules.connectionless(flow) for flow in nobodys}
    every, steady = look.sent(nobodys), look.sent(nobodys, FEW_SENT)
    vain = [flow for flow in nobodys if flow.protocol != "udp" and flow.packets > FEW_SENT]
    packets = Counter[str]()
    for one in vain:
        packets[one.target] += one.packets
    part = min(1.0, look.seconds / SHORT_S)
    for target in every:
        known, many = targets[target], steady.get(target, {})
        sent = every[target] if target in hurt else many
        goes_on = known.since is not None and look.full
        if sent is many and not (look.now - known.swarmed < calm_s or goes_on):
            if packets[target] < source_rules.UNANSWERED_S * look.seconds:
                continue
            sent = look.sent(vain).get(target, {})
        crowd = {
            source: kb_s
            # Of forged sources each sends a packet or two.
            for source, kb_s in sent.items()
            if known.goodput.is_new(source, kb_s)
            and many.get(source, 0.0) * part > SERVED * known.goodput.served.get(source, -1.0)
            and (source, target) not in convicted
        }
        # Of a client that waits for its first answer others do not make one of a swarm.
        for one_way in (True, False):
            some = {s: at for s, at in crowd.items() if one_way == (kinds[s, target] in ONE_WAY)}
            least_kb_s = PART * sum(some.values()) / max(1, len(some))
            some = {source: kb_s for source, kb_s in some.items() if kb_s > least_kb_s}
            share = sum(some.values()) / look.all_kb_s if some else 0.0
            if share < CROWDED:
                continue
            known.swarmed = look.now
            evidence = {"sources": len(some), "share": round(share, 6)}
            why = f"one of {len(some)} sources that nobody serves and that take much"
            for source in some:
                kind = kinds[source, target]
                found[source, target] = Finding(kind, target, source, share, why, evidence)
    return found


def served(
    look: LinkLook, targets: Targets, convicted: Container[Pair]
) -> tuple[KbS, dict[str, set[str]], dict[str, float]]:
    """Return what users got; clients over UDP, by target; and octets of a packet of users."""
    users: KbS = defaultdict(lambda: defaultdict(float))
    clients: dict[str, set[str]] = defaultdict(set)
    octets, packets = Counter[str](), Counter[str]()
    for flow in look.flows:
        if flow.protocol != "icmp" and (flow.source, flow.target) not in convicted:
            # Who asks over UDP asks on, answered or not.
            asked = max(1, flow.packets) if flow.protocol == "udp" else 1
            asks = flow.protocol != "udp" or flow.replies
            if not (asks or flow.source in targets[flow.target].goodput.served):
                continue  # it gets nothing and never got anything: it is none of the users
            got = flow.octets * min(1, max(0, flow.replies - flow.resets) / asked)
            octets[flow.target] += flow.octets
            packets[flow.target] += flow.packets
            if flow.protocol == "udp" and 2 * flow.replies > flow.packets:
                clients[flow.target].add(flow.source)
                targets[flow.target].over_udp = look.now
            users[flow.target][flow.source] += got / look.seconds / 1e3
    return users, clients, {target: octets[target] / n for target, n in packets.items() if n}


def lacking(look: LinkLook, convicted: Container[Pair]) -> dict[str, tuple[int, int]]:
    """Return how many questions of users targets had and answered; of what answers each of them.

    Only of those that answered too few.
    """
    asked, answered = Counter[str](), Counter[str]()
    for flow in look.flows:
        users = flow.replies and (flow.source, flow.target) not in convicted
        if users and flow.protocol == "udp" and flow.port in AMPLIFIED:
            asked[flow.target] += flow.packets
            answered[flow.target] += flow.replies - flow.resets
    return {to: (n, answered[to]) for to, n in asked.items() if answered[to] < RESTORED * n}


def unserved(
    look: LinkLook, heard: Container[str], hurt: Container[str]
) -> list[FlowStats | source_rules.FlowAggregate]:
    """Return UDP that nobody answers, and what is sent in vain over other protocols.

    Few packets without an answer are chance, unless all kept looks have more of them; fewer do
    where users are ``hurt``. The answers of a target that was not ``heard`` may take another way.
    """
    sampling = max([flow.sampling for flow in look.flows], default=1)
    others = source_rules.aggregate(flow for flow in look.flows if flow.protocol != "udp")

    def in_vain(one: source_rules.FlowAggregate, few: float = inf) -> bool:
        known = one.replies or one.protocol == "icmp" or one.target in heard
        return bool(known) and source_rules.in_vain(one, sampling, few)

    vain = {_what(one) for one in others if in_vain(one)}
    # Who was served in this look was in all of them.
    rest = {_what(one) for one in others if not (one.established or one.answered)} - vain
    every = (flow for each in look.looks for flow in each.flows)
    longer = source_rules.aggregate(flow for flow in every if _what(flow) in rest)
    vain |= {_what(one) for one in longer if in_vain(one, FEW_ASKED if one.target in hurt else inf)}
    return [*look.one_way, *(one for one in others if _what(one) in vain)]


def got_nothing(flow: FlowStats) -> bool:
    """Whether a source asked for a few things and got none of them."""
    asked = flow.syn if flow.protocol == "tcp" else flow.packets
    got = flow.established or flow.answered or (flow.protocol == "udp" and flow.replies)
    # Fragments and echoes say nothing: nobody is served by them.
    return asked > FEW_ASKED and not (flow.fragments or got)


def _one_way(flows: Iterable[FlowStats]) -> list[FlowStats]:
    """Return the flows of UDP that nobody answers; fragments belong to what their source asks."""
    udp = [flow for flow in flows if flow.protocol == "udp"]
    answered = {(flow.source, flow.target) for flow in udp if flow.replies}
    return [f for f in udp if not (f.replies or (f.fragments and (f.source, f.target) in answered))]
