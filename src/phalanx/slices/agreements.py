"""Trust Level Agreements (TLA): what is asked of what takes part in a network, and who attests it.

An agreement is a document. It says how much each attribute of trust counts, below which value of
one nothing is trusted, which standards are asked for and whose certificates are believed, and where
things may stand. What it tells is evidence for the one trust score (``phalanx.trust.score``),
beside what the ledger tells of agents; so PoPs, functions, services and operators have a score too:
each by what is said of itself, and for the rest by the evidence of the least trusted thing that it
stands on.

Source: seed 002, II.B, *Trust Manager*: "The trust score is calculated based on the trust
attributes specified in the Trust Level Agreement (TLA), which may include the security measures in
place, compliance with regulations (e.g., privacy preservation, operating location rules), and
fulfillment of the agreed service and security levels".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from functools import cached_property
from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId
from phalanx.loading import Name, Offence, parse_as, refusal, show, twice, unknown
from phalanx.trust.register import TrustRegister
from phalanx.trust.score import (
    AttributeTerms,
    TrustAttribute,
    TrustEvidence,
    TrustScore,
    score_of,
)

Title = Annotated[str, Meta(min_length=1, max_length=200)]
Day = Annotated[str, Meta(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}\Z")]
SubjectKind = Literal["agent", "function", "pop", "operator", "service"]

MATURE_S = 86_400.0
"""Half-life of youth where an agreement says nothing: after it, age counts one half."""
EPOCH_S = 1e9
"""Ledgers of real time count seconds since 1970; those of a simulation, since its start."""


class AgreedAttributes(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What is asked of each attribute."""

    compliance: AttributeTerms = AttributeTerms()
    operating_location: AttributeTerms = AttributeTerms()
    attestation: AttributeTerms = AttributeTerms()
    behaviour: AttributeTerms = AttributeTerms()
    age: AttributeTerms = AttributeTerms()
    agreement_kept: AttributeTerms = AttributeTerms()


class AgreedLocations(Struct, frozen=True, forbid_unknown_fields=True):
    """Where agents and functions may stand; nothing listed: at every PoP."""

    jurisdictions: Annotated[tuple[Name, ...], Meta(max_length=300)] = ()
    pops: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()
    """PoPs that are allowed wherever they are."""


