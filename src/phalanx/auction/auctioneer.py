"""The GoalRequest plan of the Auction capability (dissertation, 5.1): ask others.

Any number of auctions run at once: each is an intention of its own, and what bidders offer
is held for it until it ends.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from phalanx.auction.delegating import Delegating
from phalanx.auction.initiator import Awarded, Exhausted, Fulfilled, Initiator, Outgoing, Reaction
from phalanx.auction.memory import AuctionMemory
from phalanx.auction.offers import bid_row
from phalanx.auction.outlook import Connected, Outlook
from phalanx.auction.participant import NOTICE
from phalanx.auction.predicates import Gone, Left
from phalanx.auction.settings import Settings
from phalanx.bdi import Agent, GoalInstance, hears, perceives, plan, when
from phalanx.bdi.steps import Await, Believe, Body, Forget, Pause, PlanFailed, Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import RankedBid
from phalanx.domain.goals import ConstrainedGoal, Mode, Predicate
from phalanx.domain.messages import (
    CallForProposals,
    Message,
    Performative,
    Proposal,
    Refusal,
    Result,
    UndoRequest,
    Verdict,
)


def _auctionable(me: Agent, goal: GoalInstance) -> bool:
    """Whether somebody's VNF could achieve it; work that was itself won is not passed on."""
    return (
        goal.contract is None
        and goal.goal.mode is not Mode.AVERT
        and bool(me.library.achievers(goal.goal))
    )


def _held_elsewhere(me: Agent, goal: GoalInstance) -> bool:
    belief = me.beliefs.get(goal.goal.predicate)
    return belief is not None and belief.holder not in (None, me.name)


def _row(ranked: RankedBid) -> dict[str, Any]:
    return {
        "agent": ranked.bidder,
        "utility": round(ranked.utility, 6),
        **bid_row(ranked.bid),
    }


