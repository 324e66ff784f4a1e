"""Attestation: every agent is attester and verifier by turns.

An agent follows the ledger. It verifies the next agent of the chain while it is the root of
trust, and in each round those that the round's seed assigns to it, at a time that nobody else
can foresee. It shows evidence when a member asks. It waits for nothing that the ledger does: it
goes on with what it knows.

Source: Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 9 to 12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from hmac import digest as keyed
from math import inf
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, drains, hears, perceives
from phalanx.bdi.steps import Believe, Forget, Perceive, Steps
from phalanx.domain.actions import Failed, Outcome
from phalanx.domain.agents import AgentId
from phalanx.domain.messages import Message, Performative
from phalanx.domain.trust import (
    AttestationResult,
    Challenge,
    Deviation,
    Distrusted,
    Evidence,
    EvidenceReply,
    Measure,
    Scored,
    SignedReport,
    Submit,
    Suspicion,
    TrustTier,
)
from phalanx.ledger import LedgerError, RecordedEntry
from phalanx.ledger.election import commitment
from phalanx.ledger.entries import (
    AgentRetired,
    Attested,
    Drawn,
    Enrolled,
    Entry,
    Planned,
    Revealed,
    RoundOpened,
)
from phalanx.ledger.ethereum import Account, signer
from phalanx.trust.evidence import LastLook, Repository, digest, verify
from phalanx.trust.measurement import Activity
from phalanx.trust.register import (
    EXCLUDED,
    GroupMember,
    StandingChange,
    TrustRegister,
    TrustStanding,
)
from phalanx.trust.score import TrustAttribute

ATTESTATION = "attestation"
"""Conversation of challenges and evidence."""
CHAIN = 0
"""Round of the initial attestation."""
REST_S = 10.0
"""Before an agent that showed no evidence in the chain is asked again."""
NAMED, TEXT = 8, 160
"""Deviations that a result names, and characters of each of their texts."""
SHARES = 3
"""Agents that give shares of a seed: while one of them is honest, nobody can choose it."""
REVEALED_AT = 0.6
"""Share of a round after which shares are revealed; the ledger takes them after one half."""
OPENERS = 3
"""Agents whose turn it is to open a round before whoever enrolled them does."""
TURN_S = 2.0
"""How long the next one waits for the one whose turn it is to open a round."""
RULE_MISSING = "rule-missing"
"""Deviation: what an agent says that it keeps in force is not there. It may have been lifted
meanwhile, so it counts once a second look shows the same."""
ROUNDS = 2
"""Before the open one, from which reports are held against who signed them."""
AGAIN_S = 1.0
"""Before that second look."""


class TrustTerms(Struct, frozen=True):
    """What an operator sets for attestation, and where enrolments are kept."""

    repository: Repository
    secret: bytes
    """Of this agent alone: its nonces and the times of its looks follow from it."""
    outsiders: frozenset[AgentId] = frozenset()
    """Who may challenge beside the members: what hardens and enrols agents."""
    exchange: X25519PrivateKey | None = None
    """Of this agent: opens the keys that are handed out to it."""
    account: Account | None = None
    """Of this agent on the ledger: signs what it reports. None: it reports nothing."""
    answer_s: float = 3.0
    """How long a verifier waits for evidence before it asks again."""
    tries: int = 3
    spread: float = 0.6
    """Share of a round over which its looks are spread."""


Audited = Callable[[tuple[Deviation, ...] | None], None]
"""Told what an agent does otherwise than it says; None: nobody could see it."""
Audit = Callable[[Agent, AgentId, tuple[str, ...], Audited], None]
"""Compares what an agent does with what it says, and says that it keeps in force."""


def by_ledger(register: TrustRegister) -> dict[AgentId, float]:
    """Return the scores of all agents as they follow from the ledger alone."""
    return {name: member.score for name, member in register.members.items()}


class _Look(Struct):
    """A challenge that is open."""

    round: int
    nonce: str
    cause: str
    tries: int = 1
    in_turn: bool = True
    """Whether the plan asks for it; of another one only what is not genuine is told."""
    doubted: frozenset[Deviation] = frozenset()
    """What the first look showed, if a second one has to confirm it."""
    activity: Activity | None = None
    """Of the process, if evidence of it was believed."""


class Attestation(Capability):
    """Shows evidence, verifies others, and follows what the ledger says of them."""

    name = "attestation"

    def __init__(self) -> None:
        self.terms: TrustTerms | None = None
        """Set before the agent lives; None: it takes no part."""
        self.register = TrustRegister()
        self.appraise: Callable[[TrustRegister], Mapping[AgentId, float]] = by_ledger
        """Returns the score of each agent."""
        self.half_lives: dict[TrustAttribute, float] = {}
        """See ``TrustRegister.half_lives``."""
        self.audit: Audit | None = None
        """None: nothing compares what agents do with what they say."""
        self.kept: Callable[[Agent], tuple[str, ...]] = lambda _: ()
        """Returns what this agent keeps in force."""
        self.asked: Callable[[Agent, AgentId, Challenge], None] = lambda *_: None
        """Called with each challenge that is sent."""
        self.enrolled: dict[AgentId, float] = {}
        """When this agent read of the last enrolment of each."""
        self._reported: dict[AgentId, set[tuple[int, str]]] = {}
        """What agents signed that they keep in force, by round, where others doubt it."""
        self.openings: tuple[float, ...] = (inf,)
        """When this agent read that the latest rounds began, one more than reports may be old;
        inf: it was not there."""
        self._looks: dict[AgentId, _Look] = {}
        self._seen: dict[AgentId, LastLook] = {}
        """What was measured of others last, for what only a second look shows."""
        self._shown: tuple[AgentId, str, EvidenceReply] | None = None
        """The last evidence: a challenge that comes twice is measured once."""
        self._accused: set[AgentId] = set()
        self._suspected: set[AgentId] = set()
        """In this round: of whom this agent told others, and whom it looked at out of turn."""
        self._said: set[tuple[int, AgentId]] = set()
        """By round and attester: results that were submitted."""
        self._resting: dict[AgentId, float] = {}
        self._drawn = 0
        self._went_on = 0.0
        """When the ledger last told of the chain or of a round."""
        self._alarm = 0
        self._settling = False
        self.caught_up = False
        """Whether what the ledger held at this agent's start was read."""
        self._changes: dict[AgentId, tuple[StandingChange, RecordedEntry | None]] = {}
        """By agent the last change that is not believed yet; None: read in an earlier life."""
        self._scored = -1
        """Round at whose beginning the scores were worked out last."""
        self._scores: dict[AgentId, float] = {}

    # -- what the ledger says ---------------------------------------------------------------

    @perceives(TrustRegister)
    def resumed(self, me: Agent, register: TrustRegister) -> None:
        """Go on with what was read of the ledger before, up to an entry; the next ones follow."""
        self.register = register
        self.enrolled = dict.fromkeys(register.members, me.now)
        self._went_on = me.now
        for member in register.members.values():
            change = StandingChange(member.agent, None, member.standing, "read before")
            self._changes[member.agent] = change, None
        self._settle_soon(me)

    @perceives(RecordedEntry)
    def recorded(self, me: Agent, recorded: RecordedEntry) -> None:
        """Take an entry of the ledger in; what follows from it is done once all that came is in.

        So an agent that reads the ledger from its beginning does not live through it again.
        """
        self.register.half_lives = self.half_lives
        for change in self.register.apply(recorded):
            self._changes[change.agent] = change, recorded
        entry = recorded.entry
        match entry:
            case Enrolled():
                self.enrolled[entry.agent] = me.now
            case RoundOpened():
                self._went_on = me.now
                self.openings = (*self.openings, me.now if self.caught_up else inf)[-ROUNDS - 2 :]
                self._accused.clear()
                self._suspected.clear()
                self._looks = {a: look for a, look in self._looks.items() if look.round == CHAIN}
                self._said.clear()
            case Attested(result) if result.round == CHAIN:
                self._went_on = me.now
            case Attested(result) if result.tier in (TrustTier.CONTRAINDICATED, TrustTier.NONE):
                # One has found something: the others that are to look need not wait.
                if me.name in self.register.verifiers_of(result.attester):
                    me.cause = result.cause or me.cause
                    me.call_at(me.now, partial(self._look, me, result.attester, result.round))
            case Planned() if not self.register.round:
                self._went_on = me.now
            case Planned() if self.caught_up:  # an operator wants all to be looked at now
                for attester in (*self.register.members,):
                    if me.name in self.register.verifiers_of(attester):
                        me.later(self._look, me, attester, self.register.round)
        self._settle_soon(me)

    def _settle_soon(self, me: Agent) -> None:
        if not self._settling:
            self._settling = True
            me.call_at(me.now, partial(self._settle, me))

    def heeds(self, me: Agent, sender: AgentId) -> bool:
        """Whether another agent is listened to: it is trusted, or has enrolled the group."""
        assert self.terms is not None
        return sender in self.terms.outsiders or not (
            self.register.excluded(sender) or me.beliefs.holds(Distrusted(sender))
        )

    def _settle(self, me: Agent) -> Steps:
        """Believe what the ledger says by now, and see whose turn it is."""
        self._settling = False
        changes, self._changes = self._changes, {}
        cause = me.cause
        for agent, (change, recorded) in changes.items():
            member = self.register.members[agent]
            found = recorded is None or isinstance(recorded.entry, Attested)
            me.cause = (member.cause if found else "") or cause
            yield from self._changed(me, member, change, recorded)
        me.cause = cause
        opened = self.register.round != self._scored
        if changes or opened:
            self._scored = self.register.round
            yield from self._score()
        if opened and self.register.round:  # however many were read at once
            self._plan_looks(me)
            self._plan_share(me)
        if not self.caught_up and not self.register.round:
            self.openings = (me.now,)
        self.caught_up = True
        self._plan_turn(me)

    def _changed(
        self, me: Agent, member: GroupMember, change: StandingChange, recorded: RecordedEntry | None
    ) -> Steps:
        agent, entry = member.agent, None if recorded is None else recorded.entry
        decided = isinstance(entry, Attested) and entry.result.verifier == me.name
        if isinstance(entry, RoundOpened):
            trusted = self.register.with_standing(TrustStanding.TRUSTED)
            decided = turn_order(self.register.seed, entry.round, trusted)[:1] == (me.name,)
        quiet = member.standing is TrustStanding.ENROLLED
        if not self.caught_up:  # an agent that begins anew: what it was before is no news
            quiet = member.standing is not TrustStanding.TRUSTED
        told = (agent == me.name and not quiet) or (decided and member.standing in EXCLUDED)
        if told and recorded is not None:
            me.cause = me.record(
                "trust.changed",
                agent=agent,
                standing=member.standing.value,
                reason=change.reason,
                position=recorded.position,
            )
        self._looks.pop(agent, None)
        if agent == me.name and member.standing in EXCLUDED:
            self._looks.clear()
        distrusted, excluded = me.beliefs.holds(Distrusted(agent)), self.register.excluded(agent)
        if excluded and not distrusted:
            yield Believe(Distrusted(agent))
        elif distrusted and not excluded:
            yield Forget(Distrusted(agent))
        if member.standing is TrustStanding.ENROLLED:
            self._seen.pop(agent, None)

    def _score(self) -> Steps:
        scores = {name: round(v, 3) for name, v in self.appraise(self.register).items()}
        news = {name: score for name, score in scores.items() if self._scores.get(name) != score}
        if news:
            self._scores = scores
            yield Perceive(Scored(news))

    # -- whose turn it is -------------------------------------------------------------------

    def _plan_turn(self, me: Agent) -> None:
        """Wake when this agent is to verify the next of the chain, or to open a round."""
        due = self._due(me)
        self._alarm += 1
        if due is not None:
            me.call_at(max(due, me.now), partial(self._take_turn, me, self._alarm))

    def _due(self, me: Agent) -> float | None:
        """Return when it is this agent's turn to do something; None: never, as things stand.

        An agent that does not take its turn is not waited for: those after it follow one by one.
        """
        register, terms = self.register, self.terms
        if terms is None or register.plan is None or me.draining:
            return None
        attester, rested = self._next_of_chain(me)
        if attester:
            if me.name == register.root:
                return rested
            # If the root of trust does not go on, whoever enrolled the agents does.
            began = register.root == register.founder
            patience = 0.0 if began else terms.answer_s * (terms.tries + 1)
            outside = me.name in terms.outsiders
            return max(self._went_on + patience, rested) if outside else None
        trusted = register.with_standing(TrustStanding.TRUSTED)
        if len(register.with_standing(TrustStanding.TRUSTED, TrustStanding.SILENT)) < 2:
            return None  # nobody to verify
        if me.name in terms.outsiders:  # some ledgers take rounds from operators alone
            place = min(len(trusted), OPENERS)
        elif me.name in trusted:
            place = turn_order(register.seed, register.round + 1, trusted).index(me.name)
        else:
            return None
        return self._went_on + register.plan.period_s + place * TURN_S

    def _next_of_chain(self, me: Agent) -> tuple[AgentId, float]:
        """Return who is to be verified next, and from when on; an empty name: nobody."""
        waiting = self.register.with_standing(TrustStanding.ENROLLED)
        waiting = tuple(
            name for name in waiting if me.name not in {name, *self.register.verified_by(name)}
        )
        if not waiting or any(look.round == CHAIN for look in self._looks.values()):
            return "", 0.0
        rested = {name: self._resting.get(name, 0.0) for name in waiting}
        attester = min(waiting, key=lambda name: rested[name])
        return attester, rested[attester]

    def _take_turn(self, me: Agent, alarm: int) -> None:
        if alarm != self._alarm:
            return
        attester, _ = self._next_of_chain(me)
        if attester:
            self._look(me, attester, CHAIN)
        else:
            self.submit(me, RoundOpened(self.register.round + 1, ""))
            self._went_on = me.now  # asks again after a round, if nothing comes of it

    # -- the verifier -----------------------------------------------------------------------

    def _plan_looks(self, me: Agent) -> None:
        """Look at those that are this agent's to verify, each at a time of its own."""
        register, terms = self.register, self.terms
        if terms is None or register.plan is None:
            return
        for attester in (*register.members,):
            if me.name in register.verifiers_of(attester):
                when = me.now + self._draw(me) * terms.spread * register.plan.period_s
                me.call_at(when, partial(self._look, me, attester, register.round))

    def _plan_share(self, me: Agent) -> None:
        """Give a share of the next round's seed, as one of a few: nobody can foresee the whole."""
        register, terms = self.register, self.terms
        trusted = register.with_standing(TrustStanding.TRUSTED)
        order = turn_order(register.seed, register.round, trusted)
        if terms is None or register.plan is None or me.name not in order[:SHARES]:
            return
        number = register.round + 1
        share = keyed(terms.secret, f"share {number}".encode(), "sha256").hex()
        commit = Drawn(number, me.name, commitment(me.name, number, share))
        reveal = Revealed(number, me.name, share)
        period_s = register.plan.period_s
        me.call_at(me.now, partial(self._give, me, commit))
        me.call_at(me.now + REVEALED_AT * period_s, partial(self._give, me, reveal))

    def _give(self, me: Agent, entry: Drawn | Revealed) -> None:
        if entry.round == self.register.round + 1:
            self.submit(me, entry)

    def stand_by(self, me: Agent, conversation: str, effects: Sequence[str]) -> SignedReport | None:
        """Return a signed report that ``effects`` are kept in force; None: there is no key."""
        account = self.terms.account if self.terms is not None else None
        if account is None:
            return None
        report = SignedReport(conversation, tuple(effects), self.register.round)
        return replace(report, signature=account.sign(self._digest(me.name, report)).hex())

    def is_signed(self, agent: AgentId, report: SignedReport | None, rounds: int = ROUNDS) -> bool:
        """Whether an agent stands by a report, of the latest ``rounds`` or the open one."""
        number, member = self.register.round, self.register.members.get(agent)
        if member is None or report is None or not -rounds <= report.round - number <= 1:
            return False
        try:
            by = signer(self._digest(agent, report), bytes.fromhex(report.signature))
        except (LedgerError, ValueError):
            return False
        return by == member.account

    def reported(self, agent: AgentId) -> set[str]:
        """Return what an agent has signed lately that it keeps in force, where others doubt it."""
        oldest = self.register.round - ROUNDS
        return {effect for number, effect in self._reported.get(agent, ()) if number >= oldest}

    def _digest(self, agent: AgentId, report: SignedReport) -> bytes:
        member = self.register.members.get(agent)  # what it signed before it was deployed is void
        life = 0 if member is None else member.enrolments
        said = agent, life, report.conversation, report.effects, report.round
        return sha256(b"report" + msgspec.json.encode(said)).digest()

    def suspect(
        self,
        me: Agent,
        agent: AgentId,
        found: Sequence[Deviation] | None,
        report: SignedReport | None = None,
    ) -> None:
        """Have the verifiers of an agent look at it now, since it does not do what it says.

        What this agent saw is no proof for others, so it accuses nobody; what the other has signed
        is one that it said so.
        """
        verifiers = self.register.verifiers_of(agent)
        if not verifiers or not found or agent in self._accused:
            return
        self._accused.add(agent)
        said = [f"{d.kind} {d.where}: {d.what}" for d in in_short(found)]
        me.cause = me.record("trust.suspected", agent=agent, deviations=said)
        for verifier in verifiers:  # of which it may be one
            me.tell(Performative.REQUEST, verifier, ATTESTATION, Suspicion(agent, report))

    @hears(Suspicion)
    def heard_suspicion(self, me: Agent, message: Message) -> None:
        """Look at an agent at once, if a member asks; however often it does, once a round."""
        suspicion = message.content_as(Suspicion)
        agent, report = suspicion.agent, suspicion.report
        if self.register.standing(message.sender) is not TrustStanding.TRUSTED:
            return
        if report is not None and self.is_signed(agent, report):
            known = self.reported(agent)
            if not known.issuperset(report.effects) and len(known) < NAMED:
                self._reported[agent] = {(report.round, e) for e in known.union(report.effects)}
                self._suspected.discard(agent)  # it asked for that look itself
        self._look_out_of_turn(me, agent)

    def _look_out_of_turn(self, me: Agent, attester: AgentId) -> None:
        """Look once more in this round; the look that the plan asks for comes all the same.

        So nobody can have its verifiers look early, and be unseen for the rest of the round.
        """
        if me.name in self.register.verifiers_of(attester) and attester not in self._suspected:
            self._suspected.add(attester)
            self._look(me, attester, self.register.round, in_turn=False)

    def _look(self, me: Agent, attester: AgentId, number: int, *, in_turn: bool = True) -> None:
        """Challenge an agent; out of turn, if this agent has said in the round what it found."""
        register, terms = self.register, self.terms
        assert terms is not None
        said = register.said.get(attester, {})
        said_it = number != CHAIN and (me.name in said or (number, attester) in self._said)
        in_turn, over = in_turn and not said_it, number not in (CHAIN, register.round)
        if attester in self._looks and not over:
            self._looks[attester].in_turn |= in_turn
        if attester in self._looks or over or attester == me.name:
            return
        if me.name in said and said[me.name].tier is TrustTier.CONTRAINDICATED:
            return
        if register.standing(attester) in (TrustStanding.QUARANTINED, TrustStanding.RETIRED):
            return
        if register.standing(me.name) in EXCLUDED:
            return  # nobody answers it, and nobody takes its word
        look = self._looks[attester] = _Look(number, self._nonce(me), me.cause, in_turn=in_turn)
        self._ask(me, attester, look)

    def _look_again(self, me: Agent, attester: AgentId, doubted: tuple[Deviation, ...]) -> None:
        """Challenge an agent a second time in one look, to see whether what was found lasts."""
        first = self._looks[attester]
        doubts = frozenset(doubted)
        fresh = self._nonce(me)
        look = self._looks[attester] = replace(first, nonce=fresh, tries=1, doubted=doubts)

        def ask() -> None:
            if self._looks.get(attester) is look:
                self._ask(me, attester, look)

        me.call_at(me.now + AGAIN_S, ask)

    def _ask(self, me: Agent, attester: AgentId, look: _Look) -> None:
        assert self.terms is not None
        challenge = Challenge(look.nonce, look.round, look.tries)
        me.tell(Performative.REQUEST, attester, ATTESTATION, challenge)
        self.asked(me, attester, challenge)
        wait_s = self.terms.answer_s
        if look.round != CHAIN and self.register.plan is not None:  # the round is not for ever
            left = (1.0 - self.terms.spread) * self.register.plan.period_s
            wait_s = min(wait_s, 0.8 * left / self.terms.tries)
        me.call_at(me.now + wait_s, partial(self._unanswered, me, attester, look))

    def _unanswered(self, me: Agent, attester: AgentId, look: _Look) -> None:
        assert self.terms is not None
        if self._looks.get(attester) is not look:
            return
        # One that is silent is asked as long as the round lasts: its answers may arrive seldom.
        silent = look.round != CHAIN and self.register.standing(attester) is TrustStanding.SILENT
        if silent or look.tries < self.terms.tries:
            look.tries += 1
            self._ask(me, attester, look)
            return
        what = f"no answer to {look.tries} challenges"
        self._conclude(me, attester, look, TrustTier.NONE, (Deviation("silent", attester, what),))

    @hears(EvidenceReply)
    def heard_evidence(self, me: Agent, message: Message) -> None:
        """Appraise evidence that this agent asked for."""
        reply, attester = message.content, message.sender
        assert isinstance(reply, EvidenceReply)
        look, member = self._looks.get(attester), self.register.members.get(attester)
        if look is None or member is None or reply.nonce != look.nonce or self.terms is None:
            return  # late, or nobody asked
        if reply.evidence is None:
            return  # it is asked again; what it says of itself counts for nothing
        tier, deviations, measured = verify(
            reply.evidence,
            look.nonce,
            attester,
            member.reference,
            self.terms.repository,
            self._seen.get(attester),
        )
        look.activity = None
        if measured is not None:
            self._seen[attester] = measured
            look.activity = measured.measured.activity
        if tier is TrustTier.AFFIRMING and self.audit is not None:
            # Its program is genuine; what it does has to agree with what it says, too.
            audited = partial(self._audited, me, attester, look, reply.evidence, deviations)
            self.audit(me, attester, reply.kept, audited)
        else:
            self._conclude(me, attester, look, tier, deviations, reply.evidence)

    def _audited(
        self,
        me: Agent,
        attester: AgentId,
        look: _Look,
        evidence: Evidence,
        told: tuple[Deviation, ...],
        deviations: tuple[Deviation, ...] | None,
    ) -> None:
        if self._looks.get(attester) is not look:
            return
        if deviations is None:
            unseen = Deviation("unseen", attester, "nobody tells what its PoP has in force")
            self._conclude(me, attester, look, TrustTier.NONE, (unseen,), evidence)
            return
        found = tuple(d for d in deviations if d.kind != RULE_MISSING or d in look.doubted)
        if deviations and not found:
            self._look_again(me, attester, deviations)
            return
        tier = TrustTier.CONTRAINDICATED if found else TrustTier.AFFIRMING
        self._conclude(me, attester, look, tier, (*found, *told), evidence)

    def _conclude(
        self,
        me: Agent,
        attester: AgentId,
        look: _Look,
        tier: TrustTier,
        deviations: tuple[Deviation, ...],
        evidence: Evidence | None = None,
    ) -> None:
        if self._looks.get(attester) is not look:
            return  # while its doings were looked at, it was found out, or the round ended
        del self._looks[attester]
        if not look.in_turn and tier is not TrustTier.CONTRAINDICATED:
            return  # the look that the plan asks for is still to come, or was
        known = self.register.standing(attester) is TrustStanding.SILENT
        if not (known and tier is TrustTier.NONE):
            proven = evidence is not None and evidence.quote and tier is not TrustTier.NONE
            vouched: dict[str, Any] = (
                {"root": evidence.root} if evidence is not None and proven else {}
            )
            if look.activity is not None and evidence is not None and not evidence.modelled:
                # Seed 000, III.A: integrity and activity go to the orchestrator, by the log.
                vouched["activity"] = look.activity.told()
            me.cause = me.record(
                "attestation.result",
                attester=attester,
                tier=tier.value,
                round=look.round,
                deviations=[f"{d.kind} {d.where}: {d.what}" for d in deviations],
                modelled=evidence is not None and evidence.modelled,
                **vouched,
            )
        if look.round == CHAIN and tier is TrustTier.NONE:
            self._resting[attester] = me.now + REST_S
            self._plan_turn(me)
            return  # it may not have been started yet: nothing is said against it
        self._said.add((look.round, attester))  # the ledger will tell of it later
        result = AttestationResult(
            attester,
            me.name,
            tier,
            look.round,
            round(me.now, 3),
            digest(evidence),
            self.register.root,
            in_short(deviations),
            me.cause,
        )
        self.submit(me, Attested(result))

    def submit(self, me: Agent, entry: Entry) -> None:
        """Write an entry into the ledger."""
        me.perform(Submit(entry), partial(self._submitted, me, entry))

    def _submitted(self, me: Agent, entry: Entry, outcome: Outcome) -> None:
        if not isinstance(outcome, Failed) or isinstance(entry, RoundOpened | Drawn | Revealed):
            return  # two may open one round, and it may be over sooner than a share is given
        about = entry.result.attester if isinstance(entry, Attested) else ""
        if isinstance(entry, Attested) and entry.result.round == CHAIN:
            self._resting[about] = me.now + REST_S  # another one became the root meanwhile
            self._plan_turn(me)
        if self.register.standing(about) in EXCLUDED:
            return  # others were faster
        me.record("ledger.refused", entry=type(entry).__name__, reason=outcome.reason)

    # -- the attester -----------------------------------------------------------------------

    @hears(Challenge)
    def challenged(self, me: Agent, message: Message) -> None:
        """Show evidence to a member, or to what enrols agents."""
        challenge, asker = message.content, message.sender
        assert isinstance(challenge, Challenge)
        if self.terms is None:
            return
        standing = self.register.standing(asker)
        if standing is not TrustStanding.TRUSTED and asker not in self.terms.outsiders:
            return
        if self._shown is not None and self._shown[:2] == (asker, challenge.nonce):
            again = replace(self._shown[2], tried=challenge.tried, held_s=0.0)
            me.tell(Performative.INFORM, asker, ATTESTATION, again)
            return
        measured = partial(self._measured, me, asker, challenge, me.now)
        me.perform(Measure(challenge.nonce), measured)

    def _measured(
        self, me: Agent, asker: AgentId, challenge: Challenge, since: float, outcome: Outcome
    ) -> None:
        nonce = challenge.nonce
        if isinstance(outcome, Evidence):
            reply = EvidenceReply(nonce, outcome, kept=self.kept(me))
        else:
            reason = outcome.reason if isinstance(outcome, Failed) else "no evidence"
            reply = EvidenceReply(nonce, None, reason)
        reply = replace(reply, tried=challenge.tried, held_s=me.now - since)
        self._shown = asker, nonce, reply
        me.tell(Performative.INFORM, asker, ATTESTATION, reply)

    @drains
    def leave(self, me: Agent) -> None:
        """Tell the ledger that this agent leaves in order: its silence is no sign of anything."""
        if self.register.standing(me.name) in (TrustStanding.TRUSTED, TrustStanding.SILENT):
            self.submit(me, AgentRetired(me.name, "leaves"))

    def _nonce(self, me: Agent) -> str:
        return f"{int(self._draw(me) * 2**64):016x}{int(self._draw(me) * 2**64):016x}"

    def _draw(self, me: Agent) -> float:
        """Return a number in [0, 1) that nobody foresees who does not have the secret.

        Each life has its own: evidence that was shown to an earlier one answers no challenge.
        """
        assert self.terms is not None
        self._drawn += 1
        life = str(me.incarnation).encode() if me.incarnation > 1 else b""
        octets = keyed(self.terms.secret, self._drawn.to_bytes(8, "big") + life, "sha256")
        return int.from_bytes(octets[:8], "big") / 2**64


def in_short(deviations: Sequence[Deviation]) -> tuple[Deviation, ...]:
    """Return so much of what was found that the ledger takes it, however much there is."""
    return tuple(
        Deviation(found.kind[:TEXT], found.where[:TEXT], found.what[:TEXT])
        for found in deviations[:NAMED]
    )


@lru_cache(maxsize=64)  # agents of one process ask the same
def turn_order(seed: str, number: int, agents: tuple[AgentId, ...]) -> tuple[AgentId, ...]:
    """Return the order in which agents do what one of them has to do, if those before do not."""

    def place(name: AgentId) -> bytes:
        return sha256(f"{seed}/{number}/{name}".encode()).digest()

    return tuple(sorted(agents, key=place))
