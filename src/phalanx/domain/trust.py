"""The words of attestation (RFC 9334): evidence, reference values, attestation results."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from phalanx.domain.agents import AgentId


class TrustTier(Enum):
    """What a verifier says of an attester, as AR4SI's trustworthiness tiers name it."""

    AFFIRMING = "affirming"
    """Everything that was looked at is as the reference values have it."""
    WARNING = "warning"
    """Nothing was altered, but it does not run as it should: stalled, starved, out of date."""
    CONTRAINDICATED = "contraindicated"
    """Something is not genuine."""
    NONE = "none"
    """Nothing can be said: no evidence, or none that could be appraised."""


class Deviation(Struct, frozen=True, order=True):
    """One thing that differs from the reference values."""

    kind: str
    """Such as ``text-altered``, ``page-written``, ``object-unlisted``, ``code-altered``."""
    where: str
    """File, segment, module or function that it was found in."""
    what: str
    """What was expected and what was found, in one line, without secrets."""


class AttestationResult(Struct, frozen=True):
    """A verifier's conclusion about one agent, as the ledger keeps it."""

    attester: AgentId
    verifier: AgentId
    tier: TrustTier
    round: int
    """Of the group's plan; 0: the initial attestation."""
    at_s: float
    """Verifier's clock, in seconds."""
    evidence: str
    """SHA-256 of the evidence, in hexadecimal; empty: there was none."""
    root: AgentId
    """Root of trust: the agent verified last before, that vouches for the verifier."""
    deviations: tuple[Deviation, ...] = ()
