"""The GoalRequest plan of the Auction capability (dissertation, 5.1): ask others.

Any number of auctions run at once: each is an intention of its own, and what bidders offer
is held for it until it ends. What a winner keeps achieved is relied on (``Delegations``); both
go on after a crash of this agent.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import NOTICE, RESTARTED, ContractStage
from phalanx.auction.delegations import HEARSAY_S, Delegated, Delegations
from phalanx.auction.initiator import (
    AuctionMemory,
    Awarded,
    Exhausted,
    Fulfilled,
    Initiator,
    Outgoing,
    Overtaken,
    Reaction,
)
from phalanx.auction.outlook import Connected, Gone, Left, Outlook
from phalanx.auction.references import for_goal
from phalanx.auction.settings import Configured, Tender
from phalanx.auction.terms import judged
from phalanx.auction.view import Change
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import (
    Capability,
    hears,
    perceives,
    plan,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Await, Believe, Body, Pause, PlanFailed, Step, Steps
from phalanx.domain.actions import SiteState
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.goals import ConstrainedGoal, Goal, Mode, Predicate
from phalanx.domain.messages import (
    Advertisement,
    CallForProposals,
    Inventory,
    Message,
    Performative,
    Proposal,
    Refusal,
    Result,
    UndoRequest,
    Verdict,
)

LONGEST_BACKOFF = 5.0
"""Most times the first pause that a goal waits which is never given up."""


class AuctioneerMemory(Struct, frozen=True):
    """What others do for this agent."""

    delegated: tuple[Delegated, ...] = ()
    auctions: tuple[AuctionMemory, ...] = ()
    undecided: tuple[str, ...] = ()
    """Conversations of auctions without a winner."""


def _auctionable(me: Agent, goal: GoalInstance) -> bool:
    """Whether a VNF of some agent could achieve it; work that was won is not passed on."""
    return (
        goal.contract is None
        and goal.goal.mode is not Mode.AVERT
        and bool(me.library.achievers(goal.goal))
    )


def _held_elsewhere(me: Agent, goal: GoalInstance) -> bool:
    belief = me.beliefs.get(goal.goal.predicate)
    return belief is not None and belief.holder not in (None, me.name)


class Auctioneer(Configured, Capability):
    """Lets other agents, or this one, achieve what this agent wants."""

    name = "auctioneer"

    def __init__(self) -> None:
        self.auctions: dict[str, Initiator] = {}
        self.delegations = Delegations()
        self.left: dict[Goal, AuctionMemory] = {}
        """Auctions before a crash whose winners are at work, and whose goals are not yet."""
        self.cancelled: dict[str, AgentId] = {}
        """Winners that were told lately that their work is not wanted any more."""
        self.awarded: Callable[[Agent, str, RankedBid], None] = lambda *_: None
        """Called with an auction and the bid that won it."""
        self.accepts: Callable[[Agent, Message], bool] = lambda *_: True
        """Whether the report of a winner counts; if not, it has failed."""
        self._undoing: set[str] = set()
        self._changes: dict[Goal, Change] = {}
        """What goals wait for that are never given up."""

    # -- plans ----------------------------------------------------------------------

    @plan(Predicate, mode=None, rank=80, applies=_auctionable)
    def goal_request(self, me: Agent, goal: GoalInstance) -> Body:
        """Auction the goal; after a failure that chance may mend, auction it again.

        A standing goal is not given up; nor a protective one, if the settings say so.
        """
        new = not goal.standing and goal.goal not in self.left  # work on a standing one never ends
        if new and (yield from self._made_here(me, goal)):
            return
        least = self.settings.persistent_from
        tendered = type(goal.goal.predicate) in me.capability(Bidder).tenders
        if tendered or not (goal.standing or (least is not None and goal.priority >= least)):
            yield from self._request(me, goal, None)
            return
        catalogue, traffic = self.settings.catalogue, goal.traffic_now()
        able = (catalogue.get(c.name) for c in me.library.achievers(goal.goal))
        needs = [vnfd.scaled(vnfd.units_for(traffic)) for vnfd in able if vnfd is not None]
        change = self._changes[goal.goal] = Change(me.new_id("change"), needs)
        try:
            yield from self._request(me, goal, change)
        finally:
            self._changes.pop(goal.goal, None)

    def _request(self, me: Agent, goal: GoalInstance, change: Change | None) -> Body:
        settings = self.settings
        reason, since, final = "", me.now, False
        left = self.left.pop(goal.goal, None)
        first = 1 if left is None else left.turn
        near = goal.goal.predicate.near_tap and left is None
        tender = me.capability(Bidder).tenders.get(type(goal.goal.predicate))
        turn, overtaken = first, 0
        while turn <= settings.rounds or change is not None:
            if change is not None:
                change.begin(me.capability(Outlook).view)
            if left is not None:
                conversation, auction = self._take_up(me, left)
                since, left = left.call.since, None
            else:
                conversation, auction = self._call(me, goal, turn, since, near=near)
                auction.gives_way = overtaken < settings.rounds
            try:
                decision = yield Await(conversation)
            finally:
                self._send(me, conversation, auction.cancel("the goal is no longer pursued"))
                self.auctions.pop(conversation, None)
            if isinstance(decision, Fulfilled):
                yield from self._fulfilled(goal, decision, tender, turn)
                return
            if isinstance(decision, Overtaken):
                overtaken += 1
                yield Pause(settings.backoff_s)
                continue
            reason, final = decision.reason, decision.final
            if near and not final:  # nobody at the tap can: any other agent may
                near = False
                continue
            why = "" if tender is None else tender.concede(goal.goal, auction.nearest, turn)
            if auction.nearest and not (why or final) and turn < settings.rounds:
                turn += 1
                continue
            reason = "; ".join(filter(None, (reason, why)))
            if decision.retry and turn < settings.rounds:
                yield Pause(settings.backoff_s)
            elif change is not None and not final:
                yield from self._wait(me, goal, conversation, decision, change)
                near = goal.goal.predicate.near_tap
            else:
                break
            turn += 1
        raise PlanFailed(reason, final=final)

    def _made_here(self, me: Agent, goal: GoalInstance) -> Generator[Step, Any, bool]:
        """Wait while another one asks this agent for it, or has it at work: it is made twice else.

        Returns:
            Whether it is so then.

        """
        pause_s, waited = self.settings.deadline_s / 4, False  # a lost award is sent again in it
        while any(
            each.call.goal.goal == goal.goal
            and each.initiator != me.name
            and (each.stage is ContractStage.WORKING or me.now <= each.deadline + pause_s)
            for each in me.capability(Bidder).contracts.at()
        ):
            waited = True
            yield Pause(pause_s)
        return waited and me.beliefs.satisfies(goal.goal)

    def _fulfilled(
        self, goal: GoalInstance, end: Fulfilled, tender: Tender | None, turn: int
    ) -> Steps:
        for fact in end.facts:
            yield Believe(fact.predicate, fact.value, fact.holder, fact.mandate)
            self.delegations.rely(goal, fact)
        if tender is not None:
            yield from tender.concluded(goal.goal, end.winner, end.bid, turn)

    @plan(Predicate, Mode.AVERT, rank=80, applies=_held_elsewhere)
    def request_undo(self, me: Agent, goal: GoalInstance) -> Body:
        """Ask the agent that keeps a predicate true to undo it."""
        predicate = goal.goal.predicate
        for _ in range(self.settings.probes):
            belief = me.beliefs.get(predicate)
            if belief is None or not belief.value or belief.holder is None:
                return
            conversation = me.new_id("undo")
            self._undoing.add(conversation)
            request = UndoRequest(goal.goal, belief.mandate)
            me.tell(Performative.REQUEST, belief.holder, conversation, request)
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
                return  # else another agent has made it true again meanwhile, and holds it
            if isinstance(answer, Verdict) and answer.final:
                break
        raise PlanFailed("its holder does not undo it")

    # -- messages -------------------------------------------------------------------

    @starts
    def begin(self, me: Agent) -> None:
        """Have calls of others compared with its own before they are bid for."""
        me.capability(Bidder).asked = self._asked
        me.call_at(me.now + HEARSAY_S, partial(self.delegations.ask_hearsay, me))

    def _asked(self, me: Agent, message: Message) -> bool:
        """Let the elder of two auctions of the same goal end first: it may be made twice else.

        Whoever called the younger hears of the elder as long as that is open, but gives way a few
        times only: what calls for all and awards nothing would stop everything.

        Returns:
            Whether the elder is this agent's.

        """
        call = message.content_as(CallForProposals)
        theirs, cause, elder = (call.since, message.conversation), me.cause, False
        for conversation, auction in list(self.auctions.items()):
            mine = auction.call.since, conversation
            if auction.call.goal.goal != call.goal.goal or message.sender == me.name:
                continue
            if mine < theirs and auction.called:  # that is not known of it after a crash
                me.cause, elder = auction.called, True
                again = [each for each in auction.begin() if each[1] == message.sender]
                self._send(me, conversation, again)
            elif auction.gives_way and auction.winner is None:
                reason = f"{message.sender} asks for the same"
                about = {"auction": conversation, "goal": str(call.goal.goal)}
                me.cause = me.record("auction.waiting", **about, reason=reason)
                self._send(me, conversation, auction.cancel(reason))
                me.resume(conversation, Overtaken())
            else:  # the elder is heard of too late
                self.delegations.find_doubled(me, self.settings.deadline_s)
            me.cause = cause
        return elder

    @hears(Proposal)
    def heard_proposal(self, me: Agent, message: Message) -> None:
        """Take a bid in."""
        auction = self.auctions.get(message.conversation)
        content, sender = message.content_as(Proposal), message.sender
        if auction is None:  # the bidder is to give back what it holds
            over = Verdict("the auction is over")
            me.tell(Performative.REJECT, sender, message.conversation, over)
            return
        goal, offered = auction.call.goal, self.settings.catalogue
        terms, view = me.capability(Bidder).terms(goal.goal), me.capability(Outlook).view
        answers = [judged(terms, view, sender, goal, bid, offered) for bid in content.bids]
        bids = tuple(bid for bid in answers if isinstance(bid, Bid))
        refusals = [reason for reason in answers if isinstance(reason, str)]
        if refusals and not bids:
            reason = "; ".join(dict.fromkeys(refusals))
            me.tell(Performative.REJECT, sender, message.conversation, Verdict(reason))
            reaction = auction.on_refusal(sender, reason, me.now)
        else:
            reaction = auction.on_proposal(sender, bids, me.now)
        self._react(me, message.conversation, auction, reaction)

    @hears(Refusal)
    def heard_refusal(self, me: Agent, message: Message) -> None:
        """Take a refusal in."""
        auction = self.auctions.get(message.conversation)
        content = message.content_as(Refusal)
        if auction is not None:
            if message.sender in auction.bidders and content.nearest:
                auction.nearest[message.sender] = content.nearest
            reaction = auction.on_refusal(
                message.sender, content.reason, me.now, transient=content.transient
            )
            self._react(me, message.conversation, auction, reaction)

    @hears(Result)
    def heard_result(self, me: Agent, message: Message) -> Steps | None:
        """A winner is done, an undo is done, or a measure ended that this agent asked for."""
        content = message.content_as(Result)
        auction = self.auctions.get(message.conversation)
        if auction is not None:
            digest = auction.digest
            if digest and digest not in {fact.mandate for fact in content.facts}:
                why = f"it does not hold what the award has fixed ({digest})"
                reaction = auction.on_failure(message.sender, why, me.now)
            elif self.accepts(me, message):
                reaction = auction.on_result(message.sender, content.facts)
            else:
                why = "it does not stand by what it reports"
                reaction = auction.on_failure(message.sender, why, me.now)
            self._react(me, message.conversation, auction, reaction)
        elif message.conversation in self._undoing:
            me.resume(message.conversation, content)
        elif message.conversation == NOTICE:
            ended = [fact.predicate for fact in content.facts if not fact.value]
            failed = message.performative is Performative.FAILURE
            return self.delegations.lost(me, message.sender, ended, anew=failed)
        elif self.delegations.relies_on_another(message.sender, content.facts):
            self.delegations.find_doubled(me, self.settings.deadline_s)  # its cancellation was lost
        return None

    @hears(Verdict)
    def heard_verdict(self, me: Agent, message: Message) -> None:
        """A winner is at work or failed; an undo failed."""
        auction = self.auctions.get(message.conversation)
        content = message.content_as(Verdict)
        if message.performative is Performative.AGREE and auction is not None:
            auction.on_agree(message.sender, me.now, running=content.running)
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

    @hears(Inventory)
    def heard_inventory(self, me: Agent, message: Message) -> Steps:
        """Compare what another agent keeps with what this one relies on."""
        return self.delegations.heard_inventory(me, message, self.settings.deadline_s)

    # -- rules ----------------------------------------------------------------------

    @when(Predicate, value=False)
    @when(Predicate, value=None)
    def no_longer_so(self, me: Agent, predicate: Predicate) -> None:
        """Rely on nobody for what is over, nor hand it over."""
        if not me.beliefs.holds(predicate):
            self.delegations.by_effect.pop(predicate, None)

    @perceives(Connected)
    def connection_changed(self, me: Agent, percept: Connected) -> None:
        """Ask what became of things after a time in which no other agent could be heard."""
        if percept.up:
            self.delegations.check(me, self.settings.deadline_s)

    @when(Gone)
    @when(Left)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> Steps:
        """Pass on what a lost agent worked on, and pursue anew what it kept true."""
        cause = me.cause
        for conversation, auction in list(self.auctions.items()):
            me.cause = cause  # not what came of the auction before
            self._react(me, conversation, auction, auction.on_gone(gone.agent, me.now))
        yield from self.delegations.holder_gone(me, gone.agent)

    @hears(Advertisement)
    @perceives(SiteState)
    def site_changed(self, me: Agent, news: object) -> None:  # noqa: ARG002  # the view has it
        """Look again whether what goals wait for has come, once the view has changed."""
        if self._changes:
            me.later(self._compare, me)

    # -- inside ---------------------------------------------------------------------

    def _compare(self, me: Agent) -> None:
        view = me.capability(Outlook).view
        for change in list(self._changes.values()):
            if change.see(view):
                me.resume(change.key)

    def _wait(
        self, me: Agent, goal: GoalInstance, conversation: str, ended: Exhausted, change: Change
    ) -> Body:
        """Wait until another auction may end differently, longer from time to time.

        If all refused, until something came that could change that, but not for ever; else, where
        winners failed or agents were silent, only for a while: what ailed them is in no view.
        """
        settings = self.settings
        me.record("auction.waiting", auction=conversation, goal=str(goal.goal), reason=ended.reason)
        yield Pause(settings.backoff_s * min(2.0**change.waits, LONGEST_BACKOFF))
        change.waits += 1
        if not ended.retry and not change.came:
            me.call_at(me.now + settings.retry_s, partial(me.resume, change.key))
            yield Await(change.key)

    def _take_up(self, me: Agent, old: AuctionMemory) -> tuple[str, Initiator]:
        settings = self.settings
        auction = Initiator.recalled(old, me.now, probe_s=settings.probe_s, probes=settings.probes)
        self.auctions[old.conversation] = auction
        self._set_timer(me, old.conversation, auction)
        return old.conversation, auction

    def _call(
        self, me: Agent, goal: GoalInstance, turn: int, since: float, *, near: bool
    ) -> tuple[str, Initiator]:
        conversation, settings = me.new_id("auction"), self.settings
        outlook: Outlook = me.capability(Outlook)
        tender = me.capability(Bidder).tenders.get(type(goal.goal.predicate))
        policy, named = tender.call(goal.goal) if tender else (settings.policy(goal.goal), ())
        anomaly = outlook.view.properties(me.pop or me.name).get("anomaly", 0.0)
        policy, why = policy.under(anomaly, settings.forecast)
        constrained = ConstrainedGoal(
            goal.goal, policy.constraints, policy.preferences, goal.traffic_now(), goal.tap
        )
        context = me.beliefs.facts()
        call = CallForProposals(constrained, me.now + settings.deadline_s, since, context)
        bidders = outlook.alive()
        if near:
            states = ((bidder, outlook.view.get(bidder)) for bidder in bidders)
            at_tap = tuple(agent for agent, state in states if state and state.pop == goal.tap)
            bidders = at_tap or bidders
        bidders = tuple(each for each in bidders if each in named) if named else bidders
        terms = me.capability(Bidder).terms(goal.goal)
        references = for_goal(settings.references, policy.constraints)
        auction = Initiator(
            call,
            bidders,
            probe_s=settings.probe_s,
            probes=settings.probes,
            turn=turn,
            terms=terms,
            references=references,
        )
        self.auctions[conversation] = auction
        weighed = {"weighed": why} if why else {}
        me.cause = auction.called = me.record(
            "auction.called", auction=conversation, **auction.row(), **weighed
        )
        self._send(me, conversation, auction.begin())
        self._set_timer(me, conversation, auction)
        return conversation, auction

    def _react(self, me: Agent, conversation: str, auction: Initiator, reaction: Reaction) -> None:
        out, decision = reaction
        if decision is None:
            if out:
                self._send(me, conversation, out)
            return
        about = {"auction": conversation, "goal": str(auction.call.goal.goal)}
        if isinstance(decision, Awarded):
            me.cause = me.record("auction.awarded", **about, **decision.row())
        elif isinstance(decision, Exhausted):
            me.cause = me.record("auction.failed", **about, **decision.row())
        self._send(me, conversation, out)
        if isinstance(decision, Awarded):
            self._set_timer(me, conversation, auction)
            self.awarded(me, conversation, decision.winner)
        else:
            me.resume(conversation, decision)

    def _send(self, me: Agent, conversation: str, out: list[Outgoing]) -> None:
        for performative, receiver, content in out:
            me.tell(performative, receiver, conversation, content)

    def _set_timer(self, me: Agent, conversation: str, auction: Initiator) -> None:
        if auction.due is not None:
            me.call_at(auction.due, partial(self._on_time, me, conversation))

    def reject_winner(self, me: Agent, conversation: str, winner: AgentId, reason: str) -> None:
        """Take an award back: the goal goes to the next best bid."""
        auction = self.auctions.get(conversation)
        if auction is not None:
            self._react(me, conversation, auction, auction.on_failure(winner, reason, me.now))

    def remind(self, me: Agent, winner: AgentId) -> None:
        """Tell an agent that is back what it has won and this agent still waits for."""
        for conversation, auction in list(self.auctions.items()):
            self._react(me, conversation, auction, auction.on_return(winner, me.now))

    def _on_time(self, me: Agent, conversation: str) -> None:
        auction = self.auctions.get(conversation)
        if auction is None or auction.due is None or me.now < auction.due:
            return
        self._react(me, conversation, auction, auction.on_time(me.now))
        self._set_timer(me, conversation, auction)

    # -- beyond a crash ---------------------------------------------------------------

    @remembers(AuctioneerMemory)
    def remember(self, me: Agent) -> AuctioneerMemory:  # noqa: ARG002  # all is its own
        """Return what others do for this agent, and the auctions that are open."""
        auctions = [a for c, auction in self.auctions.items() if (a := auction.memory(c))]
        decided = {auction.conversation for auction in auctions}
        return AuctioneerMemory(
            tuple(self.delegations.by_effect.values()),
            (*auctions, *self.left.values()),
            tuple(c for c in self.auctions if c not in decided),
        )

    @recalls
    def recall(self, me: Agent, part: AuctioneerMemory | None, shift: float) -> None:
        """Go on after a crash: an auction whose winner is at work waits for its goal.

        One without a winner is given up; its goal is auctioned anew.
        """
        if part is None:
            return
        self.delegations.by_effect |= {old.effect: old for old in part.delegated}
        for auction in part.auctions:
            since, deadline = auction.call.since + shift, auction.call.deadline + shift
            call = replace(auction.call, since=since, deadline=deadline)
            self.left[call.goal.goal] = replace(auction, call=call)
        for conversation in part.undecided:
            for peer in me.capability(Outlook).alive():
                me.tell(Performative.CANCEL, peer, conversation, Verdict(RESTARTED))

    def give_up_rest(self, me: Agent) -> None:
        """Cancel the work of winners that no goal waits for any more: its plan has fallen."""
        left, self.left = self.left, {}
        for auction in left.values():
            self.cancelled[auction.conversation] = auction.winner.bidder
            self._cancel(me, auction.conversation, self.settings.probes)

    def _cancel(self, me: Agent, conversation: str, turns: int) -> None:
        """Tell a winner again and again, since it would work for nothing if this was lost."""
        winner = self.cancelled.get(conversation)
        if winner is None:
            return
        me.tell(Performative.CANCEL, winner, conversation, Verdict(RESTARTED))
        if turns > 1:
            again = partial(self._cancel, me, conversation, turns - 1)
            me.call_at(me.now + self.settings.probe_s, again)
        else:
            del self.cancelled[conversation]

    def works_for_me(self, conversation: str, agent: AgentId) -> bool:
        """Whether ``agent`` is the winner that this agent waits for."""
        auction = self.auctions.get(conversation)
        if auction is not None:
            return auction.winner == agent
        left = self.left.values()
        return any(a.conversation == conversation and a.winner.bidder == agent for a in left)
