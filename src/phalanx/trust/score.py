"""The trust score: how far something is to be trusted, from 0 to 1, and from what that follows.

It is the expectation of a beta distribution over what was seen, with forgetting (Josang and Ismail,
*The Beta Reputation System*, 2002, eq. 5 and 11). What was seen is kept by attribute, as a Trust
Level Agreement names them (seed 002, II.B: "trust attributes specified in the TLA"), so a score can
be taken apart. Attributes that only an agreement tells of are more evidence for the same score.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated

from msgspec import Meta, Struct


class TrustAttribute(Enum):
    """What evidence is about."""

    COMPLIANCE = "compliance"
    """Certificates that it follows the standards which are asked for."""
    LOCATION = "operating-location"
    """It stands where it may."""
    ATTESTATION = "attestation"
    """Its program was found genuine, or it showed no evidence, or did not run as it should."""
    BEHAVIOUR = "behaviour"
    """What it says of others holds, and it says what it has to."""
    AGE = "age"
    """How long it is one of the group."""
    AGREEMENT_KEPT = "agreement-kept"
    """The service levels that it agreed on with others are kept."""


class AttributeTerms(Struct, frozen=True, forbid_unknown_fields=True):
    """What an agreement asks of one attribute, and how much it counts."""

    weight: Annotated[float, Meta(ge=0, le=100)] = 1.0
    """Of its evidence in the score; 0: it is shown and does not count."""
    minimum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Value of this attribute alone below which nothing is trusted, whatever the others say."""
    half_life_s: Annotated[float, Meta(ge=1, le=3.2e9)] | None = None
    """Time after which evidence counts half. None: what the ledger tells loses 3 % a round,
    certificates count in full until they end, and age one half after a day."""


class TrustEvidence(Struct):
    """What was seen of one attribute, with the weight that forgetting has left of it."""

    seen_for: float = 0.0
    against: float = 0.0
    named: str = ""
    """The latest evidence, such as an entry of the ledger or a certificate."""

    @property
    def value(self) -> float:
        """Expectation, from 0 to 1; without evidence one half."""
        return (self.seen_for + 1.0) / (self.seen_for + self.against + 2.0)


class ScorePart(Struct, frozen=True):
    """One attribute's part of a score."""

    attribute: TrustAttribute
    value: float
    """Of this attribute alone, from 0 to 1."""
    weight: float
    seen_for: float
    against: float
    evidence: str


class TrustScore(Struct, frozen=True):
    """A score with what it follows from."""

    value: float
    parts: tuple[ScorePart, ...] = ()
    reason: str = ""
    """Why it is less than its parts say, such as an attribute below its minimum."""


def score_of(
    seen: Mapping[TrustAttribute, TrustEvidence],
    terms: Mapping[TrustAttribute, AttributeTerms],
    refused: str = "",
) -> TrustScore:
    """Return the score of something.

    Args:
        seen: the evidence.
        terms: weights and minima; an attribute that they do not name counts in full.
        refused: why nothing of it is to be trusted, such as that its program was altered; empty:
            its evidence decides.

    """
    default, parts = AttributeTerms(), []
    total_for = total = 0.0
    for attribute in TrustAttribute:
        asked, found = terms.get(attribute, default), seen.get(attribute, TrustEvidence())
        total_for += asked.weight * found.seen_for
        total += asked.weight * (found.seen_for + found.against)
        figures = found.value, asked.weight, found.seen_for, found.against
        if found.named:
            parts.append(ScorePart(attribute, *figures, found.named))
        if found.value < asked.minimum and not refused:
            what = f"{attribute.value} {found.value:.3f}, at least {asked.minimum:g} agreed"
            refused = f"{what} ({found.named or 'no evidence'})"
    value = 0.0 if refused else (total_for + 1.0) / (total + 2.0)
    return TrustScore(value, tuple(parts), refused)
