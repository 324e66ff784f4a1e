"""Security service level agreements (SSLA): what is promised, measured, and done about a breach.

An agreement has guarantee terms. Each names a metric with its objective; the indicator (how it is
measured) follows from the metric. Metrics and delays of enforcement are those that seed 004, 3.1
lists; the parts of a term (objective, indicator, breach condition, remediation) are those of its
figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from math import isfinite
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, json, toml
from msgspec.structs import replace

from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Predicate
from phalanx.loading import Name, Offence, show, twice, unknown

Title = Annotated[str, Meta(min_length=1, max_length=200)]


class SecurityMetric(Enum):
    """What a term is about (seed 004, 3.1). ``METRICS`` has the units."""

    AVAILABILITY = "availability"
    """Share of what the users of the slice ask for that they get."""
    GEOLOCATION = "geolocation"
    """Functions of the slice that stand outside the allowed jurisdictions."""
    ANALYSIS_INTERVAL = "analysis-interval"
    """Time since the slice's traffic was last analysed."""
    GTP_TUNNELS = "gtp-tunnels"
    """GTP-U tunnels that one subscriber has open."""
    FOREIGN_SOURCES = "foreign-sources"
    """Packets that come in from sources that are not of the slice and not allowed."""
    CLEAR_TEXT = "clear-text"
    """Packets of the slice that are on the wire in the clear."""
    DEPLOY_DELAY = "deploy-delay"
    """Time from the decision for a security function until it runs."""
    PATCH_DELAY = "patch-delay"
    """Time from the release of a patch until no function runs without it."""
    RECONFIGURE_DELAY = "reconfigure-delay"
    """Time from a change of the policy until it is in force everywhere."""
    REVOKE_DELAY = "revoke-delay"
    """Time from the revocation of a user or operator until nothing of it passes."""
    SWITCH_DELAY = "switch-delay"
    """Time from the loss of an instance until another one serves."""


class Remediation(Enum):
    """What is done about a breach, lowest level first."""

    NOTIFY = "notify"
    LOG = "log"
    REJECT = "reject"
    """Drop the packets that break the term."""
    ENCRYPT = "encrypt"
    """Lead the slice's traffic through an encrypted tunnel."""
    ANALYSE = "analyse"
    """Look at the traffic now."""
    RELOCATE = "relocate"
    """Place the function where it may stand."""
    REPLICATE = "replicate"
    """Place another instance, and switch over to it."""
    REDEPLOY = "redeploy"
    """Start the function anew, in the version that is wanted."""


PLACED: dict[Remediation, str] = {
    Remediation.ENCRYPT: "gateway",
    Remediation.REPLICATE: "service-replica",
    Remediation.RELOCATE: "service-replica",
}
"""The function that a remedy places, which the scenario must have."""


class MetricTerms(Struct, frozen=True):
    """How a metric is written, compared and measured."""

    unit: str
    """Empty: a count."""
    better: Literal["higher", "lower"]
    indicator: str
    """How it is measured, in a few words."""
    remedies: tuple[Remediation, ...]
    """What can be done about a breach, in the order in which it is tried."""
    prevention: str
    """What would have prevented a breach."""


_TABLE = files(__package__).joinpath("ssla_metrics.toml").read_text(encoding="utf-8")
METRICS = toml.decode(_TABLE, type=dict[SecurityMetric, MetricTerms])


class Penalty(Struct, frozen=True, forbid_unknown_fields=True):
    """What the provider owes for a breach."""

    credit: Annotated[float, Meta(gt=0, le=1)]
    """Share of the price of the period, for each breach."""
    after_s: Annotated[float, Meta(ge=0)] = 0.0
    """Only if the breach lasts longer than this, in s."""


class GuaranteeTerm(Struct, frozen=True, forbid_unknown_fields=True):
    """One promise about one slice."""

    name: Name
    slice: Name
    metric: SecurityMetric
    objective: float
    """Value that the indicator must not be worse than, in the metric's unit; where the agreement
    is negotiated, the value that is asked for first."""
    window_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """Time over which the indicator is taken, in s."""
    allowed: Annotated[tuple[str, ...], Meta(max_length=10_000)] = ()
    """Prefixes that are allowed beside the slice's members (``foreign-sources``), or jurisdictions
    (``geolocation``)."""
    remediation: Annotated[tuple[Remediation, ...], Meta(max_length=8)] = (
        Remediation.NOTIFY,
        Remediation.LOG,
    )
    penalty: Penalty | None = None
    intent: Annotated[str, Meta(max_length=128)] = ""
    """Name of the intent that it follows from; empty: none."""
    acceptable: float | None = None
    """Of a negotiated agreement: the worst objective that is accepted; None: the objective."""

    def breached(self, value: float) -> bool:
        """Whether a value of the indicator breaks the promise."""
        return self.worse(value, self.objective)

    def worse(self, value: float, than: float) -> bool:
        """Whether a value of the indicator is worse than another one."""
        return value < than if self.up else value > than

    @property
    def up(self) -> bool:
        """Whether a higher value is better."""
        return METRICS[self.metric].better == "higher"

    @property
    def bid_term(self) -> str:
        """Its name among the terms of a bid."""
        return f"ssla.{self.name}"


