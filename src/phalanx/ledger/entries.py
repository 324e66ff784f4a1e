"""What the ledger records, an entry a kind: who is enrolled, who verified whom, who got a key.

An agent registers with the ledger dynamically, contracts regulate and monitor the associations
between agents with a service level for each, and an agent's enrolment and retirement are recorded
(seed 000, III.B). The result of an attestation is recorded with the verifier, the time and the
root of trust, and the key that agents need is pushed to a contract (seed 001, 3.B, steps 6-14).

Digests are SHA-256 or Keccak-256 in hexadecimal, 64 digits; empty where there is none. Numbers
that are no integers are kept in millionths.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.trust import AttestationResult

Address = str
"""Of an account: ``0x`` and 40 hexadecimal digits, in lower case."""
Fault = Literal["silent", "contradicts", "withheld"]
OPERATOR = "operator"
"""The role of an account that may enrol, plan and revoke; every other role is an agent's."""


class Enrolled(Struct, frozen=True, tag=True):
    """An agent is one of the group; its initial attestation is to come. An operator's to say."""

    agent: AgentId
    account: Address
    role: str
    """``operator``, or what the agent is for, such as ``agent`` or ``auditor``."""
    software: str
    """Name and version of what it runs."""
    reference: str
    """Digest of its reference values."""
    public_key: str = ""
    """X25519, 64 hexadecimal digits: what is handed out to it is encrypted for this."""


class AgentRetired(Struct, frozen=True, tag=True):
    """An agent has left in order. The agent's own to say, or an operator's."""

    agent: AgentId
    reason: str


class Planned(Struct, frozen=True, tag=True):
    """How the group attests itself from now on. An operator's to say."""

    period_s: float
    """Of a round; a second or more."""
    verifiers: int
    """Elected for each attester in each round."""
    misses: int = 0
    """Rounds without evidence for a majority that revoke an attester; 0: none does."""


class RoundOpened(Struct, frozen=True, tag=True):
    """A round of the plan began. Any verified agent may open it once the last one is over."""

    round: int
    seed: str = ""
    """Elects the verifiers; the ledger fills it in."""


class Drawn(Struct, frozen=True, tag=True):
    """An agent committed to its share of a round's seed, in the first half of the round before."""

    round: int
    agent: AgentId
    commitment: str
    """Keccak-256 over agent, round and share (``election.commitment``)."""


class Revealed(Struct, frozen=True, tag=True):
    """An agent revealed that share, in the second half."""

    round: int
    agent: AgentId
    share: str


class Attested(Struct, frozen=True, tag=True):
    """A verifier's result. In a round: of one that was elected, once."""

    result: AttestationResult


class Faulted(Struct, frozen=True, tag=True):
    """What a verifier did wrong in the last round. Any agent may say it, the ledger checks it."""

    round: int
    attester: AgentId
    """Empty for ``withheld``."""
    verifier: AgentId
    fault: Fault
    """It gave no result; gave one against a majority; did not reveal what it committed to."""


class Associated(Struct, frozen=True, tag=True):
    """The service level between two agents; agreed once both have recorded the same."""

    a: AgentId
    b: AgentId
    max_latency_ms: float
    max_loss: float
    """Share of what is sent, 0 to 1."""


class Breached(Struct, frozen=True, tag=True):
    """One of the two saw that the level which was agreed is not kept."""

    a: AgentId
    b: AgentId
    latency_ms: float
    loss: float


class KeyHandedOut(Struct, frozen=True, tag=True):
    """An agent was given the secret of an epoch, encrypted for it alone."""

    agent: AgentId
    epoch: int
    ciphertext: bytes
    by: AgentId
    """One agent for all of an epoch: the first that does it, or an operator."""


class Rotated(Struct, frozen=True, tag=True):
    """Another epoch of keys began though nobody left. Of who hands out keys, or an operator."""

    epoch: int
    reason: str


class Revoked(Struct, frozen=True, tag=True):
    """An agent is out, and a new epoch of keys begins.

    An operator may say it; the ledger itself does once a majority of the verifiers that were
    elected in a round found the agent not genuine, and two at least.
    """

    agent: AgentId
    reason: str
    epoch: int = 0
    """The one that begins; the ledger fills it in."""


class AuditAnchored(Struct, frozen=True, tag=True):
    """The head of an agent's audit trail: no later change of what it covers goes unseen.

    The agent's own to say; of each recorder it covers more events each time.
    """

    agent: AgentId
    recorder: str
    """Of the seals: the part of their events' ids before the number."""
    events: int
    """Seals that it covers."""
    head: str


_OfMembers = Enrolled | AgentRetired | Revoked
_OfRounds = Planned | RoundOpened | Drawn | Revealed | Attested | Faulted
_OfLinks = Associated | Breached | AuditAnchored
_OfKeys = KeyHandedOut | Rotated
Entry = _OfMembers | _OfRounds | _OfLinks | _OfKeys
