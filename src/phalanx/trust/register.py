"""The register: who is to be trusted, as it follows from the ledger and nothing else.

A machine without I/O and without a clock: the ledger's entries go in, in their order, and what
changed comes out. Whoever reads the same ledger holds the same register, so agents agree on
whom they trust without asking each other.

Agents are verified in a chain first: an agent that was just verified is the root of trust for
the next one (Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 9 to
12). Then rounds follow each other. In a round each agent is verified by a few others, drawn by
the round's seed; a majority of them decides.

What was seen of an agent is kept by attribute, for the one trust score (``phalanx.trust.score``).
"""

from __future__ import annotations

from enum import Enum
from math import comb

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId
from phalanx.domain.trust import AttestationResult, TrustTier
from phalanx.ledger import RecordedEntry
from phalanx.ledger.election import elected
from phalanx.ledger.entries import (
    Address,
    AgentRetired,
    Associated,
    Attested,
    Breached,
    Enrolled,
    KeyHandedOut,
    Planned,
    Revoked,
    Rotated,
    RoundOpened,
)
from phalanx.trust.score import TrustAttribute, TrustEvidence, TrustScore, score_of

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
# In a round in which all its associations are said to be broken; of some, that share of it.
_MUTE = 2
"""Rounds without a word after which nobody waits for a verifier."""
_BROKEN = 0.5


class StandingChange(Struct, frozen=True):
    """An agent's standing changed."""

    agent: AgentId
    was: TrustStanding | None
    now: TrustStanding
    reason: str


class Association(Struct):
    """The service level between two agents, and what each of them says of it."""

    level: Associated
    """As it was said last; its agents are in the order of their names."""
    proposer: AgentId
    """The one of the two that said so."""
    agreed: bool = False
    """Whether the other had said the same before."""
    breaches: dict[AgentId, tuple[int, Breached]] = {}
    """By the agent that saw them: how many, and the last one."""


class GroupMember(Struct):
    """One agent as the ledger shows it."""

    agent: AgentId
    account: Address
    software: str
    reference: str
    """SHA-256 of its reference values and keys, in hexadecimal."""
    exchange: str
    """X25519, in hexadecimal; empty: no key can be handed out to it."""
    standing: TrustStanding = TrustStanding.ENROLLED
    enrolments: int = 1
    revoked: bool = False
    """Whether the ledger itself takes nothing from it any more."""
    verified: int = 0
    """Position in the ledger of the result that verified it last; 0: never."""
    results: dict[TrustTier, int] = {}
    seen: dict[TrustAttribute, TrustEvidence] = {}
    """What counts for and against it."""
    since_s: float = 0.0
    """When it was enrolled, by the ledger's clock, in seconds."""
    silent: int = 0
    """Rounds in a row without a word about those that it had to verify."""
    cause: str = ""
    """Event of the last result about it."""

    @property
    def refused(self) -> str:
        """Why nothing of it is to be trusted; empty: it was verified, and its evidence decides."""
        return "" if self.standing is TrustStanding.TRUSTED else f"is {self.standing.value}"

    @property
    def scored(self) -> TrustScore:
        """How far it is to be trusted by the ledger alone; without experience one half."""
        return score_of(self.seen, {}, self.refused)

    @property
    def score(self) -> float:
        """Value of ``scored``, from 0 to 1."""
        return self.scored.value

    def count(
        self, attribute: TrustAttribute, entry: int, seen_for: float = 0.0, against: float = 0.0
    ) -> None:
        """Count evidence that an entry of the ledger, by its position, gives."""
        found = self.seen.setdefault(attribute, TrustEvidence())
        found.seen_for += seen_for
        found.against += against
        found.named = f"ledger entry {entry}"