class SecurityAgreement(Struct, frozen=True, forbid_unknown_fields=True):
    """A security service level agreement between a provider and a consumer of slices."""

    name: Name
    terms: Annotated[tuple[GuaranteeTerm, ...], Meta(min_length=1, max_length=10_000)]
    provider: Annotated[str, Meta(max_length=64)] = ""
    consumer: Annotated[str, Meta(max_length=64)] = ""
    about: Annotated[str, Meta(max_length=4000)] = ""
    start_s: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    """Second of the run from which it holds, or is negotiated."""
    negotiated_with: Annotated[tuple[Name, ...], Meta(max_length=1000)] | None = None
    """Agents that are asked to be the provider; empty: all; None: it holds as it is."""
    price: Annotated[float, Meta(ge=0)] | None = None
    """Of a period, as providers price what they host (C of their bids); None: not agreed."""

    def asked(self) -> SecurityAgreement:
        """Return what providers are asked for, who need not know what else would be accepted."""
        terms = tuple(replace(each, acceptable=None) for each in self.terms)
        return replace(self, terms=terms, negotiated_with=None)

    def objectives(self) -> dict[str, float]:
        """Return the objective of each term, by its name."""
        return {each.name: each.objective for each in self.terms}

    def agreed(self, provider: AgentId, values: Mapping[str, float]) -> SecurityAgreement:
        """Return what is agreed with a provider by the values of its bid."""
        terms = tuple(replace(each, objective=values[each.bid_term]) for each in self.terms)
        return replace(self, terms=terms, provider=provider, price=round(values["C"], 6))


@lru_cache(maxsize=1024)
def digest_of(agreement: SecurityAgreement) -> str:
    """Return the SHA-256 (hexadecimal, 32 digits) of an agreement; its terms' order counts."""
    return sha256(json.encode(agreement, order="deterministic")).hexdigest()[:32]


class AgreementHeld(Predicate, frozen=True):
    """A provider has promised an agreement, of which this is what it was asked for first.

    Its holder is the provider, its mandate the digest of what was agreed.
    """

    private: ClassVar[bool] = True

    agreement: SecurityAgreement

    def fixes(self, bidder: AgentId, terms: Mapping[str, float]) -> str:
        """Return the digest of the agreement that an award to a provider fixes."""
        return digest_of(self.agreement.agreed(bidder, terms))

    def __str__(self) -> str:
        return f"agreementHeld({self.agreement.name}, {digest_of(self.agreement)[:8]})"


class AgreementFixed(Predicate, frozen=True):
    """An agreement as its consumer and its provider have concluded it."""

    agreement: SecurityAgreement

    def __str__(self) -> str:
        return f"agreementFixed({self.agreement.name}, {digest_of(self.agreement)})"


def agreement_offences(
    agreement: SecurityAgreement, slices: Iterable[str] | None = None
) -> Iterator[Offence]:
    """Yield everything in an agreement that does not fit together.

    Args:
        agreement: typed as the schema has it.
        slices: names of the slices that there are; None: not known here.

    """
    known = None if slices is None else list(slices)
    yield from twice("terms", (term.name for term in agreement.terms), ".name")
    for index, term in enumerate(agreement.terms):
        path, metric = f"terms[{index}]", METRICS[term.metric]
        top = 1.0 if metric.unit == "fraction" else float("inf")
        if not isfinite(term.objective) or not 0 <= term.objective <= top:
            wanted = "a fraction from 0 to 1" if top == 1.0 else "0 or more"
            yield (
                f"{path}.objective",
                f"{show(term.objective)} is not allowed; it has to be {wanted}",
            )
        worst, first = term.acceptable, agreement.terms[0].slice
        if worst is not None and agreement.negotiated_with is None:
            yield f"{path}.acceptable", "is of an agreement with negotiated_with alone"
        elif worst is not None and (not 0 <= worst <= top or term.worse(term.objective, worst)):
            why = f"{show(worst)} is better than the objective {term.objective:g}, or no such value"
            yield f"{path}.acceptable", why
        if agreement.negotiated_with is not None and term.slice != first:
            yield f"{path}.slice", f"an agreement is negotiated for one slice, here {first}"
        if known is not None and term.slice not in known:
            yield f"{path}.slice", unknown("slice", term.slice, known)
        for place, remedy in enumerate(term.remediation):
            if remedy not in metric.remedies:
                allowed = ", ".join(each.value for each in metric.remedies)
                why = (
                    f"{remedy.value} does nothing about {term.metric.value}; allowed are {allowed}"
                )
                yield f"{path}.remediation[{place}]", why
