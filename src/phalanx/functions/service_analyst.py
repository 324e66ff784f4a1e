"""Service Analyst: watches the metrics of a service, and has done what each kind of trouble needs.

What is wrong a detector says, from series of metrics (deliverable D3.3, 6 and table 4). Too much
load gets another replica, where the auction finds room; a slow way is led around, or a replica is
placed near the users. A request for a replica is refused where an attack makes the load (Benzaïd
et al., section IV): its sources are reported instead, to be filtered where they enter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, ClassVar

from msgspec import Struct, field
from msgspec.structs import astuple

from phalanx.analytics.detectors import SIGNALLING_STORM, Detector, Finding, load_detector
from phalanx.analytics.service_rules import (
    HIGH_MEMORY,
    NETWORK_DELAY,
    NOT_JUDGED,
    OVERLOADED,
    RELIEVED,
)
from phalanx.analytics.signalling_rules import asked
from phalanx.analytics.source_rules import REQUESTS_S, FlowAggregate, aggregate, request_floods
from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import (
    Capability,
    hears,
    perceives,
    plan,
    recalls,
    remembers,
    when,
)
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.bdi.steps import (
    Achieve,
    Act,
    Adopt,
    Believe,
    Body,
    Drop,
    Forget,
    Note,
    Pause,
    Perceive,
    PlanFailed,
    Steps,
)
from phalanx.coordination.arbitration import (
    RESTART,
    SCALE,
    address_of,
    claims_at,
    while_claimed,
)
from phalanx.coordination.measures import FIND_OUT, PROTECT, TIDY_UP, Part, inventory_of
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import FlowRecords, Observe, ReadService, RestartService, ServiceSample
from phalanx.domain.goals import Mode, Predicate, avert, want
from phalanx.domain.messages import AttackReport, Message
from phalanx.domain.network import PopId, link_ends
from phalanx.domain.predicates import OVERLOADED as FUNCTION_OVERLOADED
from phalanx.domain.predicates import (
    AttackLoad,
    ClaimHeld,
    EntityTrouble,
    PlacedNear,
    Replicated,
    Rerouted,
    ScaledUp,
    ServiceTrouble,
    ServiceWatched,
    UnderAttack,
)
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import FIXED_RULES
from phalanx.functions.edge_filter import MOST_TARGETS, SIGNALLING_RULES
from phalanx.functions.service_monitor import report_attack

SAMPLES = 60
"""Samples of each metric that are kept."""
LOOKS = 3
"""Looks at flows that are kept: as many as a rule wants samples."""
UNREAD_S = 30.0
"""Pause after which metrics that could not be read are asked for again."""
FEW_ATTACKERS = 0.1
"""Share of what devices ask for that those who ask too often may have, before they are reported."""
REPORTED_S = 4.0
"""Pause between two such reports."""
EXPLAINS = 0.3
"""Share of the requests, or of the open connections, from which attackers explain an overload."""
MOST_PARTS = 16
"""The service keeps at least this part of its sources: at most four replicas."""
HEADROOM = 1.25
"""A replica is made for so many times what its share gets now."""
LIGHT = 0.6
"""Share of its processors below which a service needs its last replica no more."""
MEMORY_LIMIT = 0.9
"""Share of its memory at which a service that had to be started anew is so by its PoP, at once."""
TELL_S = 2.0
"""So long an AMF waits before it is scaled, until devices were looked at in the present load; and
twice as long what other functions ask, for word of attacks on these."""
MOST_RELAPSES = 4
"""With so many what was added stays no longer: it is 16 times the first time."""
ATTACKED_S = 15.0
"""A function that was reported within so long is attacked."""
BUSY_WEIGHT = 0.05
"""Weight of one look in what a source usually asks for: it takes half a minute to be known."""


class _Service(Struct):
    """What is known of one service."""

    named: str
    """The detector, as the descriptor names it."""
    detector: Detector
    at: PopId
    """Where it runs."""
    limited: str = ""
    """Why the detector cannot say all that it could, as it was told last."""
    certain: bool = False
    """Whether a rule says that something is wrong; else that is a model's proposal."""
    series: dict[tuple[str, str], deque[tuple[float, float]]] = field(default_factory=dict)
    """(time, value) of the last samples, by subject and metric."""
    looks: deque[FlowRecords] = field(default_factory=lambda: deque(maxlen=LOOKS))
    busy: dict[str, float] = field(default_factory=dict)
    """Sources that ask for a lot while all is well, with how much, in requests/s: proxies."""
    entries: dict[str, float] = field(default_factory=dict)
    """What came in at each PoP in the last sample, in MB/s."""

    signalling: bool = False
    """Whether devices ask it over NGAP."""
    usually_again: float = 0.0
    """Share of what they ask for that is of devices that asked just before, while all is well."""
    reported: float = 0.0
    """When devices that ask too often were reported last."""
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    """When it was started anew, as far as the counter showed it."""
    counter: int = 0
    troubled: float = 0.0
    """When something was wrong last."""
    told: bool = False
    """Whether it was told that nothing helps."""
    lessened: float | None = None
    """When what it needed no more was given up last, and has not been wanted again since."""
    relapses: int = 0
    """How often it was soon wanted again in a row: each makes the next one wait twice as long."""

    def window(self, now: float, sample: ServiceSample) -> TrafficWindow:
        """Return the series with a sample added: of the address, and of each entry's PoP."""
        counter = int(sample.metrics.get("restarts", self.counter))
        self.restarts.extend([now] * (counter - self.counter))
        self.counter = counter
        figures = {(sample.target, name): value for name, value in sample.metrics.items()}
        figures |= {(pop, "rtt_ms"): rtt_ms for pop, (_, rtt_ms) in sample.entries.items()}
        for key, value in figures.items():
            self.series.setdefault(key, deque(maxlen=SAMPLES)).append((now, value))
        series = []
        for subject, name in figures:
            times, values = zip(*self.series[subject, name], strict=True)
            unit = name.partition("_")[2]
            series.append(TimeSeries(name, subject, unit, times, values))
        self.entries = {pop: mb_s for pop, (mb_s, _) in sample.entries.items()}
        return TrafficWindow(SAMPLES, tuple(series))

    def received(self, ip: str) -> list[float]:
        """Return what came in lately, in MB/s."""
        return [mb_s for _, mb_s in self.series.get((ip, "receive_mb_s"), ())]

    def attackers(self, ip: str, peers: Mapping[str, bool]) -> tuple[float, dict[str, Finding]]:
        """Return what part of the load is theirs, and what is found of each, by source.

        Of ``peers``, functions of the same slices that may ask for it, those count as attackers
        that are attacked themselves: what these ask for is not for users. They are not named.
        """
        every, seconds = _together(self.looks)
        flows = [one for one in every if one.target == ip]
        window = TrafficWindow(seconds, (), tuple(f for look in self.looks for f in look.flows))
        findings = [*load_detector(FIXED_RULES).examine(window)]
        findings += request_floods(flows, seconds, self.busy)
        findings += load_detector(SIGNALLING_RULES).examine(window)
        of = {f.source: f for f in findings if f.source and f.target == ip}
        of = {source: f for source, f in of.items() if source not in peers}
        theirs = {*of, *(source for source, attacked in peers.items() if attacked)}
        shares = [_part(flows, theirs, lambda f: f.syn), _part(flows, of, lambda f: f.open)]
        shares.append((self._again() - self.usually_again) / (1 - self.usually_again))
        return max(shares), of

    def _again(self) -> float:
        """Return the share of the last look's requests of devices that had asked in it before."""
        counts = asked(self.looks[-1].flows).values() if self.looks else ()
        return 1 - len(counts) / sum(counts) if counts else 0.0

    def asked_by(self, peers: Mapping[str, bool]) -> bool:
        """Whether other functions ask for something here."""
        return any(flow.source in peers for look in self.looks for flow in look.flows)

    def learn(self) -> None:
        """Keep in mind who asks for a lot while all is well."""
        flows, seconds = _together([*self.looks][-1:])
        self.usually_again += (self._again() - self.usually_again) * BUSY_WEIGHT
        for one in flows:
            known, rate = self.busy.get(one.source, 0.0), one.syn / seconds
            if rate > REQUESTS_S / 2:
                self.busy[one.source] = known + (rate - known) * BUSY_WEIGHT


