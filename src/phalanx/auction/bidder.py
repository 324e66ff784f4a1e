"""The GoalResponse plan of the Auction capability (dissertation, 5.1): answer calls."""

from __future__ import annotations

from functools import partial

from phalanx.auction import recall
from phalanx.auction.keeper import Keeper
from phalanx.auction.memory import BidderMemory
from phalanx.auction.offers import bid_row, needs, offer
from phalanx.auction.outlook import Outlook
from phalanx.auction.participant import Contract, Contracts, Stage
from phalanx.auction.predicates import Gone, Kept, Left
from phalanx.auction.settings import Settings
from phalanx.bdi import Agent, GoalEnd, GoalInstance, Outcome, hears, perceives, when
from phalanx.bdi.steps import Adopt
from phalanx.domain.actions import Done, Hold, Release, SiteState
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.goals import want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Content,
    Message,
    Performative,
    Proposal,
    Refusal,
    Result,
    Verdict,
)

DRAINING = "draining"
"""Why an agent that is about to leave does not bid."""
WAIT = 0.75
"""Share of the time to the deadline that a call waits for elder auctions to be decided."""


class Bidder(Keeper):
    """Bids for goals, and answers for what it won."""

    name = "bidder"
    settings: Settings
    memory = BidderMemory

    def __init__(self) -> None:
        super().__init__()
        self.contracts = Contracts()

    def begin(self, me: Agent) -> None:
        """Start to look after contracts whose initiator fell silent."""
        me.call_at(me.now + self.settings.probe_s, partial(self._look_after, me))

    def drain(self, me: Agent) -> None:
        """Withdraw what was proposed, and have what is being worked on done by others."""
        for contract in self.contracts.unfinished():
            self._withdraw(me, contract)
        for contract in self.contracts.working():
            self.abandon(me, contract, DRAINING)

    def remember(self, me: Agent) -> BidderMemory:  # noqa: ARG002  # all is its own
        """Return what runs here, for whom, and what was promised."""
        return recall.remember(self)

    def recall(self, me: Agent, part: BidderMemory | None, shift: float) -> None:  # noqa: ARG002
        """Go on with it; work is taken up by ``pursue`` once it is known to be wanted still."""
        if part is not None:
            recall.recall(self, me, part)

    # -- the conversation -----------------------------------------------------------

    @hears(CallForProposals)
    def heard_call(self, me: Agent, message: Message) -> None:
        """Evaluate a call, hold what the bids need, propose; or refuse with the reason."""
        known = self.contracts.get(message.conversation)
        if known is not None:
            self._repeat(me, known)
            return
        call = message.content
        assert isinstance(call, CallForProposals)
        contract = self._open(me, message, call)
        if me.draining:
            self._refuse(me, contract, DRAINING)
        else:
            self._evaluate(me, contract)

    @hears(Award)
    def heard_award(self, me: Agent, message: Message) -> None:
        """Begin to work; answer a repeated award with how far the work is."""
        award = message.content
        assert isinstance(award, Award)
        contract = self.contracts.get(message.conversation)
        if contract is None:  # forgotten, or won before a restart: try all the same
            contract = self._open(me, message, award.cfp)
            contract.stage = Stage.OVER
        contract.heard = me.now
        if contract.stage is Stage.PROPOSED:
            self._work(me, contract, award)
        elif contract.stage in (Stage.OVER, Stage.REFUSED) and me.draining:
            self._reply(me, contract, Performative.FAILURE, Verdict(DRAINING))
        elif contract.stage in (Stage.OVER, Stage.REFUSED):
            self.contracts.revive(contract)
            contract.stage = Stage.BIDDING
            contract.bids = (award.bid,)
            self._hold(me, contract, partial(self._work_late, me, contract, award))
        elif contract.stage is Stage.WORKING:
            self._reply(me, contract, Performative.AGREE, Verdict("at work"))
        else:
            self._repeat(me, contract)

    @hears(Verdict)
    def heard_verdict(self, me: Agent, message: Message) -> None:
        """Rejected, or cancelled in the midst of the work."""
        contract = self.contracts.get(message.conversation)
        content = message.content
        if contract is None or not isinstance(content, Verdict):
            return
        if message.performative is Performative.REJECT:
            self._withdraw(me, contract)
        elif message.performative is Performative.CANCEL:
            self.abandon(me, contract, content.reason or "cancelled")

    def _open(self, me: Agent, message: Message, call: CallForProposals) -> Contract:
        contract = Contract(message.conversation, message.sender, call, message.cause)
        # The auctioneer's clock may be far ahead of this agent's.
        contract.deadline = min(call.deadline, me.now + self.settings.deadline_s)
        self.contracts.add(contract)
        return contract

    @when(Gone)
    @when(Left)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> None:
        """Nobody waits any more for what an agent asked for that is gone."""
        for contract in self.contracts.working():
            if contract.initiator == gone.agent:
                self.abandon(me, contract, f"{gone.agent} is gone")

    # -- bidding --------------------------------------------------------------------

    def _evaluate(self, me: Agent, contract: Contract) -> None:
        """Bid, refuse, or wait until it is known what other proposals leave.

        An auction waits only for elder ones; where a younger one holds what it needs it is
        refused at once, and asked again by its auctioneer. So no two wait for each other.
        """
        open_proposals = list(self.contracts.holding())
        free = me.capability(Outlook).free
        offered = {bid.reuse for other in open_proposals for bid in other.bids}
        make = partial(offer, me, self.estate, self.settings, contract.call)
        bids = make(free - self.contracts.held(), offered)
        if not isinstance(bids, str):
            contract.bids = bids
            contract.stage = Stage.BIDDING
            self._hold(me, contract, partial(self._propose, me, contract))
        elif not open_proposals or isinstance(make(free), str):
            self._refuse(me, contract, bids)
        elif any(other.age > contract.age for other in open_proposals):
            self._refuse(me, contract, f"{bids} beside other proposals", passing=True)
        else:
            self.contracts.wait(contract)
            if contract.stage is Stage.WAITING:
                return
            contract.stage = Stage.WAITING
            patience = (contract.deadline - me.now) * WAIT
            me.call_at(me.now + patience, partial(self._waited, me, contract, bids))

    def _waited(self, me: Agent, contract: Contract, reason: str) -> None:
        if contract.stage is Stage.WAITING:
            self._refuse(me, contract, f"{reason} beside other proposals", passing=True)

    @perceives(SiteState)
    def _reconsider(self, me: Agent, _: SiteState | None = None) -> None:
        """Evaluate what waited, now that a hold or what is free has changed."""
        for contract in self.contracts.waiting():
            me.cause = contract.cause
            self._evaluate(me, contract)

    def _hold(self, me: Agent, contract: Contract, then: partial[None]) -> None:
        resources = needs(self.estate, self.settings, contract.bids)
        traffic = contract.call.goal.traffic_mb_s
        path = contract.bids[0].path
        ttl = max(0.0, contract.deadline - me.now) + self.settings.grace_s
        hold = self.hold_id(me, contract)
        self.contracts.hold(contract, resources)
        me.perform(Hold(hold, contract.conversation, resources, path, traffic, ttl), then)
        me.call_at(me.now + ttl, partial(self._expire, me, contract))

    def hold_id(self, me: Agent, contract: Contract) -> str:
        """Return the name of the hold behind a conversation's proposal."""
        return f"{me.name}.{me.incarnation}@{contract.conversation}"

    def _propose(self, me: Agent, contract: Contract, outcome: ActionOutcome) -> None:
        if contract.stage is not Stage.BIDDING:
            self._let_go(me, contract)
            return
        if not isinstance(outcome, Done):
            self.contracts.let_go(contract)
            reason = getattr(outcome, "reason", "nothing could be held")
            self._refuse(me, contract, reason, passing=True)
            return
        contract.stage = Stage.PROPOSED
        me.cause = contract.cause
        me.cause = contract.cause = me.record(
            "auction.bid",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            bids=[bid_row(bid) for bid in contract.bids],
        )
        self._reply(me, contract, Performative.PROPOSE, Proposal(contract.bids))

    def _refuse(self, me: Agent, contract: Contract, reason: str, *, passing: bool = False) -> None:
        me.cause = contract.cause
        me.cause = me.record(
            "auction.refused",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            reason=reason,
        )
        self.contracts.end(contract, Stage.REFUSED)
        self._reply(me, contract, Performative.REFUSE, Refusal(reason, passing))

    # -- working --------------------------------------------------------------------

    def _work(self, me: Agent, contract: Contract, award: Award) -> None:
        contract.stage = Stage.WORKING
        contract.bid = award.bid
        contract.cause = me.cause
        self.pursue(me, contract)

    def pursues(self, me: Agent, contract: Contract) -> bool:
        """Whether a plan works on a contract; not yet, where it is recalled from memory."""
        return self._goal(me, contract) is not None

    def pursue(self, me: Agent, contract: Contract) -> None:
        """Work on a contract: begin, or go on where a VNF is at work for it already."""
        if self.pursues(me, contract):
            return
        contract.heard = me.now
        goal = me.adopt(Adopt(want(Kept(contract.conversation)), contract=contract.conversation))
        goal.waiters.append(partial(self._ended, me, contract))

    def _work_late(
        self, me: Agent, contract: Contract, award: Award, outcome: ActionOutcome
    ) -> None:
        if contract.stage is not Stage.BIDDING:  # cancelled meanwhile
            self._let_go(me, contract)
            return
        if isinstance(outcome, Done):
            self._work(me, contract, award)
            return
        reason = getattr(outcome, "reason", "no longer possible")
        self.contracts.end(contract, Stage.OVER)
        self._reply(me, contract, Performative.FAILURE, Verdict(reason))

    def _ended(self, me: Agent, contract: Contract, end: GoalEnd) -> None:
        """Report how the work went; what is left of the hold is given back."""
        me.cause = end.event
        self._let_go(me, contract)
        me.beliefs.remove(Kept(contract.conversation))  # it served its goal, which is over
        if not end.achieved:
            self.fail(me, contract, end.reason, final=end.final)
        else:
            self._record_end(me, contract, fulfilled=True)
            for fact in contract.facts:
                if fact.holder == me.name and fact.value:
                    self.keep(fact.predicate, contract.initiator, contract.call.goal)
            self._reply(me, contract, Performative.INFORM, Result(contract.facts))

    def fail(self, me: Agent, contract: Contract, reason: str, *, final: bool = False) -> None:
        """Tell the initiator that the work has failed, so that it asks somebody else."""
        self._record_end(me, contract, fulfilled=False, **({"reason": reason} if reason else {}))
        self._reply(me, contract, Performative.FAILURE, Verdict(reason, final))

    def _record_end(self, me: Agent, contract: Contract, *, fulfilled: bool, **data: str) -> None:
        me.cause = me.record(
            "contract.ended",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            fulfilled=fulfilled,
            **data,
        )
        self.contracts.end(contract, Stage.DONE)

    def abandon(self, me: Agent, contract: Contract, reason: str) -> None:
        """Stop working on a contract, or give its proposal up."""
        if contract.stage is Stage.WORKING:
            goal = self._goal(me, contract)
            if goal is not None:
                me.end_goal(goal, Outcome.DROPPED, reason)
            else:
                self.estate.release(contract.conversation, me.now)
                self.fail(me, contract, reason)
        elif contract.stage is not Stage.DONE:
            self._let_go(me, contract)
            contract.reply = (Performative.FAILURE, Verdict(reason))  # to an award that is late
            self.contracts.end(contract, Stage.DONE)

    def _withdraw(self, me: Agent, contract: Contract) -> None:
        if contract.stage in (Stage.PROPOSED, Stage.BIDDING, Stage.WAITING):
            self._let_go(me, contract)
            self.contracts.end(contract, Stage.OVER)

    def _goal(self, me: Agent, contract: Contract) -> GoalInstance | None:
        wanted = want(Kept(contract.conversation))
        return next((g for g in me.open_goals() if g.goal == wanted), None)

    def _look_after(self, me: Agent) -> None:
        """Give up work whose initiator was not heard of for too long."""
        settings = self.settings
        silence = settings.probe_s * (settings.patience + 2)
        for contract in self.contracts.working():
            if me.now - contract.heard > silence:
                me.cause = contract.cause
                self.abandon(me, contract, f"{contract.initiator} is silent")
        me.call_at(me.now + settings.probe_s, partial(self._look_after, me))

    def _expire(self, me: Agent, contract: Contract) -> None:
        """The hold behind a proposal has run out at the infrastructure."""
        if contract.stage in (Stage.PROPOSED, Stage.BIDDING):
            self.contracts.end(contract, Stage.OVER)
            me.later(self._reconsider, me)

    def _let_go(self, me: Agent, contract: Contract) -> None:
        if contract.holds:
            me.perform(Release(self.hold_id(me, contract)), lambda _: None)
            self.contracts.let_go(contract)
            me.later(self._reconsider, me)

    def _reply(
        self, me: Agent, contract: Contract, performative: Performative, content: Content
    ) -> None:
        if performative is not Performative.AGREE:
            contract.reply = (performative, content)
        me.tell(performative, contract.initiator, contract.conversation, content)

    def _repeat(self, me: Agent, contract: Contract) -> None:
        if contract.reply is not None and contract.stage is not Stage.OVER:
            me.tell(contract.reply[0], contract.initiator, contract.conversation, contract.reply[1])
