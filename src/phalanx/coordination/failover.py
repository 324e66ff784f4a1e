"""Failover: each agent protects the next, as the shields of a phalanx do.

An agent tells the next living one (its guardian, in the order of names) that it is alive and
which goals it pursues. When it falls silent the guardian tells all others, and takes its
open goals over. Duties need no guardian: every agent knows them (``Duties``).
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial

from msgspec import Struct

from phalanx.auction.outlook import Connected, Outlook, known_since
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives, recalls, remembers, starts, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Steps
from phalanx.coordination.duties import Duties
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Mode
from phalanx.domain.messages import Heartbeat, Message, OpenGoal, Performative
from phalanx.domain.trust import Distrusted

HEARTBEAT = "heartbeat"
KEPT_IN_MIND = 512
"""Goals that were taken over and are still known as such; the eldest are forgotten first."""


class PeerMemory(Struct, frozen=True):
    """What a guardian remembers of the agent that it protects."""

    pop: AgentId
    incarnation: int
    goals: tuple[OpenGoal, ...]
    gone: bool


class TakenMemory(Struct, frozen=True):
    """A goal that was taken over."""

    goal: Goal
    owner: AgentId
    settled: bool = False
    """Whether the owner came back and left it to this agent."""


class FailoverMemory(Struct, frozen=True):
    """The protected peers, and what was taken over."""

    protected: tuple[PeerMemory, ...] = ()
    taken: tuple[TakenMemory, ...] = ()


class _ProtectedPeer:
    """What a guardian knows of the agent that it protects."""

    __slots__ = ("goals", "gone", "heard", "incarnation")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.incarnation = 0
        self.goals: tuple[OpenGoal, ...] = ()
        self.gone = False
        """Whether it was found dead, and not heard of since."""


def own_goals(me: Agent) -> list[GoalInstance]:
    """Return the agent's own goals that others can achieve as well, without its duties."""
    if Duties.name not in me.capabilities:
        return []  # a loop of a slice: it leaves no goals to a guardian
    duties = me.capability(Duties).settings.duties
    return [
        g
        for g in me.open_goals()
        if g.contract is None
        and not g.child
        and g.goal not in duties
        and g.goal.mode is not Mode.AVERT
        and me.library.achievers(g.goal)
    ]


def open_goal(me: Agent, goal: GoalInstance) -> OpenGoal:
    """Return ``goal`` as it travels; this agent holds it if a VNF of its own is at work for it."""
    return OpenGoal(
        goal.id,
        goal.goal,
        goal.priority,
        goal.tap,
        goal.traffic_now(),
        goal.standing,
        goal.cause,
        None if goal.instance is None else me.name,
    )


def open_goals(me: Agent) -> tuple[OpenGoal, ...]:
    """Return what would have to be taken over from the agent, as it travels."""
    return tuple(open_goal(me, goal) for goal in own_goals(me))