class MadeMemory(Struct, frozen=True):
    """What was asked for, for the service at ``ip``."""

    made: Predicate
    ip: str


class AnalystMemory(Struct, frozen=True):
    """All of it."""

    made: tuple[MadeMemory, ...]


def _of(*kinds: str) -> Callable[[Agent, GoalInstance], bool]:
    return lambda _, goal: getattr(goal.goal.predicate, "kind", None) in kinds


def _watched(me: Agent, goal: GoalInstance) -> bool:
    """Whether it is about a function that this agent watches, and that has too much to do."""
    trouble = goal.predicate_as(EntityTrouble)
    known = me.capability(ServiceAnalyst)._services
    return trouble.kind == FUNCTION_OVERLOADED and address_of(me, trouble.entity) in known


class ServiceAnalyst(Capability):
    """Finds what troubles a service, relieves it, and takes back what it needs no more."""

    name = "service-analyst"
    vnfd = Vnfd("service-analyst", Resources(0.5, 0.5, 0.5), image_mb=0.0, shared=True)
    observes = ("flows",)
    detector = "service-rules"
    parameters: ClassVar = {
        "metrics_s": 1.0,
        "trouble_repeat_s": 8.0,
        "proposal_pause_s": 60.0,
        "effect_s": 15.0,
        "restarts_most": 3.0,
        "restarts_s": 120.0,
        "replica_hold_s": 30.0,
        "detour_hold_s": 60.0,
    }

    def __init__(self) -> None:
        self._services: dict[str, _Service] = {}
        self._attacked: dict[str, float] = {}
        """When each address was last reported to be attacked."""
        self._made: dict[Predicate, str] = {}
        """What was asked for, by the address of the service that it is made for."""

    @plan(ServiceWatched)
    def watch(self, me: Agent, goal: GoalInstance) -> Body:
        """Read the metrics, beside flow samples, for as long as the goal stands."""
        try:
            yield from self._watch(me, goal)
        except GeneratorExit:  # of an agent that died nothing is recorded any more
            me.later(self._unwatched, me, goal)
            raise

    def _watch(self, me: Agent, goal: GoalInstance) -> Body:
        watched = goal.predicate_as(ServiceWatched)
        while True:
            instance = inventory_of(me).get(goal.instance)
            if instance is None:
                raise PlanFailed("the instance is gone")
            named, at = instance.vnfd.detector, link_ends(watched.link)[0]
            seen = self._services.get(watched.ip)
            if seen is None or seen.named != named:
                seen = self._services[watched.ip] = _Service(named, load_detector(named), at)
            try:
                seconds = me.parameter(self, "metrics_s")
                # Of an AMF all that devices ask counts, replicas included: they ask for it too.
                look = Observe(instance.id, seconds, watched.link)
                if seen.signalling:
                    look = Observe(instance.id, seconds, ip=watched.ip)
                seen.looks.append((yield Act(look)))
                seen.signalling = seen.signalling or bool(asked(seen.looks[-1].flows))
                sample = yield Act(ReadService(watched.ip))
            except PlanFailed:
                yield Pause(UNREAD_S)
                continue
            yield Perceive(sample)

    def _unwatched(self, me: Agent, ended: GoalInstance | None = None) -> None:
        """Have nothing done any more for services that are not watched here from now on.

        Whoever watches one has done what it finds itself, and takes back no more than that.
        """
        if ended is not None:
            me.cause = ended.cause if ended.end is None else ended.end.event
        goals = (goal.goal.predicate for goal in me.open_goals() if goal.instance)
        watched = {of.ip for of in goals if isinstance(of, ServiceWatched)}

        def idle(of: Predicate) -> bool:
            ip = self._made.get(of)
            if isinstance(of, ServiceTrouble) and _relieved(of):
                ip = of.ip
            return ip is not None and ip not in watched

        for trouble in filter(idle, me.beliefs.matching(ServiceTrouble)):
            me.do_step(Forget(trouble))
        for goal in me.open_goals():  # what was made may be made anew, where who kept it is lost
            if idle(goal.goal.predicate) and not goal.contract:
                me.end_goal(goal, GoalOutcome.DROPPED, "the service is not watched here any more")
        for made in filter(idle, list(self._made)) if not me.draining else ():  # it stays else
            del self._made[made]
            if made in me.capability(Auctioneer).delegations.by_effect:
                me.adopt(Adopt(avert(made), TIDY_UP))

    @remembers(AnalystMemory)
    def remember(self, me: Agent) -> AnalystMemory | None:  # noqa: ARG002  # all is its own
        """Return what was made for services."""
        made = tuple(MadeMemory(made, ip) for made, ip in self._made.items())
        return AnalystMemory(made) if made else None

    @recalls
    def recall(self, me: Agent, part: AnalystMemory | None, shift: float) -> None:  # noqa: ARG002
        """Look after a while whether the services are watched here again."""
        if part is not None:
            self._made = {each.made: each.ip for each in part.made}
            me.call_at(me.now + me.parameter(self, "detour_hold_s"), partial(self._unwatched, me))

    @perceives(ServiceSample)
    def revise(self, me: Agent, sample: ServiceSample) -> Steps:
        """Believe in the troubles that the detector finds, and in their end."""
        seen, ip = self._services.get(sample.target), sample.target
        if seen is None:
            return
        window = seen.window(me.now, sample)
        findings = seen.detector.examine(window)
        limited = "; ".join(f.reason for f in findings if f.kind == NOT_JUDGED)
        if limited != seen.limited:
            seen.limited = limited
            why = limited or "is judged in full"
            yield Note("diagnosis.limited", {"service": ip, "reason": why, "detector": seen.named})
        found = {
            ServiceTrouble(ip, f.kind, f.target if f.target != ip else ""): f
            for f in findings
            if f.kind != NOT_JUDGED
        }
        seen.certain = any(f.certainty == 1 for f in found.values())
        for trouble in me.beliefs.matching(ServiceTrouble, ip=ip):
            if trouble not in found:
                yield Believe(trouble, value=False)
        for trouble, finding in found.items():
            if self._alarms(me, trouble, finding):
                yield Note("trouble.diagnosed", _diagnosis(trouble, finding, seen.named))
                yield Forget(trouble)
                yield Believe(trouble)
        if not any(map(_relieved, found)):
            seen.learn()
        if seen.signalling and me.now - seen.reported >= REPORTED_S:
            self._name_devices(me, seen, ip)
        if seen.certain:
            seen.troubled = me.now
        else:
            seen.told = False
            yield from self._take_back(me, seen, ip)

    def _name_devices(self, me: Agent, seen: _Service, ip: str) -> None:
        """Report devices that ask too often, also where what answers them is a replica."""
        flows = tuple(flow for look in seen.looks for flow in look.flows)
        window = TrafficWindow(sum(map(effective_s, seen.looks)), (), flows)
        of = [f.source for f in load_detector(SIGNALLING_RULES).examine(window) if f.source]
        counts = asked(flows)
        if sum(counts[source, ip] for source in of) > FEW_ATTACKERS * sum(counts.values()):
            seen.reported = me.now
            report_attack(me, AttackReport(ip, (SIGNALLING_STORM,), tuple(of)))

    def _alarms(self, me: Agent, trouble: ServiceTrouble, finding: Finding) -> bool:
        """Return whether a finding is an alarm, anew where it lasts.

        A proposal is made once while it lasts, and not soon after: what it brings about could
        be what the next one is about.
        """
        believed = me.beliefs.get(trouble)
        if believed is None:
            return True
        lasts_s = me.now - believed.since
        if finding.certainty == 1:
            return not believed.value or lasts_s >= me.parameter(self, "trouble_repeat_s")
        return not believed.value and lasts_s >= me.parameter(self, "proposal_pause_s")

    @when(ServiceTrouble)
    def relieve(self, me: Agent, trouble: ServiceTrouble) -> Steps:
        """Want it over, if there is a plan; of several overloads at a time one is dealt with."""
        if not _relieved(trouble):
            return
        open_goals = [goal.goal for goal in me.open_goals()]
        overloads = [avert(ServiceTrouble(trouble.ip, kind)) for kind in OVERLOADED]
        if not (trouble.kind in OVERLOADED and any(goal in open_goals for goal in overloads)):
            yield Adopt(avert(trouble), PROTECT)

    # -- too much load ------------------------------------------------------------------

    @plan(ServiceTrouble, Mode.AVERT, local=True, applies=_of(*OVERLOADED))
    def scale(self, me: Agent, goal: GoalInstance) -> Body:
        """Have the service enlarged where it runs, else a replica answer half of its sources.

        More units where it runs need no image, and lead no traffic away.
        """
        trouble = goal.predicate_as(ServiceTrouble)
        seen = self._known(trouble.ip)
        yield from self._guard(me, seen, trouble)
        yield from self._claimed(me, trouble, SCALE, self._scale(me, seen, trouble))

    def _scale(self, me: Agent, seen: _Service, trouble: ServiceTrouble) -> Part:
        if seen.lessened is not None:  # how much the last one carried is known by now
            soon = me.now - seen.lessened < me.parameter(self, "replica_hold_s")
            seen.relapses = min(seen.relapses + 1, MOST_RELAPSES) if soon else 0
            seen.lessened = None
        mb_s = HEADROOM * max(seen.received(trouble.ip)[-1:], default=0.0) / 2
        larger = ScaledUp(trouble.ip, 1 + len(self._in_force(me, ScaledUp, trouble.ip)))
        if _offered(me, larger):
            enlarged = yield Achieve(self._sought(trouble, seen.at, larger, mb_s))
            if enlarged.achieved:
                yield from self._await_end(me, trouble)
                return
        parts = 2
        while me.beliefs.holds(Replicated(trouble.ip, parts // 2, parts)):
            parts *= 2
        if parts > MOST_PARTS:
            raise PlanFailed(f"it has as many replicas as it may have: {parts.bit_length() - 2}")
        wanted = Replicated(trouble.ip, parts // 2, parts)
        yield from self._have(me, trouble, wanted, mb_s)

    def _known(self, ip: str) -> _Service:
        if ip not in self._services:
            raise PlanFailed("nothing is known of the service yet")
        return self._services[ip]

    def _guard(self, me: Agent, seen: _Service, trouble: ServiceTrouble) -> Part:
        """Refuse to scale for attackers, and report them to where they enter.

        On a model's word alone nobody is reported: a rule says so, too, once it matters.

        Raises:
            PlanFailed: if they explain the load.

        """
        yield from self._wait(me, seen)
        share, of = seen.attackers(trouble.ip, self._peers(me))
        if share < EXPLAINS:
            return
        if not of:
            reason = "for attackers of functions that ask for it"
            if seen.signalling:
                reason = "of devices that asked just before"
                report_attack(me, AttackReport(trouble.ip, (SIGNALLING_STORM,)))
            about = {"service": trouble.ip, "trouble": trouble.kind, "share": round(share, 6)}
            yield Note("scaling.refused", {**about, "reason": reason})
            raise PlanFailed(f"it is not for users: {share:.0%} of it is {reason}")
        kinds, sources = sorted({f.kind for f in of.values()}), sorted(of)
        about = {"service": trouble.ip, "trouble": trouble.kind, "share": round(share, 6)}
        evidence = {source: of[source].evidence for source in sources}
        more = {"kinds": kinds, "sources": sources, "evidence": evidence}
        yield Note("scaling.refused", {**about, **more})
        if seen.certain:
            report_attack(me, AttackReport(trouble.ip, tuple(kinds), tuple(sources)))
        raise PlanFailed(f"it is not for users: {share:.0%} of it is {', '.join(kinds)}")

    @hears(AttackReport)
    def heard_report(self, me: Agent, message: Message) -> None:
        """Remember which addresses are attacked."""
        report = message.content_as(AttackReport)
        if report.kinds and len(self._attacked) < MOST_TARGETS:
            self._attacked[report.target] = me.now

    def _wait(self, me: Agent, seen: _Service) -> Part:
        """Wait for looks as young as the metrics, or for word of attacks on those who ask."""
        if seen.signalling:
            yield Pause(TELL_S)
        elif seen.asked_by(self._peers(me)):
            yield Pause(2 * TELL_S)

    def _peers(self, me: Agent) -> dict[str, bool]:
        """Return the addresses of functions of slices, each with whether it is attacked."""
        loops = me.capability(Bidder).settings.loops.values()
        lately = me.now - ATTACKED_S
        return {
            x.address: self._attacked.get(x.address, lately) > lately for x in loops if x.address
        }

    @plan(EntityTrouble, Mode.AVERT, local=True, applies=_watched)
    def keep_up(self, me: Agent, goal: GoalInstance) -> Body:
        """See to it that a function has no more to do than it can, as its own troubles have it."""
        trouble = goal.predicate_as(EntityTrouble)
        yield from self._await_end(
            me, ServiceTrouble(address_of(me, trouble.entity), OVERLOADED[0])
        )
        yield Believe(trouble, value=False)

    @plan(AttackLoad, Mode.FIND_OUT, local=True)
    def tell_attackers(self, me: Agent, goal: GoalInstance) -> Body:
        """Tell the loop of a function whether attackers make the load, before others scale it."""
        asked = goal.predicate_as(AttackLoad)
        ip = address_of(me, asked.entity)
        seen = self._known(ip)
        yield from self._wait(me, seen)
        share, _ = seen.attackers(ip, self._peers(me))
        yield Believe(asked, value=share >= EXPLAINS)

    @when(ClaimHeld, value=False)
    def overruled(self, me: Agent, held: ClaimHeld) -> Steps:
        """Scale no further once what goes first has overruled it."""
        ip = address_of(me, held.entity)
        for kind in OVERLOADED if held.action == SCALE else ():
            yield Drop(avert(ServiceTrouble(ip, kind)), "the loop of the function overruled it")

    # -- no memory left -----------------------------------------------------------------

    @plan(ServiceTrouble, Mode.AVERT, local=True, applies=_of(HIGH_MEMORY))
    def restart(self, me: Agent, goal: GoalInstance) -> Body:
        """Start the service anew before it has none left, under a limit, and not for ever."""
        trouble = goal.predicate_as(ServiceTrouble)
        seen, span_s = self._known(trouble.ip), me.parameter(self, "restarts_s")
        lately = sum(at > me.now - span_s for at in seen.restarts)
        left = int(me.parameter(self, "restarts_most")) - lately
        if left <= 0:
            raise PlanFailed(f"it was started anew {lately} times in {span_s:g} s")
        most = seen.counter + left
        yield from self._claimed(me, trouble, RESTART, self._restart(me, trouble, most))

    def _restart(self, me: Agent, trouble: ServiceTrouble, most: int) -> Part:
        yield Act(RestartService(trouble.ip, most, MEMORY_LIMIT))
        yield from self._await_end(me, trouble)

    @plan(ServiceTrouble, Mode.AVERT, local=True, rank=1, applies=_of(HIGH_MEMORY))
    def take_over(self, me: Agent, goal: GoalInstance) -> Body:
        """Have a replica answer for all of it, where starting anew does not help."""
        trouble = goal.predicate_as(ServiceTrouble)
        seen, wanted = self._known(trouble.ip), Replicated(trouble.ip, 0, 1)
        if me.beliefs.holds(wanted):
            return
        yield from self._guard(me, seen, trouble)
        most_mb_s = max(seen.received(trouble.ip), default=0.0)
        yield from self._claimed(me, trouble, SCALE, self._take_over(seen, trouble, most_mb_s))

    def _take_over(self, seen: _Service, trouble: ServiceTrouble, most_mb_s: float) -> Part:
        wanted = Replicated(trouble.ip, 0, 1)
        end = yield Achieve(self._sought(trouble, seen.at, wanted, HEADROOM * most_mb_s))
        if end.achieved:
            return
        reason = f"{wanted}: {end.reason or end.outcome.value}"
        if not seen.told:
            seen.told = True
            about = {"service": trouble.ip, "trouble": trouble.kind}
            yield Note("trouble.unrelieved", {**about, "reason": reason})
        raise PlanFailed(reason)

    # -- a slow way ---------------------------------------------------------------------

    @plan(ServiceTrouble, Mode.AVERT, local=True, applies=_of(NETWORK_DELAY))
    def lead_around(self, me: Agent, goal: GoalInstance) -> Body:
        """Have what enters there led over a gateway."""
        trouble = goal.predicate_as(ServiceTrouble)
        yield from self._have(me, trouble, Rerouted(trouble.ip, trouble.entry), 0.0)

    @plan(ServiceTrouble, Mode.AVERT, local=True, rank=1, applies=_of(NETWORK_DELAY))
    def place_near(self, me: Agent, goal: GoalInstance) -> Body:
        """Have a replica answer there, or as near as there is room."""
        trouble = goal.predicate_as(ServiceTrouble)
        if me.beliefs.holds(UnderAttack(trouble.ip)):  # nor does it show what users ask for
            raise PlanFailed("an attack takes their way, and is held off")
        seen = self._services.get(trouble.ip)
        mb_s = 0.0 if seen is None else HEADROOM * seen.entries.get(trouble.entry, 0.0)
        near = self._have(me, trouble, PlacedNear(trouble.ip, trouble.entry), mb_s)
        yield from self._claimed(me, trouble, SCALE, near)

    @staticmethod
    def _claimed(me: Agent, trouble: ServiceTrouble, action: str, body: Part) -> Part:
        """Do it while the loops of the functions at the address agree, if there are any."""
        because = f"users have {trouble.kind} there"
        yield from while_claimed(me, claims_at(me, trouble.ip), action, because, body)

    # -- all of them --------------------------------------------------------------------

    def _have(self, me: Agent, trouble: ServiceTrouble, wanted: Predicate, mb_s: float) -> Part:
        """Have an agent see to it."""
        end = yield Achieve(self._sought(trouble, trouble.entry or me.pop or "", wanted, mb_s))
        if not end.achieved:
            raise PlanFailed(f"{wanted}: {end.reason or end.outcome.value}")
        yield from self._await_end(me, trouble)

    def _sought(self, of: ServiceTrouble, tap: PopId, wanted: Predicate, mb_s: float) -> Adopt:
        self._made[wanted] = of.ip
        return Adopt(want(wanted), FIND_OUT, traffic_mb_s=mb_s, tap=tap)

    def _await_end(self, me: Agent, trouble: ServiceTrouble) -> Part:
        """Measure whether what was done has helped.

        Raises:
            PlanFailed: if the trouble goes on; the next alarm does more.

        """
        until = me.now + me.parameter(self, "effect_s")
        kinds = OVERLOADED if trouble.kind in OVERLOADED else (trouble.kind,)
        while any(me.beliefs.holds(ServiceTrouble(trouble.ip, k, trouble.entry)) for k in kinds):
            if me.now >= until:
                raise PlanFailed(f"{trouble.kind} goes on after it")
            yield Pause(me.parameter(self, "metrics_s"))

    def _take_back(self, me: Agent, seen: _Service, ip: str) -> Steps:
        """Give up what was added last once the rest suffices, and try the direct way again."""
        hold_s = me.parameter(self, "replica_hold_s") * 2.0**seen.relapses
        loads = [v for t, v in seen.series.get((ip, "cpu_share"), ()) if t > me.now - hold_s]
        light = 2 * max(loads, default=1.0) <= LIGHT
        added = self._in_force(me, ScaledUp, ip) + self._in_force(me, Replicated, ip)
        light &= me.now - seen.troubled >= hold_s
        for last in added[-1:] if light else ():
            if self._held_s(me, last) >= hold_s:
                # The same load is a larger share of less: that is no trend.
                seen.series.pop((ip, "cpu_share"), None)
                seen.lessened = me.now
                yield Adopt(avert(last), TIDY_UP)
        detours = [*me.beliefs.matching(PlacedNear, ip=ip), *me.beliefs.matching(Rerouted, ip=ip)]
        for detour in detours:
            if self._held_s(me, detour) >= me.parameter(self, "detour_hold_s"):
                yield Adopt(avert(detour), TIDY_UP)

    @staticmethod
    def _in_force(me: Agent, kind: type[Predicate], ip: str) -> list[Predicate]:
        return sorted(me.beliefs.matching(kind, ip=ip), key=astuple)

    @staticmethod
    def _held_s(me: Agent, effect: Predicate) -> float:
        believed = me.beliefs.get(effect)
        return 0.0 if believed is None else me.now - believed.since


def _offered(me: Agent, wanted: Predicate) -> bool:
    """Whether a function of the repository achieves it."""
    catalogue = me.capability(Bidder).settings.catalogue
    return any(function.name in catalogue for function in me.library.achievers(want(wanted)))


def _relieved(trouble: ServiceTrouble) -> bool:
    return trouble.kind in RELIEVED


def _diagnosis(trouble: ServiceTrouble, finding: Finding, detector: str) -> dict[str, Any]:
    about = {"service": trouble.ip, "trouble": trouble.kind, "reason": finding.reason}
    where: dict[str, Any] = {"entry": trouble.entry} if trouble.entry else {}
    if finding.certainty < 1:
        where["certainty"] = finding.certainty
    return {**about, **where, "evidence": finding.evidence, "detector": detector}


def _together(looks: Collection[FlowRecords]) -> tuple[list[FlowAggregate], float]:
    """Return what each source did in several looks, and for how long they looked, in seconds."""
    flows = aggregate(flow for look in looks for flow in look.flows)
    return flows, sum(effective_s(look) for look in looks) or 1.0


def _part(
    flows: Collection[FlowAggregate], of: Collection[str], count: Callable[[FlowAggregate], int]
) -> float:
    """Return what share of all that is counted is that of some sources."""
    return sum(count(one) for one in flows if one.source in of) / max(1, sum(map(count, flows)))
