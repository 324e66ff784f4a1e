"""SSLA assessment: judges what is measured of a slice by its agreements, and has breaches repaired.

It is the analytics and the decision of a security agreement (seed 004, 3.1: "Real-time capture of
metrics; correlate data; verify the defined SSLAs; notify and react to any failure"). The loop of a
slice has its terms, and no other's. A breach is a trouble that the loop believes in, so managers
are told of it; that it is over is a goal, whose plan has the remedies of the term tried in order,
each where the function stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from functools import partial
from math import inf, isfinite
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Outlook
from phalanx.auction.paths import download_time_s
from phalanx.auction.settings import Configured, GoalPolicy
from phalanx.auction.terms import BidTerm, Offer
from phalanx.auction.view import NetworkView
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import (
    Capability,
    hears,
    perceives,
    plan,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import (
    Achieve,
    Adopt,
    Believe,
    Body,
    Pause,
    Perceive,
    PlanFailed,
    Step,
    Steps,
)
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.lifecycle import NewVersion
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid
from phalanx.domain.goals import (
    ConstrainedGoal,
    Constraints,
    Goal,
    Mode,
    Preferences,
    avert,
    want,
)
from phalanx.domain.messages import Insight, Message
from phalanx.domain.network import PopId
from phalanx.domain.predicates import EntityTrouble, Remedied
from phalanx.domain.resources import NOTHING
from phalanx.policy.enforcement import (
    AGREED,
    IN_FORCE,
    RETOLD_S,
    SETTLES_S,
    STANDS_AT,
    UNPATCHED,
    AgreedTerm,
    PolicyEnforcer,
    PolicyPart,
)
from phalanx.policy.ssla import (
    METRICS,
    AgreementFixed,
    AgreementHeld,
    GuaranteeTerm,
    Remediation,
    SecurityAgreement,
    SecurityMetric,
    digest_of,
)

COUNTED = frozenset({SecurityMetric.FOREIGN_SOURCES, SecurityMetric.CLEAR_TEXT})
"""Metrics that are sums over the window; all others but availability are the worst in it."""
FEWEST = 5
"""So many requests in a window say something of availability."""
MOST_READINGS = 4_096
Readings = deque[tuple[float, float, float]]
"""(time, value, whole) of insights."""
VALUE, WHOLE = 0, 1
SAYS_ONLY = frozenset({Remediation.NOTIFY, Remediation.LOG})
TRIES = {Remediation.REPLICATE: 3}
"""How often a remedy is tried that may help in part, if not once."""


class TermBreach(Struct, frozen=True):
    """A term that is broken at a function."""

    key: str
    entity: str
    since_s: float
    event: str
    value: float
    """The worst so far."""
    good_since_s: float = -1.0
    """Since when the figure is within the objective again; -1: it is not."""
    remedy: str = ""
    """What was done last."""
    by: str = ""
    """The agent that did it."""


class AssessmentMemory(Struct, frozen=True):
    """What must survive a crash."""

    breaches: tuple[TermBreach, ...] = ()
    part: PolicyPart | None = None
    """What the agent was given since its start."""


def _is_ours(me: Agent, goal: GoalInstance) -> bool:
    return me.capability(SslaAssessment)._of(goal) is not None


class SslaAssessment(Configured, Capability):
    """Holds what is measured against the terms of the slices that the agent judges."""

    name = "ssla-assessment"
    parameters: ClassVar = {
        "ssla_hold_s": 2.0,
        "ssla_tick_s": 0.5,
        "ssla_patience_s": 15.0,
        "ssla_again_s": 30.0,
    }

    def __init__(self) -> None:
        self.part = PolicyPart()
        self._readings: dict[tuple[str, str, str], Readings] = {}
        """By slice, function and kind."""
        self._reasons: dict[tuple[str, str, str], tuple[str, str]] = {}
        """The last evidence, and the event that tells of it."""
        self._breaches: dict[tuple[str, str], TermBreach] = {}
        """By term and function."""
        self._tried_s: dict[tuple[str, str], float] = {}
        self._told: set[tuple[str, str]] = set()
        """Terms of which a first figure was recorded."""
        self._released: tuple[float, ...] = ()
        """When patches were released."""
        self._given_s = 0.0
        self._ticking = False

    @starts
    def begin(self, me: Agent) -> None:
        """Bar what may not run at the agent's PoP, and wait for what nobody tells of."""
        self._given_s = me.now
        self._take(me)

    @perceives(PolicyPart)
    def given(self, me: Agent, part: PolicyPart) -> Steps:
        """Judge by other terms; breaches of those that hold no more are over."""
        self.part, self._given_s = part, me.now
        self._readings.clear()
        self._told.clear()
        keys = {each.key for each in part.terms}
        for breach in [each for each in self._breaches.values() if each.key not in keys]:
            yield from self._restore(me, breach, "the term holds no more")
        self._take(me)

    def _take(self, me: Agent) -> None:
        barred: dict[str, str] = {}
        self.settings.barred = barred
        for address, start_s, why in self.part.barred:
            me.call_at(max(me.now, start_s), partial(barred.__setitem__, address, why))
        if self.part.judges:
            for each in self.part.revoked:
                me.call_at(max(me.now, each.at_s), partial(self._tick, me))
            self._next(me)

    # -- what is measured -------------------------------------------------------------------

    @perceives(Insight)
    def saw(self, me: Agent, insight: Insight) -> Steps:
        """Judge what a function of this agent measured."""
        if self.part.judges:
            yield from self._judge(me, insight)

    @hears(Insight)
    def told(self, me: Agent, message: Message) -> Steps:
        """Judge what a loop below measured, or pass it on at once if another loop judges it."""
        insight, contacts = message.content, me.capability(LoopContacts)
        assert isinstance(insight, Insight)
        allowed = contacts.relation(me, message.sender, insight.slice) == "below"
        own = insight.entity in contacts.entities(message.sender)
        if not (allowed and own and contacts.trusts(message.sender)) or not is_measured(
            insight.kind
        ):
            return  # the loop has refused it
        if self.part.judges:
            yield from self._judge(me, insight)
        else:
            me.revise(insight)  # its closed loop shares it with those above

    @perceives(NewVersion)
    def released(self, me: Agent, percept: NewVersion) -> None:  # noqa: ARG002  # of any function
        """Note when a patch was released."""
        self._released = (*self._released, me.now)[-MOST_READINGS:]
        if self.part.judges:
            self._next(me)

    def _judge(self, me: Agent, insight: Insight) -> Steps:
        key = insight.slice, insight.entity, insight.kind
        readings = self._readings.setdefault(key, deque(maxlen=MOST_READINGS))
        readings.append((me.now, insight.value, insight.whole))
        if insight.reason:
            self._reasons[key] = insight.reason, me.cause
        return self._assess(me)

    def _tick(self, me: Agent) -> Steps:
        self._ticking = False
        return self._assess(me)

    def _next(self, me: Agent) -> None:
        """Look again soon, as long as something could change without being told."""
        if not self._ticking:
            self._ticking = True
            me.call_at(me.now + me.parameter(self, "ssla_tick_s"), partial(self._tick, me))

    def _assess(self, me: Agent) -> Steps:
        """Judge all terms by what is known now."""
        waits, cause = False, me.cause
        for agreed in filter(None, map(self._settled, self.part.terms)):
            for entity in sorted(self._entities(agreed.term.slice)):
                value = self._value(agreed, entity, me.now)
                if value is None or me.now < agreed.start_s:
                    waits |= me.now < agreed.start_s
                    continue
                me.cause = cause
                yield from self._compare(me, agreed, entity, value)
                quiet = value == (1.0 if METRICS[agreed.term.metric].better == "higher" else 0.0)
                waits |= not quiet or (agreed.key, entity) in self._breaches
        if waits:
            self._next(me)

    def _settled(self, of: AgreedTerm) -> AgreedTerm | None:
        """Return a term with the objective that was agreed; None: it is not, as far as is known."""
        if not of.negotiated:
            return of
        told = [x[-1][:2] for key, x in self._readings.items() if key[2] == f"{AGREED}:{of.key}"]
        term = replace(of.term, objective=max(told)[1]) if told else of.term
        worst = of.term.objective if term.acceptable is None else term.acceptable
        return replace(of, term=term) if told and not term.worse(term.objective, worst) else None

    def _entities(self, slice_name: str) -> set[str]:
        return {each.entity for each in self.part.functions if each.slice == slice_name}

    def _value(self, agreed: AgreedTerm, entity: str, now: float) -> float | None:
        """Return the indicator of a term over its window; None: nothing was measured."""
        term, metric = agreed.term, agreed.term.metric
        since = now - term.window_s

        def over(kind: str) -> Readings:
            return self._readings.get((term.slice, entity, kind), deque())

        if metric is SecurityMetric.AVAILABILITY:
            asked, answered = (_grown(over(metric.value), since, which) for which in (WHOLE, VALUE))
            return None if asked < FEWEST else min(1.0, answered / asked)
        if metric in COUNTED:
            return _grown(over(metric.value), since) if over(metric.value) else None
        if metric is SecurityMetric.ANALYSIS_INTERVAL:
            readings = over(metric.value)
            return now - max(readings[-1][0] if readings else 0.0, self._given_s, agreed.start_s)
        if metric is SecurityMetric.GEOLOCATION:
            stands = (
                kind.removeprefix(STANDS_AT)
                for (of, where, kind), readings in self._readings.items()
                if (of, where) == (term.slice, entity) and kind.startswith(STANDS_AT)
                if readings[-1][1]
            )
            laws = [self.part.jurisdictions.get(pop, "") for pop in stands]
            return float(sum(law not in term.allowed for law in laws)) if laws else None
        if metric is SecurityMetric.PATCH_DELAY:
            readings, due = over(UNPATCHED), self._released[-1:]
            late = bool(readings and readings[-1][1])
            return now - due[0] if late and due else (0.0 if readings else None)
        if metric is SecurityMetric.RECONFIGURE_DELAY:
            readings = over(IN_FORCE)
            done = readings[-1][1] if readings else self.part.number - 1
            times = [self._given_s] * self.part.number
            times += sorted(x.at_s for x in self.part.revoked if x.slice == term.slice and x.at_s)
            due_s = next((at for n, at in enumerate(times, 1) if n > done and at <= now), None)
            return 0.0 if due_s is None else now - due_s
        return _worst(over(metric.value), since)

    # -- what is a breach -------------------------------------------------------------------

    def _compare(self, me: Agent, agreed: AgreedTerm, entity: str, value: float) -> Steps:
        term, key = agreed.term, (agreed.key, entity)
        breach, broken = self._breaches.get(key), agreed.term.breached(value)
        if breach is None and not broken and key not in self._told:
            self._told.add(key)
            me.record("ssla.measured", **_about(agreed, entity), value=round(value, 6))
        if breach is None and broken:
            yield from self._begin(me, agreed, entity, value)
        elif breach is not None and broken:
            better = METRICS[term.metric].better == "higher"
            worst = min(breach.value, value) if better else max(breach.value, value)
            self._breaches[key] = replace(breach, value=worst, good_since_s=-1.0)
            yield from self._remedy_again(me, agreed, breach)
        elif breach is not None:
            since = breach.good_since_s if breach.good_since_s >= 0 else me.now
            self._breaches[key] = breach = replace(breach, good_since_s=since)
            if me.now - since >= me.parameter(self, "ssla_hold_s"):
                yield from self._restore(me, breach, "")

    def _begin(self, me: Agent, agreed: AgreedTerm, entity: str, value: float) -> Steps:
        term = agreed.term
        kinds = [key for key in self._reasons if key[:2] == (term.slice, entity)]
        kinds = [key for key in kinds if _is_of(key[2], term.metric)]
        evidence, cause = self._reasons[kinds[-1]] if kinds else ("", me.cause)
        me.cause = cause
        event = me.record(
            "ssla.breached",
            **_about(agreed, entity),
            value=round(value, 6),
            objective=term.objective,
            unit=METRICS[term.metric].unit,
            window_s=term.window_s,
            evidence=evidence or METRICS[term.metric].indicator,
            prevented_by=METRICS[term.metric].prevention,
            remedies=[each.value for each in term.remediation],
        )
        me.cause = event
        breach = TermBreach(agreed.key, entity, me.now, event, value)
        self._breaches[agreed.key, entity] = breach
        yield Believe(EntityTrouble(term.slice, entity, agreed.key))
        yield from self._remedy_again(me, agreed, breach)

    def _remedy_again(self, me: Agent, agreed: AgreedTerm, breach: TermBreach) -> Steps:
        """Want the breach to be over, unless that is wanted or has just failed."""
        key, goal = (
            (breach.key, breach.entity),
            avert(EntityTrouble(agreed.term.slice, breach.entity, breach.key)),
        )
        tried_s = self._tried_s.get(key)
        if me.open_goal(goal) is None and (
            tried_s is None or me.now - tried_s >= me.parameter(self, "ssla_again_s")
        ):
            self._tried_s[key] = me.now
            me.cause = breach.event
            yield Adopt(goal, PROTECT)

    def _restore(self, me: Agent, breach: TermBreach, why: str) -> Steps:
        key = breach.key, breach.entity
        del self._breaches[key]
        self._tried_s.pop(key, None)
        agreed = next((each for each in self.part.terms if each.key == breach.key), None)
        lasted = me.now - breach.since_s
        penalty = None if agreed is None else agreed.term.penalty
        owed = penalty.credit if penalty is not None and lasted > penalty.after_s else 0.0
        me.cause = breach.event
        about = {"term": breach.key, "entity": breach.entity}
        if agreed is not None:
            about = _about(agreed, breach.entity)
        me.changes += 1
        me.cause = me.record(
            "ssla.restored",
            **about,
            breach=breach.event,
            lasted_s=round(lasted, 6),
            worst=round(breach.value, 6),
            remedy=breach.remedy,
            by=breach.by,
            credit=owed,
            **({"reason": why} if why else {}),
        )
        troubles = me.beliefs.matching(EntityTrouble, entity=breach.entity)
        for trouble in [each for each in troubles if each.kind == breach.key]:
            yield Believe(trouble, value=False)

    # -- what is done about it --------------------------------------------------------------

    def _of(self, goal: GoalInstance) -> TermBreach | None:
        trouble = goal.predicate_as(EntityTrouble)
        return self._breaches.get((trouble.kind, trouble.entity))

    @plan(EntityTrouble, Mode.AVERT, applies=_is_ours)
    def repair(self, me: Agent, goal: GoalInstance) -> Body:
        """Have the remedies of the term done in order, until the breach is over."""
        trouble = goal.predicate_as(EntityTrouble)
        agreed = next(each for each in self.part.terms if each.key == trouble.kind)
        key = trouble.kind, trouble.entity
        failed: list[str] = []
        active = [
            each
            for each in agreed.term.remediation
            for _ in range(TRIES.get(each, 1))
            if each not in SAYS_ONLY
        ]
        metric = agreed.term.metric.value
        for remedy in active:
            undone = True
            while undone:
                wanted = Remedied(trouble.slice, trouble.entity, metric, remedy.value)
                end = yield Achieve(Adopt(want(wanted), PROTECT, afresh=True))
                if not end.achieved:
                    failed.append(f"{remedy.value}: {end.reason or end.outcome.value}")
                    break
                if key in self._breaches:
                    by = next(
                        (x.pop for x in self.part.functions if x.entity == trouble.entity), me.name
                    )
                    self._breaches[key] = replace(self._breaches[key], remedy=remedy.value, by=by)
                undone = yield from self._await_end(me, agreed, trouble)
            if not me.beliefs.holds(trouble):
                return
            if end.achieved:
                failed.append(f"{remedy.value} has not ended it")
        raise PlanFailed("; ".join(failed) or "the term names nothing that is to be done about it")

    def _await_end(
        self, me: Agent, agreed: AgreedTerm, trouble: EntityTrouble
    ) -> Generator[Step, Any, bool]:
        """Wait for the end of a breach; return whether what was done helped, and was undone."""
        kind = trouble.slice, trouble.entity, agreed.term.metric.value
        hold, helped_s, since = me.parameter(self, "ssla_hold_s"), inf, me.now
        until = me.now + me.parameter(self, "ssla_patience_s") + agreed.term.window_s
        while me.now < until and me.beliefs.holds(trouble):
            yield Pause(me.parameter(self, "ssla_tick_s"))
            if agreed.term.metric not in COUNTED or me.now < since + hold:
                continue
            counted: Readings = self._readings.get(kind, deque())
            if _grown(counted, helped_s):
                return True
            if helped_s == inf and not _grown(counted, me.now - hold):
                helped_s = me.now
        return False

    # -- memory -----------------------------------------------------------------------------

    @remembers(AssessmentMemory)
    def remember(self, me: Agent) -> AssessmentMemory | None:  # noqa: ARG002  # all is its own
        """Return the breaches that last."""
        given = self.part if self.part.number else None
        if not self._breaches and given is None:
            return None
        return AssessmentMemory(tuple(self._breaches.values()), given)

    @recalls
    def recall(self, me: Agent, part: AssessmentMemory | None, shift: float) -> Steps:
        """Go on with them; what was measured is told again as it changes."""
        if part is not None and part.part is not None:
            yield Perceive(part.part)
        for each in part.breaches if part is not None else ():
            moved = replace(each, since_s=each.since_s + shift, good_since_s=-1.0)
            self._breaches[each.key, each.entity] = moved
        self._next(me)


