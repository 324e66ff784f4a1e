"""Drain: an agent that leaves in order hands over what it does, so that nothing lapses.

It takes no new work on, and the agents that asked for its unfinished work pass it on. Its own
goals go to its guardian, or to the next agent if that one is silent. A measure that it keeps in
force is replaced first and lifted then: an agent that relies on it finds another holder; its
guardian is asked where no other agent can be. What no agent takes over in time ends with it.
"""

from __future__ import annotations

from collections.abc import Container
from functools import partial

from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.delegations import Delegated
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, drains, hears
from phalanx.bdi.goals import GoalEnd, GoalOutcome
from phalanx.bdi.steps import Adopt, Believe, Steps
from phalanx.coordination.duties import Duties
from phalanx.coordination.failover import KEPT_IN_MIND, Failover, open_goal, own_goals
from phalanx.coordination.lifecycle import VnfLifecycle
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Predicate, avert, want
from phalanx.domain.messages import Fact, Handover, Message, OpenGoal, Performative, Taken

HANDOVER = "handover"
LOOK_S = 0.5
"""Pause between two looks of an agent that leaves at what is still with it."""
ANSWER_S = 1.0
"""How long it waits for the answer to a handover."""
SEARCH_S = 10.0
"""How long before it asks again an agent that is looking for another holder."""
TURNS = 2
"""How often it asks a silent agent before it asks the next."""
LEAVING = "its agent leaves"


class _Handover:
    """One thing that is still with an agent that leaves."""

    __slots__ = ("asked", "candidate", "due", "goal", "turns")

    def __init__(self, goal: OpenGoal) -> None:
        self.goal = goal
        self.candidate = 0
        """Index of the candidate that is being asked."""
        self.turns = 0
        self.asked: AgentId | None = None
        self.due = 0.0
        """When to ask (again)."""

    def next(self) -> None:
        """Turn to the next candidate."""
        self.candidate, self.turns, self.due = self.candidate + 1, 0, 0.0


