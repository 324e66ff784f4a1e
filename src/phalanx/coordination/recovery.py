"""Recovery: an agent that is back with its memory finds out what others do in its place.

While it was away it may have been taken for dead. Then its guardian pursues its goals, agents
that waited for its work asked the next best bidder, and agents that relied on its measures had
them made anew. So it asks before it goes on, and only one of the two goes on with each thing:

- A goal stays with the guardian that took it over, which is further with it by now; but if a
  VNF of the owner is at work for it, the owner goes on, since a new one would have to be deployed.
- A contract stays with the agent that the initiator waits for.
- A measure in force is taken back, and what was under way instead of it is given up; but where
  another one is in force already, this one is lifted.
"""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Gone, Missed, Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives, recalls, when
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Steps
from phalanx.coordination.failover import Failover, open_goals, own_goals
from phalanx.coordination.lifecycle import VnfLifecycle
from phalanx.coordination.measures import TIDY_UP
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import avert
from phalanx.domain.messages import Fact, Message, OpenGoal, Performative, Return, Welcome
from phalanx.domain.trust import Distrusted

ASK_S = 0.5
"""Pause before agents that have not answered are asked again."""
ASKED = 6
"""How often they are asked; then the agent goes on without their answer."""


class Recovery(Capability):
    """Asks the others when this agent returns, and answers when they do."""

    name = "recovery"

    def __init__(self) -> None:
        self._unheard: dict[AgentId, None] = {}
        """The agents whose answer is still to come, or never came."""
        self._turns = 0
        """How often they are asked yet."""
        self._waiting: list[GoalInstance] = []
        """What is not pursued before the answers are there."""

    @recalls
    def recall(self, me: Agent, part: None, shift: float) -> None:  # noqa: ARG002  # has no memory
        """Renew the leases, then ask all others; what they may have taken over has to wait."""
        self._waiting = [goal for goal in own_goals(me) if goal.instance is None]
        for goal in self._waiting:
            me.suspend(goal)
        me.capability(VnfLifecycle).renew_remembered(me, partial(self._ask_all, me))

    @perceives(Missed)
    def missed(self, me: Agent, percept: Missed) -> Steps | None:  # noqa: ARG002  # says it all
        """Ask as well after having been taken for dead without ever being away."""
        return self._ask_all(me)

    @when(Distrusted, None)
    def trusted_again(self, me: Agent, belief: Distrusted) -> Steps | None:
        """Ask after having been dealt with as one that is gone, if others rely on it."""
        relied_on = belief.agent == me.name and any(me.capability(Bidder).dependants.values())
        return self._ask_all(me) if relied_on else None

    @when(Gone, None)
    def others_back(self, me: Agent, gone: Gone) -> Steps | None:
        """Ask also whom this agent took for dead: both may have been cut off from each other."""
        return self._begin(me, [gone.agent])

    def _ask_all(self, me: Agent) -> Steps | None:
        return self._begin(me, [a for a in me.capability(Outlook).alive() if a != me.name])

    def _begin(self, me: Agent, agents: list[AgentId]) -> Steps | None:
        """Ask ``agents``, and whoever is alive and has not answered before, from now on."""
        alive = me.capability(Outlook).alive()
        self._unheard = dict.fromkeys([*agents, *(a for a in self._unheard if a in alive)])
        asks, self._turns = self._turns > 0, ASKED
        return None if asks else self._ask(me)

    def _ask(self, me: Agent) -> Steps | None:
        if not self._unheard or self._turns == 0:
            self._turns = 0
            return self._go_on(me)
        self._turns -= 1
        bidder: Bidder = me.capability(Bidder)
        goals = open_goals(me)
        for peer in self._unheard:
            contracts = (c.conversation for c in bidder.contracts.working() if c.initiator == peer)
            kept = ((e, me.beliefs.get(e)) for e, on in bidder.dependants.items() if peer in on)
            measures = (
                Fact(effect, holder=me.name, mandate=belief.mandate)
                for effect, belief in kept
                if belief is not None and belief.value and belief.holder == me.name
            )
            content = Return(goals, tuple(contracts), tuple(measures))
            me.tell(Performative.QUERY, peer, _conversation(me), content)
        me.call_at(me.now + ASK_S, partial(self._ask, me))
        return None

    @hears(Return)
    def heard_return(self, me: Agent, message: Message) -> Steps:
        """Tell an agent that is back what this one goes on with; the rest is left to it."""
        back = message.content_as(Return)
        auctioneer: Auctioneer = me.capability(Auctioneer)
        kept = tuple(g.id for g in back.goals if self._keeps(me, message.sender, g))
        self._drop_ended(me, message.sender, back.goals)
        given = (c for c in back.contracts if not auctioneer.works_for_me(c, message.sender))
        anew = tuple(
            fact.predicate
            for fact in back.measures
            if not auctioneer.delegations.take_back(me, fact, message.sender)
        )
        content = Welcome(kept, tuple(given), anew)
        me.tell(Performative.INFORM, message.sender, message.conversation, content)
        auctioneer.remind(me, message.sender)
        for measure in anew:
            auctioneer.delegations.rely_anew(me, measure)
        return ()

    def _keeps(self, me: Agent, owner: AgentId, goal: OpenGoal) -> bool:
        """Whether this agent goes on with what it took over from ``owner``; else it gives it up."""
        taken = me.capability(Failover).taken
        known = taken.get(goal.goal)
        if known is None or known.owner != owner:
            return False
        mine = me.open_goal(goal.goal)
        if goal.holder != owner and (mine is not None or me.beliefs.satisfies(goal.goal)):
            taken[goal.goal] = replace(known, settled=True)
            me.changes += 1
            return True
        del taken[goal.goal]
        me.changes += 1
        if mine is not None:
            me.end_goal(mine, GoalOutcome.DROPPED, f"{owner} is back and at work for it")
        return False

    def _drop_ended(self, me: Agent, owner: AgentId, goals: tuple[OpenGoal, ...]) -> None:
        """Give up what had ended before ``owner`` was lost, which its guardian could not know.

        What it left to this agent in an earlier life is none of that: it ended there alone.
        """
        still_open = {goal.goal for goal in goals}
        taken = me.capability(Failover).taken
        known = [t for t in taken.values() if t.owner == owner and not t.settled]
        for goal in [t.goal for t in known if t.goal not in still_open]:
            del taken[goal]
            me.changes += 1
            mine = me.open_goal(goal)
            if mine is not None:
                me.end_goal(mine, GoalOutcome.DROPPED, f"{owner} is back and had done with it")

    @hears(Welcome)
    def heard_welcome(self, me: Agent, message: Message) -> Steps | None:
        """Leave alone what the sender sees to; go on with the rest."""
        welcome = message.content_as(Welcome)
        if message.conversation != _conversation(me) or message.sender not in self._unheard:
            return None
        del self._unheard[message.sender]
        for goal in me.open_goals():
            if goal.id in welcome.goals:
                me.end_goal(goal, GoalOutcome.TAKEN_OVER, f"by {message.sender}")
        bidder: Bidder = me.capability(Bidder)
        for contract in bidder.contracts.working():
            if contract.initiator != message.sender:
                continue
            if contract.conversation in welcome.contracts:
                bidder.abandon(me, contract, f"{message.sender} waits for it no longer")
            else:
                bidder.pursue(me, contract)
        for measure in welcome.measures:
            if bidder.inventory.holder(measure) is not None:
                me.adopt(Adopt(avert(measure), TIDY_UP))
        return None if self._unheard else self._go_on(me)

    def _go_on(self, me: Agent) -> Steps | None:
        """Pursue what no other agent has taken over."""
        waiting, self._waiting = self._waiting, []
        for goal in waiting:
            if goal.end is None:
                me.go_on_with(goal)
        bidder: Bidder = me.capability(Bidder)
        for contract in bidder.contracts.working():
            if contract.initiator != me.name:
                bidder.pursue(me, contract)
        me.later(self._settle_own, me, me.cause)
        return None

    def _settle_own(self, me: Agent, cause: str, *, again: bool = True) -> None:
        """Now that goals are pursued again: work on what this agent waits for itself.

        A plan that is taken up so may wait for more of it. What is left over in the end, here
        and at others, was part of a plan that ended with the crash.
        """
        bidder: Bidder = me.capability(Bidder)
        auctioneer: Auctioneer = me.capability(Auctioneer)
        idle = [c for c in bidder.contracts.working() if not bidder.pursues(me, c)]
        wanted = [c for c in idle if c.conversation in auctioneer.auctions]
        for contract in wanted:
            bidder.pursue(me, contract)
        if wanted or again:  # plans are given the time to begin
            me.call_at(me.now + ASK_S, partial(self._settle_own, me, cause, again=bool(wanted)))
            return
        me.cause = cause
        for contract in idle:
            bidder.abandon(me, contract, "nobody waits for it")
        auctioneer.give_up_rest(me)


def _conversation(me: Agent) -> str:
    return f"{me.name}.{me.incarnation}/return"