class TrustRegister(Struct):
    """All members, the round that is open, and what was said in it.

    It is all that entries leave behind: whoever has it as of one entry goes on with the next.
    """

    members: dict[AgentId, GroupMember] = {}
    """In the order of their enrolment."""
    plan: Planned | None = None
    round: int = 0
    seed: str = ""
    founder: AgentId = ""
    """Who began the ledger, and vouches for the first agent of the chain."""
    operators: set[AgentId] = set()
    """Names of those who enrol agents."""
    root: AgentId = ""
    """Root of trust: the agent that was verified last in the chain, which verifies the next."""
    said: dict[AgentId, dict[AgentId, AttestationResult]] = {}
    """In the open round, by attester and verifier."""
    epoch: int = 1
    """Of the keys for the overlay; it grows when an agent leaves or is expelled."""
    keeper: AgentId = ""
    """Who hands out the epoch's keys; empty: nobody has begun."""
    holders: dict[AgentId, KeyHandedOut] = {}
    """How the agents were given the epoch's key."""
    associations: dict[tuple[AgentId, AgentId], Association] = {}
    """By pair, in the order of the names."""
    _broken: set[tuple[AgentId, AgentId]] = set()
    """Pairs of which one said in this round that their service level is broken."""
    _chain: dict[AgentId, dict[AgentId, AttestationResult]] = {}
    """Results of agents that are not trusted yet, by attester and verifier."""
    _assigned: dict[AgentId, tuple[AgentId, ...]] = {}
    _verifiers: int = 0
    half_lives: dict[TrustAttribute, float] = {}
    """Seconds in which an attribute's evidence loses half of its weight; else ``FORGETTING``."""
    position: int = 0
    """Of the latest entry."""
    now_s: float = 0.0
    """When the latest entry was recorded, by the ledger's clock, in seconds."""

    def copied(self) -> TrustRegister:
        """Return a register that is the same now and changes by itself."""
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self), type=TrustRegister)

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
        self.position, self.now_s = recorded.position, recorded.time_s
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
                self.holders[entry.agent] = entry
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
            case Associated():
                self._associated(entry, recorded.author)
            case Breached():
                self._breached(entry, recorded.author)
        return []

    def association(self, agent: AgentId, other: AgentId) -> Association | None:
        """Return the association of two agents; None: neither has asked for one."""
        return self.associations.get(_pair(agent, other))

    def _associated(self, entry: Associated, author: Address) -> None:
        """Take a service level in as the contract does: the last word holds, and needs another."""
        by = self._one_of(entry, author)
        if by is None:
            return
        pair = _pair(entry.a, entry.b)
        level, before = replace(entry, a=pair[0], b=pair[1]), self.associations.get(pair)
        if before is None:
            self.associations[pair] = Association(level, by)
            return
        before.agreed = before.proposer != by and before.level == level
        before.level, before.proposer = level, by

    def _breached(self, entry: Breached, author: Address) -> None:
        by, pair = self._one_of(entry, author), _pair(entry.a, entry.b)
        found = self.associations.get(pair)
        if by is None or found is None or not found.agreed:
            return
        level = found.level
        if entry.latency_ms > level.max_latency_ms or entry.loss > level.max_loss:
            count, _ = found.breaches.get(by, (0, None))
            found.breaches[by] = count + 1, entry
            self._broken.add(pair)

    def _one_of(self, entry: Associated | Breached, author: Address) -> AgentId | None:
        """Return which of two agents speaks; None: neither, or one that is not trusted."""
        for name in (entry.a, entry.b) if entry.a != entry.b else ():
            member = self.members.get(name)
            if member is not None and member.account == author:
                return name if member.standing is TrustStanding.TRUSTED else None
        return None

    def _judge_associations(self) -> None:
        """Count what was said to be broken in the round against both agents of the pair alike.

        Nobody but the two can tell which of them is at fault. Whoever has a bad connection breaks
        its level with all, and others theirs with it alone; so it is with one that says untruth.
        """
        for pair in sorted(self._broken):
            for name in pair:
                member = self.members[name]
                agreed = sum(a.agreed for p, a in self.associations.items() if name in p)
                broken = _BROKEN / max(agreed, 1)
                member.count(TrustAttribute.AGREEMENT_KEPT, self.position, against=broken)
        self._broken.clear()

    def _next_epoch(self, epoch: int) -> None:
        self.epoch, self.keeper = max(epoch, self.epoch), ""
        self.holders.clear()

    def _changed(self, agent: AgentId, now: TrustStanding, reason: str) -> list[StandingChange]:
        member = self.members.get(agent)
        if member is None or member.standing is now:
            return []
        was, member.standing = member.standing, now
        if now in (TrustStanding.QUARANTINED, TrustStanding.RETIRED) and self.root == agent:
            self.root = self.founder  # as the contract has it: who is silent may come back
        return [StandingChange(agent, was, now, reason)]

    def _enrolled(self, entry: Enrolled) -> list[StandingChange]:
        if entry.role == OPERATOR:
            self.operators.add(entry.agent)
            self.founder = self.founder or entry.agent
            self.root = self.root or entry.agent
            return []
        old = self.members.pop(entry.agent, None)
        member = self.members[entry.agent] = GroupMember(
            entry.agent, entry.account, entry.software, entry.reference, entry.public_key
        )
        member.since_s = self.now_s
        self.holders.pop(entry.agent, None)
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
        self._assigned = elected(entry.seed, present, self._verifiers)
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
            self._count_attested(self.members[name], against=_NO_EVIDENCE)
            reason = f"no evidence (found so by {by})"
            changes += self._changed(name, TrustStanding.SILENT, reason)
        self._judge_verifiers()
        self._judge_associations()
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
        trusted = frozenset(self.with_standing(TrustStanding.TRUSTED))
        mute = (said_nothing - said_something) & trusted  # of others no word would count
        if len(mute) > len(said_something):
            return  # it was the ledger that nobody reached
        for name in sorted(mute | said_something):
            member = self.members[name]
            if name in said_something:
                member.silent = 0
            else:
                member.silent += 1
                found = {result.tier for result in self.said.get(name, {}).values()}
                gone = found == {TrustTier.NONE}
                # Once is an accident, time and again is not, of one that is there.
                weight = _NO_WORD * (1 if gone else member.silent)
                member.count(TrustAttribute.BEHAVIOUR, self.position, against=weight)

    def _credit(self, member: GroupMember, said: dict[AgentId, AttestationResult]) -> None:
        for attribute, found in member.seen.items():
            half_life = self.half_lives.get(attribute)
            period_s = 0.0 if self.plan is None else self.plan.period_s
            kept = FORGETTING if half_life is None else 0.5 ** (period_s / half_life)
            found.seen_for *= kept
            found.against *= kept
        tiers = [result.tier for result in said.values()]
        # Of two agents each is verified by one, whose word is all there can be.
        enough = min(self.quorum, len(self.verifiers_of(member.agent)))
        if tiers.count(TrustTier.AFFIRMING) >= enough > 0:
            self._count_attested(member, _GENUINE)
            for verifier, result in said.items():
                if result.tier is TrustTier.CONTRAINDICATED:
                    self._count_false_word(self.members[verifier])
        elif tiers.count(TrustTier.WARNING):
            self._count_attested(member, against=_UNWELL)

    def _count_attested(
        self, member: GroupMember, seen_for: float = 0.0, against: float = 0.0
    ) -> None:
        member.count(TrustAttribute.ATTESTATION, self.position, seen_for, against)

    def _count_false_word(self, member: GroupMember) -> None:
        member.count(TrustAttribute.BEHAVIOUR, self.position, against=_FALSE_WORD)

    def _attested(self, result: AttestationResult, recorded: RecordedEntry) -> list[StandingChange]:
        member = self.members.get(result.attester)
        if member is None or member.standing in (TrustStanding.QUARANTINED, TrustStanding.RETIRED):
            return []
        member.cause = result.cause
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
        enough = self.quorum
        if member.standing is TrustStanding.SILENT and result.tier is TrustTier.AFFIRMING:
            enough = min(enough, self._speaking())
        if len(agreeing) < enough:
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

    def _speaking(self) -> int:
        """Return how many are there to bring silent agents back.

        After a failure that left one agent alone its word has to do, or none would ever come back.
        """
        trusted = (m for m in self.members.values() if m.standing is TrustStanding.TRUSTED)
        return sum(member.silent < _MUTE for member in trusted)

    def _chained(
        self, member: GroupMember, result: AttestationResult, recorded: RecordedEntry
    ) -> list[StandingChange]:
        """Take a result of the chain in: of the root of trust, or of an operator.

        One good word is enough. The root's bad one expels nobody: the next root looks again. What
        an operator finds decides, since it enrolled the agent and may remove it anyway.
        """
        operator = result.verifier in self.operators
        if member.standing is not TrustStanding.ENROLLED:
            return []
        if not operator and result.verifier != self.root:
            return []
        said = self._chain.setdefault(member.agent, {})
        said[result.verifier] = result
        member.results[result.tier] = member.results.get(result.tier, 0) + 1
        by = ", ".join(name for name, each in said.items() if each.tier is result.tier)
        if result.tier is TrustTier.AFFIRMING:
            member.verified = recorded.position
            self._count_attested(member, _GENUINE)
            self.root = member.agent
            for name, each in said.items():
                if each.tier is TrustTier.CONTRAINDICATED and name in self.members:
                    self._count_false_word(self.members[name])
            return self._changed(member.agent, TrustStanding.TRUSTED, f"verified by {by}")
        if operator and result.tier is TrustTier.CONTRAINDICATED:
            reason = f"{_named(result)} (found so by {by})"
            return self._changed(member.agent, TrustStanding.QUARANTINED, reason)
        return []

    def verified_by(self, agent: AgentId) -> frozenset[AgentId]:
        """Return who has verified an agent that is not trusted yet."""
        return frozenset(self._chain.get(agent, ()))


def _pair(agent: AgentId, other: AgentId) -> tuple[AgentId, AgentId]:
    return (agent, other) if agent < other else (other, agent)


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
