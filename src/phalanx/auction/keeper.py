"""What an agent keeps true with its VNFs, and those who rely on it."""

from __future__ import annotations

from phalanx.auction.estate import Estate
from phalanx.auction.participant import NOTICE
from phalanx.bdi import Adopt, Agent, Capability, Drop, GoalEnd, hears, when
from phalanx.bdi.steps import Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import ConstrainedGoal, Predicate, avert, want
from phalanx.domain.messages import (
    Content,
    Fact,
    Inventory,
    Message,
    Performative,
    Query,
    Result,
    UndoRequest,
    Verdict,
)
from phalanx.domain.predicates import Quiet


class Keeper(Capability):
    """Tells what runs here, undoes a measure when asked to, and says so when one ends."""

    def __init__(self) -> None:
        self.estate = Estate()
        self.customers: dict[Predicate, dict[AgentId, ConstrainedGoal]] = {}
        """Who relies on what is kept true here, and the goal that they had auctioned for it."""

    def keep(self, predicate: Predicate, customer: AgentId, goal: ConstrainedGoal) -> None:
        """Note that ``customer`` relies on ``predicate``: it is told when that ends."""
        self.customers.setdefault(predicate, {})[customer] = goal

    def lost(self, me: Agent, predicate: Predicate) -> None:
        """Tell those who rely on ``predicate`` that it ended against the will of this agent."""
        self._tell_customers(me, predicate, Performative.FAILURE)

    @hears(Result)
    def relied_on_alone(self, me: Agent, message: Message) -> Steps:
        """Wait anew for a measure to be quiet: so far another held back what it would have."""
        result = message.content
        assert isinstance(result, Result)
        for fact in result.facts if message.conversation == NOTICE else ():
            quiet = want(Quiet(fact.predicate))
            if fact.value and fact.holder == me.name and me.open_goal(quiet) is not None:
                yield Drop(quiet, "from now on nobody else keeps it so")
                yield Adopt(quiet, afresh=True)

    @hears(UndoRequest)
    def heard_undo(self, me: Agent, message: Message) -> None:
        """Undo a measure of this agent, and say so."""
        request = message.content
        assert isinstance(request, UndoRequest)
        predicate = request.goal.predicate

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
        inventory = Inventory(tuple(i.info() for i in self.estate))
        me.tell(Performative.INFORM, message.sender, message.conversation, inventory)

    @when(Predicate, value=False)
    @when(Predicate, value=None)
    def no_longer_so(self, me: Agent, predicate: Predicate) -> None:
        """Tell those who wanted a measure that it ended."""
        self._tell_customers(me, predicate, Performative.INFORM)

    def _tell_customers(self, me: Agent, predicate: Predicate, performative: Performative) -> None:
        facts = (Fact(predicate, value=False),)
        for customer in self.customers.pop(predicate, ()):
            me.tell(performative, customer, NOTICE, Result(facts))