class AgreedPop(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a PoP is, and who runs it."""

    name: Name
    jurisdiction: Name
    """Whose law holds there, such as ``FI``."""
    operator: Name


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    """Says that something follows a standard. It covers what stands on that, too."""

    of: Name
    standard: Title
    by: Name
    """Who attests it."""
    issued: Day
    until: Day
    """Last day on which it counts."""
    kind: SubjectKind = "pop"
    """What ``of`` is."""
    number: Title | None = None
    """Under which the attester knows it."""


class TrustAgreement(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A Trust Level Agreement."""

    name: Name
    as_of: Day
    """Date that second 0 of a simulated run stands for."""
    about: Annotated[str, Meta(max_length=4000)] = ""
    attributes: AgreedAttributes = AgreedAttributes()
    standards: Annotated[tuple[Title, ...], Meta(max_length=50)] = ()
    """Asked of everything."""
    attesters: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    """Whose certificates are believed."""
    locations: AgreedLocations = AgreedLocations()
    pops: Annotated[tuple[AgreedPop, ...], Meta(max_length=10_000)] = ()
    certificates: Annotated[tuple[Certificate, ...], Meta(max_length=100_000)] = ()

    @cached_property
    def _places(self) -> Mapping[PopId, AgreedPop]:
        return {each.name: each for each in self.pops}

    @cached_property
    def _allowed(self) -> frozenset[PopId]:
        return frozenset(self.locations.pops)

    @cached_property
    def _certified(self) -> Mapping[tuple[str, str | None, str], list[Certificate]]:
        """Certificates by kind and name of what they are of, and by standard."""
        found: dict[tuple[str, str | None, str], list[Certificate]] = {}
        for each in self.certificates:
            found.setdefault((each.kind, each.of, each.standard), []).append(each)
        return found

    def terms(self) -> dict[TrustAttribute, AttributeTerms]:
        """Return what is asked of each attribute."""
        asked = self.attributes
        return {each: getattr(asked, each.value.replace("-", "_")) for each in TrustAttribute}

    def half_lives(self) -> dict[TrustAttribute, float]:
        """Return in how many seconds evidence of the ledger loses half of its weight."""
        asked = self.terms().items()
        return {each: terms.half_life_s for each, terms in asked if terms.half_life_s is not None}

    def outside(self, pop: PopId | None) -> str:
        """Return why nothing may stand at a PoP; empty: it may."""
        allowed = self.locations
        if pop is None or pop in self._allowed or not (allowed.jurisdictions or allowed.pops):
            return ""
        known = self._places.get(pop)
        if known is not None and known.jurisdiction in allowed.jurisdictions:
            return ""
        where = f"is in {known.jurisdiction}" if known else "is at no known place"
        places = ", ".join((*allowed.jurisdictions[:12], *allowed.pops[:12])[:12])
        return f"{pop} {where}; the agreement {self.name} allows {places}"

    def outsiders(self, pops: Iterable[PopId]) -> dict[PopId, str]:
        """Return at which of these PoPs nothing may stand, and why."""
        return {pop: why for pop in pops if (why := self.outside(pop))}

    def evidence(
        self, kind: SubjectKind, name: str, pop: PopId | None, now_s: float
    ) -> dict[TrustAttribute, TrustEvidence]:
        """Return what the agreement itself tells of something at a time of the ledger's clock."""
        found = {}
        if self.standards:
            found[TrustAttribute.COMPLIANCE] = self._compliance(kind, name, pop, now_s)
        if pop is not None and (self.locations.jurisdictions or self.locations.pops):
            known, out = self._places.get(pop), bool(self.outside(pop))
            where = f"{pop} in {known.jurisdiction}" if known else pop
            found[TrustAttribute.LOCATION] = TrustEvidence(float(not out), float(out), where)
        return found

    def _compliance(
        self, kind: SubjectKind, name: str, pop: PopId | None, now_s: float
    ) -> TrustEvidence:
        """Count each standard with a certificate for it, and each without against it."""
        now = now_s if now_s >= EPOCH_S else _second(self.as_of) + now_s
        today = datetime.fromtimestamp(now, UTC).date().isoformat()
        known, half = self._places.get(pop or ""), self.attributes.compliance.half_life_s
        covers = {(kind, name), ("pop", pop), ("operator", known.operator if known else None)}
        found, named = TrustEvidence(), []
        for standard in self.standards:
            valid = [
                each
                for cover in covers
                for each in self._certified.get((*cover, standard), ())
                if each.issued <= today <= each.until
            ]
            if not valid:
                found.against += 1.0
                named.append(f"{standard} is attested by nobody")
                continue
            latest = max(valid, key=lambda each: (each.issued, each.until, each.by))
            age_s = now - _second(latest.issued)
            found.seen_for += 1.0 if half is None else 0.5 ** (age_s / half)
            named.append(f"{standard} by {latest.by} until {latest.until}")
        found.named = "; ".join(named)
        return found


class Trusted(Struct, frozen=True):
    """What is scored, and what it stands on."""

    agents: Mapping[AgentId, PopId | None] = {}
    """Where each agent stands, loops among them."""
    functions: Mapping[str, PopId] = {}
    services: Mapping[str, tuple[str, ...]] = {}
    """The functions that each service needs."""


_Key = tuple[SubjectKind, str]
Scores = dict[_Key, TrustScore]
"""By kind and name."""


def agent_score(
    agreement: TrustAgreement, agent: AgentId, pop: PopId | None, register: TrustRegister
) -> TrustScore:
    """Return the score of an agent of a ledger that stands at a PoP, as of its latest entry."""
    member, now_s = register.members[agent], register.now_s
    half_s, age_s = agreement.attributes.age.half_life_s or MATURE_S, now_s - member.since_s
    named = f"one of the group for {age_s:.0f} s"
    aged = TrustEvidence(1.0 - 0.5 ** (max(age_s, 0.0) / half_s), 0.0, named)
    own = agreement.evidence("agent", agent, pop, now_s)
    seen = {**member.seen, TrustAttribute.AGE: aged, **own}
    return score_of(seen, agreement.terms(), member.refused or agreement.outside(pop))


def agent_scores(
    agreement: TrustAgreement, agents: Mapping[AgentId, PopId | None], register: TrustRegister
) -> dict[AgentId, float]:
    """Return the scores of all agents of a ledger, which stand at these PoPs."""
    members = register.members
    return {n: agent_score(agreement, n, agents.get(n), register).value for n in members}


def scores(agreement: TrustAgreement, of: Trusted, register: TrustRegister) -> Scores:
    """Return the scores of all agents of a ledger, and of what else stands in the network.

    They are as of the ledger's latest entry, so all who have read it find the same.
    """
    terms = agreement.terms()
    found: Scores = {
        ("agent", name): agent_score(agreement, name, of.agents.get(name), register)
        for name in register.members
    }

    def add(kind: SubjectKind, name: str, pop: PopId | None, stands_on: Iterable[_Key]) -> None:
        least = min(stands_on, key=lambda each: (found[each].value, each), default=None)
        below = TrustScore(0.5) if least is None else found[least]
        seen = {p.attribute: TrustEvidence(p.seen_for, p.against, p.evidence) for p in below.parts}
        named = least is None or least[1] in below.reason or not below.reason
        why = below.reason if least is None or named else f"{least[1]} {below.reason}"
        own = agreement.evidence(kind, name, pop, register.now_s)
        found[kind, name] = score_of({**seen, **own}, terms, agreement.outside(pop) or why)

    pops = {*(p.name for p in agreement.pops), *of.agents.values(), *of.functions.values()}
    standing: dict[PopId | None, list[_Key]] = {}
    for name, at in of.agents.items():
        if ("agent", name) in found:
            standing.setdefault(at, []).append(("agent", name))
    for pop in sorted(each for each in pops if each is not None):
        add("pop", pop, pop, standing.get(pop, ()))
    owned: dict[str, list[_Key]] = {}
    for place in agreement.pops:
        owned.setdefault(place.operator, []).append(("pop", place.name))
    for operator in sorted(owned):
        add("operator", operator, None, owned[operator])
    for name, at in sorted(of.functions.items()):
        add("function", name, at, [("pop", at)])
    for name, needed in sorted(of.services.items()):
        add("service", name, None, [("function", each) for each in needed])
    return found


def parse_agreement(text: str, name: str) -> TrustAgreement:
    """Return the agreement in ``text`` (YAML or JSON); ``name`` stands for it in errors.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    agreement, tree = parse_as(TrustAgreement, text, name)
    for field, why in agreement_offences(agreement):
        raise refusal(name, tree, field, why)
    return agreement


def agreement_offences(agreement: TrustAgreement, at: str = "") -> Iterator[Offence]:
    """Yield what in an agreement does not fit together; ``at`` begins each path."""
    yield from _day_offences(f"{at}as_of", agreement.as_of)
    pops = [each.name for each in agreement.pops]
    yield from twice(f"{at}pops", pops, ".name")
    yield from twice(f"{at}standards", agreement.standards)
    places = {each.jurisdiction for each in agreement.pops}
    for index, name in enumerate(agreement.locations.jurisdictions):
        if name not in places:  # else a slip would keep everything out
            why = unknown("PoP's jurisdiction", name, sorted(places))
            yield f"{at}locations.jurisdictions[{index}]", why
    if not any(each.weight for each in agreement.terms().values()):
        yield f"{at}attributes", "no attribute has a weight; at least one above 0 is expected"
    known = {"pop": {*pops}, "operator": {each.operator for each in agreement.pops}}
    for index, each in enumerate(agreement.certificates):
        path = f"{at}certificates[{index}]"
        if each.of not in known.get(each.kind, {each.of}):
            yield f"{path}.of", unknown(each.kind, each.of, sorted(known[each.kind]))
        if each.standard not in agreement.standards:
            yield f"{path}.standard", unknown("standard", each.standard, agreement.standards)
        if each.by not in agreement.attesters:
            yield f"{path}.by", unknown("attester", each.by, agreement.attesters)
        for field in ("issued", "until"):
            yield from _day_offences(f"{path}.{field}", getattr(each, field))
        if each.until < each.issued:
            yield f"{path}.until", f"{show(each.until)} is before it is issued ({each.issued})"


def naming_offences(
    named: Iterable[str], agreement: TrustAgreement | None, at: str
) -> Iterator[Offence]:
    """Yield which slices, in their order, name an agreement that is not in force."""
    known = [] if agreement is None else [agreement.name]
    for index, name in enumerate(named):
        if name and name not in known:
            yield f"{at}[{index}].agreement", unknown("agreement", name, known)


def _day_offences(path: str, day: str) -> Iterator[Offence]:
    try:
        date.fromisoformat(day)
    except ValueError:
        yield path, f"{show(day)} is no day; a date such as 2026-01-31 is expected"


def _second(day: str) -> float:
    return datetime.combine(date.fromisoformat(day), time(), UTC).timestamp()
