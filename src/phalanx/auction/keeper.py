"""What an agent keeps true with its VNFs, and those who rely on it."""

from __future__ import annotations

from phalanx.auction.estate import Estate
from phalanx.auction.participant import NOTICE
from phalanx.bdi import Adopt, Agent, Capability, GoalEnd, hears, when
from phalanx.domain.goals import ConstrainedGoal, Predicate, avert
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
from phalanx.domain.network import PopId


class Keeper(Capability):
    """Tells what runs here, undoes a measure when asked to, and says so when one ends."""

    def __init__(self) -> None:
        self.estate = Estate()
        self.customers: dict[Predicate, dict[PopId, ConstrainedGoal]] = {}
        """Who relies on what is kept true here, and the goal that they had auctioned for it."""

    def keep(self, predicate: Predicate, customer: PopId, goal: ConstrainedGoal) -> None:
        """Note that ``customer`` relies on ``predicate``: it is told when that ends."""
        self.customers.setdefault(predicate, {})[customer] = goal

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
        customers = self.customers.pop(predicate, None)
        if customers:
            facts = (Fact(predicate, value=False),)
            for customer in customers:
                me.tell(Performative.INFORM, customer, NOTICE, Result(facts))
