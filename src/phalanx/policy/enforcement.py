"""Policy enforcer: keeps the rules of a policy in force where its functions stand, and measures.

It is the monitoring and the enforcement of a security agreement at one PoP (seed 004, 3.1: the
Security SLA Assessment Function "monitors the network traffic in a slice and acts as a firewall").
What it counts are insights, which the loops of the slice pass on to the one that has the terms;
what is to be done about a breach comes back as a goal, ``Remedied``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import (
    Achieve,
    Act,
    Adopt,
    Believe,
    Body,
    Drop,
    Note,
    Pause,
    Perceive,
    PlanFailed,
    Step,
)
from phalanx.coordination.lifecycle import NewVersion
from phalanx.coordination.measures import PROTECT, Part, enforce, inventory_of, lift
from phalanx.domain.actions import FlowRecords, FlowStats, Observe, ReadMeasure, ReadRules
from phalanx.domain.goals import Constraints, Goal, Mode, Predicate, avert, want
from phalanx.domain.messages import Insight
from phalanx.domain.network import PopId
from phalanx.domain.predicates import (
    Encrypted,
    OfEntity,
    PlacedNear,
    PolicyKept,
    Remedied,
    Replicated,
)
from phalanx.domain.resources import Resources
from phalanx.domain.rules import PrefixSet, TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd
from phalanx.policy.plan import PolicyPlan, Revocation
from phalanx.policy.rules import WEEK_MINUTES, PolicyRule, PolicyVerdict, RuleAction, RuleSet
from phalanx.policy.ssla import (
    AgreementFixed,
    AgreementHeld,
    GuaranteeTerm,
    Remediation,
    SecurityAgreement,
    SecurityMetric,
)
from phalanx.policy.traffic import PolicedFunction, WireRule, held_at, of_version, wire_rules

UNPATCHED, IN_FORCE, STANDS_AT, AGREED = "unpatched", "changes-in-force", "stands-at:", "agreed"
"""Kinds of insights beside the metrics'."""
NEEDS = {
    SecurityMetric.GEOLOCATION: (STANDS_AT[:-1],),
    SecurityMetric.PATCH_DELAY: (UNPATCHED,),
    SecurityMetric.RECONFIGURE_DELAY: (IN_FORCE,),
}
"""Kinds of insights that terms about a metric are judged by, where that is not the metric's own."""
ENCRYPTION = "encryption"
AVAILABILITY = SecurityMetric.AVAILABILITY.value
NAMED, MOST_SOURCES = 3, 256
AGAIN_S = 5.0
"""Pause between two events that tell of the same kind of evidence."""
PATCHING_S = 30.0
"""Time in which the instances of a PoP have to be replaced by another version."""
SETTLES_S = 0.2
"""Time after which a rule acts on all packets."""
RETOLD_S = 10.0
"""Pause after which figures are told again that have not changed."""
LEAST_ASKED = 3
"""So many requests without an answer in a look show that a function is lost."""
SITES_S = 5.0
"""Pause between two looks at where the functions of a slice stand."""
MOST_PARTS = 16


class AgreedTerm(Struct, frozen=True):
    """A term, and the agreement that it is of."""

    agreement: str
    start_s: float
    term: GuaranteeTerm
    negotiated: bool = False
    """Whether its objective is not known before the agreement is concluded."""

    @property
    def key(self) -> str:
        """Its name, as beliefs and events write it."""
        return f"{self.agreement}/{self.term.name}"


class PolicyPart(Struct, frozen=True):
    """What one agent is given of a policy: of the slices that it serves, and no other."""

    number: int = 0
    """How many plans held before."""
    terms: tuple[AgreedTerm, ...] = ()
    functions: tuple[PolicedFunction, ...] = ()
    rules: RuleSet = RuleSet("rules")
    """Without slices and labels; of agents of PoPs alone."""
    members: dict[str, tuple[str, ...]] = {}
    revoked: tuple[Revocation, ...] = ()
    jurisdictions: dict[PopId, str] = {}
    minute: float = 0.0
    """Of the week (UTC, from Monday), at second 0 of the agent's clock."""
    judges: bool = False
    """Whether the agent says what is a breach: the loop of a slice, or without loops a PoP's."""
    barred: tuple[tuple[str, float, str], ...] = ()
    """(address, since when, why) of functions for which nothing may run at the agent's PoP."""
    negotiated: tuple[SecurityAgreement, ...] = ()
    """Agreements that the agent negotiates: the first function of their slice stands at its PoP."""

    def of(self, slice_name: str, metric: SecurityMetric) -> Iterator[GuaranteeTerm]:
        """Yield the terms of a slice that are about a metric."""
        for each in self.terms:
            if each.term.slice == slice_name and each.term.metric is metric:
                yield each.term

    def changes(self, slice_name: str, now: float) -> int:
        """Return how many changes of the policy there were for a slice."""
        due = (each.at_s <= now for each in self.revoked if each.slice == slice_name and each.at_s)
        return self.number + sum(due)