PRICE, DELAY = 0.4, 0.1
"""Weights of the price and of the time until a provider is ready; the terms have the rest."""
UNPENALISED = 0.05
"""What a term without a penalty weighs beside the credits of others."""
M = SecurityMetric
_DOWNLOADS = {
    M.DEPLOY_DELAY: ("policy-enforcer", "gateway"),
    M.PATCH_DELAY: ("policy-enforcer",),
    M.SWITCH_DELAY: ("service-replica",),
}
"""By metric: functions that have to be brought and started in that time, where there are any."""


class SslaNegotiation(Configured, Capability):
    """Finds the provider, the objectives and the price of an agreement, by auction.

    The consumer is the agent where the slice's first function stands. Its auctioneer calls for
    proposals as for any goal, and this is the ``Tender`` of these goals: terms of the agreement
    are terms of the bid, with the objectives as hard limits, and weigh as much as their penalties.
    A provider derives what it can hold from its PoP. It offers that, or refuses with the nearest
    that it can hold; then the consumer concedes that, if it is acceptable.
    """

    name = "ssla-negotiation"
    parameters: ClassVar = {"ssla_reserve": 0.2}
    """By what share of it a promise is kept short of what the agent can do."""

    def __init__(self) -> None:
        self._me: Agent
        self._limits: dict[Goal, dict[str, float]] = {}
        """What is asked for in the next round, by term of the bid."""
        self._worst: dict[SecurityMetric, float] = {}
        """The worst that was measured here: no promise is better."""
        self._begun: set[Goal] = set()
        self._past: dict[str, AgreementFixed] = {}
        """What was concluded with who was lost since, by its name."""

    @starts
    def begin(self, me: Agent) -> None:
        """Take part in negotiations; begin those of this agent once the others are heard of."""
        self._me = me
        me.capability(Bidder).tenders[AgreementHeld] = self
        me.call_at(me.now + self.settings.deadline_s, partial(self._look, me))

    @perceives(PolicyPart)
    def given(self, me: Agent, part: PolicyPart) -> Steps:
        """Release what another policy does not ask for; soon ask for what it does."""
        self._begun.clear()
        wanted = {each.asked() for each in part.negotiated}
        for each in me.capability(Auctioneer).delegations.by_effect:
            if isinstance(each, AgreementHeld) and each.agreement not in wanted:
                yield Adopt(avert(each), PROTECT)

    def _look(self, me: Agent) -> None:
        """Ask for what is to be agreed by now, once; tell what was agreed to the slice's loop."""
        blind = me.capability(Outlook).free is NOTHING  # the network has not told of itself yet
        for each in () if blind else me.capability(SslaAssessment).part.negotiated:
            goal = want(AgreementHeld(each.asked()))
            held = me.beliefs.holds(goal.predicate) is True
            if me.now >= each.start_s and not held and goal not in self._begun:
                self._begun.add(goal)
                me.do_step(Adopt(goal, PROTECT))
        me.do(self._tell(me))
        pause_s = self.settings.deadline_s if blind else RETOLD_S
        me.call_at(me.now + pause_s, partial(self._look, me))

    def _tell(self, me: Agent) -> Steps:
        part = me.capability(SslaAssessment).part
        asked = {each.name for each in part.negotiated}
        for each in me.beliefs.matching(AgreementFixed):
            for term in each.agreement.terms if each.agreement.name in asked else ():
                entity = next(x.entity for x in part.functions if x.slice == term.slice)
                kind = f"{AGREED}:{each.agreement.name}/{term.name}"
                yield Perceive(Insight(term.slice, entity, kind, term.objective))

    # -- the consumer -----------------------------------------------------------------------

    def terms(self, goal: Goal) -> tuple[BidTerm, ...]:
        """Return the terms of the agreement as terms of a bid.

        A provider is not believed to hold more than follows from the consumer's own view.
        """
        of = _asked(goal).terms
        return tuple(
            BidTerm(x.bid_term, partial(self._offered, x), x.up, least=partial(self._believed, x))
            for x in of
        )

    def call(self, goal: Goal) -> tuple[GoalPolicy, tuple[AgentId, ...]]:
        """Return the objectives of the next round as limits, what terms weigh, and the providers.

        Raises:
            PlanFailed: if the policy does not ask for it any more.

        """
        terms, own = _asked(goal).terms, self._own(goal)
        shares = [each.penalty.credit if each.penalty else UNPENALISED for each in terms]
        part = (1.0 - PRICE - DELAY) / sum(shares)
        weights = {x.bid_term: share * part for x, share in zip(terms, shares, strict=True)}
        limits = self._limits.get(goal) or {each.bid_term: each.objective for each in terms}
        policy = GoalPolicy(Constraints(terms=limits), Preferences(DELAY, PRICE, 0.0, weights))
        return policy, own.negotiated_with or ()

    def _own(self, goal: Goal) -> SecurityAgreement:
        for each in self._me.capability(SslaAssessment).part.negotiated:
            if each.asked() == _asked(goal):
                return each
        raise PlanFailed("the policy does not ask for it any more")

    def concede(self, goal: Goal, nearest: Mapping[AgentId, Mapping[str, float]], turn: int) -> str:
        """Ask for what the provider that is nearest can hold, if all of it is acceptable."""
        me, own = self._me, self._own(goal)
        now, alive = self.call(goal)[0].constraints.terms, me.capability(Outlook).alive()
        ways: list[tuple[float, AgentId, dict[str, float]]] = []
        for agent, values in nearest.items() if turn < self.settings.rounds else ():
            told = {x: values[x.bid_term] for x in own.terms if x.bid_term in values}
            moved = {x.bid_term: v for x, v in told.items() if x.worse(v, now[x.bid_term])}
            worst = {x: x.objective if x.acceptable is None else x.acceptable for x in told}
            if moved and agent in alive and not any(x.worse(v, worst[x]) for x, v in told.items()):
                shift = sum(abs(v - now[name]) / (now[name] or 1.0) for name, v in moved.items())
                ways.append((shift, agent, moved))
        if not ways:
            return "no provider can hold what is acceptable" if nearest else ""
        _, agent, moved = min(ways, key=lambda way: way[:2])
        self._limits[goal] = {**now, **moved}
        changed = {name.removeprefix("ssla."): [now[name], value] for name, value in moved.items()}
        about = {"agreement": own.name, "round": turn, "provider": agent}
        me.cause = me.record("ssla.conceded", **about, objectives=changed)
        return ""

    def concluded(self, goal: Goal, winner: AgentId, bid: Bid, turn: int) -> Steps:
        """Hold the agreement, and have it judged by its objectives from now on."""
        me, asked = self._me, _asked(goal)
        agreed = asked.agreed(winner, bid.terms)
        self._limits.pop(goal, None)
        about = {"agreement": agreed.name, "slice": agreed.terms[0].slice, "provider": winner}
        told = {"asked": asked.objectives(), "objectives": agreed.objectives(), "rounds": turn}
        fixed = {"price": agreed.price, "digest": digest_of(agreed)}
        me.cause = me.record("ssla.agreed", **about, **told, **fixed)
        yield Believe(AgreementFixed(agreed))
        yield from self._tell(me)

    @when(AgreementFixed)
    def fixed(self, me: Agent, new: AgreementFixed) -> Steps:
        """Hold an agreement in place of an older one of the same name."""
        for each in me.beliefs.matching(AgreementFixed):
            if each.agreement.name == new.agreement.name and each != new:
                yield Believe(each, value=False)

    @when(AgreementHeld, value=None)
    @when(AgreementHeld, value=False)
    def ended(self, me: Agent, held: AgreementHeld) -> Steps:
        """Hold no longer what was concluded with a provider that is gone, or was released."""
        for each in me.beliefs.matching(AgreementFixed):
            if each.agreement.name == held.agreement.name:
                self._past[each.agreement.name] = each
                yield Believe(each, value=False)

    @when(AgreementHeld)
    def again(self, me: Agent, held: AgreementHeld) -> Steps:
        """Hold again what was concluded, if its provider was taken for gone and is back."""
        past, belief = self._past.pop(held.agreement.name, None), me.beliefs.get(held)
        if past is not None and belief and belief.mandate == digest_of(past.agreement):
            yield Believe(past)

    # -- the provider -----------------------------------------------------------------------

    @perceives(Insight)
    def measured(self, me: Agent, insight: Insight) -> None:  # noqa: ARG002  # all is its own
        """Note the worst delay and availability that were measured here."""
        metric = next((each for each in M if each.value == insight.kind), None)
        if metric is M.AVAILABILITY and insight.whole >= FEWEST:
            self._worst[metric] = min(insight.value / insight.whole, self._worst.get(metric, 1.0))
        elif metric is not None and insight.kind.endswith("-delay"):
            self._worst[metric] = max(insight.value, self._worst.get(metric, 0.0))

    def shortfalls(self, call: ConstrainedGoal) -> tuple[str, dict[str, float]]:
        """Return which objectives this agent cannot hold, why, and the nearest that it can."""
        reasons: list[str] = []
        nearest: dict[str, float] = {}
        for each in _asked(call.goal).terms:
            limit = call.constraints.terms.get(each.bid_term, each.objective)
            best, why = self._held(each)
            if each.worse(best, limit):
                unit = f" {METRICS[each.metric].unit}".rstrip()
                about = f"{each.name} ({each.metric.value} of {each.slice})"
                near = f"; the nearest is {best:g}{unit}" if isfinite(best) else ""
                reasons.append(f"{about}: {limit:g}{unit} is asked, and {why}{near}")
                nearest |= {each.bid_term: best} if isfinite(best) else {}
        return "; ".join(reasons), nearest

    def _offered(self, term: GuaranteeTerm, _: Offer) -> float:
        return self._held(term)[0]

    def _held(self, term: GuaranteeTerm) -> tuple[float, str]:
        """Return the best objective that this agent promises, and what keeps it from a better."""
        me = self._me
        best, why = self._best(term, me.pop or "", me.capability(Outlook).view)
        worst = self._worst.get(term.metric, best)
        if term.worse(worst, best):
            best, why = worst, f"{worst:.3g} {METRICS[term.metric].unit} was measured here"
        reserve = me.parameter(self, "ssla_reserve")
        if term.metric is M.AVAILABILITY:
            return round(max(best - (1.0 - best) * reserve, 0.0), 6), why
        return round(best * (1.0 + reserve) if METRICS[term.metric].unit else best, 6), why

    def _believed(self, term: GuaranteeTerm, offer: Offer) -> float:
        return self._best(term, offer.pop, offer.view)[0]

    def _best(self, term: GuaranteeTerm, pop: PopId, view: NetworkView) -> tuple[float, str]:
        """Return the best that can be held at a PoP by what a view knows of it, and why."""
        me, metric, known = self._me, term.metric, self.settings.catalogue
        enforcer, notice_s = me.capability(PolicyEnforcer), 0.0
        look_s = me.parameter(enforcer, "policy_look_s")
        if metric is M.AVAILABILITY:
            site = view.site(pop)
            lost = min((x.loss for x in (site.links if site else ()) if x.up), default=0.0)
            return 1.0 - lost, f"the best link of {pop} loses {lost:.3g} of what is sent"
        if metric is M.GEOLOCATION:
            law = me.capability(SslaAssessment).part.jurisdictions.get(pop, "no known place")
            return float(law not in term.allowed), f"{pop} is in {law}"
        if metric is M.GTP_TUNNELS:
            return term.objective, "any number of them is enforced alike"
        if metric is M.CLEAR_TEXT and "gateway" not in known:
            return inf, "no function in the repository encrypts"
        if metric is M.ANALYSIS_INTERVAL:
            look_s += me.parameter(enforcer, "policy_pause_s")
            return look_s, f"{pop} looks every {look_s:g} s"
        if metric in (M.RECONFIGURE_DELAY, M.REVOKE_DELAY):
            return look_s + SETTLES_S, f"a change takes {look_s + SETTLES_S:g} s at {pop}"
        if metric is M.SWITCH_DELAY:
            notice_s = look_s if "service-replica" in known else inf
        best, why = notice_s, "service-replica is not in the repository"
        for vnfd in [known[x] for x in _DOWNLOADS.get(metric, ()) if x in known]:
            time_s = download_time_s(view, self.settings.repository, pop, vnfd)
            time_s = inf if time_s is None else time_s
            if notice_s + time_s + vnfd.boot_s > best:
                best = notice_s + time_s + vnfd.boot_s
                why = f"{vnfd.name} takes {time_s:.3g} s to download and {vnfd.boot_s:g} s to start"
        return best, why


