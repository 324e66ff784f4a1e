"""The auctioneer's side of one NFV-A conversation (dissertation, 3.3.1, figure 3.2).

A machine without I/O. It speaks the FIPA contract net: cfp to N bidders, N replies,
accept-proposal to one and reject-proposal to the others, inform at the end: 3N + 1 messages
if all N propose. Beyond that it asks a silent winner again, and passes a failed winner's
goal on to the next best bid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.terms import BUILT_IN, BidTerm, rank
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Content,
    Fact,
    Performative,
    Verdict,
)

OVERTAKEN = "another proposal was accepted"


class AuctionMemory(Struct, frozen=True):
    """An auction whose winner is at work, as it is remembered."""

    conversation: str
    call: CallForProposals
    """Without its context; its times are those of the auctioneer's clock."""
    bidders: tuple[AgentId, ...]
    ranking: tuple[RankedBid, ...]
    winner: RankedBid
    failed: tuple[AgentId, ...] = ()
    refusals: dict[AgentId, str] = {}
    turn: int = 1


class Awarded(Struct, frozen=True):
    """Decision: ``ranking[0]`` was accepted, or the next best after ``after`` failed."""

    winner: RankedBid
    ranking: tuple[RankedBid, ...]
    refusals: dict[AgentId, str]
    silent: tuple[AgentId, ...]
    after: AgentId | None = None
    why: str = ""

    def row(self) -> dict[str, Any]:
        """Return the decision as the log shows it."""
        return {
            "winner": self.winner.bidder,
            "ranking": [ranked.row() for ranked in self.ranking],
            "refusals": self.refusals,
            "silent": list(self.silent),
            **({} if self.after is None else {"after": self.after, "reason": self.why}),
        }


class Fulfilled(Struct, frozen=True):
    """Decision: the winner achieved the goal."""

    winner: AgentId
    facts: tuple[Fact, ...]
    bid: Bid


class Exhausted(Struct, frozen=True):
    """Decision: no bidder is left that could achieve the goal."""

    reason: str
    refusals: dict[AgentId, str]
    silent: tuple[AgentId, ...]
    retry: bool
    """Whether a new auction may end differently: a bidder was silent, busy or has failed."""
    final: bool = False
    """Whether a winner failed in a way in which every other bidder would fail."""

    def row(self) -> dict[str, Any]:
        """Return the decision as the log shows it."""
        silent = list(self.silent)
        return {"reason": self.reason, "refusals": self.refusals, "silent": silent}


class Overtaken(Struct, frozen=True):
    """Decision of the auctioneer: another agent asks for the same goal, and has asked first."""


Decision = Awarded | Fulfilled | Exhausted
Outgoing = tuple[Performative, AgentId, Content]
Reaction = tuple[list[Outgoing], Decision | None]

_NOTHING: Reaction = ([], None)