def part_of(
    policy: PolicyPlan,
    functions: Iterable[PolicedFunction],
    jurisdictions: Mapping[PopId, str],
    *,
    number: int = 0,
    loop_of: str | None = None,
    pop: PopId | None = None,
    judges: bool = False,
) -> PolicyPart:
    """Return what an agent is given of a policy.

    Args:
        policy: all of it.
        functions: all that it is about.
        jurisdictions: of the PoPs.
        number: how many plans held before.
        loop_of: the slice whose loop the agent is; None: it is the agent of a PoP.
        pop: where that stands.
        judges: whether it says what is a breach.

    """
    held = [x for x in functions if (x.slice == loop_of if loop_of else x.pop == pop)]
    slices = {loop_of} if loop_of else {each.slice for each in held}
    terms = tuple(
        AgreedTerm(agreement.name, agreement.start_s, term, agreement.negotiated_with is not None)
        for agreement in policy.agreements
        for term in agreement.terms
        if term.slice in slices
    )
    revoked = tuple(each for each in policy.revoked if each.slice in slices)
    part = PolicyPart(
        number, terms, tuple(held), revoked=revoked, jurisdictions=dict(jurisdictions)
    )
    if loop_of:
        return replace(part, judges=judges)
    own: dict[str, tuple[str, ...]] = {}
    for each in functions:
        own[each.slice] = (
            *own.get(each.slice, policy.members.slices.get(each.slice, ())),
            each.address,
        )
    members = policy.members.slices | own
    rules = replace(policy.members, slices=members).resolve(policy.rules)
    known = {name: of for name, of in members.items() if name in slices}
    law = jurisdictions.get(pop or "", "")
    barred = tuple(
        (each.address, agreement.start_s, f"{agreement.name}/{term.name} allows it not in {law}")
        for agreement in policy.agreements
        for term in agreement.terms
        for each in functions
        if term.metric is SecurityMetric.GEOLOCATION and term.slice == each.slice
        if law and law not in term.allowed
    )
    first = {each.slice: each.pop for each in reversed([*functions])}
    negotiated = tuple(
        each
        for each in policy.agreements
        if each.negotiated_with is not None and first.get(each.terms[0].slice) == pop
    )
    part = replace(part, rules=rules, members=known, judges=judges, barred=barred)
    return replace(part, negotiated=negotiated)


class RuleEnforced(OfEntity, frozen=True):
    """A rule of the policy is in force for what goes to ``target``."""

    target: str
    """Address."""
    rule: str
    """Its id, with a number if it is put in force as several; of a remedy the metric's name."""
    turn: int = 0
    """How often it had to be put in force again."""


class KeptFunction:
    """What the enforcer knows of one function of a slice."""

    def __init__(self, of: PolicedFunction) -> None:
        self.of = of
        self.goal: GoalInstance | None = None
        """The goal whose instance holds its rules."""
        self.encrypted: PolicyRule | None = None
        """Rule by which it is led there encrypted."""
        self.lost_s: float | None = None
        """Since when it answers nothing, though it is asked."""
        self.served = False
        self.rate_mb_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin to count under a plan."""
        self.counts: Counter[str] = Counter()
        """Foreign and clear packets and requests that were answered, by metric."""
        self.asked = 0
        self.lately = 0, 0
        """Requests that were answered in the last look, and made."""
        self.offenders: dict[SecurityMetric, list[FlowStats]] = {}
        """Flows that broke a term in the last look."""
        self.remedies: dict[str, TrafficRule] = {}
        """Rules beside the policy's, by the name of the metric that they are about."""
        self.must_encrypt = False
        """Whether a remedy has it led there encrypted, though no rule says so."""
        self.wired: tuple[RuleSet, tuple[WireRule, ...]] | None = None
        """The rules that hold now, as they are put in force."""
        self.applied = False
        self.changes = 0
        """Changes of the policy that are in force."""
        self.told: dict[str, tuple[float, float, float]] = {}
        """(value, whole, when) by kind."""
        self.noted: dict[str, float] = {}
        """When evidence of each kind was recorded last."""

    def effect(self, rule: str, turn: int = 0) -> RuleEnforced:
        """Return the belief that a rule is in force."""
        return RuleEnforced(self.of.slice, self.of.entity, self.of.address, rule, turn)

    def encryption(self) -> Encrypted:
        """Return the belief that what goes to it comes encrypted."""
        return Encrypted(self.of.slice, self.of.entity, self.of.address)


