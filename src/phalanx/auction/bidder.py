"""The GoalResponse plan of the Auction capability (dissertation, 5.1): answer calls.

A bidder evaluates calls, holds what its bids need, works on what it won, answers for what it
keeps true, and goes on with all of that after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial

from msgspec.structs import replace

from phalanx.auction.bidding import Reusable, make_bids
from phalanx.auction.contracts import (
    NOTICE,
    RESTARTED,
    BidderMemory,
    Contract,
    ContractFulfilled,
    Contracts,
    ContractStage,
    DependantMemory,
    LastReply,
    VnfInstance,
    VnfInventory,
)
from phalanx.auction.outlook import Forgot, Gone, Left, Outlook
from phalanx.auction.settings import Configured, Tender
from phalanx.auction.terms import BidTerm
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import (
    Capability,
    drains,
    hears,
    perceives,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.goals import GoalEnd, GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Believe, Drop, Steps
from phalanx.domain.actions import Done, Failed, Hold, Lift, ReadMeasure, Release, SiteState, Stop
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Goal, Predicate, avert, want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Content,
    Fact,
    Inventory,
    Message,
    Performative,
    Proposal,
    Query,
    Refusal,
    Result,
    UndoRequest,
    Verdict,
)
from phalanx.domain.predicates import Quiet
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.trust import SignedReport
from phalanx.domain.vnf import InstanceId

PAUSED = "paused by an operator"
"""Why an agent that was told to pause does not bid."""
DRAINING = "draining"
"""Why an agent that is about to leave does not bid."""
ASKED = "has asked for the same before"
"""Why an agent does not bid for a goal that it auctions itself: it would be made twice."""
UNDECIDED = (ContractStage.BIDDING, ContractStage.WAITING, ContractStage.PROPOSED)
WAIT = 0.75
"""Share of the time to the deadline that a call waits for elder auctions to be decided."""
AGAIN_S, LAST_S = 5.0, 80.0
"""First and last pause after which it is told again that a measure ended; each is twice as long."""


class Bidder(Configured, Capability):
    """Bids for goals, works on what it won, and answers for what it keeps true."""

    name = "bidder"

    def __init__(self) -> None:
        self.inventory = VnfInventory()
        self.contracts = Contracts()
        self.dependants: dict[Predicate, dict[AgentId, ConstrainedGoal]] = {}
        """The agents that rely on what is kept true here, and the goal that each auctioned."""
        self.tenders: dict[type[Predicate], Tender] = {}
        """By kind of goal, where more is asked and bid than of any goal."""
        self.refused: Callable[[AgentId, str, str], None] = lambda *_: None
        """Called with an agent, what it asked for without a right to it, and why it has none."""
        self.asked: Callable[[Agent, Message], bool] = lambda *_: False
        """Called with a call of another agent; whether this one has auctioned the same before."""
        self.paused = False
        """Whether an operator wants it to bid for nothing; only one who resumes it ends that."""
        self.spared: dict[tuple[str, str], float] = {}
        """When the log told last that (entry of the allow list, target) spared attackers."""
        self.signed: Callable[[Agent, Contract], SignedReport | None] = lambda *_: None
        """Returns what this agent stands by of the facts of a contract that it has fulfilled."""

    @starts
    def begin(self, me: Agent) -> None:
        """Start to look after contracts whose initiator fell silent."""
        me.call_at(me.now + self.settings.probe_s, partial(self._look_after, me))

    @drains
    def drain(self, me: Agent) -> None:
        """Withdraw what was proposed, and have what is being worked on done by others."""
        for contract in self.contracts.at(*UNDECIDED):
            self._withdraw(me, contract)
        for contract in self.contracts.working():
            self.abandon(me, contract, DRAINING)

    # -- the conversation -----------------------------------------------------------

    @hears(CallForProposals)
    def heard_call(self, me: Agent, message: Message) -> None:
        """Evaluate a call, hold what the bids need, propose; or refuse with the reason."""
        asked = self.asked(me, message)  # says so before the answer, which may end the auction
        known = self.contracts.get(message.conversation)
        if known is not None:
            self._repeat(me, known)
            return
        call = message.content_as(CallForProposals)
        contract = self._open(me, message, call)
        if me.draining:
            self._refuse(me, contract, DRAINING)
        elif self.paused:  # one that is resumed shows in no view: ask again soon
            self._refuse(me, contract, PAUSED, transient=True)
        elif asked:
            self._refuse(me, contract, ASKED, transient=True)
        else:
            self._evaluate(me, contract)

    @hears(Award)
    def heard_award(self, me: Agent, message: Message) -> None:
        """Begin to work; answer a repeated award with how far the work is."""
        award = message.content_as(Award)
        contract = self.contracts.get(message.conversation)
        if contract is None:  # forgotten, or won before a restart: try all the same
            contract = self._open(me, message, award.cfp)
            contract.stage = ContractStage.OVER
        elif self._foreign(contract, message):
            return
        contract.heard = me.now
        if not self._proposed(me, contract, award.bid):
            self.refused(message.sender, message.performative.value, f"{award.bid.vnf}: no bid")
        elif contract.stage is ContractStage.PROPOSED and not contract.evicts:
            self._work(me, contract, award)
        elif contract.stage is ContractStage.PROPOSED:
            contract.stage = ContractStage.BIDDING
            self._make_room(me, contract, award)
        elif contract.stage in (ContractStage.OVER, ContractStage.REFUSED) and me.draining:
            self._reply(me, contract, Performative.FAILURE, Verdict(DRAINING))
        elif contract.stage in (ContractStage.OVER, ContractStage.REFUSED):
            self.contracts.add(contract)
            contract.stage = ContractStage.BIDDING
            self._hold_late(me, contract, award)
        elif contract.stage is ContractStage.WORKING:
            runs = self.inventory.at_work(contract.conversation) is not None
            self._reply(me, contract, Performative.AGREE, Verdict(running=runs))
        else:
            self._repeat(me, contract)

    @hears(Verdict)
    def heard_verdict(self, me: Agent, message: Message) -> None:
        """Stop: the proposal was rejected, or the work is cancelled."""
        contract = self.contracts.get(message.conversation)
        content = message.content
        stops = message.performative in (Performative.REJECT, Performative.CANCEL)
        if contract is None or not stops or self._foreign(contract, message):
            return
        if message.performative is Performative.REJECT:
            self._withdraw(me, contract)
        elif isinstance(content, Verdict):
            asked = self.dependants.get(wanted := contract.call.goal.goal.predicate, {})
            if type(wanted).ends_with_asker and asked.get(message.sender) is contract.call.goal:
                del asked[message.sender]  # it was away when this was done
            self.abandon(me, contract, content.reason or "cancelled")

    def _proposed(self, me: Agent, contract: Contract, bid: Bid) -> bool:
        """Whether this agent made a bid, or may have, where it knows no more.

        What is to be paid, and for what terms, its tender judges.
        """
        if contract.stage is ContractStage.PROPOSED:
            return any(replace(bid, terms=each.terms) == each for each in contract.bids)
        able = {each.name for each in me.library.achievers(contract.call.goal.goal)}
        return bid.vnf in able and bid.vnf in self.settings.catalogue

    def _foreign(self, contract: Contract, message: Message) -> bool:
        """Whether a message is from another agent than the contract is made with."""
        if message.sender == contract.initiator:
            return False
        reason = f"{contract.conversation} is an auction of {contract.initiator}"
        self.refused(message.sender, message.performative.value, reason)
        return True

    def _open(self, me: Agent, message: Message, call: CallForProposals) -> Contract:
        contract = Contract(message.conversation, message.sender, call, message.cause)
        # The auctioneer's clock may be far ahead of this agent's.
        contract.deadline = min(call.deadline, me.now + self.settings.deadline_s)
        self.contracts.add(contract)
        return contract

    @when(Gone)
    @when(Left)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> None:
        """Stop the work that a lost agent asked for: nobody waits for it any more."""
        for contract in self.contracts.working():
            if contract.initiator == gone.agent:
                self.abandon(me, contract, f"{gone.agent} is gone")

    @perceives(Forgot)
    def forgotten(self, me: Agent, percept: Forgot) -> None:  # noqa: ARG002  # says it all
        """Count an agent that forgot what it asked for as one that did not ask."""
        for effect, asked in self.dependants.items():
            if type(effect).ends_with_asker:
                asked.pop(percept.agent, None)

    # -- bidding --------------------------------------------------------------------

    def _evaluate(self, me: Agent, contract: Contract) -> None:
        """Bid, refuse, or wait until it is known what other proposals leave.

        An auction waits only for elder ones; where a younger one holds what it needs it is
        refused at once, and asked again by its auctioneer. So no two wait for each other.
        """
        open_proposals = self.contracts.holding()
        free = unheld = me.capability(Outlook).free
        evicting = [c for c in self.contracts.at(ContractStage.PROPOSED) if c.evicts]
        offered = {name for other in evicting for name in other.evicts}
        for other in open_proposals:
            unheld -= other.holds or NOTHING
            offered.update(bid.reuse for bid in other.bids if bid.reuse is not None)
        bids = self.offer(me, contract.call, unheld, offered)
        if not isinstance(bids, str):
            contract.bids, contract.seen = bids, me.capability(Outlook).view.along(bids[0].path)
            if bids[0].kept:
                self._propose_unheld(me, contract)
                return
            contract.stage = ContractStage.BIDDING
            self._hold(me, contract, partial(self._propose, me, contract), contract.bids)
        elif self._evict(me, contract, offered):
            self._propose_unheld(me, contract)
        elif evicting:
            self._refuse(me, contract, f"{bids} beside other proposals", transient=True)
        elif not open_proposals or isinstance(self.offer(me, contract.call, free), str):
            blind = me.pop is not None and free is NOTHING  # its PoP has not been heard of yet
            self._refuse(me, contract, bids, transient=blind)
        elif any(other.age > contract.age for other in open_proposals):
            self._refuse(me, contract, f"{bids} beside other proposals", transient=True)
        else:
            if contract.stage is ContractStage.WAITING:
                return
            contract.stage = ContractStage.WAITING
            wait_s = (contract.deadline - me.now) * WAIT
            me.call_at(me.now + wait_s, partial(self._waited, me, contract, bids))

    def _propose_unheld(self, me: Agent, contract: Contract) -> None:
        """Propose what needs no room, or room that is made on the award."""
        contract.stage = ContractStage.BIDDING
        self._propose(me, contract, Done())
        ttl = max(0.0, contract.deadline - me.now) + self.settings.grace_s
        me.call_at(me.now + ttl, partial(self._expire, me, contract))

    def _evict(self, me: Agent, contract: Contract, offered: set[InstanceId]) -> bool:
        """Bid with the room of idle instances, as few as will do; whether that is possible.

        They are stopped on the award. Nothing is held until then: an instance that is taken into
        use meanwhile stays, and the award fails.
        """
        if self.settings.persistent_from is None:
            return False
        held = (c.holds for c in self.contracts.holding() if c.holds)
        unheld = me.capability(Outlook).free - sum(held, NOTHING)
        names: list[InstanceId] = []
        for instance in self.inventory.idle(offered):
            names.append(instance.id)
            unheld += instance.vnfd.scaled(instance.units)
            bids = self.offer(me, contract.call, unheld, {*offered, *names})
            if not isinstance(bids, str) and not any(bid.reuse in names for bid in bids):
                contract.bids, contract.evicts = bids, tuple(names)
                contract.seen = me.capability(Outlook).view.along(bids[0].path)
                return True
        return False

    def _make_room(
        self, me: Agent, contract: Contract, award: Award, _: ActionOutcome | None = None
    ) -> None:
        """Stop the idle instances that were to give way, one by one; then hold and work."""
        idle = [i for i in self.inventory.idle() if i.id in contract.evicts]
        if idle:
            reason = f"gives way to {contract.call.goal.goal}"
            self.stop(me, idle[0], reason, partial(self._make_room, me, contract, award))
        else:
            contract.evicts = ()
            self._hold_late(me, contract, award)

    def stop(
        self,
        me: Agent,
        instance: VnfInstance,
        reason: str,
        then: Callable[[ActionOutcome], None] = lambda _: None,
    ) -> None:
        """End an instance; ``then`` is called once it is stopped."""
        me.changes += 1
        self.inventory.remove(instance.id)
        me.perform(Stop(instance.id, reason), then)
        if not self.inventory.runs(instance.vnfd.name):
            me.active.discard(instance.vnfd.name)

    def offer(
        self,
        me: Agent,
        call: CallForProposals,
        unheld: Resources,
        offered: Container[InstanceId] = (),
    ) -> tuple[Bid, ...] | str:
        """Return the bids for ``call``, best first, or the reason to refuse.

        Args:
            me: the bidding agent.
            call: what is wanted.
            unheld: resources that are neither allocated nor held for another proposal.
            offered: instances that another open proposal would use again.

        """
        if me.pop is None:
            return f"{me.name} has no PoP"
        if call.goal.goal.predicate.at_tap and call.goal.tap != me.pop:
            return f"only {call.goal.tap} can, where the traffic is"
        settings = self.settings
        if me.pop in settings.outside:
            return settings.outside[me.pop]
        if (about := getattr(call.goal.goal.predicate, "ip", "")) in settings.barred:
            return settings.barred[about]
        if short := self.shortfalls(call.goal)[0]:
            return short
        catalogue = settings.catalogue
        able = me.library.achievers(call.goal.goal)
        candidates = [catalogue[c.name] for c in able if c.name in catalogue]
        if not candidates:
            return "no function in the repository can achieve it"
        goal = call.goal
        keeper = self.inventory.holder(goal.goal.predicate)
        reusable: dict[str, Reusable] = {}
        if keeper is not None:  # what is in force already takes neither room nor bandwidth anew
            goal = replace(goal, traffic_mb_s=0.0)
            candidates = [catalogue[keeper.vnfd.name]]
            reusable[keeper.vnfd.name] = Reusable(keeper.id, keeper.units)
        for vnfd in candidates if len(self.inventory) and keeper is None else ():
            instance = self.inventory.available(vnfd, offered)
            if instance is not None and (instance.running or call.goal.traffic_mb_s <= 0):
                runs_in = 0.0 if instance.running else max(0.0, instance.due - me.now)
                reusable[vnfd.name] = Reusable(instance.id, instance.units, runs_in)
        bids = make_bids(
            me.capability(Outlook).view,
            me.pop,
            goal,
            tuple(catalogue.values()),
            candidates,
            unheld,
            reusable,
            settings.repository,
            settings.method,
            pricing=settings.pricing,
            bidder=me.name,
            terms=self.terms(call.goal.goal),
        )
        if isinstance(bids, str):
            return bids
        if keeper is not None:
            return tuple(replace(bid, units=keeper.units, kept=True) for bid in bids)
        # One hold has one path: alternatives over another path than the best are left out.
        return tuple(bid for bid in bids if bid.path == bids[0].path)

    def terms(self, goal: Goal) -> tuple[BidTerm, ...]:
        """Return all terms that bids for a goal may have."""
        tender = self.tenders.get(type(goal.predicate))
        return (
            self.settings.terms if tender is None else (*self.settings.terms, *tender.terms(goal))
        )

    def shortfalls(self, call: ConstrainedGoal) -> tuple[str, dict[str, float]]:
        """Return in what this agent falls short of a goal that has a tender, as that says it."""
        tender = self.tenders.get(type(call.goal.predicate))
        return ("", {}) if tender is None else tender.shortfalls(call)

    def _needs(self, bids: tuple[Bid, ...]) -> Resources:
        """Return what a hold must cover so that any one of ``bids`` can be accepted."""
        most = NOTHING
        for bid in bids:
            units = bid.units
            if bid.reuse is not None:
                instance = self.inventory.get(bid.reuse)
                units = max(0, units - instance.units) if instance is not None else 0
            most = most.most(self.settings.catalogue[bid.vnf].scaled(units))
        return most

    def _waited(self, me: Agent, contract: Contract, reason: str) -> None:
        if contract.stage is ContractStage.WAITING:
            self._refuse(me, contract, f"{reason} beside other proposals", transient=True)

    @perceives(SiteState)
    def _reconsider(self, me: Agent, _: SiteState | None = None) -> None:
        """Evaluate what waited, now that a hold or what is free has changed."""
        waiting = self.contracts.at(ContractStage.WAITING)
        for contract in sorted(waiting, key=lambda contract: contract.age):
            me.cause = contract.cause
            self._evaluate(me, contract)

    def _hold(
        self, me: Agent, contract: Contract, then: partial[None], proposed: tuple[Bid, ...] = ()
    ) -> None:
        """Hold what a contract's bids need; those that are ``proposed`` can be read by others."""
        resources = contract.holds = self._needs(contract.bids)
        traffic = contract.call.goal.traffic_mb_s
        path = contract.bids[0].path
        ttl = max(0.0, contract.deadline - me.now) + self.settings.grace_s
        hold = self.hold_id(me, contract)
        me.perform(Hold(hold, contract.conversation, resources, path, traffic, ttl, proposed), then)
        me.call_at(me.now + ttl, partial(self._expire, me, contract))

    def hold_id(self, me: Agent, contract: Contract) -> str:
        """Return the name of the hold behind a conversation's proposal."""
        return f"{me.name}.{me.incarnation}@{contract.conversation}"

    def _propose(self, me: Agent, contract: Contract, outcome: ActionOutcome) -> None:
        if contract.stage is not ContractStage.BIDDING:
            self._release(me, contract)
            return
        if not isinstance(outcome, Done):
            contract.holds = None
            reason = getattr(outcome, "reason", "nothing could be held")
            self._refuse(me, contract, reason, transient=True)
            return
        contract.stage = ContractStage.PROPOSED
        me.cause = contract.cause
        me.cause = contract.cause = me.record(
            "auction.bid",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            bids=[bid.row() for bid in contract.bids],
            **contract.seen,
        )
        contract.seen = {}
        self._reply(me, contract, Performative.PROPOSE, Proposal(contract.bids))

    def _refuse(
        self, me: Agent, contract: Contract, reason: str, *, transient: bool = False
    ) -> None:
        me.cause, call = contract.cause, contract.call.goal
        nearest = self.shortfalls(call)[1]
        me.cause = me.record(
            "auction.refused",
            auction=contract.conversation,
            goal=str(call.goal),
            reason=reason,
            **({"nearest": nearest} if nearest else {}),
        )
        self.contracts.end(contract, ContractStage.REFUSED)
        refusal = Refusal(reason, transient, nearest=nearest)
        self._reply(me, contract, Performative.REFUSE, refusal)

    # -- working --------------------------------------------------------------------

    def _work(self, me: Agent, contract: Contract, award: Award) -> None:
        contract.stage = ContractStage.WORKING
        contract.bid, contract.digest = award.bid, award.digest
        contract.cause = me.cause
        if award.cfp.context:  # with mandates, which the call was without
            contract.call = replace(contract.call, context=award.cfp.context)
        self.pursue(me, contract)

    def pursues(self, me: Agent, contract: Contract) -> bool:
        """Whether a plan works on a contract; not yet, where it is recalled from memory."""
        return self._goal(me, contract) is not None

    def pursue(self, me: Agent, contract: Contract) -> None:
        """Work on a contract: begin, or go on where a VNF is at work for it already."""
        if self.pursues(me, contract):
            return
        contract.heard = me.now
        fulfilled = want(ContractFulfilled(contract.conversation))
        goal = me.adopt(Adopt(fulfilled, contract=contract.conversation))
        goal.waiters.append(partial(self._ended, me, contract))

    def _hold_late(self, me: Agent, contract: Contract, award: Award) -> None:
        contract.bids = (award.bid,)
        self._hold(me, contract, partial(self._work_late, me, contract, award))

    def _work_late(
        self, me: Agent, contract: Contract, award: Award, outcome: ActionOutcome
    ) -> None:
        if contract.stage is not ContractStage.BIDDING:  # cancelled meanwhile
            self._release(me, contract)
            return
        if isinstance(outcome, Done):
            self._work(me, contract, award)
            return
        reason = getattr(outcome, "reason", "no longer possible")
        self.contracts.end(contract, ContractStage.OVER)
        self._reply(me, contract, Performative.FAILURE, Verdict(reason))

    def _ended(self, me: Agent, contract: Contract, end: GoalEnd) -> None:
        """Report how the work went; what is left of the hold is given back."""
        me.cause = end.event
        self._release(me, contract)
        # The belief has served its goal, which is over.
        me.beliefs.remove(ContractFulfilled(contract.conversation))
        if not end.achieved:
            self._fail(me, contract, end.reason, final=end.final)
        else:
            self._record_end(me, contract, fulfilled=True)
            wanted = contract.call.goal.goal.predicate
            # Of what others keep so, or what is so for a while, it would not hear the end.
            contract.facts = tuple(
                fact
                for fact in contract.facts
                if fact.predicate == wanted
                or fact.holder == me.name
                or (fact.holder is None and type(fact.predicate).travels)
            )
            for fact in contract.facts:
                if fact.holder == me.name and fact.value:
                    relying = self.dependants.setdefault(fact.predicate, {})
                    relying[contract.initiator] = contract.call.goal
            result = Result(contract.facts, self.signed(me, contract))
            self._reply(me, contract, Performative.INFORM, result)

    def _fail(self, me: Agent, contract: Contract, reason: str, *, final: bool = False) -> None:
        """Tell the initiator that the work has failed, so that it asks another bidder."""
        cause = me.cause
        self._record_end(me, contract, fulfilled=False, **({"reason": reason} if reason else {}))
        self._reply(me, contract, Performative.FAILURE, Verdict(reason, final))
        me.cause = cause  # other contracts may end for the same one

    def _record_end(self, me: Agent, contract: Contract, *, fulfilled: bool, **data: str) -> None:
        me.cause = me.record(
            "contract.ended",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            fulfilled=fulfilled,
            **data,
        )
        self.contracts.end(contract, ContractStage.DONE)

    def abandon(self, me: Agent, contract: Contract, reason: str) -> None:
        """Stop working on a contract, or give its proposal up."""
        if contract.stage is ContractStage.WORKING:
            goal = self._goal(me, contract)
            if goal is not None:
                me.end_goal(goal, GoalOutcome.DROPPED, reason)
            else:
                self.inventory.release(contract.conversation, me.now)
                self._fail(me, contract, reason)
        elif contract.stage is not ContractStage.DONE:
            self._release(me, contract)
            contract.reply = LastReply(Performative.FAILURE, Verdict(reason))  # to a late award
            self.contracts.end(contract, ContractStage.DONE)

    def _withdraw(self, me: Agent, contract: Contract) -> None:
        if contract.stage in UNDECIDED:
            self._release(me, contract)
            self.contracts.end(contract, ContractStage.OVER)

    def _goal(self, me: Agent, contract: Contract) -> GoalInstance | None:
        wanted = want(ContractFulfilled(contract.conversation))
        return next((g for g in me.open_goals() if g.goal == wanted), None)

    def _look_after(self, me: Agent) -> None:
        """Give up work whose initiator was not heard of for too long."""
        settings = self.settings
        silence = settings.probe_s * (settings.probes + 2)
        for contract in self.contracts.working():
            if me.now - contract.heard > silence:
                me.cause = contract.cause
                self.abandon(me, contract, f"{contract.initiator} is silent")
        me.call_at(me.now + settings.probe_s, partial(self._look_after, me))

    def _expire(self, me: Agent, contract: Contract) -> None:
        """The hold behind a proposal has run out at the infrastructure."""
        if contract.stage in (ContractStage.PROPOSED, ContractStage.BIDDING):
            self.contracts.end(contract, ContractStage.OVER)
            me.later(self._reconsider, me)

    def _release(self, me: Agent, contract: Contract) -> None:
        """Give back what is held for a proposal."""
        if contract.holds is not None:
            me.perform(Release(self.hold_id(me, contract)), lambda _: None)
            contract.holds = None
            me.later(self._reconsider, me)

    def _reply(
        self, me: Agent, contract: Contract, performative: Performative, content: Content
    ) -> None:
        if performative is not Performative.AGREE:
            contract.reply = LastReply(performative, content)
        me.tell(performative, contract.initiator, contract.conversation, content)

    def _repeat(self, me: Agent, contract: Contract) -> None:
        last = contract.reply
        if last is not None and contract.stage is not ContractStage.OVER:
            content = last.content
            if isinstance(content, Result):  # what it stands by now
                facts = tuple(_as_now(me, fact) for fact in content.facts)
                content = Result(facts, self.signed(me, contract))
            me.tell(last.performative, contract.initiator, contract.conversation, content)

    # -- what is kept true ------------------------------------------------------------

    def lost(self, me: Agent, effect: Predicate) -> None:
        """Tell those who rely on ``effect`` that it ended against the will of this agent."""
        self._tell_dependants(me, effect, Performative.FAILURE)

    @hears(Result)
    def relied_on_alone(self, me: Agent, message: Message) -> Steps:
        """Wait anew for a measure to be quiet: so far another held back what it would have."""
        result = message.content_as(Result)
        for fact in result.facts if message.conversation == NOTICE else ():
            quiet = want(Quiet(fact.predicate))
            if fact.value and fact.holder == me.name and me.open_goal(quiet) is not None:
                yield Drop(quiet, "from now on nobody else keeps it so")
                yield Adopt(quiet, afresh=True)

    @hears(UndoRequest)
    def heard_undo(self, me: Agent, message: Message) -> None:
        """Undo a measure of this agent, and say so, for an agent with a mandate only.

        That is the agent that asked for it, an agent that took its goals over, or the winner of
        an auction of theirs. What is not so here need not be undone: that is no secret.
        """
        request = message.content_as(UndoRequest)
        predicate = request.goal.predicate
        kept = me.beliefs.get(predicate)
        asked_for_it = message.sender in self.dependants.get(predicate, ())
        if kept and kept.value and not asked_for_it and request.mandate != kept.mandate:
            self.refused(message.sender, "undo", f"{predicate} is not kept for it")
            refusal = Verdict("it is kept for others", final=True)
            me.tell(Performative.FAILURE, message.sender, message.conversation, refusal)
            return

        def ended(end: GoalEnd) -> None:
            me.cause = end.event
            content: Content = Verdict(end.reason)
            performative = Performative.FAILURE
            if end.achieved:
                content, performative = Result((Fact(predicate, value=False),)), Performative.INFORM
            me.tell(performative, message.sender, message.conversation, content)

        me.adopt(Adopt(avert(predicate))).waiters.append(ended)

    @hears(Query)
    def heard_query(self, me: Agent, message: Message) -> None:
        """Tell which VNF instances run here (lifecycle: query)."""
        kept = tuple(map(str, me.beliefs.held_by(me.name)))
        inventory = Inventory(tuple(i.info() for i in self.inventory), kept)
        me.tell(Performative.INFORM, message.sender, message.conversation, inventory)

    @when(Predicate, value=False)
    @when(Predicate, value=None)
    def no_longer_so(self, me: Agent, predicate: Predicate) -> None:
        """Tell those who wanted a measure that it ended."""
        self._tell_dependants(me, predicate, Performative.INFORM)

    def _tell_dependants(self, me: Agent, effect: Predicate, performative: Performative) -> None:
        for agent in self.dependants.pop(effect, ()):
            self._tell_ended(me, effect, performative, agent, AGAIN_S)

    def _tell_ended(
        self, me: Agent, effect: Predicate, how: Performative, agent: AgentId, pause_s: float
    ) -> None:
        """Tell that a measure ended, and again: who missed it would rely on it for good."""

        def again() -> None:
            kept = self.inventory.holder(effect) is not None
            if not kept and agent not in self.dependants.get(effect, ()):
                self._tell_ended(me, effect, how, agent, 2 * pause_s)

        me.tell(how, agent, NOTICE, Result((Fact(effect, value=False),)))
        if agent != me.name and pause_s <= LAST_S:
            me.call_at(me.now + pause_s, again)

    # -- beyond a crash ---------------------------------------------------------------

    @remembers(BidderMemory)
    def remember(self, me: Agent) -> BidderMemory:  # noqa: ARG002  # all is its own
        """Return what runs here, which agents depend on it, and what was promised."""
        return BidderMemory(
            tuple(instance.memory() for instance in self.inventory),
            tuple(
                DependantMemory(effect, agent, goal)
                for effect, agents in self.dependants.items()
                for agent, goal in agents.items()
            ),
            self.contracts.won(),
            self.paused,
        )

    @recalls
    def recall(self, me: Agent, part: BidderMemory | None, shift: float) -> None:  # noqa: ARG002
        """Take up what is remembered; ``pursue`` goes on with work that is still wanted.

        VNFs that run are kept with their measures, as far as these are still in force. What had
        not come to run is stopped, and its contract fails at once, so that the work is passed on.
        """
        if part is None:
            return
        self.paused = part.paused
        for old in part.instances:
            self.inventory.add(VnfInstance.recalled(old))
        for relying in part.dependants:
            self.dependants.setdefault(relying.effect, {})[relying.agent] = relying.goal
        for won in part.contracts:
            contract = won.memory()
            self.contracts.add(contract)
            if contract.stage is ContractStage.DONE:
                self.contracts.end(contract, contract.stage)
        for instance in self.inventory:
            for measure in instance.temporary.values():
                me.perform(Lift(measure), lambda _: None)
            instance.temporary.clear()
            if instance.running:
                self._take_up(me, instance)
            else:
                self.inventory.remove(instance.id)
                me.perform(Stop(instance.id, RESTARTED), lambda _: None)
        for contract in self.contracts.working():
            contract.heard = me.now
            if self.inventory.at_work(contract.conversation) is None:
                self._fail(me, contract, f"{RESTARTED} before the VNF ran")

    def _take_up(self, me: Agent, instance: VnfInstance) -> None:
        me.active.add(instance.vnfd.name)
        for conversation in list(instance.jobs):
            contract = self.contracts.get(conversation)
            if contract is not None and contract.stage is ContractStage.DONE:
                del instance.jobs[conversation]
        for effect, measure in instance.measures.items():
            me.perform(ReadMeasure(measure), partial(_still_in_force, instance, effect, measure))


def _still_in_force(
    instance: VnfInstance, effect: Predicate, measure: str, outcome: ActionOutcome
) -> Steps | None:
    if isinstance(outcome, Failed) and instance.measures.get(effect) == measure:
        del instance.measures[effect]
        return (Believe(effect, value=False),)
    return None


def _as_now(me: Agent, fact: Fact) -> Fact:
    """Return what became of what an agent keeps so: it may have ended since."""
    ended = fact.holder == me.name and not me.beliefs.holds(fact.predicate)
    return replace(fact, value=fact.value and not ended)