class Auctioneer(Delegating):
    """Lets other agents, or this one, achieve what this agent wants."""

    name = "auctioneer"
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self._undoing: set[str] = set()

    # -- plans ----------------------------------------------------------------------

    @plan(Predicate, mode=None, rank=80, applies=_auctionable)
    def goal_request(self, me: Agent, goal: GoalInstance) -> Body:
        """Auction the goal; after a failure that chance may mend, auction it again."""
        settings = self.settings
        reason, since = "", me.now
        left = self.left.pop(goal.goal, None)
        first = 1 if left is None else left.turn
        for turn in range(first, settings.rounds + 1):
            if left is not None:
                conversation, auction = self._take_up(me, left)
                since, left = left.call.since, None
            else:
                conversation = me.new_id("auction")
                auction = self._call(me, goal, conversation, turn, since)
            try:
                decision = yield Await(conversation)
            finally:
                self._send(me, conversation, auction.cancel("the goal is no longer pursued"))
                self.auctions.pop(conversation, None)
            if isinstance(decision, Fulfilled):
                for fact in decision.facts:
                    yield Believe(fact.predicate, fact.value, fact.holder)
                    self.rely(goal, fact)
                return
            reason = decision.reason
            if not decision.retry:
                break
            if turn < settings.rounds:
                yield Pause(settings.backoff_s)
        raise PlanFailed(reason)

    @plan(Predicate, Mode.AVERT, rank=80, applies=_held_elsewhere)
    def request_undo(self, me: Agent, goal: GoalInstance) -> Body:
        """Ask the agent that keeps something true to undo it."""
        predicate = goal.goal.predicate
        for _ in range(self.settings.patience):
            belief = me.beliefs.get(predicate)
            if belief is None or not belief.value or belief.holder is None:
                return
            conversation = me.new_id("undo")
            self._undoing.add(conversation)
            me.tell(Performative.REQUEST, belief.holder, conversation, UndoRequest(goal.goal))
            me.call_at(
                me.now + 2 * self.settings.deadline_s, partial(me.resume, conversation, None)
            )
            try:
                answer = yield Await(conversation)
            finally:
                self._undoing.discard(conversation)
            if isinstance(answer, Result):
                now = me.beliefs.get(predicate)
                if now is not None and now.holder == belief.holder:
                    yield Believe(predicate, value=False)
                return  # else somebody has made it true again meanwhile, and holds it
        raise PlanFailed("its holder does not undo it")

    # -- messages -------------------------------------------------------------------

    @hears(Proposal)
    def heard_proposal(self, me: Agent, message: Message) -> None:
        """Take a bid in."""
        auction = self.auctions.get(message.conversation)
        content = message.content
        assert isinstance(content, Proposal)
        if auction is not None:
            reaction = auction.on_proposal(message.sender, content.bids, me.now)
            self._react(me, message.conversation, auction, reaction)
        else:  # an auction that is over: let go of what you hold for it
            over = Verdict("the auction is over")
            me.tell(Performative.REJECT, message.sender, message.conversation, over)

    @hears(Refusal)
    def heard_refusal(self, me: Agent, message: Message) -> None:
        """Take a refusal in."""
        auction = self.auctions.get(message.conversation)
        content = message.content
        if auction is not None and isinstance(content, Refusal):
            reaction = auction.on_refusal(
                message.sender, content.reason, me.now, passing=content.passing
            )
            self._react(me, message.conversation, auction, reaction)

    @hears(Result)
    def heard_result(self, me: Agent, message: Message) -> Steps | None:
        """A winner is done, an undo is done, or a measure ended that this agent asked for."""
        content = message.content
        assert isinstance(content, Result)
        auction = self.auctions.get(message.conversation)
        if auction is not None:
            reaction = auction.on_result(message.sender, content.facts)
            self._react(me, message.conversation, auction, reaction)
        elif message.conversation in self._undoing:
            me.resume(message.conversation, content)
        elif message.conversation == NOTICE:
            ended = [fact.predicate for fact in content.facts if not fact.value]
            if message.performative is Performative.FAILURE:
                return self.lost(me, message.sender, ended)
            return self.ended(me, message.sender, ended)
        return None

    @hears(Verdict)
    def heard_verdict(self, me: Agent, message: Message) -> None:
        """A winner is at work or failed; an undo failed."""
        auction = self.auctions.get(message.conversation)
        content = message.content
        assert isinstance(content, Verdict)
        if message.performative is Performative.AGREE and auction is not None:
            auction.on_agree(message.sender, me.now)
            self._set_timer(me, message.conversation, auction)
        elif message.performative is Performative.FAILURE:
            if auction is not None:
                reaction = auction.on_failure(
                    message.sender, content.reason, me.now, final=content.final
                )
                self._react(me, message.conversation, auction, reaction)
            elif message.conversation in self._undoing:
                me.resume(message.conversation, content)
            self.cancelled.pop(message.conversation, None)

    # -- rules ----------------------------------------------------------------------

    @perceives(Connected)
    def connection_changed(self, me: Agent, percept: Connected) -> None:
        """Ask after a time in which nobody could be heard."""
        if percept.up:
            self.check_relied(me)

    @when(Gone)
    @when(Left)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> Steps:
        """Pass on what an agent worked on that is gone, and pursue anew what it kept true."""
        for conversation, auction in list(self.auctions.items()):
            self._react(me, conversation, auction, auction.on_gone(gone.agent, me.now))
        for predicate in me.beliefs.held_by(gone.agent):
            delegated = self.delegated.pop(predicate, None)
            yield Forget(predicate)
            if delegated is not None:
                yield delegated.adopt

    # -- inside ---------------------------------------------------------------------

    def _take_up(self, me: Agent, old: AuctionMemory) -> tuple[str, Initiator]:
        settings = self.settings
        auction = Initiator.recalled(
            old, me.now, probe_s=settings.probe_s, patience=settings.patience
        )
        self.auctions[old.conversation] = auction
        self._set_timer(me, old.conversation, auction)
        return old.conversation, auction

    def _call(
        self, me: Agent, goal: GoalInstance, conversation: str, turn: int, since: float
    ) -> Initiator:
        settings = self.settings
        policy = settings.policy(goal.goal)
        outlook: Outlook = me.capability(Outlook)
        constrained = ConstrainedGoal(
            goal.goal, policy.constraints, policy.preferences, goal.traffic_now(), goal.tap
        )
        context = me.beliefs.facts()
        call = CallForProposals(constrained, me.now + settings.deadline_s, since, context)
        bidders = outlook.alive()
        auction = Initiator(
            call, bidders, probe_s=settings.probe_s, patience=settings.patience, turn=turn
        )
        self.auctions[conversation] = auction
        constraints, preferences = policy.constraints, policy.preferences
        me.cause = me.record(
            "auction.called",
            auction=conversation,
            goal=str(goal.goal),
            round=turn,
            tap=goal.tap,
            traffic_mb_s=round(constrained.traffic_mb_s, 6),
            constraints={
                name: value
                for name in constraints.__struct_fields__
                if (value := getattr(constraints, name)) is not None
            },
            preferences={n: getattr(preferences, n) for n in preferences.__struct_fields__},
            bidders=len(bidders),
        )
        self._send(me, conversation, auction.begin())
        self._set_timer(me, conversation, auction)
        return auction

    def _react(self, me: Agent, conversation: str, auction: Initiator, reaction: Reaction) -> None:
        out, decision = reaction
        if decision is None:
            if out:
                self._send(me, conversation, out)
            return
        if isinstance(decision, Awarded):
            data: dict[str, Any] = {
                "auction": conversation,
                "goal": str(auction.call.goal.goal),
                "winner": decision.winner.bidder,
                "ranking": [_row(r) for r in decision.ranking],
                "refusals": decision.refusals,
                "silent": list(decision.silent),
            }
            if decision.after is not None:
                data["after"] = decision.after
                data["reason"] = decision.why
            me.cause = me.record("auction.awarded", **data)
        elif isinstance(decision, Exhausted):
            me.cause = me.record(
                "auction.failed",
                auction=conversation,
                goal=str(auction.call.goal.goal),
                reason=decision.reason,
                refusals=decision.refusals,
                silent=list(decision.silent),
            )
        self._send(me, conversation, out)
        if isinstance(decision, Awarded):
            self._set_timer(me, conversation, auction)
        else:
            me.resume(conversation, decision)

    def _send(self, me: Agent, conversation: str, out: list[Outgoing]) -> None:
        for performative, receiver, content in out:
            me.tell(performative, receiver, conversation, content)

    def _set_timer(self, me: Agent, conversation: str, auction: Initiator) -> None:
        if auction.due is not None:
            me.call_at(auction.due, partial(self._on_time, me, conversation))

    def remind(self, me: Agent, winner: AgentId) -> None:
        """Tell an agent that is back what it has won, as far as this agent waits for it."""
        for conversation, auction in list(self.auctions.items()):
            self._react(me, conversation, auction, auction.on_return(winner, me.now))

    def _on_time(self, me: Agent, conversation: str) -> None:
        auction = self.auctions.get(conversation)
        if auction is None or auction.due is None or me.now < auction.due:
            return
        self._react(me, conversation, auction, auction.on_time(me.now))
        self._set_timer(me, conversation, auction)
