"""Cover: each agent covers the next, as the shields of a phalanx do.

An agent tells the next living one (its guardian, in the order of names) that it lives and
which goals it pursues. When it falls silent the guardian tells all others, and takes its
open goals over.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from phalanx.auction.outlook import Connected, Outlook, known_since
from phalanx.auction.settings import Settings
from phalanx.bdi import Agent, hears, perceives
from phalanx.bdi.steps import Steps
from phalanx.coordination.drain import Departure
from phalanx.coordination.recovery import Homecoming
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal
from phalanx.domain.messages import Heartbeat, Message, OpenGoal, Performative

HEARTBEAT = "heartbeat"


class WardMemory(Struct, frozen=True):
    """What a guardian remembers of the agent that it covers."""

    pop: AgentId
    incarnation: int
    goals: tuple[OpenGoal, ...]
    gone: bool


class TakenMemory(Struct, frozen=True):
    """A goal that was taken over."""

    goal: Goal
    owner: AgentId


class CoverMemory(Struct, frozen=True):
    """What the cover capability remembers."""

    wards: tuple[WardMemory, ...] = ()
    taken: tuple[TakenMemory, ...] = ()


class _Ward:
    """What a guardian knows of the agent that it covers."""

    __slots__ = ("goals", "gone", "heard", "incarnation")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.incarnation = 0
        self.goals: tuple[OpenGoal, ...] = ()
        self.gone = False
        """Whether it was found dead, and not heard of since."""


class Cover(Homecoming, Departure):
    """Watches over one neighbour, and is watched over by another."""

    name = "cover"
    settings: Settings
    memory = CoverMemory

    def __init__(self) -> None:
        super().__init__()
        self._wards: dict[AgentId, _Ward] = {}
        self._beaten = 0.0
        """When this agent last looked."""

    def begin(self, me: Agent) -> None:
        """Tell the guardian at once, then regularly."""
        self._beaten = me.now
        self._beat(me)

    def _beat(self, me: Agent) -> Steps | None:
        if me.now - self._beaten > self.settings.silence_s:
            self._listen_anew(me)  # it stood still: what others said meanwhile is still unread
        self._beaten = me.now
        ring = me.capability(Outlook).alive()
        steps: Steps | None = None
        if len(ring) > 1 and me.name in ring:
            place = ring.index(me.name)
            heartbeat = Heartbeat(me.incarnation, self.open_goals(me), known_since(me))
            me.tell(Performative.INFORM, ring[(place + 1) % len(ring)], HEARTBEAT, heartbeat)
            steps = self._watch(me, ring[place - 1])
        me.call_at(me.now + self.settings.heartbeat_s, partial(self._beat, me))
        return steps

    @perceives(Connected)
    def connection_changed(self, me: Agent, percept: Connected) -> None:
        """Judge nobody by a silence in which nobody could be heard."""
        if percept.up:
            self._listen_anew(me)

    def _listen_anew(self, me: Agent) -> None:
        for ward in self._wards.values():
            ward.heard = me.now

    def _watch(self, me: Agent, pop: AgentId) -> Steps | None:
        ward = self._wards.get(pop)
        if ward is None:
            self._wards[pop] = _Ward(me.now)
            return None
        if ward.gone:
            self._returned(me, pop, ward)
        outlook: Outlook = me.capability(Outlook)
        if outlook.cut_off or me.now - ward.heard <= self.settings.silence_s:
            return None
        goals, ward.goals, ward.gone = ward.goals, (), True
        me.cause = me.record("agent.gone", pop=pop)
        outlook.declare_dead(me, pop)
        return self.take_over(me, pop, goals)

    def _returned(self, me: Agent, pop: AgentId, ward: _Ward) -> None:
        me.cause = me.record("agent.returned", pop=pop)
        ward.gone, ward.heard = False, me.now

    @hears(Heartbeat)
    def heard_heartbeat(self, me: Agent, message: Message) -> Steps | None:
        """Note that an agent lives; one that came back may have forgotten what it pursued."""
        beat = message.content
        assert isinstance(beat, Heartbeat)
        me.capability(Outlook).sign_of_life(me, message.sender)
        ward = self._wards.get(message.sender)
        if ward is None:
            ward = self._wards[message.sender] = _Ward(me.now)
        if beat.incarnation < ward.incarnation:
            return None
        forgotten: tuple[OpenGoal, ...] = ()
        if ward.incarnation < (beat.remembers or beat.incarnation):
            kept = {g.goal for g in beat.goals}
            forgotten = tuple(g for g in ward.goals if g.goal not in kept)
            if ward.incarnation:
                self._returned(me, message.sender, ward)
        elif ward.gone and beat.incarnation > ward.incarnation:
            self._returned(me, message.sender, ward)
        if (ward.incarnation, ward.goals) != (beat.incarnation, beat.goals):
            me.changes += 1
        ward.incarnation, ward.heard, ward.goals = beat.incarnation, me.now, beat.goals
        return self.take_over(me, message.sender, forgotten)

    def remember(self, me: Agent) -> CoverMemory:  # noqa: ARG002  # all is its own
        """Return whom this agent covers, and what it took over."""
        return CoverMemory(
            tuple(
                WardMemory(pop, ward.incarnation, ward.goals, ward.gone)
                for pop, ward in self._wards.items()
            ),
            tuple(TakenMemory(goal, owner) for goal, owner in self.taken.items()),
        )

    def recall(self, me: Agent, part: CoverMemory | None, shift: float) -> None:  # noqa: ARG002
        """Go on with it; whoever is covered counts as heard of now."""
        for old in () if part is None else part.wards:
            ward = self._wards[old.pop] = _Ward(me.now)
            ward.incarnation, ward.goals, ward.gone = old.incarnation, old.goals, old.gone
        self.taken = {} if part is None else {old.goal: old.owner for old in part.taken}
        self.come_home(me)
