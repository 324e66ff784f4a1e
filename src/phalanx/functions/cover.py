"""Cover: each agent covers the next, as the shields of a phalanx do.

An agent tells the next living one (its guardian, in the order of names) that it lives and
which goals it pursues. When it falls silent the guardian tells all others, and takes its
open goals over.
"""

from __future__ import annotations

from functools import partial

from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Settings
from phalanx.bdi import Adopt, Agent, Capability, hears
from phalanx.bdi.steps import Steps
from phalanx.domain.goals import Mode
from phalanx.domain.messages import Heartbeat, Message, OpenGoal, Performative
from phalanx.domain.network import PopId

HEARTBEAT = "heartbeat"


class _Ward:
    """What a guardian knows of the agent that it covers."""

    __slots__ = ("goals", "gone", "heard", "incarnation")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.incarnation = 0
        self.goals: tuple[OpenGoal, ...] = ()
        self.gone = False
        """Whether it was found dead, and not heard of since."""


class Cover(Capability):
    """Watches over one neighbour, and is watched over by another."""

    name = "cover"
    settings: Settings

    def __init__(self) -> None:
        self._wards: dict[PopId, _Ward] = {}

    def begin(self, me: Agent) -> None:
        """Tell the guardian at once, then regularly."""
        self._beat(me)

    def _beat(self, me: Agent) -> Steps | None:
        ring = me.capability(Outlook).alive()
        steps: Steps | None = None
        if len(ring) > 1 and me.name in ring:
            place = ring.index(me.name)
            heartbeat = Heartbeat(me.incarnation, self.open_goals(me))
            me.tell(Performative.INFORM, ring[(place + 1) % len(ring)], HEARTBEAT, heartbeat)
            steps = self._watch(me, ring[place - 1])
        me.call_at(me.now + self.settings.heartbeat_s, partial(self._beat, me))
        return steps

    def open_goals(self, me: Agent) -> tuple[OpenGoal, ...]:
        """Return what would have to be taken over: own goals that others can achieve."""
        return tuple(
            OpenGoal(g.id, g.goal, g.priority, g.tap, g.traffic_now(), g.standing, g.cause)
            for g in me.open_goals()
            if g.contract is None
            and not g.child
            and g.goal.mode is not Mode.AVERT
            and me.library.achievers(g.goal)
        )

    def _watch(self, me: Agent, pop: PopId) -> Steps | None:
        ward = self._wards.get(pop)
        if ward is None:
            self._wards[pop] = _Ward(me.now)
            return None
        if ward.gone:
            self._returned(me, pop, ward)
        if me.now - ward.heard <= self.settings.silence_s:
            return None
        goals, ward.goals, ward.gone = ward.goals, (), True
        me.cause = me.record("agent.gone", pop=pop)
        me.capability(Outlook).declare_dead(me, pop)
        return self._take_over(me, goals)

    def _returned(self, me: Agent, pop: PopId, ward: _Ward) -> None:
        me.cause = me.record("agent.returned", pop=pop)
        ward.gone, ward.heard = False, me.now

    @hears(Heartbeat)
    def heard_heartbeat(self, me: Agent, message: Message) -> Steps | None:
        """Note that an agent lives; one that came back has forgotten what it pursued."""
        beat = message.content
        assert isinstance(beat, Heartbeat)
        ward = self._wards.get(message.sender)
        if ward is None:
            ward = self._wards[message.sender] = _Ward(me.now)
        if beat.incarnation < ward.incarnation:
            return None
        forgotten: tuple[OpenGoal, ...] = ()
        if beat.incarnation > ward.incarnation:
            kept = {g.goal for g in beat.goals}
            forgotten = tuple(g for g in ward.goals if g.goal not in kept)
            if ward.incarnation:
                self._returned(me, message.sender, ward)
        ward.incarnation, ward.heard, ward.goals = beat.incarnation, me.now, beat.goals
        return self._take_over(me, forgotten)

    def _take_over(self, me: Agent, goals: tuple[OpenGoal, ...]) -> Steps:
        for taken in goals:
            me.cause = me.record("goal.taken_over", goal=str(taken.goal), instance_id=taken.id)
            yield Adopt(
                taken.goal,
                taken.priority,
                traffic_mb_s=taken.traffic_mb_s,
                tap=taken.tap,
                standing=taken.standing,
            )
