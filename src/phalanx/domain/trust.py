"""The words of attestation (RFC 9334): evidence, reference values, attestation results."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Predicate


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
    cause: str = ""
    """Event of the verifier's log that tells of it, from which what others do about it follows."""


class Distrusted(Predicate, frozen=True):
    """No agent deals with ``agent``: it is not genuine, not honest, or shows no evidence."""

    agent: AgentId


class RootQuote(Struct, frozen=True):
    """What hardware says of evidence (``phalanx.trust.roots``)."""

    kind: str
    """Of the hardware: ``tpm``."""
    octets: bytes
    """Over all of the evidence but this and the signature."""


class Evidence(Struct, frozen=True, tag=True):
    """What an attester shows of itself, in the shape of an entity attestation token (RFC 9711)."""

    agent: AgentId
    nonce: str
    """Of the challenge, in hexadecimal: evidence is good for one challenge."""
    software: str
    """Name and version of the package that runs."""
    measurement: bytes
    """What the measurer saw of the process, as ``phalanx.trust.measurement`` writes it."""
    modelled: bool
    """Whether the measurer is a model, as where all agents share one process."""
    quote: RootQuote | UnsetType = UNSET
    """Unset: no hardware vouches."""
    signature: str = ""
    """Ed25519, in hexadecimal, of the measurer over all that stands above."""

    @property
    def root(self) -> str:
        """Kind of the root of trust: ``software``, the measurer's key alone; or ``tpm``."""
        return self.quote.kind if self.quote else "software"


class Measure(Struct, frozen=True):
    """Action: look at the agent's own process from outside it. Result: ``Evidence``."""

    nonce: str


class Submit(Struct, frozen=True):
    """Action: write an entry into the ledger. Result: ``Done``, once it cannot be undone."""

    entry: Struct


class ServiceLevel(Struct, frozen=True, forbid_unknown_fields=True):
    """What the communication of agents that verify each other is to keep."""

    max_latency_ms: Annotated[float, Meta(gt=0, le=1e9)]
    """Of a challenge and its answer together, without the time that measuring takes."""
    max_loss: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the messages."""


class Scored(Struct, frozen=True):
    """Percept: how far agents are to be trusted now, from 0 to 1."""

    scores: dict[AgentId, float]


class UseKey(Struct, frozen=True):
    """Action: protect what agents say to each other with a secret. Result: ``Done``."""

    epoch: int
    secret: bytes

    def __repr__(self) -> str:
        return f"UseKey({self.epoch}, …)"


class GroupKeys(Struct, frozen=True):
    """What protects the words of a group now, as its ledger and its agents say."""

    epoch: int
    expelled: frozenset[AgentId] = frozenset()
    """Agents that nobody may speak with."""
    retired: frozenset[AgentId] = frozenset()
    """Agents that have left in order, and may still hand over what they did."""
    secrets: dict[AgentId, bytes] = {}
    """Of the epoch, by the agents of the group that have it."""

    def __repr__(self) -> str:
        return f"GroupKeys({self.epoch}, {sorted(self.secrets)})"


TrustAction = Measure | Submit | UseKey
"""What an agent asks of what stands beside its PoP: the measurer, the ledger, the overlay."""


class Challenge(Struct, frozen=True, tag=True):
    """Content of a request: show that you are genuine, now."""

    nonce: str
    round: int
    tried: int = 1
    """How often it was sent by now: messages arrive at most once."""


class EvidenceReply(Struct, frozen=True, tag=True):
    """Content of the inform that answers a challenge: evidence, or why there is none."""

    nonce: str
    evidence: Evidence | None = None
    reason: str = ""
    kept: tuple[str, ...] = ()
    """What it keeps in force, as the log writes effects; only with evidence."""
    tried: int = 1
    """Of the challenge that this answers."""
    held_s: float = 0.0
    """Between that challenge and this, in seconds of the attester's clock."""


class SignedReport(Struct, frozen=True):
    """What an agent tells its auctioneer that it keeps in force, so that it stands by it."""

    conversation: str
    effects: tuple[str, ...]
    """As the log writes them."""
    round: int
    """Of the group's plan, in which it was said."""
    signature: str = ""
    """Of the agent's account over its name and all that stands above, in hexadecimal."""


class Suspicion(Struct, frozen=True, tag=True):
    """Content of a request to a verifier: look at an agent now."""

    agent: AgentId
    report: SignedReport | None = None
    """What it has reported, and is not so."""
