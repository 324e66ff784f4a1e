"""What others do for an agent, and how it goes on with that after a crash."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.initiator import Initiator
from phalanx.auction.memory import AuctioneerMemory, AuctionMemory, DelegatedMemory
from phalanx.auction.outlook import Outlook
from phalanx.auction.participant import NOTICE
from phalanx.auction.recall import RESTARTED
from phalanx.auction.settings import Settings
from phalanx.bdi import Agent, Capability, GoalInstance, Outcome, hears
from phalanx.bdi.steps import Adopt, Believe, Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Predicate, want
from phalanx.domain.messages import (
    Fact,
    Inventory,
    Message,
    Performative,
    Query,
    Result,
    Verdict,
)

RELIED = "relied"
"""Conversation in which an agent asks whether what it relies on is still so."""


class Delegated(Struct, frozen=True):
    """A goal that another agent achieved and keeps achieved."""

    adopt: Adopt
    holder: AgentId

    def memory(self, effect: Predicate) -> DelegatedMemory:
        """Return what is to be remembered of it."""
        adopt = self.adopt
        traffic = adopt.traffic_mb_s
        return DelegatedMemory(
            effect,
            self.holder,
            adopt.goal,
            adopt.priority,
            adopt.scope,
            traffic() if callable(traffic) else traffic,
            adopt.tap,
        )

    @classmethod
    def recalled(cls, old: DelegatedMemory) -> Delegated:
        """Return the goal as it is remembered."""
        adopt = Adopt(
            old.goal,
            old.priority,
            scope=old.scope,
            traffic_mb_s=old.traffic_mb_s,
            tap=old.tap,
        )
        return cls(adopt, old.holder)


class Delegating(Capability):
    """Keeps account of the auctions that are open, and of what others keep achieved."""

    settings: Settings
    memory = AuctioneerMemory

    def __init__(self) -> None:
        self.auctions: dict[str, Initiator] = {}
        self.delegated: dict[Predicate, Delegated] = {}
        self.left: dict[Goal, AuctionMemory] = {}
        """Auctions of an earlier life whose winners are at work, and whose goals are not yet."""
        self.cancelled: dict[str, AgentId] = {}
        """Winners that were told of late that their work is not wanted any more."""

    def remember(self, me: Agent) -> AuctioneerMemory:  # noqa: ARG002  # all is its own
        """Return what others do for this agent, and the auctions that are open."""
        auctions = [a for c, auction in self.auctions.items() if (a := auction.memory(c))]
        decided = {auction.conversation for auction in auctions}
        return AuctioneerMemory(
            tuple(delegated.memory(effect) for effect, delegated in self.delegated.items()),
            (*auctions, *self.left.values()),
            tuple(c for c in self.auctions if c not in decided),
        )

    def recall(self, me: Agent, part: AuctioneerMemory | None, shift: float) -> None:
        """Go on with it: an auction whose winner is at work waits for its goal to be pursued.

        One without a winner is given up; its goal is auctioned anew.
        """
        if part is None:
            return
        for old in part.delegated:
            self.delegated[old.effect] = Delegated.recalled(old)
        for auction in part.auctions:
            since, deadline = auction.call.since + shift, auction.call.deadline + shift
            call = replace(auction.call, since=since, deadline=deadline)
            self.left[call.goal.goal] = replace(auction, call=call)
        for conversation in part.undecided:
            for peer in me.capability(Outlook).alive():
                me.tell(Performative.CANCEL, peer, conversation, Verdict(RESTARTED))

    def check_relied(self, me: Agent) -> None:
        """Ask all who keep something achieved for this agent whether they still do.

        They said so when it ended; this agent may have been cut off then.
        """
        holders = {d.holder: None for d in self.delegated.values() if d.holder != me.name}
        for holder in holders:
            me.tell(Performative.QUERY, holder, RELIED, Query())

    @hears(Inventory)
    def heard_inventory(self, me: Agent, message: Message) -> Steps:
        """Have made anew what a holder does not keep any more."""
        inventory = message.content
        assert isinstance(inventory, Inventory)
        if message.conversation == RELIED:
            kept = {goal for instance in inventory.instances for goal in instance.goals}
            yield from self.lost(
                me, message.sender, [p for p in self.delegated if str(p) not in kept]
            )

    def ended(self, me: Agent, holder: AgentId, effects: Iterable[Predicate]) -> Steps:
        """Believe no more what ``holder`` kept achieved so far."""
        for effect in self._of(me, holder, effects):
            self.delegated.pop(effect, None)
            yield Believe(effect, value=False)

    def lost(self, me: Agent, holder: AgentId, effects: Iterable[Predicate]) -> Steps:
        """Have made anew what ``holder`` kept achieved, and could not keep."""
        for effect in self._of(me, holder, effects):
            delegated = self.delegated.pop(effect, None)
            yield Believe(effect, value=False)
            if delegated is not None:
                yield delegated.adopt

    def _of(self, me: Agent, holder: AgentId, effects: Iterable[Predicate]) -> list[Predicate]:
        """Return those of ``effects`` of which ``holder`` is believed to keep them so."""
        beliefs = ((effect, me.beliefs.get(effect)) for effect in effects)
        return [e for e, belief in beliefs if belief and belief.value and belief.holder == holder]

    def give_up_rest(self, me: Agent) -> None:
        """Cancel the work of winners that no goal waits for any more: its plan has fallen."""
        left, self.left = self.left, {}
        for auction in left.values():
            self.cancelled[auction.conversation] = auction.winner.bidder
            self._cancel(me, auction.conversation, self.settings.patience)

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

    def take_back(self, me: Agent, effect: Predicate, holder: AgentId) -> bool:
        """Rely on ``holder`` again, which came back and keeps ``effect`` true as before.

        False if that is not wanted any more: another keeps it true now, or it was to end.
        """
        belief = me.beliefs.get(effect)
        if belief is not None and (not belief.value or belief.holder not in (None, holder)):
            return False
        me.do_step(Believe(effect, holder=holder))
        anew = me.open_goal(want(effect))
        if anew is not None:
            self.rely(anew, Fact(effect, True, holder))
            me.end_goal(anew, Outcome.ACHIEVED, f"{holder} is back and keeps it so")
        return True

    def rely_anew(self, me: Agent, effect: Predicate) -> None:
        """Tell who keeps ``effect`` true that it is the only one to do so from now on."""
        belief = me.beliefs.get(effect)
        if belief is not None and belief.value and belief.holder is not None:
            alone = Result((Fact(effect, holder=belief.holder),))
            me.tell(Performative.INFORM, belief.holder, NOTICE, alone)

    def rely(self, goal: GoalInstance, fact: Fact) -> None:
        """Note who keeps ``goal`` achieved from now on."""
        if fact.holder is not None and fact.value and fact.predicate == goal.goal.predicate:
            adopt = Adopt(
                goal.goal,
                priority=goal.priority,
                scope=goal.scope,
                traffic_mb_s=goal.traffic_now(),
                tap=goal.tap,
            )
            self.delegated[fact.predicate] = Delegated(adopt, fact.holder)
