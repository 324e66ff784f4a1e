"""From intents to agreements and rules, if they can be met where they are to hold.

Every intent becomes a term of an agreement, rules, or both, which bear its name. All rules but
those of rates deny, and what nothing denies is permitted; so the order of intents does not matter.
Rates come last, the least first.

An intent is refused if the network cannot meet it, or if it contradicts another one: with what is
asked, the resource that falls short, and the nearest that can be met.

Source: seed 004, 3.1 and figures 3 and 4 (from an intent to an SSLA to a rule).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv6Address,
    collapse_addresses,
    ip_network,
    summarize_address_range,
)
from itertools import chain, combinations, product
from math import ceil, exp, floor, log
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.loading import unknown
from phalanx.policy import intents as kinds
from phalanx.policy.contradictions import contradictions
from phalanx.policy.intents import AnyIntent, IntentError, IntentSet, SliceIntent, promised
from phalanx.policy.language import parse_page, said
from phalanx.policy.plan import PolicyPlan, plan_offences
from phalanx.policy.rules import (
    IpNetwork,
    PolicyInventory,
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
)
from phalanx.policy.ssla import (
    METRICS,
    PLACED,
    GuaranteeTerm,
    Remediation,
    SecurityAgreement,
)

_DENY = RuleAction(PolicyVerdict.DENY, log=True)
_MOST_PREFIXES = 10_000
_Spans = list[tuple[int, int, int]]
"""Addresses as (IP version, first, last), in order and apart from each other."""
_EVERYTHING: _Spans = [(4, 0, 2**32 - 1), (6, 0, 2**128 - 1)]


class SliceFigures(Struct, frozen=True):
    """What is known of a slice where intents are to hold."""

    addresses: tuple[str, ...] = ()
    """Of its functions."""
    pops: tuple[str, ...] = ()
    """At which its functions stand."""
    fixed: dict[str, str] = {}
    """Functions that cannot be moved, each with its PoP."""


class LinkFigures(Struct, frozen=True):
    """What is known of a link."""

    between: tuple[str, str]
    loss: float = 0.0
    """Share of the packets that it loses."""
    encrypted: bool = False
    """Whether all that it carries is encrypted without more ado."""


class FunctionFigures(Struct, frozen=True):
    """What is known of a function in the repository."""

    image_mb: float
    boot_s: float


class Surroundings(Struct, frozen=True):
    """Where intents are to hold: what they can be met with."""

    slices: dict[str, SliceFigures] = {}
    pops: dict[str, str] = {}
    """Jurisdiction of each PoP; empty: not known."""
    links: tuple[LinkFigures, ...] = ()
    functions: dict[str, FunctionFigures] = {}
    reach_mb_s: dict[str, float] = {}
    """Bandwidth from the repository to each PoP, in MB/s."""
    encrypts: tuple[str, ...] = ()
    """Functions that can encrypt the traffic of a slice."""
    change_s: float = 0.0
    """Time that a change takes at least until it is in force everywhere, in s."""
    notice_s: float = 0.0
    """Time until the loss of an instance is noticed, in s."""
    analysis_s: float = 0.0
    """Time between two analyses of traffic at least, in s."""


def compile_intents(intents: IntentSet, around: Surroundings | None = None) -> PolicyPlan:
    """Return the agreements and rules that intents come to.

    Args:
        intents: checked as they were read.
        around: where they are to hold; None: not known, so all can be met.

    Raises:
        IntentError: if one cannot be met or contradicts another.

    """
    maker = _Translation(intents, around or Surroundings())
    maker.contradictions()
    terms: list[GuaranteeTerm] = []
    denied: list[PolicyRule] = []
    rates: list[PolicyRule] = []
    for each in intents.intents:
        if isinstance(each, SliceIntent):
            if around is not None:
                maker.feasible(each)
            terms.append(maker.term(each))
        (rates if isinstance(each, kinds.RateIntent) else denied).extend(maker.rules(each))
    rates.sort(key=lambda rule: rule.action.rate_mb_s or 0.0)
    header = intents.provider, intents.consumer, intents.about
    agreed = SecurityAgreement(intents.name, tuple(terms), *header)
    plan = PolicyPlan(
        (agreed,) if terms else (),
        RuleSet(intents.name, (*denied, *rates)),
        PolicyInventory(intents.members),
        intents={each.name: said(each) for each in intents.intents},
    )
    for path, why in plan_offences(plan, None if around is None else around.slices):
        raise IntentError(f"{intents.name}: {path}: {why}")
    return plan


def fit(intents: IntentSet, held: PolicyPlan, around: Surroundings) -> None:
    """Refuse intents that contradict what a plan in force follows from, or its other rules.

    What they replace, since it has the same name, is not counted.

    Args:
        intents: those that are to be in force as well.
        held: the plan in force.
        around: where it is.

    Raises:
        IntentError: with both intents, or with the rule and a packet that shows it.

    """
    left = without(held, (each.name for each in intents.intents))
    page = (f"{name}: {sentence}." for name, sentence in left.intents.items())
    known = [x for each in page for x in parse_page(each, "the policy in force").intents]
    members = held.members.slices | intents.members
    whole = replace(intents, intents=(*known, *intents.intents), members=members)
    maker = _Translation(whole, around)
    try:
        maker.contradictions()
    except IntentError as error:
        raise IntentError(f"cannot be in force beside what is: {error}") from None
    by_hand = (rule for rule in left.rules.rules if rule.intent not in left.intents)
    rules = {rule.id: rule for rule in by_hand if rule.condition.encrypted is None}
    inventory = PolicyInventory({name: _prefixes(spans) for name, spans in maker.owned.items()})
    force = inventory.resolve(replace(held.rules, rules=tuple(rules.values())))
    permits = [rule for each in intents.intents for rule in maker.permits(each)]
    wanted = inventory.resolve(RuleSet("wanted", tuple(permits)))
    for found in contradictions(wanted, force, deployed=True).conflicts if permits else ():
        other, seen = rules.get(found.others[0]), found.witness
        if seen is not None and (other is None or other.action.verdict is PolicyVerdict.DENY):
            one = next(rule for rule in permits if rule.id == found.rule)
            rule = "the default" if other is None else f"rule {other.id}"
            raise IntentError(
                f"'{one.about}' ({one.intent}) contradicts {rule} in force, which denies what is"
                f" sent from {seen.source} to {seen.target}; the nearest is to change that first"
            )


def without(plan: PolicyPlan, names: Iterable[str]) -> PolicyPlan:
    """Return a plan without what follows from the intents with these names."""
    gone = set(names)
    kept = (
        replace(each, terms=tuple(term for term in each.terms if term.intent not in gone))
        for each in plan.agreements
    )
    rules = tuple(rule for rule in plan.rules.rules if rule.intent not in gone)
    return replace(
        plan,
        agreements=tuple(each for each in kept if each.terms),
        rules=replace(plan.rules, rules=rules),
        intents={name: each for name, each in plan.intents.items() if name not in gone},
    )


def merged(plan: PolicyPlan, more: PolicyPlan) -> PolicyPlan:
    """Return a plan with what follows from more intents, in place of those with the same names.

    What they deny comes before the rules of the plan, and the rates of intents after these.
    """
    left = without(plan, intents_of(more))
    rates = [x for x in (*left.rules.rules, *more.rules.rules) if x.intent and x.action.rate_mb_s]
    rates.sort(key=lambda rule: rule.action.rate_mb_s or 0.0)
    rest = [
        x for x in (*more.rules.rules, *left.rules.rules) if not (x.intent and x.action.rate_mb_s)
    ]
    agreed = {each.name: each for each in left.agreements}
    for each in more.agreements:
        others = agreed[each.name].terms if each.name in agreed else ()
        agreed[each.name] = replace(each, terms=(*others, *each.terms))
    name = plan.rules.name if plan.rules.rules else more.rules.name
    slices = {**plan.members.slices, **more.members.slices}
    return replace(
        left,
        agreements=tuple(agreed.values()),
        rules=replace(left.rules, name=name, rules=(*rest, *rates)),
        members=replace(plan.members, slices=slices),
        intents={**left.intents, **more.intents},
    )


def intents_of(plan: PolicyPlan) -> list[str]:
    """Return the names of the intents that a plan follows from, in its order."""
    terms = (term.intent for agreement in plan.agreements for term in agreement.terms)
    rules = (rule.intent for rule in plan.rules.rules)
    return list(dict.fromkeys(name for name in chain(terms, rules, plan.intents) if name))


class _Translation:
    """Makes terms and rules of the intents of one document."""

    def __init__(self, intents: IntentSet, around: Surroundings) -> None:
        self.intents, self.around = intents.intents, around
        self._known: dict[tuple[str, ...], _Spans] = {}
        named = {*intents.members, *around.slices}
        self.owned = {
            name: _spans(
                (*intents.members.get(name, ()), *around.slices.get(name, SliceFigures()).addresses)
            )
            for name in named
        }

    def addresses(self, things: Iterable[str]) -> _Spans:
        """Return the addresses of slices, and those that are named themselves."""
        asked = tuple(things)
        if asked not in self._known:
            self._known[asked] = self._addresses(asked)
        return self._known[asked]

    def _addresses(self, things: tuple[str, ...]) -> _Spans:
        found: list[str] = []
        for each in things:
            if kinds.is_address(each):
                found.append(each)
            elif not self.owned.get(each):
                raise IntentError(
                    f"what belongs to slice {each} is not known;"
                    f" say 'slice {each} has the addresses 10.1.0.0/16'"
                )
            else:
                found += _prefixes(self.owned[each])
        return _spans(found)

    # Terms and rules.

    def remedies(self, intent: SliceIntent) -> tuple[Remediation, ...]:
        """Return what is done about a breach."""
        usual = METRICS[promised(intent)[0]].remedies
        if isinstance(intent, kinds.EncryptionIntent):
            usual = tuple(each for each in usual if each is not Remediation.REJECT)
        return intent.remediation or usual

    def term(self, intent: SliceIntent) -> GuaranteeTerm:
        """Return the term of an agreement that an intent comes to."""
        metric, objective = promised(intent)
        allowed: tuple[str, ...] = ()
        if isinstance(intent, kinds.LocationIntent):
            allowed = intent.jurisdictions
        elif isinstance(intent, kinds.IsolationIntent):
            spans = self.addresses(intent.allowed)
            if intent.sources:
                spans = _join(spans, _minus(_EVERYTHING, self.addresses(intent.sources)))
            allowed = _prefixes(spans)
        return GuaranteeTerm(
            *(intent.name, intent.slice, metric, objective, intent.window_s, allowed),
            remediation=self.remedies(intent),
            penalty=intent.penalty,
            intent=intent.name,
        )

    def rules(self, intent: AnyIntent) -> Iterator[PolicyRule]:
        """Yield the rules that an intent comes to."""
        for number, (source, target, schedule, clear) in enumerate(self._matches(intent), 1):
            services = getattr(intent, "services", ()) or (None,)
            for place, service in enumerate(services):
                ports = (service.protocol, (), service.ports) if service else ()
                action = _DENY
                if isinstance(intent, kinds.RateIntent):
                    action = RuleAction(PolicyVerdict.PERMIT, intent.at_most_mb_s)
                yield PolicyRule(
                    f"{intent.name}/{(number - 1) * len(services) + place + 1}",
                    action,
                    RuleMatch(source, target, *ports),
                    RuleCondition(encrypted=False if clear else None),
                    schedule,
                    intent=intent.name,
                    about=said(intent)[:1000],
                )

    def permits(self, intent: AnyIntent) -> Iterator[PolicyRule]:
        """Yield what an intent says that may pass, as rules."""
        if isinstance(intent, kinds.AccessIntent) and intent.effect != "deny":
            pairs = product(_segments(intent.sources), _segments(intent.targets))
            for number, (pair, service) in enumerate(product(pairs, intent.services or (None,))):
                ports = (service.protocol, (), service.ports) if service else ()
                match = RuleMatch(*pair, *ports)
                action, always = RuleAction(PolicyVerdict.PERMIT), RuleCondition()
                name, about = f"{intent.name}/{number}", said(intent)[:1000]
                yield PolicyRule(
                    *(name, action, match, always, intent.schedule), intent=intent.name, about=about
                )

    def _matches(self, intent: AnyIntent) -> Iterator[tuple[Segment, Segment, RuleSchedule, bool]]:
        """Yield source, target, time, and whether only clear text is meant, of each rule."""
        always = RuleSchedule()
        if isinstance(intent, SliceIntent):
            own = Segment(slice=intent.slice)
            remedies = self.remedies(intent)
            if isinstance(intent, kinds.EncryptionIntent):
                if Remediation.ENCRYPT in remedies or Remediation.REJECT in remedies:
                    yield own, Segment(), always, True
                    yield Segment(), own, always, True
            elif isinstance(intent, kinds.IsolationIntent) and Remediation.REJECT in remedies:
                out = intent.allowed if intent.sources else (intent.slice, *intent.allowed)
                outside = _prefixes(self.addresses(out))
                for source in _segments(intent.sources) if intent.sources else [Segment()]:
                    yield replace(source, outside=outside), own, always, False
            return
        assert isinstance(intent, kinds.TrafficIntent)
        pairs = list(product(_segments(intent.sources), _segments(intent.targets)))
        if isinstance(intent, kinds.RateIntent):
            yield from ((*pair, always, False) for pair in pairs)
        elif intent.effect == "deny":
            yield from ((*pair, intent.schedule, False) for pair in pairs)
        elif intent.effect == "only":
            others = Segment(outside=_prefixes(self.addresses(intent.sources)))
            yield from ((others, each, always, False) for each in _segments(intent.targets))
            for time, pair in product(_other_times(intent.schedule), pairs):
                yield *pair, time, False

    # What contradicts.

    def contradictions(self) -> None:
        """Refuse intents of which one permits what another denies, and the like."""
        access = [each for each in self.intents if isinstance(each, kinds.AccessIntent)]
        permits = [each for each in access if each.effect != "deny"]
        for each in self.intents:
            try:
                if isinstance(each, kinds.IsolationIntent):
                    self._shared(each)
                    for permit in permits:
                        self._isolated(each, permit)
                elif isinstance(each, kinds.AccessIntent) and each.effect != "permit":
                    for permit in permits:
                        self._denied(each, permit)
            except IntentError as error:
                raise IntentError(f"{each.name}: {error}") from None
        places = [each for each in self.intents if isinstance(each, kinds.LocationIntent)]
        for one, other in combinations(places, 2):
            if one.slice == other.slice and not {*one.jurisdictions} & {*other.jurisdictions}:
                raise IntentError(
                    _contradicts(one, other, f"leave one of {one.name} and {other.name} out")
                )

    def _shared(self, isolation: kinds.IsolationIntent) -> None:
        own, out = self.addresses([isolation.slice]), self.addresses(isolation.allowed)
        for name in isolation.sources or sorted(set(self.owned) - {isolation.slice}):
            both = _both(own, self.addresses([name])) if self.owned.get(name, True) else []
            if shared := _prefixes(_minus(both, out)):
                raise IntentError(
                    f"'{said(isolation)}' cannot be met: {', '.join(shared[:3])} is of {name} too;"
                    f" the nearest is to leave that out: '{_excepting(isolation, shared)}'"
                )

    def _isolated(self, isolation: kinds.IsolationIntent, permit: kinds.AccessIntent) -> None:
        own = self.addresses([isolation.slice])
        sides = self.addresses(permit.sources), self.addresses(permit.targets)
        # What is sent to the slice, and the answers to what the slice sends.
        for here, there in (sides[::-1], sides):
            if _both(here, own) and (out := self._kept_out(isolation, there)):
                nearest = f"write '{_excepting(isolation, _prefixes(out))}'"
                raise IntentError(_contradicts(permit, isolation, nearest))

    def _kept_out(self, isolation: kinds.IsolationIntent, spans: _Spans) -> _Spans:
        if isolation.sources:
            spans = _both(spans, self.addresses(isolation.sources))
        else:
            spans = _minus(spans, self.addresses([isolation.slice]))
        return _minus(spans, self.addresses(isolation.allowed))

    def _denied(self, denial: kinds.AccessIntent, permit: kinds.AccessIntent) -> None:
        sources, targets = self.addresses(denial.sources), self.addresses(denial.targets)
        kept_out = _minus(_EVERYTHING, sources) if denial.effect == "only" else sources
        if (
            denial is not permit
            and _both(self.addresses(permit.targets), targets)
            and _both(self.addresses(permit.sources), kept_out)
            and _same_service(denial, permit)
            and (denial.effect == "only" or _same_time(denial.schedule, permit.schedule))
        ):
            raise IntentError(_contradicts(permit, denial, "name all sources in one of them"))

    # What cannot be met.

    def feasible(self, intent: SliceIntent) -> None:
        """Refuse an intent that the surroundings cannot meet."""
        if intent.slice not in self.around.slices:
            raise IntentError(
                f"{intent.name}: {unknown('slice', intent.slice, self.around.slices)}"
            )
        where = self.around.slices[intent.slice]
        for why, nearest in self._obstacles(intent, where):
            raise IntentError(
                f"{intent.name}: '{said(intent)}' cannot be met: {why}; the nearest is {nearest}"
            )

    def _obstacles(self, intent: SliceIntent, where: SliceFigures) -> Iterator[tuple[str, str]]:
        import networkx as nx  # noqa: PLC0415  # it takes a quarter of a second to import

        around = self.around
        match intent:
            case kinds.LocationIntent():
                yield from self._places(intent, where)
            case kinds.AvailabilityIntent():
                for why, share in self._delivery(where.pops):
                    if share < intent.at_least:
                        yield why, said(replace(intent, at_least=floor(share * 1e6) / 1e6))
            case kinds.EncryptionIntent() if not around.encrypts:
                safe: Any = nx.Graph(x.between for x in around.links if x.encrypted)
                safe.add_nodes_from(where.pops)
                for one, other in combinations(where.pops, 2):
                    if not nx.has_path(safe, one, other):
                        why = f"nothing encrypts between {one} and {other}"
                        yield (
                            why,
                            "to have gateway among the functions, or its functions at one PoP",
                        )
            case kinds.DelayIntent():
                why, least_s = self._least(intent.of, where.pops)
                if intent.within_s < least_s:
                    yield why, said(replace(intent, within_s=ceil(least_s * 1e3) / 1e3))
            case kinds.AnalysisIntent() if intent.every_s < around.analysis_s:
                why = f"traffic is read every {around.analysis_s:g} s"
                yield why, said(replace(intent, every_s=around.analysis_s))
        remedies = self.remedies(intent)
        lacking = {
            x: PLACED[x] for x in remedies if x in PLACED and PLACED[x] not in around.functions
        }
        if around.functions and lacking:
            remedy, function = next(iter(lacking.items()))
            others = tuple(each for each in remedies if each not in lacking)
            why = f"{remedy.value} places {function}, which is not among the functions"
            yield why, said(replace(intent, remediation=others or (Remediation.NOTIFY,)))

    def _places(
        self, intent: kinds.LocationIntent, where: SliceFigures
    ) -> Iterator[tuple[str, str]]:
        wanted, known = intent.jurisdictions, {p: at for p, at in self.around.pops.items() if at}
        if not set(wanted) & set(known.values()):
            others = ", ".join(f"{law} ({pop})" for pop, law in known.items())
            why = f"no PoP is known to stand in {' or '.join(wanted)}"
            yield why, others or "to say in which jurisdictions PoPs stand"
        for function, pop in where.fixed.items():
            if (law := self.around.pops.get(pop, "")) not in wanted:
                why = (
                    f"{function} cannot be moved from {pop}, which is in {law or 'no known place'}"
                )
                yield why, " or ".join((*wanted, law or f"that of {pop}"))

    def _delivery(self, pops: tuple[str, ...]) -> Iterator[tuple[str, float]]:
        """Yield what arrives on the best path between PoPs, without being sent again."""
        import networkx as nx  # noqa: PLC0415

        graph: Any = nx.Graph()
        graph.add_nodes_from(pops)
        for link in self.around.links:
            if link.loss < 1.0:
                graph.add_edge(*link.between, weight=-log(1.0 - link.loss))
        for one, other in combinations(pops, 2):
            if not nx.has_path(graph, one, other):
                yield f"no link leads from {one} to {other}", 0.0
            else:
                share = exp(-nx.dijkstra_path_length(graph, one, other))
                yield f"the best path from {one} to {other} loses {(1 - share) * 100:.4g} %", share

    def _least(self, of: kinds.Enforcement, pops: tuple[str, ...]) -> tuple[str, float]:
        """Return what a delay takes at least, and why."""
        around = self.around
        if of in ("reconfigure", "revoke"):
            return f"a change takes {around.change_s:g} s to be everywhere", around.change_s
        rates = {pop: around.reach_mb_s[pop] for pop in pops if pop in around.reach_mb_s}
        fastest = max((rates or around.reach_mb_s).values(), default=float("inf"))
        why, least_s = "nothing is known of functions", 0.0
        for name, figures in around.functions.items():
            load_s = around.notice_s if of == "switch" else figures.image_mb / fastest
            if load_s + figures.boot_s > least_s:
                least_s = load_s + figures.boot_s
                what = "until a loss is noticed" if of == "switch" else f"to download {name}"
                loading = f"{load_s:.3g} s {what}, and " if load_s else ""
                why = f"it takes {loading}{figures.boot_s:g} s to start {name}"
        return why, least_s


def _contradicts(one: kinds.Intent, other: kinds.Intent, nearest: str) -> str:
    pair = f"'{said(one)}' ({one.name}) contradicts '{said(other)}' ({other.name})"
    return f"{pair}; the nearest that can be met: {nearest}"


def _excepting(isolation: kinds.IsolationIntent, more: Iterable[str]) -> str:
    return said(replace(isolation, allowed=(*isolation.allowed, *list(more)[:3])))


def _segments(things: Iterable[str]) -> list[Segment]:
    given = list(things)
    addresses = tuple(each for each in given if kinds.is_address(each))
    slices = [Segment(slice=each) for each in given if not kinds.is_address(each)]
    return [*slices, *([Segment(addresses)] if addresses else [])]


def _same_service(one: kinds.TrafficIntent, other: kinds.TrafficIntent) -> bool:
    if not (one.services and other.services):
        return True
    return any(
        a.protocol == b.protocol
        and (
            not (a.ports and b.ports)
            or any(x.first <= y.last and y.first <= x.last for x, y in product(a.ports, b.ports))
        )
        for a, b in product(one.services, other.services)
    )


def _same_time(one: RuleSchedule, other: RuleSchedule) -> bool:
    return any(a[0] < b[1] and b[0] < a[1] for a, b in product(one.minutes(), other.minutes()))


def _other_times(schedule: RuleSchedule) -> list[RuleSchedule]:
    """Return when a schedule does not hold."""
    days: dict[tuple[int, int], list[int]] = {}
    held = sorted(schedule.minutes())
    for day in range(7):
        at, end = day * 1440, day * 1440 + 1440
        for first, after in [*held, (end, end)]:
            if at < min(first, end):
                days.setdefault((at - day * 1440, min(first, end) - day * 1440), []).append(day)
            at = max(at, min(after, end))
    return [RuleSchedule(tuple(each), *times) for times, each in days.items()]


# Sets of addresses.


def _spans(prefixes: Iterable[str]) -> _Spans:
    nets: list[IpNetwork] = [ip_network(each) for each in prefixes]
    found: _Spans = []
    for version in (4, 6):
        for net in collapse_addresses([x for x in nets if x.version == version]):  # type: ignore[type-var]
            first, last = int(net[0]), int(net[-1])
            if found and found[-1][0] == version and found[-1][2] + 1 == first:
                first = found.pop()[1]
            found.append((version, first, last))
    return found


def _minus(left: _Spans, right: _Spans) -> _Spans:
    found: _Spans = []
    for version, first, last in left:
        at = first
        for place in range(max(bisect_left(right, (version, first)) - 1, 0), len(right)):
            other, begin, end = right[place]
            if (other, begin) > (version, last):
                break
            if other == version and at <= end:
                if at < begin:
                    found.append((version, at, begin - 1))
                at = end + 1
        if at <= last:
            found.append((version, at, last))
    return found


def _both(left: _Spans, right: _Spans) -> _Spans:
    return _minus(left, _minus(left, right))


def _join(left: _Spans, right: _Spans) -> _Spans:
    return _minus(_EVERYTHING, _minus(_minus(_EVERYTHING, left), right))


def _prefixes(spans: _Spans) -> tuple[str, ...]:
    found: list[str] = []
    for version, first, last in spans:
        make: Any = IPv4Address if version == 4 else IPv6Address
        found += map(str, summarize_address_range(make(first), make(last)))
    if len(found) > _MOST_PREFIXES:
        raise IntentError(f"comes to {len(found)} prefixes; at most {_MOST_PREFIXES} are allowed")
    return tuple(found)
