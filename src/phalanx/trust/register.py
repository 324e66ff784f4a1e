"""The register: who is to be trusted, as it follows from the ledger and nothing else.

A machine without I/O and without a clock: the ledger's entries go in, in their order, and what
changed comes out. Whoever reads the same ledger holds the same register, so agents agree on
whom they trust without asking each other.

Agents are verified in a chain first: an agent that was just verified is the root of trust for
the next one (Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 9 to
12). Then rounds follow each other. In a round each agent is verified by a few others, drawn by
the round's seed; a majority of them decides.

The trust score is the expectation of a beta distribution over what was seen, with forgetting
(Josang and Ismail, *The Beta Reputation System*, 2002, eq. 5 and 11).
"""

from __future__ import annotations

from enum import Enum
from math import comb

from msgspec import Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.trust import AttestationResult, TrustTier
from phalanx.ledger import RecordedEntry
from phalanx.ledger.election import assigned
from phalanx.ledger.entries import (
    AgentRetired,
    Attested,
    Enrolled,
    KeyHandedOut,
    Planned,
    Revoked,
    Rotated,
    RoundOpened,
)

FORGETTING = 0.97
"""What a round leaves of the weight of what was seen before."""


class TrustStanding(Enum):
    """What an agent may do, as all agents see it."""

    ENROLLED = "enrolled"
    """Known, and not verified yet."""
    TRUSTED = "trusted"
    """Verified, and not found otherwise since."""
    SILENT = "silent"
    """Showed no evidence: refused until a majority has verified it again."""
    QUARANTINED = "quarantined"
    """Not genuine, or not honest: refused until it is deployed and enrolled anew."""
    RETIRED = "retired"
    """Left the group in order."""


OPERATOR = "operator"
"""Role of those who enrol agents and may verify the first of the chain; no member of the group."""
EXCLUDED = (TrustStanding.SILENT, TrustStanding.QUARANTINED)

# Weight of what was seen, for or against an agent.
_GENUINE, _UNWELL, _NO_EVIDENCE, _FALSE_WORD, _NO_WORD = 1.0, 0.5, 1.0, 2.0, 1.0


class StandingChange(Struct, frozen=True):
    """An agent's standing changed."""

    agent: AgentId
    was: TrustStanding | None
    now: TrustStanding
    reason: str


class GroupMember:
    """One agent as the ledger shows it."""

    __slots__ = (
        "account",
        "against",
        "agent",
        "enrolments",
        "exchange",
        "reference",
        "results",
        "revoked",
        "seen_for",
        "silent",
        "software",
        "standing",
        "verified",
    )

    def __init__(self, entry: Enrolled) -> None:
        self.agent = entry.agent
        self.account = entry.account
        self.software = entry.software
        self.reference = entry.reference
        """SHA-256 of its reference values and keys, in hexadecimal."""
        self.exchange = entry.public_key
        """X25519, in hexadecimal; empty: no key can be handed out to it."""
        self.standing = TrustStanding.ENROLLED
        self.enrolments = 1
        self.revoked = False
        """Whether the ledger itself takes nothing from it any more."""
        self.verified = 0
        """Position in the ledger of the result that verified it last; 0: never."""
        self.results: dict[TrustTier, int] = {}
        self.seen_for = self.against = 0.0
        self.silent = 0
        """Rounds in a row without a word about those that it had to verify."""

    @property
    def score(self) -> float:
        """How far it is to be trusted, from 0 to 1; without experience one half."""
        if self.standing is not TrustStanding.TRUSTED:
            return 0.0
        return (self.seen_for + 1.0) / (self.seen_for + self.against + 2.0)


