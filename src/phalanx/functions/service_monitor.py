"""Service Monitor: watches the service that users get over a link, and names what attacks it.

It looks at flow samples all the time and does not wait for a link to fill: a flood that fills a
link upstream of the monitored one shows in handshakes that nobody completes, long before any
counter here exceeds a threshold. What it finds goes to all agents as an ``AttackReport``; those at
whose PoP the attack enters filter it there (``EdgeFilter``).

It needs no image: a switch samples flows by itself (sFlow, IPFIX), and the agent beside it judges.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from msgspec import Struct, field

from phalanx.analytics import attribution
from phalanx.analytics.attribution import LinkLook, Pair, got_nothing
from phalanx.analytics.detectors import ONE_WAY, REFLECTION, SLOW, Finding
from phalanx.analytics.goodput import AFTER_S, FEW_LOOKS, LEARNED, Look
from phalanx.auction.outlook import Gone, Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, plan, recalls, remembers, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Adopt, Believe, Body, Forget, Pause, Perceive, PlanFailed, Steps
from phalanx.coordination.measures import PROTECT, not_allowed
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import FlowRecords, LinkSample, Observe, Outcome, ReadLink
from phalanx.domain.goals import want
from phalanx.domain.messages import AttackReport, Message, Performative, UsualService
from phalanx.domain.network import link_ends
from phalanx.domain.predicates import EntryScreened, Monitored, ServiceBreached, UnderAttack
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import FIXED_RULES, analysis, examine, passed

ATTACK, USUAL = "attack", "usual"
"""Conversations of the reports, and of what is usual."""
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
REMEMBER_S, TOLD_S = 10.0, 60.0
"""How old what is remembered of users may be, and what others know of it."""
MOST_TARGETS = 500
"""Addresses above which nothing is kept of others that other agents watch."""
SAMPLES = 60
"""Samples of a link that are kept for detectors."""


class _Target(attribution.Target):
    """What is known of the traffic towards one address, and what others were told of it."""

    asked: int = 0
    """How often others were asked to look, since users get much less."""
    attacked: float = -1e9
    """When an attack was seen last."""
    began: float = 0.0
    """When the first of its pulses was seen."""
    former: frozenset[str] = frozenset()
    """Sources that attacked by the end of the pulse before."""
    reported: float = -1e9
    shared: set[str] = field(default_factory=set)
    """Those of them behind which users were seen as well."""
    slow: bool = False
    """Whether the attack holds connections: it is answered now and then, as users are."""
    told: float = -TOLD_S
    """When others were told what is usual."""
    ours: bool = False
    """Whether this agent watched it, in this life or the one before."""

    def usually(self, target: str) -> UsualService:
        """Return what is usual."""
        return UsualService(target, tuple(self.goodput.usual), self.goodput.most())


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
    goal: GoalInstance | None = None
    """What it is looked at for; None: it is not."""


class WatchMemory(Struct, frozen=True):
    """What a watch remembers."""

    targets: tuple[UsualService, ...]


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
        self._targets: defaultdict[str, _Target] = defaultdict(_Target)
        self._offenders: OrderedDict[Pair, float] = OrderedDict()
        """(source, target) of what was convicted, with when it was seen last; the eldest first."""
        self._kept = -REMEMBER_S
        """When what is usual was remembered last."""

    @hears(AttackReport)
    def heard_report(self, me: Agent, message: Message) -> None:
        """Remember whom others report, in case of watching for them: the beginning is not seen."""
        report = message.content_as(AttackReport)
        known = self._of_others(report.target)
        if known is not None and (report.sources or report.crowd):
            self._remember(me, [(source, report.target) for source in report.sources])
            known.attacked = me.now
            known.goodput.exclude(report.crowd, me.now)

    @hears(UsualService)
    def heard_usual(self, me: Agent, message: Message) -> None:  # noqa: ARG002  # it says all
        """Keep in mind what is usual at others, in case of watching for them."""
        told = message.content_as(UsualService)
        known = self._of_others(told.target, LEARNED)
        if known is not None:
            known.goodput.recall(told.usual, told.served)

    def _of_others(self, target: str, looks: int = 0) -> _Target | None:
        """Return what is known of an address that is not watched here, or not for so many looks.

        None: it is, or too many are known.
        """
        ours = any(link.goal and target in link.targets for link in self._links.values())
        if (target not in self._targets and len(self._targets) >= MOST_TARGETS) or (
            ours and len(self._targets[target].goodput.usual) >= looks
        ):
            return None
        return self._targets[target]

    @when(Gone, None, always=True)
    def agent_back(self, me: Agent, gone: Gone) -> None:
        """Tell an agent that is back what it may have to watch, and may have forgotten."""
        if me.capability(Outlook).guardian(gone.agent) != me.name:
            return
        for target, known in self._targets.items():
            if known.goodput.served:
                me.tell(Performative.INFORM, gone.agent, USUAL, known.usually(target))

    @remembers(WatchMemory)
    def remember(self, me: Agent) -> WatchMemory | None:  # noqa: ARG002  # all is its own
        """Return what is usual: in the middle of an attack that cannot be learnt again."""
        kept = tuple(
            known.usually(target)
            for target, known in self._targets.items()
            if known.ours and known.goodput.served  # not of what was only sent to
        )
        return WatchMemory(kept) if kept else None

    @recalls
    def recall(self, me: Agent, part: WatchMemory | None, shift: float) -> None:  # noqa: ARG002
        """Go on with what was usual."""
        for kept in part.targets if part is not None else ():
            known = self._targets[kept.target]
            known.ours = True
            known.goodput.recall(kept.usual, kept.served)

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
        finally:
            seen = self._links[goal.predicate_as(Monitored).link]
            if seen.goal is goal:
                seen.goal = None

    def _watched(self, me: Agent, goal: GoalInstance) -> None:
        """Believe in no attack any more that nobody looks at here from now on."""
        seen = self._links[goal.predicate_as(Monitored).link]
        me.cause = goal.cause if goal.end is None else goal.end.event
        for target in seen.targets if seen.goal is None else ():
            known = self._targets[target]
            known.since, known.named, known.goodput.suffers = None, frozenset(), None
            for belief in UnderAttack(target), ServiceBreached(target):
                if me.beliefs.get(belief) is not None:
                    me.do_step(Forget(belief))

    def _watch(self, me: Agent, goal: GoalInstance) -> Body:
        link = goal.predicate_as(Monitored).link
        seen = self._links.setdefault(link, _Link())
        while True:
            if seen.goal not in (None, goal):  # both until one owner gives it up
                yield Pause(me.parameter(self, "service_look_s"))
                continue
            seen.goal = goal
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
            seen.refused = any(map(got_nothing, records.flows))
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
        seen.history.append((me.now, sample.rate_mb_s, float(sample.connections)))
        seen.looks.append((me.now, FlowRecords(records.flows, whole_s, 1.0, records.unlisted)))
        kept = sum(len(look.flows) for _, look in seen.looks)
        while seen.looks[0][0] <= me.now - me.parameter(self, "service_memory_s") or (
            kept > MOST_KEPT and len(seen.looks) > FEW_LOOKS
        ):
            kept -= len(seen.looks.popleft()[1].flows)
        findings = self._examine(me, goal, seen, sample) + seen.slow
        seen.slow = []
        look = LinkLook(me.now, [each for _, each in seen.looks], sample, seen.targets)
        findings = attribution.harmful(look, findings, self._targets, self._hostile())
        findings += attribution.asking(look, self._targets, {f.target for f in findings})
        convicted = self._convicted(me, look, findings)
        crowd, rests = attribution.crowding(look, self._targets, convicted)
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
        knowns = ((self._targets[target], sources) for target, sources in attacked.items())
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
            yield from self._attacked(me, goal, look, target, sources, kinds, held, rest_mb_s)
        yield from self._service(me, seen, look, convicted, attacked.keys() | spared)
        if me.now - self._kept >= REMEMBER_S:
            self._kept, me.changes = me.now, me.changes + 1
            self._tell_usual(me)

    def _tell_usual(self, me: Agent) -> None:
        """Tell the others now and then what is usual, unless something is wrong."""
        others = [agent for agent in me.capability(Outlook).alive() if agent != me.name]
        watched = (link.targets for link in self._links.values() if link.goal)
        for target in dict.fromkeys(target for targets in watched for target in targets):
            known = self._targets[target]
            learned = known.goodput.served and len(known.goodput.usual) >= LEARNED
            wrong = known.since is not None or known.goodput.hurt(me.now)
            if learned and not wrong and me.now - known.told >= TOLD_S:
                known.told, usual = me.now, known.usually(target)
                for agent in others:
                    me.tell(Performative.INFORM, agent, USUAL, usual)

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

    def _convicted(
        self, me: Agent, look: LinkLook, findings: list[Finding]
    ) -> dict[Pair, Finding | None]:
        """Return (source, target) of what attacks, with its finding; None: it is remembered.

        A source that attacked before is taken for an attacker again by much less evidence.
        """
        convicted: dict[Pair, Finding | None] = {
            (f.source, f.target): f for f in findings if f.source is not None
        }
        for flow in look.flows:
            key = flow.source, flow.target
            if key in self._offenders and key not in convicted and got_nothing(flow):
                convicted[key] = None
                if flow.protocol == "udp":
                    self._targets[flow.target].swarmed = me.now
        for f in findings:
            if f.kind in {*ONE_WAY, REFLECTION}:
                self._targets[f.target].swarmed = me.now
        calm_s = me.parameter(self, "calm_s")
        convicted |= attribution.strangers(look, self._targets, convicted, calm_s)
        self._remember(me, convicted)
        return convicted

    def _remember(self, me: Agent, offenders: Iterable[Pair]) -> None:
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

    def _attacked(
        self,
        me: Agent,
        goal: GoalInstance,
        look: LinkLook,
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
        known = self._targets[target]
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
            for each in look.looks
            for flow in each.flows
            if flow.answered and flow.target == target and flow.source in sources
            if not known.slow
        }
        names = tuple(sorted(sources)), tuple(sorted(known.shared))
        over_udp = known.answers_udp(me.now)
        there = {flow.source for flow in look.flows if flow.target == target}
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

    def _service(
        self,
        me: Agent,
        seen: _Link,
        look: LinkLook,
        convicted: dict[Pair, Finding | None],
        explained: set[str],
    ) -> Steps:
        """Compare what a user of each address gets with what is usual; note the end of attacks.

        Users who leave take nothing from those who stay, so the goodput is taken per source. Of
        targets that are ``explained`` it is known why users get less.
        """
        hostile = self._hostile() if look.one_way else set()
        lacking = attribution.lacking(look, convicted)
        users, clients, octets = attribution.served(look, self._targets, convicted)
        for target in dict.fromkeys([*seen.targets, *sorted(explained), *users]):
            seen.targets[target] = None
            known = self._targets[target]
            known.ours = True
            if known.since is not None and me.now - known.attacked > me.parameter(self, "calm_s"):
                known.former = frozenset(s for s, to in self._offenders if to == target)
                known.since, known.named, known.slow = None, frozenset(), False
                yield Believe(UnderAttack(target), value=False)
            recent = me.now - known.attacked <= AFTER_S
            came = {(s, target) for s in known.goodput.came(me.now)}
            asking = (f for f in look.flows if (f.source, f.target) in came) if came else ()
            asked, sent = sum(f.octets for f in asking), look.one_way_kb_s.get(target, {})
            one = Look(
                me.now,
                look.seconds,
                users[target],
                octets.get(target),
                lacking.get(target),
                sent,
                asked / look.seconds / 1e3,
                look.all_kb_s,
                full=look.full,
                explained=target in explained,
                attacked=known.since is not None,
                recent=recent,
                # Who was attacked just now is attacked again: by others, who do less. So is who
                # gets one-way UDP from sources that attack others.
                wary=recent or not hostile.isdisjoint(sent),
            )
            yield from self._compare(me, target, known, one)
            known.goodput.learn(one, clients[target])

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
                over_udp = known.answers_udp(me.now)
                usual = tuple(sorted(look.one_way.keys() & goodput.familiar.keys()))
                report_attack(me, AttackReport(target, over_udp=over_udp, usual=usual))
        if goodput.restored():
            yield Believe(breached, value=False)


def report_attack(me: Agent, report: AttackReport) -> None:
    """Tell all living agents of an attack."""
    for agent in me.capability(Outlook).alive():
        me.tell(Performative.INFORM, agent, ATTACK, report)
