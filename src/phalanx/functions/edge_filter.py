"""Edge Filter: drops attacks where they enter the network, and nothing else.

An agent that hears of an attack reads how much enters towards the target at its own PoP. Where
something does it has a filter placed there, which looks for itself before it drops anything:
what others report directs its attention and shortens its look; only sources that it sees itself,
and that do not contradict the report, are blocked. Forged sources cannot be told apart by
address: their handshakes are answered in place of the target (SYN cookies, RFC 4987), and packets
of a protocol that no user of the target speaks at this entry are dropped.

It needs no image: a PoP's switch drops packets and samples flows by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from functools import partial
from hashlib import blake2b
from typing import ClassVar

from msgspec import Struct

from phalanx.analytics.attribution import REPLIED_S
from phalanx.analytics.detectors import (
    HTTP_FLOOD,
    ICMP_FLOOD,
    ONE_WAY,
    SIGNALLING_STORM,
    SLOW,
    TCP_FRAGMENTS,
    UNCONNECTED,
    Finding,
    load_detector,
)
from phalanx.analytics.fixed_rules import FixedRules
from phalanx.analytics.goodput import CROWDED
from phalanx.analytics.source_rules import (
    ANSWERED,
    COMPLETES,
    FlowAggregate,
    aggregate,
    completes,
    connectionless,
    figure,
    request_floods,
    unanswered_flood,
)
from phalanx.analytics.statistics import wilson
from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.outlook import Gone, Left, Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, plan, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Adopt, Believe, Body, Drop, Forget, Note, PlanFailed, Steps
from phalanx.coordination.arbitration import BLOCK, claims_at, holding
from phalanx.coordination.measures import (
    LITTLE_MB_S,
    PROTECT,
    enforce,
    inventory_of,
    lift,
    lift_when_quiet,
    not_allowed,
    quiet_of,
    watching,
)
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import (
    EntrySample,
    FlowRecords,
    FlowStats,
    LinkSample,
    Observe,
    Outcome,
    ReadEntry,
    ReadLink,
)
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Mode, Predicate, avert, want
from phalanx.domain.messages import AttackReport, Message, Performative
from phalanx.domain.network import PopId, link_id
from phalanx.domain.predicates import (
    AttackFiltered,
    ClaimHeld,
    EntryScreened,
    LinkScreened,
    Monitored,
    Quiet,
    Threat,
)
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.series import TrafficWindow
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import FIXED_RULES, analysis, examine, passed
from phalanx.functions.service_monitor import ATTACK, report_attack

SIGNALLING_RULES = "signalling-rules"
"""The detector of devices that ask too often."""
ANSWERED_AS_USERS = {HTTP_FLOOD, SIGNALLING_STORM}
"""Kinds of attacks whose sources are answered: who reports and who looks must both name them."""
STORM_LOOKS = 3
"""So many times as long is a look for devices that ask too often."""
FRESH_S = 15.0
"""How long a report directs attention."""
FULL = 0.9
"""Share of its bandwidth from which a link is full."""
FULL_FOR_S = 2.0
STALE_S = 60.0
"""So long after the last report a look that found no agent yet is not wanted any more."""
CLEAN_S = 4.0
"""After a look that found nothing the next waits so long, unless more enters than then."""
MORE = 1.2
"""Rate, in shares of that of the clean look, from which more enters."""
PULSE_S = 5.0
"""So long after a look that missed what was reported, a report of the same is of another pulse."""
PULSES = 1.5
"""So many times as long as from pulse to pulse a look waits for the next one ..."""
MOST_PULSE_S = 60.0
"""... but not longer than this."""
MOST_TARGETS = 1_024
"""Targets of which reports are kept in mind."""
MOST_SOURCES = 4_096
"""Sources of one rule."""
UDP_TO = "udp to port "
MOST_PORTS = 8
"""Ports of a target at which forged packets are dropped by a rule each."""
MOST_SEEN = 16 * MOST_SOURCES
"""Sources whose reports are kept in mind, of all targets."""
HARM = 0.5
"""A filter is harmful if users who were served before it get less than this share after it."""
HARM_LOOKS = 2
"""Looks in a row that have to show it."""
FEW_SERVED = 3
"""Fewer served sources than this are no measure of harm: each of them may just have paused."""
STRAGGLERS = 0.01
"""A filter that holds back so little of the most that it did has outlived the attack: who asks on
may be a client that was taken for an attacker."""
MOST_RELAPSES = 4
"""With so many the hold-down grows no more: it is 16 times the first."""


class _Heard(Struct):
    """What was reported of attacks on one target lately."""

    at: float
    sources: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    """Sources behind which users are, too."""
    kinds: frozenset[str] = frozenset()
    over_udp: bool = False
    """Whether the target answers others over UDP."""
    crowd: frozenset[str] = frozenset()
    """Who came and crowds its users out, as this agent found, or who watches for it."""
    rest_mb_s: float = 0.0
    """What those may have together."""
    usual: frozenset[str] = frozenset()
    """Sources of UDP that it is used to."""


class _Relapses(Struct):
    """How often sources came back to attack one target, wherever they enter."""

    times: int = 0
    last: float = 0.0


class EdgeFilter(Capability):
    """Looks at what enters towards a target under attack, and drops the attack there."""

    name = "edge-filter"
    vnfd = Vnfd("edge-filter", Resources(0.1, 0.1, 0.0), image_mb=0.0, boot_s=0.2, shared=True)
    observes = ("flows",)
    enforces = (TrafficVerdict.DROP, TrafficVerdict.PROXY, TrafficVerdict.LIMIT)
    detector = FIXED_RULES
    parameters: ClassVar = {
        "entry_look_s": 1.0,
        "hold_s": 60.0,
        "hold_interval_s": 5.0,
        "harm_look_s": 1.0,
        "harm_pause_s": 10.0,
    }

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._replied = -REPLIED_S
        """When replies to users of TCP were seen here last, of whatever target."""
        self._over_udp: dict[str, float] = {}
        """When each target was seen, or said, to answer over UDP last: under a flood it may not."""
        self._clean: dict[str, tuple[float, float, frozenset[str]]] = {}
        """(time of the last look at this PoP that found nothing, rate before it in MB/s, sources
        that were reported by then)."""
        self._missed: dict[str, tuple[float, frozenset[str]]] = {}
        """(time of the last look here that saw none of them, sources reported) of each target."""
        self._relapses: dict[str, _Relapses] = {}
        self._seen: dict[tuple[str, str], float] = {}
        """When each (target, source) was reported last; "" stands for sources without names."""
        self._served: dict[AttackFiltered, float] = {}
        """What served sources got through each filter's entry before it, in MB/s.

        Of filters that name their sources it says nothing: what others get less of is not theirs.
        """
        self._reports: dict[AttackFiltered, AttackReport] = {}
        """What each filter was made for, with the sources that it names."""
        self._harmful: dict[AttackFiltered, tuple[float, float]] = {}
        """(time until which a filter is not tried again, its length in seconds)."""

    @hears(AttackReport)
    def heard_report(self, me: Agent, message: Message) -> Steps:
        """Read what enters here towards the target, and at PoPs whose agents are gone."""
        report = message.content_as(AttackReport)
        heard = self._heard.get(report.target)
        if heard is None or me.now - heard.at >= STALE_S:
            me.call_at(me.now + STALE_S, partial(self._give_up, me, report.target))
        sources, shared = frozenset(report.sources[:MOST_SOURCES]), frozenset(report.shared)
        kinds, over_udp = frozenset(report.kinds), report.over_udp
        # By the word of others, but for who watches for this agent, nobody is held to anything.
        own = message.sender == me.name or _watches_for(me, message.sender)
        crowd, rest_mb_s = frozenset(report.crowd if own else ()), report.rest_mb_s
        usual = frozenset(report.usual[:MOST_SOURCES])
        if heard is not None and me.now - heard.at < FRESH_S:
            sources, shared = sources | heard.sources, shared | heard.shared
            kinds, over_udp = kinds | heard.kinds, over_udp or heard.over_udp
            usual |= heard.usual
            if not crowd:
                crowd, rest_mb_s = heard.crowd, heard.rest_mb_s
        if len(self._heard) >= MOST_TARGETS:
            fresh = {t: h for t, h in self._heard.items() if me.now - h.at < FRESH_S}
            self._heard = fresh if len(fresh) < MOST_TARGETS else {}
            self._clean.clear()
            self._over_udp.clear()
        self._heard[report.target] = _Heard(
            me.now, sources, shared, kinds, over_udp, crowd, rest_mb_s, usual
        )
        self._count_relapse(me, report)
        if me.pop is not None and not me.draining:
            me.perform(ReadEntry(report.target), partial(self._entering, me, report.target))
            if not report.kinds:
                self._read_links(me)
        yield from self._cover(me, report.target)

    @when(Gone, always=True)
    @when(Left, always=True)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> Steps:  # noqa: ARG002
        """Look after the entry of an agent that went while attacks are being reported."""
        for target, heard in self._heard.items():
            if me.now - heard.at < FRESH_S:
                yield from self._cover(me, target)

    def _cover(self, me: Agent, target: str) -> Steps:
        for pop in self._uncovered(me):
            yield Adopt(want(EntryScreened(target, pop)), PROTECT, tap=pop, afresh=True)

    def _give_up(self, me: Agent, target: str) -> Steps:
        """Want no looks any more at an attack of which nothing was heard for long."""
        due = self._report(target).at + STALE_S
        if due > me.now:
            me.call_at(due, partial(self._give_up, me, target))
            return
        self._missed.pop(target, None)
        for goal in me.open_goals():
            screened = goal.goal.predicate
            waits = goal.instance is None and goal.contract is None
            if waits and isinstance(screened, EntryScreened) and screened.ip == target:
                yield Drop(goal.goal, "nothing was reported any more")

    def _count_relapse(self, me: Agent, report: AttackReport) -> None:
        """Count that sources are back that were quiet, or filtered, for a while.

        Attackers that go quiet in turns are one attack: what some of them do is held against all.
        Each stretch of peace that is four times as long as the last hold-down takes one count off.
        That users get less, and nobody knows why, is no attack: they may just have gone.
        """
        if not (report.kinds or report.sources):
            return
        hold_s = me.parameter(self, "hold_s")
        seen = dict.fromkeys(
            ((report.target, source) for source in report.sources[:MOST_SOURCES] or ("",)), me.now
        )
        back = any(hold_s < me.now - self._seen.get(each, me.now) for each in seen)
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen |= seen
        if len(self._relapses) >= MOST_TARGETS:
            self._relapses.clear()
        known = self._relapses.setdefault(report.target, _Relapses())
        if back and me.now - known.last > hold_s:
            calm = int((me.now - known.last) / (4 * hold_s * 2.0**known.times))
            known.times = min(max(0, known.times - calm) + 1, MOST_RELAPSES)
            known.last = me.now

    def _entering(self, me: Agent, target: str, outcome: Outcome) -> Steps:
        if isinstance(outcome, EntrySample) and outcome.rate_mb_s > LITTLE_MB_S:
            clean_at, rate, known = self._clean.get(target, (-CLEAN_S, 0.0, frozenset()))
            news = outcome.rate_mb_s >= MORE * rate or not self._report(target).sources <= known
            if me.now - clean_at < CLEAN_S and not news:
                return
            self._clean[target] = -CLEAN_S, outcome.rate_mb_s, frozenset()
            screened = EntryScreened(target, me.pop or "")
            yield Adopt(want(screened), PROTECT, traffic_mb_s=0.0, tap=screened.entry, afresh=True)

    def _read_links(self, me: Agent) -> None:
        """Look for the cause of a breach that nobody can explain: an attack may be on another host.

        It costs users what it takes of a full link, and shows where that link begins.
        """
        state = me.capability(Outlook).view.get(me.name)
        for link in state.links if state is not None and me.pop is not None else ():
            if link.up:
                read = ReadLink(link_id(me.pop or "", link.to), FULL_FOR_S)
                me.perform(read, partial(self._busy, me))

    def _busy(self, me: Agent, outcome: Outcome) -> Steps:
        if isinstance(outcome, LinkSample) and outcome.rate_mb_s >= FULL * outcome.bandwidth_mb_s:
            screened = LinkScreened(outcome.link)
            yield Adopt(want(screened), PROTECT, traffic_mb_s=0.0, tap=me.pop or "", afresh=True)

    @plan(LinkScreened)
    def screen_link(self, me: Agent, goal: GoalInstance) -> Body:
        """Look at what passes a full link, and report the attacks in it to all agents."""
        screened = goal.predicate_as(LinkScreened)
        assert goal.instance is not None
        look_s = me.parameter(self, "entry_look_s")
        records: FlowRecords = yield Act(Observe(goal.instance, look_s, screened.link))
        findings = examine(me, goal, records)
        findings += self._of_the_same(me, records, {(f.source or "", f.target) for f in findings})
        found = [f"{f.source}>{f.target}" for f in findings if f.source]
        yield analysis(me, goal, records, findings, found=found)
        for target in sorted({f.target for f in findings}):
            kinds = sorted({f.kind for f in findings if f.target == target})
            sources = sorted({f.source for f in findings if f.source and f.target == target})
            report_attack(me, AttackReport(target, tuple(kinds), tuple(sources)))
        yield Believe(screened)

    def _of_the_same(
        self, me: Agent, records: FlowRecords, known: Container[tuple[str, str]]
    ) -> Iterator[Finding]:
        """Yield what who attacks one target sends to others, which nobody answers.

        There it may harm nobody, but all of it fills the link.
        """
        offenders = {source for (_, source), at in self._seen.items() if me.now - at < STALE_S}
        offenders -= {source for heard in self._heard.values() for source in heard.shared}
        for one in aggregate(records.flows):
            if one.source not in offenders or (one.source, one.target) in known:
                continue
            if one.protocol == "icmp" or (one.protocol == "udp" and not one.replies):
                rate = round(one.packets / effective_s(records), 3)
                reason = f"attacks another target, and sends {figure(rate)} packets/s here"
                evidence = {"packets_s": rate, "replies": one.replies}
                yield Finding(connectionless(one), one.target, one.source, 1.0, reason, evidence)

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule filters what the effect names, no more and no less."""
        return effect == str(_effect(rule))

    def _uncovered(self, me: Agent) -> Iterator[PopId]:
        """Yield the PoPs whose agents are all gone, and that this agent is to cover.

        Of each the next living agent in the order of names does, as guardians do.
        """
        outlook = me.capability(Outlook)
        view, alive = outlook.view, outlook.alive()
        if not outlook.out:
            return
        staffed = {state.pop for agent in alive if (state := view.get(agent)) is not None}
        for dead in sorted(outlook.out):
            state = view.get(dead)
            pop = None if state is None else state.pop
            if pop is not None and pop not in staffed and outlook.guardian(dead) == me.name:
                yield pop

    @plan(EntryScreened)
    def screen(self, me: Agent, goal: GoalInstance) -> Body:
        """Look at what enters, and drop the part of it that attacks the target."""
        screened = goal.predicate_as(EntryScreened)
        assert goal.instance is not None
        heard = self._report(screened.ip)
        look_s, entry = self._look_s(me, heard), screened.entry or None
        look = Observe(goal.instance, look_s, ip=screened.ip, entry=entry)
        until = me.now + self._pulse_s(me, screened.ip)
        while True:
            records: FlowRecords = yield Act(look)
            heard = self._report(screened.ip)  # there may be news since the look began
            reported = heard.sources
            findings, seen = self._findings(me, goal, records)
            if SIGNALLING_STORM in heard.kinds:  # not to be answered convicts no device
                reported = frozenset()
            blocked = _blocked(seen, findings, reported)
            if blocked or findings or me.now >= until:
                break
        there = {one.source for one in seen if not screened.entry} & heard.crowd - {*blocked}
        either = [*blocked, *sorted(there)]
        pairs = yield from not_allowed(me, [(source, screened.ip) for source in either])
        blocked = [source for source, _ in pairs if source not in there]
        crowd = tuple(source for source, _ in pairs if source in there)
        self._note_missed(me, screened.ip, seen, reported)
        forged = [f for f in findings if f.source is None and f.spoofed]
        yield analysis(
            me,
            goal,
            records,
            findings,
            found=[f"{source}>{screened.ip}" for source in (*blocked, *crowd)],
            reported=sorted(set(blocked) & reported | {*crowd}),
            passed=passed(records.flows, blocked, reported),
        )
        if not blocked and not findings and screened.entry == me.pop and screened.ip in self._clean:
            self._clean[screened.ip] = me.now, self._clean[screened.ip][1], reported
        served = {f.source for f in findings if f.kind in {SLOW, *ANSWERED_AS_USERS}}
        mixed = {o.source for o in seen if o.answered > ANSWERED * o.open} | heard.shared
        shared = mixed.intersection(blocked) - served
        over_udp = self._answers_over_udp(me, screened.ip, seen)
        udp_ports = self._ports(me, screened, records, over_udp=over_udp)
        rules = _rules(screened, blocked, shared, forged, seen, udp_ports)
        for rule in (*rules, *_limits(screened, crowd, heard.rest_mb_s)):
            effect = _effect(rule)
            until, _ = self._harmful.get(effect, (me.now, 0.0))
            if until <= me.now and not self._filtered(me, effect):
                if not rule.match.sources:
                    # A burst that a short look happened to see is no rate.
                    least_s = me.parameter(self, "harm_look_s") / 2
                    self._served[effect] = _served_mb_s(records, screened.ip, blocked, least_s)
                kinds = tuple(sorted({f.kind for f in findings})) or ("remembered",)
                limited = crowd if rule.verdict is TrafficVerdict.LIMIT else ()
                names = () if limited else rule.match.sources
                self._reports[effect] = AttackReport(
                    screened.ip,
                    kinds,
                    names,
                    tuple(sorted(shared)),
                    over_udp,
                    limited,
                )
                named = kinds if findings else sorted(heard.kinds) or kinds
                yield from enforce(me, goal, effect, rule, _why(rule, effect, named))
                yield from (Believe(Threat(source, screened.ip)) for source in names)
                yield from (Adopt(want(claim), PROTECT) for claim in _claims(me, effect))
        if blocked:  # what they send to others may fill a link still
            me.call_at(me.now + 2 * FULL_FOR_S, partial(self._read_links, me))
        yield Believe(screened)

    def _look_s(self, me: Agent, heard: _Heard) -> float:
        shorter = 2 if heard.sources and not heard.kinds & ANSWERED_AS_USERS else 1
        longer = STORM_LOOKS if SIGNALLING_STORM in heard.kinds else 1
        return me.parameter(self, "entry_look_s") / shorter * longer

    def _findings(
        self, me: Agent, goal: GoalInstance, records: FlowRecords
    ) -> tuple[list[Finding], list[FlowAggregate]]:
        """Return what a look found of attacks on the goal's target, and what it saw of it."""
        screened = goal.predicate_as(EntryScreened)
        heard, reported = self._report(screened.ip), self._report(screened.ip).sources
        # What belongs to no connection is told by who sees the target answer others.
        answering = (screened.ip,) if heard.kinds & UNCONNECTED else ()
        examined = examine(me, goal, records, answering=answering)
        findings = [f for f in examined if f.target == screened.ip]
        seen = [one for one in aggregate(records.flows) if one.target == screened.ip]
        if HTTP_FLOOD in heard.kinds:  # it is answered as users are: both must say so
            flooding = request_floods(seen, effective_s(records))
            findings += [f for f in flooding if f.source in reported]
        if SIGNALLING_STORM in heard.kinds:  # so are these
            window = TrafficWindow(effective_s(records), (), records.flows)
            asking = load_detector(SIGNALLING_RULES).examine(window)
            findings += [f for f in asking if f.source in reported and f.target == screened.ip]
        # UDP that nothing answers is an attack if the report says so, or if there is so much of it
        # that it may be why users suffer.
        one_way = sum(one.octets for one in seen if one.protocol == "udp" and not one.replies)
        little = one_way < CROWDED * sum(one.octets for one in seen)
        spared = heard.usual - reported
        if not heard.kinds & ONE_WAY and (heard.kinds or little):
            spared |= {one.source for one in seen} - reported
        findings = [f for f in findings if f.kind not in ONE_WAY or f.source not in spared]
        if any(one.protocol == "tcp" and one.replies > one.resets for one in seen):
            self._replied = me.now
        if me.now - self._replied < REPLIED_S:
            known = {f.source for f in findings}
            silent = (unanswered_flood(one, effective_s(records)) for one in seen)
            findings += [f for f in silent if f is not None and f.source not in known]
        return findings, seen

    @staticmethod
    def _ports(
        me: Agent, screened: EntryScreened, records: FlowRecords, *, over_udp: bool
    ) -> list[int | None]:
        """Return the ports at which forged UDP is dropped; None: at all.

        Those that are flooded, if nearly all of it is there, as users may come to another one; or
        if users are answered over UDP. A flood that goes to other ports is dropped at all.
        """
        flooded, rest = _flooded_ports(records, screened.ip)
        known = me.beliefs.matching(AttackFiltered, ip=screened.ip, entry=screened.entry)
        here = {_udp_at(port) for port in flooded}
        moves = any(each.what.startswith(UDP_TO) and each.what not in here for each in known)
        return [*flooded] if over_udp or not (rest or moves) else [None]

    def _answers_over_udp(self, me: Agent, ip: str, seen: Iterable[FlowAggregate]) -> bool:
        if self._report(ip).over_udp or any(o.protocol == "udp" and o.replies for o in seen):
            self._over_udp[ip] = me.now
        return me.now - self._over_udp.get(ip, -REPLIED_S) < REPLIED_S

    def _pulse_s(self, me: Agent, ip: str) -> float:
        """Return how long to wait for reported sources that the last look came too late for.

        What floods for less than a report and a look take together is gone before it is seen
        here, each time. Nobody is blocked unseen, so the next look lies in wait for it.
        """
        at, sources = self._missed.get(ip, (-MOST_PULSE_S, frozenset()))
        since_s = me.now - at
        again = sources & self._report(ip).sources and PULSE_S <= since_s <= MOST_PULSE_S
        return min(PULSES * since_s, MOST_PULSE_S) if again else 0.0

    def _note_missed(
        self, me: Agent, ip: str, seen: Collection[FlowAggregate], reported: frozenset[str]
    ) -> None:
        self._missed.pop(ip, None)
        if reported and reported.isdisjoint(one.source for one in seen):
            if len(self._missed) >= MOST_TARGETS:
                self._missed.clear()
            self._missed[ip] = me.now, reported

    @staticmethod
    def _filtered(me: Agent, effect: AttackFiltered) -> bool:
        """Whether ``effect`` holds, and at its entry if this agent stands there.

        A filter that another PoP has in its place leaves the links between the two full.
        """
        here = inventory_of(me).holder(effect) is not None
        return here or (me.pop != effect.entry and me.beliefs.holds(effect))

    def _report(self, ip: str) -> _Heard:
        return self._heard.get(ip) or _Heard(0.0)

    @plan(AttackFiltered, Mode.AVERT)
    def filter_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Let everything pass again."""
        effect = goal.predicate_as(AttackFiltered)
        yield from lift(me, effect)

    @when(AttackFiltered, value=None, always=True)
    @when(AttackFiltered, value=False, always=True)
    def forget_threats(self, me: Agent, effect: AttackFiltered) -> Steps:
        """The sources of a filter that is gone are no threat for now.

        Who it was that another agent filtered is known no more once it filters nothing.
        """
        report = self._reports.pop(effect, None)
        if report is not None and me.draining and not me.beliefs.holds(Quiet(effect)):
            report_attack(me, report)  # the filter ends with its agent, the attack does not
        for source in () if report is None else report.sources:
            yield Forget(Threat(source, effect.ip))
        if not any(me.beliefs.matching(AttackFiltered, ip=effect.ip)):
            for threat in me.beliefs.matching(Threat, target=effect.ip):
                yield Forget(threat)
        for claim in _claims(me, effect):
            yield Drop(want(claim), "the filter is lifted")

    # After the rule above, which asks whether it was quiet: it is not known any more then.
    watch_own, watch_no_more = watching(AttackFiltered, gone="the filter is lifted")

    @when(ClaimHeld, value=False)
    def overruled(self, me: Agent, held: ClaimHeld) -> Steps:
        """Lift a filter that the loop of the target does not agree to."""
        for effect in me.beliefs.matching(AttackFiltered):
            if str(effect) == held.effect and inventory_of(me).holder(effect) is not None:
                yield Adopt(avert(effect), PROTECT)

    @plan(Quiet, local=True, applies=quiet_of(AttackFiltered))
    def wait_for_quiet(self, me: Agent, goal: GoalInstance) -> Body:
        """Wait until next to nothing was dropped for the hold-down, then lift the filter.

        A filter is a hypothesis: if those who were served before it are not any more, it is
        lifted at once, and tried again after a time that doubles with each such failure.
        """
        quiet = goal.predicate_as(Quiet)
        assert isinstance(quiet.measure, AttackFiltered)
        yield from self._check_harm(me, quiet.measure)
        yield from lift_when_quiet(
            me,
            quiet,
            quiet_s=partial(self._hold_s, me, quiet.measure.ip),
            interval_s=me.parameter(self, "hold_interval_s"),
            overdue=lambda _: self._hand_on(me, quiet.measure),
            little=STRAGGLERS,
        )

    def _hand_on(self, me: Agent, effect: Predicate) -> bool:
        """Tell the agents where an attack enters, or may enter, that is filtered here instead.

        They could not be reached as it began, and filter it where it takes nothing of the links.
        """
        assert isinstance(effect, AttackFiltered)
        outlook: Outlook = me.capability(Outlook)
        report = self._reports.get(effect)
        report = report or AttackReport(effect.ip, ("remembered",))  # after a restart
        for agent in outlook.alive() if not report.crowd else ():  # others cannot tell
            state = outlook.view.get(agent)
            if agent != me.name and state and effect.entry in ("", state.pop):
                me.tell(Performative.INFORM, agent, ATTACK, report)
        return False

    def _check_harm(self, me: Agent, effect: AttackFiltered) -> Body:
        before = now = self._served.pop(effect, 0.0)
        for _ in range(HARM_LOOKS):
            instance = inventory_of(me).holder(effect)
            if instance is None or before <= LITTLE_MB_S:
                return
            look_s = me.parameter(self, "harm_look_s")
            entry = effect.entry or None
            try:
                records = yield Act(Observe(instance.id, look_s, ip=effect.ip, entry=entry))
            except PlanFailed:  # nothing is known of harm
                return
            now = _served_mb_s(records, effect.ip)
            if now >= HARM * before:
                return
        _, last_s = self._harmful.get(effect, (0.0, me.parameter(self, "harm_pause_s") / 2))
        self._harmful[effect] = me.now + 2 * last_s, 2 * last_s
        yield Note(
            "measure.withdrawn",
            {
                "effect": str(effect),
                "before_mb_s": round(before, 6),
                "after_mb_s": round(now, 6),
                "pause_s": 2 * last_s,
            },
        )
        yield Adopt(avert(effect), PROTECT)
        raise PlanFailed("it cost users their service")

    def _hold_s(self, me: Agent, ip: str) -> float:
        """Return how long a filter stays that has next to nothing to drop, by its relapses."""
        return me.parameter(self, "hold_s") * 2.0 ** self._relapses.get(ip, _Relapses()).times


def _claims(me: Agent, effect: AttackFiltered) -> list[ClaimHeld]:
    """Return what a filter claims at the loops of the functions that it protects."""
    because = "an attack on it enters the network"
    return [holding(sem, BLOCK, because, str(effect)) for sem in claims_at(me, effect.ip)]


def _blocked(
    seen: list[FlowAggregate], findings: list[Finding], reported: frozenset[str]
) -> list[str]:
    """Return the sources to block: seen here, and convicted here or by those who report.

    A source that completes its handshakes here, or gets answers, contradicts the report.
    """
    own = {f.source for f in findings if f.source}
    blocked = {one.source for one in seen if one.source in reported and not _served(one)}
    return sorted(blocked | own)[:MOST_SOURCES]


def _served_mb_s(
    records: FlowRecords, ip: str, without: Collection[str] = (), least_s: float = 0.0
) -> float:
    """Return what sources that complete handshakes send towards ``ip``; 0 if they are too few.

    The rate is that over ``least_s`` seconds at least.
    """
    octets = [
        one.octets
        for one in aggregate(records.flows)
        if one.target == ip and one.source not in without and (one.answered or one.established)
    ]
    seconds = max(effective_s(records), least_s)
    return sum(octets) / seconds / 1e6 if len(octets) >= FEW_SERVED else 0.0


def _served(one: FlowAggregate) -> bool:
    if one.protocol == "icmp":  # an answer to an echo is no service
        return False
    if one.protocol != "tcp":
        return wilson(one.replies, one.packets)[0] >= COMPLETES
    if one.open and one.answered < ANSWERED * one.open:  # slow attackers get a few answers
        return False
    return completes(one)


def _rules(
    screened: EntryScreened,
    blocked: list[str],
    shared: Collection[str],
    forged: list[Finding],
    seen: list[FlowAggregate],
    ports: list[int | None],
) -> Iterator[TrafficRule]:
    """Yield what to filter.

    Of sources behind which users are, too (``shared``), only the protocol that attacks is
    filtered: UDP and ICMP are dropped, and TCP handshakes are answered for the target. Forged UDP
    is dropped at ``ports``; forged echoes and fragments are, as long as they come, with what else
    is of their kind.
    """
    ip, entry = screened.ip, screened.entry or None
    hostile = {(one.source, one.protocol) for one in seen if not _served(one)}
    alone = [source for source in blocked if source not in shared]
    mixed = [source for source in blocked if source in shared]
    udp, icmp = ([s for s in mixed if (s, each) in hostile] for each in ("udp", "icmp"))
    for sources, protocol in (alone, None), (udp, "udp"), (icmp, "icmp"):
        if sources:
            match = TrafficMatch(sources=tuple(sources), target=ip, entry=entry, protocol=protocol)
            yield TrafficRule(match, TrafficVerdict.DROP)
    kinds = {f.kind for f in forged}
    for kind, protocol, bare in (ICMP_FLOOD, "icmp", None), (TCP_FRAGMENTS, "tcp", 0):
        if kind in kinds:
            match = TrafficMatch(target=ip, entry=entry, port=bare, protocol=protocol)
            yield TrafficRule(match, TrafficVerdict.DROP)
    handshakes = any((source, "tcp") in hostile for source in shared)
    if handshakes or kinds - {ICMP_FLOOD, TCP_FRAGMENTS, *ONE_WAY}:
        yield TrafficRule(TrafficMatch(target=ip, entry=entry), TrafficVerdict.PROXY)
    for port in ports if kinds & ONE_WAY else ():
        match = TrafficMatch(target=ip, entry=entry, port=port, protocol="udp")
        yield TrafficRule(match, TrafficVerdict.DROP)


def _watches_for(me: Agent, agent: AgentId) -> bool:
    """Whether an agent watches a link because this one asked for it."""
    auctions = me.capability(Auctioneer).auctions.values()
    watches = (a for a in auctions if isinstance(a.call.goal.goal.predicate, Monitored))
    return any(auction.running and auction.winner == agent for auction in watches)


def _limits(
    screened: EntryScreened, crowd: tuple[str, ...], rest_mb_s: float
) -> Iterator[TrafficRule]:
    """Yield what holds a crowd to what users leave."""
    if crowd:
        match = TrafficMatch(sources=crowd, target=screened.ip, entry=screened.entry or None)
        yield TrafficRule(match, TrafficVerdict.LIMIT, {"rate_mb_s": rest_mb_s})


def _flooded_ports(records: FlowRecords, ip: str) -> tuple[list[int], bool]:
    """Return the ports at which forged UDP by itself is a flood, and nothing is answered.

    Returns:
        Those ports, and whether more of what is not answered goes to others than chance has.

    """
    by_port: dict[int, list[FlowStats]] = {}
    for flow in records.flows:
        if (flow.protocol, flow.target) == ("udp", ip):
            by_port.setdefault(flow.port, []).append(flow)
    answered = {f.source for flows in by_port.values() for f in flows if f.replies}
    packets = {
        port: sum(flow.packets for flow in flows)
        for port, flows in by_port.items()
        if not any(f.replies or (f.fragments and f.source in answered) for f in flows)
    }
    most = sorted(packets, key=lambda port: (-packets[port], port))[:MOST_PORTS]
    rules, seconds = FixedRules(), effective_s(records)
    of = {port: rules.examine(TrafficWindow(seconds, (), tuple(by_port[port]))) for port in most}
    ports = [port for port, found in of.items() if any(finding.spoofed for finding in found)]
    rest = sum(packets.values()) - sum(packets[port] for port in ports)
    return ports, not ports or rest > CROWDED * sum(packets.values())


def _effect(rule: TrafficRule) -> AttackFiltered:
    match = rule.match
    return AttackFiltered(match.target or "", match.entry or "", _words(rule))


def _why(rule: TrafficRule, effect: AttackFiltered, kinds: Iterable[str]) -> str:
    """Return in words for people what a filter is for."""
    count = len(rule.match.sources)
    of = f" by {count} source{'s' * (count != 1)}" if count else f": {effect.what}"
    return ", ".join(kind.replace("-", " ") for kind in kinds) + of


def _udp_at(port: int) -> str:
    return f"{UDP_TO}{port} that nobody answers"


def _words(rule: TrafficRule) -> str:
    """Return what a rule filters: so much that another rule has other words."""
    match = rule.match
    if rule.verdict is TrafficVerdict.PROXY:
        return "handshakes never completed"
    if not match.sources:
        if match.protocol == "icmp" or match.port == 0:
            return "icmp but errors" if match.port is None else f"fragments of {match.protocol}"
        if match.protocol != "udp":
            return "everything"
        return "udp that nobody answers" if match.port is None else _udp_at(match.port)
    digest = blake2b(" ".join(match.sources).encode(), digest_size=3).hexdigest()
    of = f"{match.protocol} of " if match.protocol else ""
    if rule.verdict is TrafficVerdict.LIMIT:
        return f"excess of {len(match.sources)} sources {digest}"
    return f"{len(match.sources)} {of}source{'s' * (len(match.sources) != 1)} {digest}"