def _asked(goal: Goal) -> SecurityAgreement:
    assert isinstance(goal.predicate, AgreementHeld)
    return goal.predicate.agreement


def is_measured(kind: str) -> bool:
    """Whether an insight of this kind is about agreements."""
    return kind.partition(":")[0] in _KINDS


_KINDS = {each.value for each in SecurityMetric} | {UNPATCHED, IN_FORCE, AGREED}
_KINDS.add(STANDS_AT[:-1])
_EVIDENCE = {
    SecurityMetric.GEOLOCATION: STANDS_AT[:-1],
    SecurityMetric.PATCH_DELAY: UNPATCHED,
}


def _is_of(kind: str, metric: SecurityMetric) -> bool:
    return kind.partition(":")[0] == _EVIDENCE.get(metric, metric.value)


def _about(agreed: AgreedTerm, entity: str) -> dict[str, Any]:
    term = agreed.term
    about = {"agreement": agreed.agreement, "term": term.name, "slice": term.slice}
    about |= {"entity": entity, "metric": term.metric.value}
    return {**about, "intent": term.intent} if term.intent else about


def _grown(readings: Readings, since: float, which: int = VALUE) -> float:
    """Return by how much a counter has grown since a time; one that falls began anew."""
    before, grown = 0.0, 0.0
    for at, *figures in readings:
        value = figures[which]
        if at > since:
            grown += value - before if value >= before else value
        before = value
    return grown


def _worst(readings: Readings, since: float) -> float | None:
    """Return the highest value that held at some time since then."""
    if not readings:
        return None
    within = [value for at, value, _ in readings if at > since]
    return max(*within, readings[-1][1], 0.0)