class TrustRegister:
    """All members, the round that is open, and what was said in it."""

    def __init__(self) -> None:
        self.members: dict[AgentId, GroupMember] = {}
        """In the order of their enrolment."""
        self.plan: Planned | None = None
        self.round = 0
        self.seed = ""
        self.founder: AgentId = ""
        """Who began the ledger, and vouches for the first agent of the chain."""
        self.root: AgentId = ""
        """Root of trust: the agent that was verified last in the chain, which verifies the next."""
        self.said: dict[AgentId, dict[AgentId, AttestationResult]] = {}
        """In the open round, by attester and verifier."""
        self.epoch = 1
        """Of the keys for the overlay; it grows when an agent leaves or is expelled."""
        self.keeper: AgentId = ""
        """Who hands out the epoch's keys; empty: nobody has begun."""
        self.holders: set[AgentId] = set()
        """The agents that were given the epoch's key."""
        self._chain: dict[AgentId, dict[AgentId, AttestationResult]] = {}
        """Results of agents that are not trusted yet, by attester and verifier."""
        self._assigned: dict[AgentId, tuple[AgentId, ...]] = {}
        self._verifiers = 0

    # -- what it says ---------------------------------------------------------------------------

    def standing(self, agent: AgentId) -> TrustStanding | None:
        """Return an agent's standing; None: it was never enrolled."""
        member = self.members.get(agent)
        return None if member is None else member.standing

    def excluded(self, agent: AgentId) -> bool:
        """Whether nobody deals with an agent: it is out, or not verified after the chain.

        Until the first round all are dealt with, or nobody could speak before all are verified.
        """
        standing = self.standing(agent)
        unverified = standing is None or standing is TrustStanding.ENROLLED
        return standing in EXCLUDED or (unverified and self.round > 0)

    def belongs(self, agent: AgentId) -> bool:
        """Whether an agent is enrolled, and neither expelled nor retired."""
        out = None, TrustStanding.QUARANTINED, TrustStanding.RETIRED
        return self.standing(agent) not in out

    def with_standing(self, *standings: TrustStanding) -> tuple[AgentId, ...]:
        """Return the agents of some standings, in the order of their enrolment."""
        return tuple(m.agent for m in self.members.values() if m.standing in standings)

    @property
    def quorum(self) -> int:
        """How many of the verifiers of one agent must agree: one alone never expels."""
        return max(self._verifiers // 2 + 1, 2)

    def verifiers_of(self, attester: AgentId) -> tuple[AgentId, ...]:
        """Return who is to verify an agent in the open round."""
        return self._assigned.get(attester, ())

    # -- what goes in ---------------------------------------------------------------------------

    def apply(self, recorded: RecordedEntry) -> list[StandingChange]:
        """Take the ledger's next entry in; return whose standing it changes."""
        entry = recorded.entry
        match entry:
            case Enrolled():
                return self._enrolled(entry)
            case AgentRetired():
                self._next_epoch(self.epoch + 1)
                return self._changed(entry.agent, TrustStanding.RETIRED, entry.reason)
            case Rotated():
                self._next_epoch(entry.epoch)
            case KeyHandedOut() if entry.epoch == self.epoch:
                self.keeper = entry.by
                self.holders.add(entry.agent)
            case Revoked():
                self._next_epoch(entry.epoch)
                if entry.agent in self.members:
                    self.members[entry.agent].revoked = True
                return self._changed(entry.agent, TrustStanding.QUARANTINED, entry.reason)
            case Planned():
                self.plan = entry
            case RoundOpened():
                return self._opened(entry)
            case Attested():
                return self._attested(entry.result, recorded)
        return []

    def _next_epoch(self, epoch: int) -> None:
        self.epoch, self.keeper = max(epoch, self.epoch), ""
        self.holders.clear()

    def _changed(self, agent: AgentId, now: TrustStanding, reason: str) -> list[StandingChange]:
        member = self.members.get(agent)
        if member is None or member.standing is now:
            return []
        was, member.standing = member.standing, now
        if now is not TrustStanding.TRUSTED and self.root == agent:
            self.root = self.founder
        return [StandingChange(agent, was, now, reason)]

    def _enrolled(self, entry: Enrolled) -> list[StandingChange]:
        if entry.role == OPERATOR:
            self.founder = self.founder or entry.agent
            self.root = self.root or entry.agent
            return []
        old = self.members.pop(entry.agent, None)
        member = self.members[entry.agent] = GroupMember(entry)
        self.holders.discard(entry.agent)
        self._chain.pop(entry.agent, None)
        if old is None:
            return [StandingChange(entry.agent, None, TrustStanding.ENROLLED, "enrolled")]
        member.enrolments += old.enrolments
        member.results = old.results
        return [StandingChange(entry.agent, old.standing, TrustStanding.ENROLLED, "enrolled anew")]

    def _opened(self, entry: RoundOpened) -> list[StandingChange]:
        changes = self._closed()
        self.round, self.seed = entry.round, entry.seed
        self.said = {}
        self._verifiers = self.plan.verifiers if self.plan is not None else 0
        present = frozenset(self.with_standing(TrustStanding.TRUSTED, TrustStanding.SILENT))
        self._assigned = {
            attester: assigned(entry.seed, attester, present, self._verifiers)
            for attester in present
        }
        return changes

    def _closed(self) -> list[StandingChange]:
        """Judge the round that ends: who was found genuine, who said nothing, who said untruth.

        Where more than half of the group seems silent it is the measurers or the network that do
        not work, and nobody is refused for it: without all those there would be no defence.
        """
        changes: list[StandingChange] = []
        trusted = self.with_standing(TrustStanding.TRUSTED)
        silent = [name for name in trusted if self._showed_nothing(name)]
        for name in silent if 2 * len(silent) <= len(trusted) else ():
            by = ", ".join(sorted(self.said[name]))
            self.members[name].against += _NO_EVIDENCE
            reason = f"no evidence (found so by {by})"
            changes += self._changed(name, TrustStanding.SILENT, reason)
        self._judge_verifiers()
        return changes

    def _showed_nothing(self, agent: AgentId) -> bool:
        said = [result.tier for result in self.said.get(agent, {}).values()]
        return said.count(TrustTier.NONE) >= self.quorum

    def _judge_verifiers(self) -> None:
        said_nothing: set[AgentId] = set()
        said_something: set[AgentId] = set()
        for attester, verifiers in self._assigned.items():
            member, said = self.members[attester], self.said.get(attester, {})
            said_something |= said.keys()
            said_nothing |= set(verifiers) - said.keys()
            if member.standing is TrustStanding.TRUSTED:
                self._credit(member, said)
        mute = said_nothing - said_something
        if len(mute) > len(said_something):
            return  # it was the ledger that nobody reached
        for name in sorted(mute | said_something):
            member = self.members[name]
            if name in said_something:
                member.silent = 0
            elif member.standing is TrustStanding.TRUSTED:
                member.silent += 1  # once is an accident, time and again is not
                member.against += _NO_WORD * member.silent

    def _credit(self, member: GroupMember, said: dict[AgentId, AttestationResult]) -> None:
        member.seen_for *= FORGETTING
        member.against *= FORGETTING
        tiers = [result.tier for result in said.values()]
        if tiers.count(TrustTier.AFFIRMING) >= self.quorum:
            member.seen_for += _GENUINE
            for verifier, result in said.items():
                if result.tier is TrustTier.CONTRAINDICATED:
                    self.members[verifier].against += _FALSE_WORD
        elif tiers.count(TrustTier.WARNING):
            member.against += _UNWELL

    def _attested(self, result: AttestationResult, recorded: RecordedEntry) -> list[StandingChange]:
        member = self.members.get(result.attester)
        if member is None or member.standing in (TrustStanding.QUARANTINED, TrustStanding.RETIRED):
            return []
        if result.round == 0:
            return self._chained(member, result, recorded)
        if result.round != self.round or result.verifier not in self.verifiers_of(result.attester):
            return []  # too late, or not drawn
        if self.standing(result.verifier) is not TrustStanding.TRUSTED:
            return []  # nobody answers it, so it would find all others silent
        said = self.said.setdefault(result.attester, {})
        before, worse = said.get(result.verifier), TrustTier.CONTRAINDICATED
        if before is not None and (result.tier is not worse or before.tier is worse):
            return []  # what is found later in the round counts; nothing is taken back
        said[result.verifier] = result
        member.results[result.tier] = member.results.get(result.tier, 0) + 1
        return self._decided(member, said, result, recorded)

    def _decided(
        self,
        member: GroupMember,
        said: dict[AgentId, AttestationResult],
        result: AttestationResult,
        recorded: RecordedEntry,
    ) -> list[StandingChange]:
        agreeing = [name for name, each in said.items() if each.tier is result.tier]
        if len(agreeing) < self.quorum:
            return []
        by = f"found so by {', '.join(sorted(agreeing))}"
        match result.tier:
            case TrustTier.CONTRAINDICATED:
                reason = f"{_named(result)} ({by})"
                return self._changed(member.agent, TrustStanding.QUARANTINED, reason)
            case TrustTier.AFFIRMING:
                member.verified = recorded.position
                if member.standing is TrustStanding.SILENT:
                    member.silent = 0
                    reason = f"genuine again ({by})"
                    return self._changed(member.agent, TrustStanding.TRUSTED, reason)
        return []

    def _chained(
        self, member: GroupMember, result: AttestationResult, recorded: RecordedEntry
    ) -> list[StandingChange]:
        """Take a result of the chain in: from a trusted agent, or the first from outside.

        One word is enough to trust an agent. One alone is not enough to expel it, and once there
        is one against it, the majority decides.
        """
        trusted = self.with_standing(TrustStanding.TRUSTED)
        if member.standing is not TrustStanding.ENROLLED:
            return []
        if result.verifier in self.members and result.verifier not in trusted:
            return []
        said = self._chain.setdefault(member.agent, {})
        said[result.verifier] = result
        member.results[result.tier] = member.results.get(result.tier, 0) + 1
        tiers = [each.tier for each in said.values()]
        good, bad = tiers.count(TrustTier.AFFIRMING), tiers.count(TrustTier.CONTRAINDICATED)
        by = ", ".join(name for name, each in said.items() if each.tier is result.tier)
        if good > bad and good >= min(bad + 1, 2):
            member.verified = recorded.position
            member.seen_for += _GENUINE
            self.root = member.agent
            return self._changed(member.agent, TrustStanding.TRUSTED, f"verified by {by}")
        if bad > good and bad >= 2:
            reason = f"{_named(result)} (found so by {by})"
            return self._changed(member.agent, TrustStanding.QUARANTINED, reason)
        return []

    def verified_by(self, agent: AgentId) -> frozenset[AgentId]:
        """Return who has verified an agent that is not trusted yet."""
        return frozenset(self._chain.get(agent, ()))


def _named(result: AttestationResult) -> str:
    """Return what was found, in short."""
    found = dict.fromkeys(f"{each.kind} {each.where}" for each in result.deviations)
    return "; ".join([*found][:3]) or "altered"


def unseen(members: int, infected: int, verifiers: int, rounds: int = 1) -> float:
    """Return the probability that one infected agent stays unseen, if the infected vouch.

    Each round draws ``verifiers`` of the other ``members - 1`` agents; of them ``infected - 1``
    lie for it. It is found once a majority of those drawn is honest.
    """
    drawn = max(min(verifiers, members - 1), 1)
    quorum = drawn // 2 + 1
    liars, honest = infected - 1, members - infected
    found = sum(
        comb(honest, k) * comb(liars, drawn - k)
        for k in range(quorum, drawn + 1)
        if 0 <= drawn - k <= liars
    )
    return (1.0 - found / comb(members - 1, drawn)) ** rounds