class Initiator:
    """One auction. Every call returns the messages to send and a decision, if one was taken."""

    def __init__(
        self,
        call: CallForProposals,
        bidders: Sequence[AgentId],
        *,
        probe_s: float = 5.0,
        probes: int = 3,
        turn: int = 1,
        terms: Sequence[BidTerm] = BUILT_IN,
        references: Mapping[str, float] | None = None,
    ) -> None:
        self.call = call
        self.turn = turn
        """The number of this auction among those for the same goal, from 1."""
        self.bidders = tuple(bidders)
        self.due: float | None = call.deadline
        """When ``on_time`` is wanted next."""
        self.over = False
        self.running = False
        """Whether the winner has said that its VNF runs."""
        self.called = ""
        """The event that tells of the call."""
        self.gives_way = True
        """Whether it ends for an elder auction of the same goal."""
        self.nearest: dict[AgentId, dict[str, float]] = {}
        """What bidders that refused can hold of the terms in which they fall short."""
        self._terms = terms
        self._references = references
        self._asked = frozenset(bidders)
        self._probe_s = probe_s
        self._probes = probes
        self._proposals: dict[AgentId, tuple[Bid, ...]] = {}
        self._refusals: dict[AgentId, str] = {}
        self._failed: list[AgentId] = []
        self._overruled: dict[AgentId, str] = {}
        """Bidders that come last, since others keep the goal true already, and why."""
        self._ranking: list[RankedBid] = []
        self._winner: RankedBid | None = None
        self._misses = 0
        self._transient = False

    def memory(self, conversation: str) -> AuctionMemory | None:
        """Return what is to be remembered of it; None before there is a winner."""
        if self._winner is None or self.over:
            return None
        return AuctionMemory(
            conversation,
            replace(self.call, context=()),
            self.bidders,
            tuple(self._ranking),
            self._winner,
            tuple(self._failed),
            self._refusals | self._overruled,
            self.turn,
        )

    @classmethod
    def recalled(
        cls, old: AuctionMemory, now: float, *, probe_s: float = 5.0, probes: int = 3
    ) -> Initiator:
        """Return the auction as it is remembered; its winner is asked how far it is at once."""
        auction = cls(old.call, old.bidders, probe_s=probe_s, probes=probes, turn=old.turn)
        for ranked in old.ranking:
            own = auction._proposals.get(ranked.bidder, ())
            auction._proposals[ranked.bidder] = (*own, ranked.bid)
        auction._refusals = dict(old.refusals)
        auction._failed = list(old.failed)
        auction._ranking = list(old.ranking)
        auction._winner = old.winner
        auction.due = now
        return auction

    def row(self) -> dict[str, Any]:
        """Return the call as the log shows it."""
        asked, named = self.call.goal, self.call.goal.named_terms()
        further = {
            term.name: {"higher_is_better": term.higher_is_better, "reference": term.reference}
            for term in self._terms
            if term.name in asked.preferences.terms
        }
        bounded = [term.name for term in self._terms if term.least and term.name in named]
        return {
            "goal": str(asked.goal),
            "round": self.turn,
            "tap": asked.tap,
            "traffic_mb_s": round(asked.traffic_mb_s, 6),
            "constraints": asked.constraints.row(),
            "preferences": asked.preferences.row(),
            "bidders": len(self.bidders),
            **({} if self._references is None else {"references": dict(self._references)}),
            **({"terms": further} if further else {}),
            **({"bounded": bounded} if bounded else {}),
        }

    def begin(self) -> list[Outgoing]:
        """Return the calls for proposals."""
        call = replace(self.call, context=tuple(replace(f, mandate="") for f in self.call.context))
        return [(Performative.CFP, bidder, call) for bidder in self.bidders]

    def on_proposal(self, sender: AgentId, bids: tuple[Bid, ...], now: float) -> Reaction:
        """Take a proposal in; the last reply closes the auction. Doubled ones are ignored."""
        if sender not in self._asked or not bids or sender in self._refusals:
            return _NOTHING
        if self._winner is not None or self.over:
            if sender in self._proposals:
                return _NOTHING
            return [(Performative.REJECT, sender, Verdict(OVERTAKEN))], None
        self._proposals[sender] = bids
        return self._when_complete(now)

    def on_refusal(
        self, sender: AgentId, reason: str, now: float, *, transient: bool = False
    ) -> Reaction:
        """Take a refusal in; after a ``transient`` one the bidder may bid another time."""
        closed = self._winner is not None or self.over
        if sender not in self._asked or sender in self._proposals or closed:
            return _NOTHING
        self._refusals[sender] = reason
        self._transient = self._transient or transient
        return self._when_complete(now)

    def on_agree(self, sender: AgentId, now: float, *, running: bool = False) -> Reaction:
        """The winner says how far it is."""
        if self._winner is not None and sender == self._winner.bidder and not self.over:
            self.running = running
            self._misses = 0
            self.due = now + self._probe_s
        return _NOTHING

    def on_result(self, sender: AgentId, facts: tuple[Fact, ...]) -> Reaction:
        """The winner says that the goal is achieved."""
        if self._winner is None or sender != self._winner.bidder or self.over:
            return _NOTHING
        self._close()
        return [], Fulfilled(sender, facts, self._winner.bid)

    def on_failure(
        self, sender: AgentId, reason: str, now: float, *, final: bool = False
    ) -> Reaction:
        """The winner says that it failed. A ``final`` failure ends the auction at once."""
        if self._winner is None or sender != self._winner.bidder or self.over:
            return _NOTHING
        if final:
            why = f"{sender} failed ({reason}), as others would"
            return [], self._exhausted(why, retry=False, final=True)
        return self._pass_on(reason, now)

    def on_gone(self, bidder: AgentId, now: float) -> Reaction:
        """A bidder died: as the winner it has failed, else its bid does not count any more."""
        if bidder == self.winner:
            return self._pass_on("is gone", now)
        if self._winner is not None:
            self._failed.append(bidder)
            return _NOTHING
        self._proposals.pop(bidder, None)
        return self.on_refusal(bidder, "is gone", now, transient=True)

    def on_return(self, bidder: AgentId, now: float) -> Reaction:
        """A bidder is back after a crash: what it was told last may have been lost on it."""
        if bidder != self.winner:
            return _NOTHING
        assert self._winner is not None
        self.due = now + self._probe_s
        return [self._accept(self._winner)], None

    def on_time(self, now: float) -> Reaction:
        """React to the time: the deadline for proposals, or a winner that is silent."""
        if self.over or self.due is None or now < self.due:
            return _NOTHING
        if self._winner is None:
            return self._decide(now)
        self._misses += 1
        if self._misses > self._probes:
            return self._pass_on("does not answer", now)
        self.due = now + self._probe_s
        return [self._accept(self._winner)], None

    def cancel(self, reason: str) -> list[Outgoing]:
        """Give the auction up, and tell the bidders that hold something for it."""
        if self.over:
            return []
        self._close()
        if self._winner is not None:
            return [(Performative.CANCEL, self._winner.bidder, Verdict(reason))]
        verdict = Verdict(reason)  # one for all: the bus sends it once
        return [(Performative.REJECT, bidder, verdict) for bidder in self._proposals]

    @property
    def digest(self) -> str:
        """Return what the award has fixed; empty: nothing but the bid."""
        won, wanted = self._winner, self.call.goal.goal.predicate
        return "" if won is None else wanted.fixes(won.bidder, won.bid.terms)

    @property
    def winner(self) -> AgentId | None:
        """Return the agent that works on the goal now."""
        return None if self._winner is None or self.over else self._winner.bidder

    def _when_complete(self, now: float) -> Reaction:
        if len(self._proposals) + len(self._refusals) < len(self.bidders):
            return _NOTHING
        return self._decide(now)

    def _decide(self, now: float) -> Reaction:
        if not self._proposals:
            silent = self._silent()
            reason = "no bidder answered" if not self._refusals else "all bidders refused"
            if silent and self._refusals:
                reason = "all bidders that answered refused"
            retry = bool(silent) or self._transient
            return [], self._exhausted(reason, retry=retry)
        self._rank()
        out = self._award(self._ranking[0], now)
        winner, verdict = self._ranking[0].bidder, Verdict(OVERTAKEN)
        for bidder in self._proposals:
            if bidder != winner:
                out.append((Performative.REJECT, bidder, verdict))
        return out, self._awarded(self._ranking[0])

    def _rank(self) -> None:
        """Order the bids; if agents keep the goal true already theirs alone: nothing is doubled."""
        bids = [(bidder, bid) for bidder, own in self._proposals.items() for bid in own]
        kept = [(bidder, bid) for bidder, bid in bids if bid.kept]
        for keeper, _ in kept[:1]:
            others = self._proposals.keys() - {bidder for bidder, _ in kept}
            self._overruled = dict.fromkeys(sorted(others), f"{keeper} keeps it so")
        preferences = self.call.goal.preferences
        self._ranking = rank(kept or bids, preferences, self._terms, self._references)

    def _pass_on(self, reason: str, now: float) -> Reaction:
        assert self._winner is not None
        failed = self._winner.bidder
        self._failed.append(failed)
        if self._overruled and {ranked.bidder for ranked in self._ranking} <= {*self._failed}:
            for bidder in self._failed:
                if self._proposals.pop(bidder, None) is not None:
                    self._refusals[bidder] = "failed"
            self._overruled = {}
            self._rank()
        cancel: list[Outgoing] = [(Performative.CANCEL, failed, Verdict(reason))]
        for ranked in self._ranking:
            if ranked.bidder not in self._failed:
                return cancel + self._award(ranked, now), self._awarded(ranked, failed, reason)
        return cancel, self._exhausted(f"{failed} failed ({reason}), nobody is left", retry=True)

    def _exhausted(self, reason: str, *, retry: bool, final: bool = False) -> Exhausted:
        self._close()
        return Exhausted(reason, dict(self._refusals), self._silent(), retry, final)

    def _award(self, ranked: RankedBid, now: float) -> list[Outgoing]:
        self._winner = ranked
        self._misses = 0
        self.running = False
        self.due = now + self._probe_s
        return [self._accept(ranked)]

    def _accept(self, ranked: RankedBid) -> Outgoing:
        return Performative.ACCEPT, ranked.bidder, Award(ranked.bid, self.call, self.digest)

    def _awarded(self, ranked: RankedBid, after: AgentId | None = None, why: str = "") -> Awarded:
        refusals, silent = self._refusals | self._overruled, self._silent()
        return Awarded(ranked, tuple(self._ranking), refusals, silent, after, why)

    def _silent(self) -> tuple[AgentId, ...]:
        return tuple(
            b for b in self.bidders if b not in self._proposals and b not in self._refusals
        )

    def _close(self) -> None:
        self.over = True
        self.due = None
