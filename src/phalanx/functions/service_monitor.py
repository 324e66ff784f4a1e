"""Service Monitor: watches the service that users get over a link, and names what attacks it.

It looks at flow samples all the time and does not wait for a link to fill: a flood that fills a
link upstream of the monitored one shows in handshakes that nobody completes, long before any
counter here exceeds a threshold. What it finds goes to all agents as an ``AttackReport``; those at
whose PoP the attack enters filter it there (``EdgeFilter``).

It needs no image: a switch samples flows by itself (sFlow, IPFIX), and the agent beside it judges.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Container, Iterable
from functools import partial
from math import inf
from operator import attrgetter
from typing import ClassVar

from msgspec import Struct, field

from phalanx.analytics import source_rules
from phalanx.analytics.detectors import HTTP_FLOOD, ONE_WAY, REFLECTION, SLOW, Finding
from phalanx.analytics.goodput import (
    AFTER_S,
    CROWDED,
    FEW_LOOKS,
    RESTORED,
    SERVED,
    Goodput,
    Look,
)
from phalanx.analytics.group_rules import AMPLIFIED
from phalanx.auction.outlook import Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Adopt, Believe, Body, Forget, Pause, Perceive, PlanFailed, Steps
from phalanx.coordination.measures import PROTECT, not_allowed
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import FlowRecords, FlowStats, LinkSample, Observe, Outcome, ReadLink
from phalanx.domain.goals import want
from phalanx.domain.messages import AttackReport, Message, Performative
from phalanx.domain.network import link_ends
from phalanx.domain.predicates import EntryScreened, Monitored, ServiceBreached, UnderAttack
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import FIXED_RULES, analysis, examine, passed

ATTACK = "attack"
"""Conversation of the reports."""
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
RUSH = 3.0
"""... or at once if it asks for so many times what is too much."""
RECENT_S = 1.0
"""So many looks, and all of the last second, are judged together as well, beside the last one and
all that are kept."""
MANY_FLOWS = 4_000
"""Records of one look above which the next is sampled."""
MOST_KEPT = 2 * MANY_FLOWS
"""Records of all looks that are kept, but for the last ``FEW_LOOKS``."""
MANY_OPEN = 20
"""Connections of a link below which none of its sources is certain to hold too many."""
RATE_S = 0.5
"""The rate of a link is that over so long at least; a look may be shorter."""
REPLIED_S = 300.0
"""So long after answers were seen somewhere, they are expected to pass there."""
SAMPLES = 60
"""Samples of a link that are kept for detectors."""


_what = attrgetter("source", "target", "protocol")
"""What a record or an aggregate is about."""


class _Target(Struct):
    """What is known of the traffic towards one address."""

    goodput: Goodput = field(default_factory=Goodput)
    """What its users get."""
    asked: int = 0
    """How often others were asked to look, since users get much less."""
    since: float | None = None
    """When the present attack was first seen, in seconds; None: there is none."""
    attacked: float = -1e9
    """When it was seen last."""
    began: float = 0.0
    """When the first of its pulses was seen."""
    former: frozenset[str] = frozenset()
    """Sources that attacked by the end of the pulse before."""
    reported: float = -1e9
    named: frozenset[str] = frozenset()
    """Sources in the last report."""
    shared: set[str] = field(default_factory=set)
    """Those of them behind which users were seen as well."""
    slow: bool = False
    """Whether the attack holds connections: it is answered now and then, as users are."""
    heard: float = -1e9
    """When it was seen to answer last."""
    over_udp: float = -1e9
    """When it was seen to answer over UDP last."""
    swarmed: float = -1e9
    """When strangers, or one-way UDP that does harm, were seen last: those that come soon after are
    more of them."""


class _Link(Struct):
    """What was seen of one link lately."""

    looks: deque[tuple[float, FlowRecords]] = field(default_factory=deque)
    """(time, records as if nothing was sampled)."""
    history: deque[tuple[float, float, float]] = field(
        default_factory=lambda: deque(maxlen=SAMPLES)
    )
    """(time, rate in MB/s, connections) of the last samples."""
    sampling: float = 1.0
    watched: bool = False
    """Whether its open connections are being looked at."""
    targets: dict[str, None] = field(default_factory=dict)
    """Addresses that traffic went to: of others the link says nothing."""
    slow: list[Finding] = field(default_factory=list)
    """What that look has found and nobody was told yet."""
    refused: bool = False
    """Whether somebody asked for many things in the last look, and got none."""
    full: bool = False
    """Whether little of it was free in the last look."""


class ServiceMonitor(Capability):
    """Watches links by what their users get; says which sources attack which address."""

    name = "service-monitor"
    vnfd = Vnfd("service-monitor", Resources(0.5, 0.5, 0.5), image_mb=0.0, shared=True)
    observes = ("links", "flows")
    detector = FIXED_RULES
    parameters: ClassVar = {
        "service_look_s": 2.0,
        "slow_look_s": 0.0,
        "service_memory_s": 10.0,
        "offender_memory_s": 900.0,
        "report_repeat_s": 4.0,
        "entry_patience_s": 8.0,
        "calm_s": 10.0,
        "resigned_s": 120.0,
    }

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._targets: dict[str, _Target] = {}
        self._offenders: OrderedDict[tuple[str, str], float] = OrderedDict()
        """(source, target) of what was convicted, with when it was seen last; the eldest first."""

    @hears(AttackReport)
    def heard_report(self, me: Agent, message: Message) -> None:
        """Remember whom others report, in case of watching for them: the beginning is not seen."""
        report = message.content_as(AttackReport)
        watched = any(report.target in link.targets for link in self._links.values())
        if report.sources and not watched:
            self._remember(me, [(source, report.target) for source in report.sources])
            self._target(report.target).attacked = me.now

    @plan(Monitored)
    def watch(self, me: Agent, goal: GoalInstance) -> Body:
        """Look at counters and flow samples of the link for as long as the goal stands.

        While an attack goes on the looks are half as long: what moves is found sooner. So is the
        one after a source got nothing of what it asked for, if that was not enough to be certain.
        """
        try:
            yield from self._watch(me, goal)
        except GeneratorExit:  # of an agent that died nothing is recorded any more
            me.later(self._watched, me, goal)
            raise

    def _watched(self, me: Agent, goal: GoalInstance) -> None:
        """Believe in no attack any more that nobody looks at here from now on."""
        me.cause = goal.cause if goal.end is None else goal.end.event
        for target in self._links[goal.predicate_as(Monitored).link].targets:
            known = self._target(target)
            known.since, known.named, known.goodput.suffers = None, frozenset(), None
            for belief in UnderAttack(target), ServiceBreached(target):
                if me.beliefs.get(belief) is not None:
                    me.do_step(Forget(belief))

    def _watch(self, me: Agent, goal: GoalInstance) -> Body:
        link = goal.predicate_as(Monitored).link
        seen = self._links.setdefault(link, _Link())
        while True:
            attacked = any(known.since is not None for known in self._targets.values())
            seconds = me.parameter(self, "service_look_s") / (2 if attacked or seen.refused else 1)
            assert goal.instance is not None
            look = Observe(goal.instance, seconds, link, sampling=seen.sampling)
            try:
                records: FlowRecords = yield Act(look)
                sample: LinkSample = yield Act(ReadLink(link, max(seconds, RATE_S)))
            except PlanFailed:  # the next look may succeed: a cut link comes back
                yield Pause(seconds)
                continue
            seen.refused = any(map(_got_nothing, records.flows))
            yield Perceive(sample)
            slow_s = me.parameter(self, "slow_look_s")
            if slow_s > seconds and sample.connections >= MANY_OPEN and not seen.watched:
                seen.watched = True
                slow_look = Observe(goal.instance, slow_s, link)
                me.perform(slow_look, partial(self._slow, me, goal, seen))
            yield from self._judge(me, goal, seen, sample, records)

    def _slow(self, me: Agent, goal: GoalInstance, seen: _Link, outcome: Outcome) -> None:
        """Keep what a long look at open connections found; short ones show few of those.

        A recorder of packets knows a connection only by what passes while it looks.
        """
        seen.watched = False
        if isinstance(outcome, FlowRecords) and goal.instance is not None:
            seen.slow = [f for f in examine(me, goal, outcome) if f.kind == SLOW]

    def _judge(
        self, me: Agent, goal: GoalInstance, seen: _Link, sample: LinkSample, records: FlowRecords
    ) -> Steps:
        """Find attacks in what was seen, and say what became of the service."""
        whole_s = effective_s(records, seen.sampling)
        many = len(records.flows) / seen.sampling + records.unlisted
        seen.sampling = min(1.0, MANY_FLOWS / max(many, 1.0))
        seen.full = sample.rate_mb_s >= BUSY * sample.bandwidth_mb_s
        seen.history.append((me.now, sample.rate_mb_s, float(sample.connections)))
        seen.looks.append((me.now, FlowRecords(records.flows, whole_s, 1.0, records.unlisted)))
        kept = sum(len(look.flows) for _, look in seen.looks)
        while seen.looks[0][0] <= me.now - me.parameter(self, "service_memory_s") or (
            kept > MOST_KEPT and len(seen.looks) > FEW_LOOKS
        ):
            kept -= len(seen.looks.popleft()[1].flows)
        findings = self._examine(me, goal, seen, sample) + seen.slow
        seen.slow = []
        findings = self._harmful(me, seen, findings, records, whole_s, sample)
        findings += self._asking(me, seen, records, whole_s)
        convicted = self._convicted(me, seen, records, whole_s, findings)
        crowding, rests = self._crowding(me, seen, records, whole_s, sample, convicted)
        crowd = {(f.source or "", f.target): f for f in crowding}
        either = convicted | crowd
        pairs = yield from not_allowed(me, either)
        spared = {target for _, target in either} - {target for _, target in pairs}
        convicted = {pair: convicted[pair] for pair in pairs if pair in convicted}
        crowd = {pair: crowd[pair] for pair in pairs if pair in crowd}
        attacked: dict[str, set[str]] = {
            f.target: set()
            for f in findings
            if f.source is None and (f.spoofed or f.target not in spared)
        }
        for source, target in pairs:
            attacked.setdefault(target, set()).add(source)
        told = [*findings, *filter(None, convicted.values()), *crowd.values()]
        knowns = ((self._target(target), sources) for target, sources in attacked.items())
        if any(not sources <= known.named or known.since is None for known, sources in knowns):
            yield analysis(
                me,
                goal,
                records,
                told,
                found=[f"{source}>{target}" for source, target in pairs],
                passed=passed(records.flows, {source for source, _ in convicted}),
                remembered=[f"{s}>{t}" for (s, t), found in convicted.items() if found is None],
            )
        for target, sources in attacked.items():
            kinds = {f.kind for f in findings if f.target == target}
            # A swarm of UDP would tell the entries to look for feeds, too.
            kinds |= {f.kind for f in told if f.target == target} - ONE_WAY
            held, rest_mb_s = {s for s, to in crowd if to == target}, rests.get(target, 0.0)
            yield from self._attacked(me, goal, seen, target, sources, kinds, held, rest_mb_s)
        explained = attacked.keys() | spared
        yield from self._service(me, seen, records, whole_s, convicted, explained)

    def _examine(
        self, me: Agent, goal: GoalInstance, seen: _Link, sample: LinkSample
    ) -> list[Finding]:
        """Return the findings of the last look, then those that only several together allow.

        A rate is taken over the looks that are judged together, so few of them show what has just
        begun, and all that are kept show what does little at a time.
        """
        times, rates, connections = zip(*seen.history, strict=True)
        series = (
            TimeSeries("link rate", sample.link, "MB/s", times, rates),
            TimeSeries("open connections", sample.link, "connections", times, connections),
        )
        looks = [look for _, look in seen.looks]
        findings = examine(me, goal, looks[-1], series=series)
        present = {(flow.source, flow.target) for flow in looks[-1].flows}
        recent = sum(at > me.now - RECENT_S for at, _ in seen.looks)
        for count in sorted({min(FEW_LOOKS, len(looks)), recent, len(looks)} - {1}):
            some = looks[-count:]
            flows = tuple(flow for look in some for flow in look.flows)
            seconds = sum(look.seconds for look in some)
            unlisted = sum(look.unlisted for look in some)
            together = FlowRecords(flows, seconds, 1.0, unlisted)
            present -= {(f.source or "", f.target) for f in findings}
            longer = examine(me, goal, together, series=series)
            findings += [f for f in longer if (f.source, f.target) in present]
        return findings

    def _harmful(
        self,
        me: Agent,
        seen: _Link,
        findings: list[Finding],
        records: FlowRecords,
        seconds: float,
        sample: LinkSample,
    ) -> list[Finding]:
        """Return the findings but for UDP that nothing answers and that takes nothing from users.

        Telemetry, media and logs are not answered, either. They do harm where they fill the link
        or are very many packets; and while users suffer, if they were not there before, or their
        sources attack others.
        """
        targets = {f.target for f in findings if f.kind in ONE_WAY}
        if not targets:
            return findings
        one_way = _one_way(records)
        sent, packets = _sent(one_way, seconds), Counter[str]()
        for flow in one_way:
            packets[flow.target] += flow.packets
        crowded = {
            target
            for target in targets
            if packets[target] >= CROWDING_S * seconds
            or (
                seen.full and sum(sent.get(target, {}).values()) / 1e3 >= CROWDED * sample.rate_mb_s
            )
        }

        hostile = self._hostile()

        def strange(f: Finding) -> bool:
            if f.source is None and not f.spoofed:  # it sums up what its sources do
                of = (o for o in findings if o.source and (o.target, o.kind) == (f.target, f.kind))
                return any(map(strange, of))
            known, source = self._target(f.target).goodput, f.source or ""
            kb_s = sent.get(f.target, {}).get(source, 0.0)
            return known.is_new(source, kb_s) or f.spoofed or source in hostile

        begun = {f.target for f in findings if f.kind not in ONE_WAY or strange(f)}
        begun |= {
            target
            for target, known in self._targets.items()
            if known.since is not None and me.now - known.since < AFTER_S
        }

        def harms(f: Finding) -> bool:
            if f.kind not in ONE_WAY:
                return True
            # What fills a link is what came, not what was there and left users enough before;
            # unless that goes on for long.
            hurt = self._target(f.target).goodput.hurt(me.now)
            if strange(f):
                return hurt or f.target in crowded
            return hurt and f.target in crowded and f.target not in begun

        return list(filter(harms, findings))

    def _asking(
        self, me: Agent, seen: _Link, records: FlowRecords, seconds: float
    ) -> list[Finding]:
        """Return who asks for far more than a user does, while users suffer, and did not before.

        They are answered as users are, so they have to take much of what passes as well, and to
        go on: users who got nothing for a while ask for all of that once they can.
        """
        sent = _sent(records.flows, seconds)
        asking: dict[str, dict[str, Finding]] = defaultdict(dict)
        attacked = any(
            k.since is not None or k.goodput.hurt(me.now) for k in self._targets.values()
        )
        for count in ASKING_LOOKS if attacked else ASKING_LOOKS[:1]:
            looks = [look for _, look in seen.looks][-count:]
            together = (flow for look in looks for flow in look.flows)
            flows = [flow for flow in together if flow.source in sent.get(flow.target, ())]
            whole_s = sum(look.seconds for look in looks)
            both = source_rules.aggregate(flows)  # a flood of handshakes asks for nothing
            ones = {(one.source, one.target): one for one in both if one.protocol == "tcp"}
            for f in source_rules.request_floods(ones.values(), whole_s):
                if source_rules.completes(ones[f.source or "", f.target]):
                    asking[f.target].setdefault(f.source or "", f)
        all_kb_s = sum(sum(of.values()) for of in sent.values())
        found = []
        for target in {**seen.targets, **sent}:
            known = self._target(target)
            goodput = known.goodput
            first = me.now if goodput.usual else -inf  # who is there already is none who came
            goodput.asking = {s: goodput.asking.get(s, first) for s in asking[target]}
            floods = {
                source: f
                for source, f in asking[target].items()
                if sent[target][source] > SERVED * goodput.served.get(source, 0.0)
            }
            much = sum(sent[target][source] for source in floods) >= CROWDED * all_kb_s
            goes_on = known.since is not None and seen.full
            if much and (goes_on or goodput.hurt(me.now)):
                long = me.now - GOES_ON_S
                found += [
                    f
                    for source, f in floods.items()
                    if goes_on
                    or goodput.asking[source] <= long
                    or f.evidence["requests_s"] > RUSH * f.evidence["users_at_most"]
                ]
        return found

    def _crowding(
        self,
        me: Agent,
        seen: _Link,
        records: FlowRecords,
        seconds: float,
        sample: LinkSample,
        convicted: Container[tuple[str, str]],
    ) -> tuple[list[Finding], dict[str, float]]:
        """Return who came and crowds users out of a full link, and what is left for them, in MB/s.

        Each of them asks as a user does; but users give way to each other, and they do not.
        """
        found: list[Finding] = []
        rests: dict[str, float] = {}
        hurt = {}
        for target in seen.targets:
            goodput = self._target(target).goodput
            if seen.full and goodput.hurt(me.now):
                hurt[target] = goodput
            else:
                goodput.unfair = 0
        if not hurt:
            return found, rests
        tcp = (f for f in records.flows if f.protocol == "tcp" and f.target in hurt)
        sent = _sent((f for f in tcp if (f.source, f.target) not in convicted), seconds)
        present = {flow.source for _, look in seen.looks for flow in look.flows}
        for target, goodput in hurt.items():
            of = sent.get(target, {})
            came, rest_kb_s = goodput.crowding(me.now, of, present, sample.bandwidth_mb_s * 1e3)
            why = f"one of {len(came)} that came and give no way to users of a full link"
            evidence = ((s, {"kb_s": round(of[s], 3)}) for s in came)
            found += [Finding(HTTP_FLOOD, target, s, 1.0, why, each) for s, each in evidence]
            rests[target] = rest_kb_s / 1e3
        return found, rests

    def _convicted(
        self,
        me: Agent,
        seen: _Link,
        records: FlowRecords,
        seconds: float,
        findings: list[Finding],
    ) -> dict[tuple[str, str], Finding | None]:
        """Return (source, target) of what attacks, with its finding; None: it is remembered.

        A source that attacked before is taken for an attacker again by much less evidence.
        """
        convicted: dict[tuple[str, str], Finding | None] = {
            (f.source, f.target): f for f in findings if f.source is not None
        }
        for flow in records.flows:
            key = flow.source, flow.target
            if key in self._offenders and key not in convicted and _got_nothing(flow):
                convicted[key] = None
                if flow.protocol == "udp":
                    self._target(flow.target).swarmed = me.now
        for f in findings:
            if f.kind in {*ONE_WAY, REFLECTION}:
                self._target(f.target).swarmed = me.now
        convicted |= self._strangers(me, seen, records, seconds, convicted)
        self._remember(me, convicted)
        return convicted

    def _remember(self, me: Agent, offenders: Iterable[tuple[str, str]]) -> None:
        """Keep (source, target) of offenders in mind; the eldest are forgotten first."""
        kept, oldest = self._offenders, me.now - me.parameter(self, "offender_memory_s")
        for pair in offenders:
            kept[pair] = me.now
            kept.move_to_end(pair)
        while kept and (len(kept) > MANY_FLOWS or next(iter(kept.values())) < oldest):
            kept.popitem(last=False)

    def _hostile(self) -> set[str]:
        """Return the sources that attacked anybody lately."""
        return {source for source, _ in self._offenders}

    def _strangers(
        self,
        me: Agent,
        seen: _Link,
        records: FlowRecords,
        seconds: float,
        convicted: Container[tuple[str, str]],
    ) -> dict[tuple[str, str], Finding]:
        """Return sources that nobody serves, which came with a breach that they explain.

        Of echoes and packets of no connection nobody needs many, whether a breach is seen or not:
        who comes to watch in the middle of an attack sees none.
        Each of a swarm sends too little to be judged by itself. Who sends much less than the
        others is none of them: all of those together explain little.
        """
        all_kb_s = sum(flow.octets for flow in records.flows) / seconds / 1e3
        found: dict[tuple[str, str], Finding] = {}
        for flow in records.flows:
            if flow.replies > flow.resets:
                self._target(flow.target).heard = me.now
        knowns = self._targets.items()  # a flood may leave nobody an answer
        heard = {target for target, each in knowns if me.now - each.heard < REPLIED_S}
        looks = [flow for _, look in seen.looks for flow in look.flows]
        hurt = {target for target, each in knowns if each.goodput.hurt(me.now)}
        unserved = _unserved(records, looks, heard, hurt)
        kinds = {(flow.source, flow.target): source_rules.connectionless(flow) for flow in unserved}
        every, steady = _sent(unserved, seconds), _sent(unserved, seconds, FEW_SENT)
        vain = [flow for flow in unserved if flow.protocol != "udp" and flow.packets > FEW_SENT]
        packets = Counter[str]()
        for one in vain:
            packets[one.target] += one.packets
        for target in every:
            known, many = self._target(target), steady.get(target, {})
            sent = every[target] if target in hurt else many
            goes_on = known.since is not None and seen.full
            recent = me.now - known.swarmed < me.parameter(self, "calm_s")
            if sent is many and not (recent or goes_on):
                if packets[target] < source_rules.UNANSWERED_S * seconds:
                    continue
                sent = _sent(vain, seconds)[target]
            crowd = {
                source: kb_s
                # Of forged sources each sends a packet or two.
                for source, kb_s in sent.items()
                if known.goodput.is_new(source, kb_s)
                and many.get(source, 0.0) > SERVED * known.goodput.served.get(source, -1.0)
                and (source, target) not in convicted
            }
            # Of a client that waits for its first answer others do not make one of a swarm.
            for one_way in (True, False):
                some = {
                    s: at for s, at in crowd.items() if one_way == (kinds[s, target] in ONE_WAY)
                }
                least_kb_s = PART * sum(some.values()) / max(1, len(some))
                some = {source: kb_s for source, kb_s in some.items() if kb_s > least_kb_s}
                share = sum(some.values()) / all_kb_s if some else 0.0
                if share < CROWDED:
                    continue
                known.swarmed = me.now
                evidence = {"sources": len(some), "share": round(share, 6)}
                why = f"one of {len(some)} sources that nobody serves and that take much"
                for source in some:
                    kind = kinds[source, target]
                    found[source, target] = Finding(kind, target, source, share, why, evidence)
        return found

    def _attacked(
        self,
        me: Agent,
        goal: GoalInstance,
        seen: _Link,
        target: str,
        sources: set[str],
        kinds: set[str],
        crowd: set[str],
        rest_mb_s: float,
    ) -> Steps:
        """Report an attack at once, and again while it arrives.

        What still arrives after a while, or again, is filtered by this agent, before the monitored
        link; where an agent is gone, and with it the filters that it had, at once.
        """
        known = self._target(target)
        memory_s = me.parameter(self, "offender_memory_s")
        pulse = me.now - known.attacked <= memory_s and not known.former.isdisjoint(sources)
        known.attacked = me.now
        if known.since is None:
            known.since = me.now
            known.began = known.began if pulse else me.now
            yield Believe(UnderAttack(target))
        due = known.reported + me.parameter(self, "report_repeat_s")
        if sources <= known.named and me.now < due:
            return
        known.reported, known.named = me.now, frozenset(sources)
        sources = sources - crowd
        belief = me.beliefs.get(UnderAttack(target))
        me.cause = me.cause if belief is None else belief.event
        known.slow = known.slow or SLOW in kinds
        known.shared &= set() if known.slow else sources
        known.shared |= {
            flow.source
            for _, look in seen.looks
            for flow in look.flows
            if flow.answered and flow.target == target and flow.source in sources
            if not known.slow
        }
        names = tuple(sorted(sources)), tuple(sorted(known.shared))
        over_udp = me.now - known.over_udp < REPLIED_S
        there = {flow.source for flow in seen.looks[-1][1].flows if flow.target == target}
        usual = tuple(sorted(there & known.goodput.familiar.keys() - sources))
        held = tuple(sorted(crowd)), rest_mb_s
        report_attack(
            me, AttackReport(target, tuple(sorted(kinds)), *names, over_udp, *held, usual)
        )
        gone = me.capability(Outlook).view.dead
        if gone or crowd or me.now - known.began >= me.parameter(self, "entry_patience_s"):
            # Of links in a row the last: an agent farther up filters there by itself.
            ways = [link_ends(name) for name, link in self._links.items() if target in link.targets]
            on = {start for start, _ in ways}
            last = (start for start, end in ways if end not in on)
            tap = next(last, link_ends(goal.predicate_as(Monitored).link)[0])
            yield Adopt(want(EntryScreened(target, "")), PROTECT, tap=tap, afresh=True)

    def _users(
        self,
        me: Agent,
        records: FlowRecords,
        seconds: float,
        convicted: Container[tuple[str, str]],
    ) -> tuple[dict[str, dict[str, float]], dict[str, set[str]], dict[str, float]]:
        """Return what users got in KB/s, by target; clients over UDP; and octets of a packet."""
        users: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        clients: dict[str, set[str]] = defaultdict(set)
        octets, packets = Counter[str](), Counter[str]()
        for flow in records.flows:
            if flow.protocol != "icmp" and (flow.source, flow.target) not in convicted:
                # Who asks over UDP asks on, answered or not.
                asked = max(1, flow.packets) if flow.protocol == "udp" else 1
                asks = flow.protocol != "udp" or flow.replies
                if not (asks or flow.source in self._target(flow.target).goodput.served):
                    continue  # it gets nothing and never got anything: it is none of the users
                got = flow.octets * min(1, max(0, flow.replies - flow.resets) / asked)
                octets[flow.target] += flow.octets
                packets[flow.target] += flow.packets
                if flow.protocol == "udp" and 2 * flow.replies > flow.packets:
                    clients[flow.target].add(flow.source)
                    self._target(flow.target).over_udp = me.now
                users[flow.target][flow.source] += got / seconds / 1e3
        return users, clients, {target: octets[target] / n for target, n in packets.items() if n}

    def _service(
        self,
        me: Agent,
        seen: _Link,
        records: FlowRecords,
        seconds: float,
        convicted: dict[tuple[str, str], Finding | None],
        explained: set[str],
    ) -> Steps:
        """Compare what a user of each address gets with what is usual; note the end of attacks.

        Users who leave take nothing from those who stay, so the goodput is taken per source. Of
        targets that are ``explained`` it is known why users get less.
        """
        sent = _sent(_one_way(records), seconds)
        hostile, lacking = self._hostile() if sent else set(), _lacking(records, convicted)
        all_kb_s = sum(flow.octets for flow in records.flows) / seconds / 1e3
        users, clients, octets = self._users(me, records, seconds, convicted)
        for target in dict.fromkeys([*seen.targets, *sorted(explained), *users]):
            seen.targets[target] = None
            known = self._target(target)
            if known.since is not None and me.now - known.attacked > me.parameter(self, "calm_s"):
                known.former = frozenset(s for s, to in self._offenders if to == target)
                known.since, known.named, known.slow = None, frozenset(), False
                yield Believe(UnderAttack(target), value=False)
            recent = me.now - known.attacked <= AFTER_S
            came = {(s, target) for s in known.goodput.came(me.now)}
            asking = (f for f in records.flows if (f.source, f.target) in came) if came else ()
            asked = sum(f.octets for f in asking)
            look = Look(
                me.now,
                seconds,
                users[target],
                octets.get(target),
                lacking.get(target),
                sent[target],
                asked / seconds / 1e3,
                all_kb_s,
                full=seen.full,
                explained=target in explained,
                attacked=known.since is not None,
                recent=recent,
                # Who was attacked just now is attacked again: by others, who do less. So is who
                # gets one-way UDP from sources that attack others.
                wary=recent or not hostile.isdisjoint(sent[target]),
            )
            yield from self._compare(me, target, known, look)
            known.goodput.learn(look, clients[target])

    def _compare(self, me: Agent, target: str, known: _Target, look: Look) -> Steps:
        """Notice that users get much less than usual, and that they get it again.

        While it is not known why, agents where traffic enters are asked to look, ever more rarely.
        What stays like that for long without an attack is usual from then on.
        """
        breached, goodput = ServiceBreached(target), known.goodput
        resigned_s = me.parameter(self, "resigned_s")
        suffered = goodput.suffers is not None
        goodput.see(look, resigned_s)
        if goodput.suffers is not None and not suffered:
            known.asked = 0
            yield Believe(breached)
        if goodput.suffers is not None and not look.explained:
            due = goodput.suffers + me.parameter(self, "report_repeat_s") * (2**known.asked - 1)
            if me.now - (goodput.less or me.now) > resigned_s:
                goodput.resign()
            elif me.now >= due:
                known.asked += 1
                over_udp = me.now - known.over_udp < REPLIED_S
                usual = tuple(sorted(look.one_way.keys() & goodput.familiar.keys()))
                report_attack(me, AttackReport(target, over_udp=over_udp, usual=usual))
        if goodput.restored():
            yield Believe(breached, value=False)

    def _target(self, target: str) -> _Target:
        return self._targets.setdefault(target, _Target())


def report_attack(me: Agent, report: AttackReport) -> None:
    """Tell all living agents of an attack."""
    for agent in me.capability(Outlook).alive():
        me.tell(Performative.INFORM, agent, ATTACK, report)


def _sent(
    flows: Iterable[FlowStats | source_rules.FlowAggregate], seconds: float, few: int = 0
) -> dict[str, dict[str, float]]:
    """Return what each source sent, in KB/s, by target.

    Flows of not more than a ``few`` packets are left out.
    """
    sent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for flow in flows:
        if flow.packets > few:
            sent[flow.target][flow.source] += flow.octets / seconds / 1e3
    return sent


def _unserved(
    records: FlowRecords, looks: Iterable[FlowStats], heard: Container[str], hurt: Container[str]
) -> list[FlowStats | source_rules.FlowAggregate]:
    """Return UDP that nobody answers, and what is sent in vain over other protocols.

    Few packets without an answer are chance, unless all kept ``looks`` have more of them; fewer do
    where users are ``hurt``. The answers of a target that was not ``heard`` may take another way.
    """
    sampling = max([flow.sampling for flow in records.flows], default=1)
    others = source_rules.aggregate(flow for flow in records.flows if flow.protocol != "udp")

    def in_vain(one: source_rules.FlowAggregate, few: float = inf) -> bool:
        known = one.replies or one.protocol == "icmp" or one.target in heard
        return bool(known) and source_rules.in_vain(one, sampling, few)

    vain = {_what(one) for one in others if in_vain(one)}
    # Who was served in this look was in all of them.
    rest = {_what(one) for one in others if not (one.established or one.answered)} - vain
    longer = source_rules.aggregate(flow for flow in looks if _what(flow) in rest)
    vain |= {_what(one) for one in longer if in_vain(one, FEW_ASKED if one.target in hurt else inf)}
    return [*_one_way(records), *(one for one in others if _what(one) in vain)]


def _one_way(records: FlowRecords) -> list[FlowStats]:
    """Return the flows of UDP that nobody answers; fragments belong to what their source asks."""
    udp = [flow for flow in records.flows if flow.protocol == "udp"]
    answered = {(flow.source, flow.target) for flow in udp if flow.replies}
    return [f for f in udp if not (f.replies or (f.fragments and (f.source, f.target) in answered))]


def _lacking(
    records: FlowRecords, convicted: Container[tuple[str, str]]
) -> dict[str, tuple[int, int]]:
    """Return how many questions of users targets had and answered; of what answers each of them.

    Only of those that answered too few.
    """
    asked, answered = Counter[str](), Counter[str]()
    for flow in records.flows:
        users = flow.replies and (flow.source, flow.target) not in convicted
        if users and flow.protocol == "udp" and flow.port in AMPLIFIED:
            asked[flow.target] += flow.packets
            answered[flow.target] += flow.replies - flow.resets
    return {to: (n, answered[to]) for to, n in asked.items() if answered[to] < RESTORED * n}


def _got_nothing(flow: FlowStats) -> bool:
    """Whether a source asked for a few things and got none of them."""
    asked = flow.syn if flow.protocol == "tcp" else flow.packets
    got = flow.established or flow.answered or (flow.protocol == "udp" and flow.replies)
    # Fragments and echoes say nothing: nobody is served by them.
    return asked > FEW_ASKED and not (flow.fragments or got)
