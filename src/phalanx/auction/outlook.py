"""The outlook: an agent's own view of the network, spread over the bus and allowed to be old.

Each agent tells the others when its PoP changes. Lost news is healed by comparing
fingerprints with one peer after the other (anti-entropy).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.settings import Configured
from phalanx.auction.view import NetworkView
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives, recalls, remembers, starts, when
from phalanx.bdi.steps import Believe, Forget, Perceive, Step, Steps
from phalanx.domain.actions import SiteState
from phalanx.domain.agents import MOST_STAMP, AgentId, AgentState
from phalanx.domain.goals import Predicate
from phalanx.domain.messages import Advertisement, Digest, Message, Performative
from phalanx.domain.network import PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.trust import Distrusted, Scored

GOSSIP = "gossip"
ANSWER = "gossip/answer"
"""What is said for having been asked, and answered by no further question: else two that cannot
tell of themselves would ask each other without end."""


class Gone(Predicate, frozen=True):
    """The agent is not alive."""

    agent: AgentId


class Left(Predicate, frozen=True):
    """The agent has left in order."""

    agent: AgentId


class Missed(Struct, frozen=True):
    """Percept: others took this agent for dead; what it did may be done by them now."""


class Forgot(Struct, frozen=True):
    """Percept: an agent is back without its memory."""

    agent: AgentId


class Connected(Struct, frozen=True):
    """Percept: whether this agent can speak with the others, as far as its shell knows."""

    up: bool


class Assessment(Struct, frozen=True):
    """Percept: what this agent found out about an agent or a PoP, for the terms of bids."""

    subject: AgentId | PopId
    properties: dict[str, float]
    """By name, such as ``trust``."""


class OutlookMemory(Struct, frozen=True):
    """Of the view, only what changes beliefs; the rest is heard again."""

    states: tuple[AgentState, ...] = ()
    """Of the other agents, without the resources and links of their PoPs."""
    peers: tuple[AgentId, ...] = ()
    """The agents that may be asked for proposals: a registry that cannot be read at the start
    says nothing."""


def known_since(me: Agent) -> int:
    """Return what an agent tells others of its memory (``AgentState.remembers``)."""
    return me.remembers if me.remembers != me.incarnation else 0


class Outlook(Configured, Capability):
    """Keeps the view, tells of the own PoP, and answers what is free here."""

    name = "outlook"

    def __init__(self) -> None:
        self.view = NetworkView.EMPTY
        self.free: Resources = NOTHING
        self._connected = True
        self._turn = 0
        self._distrusted: frozenset[AgentId] = frozenset()

    @starts
    def begin(self, me: Agent) -> None:
        """Start the anti-entropy rounds, spread in time by the agent's place among its peers."""
        peers = self.settings.peers
        self._turn = peers.index(me.name) if me.name in peers else 0
        offset = self.settings.gossip_s * (self._turn + 1) / (len(peers) + 1)
        me.call_at(me.now + offset, lambda: self._gossip(me))
        if me.pop is None:  # no percept of a PoP will ever make this agent known
            self._publish(me, AgentState(me.name, None, *self._next(me), remembers=known_since(me)))

    def alive(self) -> tuple[AgentId, ...]:
        """Return the peers that can be dealt with, sorted: neither believed dead nor distrusted."""
        peers, out = self.settings.peers, self.out
        return tuple(peer for peer in peers if peer not in out) if out else peers

    def guardian(self, agent: AgentId) -> AgentId | None:
        """Return the next of the others in the order of names that can be dealt with, if any."""
        others = [peer for peer in self.alive() if peer != agent]
        return min((peer for peer in others if peer > agent), default=min(others, default=None))

    def cut_off(self, me: Agent) -> bool:
        """Whether no other agent speaks to this one: then their silence says nothing about them."""
        return not self._connected or me.name in self._distrusted

    @property
    def out(self) -> frozenset[AgentId]:
        """The agents that cannot be dealt with: believed dead, or distrusted."""
        dead, distrusted = self.view.dead, self._distrusted
        return dead | distrusted if distrusted else dead

    @when(Distrusted)
    def distrusted(self, me: Agent, belief: Distrusted) -> Steps:
        """Deal with an agent as with one that is gone."""
        self._distrusted |= {belief.agent}
        if belief.agent != me.name:
            yield Believe(Gone(belief.agent))

    @when(Distrusted, None)
    def trusted_again(self, me: Agent, belief: Distrusted) -> Steps:
        """Deal with an agent again."""
        self._distrusted -= {belief.agent}
        if belief.agent == me.name:
            self._catch_up(me)
        elif belief.agent not in self.view.dead:
            yield Forget(Gone(belief.agent))

    @perceives(Connected)
    def connection_changed(self, me: Agent, percept: Connected) -> None:
        """Note whether this agent is cut off; afterwards compare at once what was missed."""
        self._connected = percept.up
        if percept.up:
            self._catch_up(me)

    @perceives(Assessment)
    def assessed(self, me: Agent, percept: Assessment) -> None:  # noqa: ARG002  # says it all
        """Note what was found out about an agent or a PoP."""
        self.view = self.view.described(percept.subject, percept.properties)

    @perceives(Scored)
    def scored(self, me: Agent, percept: Scored) -> None:  # noqa: ARG002  # says it all
        """Note how far agents are to be trusted, as a term of their bids."""
        for agent, score in percept.scores.items():
            self.view = self.view.described(agent, {"trust": score})

    @perceives(SiteState)
    def site_changed(self, me: Agent, percept: SiteState) -> None:
        """Note the own PoP's state and tell the others if it is news."""
        self.free = percept.free
        mine = self.view.get(me.name)
        if mine is not None and mine.incarnation >= me.incarnation:
            known = (mine.total, mine.free, mine.links, mine.images, mine.alive)
            if known == (percept.total, percept.free, percept.links, percept.images, True):
                return
        self._publish(
            me,
            AgentState(
                me.name,
                me.pop,
                *self._next(me),
                percept.total,
                percept.free,
                percept.links,
                remembers=known_since(me),
                images=percept.images,
            ),
        )

    @hears(Advertisement)
    def heard_of(self, me: Agent, message: Message) -> Steps | None:
        """Take in what others tell; contradict what they say of this agent."""
        assert isinstance(message.content, Advertisement)
        news: list[AgentState] = []
        own: AgentState | None = None
        for state in message.content.states:
            if state.agent == me.name:
                own = state
            else:
                news.append(state)
        if own is not None:
            self._contradict(me, message.sender, own)
        if message.conversation != ANSWER:
            told = own is not None and not own.alive
            self.sign_of_life(me, message.sender, ANSWER if told else GOSSIP)
        before, self.view = self.view, self.view.apply_all(news)
        if self.view is before:
            return None
        changed: list[Step] = []
        for agent in dict.fromkeys(state.agent for state in news):
            old, new = before.get(agent), self.view.get(agent)
            if old is not None and new is not None:
                if old.incarnation != new.incarnation:
                    me.changes += 1
                changed += self._news_of(old, new)
        return changed

    def _contradict(self, me: Agent, sender: AgentId, state: AgentState) -> None:
        """Say anew how this agent is, if another says what it did not say itself.

        The answer is later than all that was said, or each would be answered by the same again.
        """
        mine = self.view.get(me.name)
        if mine is None or not mine.alive:
            return
        if self.view.apply(state) is self.view:
            if not state.alive:  # of an earlier life, or before the sender heard of this agent
                me.tell(Performative.INFORM, sender, GOSSIP, Advertisement((mine,)))
            return
        incarnation, version = max(state.stamp, mine.stamp)
        if incarnation > mine.incarnation:  # so others see if it remembers nothing of that life
            incarnation, version = incarnation + 1, 0
        if max(incarnation, version) >= MOST_STAMP:
            return  # nothing is later
        self._publish(me, replace(mine, incarnation=incarnation, version=version + 1))
        if not state.alive and state.incarnation >= me.incarnation:
            me.do_step(Perceive(Missed()))

    def sign_of_life(self, me: Agent, sender: AgentId, conversation: str = GOSSIP) -> None:
        """Tell an agent that is believed dead and speaks what is said of it, to be contradicted.

        It may have contradicted already when this agent could not hear it.
        """
        state = self.view.get(sender)
        if state is not None and not state.alive and not state.left:
            me.tell(Performative.INFORM, sender, conversation, Advertisement((state,)))

    def _news_of(self, old: AgentState, new: AgentState) -> Iterator[Step]:
        """Say that an agent is gone, or left, or is back, or came back without its memory."""
        forgetful = old.alive and new.forgets(old.incarnation)
        if forgetful or (old.alive and not new.alive):
            yield Believe(Left(new.agent) if new.left else Gone(new.agent))
        if new.agent not in self._distrusted and new.alive and (forgetful or not old.alive):
            yield Forget(Gone(new.agent))
            yield Forget(Left(new.agent))
        if new.alive and new.forgets(old.incarnation):
            yield Perceive(Forgot(new.agent))

    def take(self, state: AgentState) -> bool:
        """Apply a state to the view; whether it was news."""
        view = self.view.apply(state)
        news, self.view = view is not self.view, view
        return news

    def declare_dead(self, me: Agent, agent: AgentId) -> None:
        """Tell all other agents that an agent is gone."""
        # One that ended before it told of itself is not in the view, and counts as living there.
        state = self.view.get(agent) or AgentState(agent, None, 0, 0)
        if state.alive:
            self._publish(me, replace(state, version=state.version + 1, alive=False))
            me.do_step(Believe(Gone(agent)))

    def leave(self, me: Agent) -> None:
        """Tell all other agents that this agent has left."""
        mine = self.view.get(me.name)
        if mine is not None:
            self._publish(me, replace(mine, version=mine.version + 1, alive=False, left=True))

    @remembers(OutlookMemory)
    def remember(self, me: Agent) -> OutlookMemory:
        """Return the agents that are known, each with its latest incarnation."""
        states = (state for state in self.view.states if state.agent != me.name)
        bare = {"total": NOTHING, "free": NOTHING, "links": (), "images": ()}
        known = (replace(state, version=0, **bare) for state in states)
        return OutlookMemory(tuple(known), self.settings.peers)

    @recalls
    def recall(self, me: Agent, part: OutlookMemory | None, shift: float) -> None:  # noqa: ARG002
        """Know the others by their latest incarnations; ask one of them for all that is news.

        An agent that is met again by other means later need not be known by then.
        """
        self._distrusted = frozenset(p.agent for p in me.beliefs.matching(Distrusted))
        old = part or OutlookMemory()
        self.settings.peers = tuple(sorted({*self.settings.peers, *old.peers}))
        for state in old.states:  # what the agent says of its PoP itself is newer
            known = self.view.get(state.agent) or state
            site = {name: getattr(known, name) for name in ("total", "free", "links", "images")}
            self.view = self.view.apply(replace(state, remembers=known.remembers, **site))
        self._catch_up(me)

    def _catch_up(self, me: Agent) -> None:
        """Ask one peer for all that is news."""
        peer = next((peer for peer in self.alive() if peer != me.name), None)
        if peer is not None:
            digest = Digest(self.view.digest, self.view.stamps())
            me.tell(Performative.QUERY, peer, GOSSIP, digest)

    @hears(Digest)
    def compare(self, me: Agent, message: Message) -> None:
        """Send what the peer does not have; ask for what it has and this agent has not."""
        digest = message.content_as(Digest)
        self.sign_of_life(me, message.sender)
        if digest.digest == self.view.digest:
            return
        mine = Digest(self.view.digest, self.view.stamps())
        if not digest.stamps:
            me.tell(Performative.QUERY, message.sender, GOSSIP, mine)
            return
        theirs = {agent: (incarnation, version) for agent, incarnation, version in digest.stamps}
        newer = tuple(s for s in self.view.states if s.stamp > theirs.get(s.agent, (-1, -1)))
        if newer:
            me.tell(Performative.INFORM, message.sender, GOSSIP, Advertisement(newer))
        own = {s.agent: s.stamp for s in self.view.states}
        if any(stamp > own.get(agent, (-1, -1)) for agent, stamp in theirs.items()):
            if message.conversation != ANSWER:
                me.tell(Performative.QUERY, message.sender, ANSWER, mine)
        elif not newer:  # stamps agree and contents do not: a death notice met a sign of life
            everything = Advertisement(self.view.states)
            me.tell(Performative.INFORM, message.sender, GOSSIP, everything)

    def _publish(self, me: Agent, state: AgentState) -> None:
        if not self.take(state):
            return
        for peer in self.settings.peers:
            if peer != me.name:
                me.tell(Performative.INFORM, peer, GOSSIP, Advertisement((state,)))

    def _next(self, me: Agent) -> tuple[int, int]:
        """Return the stamp of what this agent says of itself next."""
        mine = self.view.get(me.name)
        if mine is None or mine.incarnation < me.incarnation:
            return me.incarnation, 1
        return mine.incarnation, mine.version + 1

    def _gossip(self, me: Agent) -> None:
        peers = tuple(peer for peer in self.settings.peers if peer not in self._distrusted)
        if len(peers) > 1:
            self._turn = (self._turn + 1) % len(peers)
            if peers[self._turn] == me.name:
                self._turn = (self._turn + 1) % len(peers)
            digest = Digest(self.view.digest)
            me.tell(Performative.QUERY, peers[self._turn], GOSSIP, digest)
        me.call_at(me.now + self.settings.gossip_s, lambda: self._gossip(me))
