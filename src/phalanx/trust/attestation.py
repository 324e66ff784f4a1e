"""Attestation: every agent is attester and verifier by turns.

An agent follows the ledger. It verifies the next agent of the chain while it is the root of
trust, and in each round those that the round's seed assigns to it, at a time that nobody else
can foresee. It shows evidence when a member asks. It waits for nothing that the ledger does: it
goes on with what it knows.

Source: Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 9 to 12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from hmac import digest as keyed

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct
from msgspec.structs import replace

from phalanx.bdi import (
    Agent,
    Believe,
    Capability,
    Forget,
    Perceive,
    Steps,
    drains,
    hears,
    perceives,
)
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
    Submit,
    Suspicion,
    TrustTier,
)
from phalanx.ledger import RecordedEntry
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
from phalanx.trust.evidence import Repository, digest, verify
from phalanx.trust.measurement import ProcessMeasurement
from phalanx.trust.register import (
    EXCLUDED,
    GroupMember,
    StandingChange,
    TrustRegister,
    TrustStanding,
)

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
    answer_s: float = 3.0
    """How long a verifier waits for evidence before it asks again."""
    tries: int = 3
    spread: float = 0.6
    """Share of a round over which its looks are spread."""


Audited = Callable[[tuple[Deviation, ...] | None], None]
"""Told what an agent does otherwise than it says; None: nobody could see it."""
Audit = Callable[[Agent, AgentId, tuple[str, ...], Audited], None]
"""Compares what an agent does with what it says, and says that it keeps in force."""


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


class Attestation(Capability):
    """Shows evidence, verifies others, and follows what the ledger says of them."""

    name = "attestation"

    def __init__(self) -> None:
        self.terms: TrustTerms | None = None
        """Set before the agent lives; None: it takes no part."""
        self.register = TrustRegister()
        self.audit: Audit | None = None
        """None: nothing compares what agents do with what they say."""
        self.kept: Callable[[Agent], tuple[str, ...]] = lambda _: ()
        """Returns what this agent keeps in force."""
        self.enrolled: dict[AgentId, float] = {}
        """When this agent read of the last enrolment of each."""
        self._looks: dict[AgentId, _Look] = {}
        self._seen: dict[AgentId, ProcessMeasurement] = {}
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
        self._settling = self._caught_up = False
        self._changes: dict[AgentId, tuple[StandingChange, RecordedEntry]] = {}
        """By agent the last change that is not believed yet."""
        self._scored = -1
        """Round at whose beginning the scores were worked out last."""
        self._scores: dict[AgentId, float] = {}

    # -- what the ledger says ---------------------------------------------------------------

    @perceives(RecordedEntry)
    def recorded(self, me: Agent, recorded: RecordedEntry) -> None:
        """Take an entry of the ledger in; what follows from it is done once all that came is in.

        So an agent that reads the ledger from its beginning does not live through it again.
        """
        for change in self.register.apply(recorded):
            self._changes[change.agent] = change, recorded
        entry = recorded.entry
        match entry:
            case Enrolled():
                self.enrolled[entry.agent] = me.now
            case RoundOpened():
                self._went_on = me.now
                self._accused.clear()
                self._suspected.clear()
                self._looks = {a: look for a, look in self._looks.items() if look.round == CHAIN}
                self._said.clear()
                me.later(self._plan_looks, me)
                me.later(self._plan_share, me)
            case Attested(result) if result.round == CHAIN:
                self._went_on = me.now
            case Attested(result) if result.tier in (TrustTier.CONTRAINDICATED, TrustTier.NONE):
                # One has found something: the others that are to look need not wait.
                if me.name in self.register.verifiers_of(result.attester):
                    me.cause = result.cause or me.cause
                    me.call_at(me.now, partial(self._look, me, result.attester, result.round))
            case Planned() if not self.register.round:
                self._went_on = me.now
            case Planned() if self._caught_up:  # an operator wants all to be looked at now
                for attester in (*self.register.members,):
                    if me.name in self.register.verifiers_of(attester):
                        me.later(self._look, me, attester, self.register.round)
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
            entry = recorded.entry
            me.cause = (entry.result.cause if isinstance(entry, Attested) else "") or cause
            yield from self._changed(me, self.register.members[agent], change, recorded)
        me.cause = cause
        if changes or self.register.round != self._scored:
            self._scored = self.register.round
            yield from self._score()
        self._caught_up = True
        self._plan_turn(me)

    def _changed(
        self, me: Agent, member: GroupMember, change: StandingChange, recorded: RecordedEntry
    ) -> Steps:
        agent, entry = member.agent, recorded.entry
        decided = isinstance(entry, Attested) and entry.result.verifier == me.name
        if isinstance(entry, RoundOpened):
            trusted = self.register.with_standing(TrustStanding.TRUSTED)
            decided = turn_order(self.register.seed, entry.round, trusted)[:1] == [me.name]
        quiet = member.standing is TrustStanding.ENROLLED
        if not self._caught_up:  # an agent that begins anew: what it was before is no news
            quiet = member.standing is not TrustStanding.TRUSTED
        if (agent == me.name and not quiet) or (decided and member.standing in EXCLUDED):
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
        scores = {name: round(m.score, 3) for name, m in self.register.members.items()}
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
        if len(trusted) < 2:
            return None
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
            self._submit(me, RoundOpened(self.register.round + 1, ""))
            self._went_on = me.now  # asks again after a round, if nothing comes of it

    # -- the verifier -----------------------------------------------------------------------

    def _plan_looks(self, me: Agent) -> None:
        """Look at those that are this agent's to verify, each at a time of its own."""
        register, terms = self.register, self.terms
        if terms is None or register.plan is None:
            return
        for attester in (*register.members,):
            if me.name in register.verifiers_of(attester):
                when = me.now + self._draw() * terms.spread * register.plan.period_s
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
            self._submit(me, entry)

    def suspect(self, me: Agent, agent: AgentId, deviations: Sequence[Deviation]) -> None:
        """Have the verifiers of an agent look at it now, since it does not do what it says.

        What this agent saw is no proof for others, so it accuses nobody.
        """
        verifiers = self.register.verifiers_of(agent)
        if not verifiers or agent in self._accused:
            return
        self._accused.add(agent)
        found = [f"{d.kind} {d.where}: {d.what}" for d in in_short(deviations)]
        me.cause = me.record("trust.suspected", agent=agent, deviations=found)
        for verifier in verifiers:  # of which it may be one
            me.tell(Performative.REQUEST, verifier, ATTESTATION, Suspicion(agent))

    @hears(Suspicion)
    def heard_suspicion(self, me: Agent, message: Message) -> None:
        """Look at an agent at once, if a member asks; however often it does, once a round."""
        suspicion = message.content
        assert isinstance(suspicion, Suspicion)
        if self.register.standing(message.sender) is TrustStanding.TRUSTED:
            self._look_out_of_turn(me, suspicion.agent)

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
        look = self._looks[attester] = _Look(number, self._nonce(), me.cause, in_turn=in_turn)
        self._ask(me, attester, look)

    def _look_again(self, me: Agent, attester: AgentId, doubted: tuple[Deviation, ...]) -> None:
        """Challenge an agent a second time in one look, to see whether what was found lasts."""
        first = self._looks[attester]
        doubts = frozenset(doubted)
        look = self._looks[attester] = replace(first, nonce=self._nonce(), tries=1, doubted=doubts)

        def ask() -> None:
            if self._looks.get(attester) is look:
                self._ask(me, attester, look)

        me.call_at(me.now + AGAIN_S, ask)

    def _ask(self, me: Agent, attester: AgentId, look: _Look) -> None:
        assert self.terms is not None
        challenge = Challenge(look.nonce, look.round)
        me.tell(Performative.REQUEST, attester, ATTESTATION, challenge)
        wait_s = self.terms.answer_s
        if look.round != CHAIN and self.register.plan is not None:  # the round is not for ever
            left = (1.0 - self.terms.spread) * self.register.plan.period_s
            wait_s = min(wait_s, 0.8 * left / self.terms.tries)
        me.call_at(me.now + wait_s, partial(self._unanswered, me, attester, look))

    def _unanswered(self, me: Agent, attester: AgentId, look: _Look) -> None:
        assert self.terms is not None
        if self._looks.get(attester) is not look:
            return
        if look.tries < self.terms.tries:
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
        if measured is not None:
            self._seen[attester] = measured
        conclude = partial(self._conclude, me, attester, look)
        if tier is TrustTier.AFFIRMING and self.audit is not None:
            # Its program is genuine; what it does has to agree with what it says, too.
            audited = partial(self._audited, me, attester, look, reply.evidence)
            self.audit(me, attester, reply.kept, audited)
        else:
            conclude(tier, deviations, reply.evidence)

    def _audited(
        self,
        me: Agent,
        attester: AgentId,
        look: _Look,
        evidence: Evidence,
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
        self._conclude(me, attester, look, tier, found, evidence)

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
            me.cause = me.record(
                "attestation.result",
                attester=attester,
                tier=tier.value,
                round=look.round,
                deviations=[f"{d.kind} {d.where}: {d.what}" for d in deviations],
                modelled=evidence is not None and evidence.modelled,
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
        self._submit(me, Attested(result))

    def _submit(self, me: Agent, entry: Entry) -> None:
        me.perform(Submit(entry), partial(self._submitted, me, entry))

    def _submitted(self, me: Agent, entry: Entry, outcome: Outcome) -> None:
        if not isinstance(outcome, Failed) or isinstance(entry, RoundOpened | Drawn | Revealed):
            return  # two may open one round, and it may be over sooner than a share is given
        about = entry.result.attester if isinstance(entry, Attested) else ""
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
            me.tell(Performative.INFORM, asker, ATTESTATION, self._shown[2])
            return
        me.perform(Measure(challenge.nonce), partial(self._measured, me, asker, challenge.nonce))

    def _measured(self, me: Agent, asker: AgentId, nonce: str, outcome: Outcome) -> None:
        if isinstance(outcome, Evidence):
            reply = EvidenceReply(nonce, outcome, kept=self.kept(me))
        else:
            reason = outcome.reason if isinstance(outcome, Failed) else "no evidence"
            reply = EvidenceReply(nonce, None, reason)
        self._shown = asker, nonce, reply
        me.tell(Performative.INFORM, asker, ATTESTATION, reply)

    @drains
    def leave(self, me: Agent) -> None:
        """Tell the ledger that this agent leaves in order: its silence is no sign of anything."""
        if self.register.standing(me.name) in (TrustStanding.TRUSTED, TrustStanding.SILENT):
            self._submit(me, AgentRetired(me.name, "leaves"))

    def _nonce(self) -> str:
        return f"{int(self._draw() * 2**64):016x}{int(self._draw() * 2**64):016x}"

    def _draw(self) -> float:
        """Return a number in [0, 1) that nobody foresees who does not have the secret."""
        assert self.terms is not None
        self._drawn += 1
        octets = keyed(self.terms.secret, self._drawn.to_bytes(8, "big"), "sha256")
        return int.from_bytes(octets[:8], "big") / 2**64


def in_short(deviations: Sequence[Deviation]) -> tuple[Deviation, ...]:
    """Return so much of what was found that the ledger takes it, however much there is."""
    return tuple(
        Deviation(found.kind[:TEXT], found.where[:TEXT], found.what[:TEXT])
        for found in deviations[:NAMED]
    )


def turn_order(seed: str, number: int, agents: Sequence[AgentId]) -> list[AgentId]:
    """Return the order in which agents do what one of them has to do, if those before do not."""
    return sorted(agents, key=lambda name: sha256(f"{seed}/{number}/{name}".encode()).digest())
