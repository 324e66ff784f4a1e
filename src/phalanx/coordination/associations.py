"""Associations: the service level that two agents have agreed on, and whether it is kept.

Contracts regulate and monitor the association of two agents, with a service level for what they
say to each other (seed 000, III.B). Two agree on one as soon as one of them verifies the other;
then each watches the challenges that it sends anyway: how long the way there and back takes, and
how many are not answered. What it sees is its word alone, so the ledger keeps both words.
"""

from __future__ import annotations

from functools import partial
from math import comb
from statistics import median_low

from msgspec import Struct
from msgspec.structs import asdict, astuple

from phalanx.auction.outlook import Gone, Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, starts, when
from phalanx.domain.agents import AgentId
from phalanx.domain.messages import Message
from phalanx.domain.trust import Challenge, Distrusted, EvidenceReply, ServiceLevel, Submit
from phalanx.ledger.entries import Associated, Breached
from phalanx.trust.attestation import CHAIN, Attestation
from phalanx.trust.register import TrustStanding

LEAST, WINDOW = 6, 60
"""Exchanges with an agent before anything is said of them, and those that count."""
RECOVERED = 12
"""Exchanges since a breach after which the level is kept again, if it was."""
CHANCE = 1e-4
"""Below which it is no accident that so much was lost, if the level is kept."""
ANSWER_S = 15.0
"""After which a challenge counts as not answered: measurers take 10 s at most."""


class _Watch(Struct):
    """What an agent sees of its exchanges with another."""

    open: dict[str, float] = {}
    """When challenges were sent, by nonce."""
    seen: list[float | None] = []
    """Latencies in ms; None: not answered."""
    broken: bool = False


class Associations(Capability):
    """Agrees on service levels, watches them, and records breaches."""

    name = "associations"

    def __init__(self) -> None:
        self.level: ServiceLevel | None = None
        """Set before the agent lives; None: nothing is agreed on."""
        self._watched: dict[AgentId, _Watch] = {}
        self._asked_for: dict[AgentId, int] = {}
        """By agent the round in which this one asked for its association last."""

    @starts
    def begin(self, me: Agent) -> None:
        """Watch what this agent asks of others."""
        if self.level is not None:
            me.capability(Attestation).asked = self._asked

    # -- agreeing ---------------------------------------------------------------------------

    @hears(Challenge)
    def challenged(self, me: Agent, message: Message) -> None:
        """Ask for an association with a verifier."""
        challenge = message.content_as(Challenge)
        if challenge.round != CHAIN:
            self._agreed(me, message.sender)

    def _agreed(self, me: Agent, peer: AgentId) -> _Watch | None:
        """Return the watch over an association; if there is none, ask for it, once a round."""
        attestation, level = me.capability(Attestation), self.level
        register, both = attestation.register, {me.name, peer}
        trusted = {*register.with_standing(TrustStanding.TRUSTED)}
        if level is None or not attestation.caught_up or not both <= trusted:
            return None
        found = register.association(me.name, peer)
        first, second = sorted(both)
        wanted = Associated(first, second, *astuple(level))
        said = found is not None and found.level == wanted
        if found is not None and said and found.agreed:
            if peer not in self._watched:
                self._watched[peer] = _Watch()
                me.record("association.agreed", agent=peer, **asdict(level))
            return self._watched[peer]
        mine = found is not None and said and found.proposer == me.name  # twice would end it
        if not mine and self._asked_for.get(peer) != register.round:
            self._asked_for[peer] = register.round
            me.perform(Submit(wanted), lambda _: None)  # both may say it at once
        return None

    # -- watching ---------------------------------------------------------------------------

    def _asked(self, me: Agent, peer: AgentId, challenge: Challenge) -> None:
        """Watch the first challenge of a look: those that follow share its fate."""
        if challenge.round == CHAIN or challenge.tried > 1:
            return
        watch = self._agreed(me, peer)
        if watch is not None:
            watch.open[challenge.nonce] = me.now
            me.call_at(me.now + ANSWER_S, partial(self._unanswered, me, peer, challenge.nonce))

    @hears(EvidenceReply)
    def answered(self, me: Agent, message: Message) -> None:
        """Note how long question and answer were on their way."""
        reply, peer = message.content, message.sender
        assert isinstance(reply, EvidenceReply)
        watch = self._watched.get(peer)
        if watch is not None and reply.tried == 1 and reply.nonce in watch.open:
            took_s = me.now - watch.open.pop(reply.nonce)
            held_s = reply.held_s if 0.0 <= reply.held_s <= took_s else 0.0
            self._saw(me, peer, (took_s - held_s) * 1e3)

    def _unanswered(self, me: Agent, peer: AgentId, nonce: str) -> None:
        sent = self._watched[peer].open.pop(nonce, None)
        if sent is not None and not me.capability(Outlook).cut_off(me):
            self._saw(me, peer, None)

    @when(Gone)
    @when(Distrusted)
    def gone(self, me: Agent, gone: Gone | Distrusted) -> None:
        """Expect no answer of an agent that is not there: that says nothing of the way to it."""
        for peer, watch in self._watched.items():
            if gone.agent in (me.name, peer):
                watch.open.clear()

    # -- judging ----------------------------------------------------------------------------

    def _saw(self, me: Agent, peer: AgentId, latency_ms: float | None) -> None:
        """Record a breach when it begins, by enough exchanges that it is no accident."""
        watch, level = self._watched[peer], self.level
        watch.seen = [*watch.seen, latency_ms][-WINDOW:]
        count = len(watch.seen)
        if count < LEAST or level is None:
            return
        lost = watch.seen.count(None)  # one of two messages, where there was no answer
        latest = [each for each in watch.seen[-LEAST:] if each is not None]
        middle = round(median_low(latest), 3) if 2 * len(latest) > LEAST else 0.0
        found = Breached(me.name, peer, middle, round(lost / (2 * count), 6))
        unlikely = by_chance(lost, 2 * count, level.max_loss) < CHANCE
        if found.latency_ms > level.max_latency_ms or unlikely:
            watch.seen.clear()
            if not watch.broken:
                watch.broken = True
                figures = {"latency_ms": found.latency_ms, "loss": found.loss}
                me.cause = me.record("association.breached", agent=peer, **figures, exchanges=count)
                me.capability(Attestation).submit(me, found)
        elif watch.broken and count >= RECOVERED:
            watch.broken = False
            me.record("association.kept", agent=peer, exchanges=count)


def by_chance(lost: int, count: int, share: float) -> float:
    """Return the probability that ``lost`` or more of ``count`` are lost, each with ``share``."""
    fewer = (comb(count, k) * share**k * (1.0 - share) ** (count - k) for k in range(lost))
    return max(1.0 - sum(fewer), 0.0)