def _is_kept(me: Agent, goal: GoalInstance) -> bool:
    wanted = goal.predicate_as(Remedied)
    kept = me.capability(PolicyEnforcer)._kept.get((wanted.slice, wanted.entity))
    return kept is not None and kept.goal is not None


class PolicyEnforcer(Configured, Capability):
    """Puts rules in force, counts what agreements are about, and does what is to be done."""

    name = "policy-enforcer"
    vnfd = Vnfd("policy-enforcer", Resources(0.1, 0.1, 0.0), image_mb=0.0, shared=True)
    enforces = (TrafficVerdict.DROP, TrafficVerdict.LIMIT)
    observes = ("flows",)
    parameters: ClassVar = {"policy_look_s": 1.0, "policy_pause_s": 0.0}

    def __init__(self) -> None:
        self.part = PolicyPart()
        self.stale, self.blind = False, False
        """Whether it applies changes, and looks, no more until it is asked to (faults)."""
        self._kept: dict[tuple[str, str], KeptFunction] = {}
        """By slice and function."""
        self._pending: dict[Goal, float] = {}
        """Security functions that are to be deployed, with the time of the decision."""
        self._pause_s: dict[str, float] = {}
        """By address, once an analysis was asked for."""
        self._again_s: dict[Goal, float] = {}
        self._given_s = -1.0
        self._refused: set[str] = set()
        self._sites_s = -SITES_S
        self._elsewhere: dict[str, list[tuple[PopId, TrafficRule]]] = {}
        """What answers for a function at other PoPs, by its address."""

    @perceives(PolicyPart)
    def given(self, me: Agent, part: PolicyPart) -> None:
        """Keep to another plan from the next look on, and count anew."""
        self.part, self._given_s = part, me.now
        for kept in self._kept.values():
            kept.begin()

    # -- monitoring -------------------------------------------------------------------------

    @plan(PolicyKept)
    def keep(self, me: Agent, goal: GoalInstance) -> Body:
        """Hold the rules in force, and look at the traffic for as long as the goal stands."""
        kept = goal.predicate_as(PolicyKept)
        while True:
            if goal.instance is None or inventory_of(me).get(goal.instance) is None:
                raise PlanFailed("the instance is gone")
            for each in self._at(kept.ip):
                each.goal = goal
                before = self._held(me, each)
                if not self.stale or not each.applied:
                    yield from self._apply(me, each)
                if self._held(me, each) != before:
                    yield Pause(SETTLES_S)  # what was on its way is no breach
            look_s = me.parameter(self, "policy_look_s")
            if self.blind:
                yield Pause(look_s)
                continue
            began = me.now
            try:
                look = yield Act(Observe(goal.instance, look_s, ip=kept.ip))
            except PlanFailed:
                yield Pause(look_s)
                continue
            if began <= self._given_s:
                continue  # it began under another plan
            yield from self._survey(me)
            for each in self._at(kept.ip):
                self._offended(me, each, look)
                gone = (yield from self._gone(me, each)) if each.offenders else []
                self._measure(me, each, look, gone)
            yield Pause(self._pause_s.get(kept.ip, me.parameter(self, "policy_pause_s")))

    @plan(AgreementHeld, applies=lambda _, goal: goal.contract is not None)
    def promise(self, me: Agent, goal: GoalInstance) -> Body:
        """Conclude an agreement that was awarded, if it is what was offered and can be held."""
        wanted, bidder = goal.goal.predicate, me.capability(Bidder)
        assert isinstance(wanted, AgreementHeld)
        contract = bidder.contracts.get(goal.contract or "")
        if contract is None or contract.bid is None:
            raise PlanFailed("the contract is forgotten")
        terms, digest = contract.bid.terms, wanted.fixes(me.name, contract.bid.terms)
        limits = {each.bid_term: terms[each.bid_term] for each in wanted.agreement.terms}
        awarded = replace(contract.call.goal, constraints=Constraints(terms=limits))
        if digest != contract.digest:
            raise PlanFailed(f"the award fixes {contract.digest or 'nothing'}, its bid {digest}")
        if terms["C"] < min(bid.terms["C"] for bid in contract.bids):
            raise PlanFailed(f"the award pays {terms['C']:g}, less than was asked for")
        if short := bidder.shortfalls(awarded)[0]:
            raise PlanFailed(short)
        yield Believe(AgreementFixed(wanted.agreement.agreed(me.name, terms)))
        yield Believe(wanted, holder=me.name, mandate=digest)

    @plan(AgreementHeld, Mode.AVERT)
    def release(self, me: Agent, goal: GoalInstance) -> Body:  # noqa: ARG002  # says it all
        """End an agreement that its consumer wants no more."""
        yield Believe(goal.goal.predicate, value=False)

    def _at(self, ip: str) -> list[KeptFunction]:
        for each in self.part.functions:
            self._kept.setdefault((each.slice, each.entity), KeptFunction(each))
        return [each for each in self._kept.values() if each.of.address == ip]

    def _survey(self, me: Agent) -> Part:
        """Find out where functions answer in place of those here, if that matters to a term."""
        asked = any(each.term.metric is SecurityMetric.GEOLOCATION for each in self.part.terms)
        if not asked or me.now - self._sites_s < SITES_S:
            return
        self._sites_s = me.now
        found: dict[str, list[tuple[PopId, TrafficRule]]] = {}
        for pop in self.part.jurisdictions:
            try:
                there = yield Act(ReadRules(pop))
            except PlanFailed:
                continue
            for each in there.rules:
                if each.rule.verdict is TrafficVerdict.SERVE:
                    found.setdefault(each.rule.match.target or "", []).append((pop, each.rule))
        self._elsewhere = found

    def _allowed(self, ip: str) -> tuple[str, ...]:
        """Return the prefixes that may send to an address: those of all slices that it serves."""
        slices = dict.fromkeys(each.slice for each in self.part.functions if each.address == ip)
        named = [p for name in slices for p in self.part.members.get(name, ())]
        for name in slices:
            for term in self.part.of(name, SecurityMetric.FOREIGN_SOURCES):
                named += term.allowed
        return tuple(dict.fromkeys(of_version(named, ip)))

    def _revoked(self, me: Agent, kept: KeptFunction) -> list[Revocation]:
        every = (each for each in self.part.revoked if each.slice == kept.of.slice)
        due = [each for each in every if each.at_s <= me.now]
        return [each for each in due if of_version((each.address,), kept.of.address)]

    def _offended(self, me: Agent, kept: KeptFunction, look: FlowRecords) -> None:
        """Note which flows break a term."""
        allowed = PrefixSet(self._allowed(kept.of.address))
        revoked = PrefixSet(each.address for each in self._revoked(me, kept))
        limits = [t.objective for t in self.part.of(kept.of.slice, SecurityMetric.GTP_TUNNELS)]
        many = {who for who, n in look.tunnels.items() if limits and n > min(limits)}
        found = {
            SecurityMetric.FOREIGN_SOURCES: [f for f in look.flows if f.source not in allowed],
            SecurityMetric.CLEAR_TEXT: [f for f in look.flows if f.clear],
            SecurityMetric.REVOKE_DELAY: [f for f in look.flows if f.source in revoked],
            SecurityMetric.GTP_TUNNELS: [f for f in look.flows if f.source in many],
        }
        promised = (metric for metric in found if any(self.part.of(kept.of.slice, metric)))
        kept.offenders = {metric: found[metric] for metric in promised if found[metric]}

    def _measure(
        self, me: Agent, kept: KeptFunction, look: FlowRecords, gone: Sequence[str]
    ) -> None:
        """Tell the loops what a look showed."""
        of, counts, foreign = kept.of, kept.counts, SecurityMetric.FOREIGN_SOURCES
        strangers = kept.offenders.get(foreign, [])
        names = {flow.source for flow in strangers}
        members = [f for f in look.flows if f.source not in names and f.protocol == "tcp"]
        asked, answered = sum(f.syn for f in members), sum(f.established for f in members)
        kept.rate_mb_s = sum(f.octets for f in look.flows) / look.seconds / 1e6
        counts[foreign.value] += sum(flow.packets for flow in strangers)
        counts[SecurityMetric.CLEAR_TEXT.value] += sum(f.clear for f in look.flows)
        counts[AVAILABILITY] += min(answered, asked)
        kept.asked += asked
        kept.lately = answered, asked
        figures: dict[str, float] = {
            **counts,
            SecurityMetric.GTP_TUNNELS.value: max(look.tunnels.values(), default=0),
            SecurityMetric.ANALYSIS_INTERVAL.value: me.now,
            SecurityMetric.SWITCH_DELAY.value: _switched(kept, asked, answered, me.now),
            SecurityMetric.REVOKE_DELAY.value: max(
                (me.now - each.at_s for each in self._revoked(me, kept))
                if SecurityMetric.REVOKE_DELAY in kept.offenders
                else (),
                default=0.0,
            ),
            SecurityMetric.DEPLOY_DELAY.value: self._deploying_s(me, kept),
            UNPATCHED: len(self._outdated(me)),
            IN_FORCE: kept.changes,
            **{k: 0.0 for k in kept.told if k.startswith(STANDS_AT)},
        }
        for pop, _ in self._elsewhere.get(of.address, ()):
            figures[f"{STANDS_AT}{pop}"] = 1.0
        figures[f"{STANDS_AT}{of.pop}"] = 1.0
        needed = {kind for t in self.part.terms if t.term.slice == of.slice for kind in _kinds(t)}
        for kind, value in figures.items():
            if kind.partition(":")[0] in needed:
                whole = float(kept.asked) if kind == AVAILABILITY else 0.0
                last = kept.told.get(kind, (0.0, -1.0, 0.0))
                if last[:2] != (value, whole) or me.now - last[2] >= RETOLD_S:
                    kept.told[kind] = value, whole, me.now
                    why = self._evidence(me, kept, kind, look, gone)
                    told = Insight(of.slice, of.entity, kind, round(value, 6), "", why, whole)
                    self._tell(me, kept, told, worse=value > last[0])

    def _tell(self, me: Agent, kept: KeptFunction, told: Insight, *, worse: bool) -> None:
        """Hand a figure to the loops; record what shows that it is bad, now and then."""
        cause, kind = me.cause, told.kind
        if told.reason and worse and me.now - kept.noted.get(kind, -AGAIN_S) >= AGAIN_S:
            kept.noted[kind] = me.now
            broken = [me.beliefs.get(each) for each in self._held(me, kept).values()]
            me.cause = next((each.event for each in broken if each is not None), cause)
            about = {"slice": told.slice, "entity": told.entity, "metric": kind}
            me.cause = me.record("ssla.measured", **about, value=told.value, reason=told.reason)
        me.revise(told)
        me.cause = cause

    def _evidence(
        self, me: Agent, kept: KeptFunction, kind: str, look: FlowRecords, gone: Sequence[str]
    ) -> str:
        """Return what shows that a figure is bad: packets, names; empty: nothing does."""
        named = {each.value: each for each in SecurityMetric}
        metric = named.get(kind)
        flows = kept.offenders.get(metric, []) if metric is not None else []
        sources, of = {flow.source for flow in flows}, kept.of
        if metric is SecurityMetric.GTP_TUNNELS:
            most = sorted(look.tunnels.items(), key=lambda each: (-each[1], each[0]))
            return ", ".join(f"{who} has {number} tunnels" for who, number in most[:NAMED])
        if sources:
            count = sum(
                f.clear if metric is SecurityMetric.CLEAR_TEXT else f.packets for f in flows
            )
            first = min(flows, key=lambda f: (f.source, f.port))
            more = len(sources) - 1
            also = f" and {more} more source{'s' * (more > 1)}" if more else ""
            rules = f"; {', '.join(gone)} is in force no more, though no agent lifted it"
            held = self._denying(me, kept, flows)
            if held and not gone:
                rules = f"; {', '.join(held)} denies them, and does not stop them"
            noun = "packet" if count == 1 else "packets"
            return (
                f"{count} {noun} of {first.source}{also} to {of.address}:{first.port} "
                f"({first.protocol}){rules if gone or held else ''}"
            )
        if kind.startswith(STANDS_AT) and kind != f"{STANDS_AT}{of.pop}":
            return f"an instance at {kind.removeprefix(STANDS_AT)} answers for {of.entity}"
        if kind == UNPATCHED and (outdated := self._outdated(me)):
            return f"{', '.join(v.name for v in outdated)} at {me.pop} has not the newest version"
        if metric is SecurityMetric.AVAILABILITY:
            promised = [t.objective for t in self.part.of(of.slice, metric)]
            answered, asked = kept.lately
            short = answered < max(promised, default=0.0) * asked
            return f"{answered} of {asked} requests were answered" if short else ""
        if metric is SecurityMetric.SWITCH_DELAY:
            return f"{of.address} is asked and answers nothing"
        if metric is SecurityMetric.DEPLOY_DELAY and self._pending:
            return f"{', '.join(str(each) for each in self._pending)} is not deployed yet"
        return ""

    def _deploying_s(self, me: Agent, kept: KeptFunction) -> float:
        """Return how long the deployment of a security function takes, or took since the last."""
        longest = 0.0
        for goal, since in [*self._pending.items()]:
            if goal.predicate == kept.encryption():
                longest = max(longest, me.now - since)
                if me.beliefs.holds(goal.predicate):
                    del self._pending[goal]
        return longest

    def _outdated(self, me: Agent) -> list[Vnfd]:
        """Return what the repository has in another version than runs here."""
        newest = self.settings.catalogue
        return [
            newest[i.vnfd.name]
            for i in inventory_of(me)
            if i.vnfd.version != newest[i.vnfd.name].version
        ]

    # -- enforcement ------------------------------------------------------------------------

    def _wanted(self, me: Agent, kept: KeptFunction) -> dict[str, tuple[PolicyRule, TrafficRule]]:
        """Return the rules that are to be in force, by id; note what cannot be."""
        wanted: dict[str, tuple[PolicyRule, TrafficRule]] = {}
        kept.encrypted = None
        here = kept.of in self.part.functions
        rules = held_at(self.part.rules, int(self.part.minute + me.now / 60) % WEEK_MINUTES)
        if kept.wired is None or kept.wired[0] != rules:
            kept.wired = rules, tuple(wire_rules(rules, kept.of))
        for each in kept.wired[1] if here else ():
            if each.why_not:
                self._unenforced(me, kept, each.rule.id, each.why_not)
            if each.encrypt:
                kept.encrypted = each.rule
            for number, traffic in enumerate(each.traffic):
                key = each.rule.id if not number else f"{each.rule.id}#{number + 1}"
                wanted[key] = each.rule, traffic
        drop, target = TrafficVerdict.DROP, kept.of.address
        for one in self._revoked(me, kept) if here else ():
            match = TrafficMatch(sources=(one.address,), target=target)
            rule = PolicyRule(f"revoked-{one.address}", RuleAction(PolicyVerdict.DENY))
            wanted[rule.id] = rule, TrafficRule(match, drop)
        if kept.must_encrypt and any(self.part.of(kept.of.slice, SecurityMetric.CLEAR_TEXT)):
            remedy = PolicyRule(ENCRYPTION, RuleAction(PolicyVerdict.DENY))
            kept.encrypted = kept.encrypted or remedy
        for metric, drops in kept.remedies.items():
            if here and any(self.part.of(kept.of.slice, SecurityMetric(metric))):
                wanted[metric] = PolicyRule(metric, RuleAction(PolicyVerdict.DENY)), drops
        return wanted

    def _held(self, me: Agent, kept: KeptFunction) -> dict[str, RuleEnforced]:
        """Return the rules that this agent holds in force, by id."""
        return {
            effect.rule: effect
            for instance in inventory_of(me)
            for effect in instance.measures
            if isinstance(effect, RuleEnforced)
            and (effect.slice, effect.entity) == (kept.of.slice, kept.of.entity)
        }

    def _apply(self, me: Agent, kept: KeptFunction) -> Part:
        """Put in force what is wanted and is not, and lift what is wanted no more."""
        wanted, held = self._wanted(me, kept), self._held(me, kept)
        for key in held.keys() - wanted.keys():
            yield from lift(me, held[key])
            self._note(me, "policy.withdrawn", kept, key, {})
        for key in wanted:
            if key not in held:
                try:
                    yield from self._put(me, kept, key, *wanted[key])
                except PlanFailed as failure:
                    self._unenforced(me, kept, key, str(failure))
        encrypted = kept.encryption()
        if kept.encrypted is not None and me.beliefs.holds(encrypted) is not True:
            self._deploy(me, encrypted)
        elif (
            kept.encrypted is None
            and me.beliefs.holds(encrypted)
            and me.open_goal(avert(encrypted)) is None
        ):
            me.adopt(Adopt(avert(encrypted), PROTECT))
        kept.applied = True
        kept.changes = self.part.changes(kept.of.slice, me.now)

    def _deploy(self, me: Agent, wanted: Encrypted) -> None:
        """Have a security function deployed; once that has failed again after a while."""
        goal = want(wanted)
        if me.open_goal(goal) is None and me.now >= self._again_s.get(goal, 0.0):
            self._again_s[goal] = me.now + SITES_S
            self._pending.setdefault(goal, me.now)
            me.adopt(Adopt(goal, PROTECT, tap=me.pop or ""))

    def _put(
        self, me: Agent, kept: KeptFunction, key: str, rule: PolicyRule, traffic: TrafficRule
    ) -> Part:
        """Put a rule in force; again beside the old one, which is lifted after that."""
        assert kept.goal is not None
        old = self._held(me, kept).get(key)
        effect = kept.effect(key, 0 if old is None else old.turn + 1)
        yield from enforce(me, kept.goal, effect, traffic)
        if old is not None:
            yield from lift(me, old)
        members = self.part.members.get(kept.of.slice, ())
        hits = [m for m in members if ":" not in m and _concerns(traffic, m)]
        more = {"effect": str(effect), "verdict": traffic.verdict.value, "members": hits[:NAMED]}
        self._note(me, "policy.enforced", kept, key, {**more, "intent": rule.intent})

    def _unenforced(self, me: Agent, kept: KeptFunction, key: str, why: str) -> None:
        if (text := f"{kept.of} {key} {why}") not in self._refused:
            self._refused.add(text)
            self._note(me, "policy.unenforced", kept, key, {"reason": why})

    @staticmethod
    def _note(me: Agent, kind: str, kept: KeptFunction, rule: str, more: dict[str, Any]) -> None:
        about = {"slice": kept.of.slice, "entity": kept.of.entity, "rule": rule}
        me.record(kind, **about, **{k: v for k, v in more.items() if v})

    def _gone(self, me: Agent, kept: KeptFunction) -> Generator[Step, Any, list[str]]:
        """Return which rules are in force no more, though nothing here has lifted them."""
        found = []
        every: dict[str, Predicate] = {**self._held(me, kept), ENCRYPTION: kept.encryption()}
        for key, effect in every.items():
            instance = inventory_of(me).holder(effect)
            if instance is not None:
                try:
                    yield Act(ReadMeasure(instance.measures[effect]))
                except PlanFailed:
                    found.append(key)
        if found:
            about = {"slice": kept.of.slice, "entity": kept.of.entity}
            yield Note("policy.lost", {**about, "rules": found})
        return found

    # -- remedies ---------------------------------------------------------------------------

    @plan(Remedied, local=True, applies=_is_kept)
    def remedy(self, me: Agent, goal: GoalInstance) -> Body:
        """Do what an agreement names about a breach."""
        wanted = goal.predicate_as(Remedied)
        kept, metric = self._kept[wanted.slice, wanted.entity], SecurityMetric(wanted.metric)
        match Remediation(wanted.remedy):
            case Remediation.REJECT:
                yield from self._reject(me, kept, metric)
            case Remediation.ENCRYPT:
                yield from self._encrypt(me, kept)
            case Remediation.ANALYSE:
                terms = self.part.of(wanted.slice, metric)
                least = min((term.objective for term in terms), default=1.0)
                self._pause_s[kept.of.address] = max(
                    0.0, least / 2 - me.parameter(self, "policy_look_s")
                )
                self.blind = False
            case Remediation.RELOCATE:
                yield from self._relocate(me, kept)
            case Remediation.REPLICATE:
                yield from self._replicate(me, kept)
            case _:
                yield from self._redeploy(me, kept, metric)
        yield Believe(wanted)

    def _denying(
        self, me: Agent, kept: KeptFunction, flows: Iterable[FlowStats]
    ) -> dict[str, tuple[PolicyRule, TrafficRule]]:
        """Return the rules that are held to be in force, by which flows should not pass."""
        held, found = self._held(me, kept), {}
        for key, (rule, traffic) in self._wanted(me, kept).items():
            if key in held and traffic.verdict is TrafficVerdict.DROP:
                match, is_of = traffic.match, traffic.match.of_source()
                if any(
                    is_of(flow.source)
                    and match.protocol in (None, flow.protocol)
                    and match.port in (None, flow.port)
                    for flow in flows
                ):
                    found[key] = rule, traffic
        return found

    def _reject(self, me: Agent, kept: KeptFunction, metric: SecurityMetric) -> Part:
        """Put rules in force again that do not act; if none does, one against these packets."""
        flows = kept.offenders.get(metric, [])
        gone = yield from self._gone(me, kept)
        wanted = self._wanted(me, kept)
        again = {key: wanted[key] for key in gone if key in wanted}
        again |= self._denying(me, kept, flows)
        for key, rules in again.items():
            yield from self._put(me, kept, key, *rules)
        if again:
            return
        address = kept.of.address
        match = TrafficMatch(target=address, outside=self._allowed(address))
        if metric is not SecurityMetric.FOREIGN_SOURCES:
            if not flows:
                raise PlanFailed("whose packets these are cannot be told where they arrive")
            before = kept.remedies.get(metric.value)
            named = {flow.source for flow in flows}.union(before.match.sources if before else ())
            match = TrafficMatch(target=address, sources=tuple(sorted(named))[:MOST_SOURCES])
        kept.remedies[metric.value] = TrafficRule(match, TrafficVerdict.DROP)
        yield from self._put(me, kept, metric.value, *self._wanted(me, kept)[metric.value])

    def _encrypt(self, me: Agent, kept: KeptFunction) -> Part:
        """Have what goes to the function come encrypted; anew where that is so in name alone."""
        encrypted, gone = kept.encryption(), (yield from self._gone(me, kept))
        kept.must_encrypt = True
        if ENCRYPTION in gone:
            yield Achieve(Adopt(avert(encrypted), PROTECT))
        end = yield Achieve(Adopt(want(encrypted), PROTECT, tap=me.pop or ""))
        if not end.achieved:
            raise PlanFailed(end.reason or end.outcome.value, final=end.final)

    def _relocate(self, me: Agent, kept: KeptFunction) -> Part:
        """Have what answers in place of the function placed where it may stand."""
        allowed = {
            a for t in self.part.of(kept.of.slice, SecurityMetric.GEOLOCATION) for a in t.allowed
        }
        for pop, rule in self._elsewhere.get(kept.of.address, []):
            if self.part.jurisdictions[pop] in allowed:
                continue
            effect = _answers(kept.of.address, rule.match)
            end = yield Achieve(Adopt(avert(effect), PROTECT))
            if not end.achieved:
                raise PlanFailed(f"{pop} does not give it up: {end.reason or end.outcome.value}")
            yield from self._place(me, kept, effect)
        self._sites_s = -SITES_S

    def _replicate(self, me: Agent, kept: KeptFunction) -> Part:
        """Have another instance answer: for all sources if the function answers none."""
        parts = 1
        if kept.lost_s is None:
            while parts == 1 or me.beliefs.holds(Replicated(kept.of.address, parts // 2, parts)):
                parts *= 2
        if parts > MOST_PARTS:
            raise PlanFailed("it has as many replicas as it may have")
        yield from self._place(me, kept, Replicated(kept.of.address, parts // 2, parts))

    def _place(self, me: Agent, kept: KeptFunction, effect: Replicated | PlacedNear) -> Part:
        traffic = kept.rate_mb_s
        end = yield Achieve(Adopt(want(effect), PROTECT, tap=me.pop or "", traffic_mb_s=traffic))
        if not end.achieved:
            raise PlanFailed(end.reason or end.outcome.value, final=end.final)

    def _redeploy(self, me: Agent, kept: KeptFunction, metric: SecurityMetric) -> Part:
        """Apply what has not been: a patch, a change of the policy, or a deployment."""
        self.stale = False
        if metric is SecurityMetric.PATCH_DELAY:
            for vnfd in {each.name: each for each in self._outdated(me)}.values():
                yield Perceive(NewVersion(vnfd))
            until = me.now + PATCHING_S
            while outdated := self._outdated(me):
                if me.now >= until:
                    raise PlanFailed(f"{outdated[0].name} could not be replaced")
                yield Pause(me.parameter(self, "policy_look_s"))
        elif metric is SecurityMetric.DEPLOY_DELAY:
            if any(not each.running for each in inventory_of(me)):
                raise PlanFailed("it is on its way here; to ask again would begin anew")
            for goal in [*self._pending]:
                yield Drop(goal, "it takes too long, and is asked for again")
                end = yield Achieve(Adopt(goal, PROTECT, tap=me.pop or ""))
                if not end.achieved:
                    raise PlanFailed(end.reason or end.outcome.value, final=end.final)
        else:
            yield from self._apply(me, kept)


def _kinds(of: AgreedTerm) -> tuple[str, ...]:
    """Return the kinds of insights that a term is judged by."""
    return NEEDS.get(of.term.metric, (of.term.metric.value,))


def _switched(kept: KeptFunction, asked: int, answered: int, now: float) -> float:
    """Return for how long a function has answered nothing, or had not until it does again."""
    since, kept.served = kept.lost_s, kept.served or answered > 0
    if answered:
        kept.lost_s = None
    elif asked >= LEAST_ASKED and kept.served and since is None:
        kept.lost_s = since = now
    return 0.0 if since is None else now - since


def _answers(address: str, match: TrafficMatch) -> Replicated | PlacedNear:
    """Return what an instance makes true that answers in place of a function."""
    if match.entry is not None:
        return PlacedNear(address, match.entry)
    return Replicated(address, match.part, match.parts)


def _concerns(traffic: TrafficRule, prefix: str) -> bool:
    """Whether a rule is about the first address of a prefix."""
    return traffic.match.of_source()(prefix.partition("/")[0])
