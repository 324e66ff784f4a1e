"""What other agents keep achieved for this one.

The winner of an auction keeps what it achieved, and is relied on until it says otherwise, is lost,
or no longer has it when asked. Then the goal is pursued anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from msgspec import Struct

from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import NOTICE
from phalanx.auction.outlook import Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.goals import GoalEnd, GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Believe, Forget, Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Predicate, avert, want
from phalanx.domain.messages import (
    Fact,
    Inventory,
    Message,
    Performative,
    Query,
    Result,
    UndoRequest,
)
from phalanx.domain.network import PopId

RELIED = "relied"
"""Conversation in which an agent asks whether what it relies on is still so."""
TWICE = "twice"
"""Conversation in which it asks whether others keep the same as well."""
HEARSAY, HEARSAY_S = "hearsay", 60.0
"""Conversation in which it asks about what others keep for others, and how often, in seconds."""
LATER = 5.0
"""Times the deadline of an auction, after which those are over that were open."""


class Delegated(Struct, frozen=True):
    """A goal that another agent achieved and keeps achieved."""

    effect: Predicate
    holder: AgentId
    goal: Goal
    priority: int
    queue: str | None
    traffic_mb_s: float
    tap: PopId
    mandate: str = ""
    """As in ``Fact``."""

    @property
    def adopt(self) -> Adopt:
        """Return how to pursue it anew."""
        return Adopt(
            self.goal,
            self.priority,
            queue=self.queue,
            traffic_mb_s=self.traffic_mb_s,
            tap=self.tap,
        )


class Delegations:
    """The goals that other agents keep achieved for one agent."""

    def __init__(self) -> None:
        self.by_effect: dict[Predicate, Delegated] = {}
        self._asked: set[AgentId] = set()
        """Peers whose answer is awaited, whether they keep as well what this agent relies on."""
        self._looks_at = -1e9
        """When they are asked next, in seconds."""

    def rely(self, goal: GoalInstance, fact: Fact) -> None:
        """Note which agent keeps ``goal`` achieved from now on."""
        if fact.holder is not None and fact.value and fact.predicate == goal.goal.predicate:
            self.by_effect[fact.predicate] = Delegated(
                fact.predicate,
                fact.holder,
                goal.goal,
                goal.priority,
                goal.queue,
                goal.traffic_now(),
                goal.tap,
                fact.mandate,
            )

    def relies_on_another(self, agent: AgentId, facts: Iterable[Fact]) -> bool:
        """Whether another one keeps for this agent what ``agent`` says it keeps."""
        known = (self.by_effect.get(fact.predicate) for fact in facts if fact.value)
        return any(relied is not None and relied.holder != agent for relied in known)

    def rely_anew(self, me: Agent, effect: Predicate) -> None:
        """Tell the holder of ``effect`` that no other agent keeps it true from now on."""
        belief = me.beliefs.get(effect)
        if belief is not None and belief.value and belief.holder is not None:
            alone = Result((Fact(effect, holder=belief.holder),))
            me.tell(Performative.INFORM, belief.holder, NOTICE, alone)

    def take_back(self, me: Agent, fact: Fact, holder: AgentId) -> bool:
        """Rely on ``holder`` again, which came back and keeps ``fact`` true as before.

        False if that is not wanted any more: another keeps it true now, or it was to end.
        """
        effect = fact.predicate
        belief = me.beliefs.get(effect)
        if belief is not None and (not belief.value or belief.holder not in (None, holder)):
            return False
        anew = me.open_goal(want(effect))
        if type(effect).ends_with_asker and belief is None and anew is None:
            return False
        me.do_step(Believe(effect, holder=holder, mandate=fact.mandate))
        if anew is not None:
            self.rely(anew, Fact(effect, True, holder, fact.mandate))
            me.end_goal(anew, GoalOutcome.ACHIEVED, f"{holder} is back and keeps it so")
        return True

    # -- what ended -------------------------------------------------------------------

    def lost(
        self, me: Agent, holder: AgentId, effects: Iterable[Predicate], *, anew: bool
    ) -> Steps:
        """Believe no more what ``holder`` kept achieved; ``anew`` has it made again.

        What this agent keeps true itself it knows: a late word of its own is about a measure that
        it has made again since.
        """
        for effect in list(effects):
            belief = me.beliefs.get(effect)
            if belief is None or not belief.value or belief.holder != holder:
                continue
            if holder == me.name and me.capability(Bidder).inventory.holder(effect) is not None:
                continue
            delegated = self.by_effect.pop(effect, None)
            yield Believe(effect, value=False)
            if delegated is not None and anew:
                yield delegated.adopt

    def holder_gone(self, me: Agent, holder: AgentId) -> Steps:
        """Forget what a lost agent kept true, and pursue anew what this one relied on."""
        for effect in me.beliefs.held_by(holder):
            delegated = self.by_effect.pop(effect, None)
            yield Forget(effect)
            if delegated is not None:
                yield delegated.adopt

    # -- what holders answer ----------------------------------------------------------

    def check(self, me: Agent, deadline_s: float) -> None:
        """Ask holders whether they still keep it so, after a time in which none could be heard.

        Once auctions of that time are over every peer is asked: one may have made the same for
        another, where the word of its auction was lost.

        Args:
            me: the agent that relies on them.
            deadline_s: how long its auctions wait for proposals.

        """
        self._ask(me)
        self._looks_at = me.now  # what was to be asked before was asked of nobody
        self.find_doubled(me, deadline_s)

    def find_doubled(self, me: Agent, deadline_s: float) -> None:
        """Ask every peer whether it keeps the same as well, once auctions open now are over."""
        if self._looks_at <= me.now:  # once at a time, however often it is called
            self._looks_at = me.now + LATER * deadline_s
            me.call_at(self._looks_at, partial(self._ask, me, TWICE))

    def _ask(self, me: Agent, about: str = RELIED) -> None:
        """Ask the holders of what this agent relies on, or about what is made twice all peers.

        Holders said so when it ended; this agent may have been cut off then.
        """
        holders = dict.fromkeys(each.holder for each in self.by_effect.values())
        if about == TWICE and holders:
            holders = dict.fromkeys(me.capability(Outlook).alive())
            self._asked = {*holders}
        holders.pop(me.name, None)
        for holder in holders:
            me.tell(Performative.QUERY, holder, about, Query())

    def ask_hearsay(self, me: Agent) -> None:
        """Ask what became of what others keep: no word goes to who heard of it, or inherits it."""
        for holder in dict.fromkeys(belief.holder for _, belief in me.beliefs):
            if holder not in (None, me.name):
                me.tell(Performative.QUERY, holder, HEARSAY, Query())
        me.call_at(me.now + HEARSAY_S, partial(self.ask_hearsay, me))

    def heard_inventory(self, me: Agent, message: Message, deadline_s: float) -> Steps:
        """Have made anew what a holder does not keep any more, and undone what is made twice."""
        inventory, sender = message.content_as(Inventory), message.sender
        if message.conversation in (RELIED, HEARSAY):
            kept = {goal for instance in inventory.instances for goal in instance.goals}
            kept.update(inventory.kept)
            anew = message.conversation == RELIED
            held = [e for e in me.beliefs.held_by(sender) if e in self.by_effect or not anew]
            yield from self.lost(me, sender, [e for e in held if str(e) not in kept], anew=anew)
        elif message.conversation == TWICE and sender in self._asked:
            self._asked.remove(sender)  # an answer that nobody asked for undoes nothing
            made = {effect for instance in inventory.instances for effect in instance.measures}
            instances = me.capability(Bidder).inventory
            for effect, relied in list(self.by_effect.items()):
                if relied.holder == sender and instances.holder(effect) is not None:
                    self._not_for_me(me, relied, deadline_s, made=str(effect) in made)
                elif str(effect) in made and relied.holder != sender:
                    undone = partial(self._undone, me, relied)
                    me.adopt(Adopt(avert(effect))).waiters.append(undone)

    def _not_for_me(self, me: Agent, relied: Delegated, deadline_s: float, *, made: bool) -> None:
        """Rely on no other agent for what this one has in force itself, for a third one."""
        if not made:
            del self.by_effect[relied.effect]
            return
        me.do_step(Believe(relied.effect, holder=me.name))
        undo = UndoRequest(avert(relied.effect), relied.mandate)
        me.tell(Performative.REQUEST, relied.holder, me.new_id("undo"), undo)
        self.find_doubled(me, deadline_s)

    def _undone(self, me: Agent, relied: Delegated, end: GoalEnd) -> None:
        """Rely on whoever keeps it so as well, now that it is in force there alone."""
        if end.achieved:
            me.adopt(relied.adopt)