class Failover(Configured, Capability):
    """Watches over one neighbour, is watched over by another, and takes goals over."""

    name = "failover"

    def __init__(self) -> None:
        self.taken: dict[Goal, TakenMemory] = {}
        """Goals that this agent took over, and their former owners."""
        self._protected: dict[AgentId, _ProtectedPeer] = {}
        self._watched: AgentId | None = None
        """The one that tells this agent that it is alive, as far as this agent knows."""
        self._beaten = 0.0
        """When this agent last looked."""

    @starts
    def begin(self, me: Agent) -> None:
        """Tell the guardian at once, with the goals that the agent is given now; then regularly."""
        self._beaten = me.now
        me.call_at(me.now, partial(self._beat, me))

    def take_over(self, me: Agent, owner: AgentId, goals: tuple[OpenGoal, ...]) -> Steps:
        """Pursue from now on what ``owner`` pursued."""
        for taken in goals:
            self.taken.pop(taken.goal, None)
            self.taken[taken.goal] = TakenMemory(taken.goal, owner)
            if len(self.taken) > KEPT_IN_MIND:
                del self.taken[next(iter(self.taken))]
            me.changes += 1
            me.cause = me.record("goal.taken_over", goal=str(taken.goal), instance_id=taken.id)
            yield Adopt(
                taken.goal,
                taken.priority,
                traffic_mb_s=taken.traffic_mb_s,
                tap=taken.tap,
                standing=taken.standing,
            )

    def _beat(self, me: Agent) -> Steps | None:
        if me.now - self._beaten > self.settings.silence_s:
            self._listen_anew(me)  # it stood still: what others said meanwhile is still unread
        self._beaten = me.now
        ring = me.capability(Outlook).alive()
        steps: Steps | None = None
        place = bisect_left(ring, me.name)
        if len(ring) > 1 and ring[place : place + 1] == (me.name,):
            heartbeat = Heartbeat(me.incarnation, open_goals(me), known_since(me))
            me.tell(Performative.INFORM, ring[(place + 1) % len(ring)], HEARTBEAT, heartbeat)
            steps = self._watch(me, ring[place - 1])
        me.call_at(me.now + self.settings.heartbeat_s, partial(self._beat, me))
        return steps

    @when(Distrusted, None)
    def trusted_again(self, me: Agent, belief: Distrusted) -> None:
        """Judge no agent by its silence while nobody spoke to this one."""
        if belief.agent == me.name:
            self._listen_anew(me)

    @when(Distrusted)
    def distrusted(self, me: Agent, belief: Distrusted) -> Steps | None:
        """Take over at once what a protected agent pursued that nobody trusts any more."""
        peer = self._protected.pop(belief.agent, None)
        if peer is None or peer.gone or me.draining:
            return None
        return self.take_over(me, belief.agent, peer.goals)

    @perceives(Connected)
    def connection_changed(self, me: Agent, percept: Connected) -> None:
        """Judge no agent by a silence in which no agent could be heard."""
        if percept.up:
            self._listen_anew(me)

    def _listen_anew(self, me: Agent) -> None:
        for peer in self._protected.values():
            peer.heard = me.now

    def _watch(self, me: Agent, pop: AgentId) -> Steps | None:
        peer = self._protected.get(pop)
        if peer is None:
            self._watched, self._protected[pop] = pop, _ProtectedPeer(me.now)
            me.changes += 1
            return None
        if peer.gone:
            self._returned(me, pop, peer)
        if pop != self._watched:  # it told another until now
            self._watched, peer.heard = pop, me.now
        outlook: Outlook = me.capability(Outlook)
        if outlook.cut_off(me) or me.now - peer.heard <= self.settings.silence_s:
            return None
        goals, peer.goals, peer.gone = peer.goals, (), True
        me.cause = me.record("agent.gone", pop=pop)
        outlook.declare_dead(me, pop)
        return self.take_over(me, pop, goals)

    def _returned(self, me: Agent, pop: AgentId, peer: _ProtectedPeer) -> None:
        me.cause = me.record("agent.returned", pop=pop)
        peer.gone, peer.heard = False, me.now

    @hears(Heartbeat)
    def heard_heartbeat(self, me: Agent, message: Message) -> Steps | None:
        """Note that an agent is alive; one that came back may have forgotten what it pursued."""
        beat = message.content_as(Heartbeat)
        me.capability(Outlook).sign_of_life(me, message.sender)
        peer = self._protected.get(message.sender)
        if peer is None:
            peer = self._protected[message.sender] = _ProtectedPeer(me.now)
        if beat.incarnation < peer.incarnation:
            return None
        forgotten: tuple[OpenGoal, ...] = ()
        if peer.incarnation < (beat.remembers or beat.incarnation):
            kept = {g.goal for g in beat.goals}
            forgotten = tuple(g for g in peer.goals if g.goal not in kept)
            if peer.incarnation:
                self._returned(me, message.sender, peer)
        elif peer.gone and beat.incarnation > peer.incarnation:
            self._returned(me, message.sender, peer)
        if (peer.incarnation, peer.goals) != (beat.incarnation, beat.goals):
            me.changes += 1
        peer.incarnation, peer.heard, peer.goals = beat.incarnation, me.now, beat.goals
        return self.take_over(me, message.sender, forgotten)

    @remembers(FailoverMemory)
    def remember(self, me: Agent) -> FailoverMemory:  # noqa: ARG002  # all is its own
        """Return the protected peers, and what was taken over."""
        return FailoverMemory(
            tuple(
                PeerMemory(pop, peer.incarnation, peer.goals, peer.gone)
                for pop, peer in self._protected.items()
            ),
            tuple(self.taken.values()),
        )

    @recalls
    def recall(self, me: Agent, part: FailoverMemory | None, shift: float) -> None:  # noqa: ARG002
        """Go on after a crash; the protected peers count as heard of now."""
        if part is None:
            return
        for old in part.protected:
            peer = self._protected[old.pop] = _ProtectedPeer(me.now)
            peer.incarnation, peer.goals, peer.gone = old.incarnation, old.goals, old.gone
        self.taken = {old.goal: old for old in part.taken}
