"""Duties: standing goals of the system, which outlive every agent.

A duty is declared in the plan that every agent follows, so any of them can take it up and no
agent has to be told of it. Who does follows from who lives: the home of the duty, else the living
agent with the highest hash of duty and name (rendezvous hashing). All who have the same view say
the same, and the loss of an agent moves its own duties only.

While views differ, as in a partition, two may see to one duty. An agent that pursues what is
another's asks that one, and gives it up once the other is at work for it: never before.
"""

from __future__ import annotations

from functools import partial

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.outlook import Gone, Left, Outlook
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, starts, when
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Duty, Goal
from phalanx.domain.messages import Message, Performative, Pursued

DUTY = "duty"
"""Conversation in which agents settle who sees to a duty."""


class Duties(Configured, Capability):
    """Takes up the duties that fall to this agent, and gives them back to whose they are."""

    name = "duties"

    @starts
    def begin(self, me: Agent) -> None:
        """Look at the duties regularly; first once the agent was given its own."""
        self._next(me)

    def pursued(self, me: Agent) -> list[GoalInstance]:
        """Return the duties that this agent sees to."""
        found = (me.open_goal(goal) for goal in self.settings.duties)
        return [goal for goal in found if goal is not None]

    def owner(self, me: Agent, duty: Duty) -> AgentId:
        """Return who sees to a duty, as far as this agent knows who lives.

        An agent that left is no peer of one that was started later, which never heard of it.
        """
        alive = me.capability(Outlook).alive()
        return duty.home if duty.home in alive else duty.heir(alive or (me.name,))

    def take_up(self, me: Agent, duty: Duty) -> Steps:
        """See to a duty from now on."""
        me.cause = me.record("duty.taken_up", goal=str(duty.goal), home=duty.home)
        yield Adopt(duty.goal, tap=duty.tap, standing=True)

    @when(Gone)
    @when(Left)
    def agent_gone(self, me: Agent, gone: Gone | Left) -> Steps:
        """Take up at once what falls to this agent now.

        While it is about to leave it may have handed a duty to the one that is gone, and has to
        find another for it.
        """
        for duty in self.settings.duties.values():
            if duty.home == gone.agent or me.draining:
                yield from self._fallen(me, duty)

    def _fallen(self, me: Agent, duty: Duty) -> Steps:
        if self.owner(me, duty) == me.name and me.open_goal(duty.goal) is None:
            yield from self.take_up(me, duty)

    def _next(self, me: Agent) -> None:
        me.call_at(me.now + self.settings.heartbeat_s, partial(self._look, me))

    def _look(self, me: Agent) -> Steps:
        """Take up what fell to this agent; ask the owners of what is another's."""
        self._next(me)
        if me.capability(Outlook).cut_off(me):  # who lives is not known
            return
        theirs: dict[AgentId, list[Goal]] = {}
        for goal, duty in self.settings.duties.items():
            owner = self.owner(me, duty)
            if owner == me.name:
                if not me.draining:
                    yield from self._fallen(me, duty)
            elif me.open_goal(goal) is not None:
                theirs.setdefault(owner, []).append(goal)
        for owner, goals in theirs.items():
            me.tell(Performative.QUERY, owner, DUTY, Pursued(tuple(goals)))

    @hears(Pursued)
    def heard_pursued(self, me: Agent, message: Message) -> Steps:
        """Answer which of them this agent is at work for; give up what its owner is at work for."""
        said = message.content_as(Pursued)
        known = (self.settings.duties.get(goal) for goal in said.goals)
        duties = [duty for duty in known if duty is not None]
        if message.performative is Performative.QUERY:
            ours = [duty for duty in duties if self.owner(me, duty) == me.name]
            for duty in ours if not me.draining else ():
                yield from self._fallen(me, duty)
            ready = tuple(duty.goal for duty in ours if self._at_work(me, duty.goal))
            if ready and not me.draining:
                me.tell(Performative.INFORM, message.sender, DUTY, Pursued(ready))
            return
        for duty in duties:
            mine = me.open_goal(duty.goal)
            if mine is not None and self.owner(me, duty) == message.sender:
                me.end_goal(mine, GoalOutcome.TAKEN_OVER, f"by {message.sender}, whose duty it is")

    def _at_work(self, me: Agent, goal: Goal) -> bool:
        """Whether a VNF runs for a duty, here or where its auction was won."""
        mine = me.open_goal(goal)
        if mine is None:
            return False
        if mine.instance is not None:
            return True
        auctions = me.capability(Auctioneer).auctions.values()
        return any(a.running and a.call.goal.goal == goal for a in auctions)