class Drain(Configured, Capability):
    """Hands over before this agent leaves, and takes over from others that leave."""

    name = "drain"

    def __init__(self) -> None:
        self._open: dict[str, _Handover] = {}
        self._handed: list[str] = []
        self._leave_at = 0.0
        self._sought: set[tuple[AgentId, str]] = set()
        """Searches for another holder: the agent that leaves, and the id of the goal."""
        self._received: dict[str, None] = {}
        """Goals that were handed over to this agent, the latest."""

    # -- the agent that leaves -------------------------------------------------------------------

    @drains
    def drain(self, me: Agent) -> Steps | None:
        """Begin to hand over."""
        self._leave_at = me.now + self.settings.drain_s
        return self._look(me, me.cause)

    def _look(self, me: Agent, cause: str) -> Steps | None:
        """Hand over what is here, or leave."""
        me.cause = cause
        here = self._here(me)
        self._open = {name: self._open.get(name) or _Handover(goal) for name, goal in here.items()}
        if not here or me.now >= self._leave_at:
            return self._leave(me)
        self._hand_over(me)
        me.call_at(me.now + LOOK_S, partial(self._look, me, cause))
        return None

    def _here(self, me: Agent) -> dict[str, OpenGoal]:
        """Return what is still here to hand over: goals, measures, and those made for this agent.

        What ends with who asked for it ends here, if nobody else did.
        """
        here: dict[str, OpenGoal] = {}
        for goal in [*own_goals(me), *me.capability(Duties).pursued(me)]:
            if type(goal.goal.predicate).ends_with_asker:  # nobody else would take it back
                me.end_goal(goal, GoalOutcome.DROPPED, LEAVING)
                continue
            if goal.instance is None:
                me.suspend(goal)
            here[goal.id] = replace(open_goal(me, goal), holder=None)
        bidder: Bidder = me.capability(Bidder)
        delegated = me.capability(Auctioneer).delegations.by_effect
        for instance in bidder.inventory:
            for effect, measure in instance.measures.items():
                others = bidder.dependants.get(effect, {}).keys() - {me.name}
                if others or not type(effect).ends_with_asker:
                    here[measure] = self._held(me, measure, effect)
        for effect, other in delegated.items():
            if other.holder != me.name and not type(effect).ends_with_asker:
                name = f"{me.name}.{me.incarnation}/{effect}"
                if name not in self._handed:
                    mandate = "" if (held := me.beliefs.get(effect)) is None else held.mandate
                    wanted = other.goal, other.priority, other.tap, other.traffic_mb_s
                    here[name] = OpenGoal(name, *wanted, False, me.cause, other.holder, mandate)
        return here

    def _held(self, me: Agent, measure: str, effect: Predicate) -> OpenGoal:
        dependants = me.capability(Bidder).dependants.get(effect, {})
        asked_for = next(iter(dependants.values()), None)
        tap, traffic = ("", 0.0) if asked_for is None else (asked_for.tap, asked_for.traffic_mb_s)
        return OpenGoal(measure, want(effect), PROTECT, tap, traffic, False, me.cause, me.name)

    def _hand_over(self, me: Agent) -> None:
        """Ask for each item one candidate at a time; one message to each of them."""
        batches: dict[AgentId, list[OpenGoal]] = {}
        for item in self._open.values():
            if me.now < item.due:
                continue
            if item.turns >= TURNS:
                item.next()
            candidates = self._candidates(me, item.goal)
            if not candidates:
                continue
            if item.candidate >= len(candidates):  # all were asked: once more, after a while
                item.candidate, item.due = 0, me.now + SEARCH_S
                continue
            item.turns += 1
            item.asked, item.due = candidates[item.candidate], me.now + ANSWER_S
            batches.setdefault(item.asked, []).append(item.goal)
        for receiver, goals in batches.items():
            me.tell(Performative.REQUEST, receiver, HANDOVER, Handover(tuple(goals)))

    def _candidates(self, me: Agent, goal: OpenGoal) -> list[AgentId]:
        """Return the agents to ask: those that rely on it, then the guardian and the next."""
        ring = me.capability(Outlook).alive()
        place = ring.index(me.name) if me.name in ring else -1
        others = [*ring[place + 1 :], *ring[: max(place, 0)]]
        duty = self.settings.duties.get(goal.goal)
        if duty is not None and others:
            others.insert(0, duty.heir(others))
        if goal.holder != me.name:
            return others
        if goal.goal.predicate.at_tap:
            return []  # it can be kept nowhere else
        return [*self._relying(me, goal, others), *others[:1]]

    def _relying(self, me: Agent, goal: OpenGoal, others: Container[AgentId]) -> list[AgentId]:
        relying = me.capability(Bidder).dependants.get(goal.goal.predicate, {})
        return [agent for agent in relying if agent in others and agent != me.name]

    @hears(Taken)
    def heard_taken(self, me: Agent, message: Message) -> None:
        """Give up what the sender has seen to."""
        taken = message.content_as(Taken)
        for name in taken.goals:
            item = self._open.get(name)
            if item is None:
                continue
            relying = self._relying(me, item.goal, me.capability(Outlook).alive())
            if item.goal.holder == me.name and relying and message.sender not in relying:
                # Who relies on it was away when another was asked, and would not know the holder.
                item.candidate, item.turns, item.due = 0, 0, 0.0
                continue
            del self._open[name]
            self._handed.append(name)
            if item.goal.holder == me.name:
                me.adopt(Adopt(avert(item.goal.goal.predicate), PROTECT))
        for goal in me.open_goals():
            if goal.id in taken.goals:
                me.end_goal(goal, GoalOutcome.TAKEN_OVER, f"by {message.sender}")
        for name in (*taken.under_way, *taken.declined):
            item = self._open.get(name)
            if item is None or item.asked != message.sender:
                continue
            if name in taken.declined:
                item.next()
            else:
                item.turns, item.due = 0, me.now + SEARCH_S

    def _leave(self, me: Agent) -> Steps:
        """End what is left, and tell all others."""
        left = [str(item.goal.goal) for item in self._open.values()]
        yield from me.capability(VnfLifecycle).end_all(me, LEAVING)
        me.later(self._gone, me, me.cause, left)

    def _gone(self, me: Agent, cause: str, left: list[str]) -> None:
        for goal in me.open_goals():
            me.cause = cause
            me.end_goal(goal, GoalOutcome.DROPPED, LEAVING)
        me.cause = cause
        me.capability(Outlook).leave(me)
        me.record("agent.left", handed_over=len(self._handed), ended=left)
        me.drained = True

    # -- the agent that takes over ---------------------------------------------------------------

    @hears(Handover)
    def heard_handover(self, me: Agent, message: Message) -> Steps:
        """See to what an agent that leaves has handed over, and say so."""
        handover = message.content_as(Handover)
        done: list[str] = []
        under_way: list[str] = []
        declined: list[str] = []
        sender = message.sender
        for goal in handover.goals:
            if me.draining:
                declined.append(goal.id)
            elif goal.holder is None:
                if goal.id not in self._received:  # else the answer was lost
                    self._received[goal.id] = None
                    yield from self._take_over(me, sender, goal)
                done.append(goal.id)
            elif goal.holder != sender:
                yield from self._watch_over(me, goal)
                done.append(goal.id)
            elif self._holder(me, goal) not in (None, sender):
                done.append(goal.id)
            else:
                self._seek_holder(me, sender, goal)
                under_way.append(goal.id)
        while len(self._received) > KEPT_IN_MIND:
            del self._received[next(iter(self._received))]
        content = Taken(tuple(done), tuple(under_way), tuple(declined))
        me.tell(Performative.INFORM, sender, HANDOVER, content)

    def _take_over(self, me: Agent, sender: AgentId, goal: OpenGoal) -> Steps:
        duty = self.settings.duties.get(goal.goal)
        if duty is None:
            return me.capability(Failover).take_over(me, sender, (goal,))
        return me.capability(Duties).take_up(me, duty)

    def _holder(self, me: Agent, goal: OpenGoal) -> AgentId | None:
        belief = me.beliefs.get(goal.goal.predicate)
        return belief.holder if belief is not None and belief.value else None

    def _watch_over(self, me: Agent, goal: OpenGoal) -> Steps:
        """Rely on what a third agent keeps true, as the one that leaves did."""
        effect = goal.goal.predicate
        if me.beliefs.get(effect) is None:
            yield Believe(effect, holder=goal.holder, mandate=goal.mandate)
        holder = self._holder(me, goal)
        if holder not in (None, me.name):
            delegated = me.capability(Auctioneer).delegations.by_effect
            delegated.setdefault(effect, _delegated(goal, holder))
            me.changes += 1

    def _seek_holder(self, me: Agent, leaves: AgentId, goal: OpenGoal) -> None:
        """Have another agent keep true what the agent that leaves keeps so."""
        if (leaves, goal.id) in self._sought:
            return
        self._sought.add((leaves, goal.id))
        delegated = me.capability(Auctioneer).delegations.by_effect.get(goal.goal.predicate)
        adopt = (delegated or _delegated(goal, leaves)).adopt
        me.adopt(adopt).waiters.append(partial(self._found, me, leaves, goal))

    def _found(self, me: Agent, leaves: AgentId, goal: OpenGoal, end: GoalEnd) -> None:
        self._sought.discard((leaves, goal.id))
        me.cause = end.event
        fact = next((f for f in end.facts if f.predicate == goal.goal.predicate), None)
        holder = fact.holder if isinstance(fact, Fact) else self._holder(me, goal)
        found = end.achieved and holder not in (None, leaves)
        content = Taken((goal.id,)) if found else Taken(declined=(goal.id,))
        me.tell(Performative.INFORM, leaves, HANDOVER, content)


def _delegated(goal: OpenGoal, holder: AgentId) -> Delegated:
    return Delegated(
        goal.goal.predicate, holder, goal.goal, goal.priority, None, goal.traffic_mb_s, goal.tap
    )
