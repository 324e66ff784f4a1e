"""What makes an agent a closed loop of a slice: it passes on what it cannot or may not do itself.

Escalation and delegation are plans like any other, chosen by rank: a loop's own plans for a
trouble go first, then it asks loops below and beside it that have a plan, then the loops above
(Benzaïd et al., II.A and figure 2: coordination hierarchical and peer to peer). What a loop hears
it takes on like a goal of its own, or refuses: nobody commands here.

Insights, of what is no trouble yet, travel upwards as they change. A loop gathers them for a
while that is the longer the wider its scope is, and judges them together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import (
    Capability,
    drains,
    hears,
    instead_of,
    perceives,
    plan,
    recalls,
    remembers,
)
from phalanx.bdi.goals import GoalEnd, GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Believe, Body, Forget, Note, Perceive, PlanFailed, Steps
from phalanx.coordination.contacts import MANAGERS, LoopContacts, Quota
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Mode
from phalanx.domain.messages import (
    Fact,
    Insight,
    Message,
    PassedGoal,
    Performative,
    Result,
    Verdict,
)
from phalanx.domain.predicates import ClaimHeld, EntityTrouble, OfEntity

DELEGATE, ESCALATE = 50, 90
"""Ranks: a loop's own plans go before both."""
DIRECTIONS = {"above": "down", "below": "up", "beside": "beside"}
"""Which way a goal goes, by where the loop stands that asks."""
MOST_ENDED = 256
"""Answers that are kept, for requests that are said again."""
MOST_TRIED = 16
"""Failures that travel with a goal; the eldest are left out first."""
AGAIN_S = 9.0
"""Pause after which the same is told again, if it is seen again: a loop may have been started anew,
or a message lost."""
ASKED, ASKED_S = 128, 60.0
"""Goals of one loop that are taken on within so long, in seconds."""
MOST_INSIGHTS = 4_096
"""Different insights that are gathered at a time."""
TIMESCALES = {
    "network-function": "loop_nf_s",
    "sub-slice": "loop_sub_slice_s",
    "slice": "loop_slice_s",
}


class TakenGoal(Struct, frozen=True):
    """A goal that another loop passed to this one, which is at work for it."""

    conversation: str
    asker: AgentId
    direction: str
    """Which way it came: up, down or beside."""
    said: PassedGoal
    own: bool
    """Whether this loop wanted it before, by itself."""


class LoopMemory(Struct, frozen=True):
    """What a loop does for others."""

    taken: tuple[TakenGoal, ...] = ()


class Gathered(Struct, frozen=True):
    """Percept: the latest of each insight of a slice, gathered over the loop's timescale."""

    slice: str
    insights: tuple[Insight, ...]
    causes: tuple[str, ...] = ()
    """The events that led to them, one each."""


class ClosedLoop(Capability):
    """Passes goals up, down and beside; takes on, or refuses, what others pass to it."""

    name = "loop"
    parameters: ClassVar = {
        "loop_nf_s": 0.5,
        "loop_sub_slice_s": 2.0,
        "loop_slice_s": 5.0,
        "loop_e2e_s": 10.0,
    }

    def __init__(self) -> None:
        self.abilities: Mapping[str, type[Capability]] = {}
        """Classes of the capabilities that loops have, by name, as the repository offers them."""
        self.functions: tuple[str, ...] = ()
        """Names of the functions that an agent of a PoP may run."""
        self._taken: dict[str, TakenGoal] = {}
        """By conversation."""
        self._ended: deque[tuple[str, Performative, Result | Verdict]] = deque(maxlen=MOST_ENDED)
        self._passing: dict[Goal, AgentId] = {}
        """What is passed on now, and to which loop."""
        self._failed: dict[str, list[str]] = {}
        """What has failed for each goal that is open, in words."""
        self._shared: dict[tuple[str, str, str], tuple[float, float, float]] = {}
        """What was told last, and when, by slice, entity and kind."""
        self._gathered: dict[str, dict[tuple[str, str], tuple[Insight, str]]] = {}
        """By slice, then by entity and kind; each with its cause."""
        self._asked = Quota(ASKED, ASKED_S)

    # -- what is passed on --------------------------------------------------------------

    @plan(OfEntity, None, rank=DELEGATE, applies=lambda me, goal: _helpers(me, goal) != [])
    def delegate(self, me: Agent, goal: GoalInstance) -> Body:
        """Ask the loops below, then those beside, that have a plan for it."""
        yield from self._pass_on(me, goal, _helpers(me, goal))

    @plan(
        OfEntity,
        Mode.AVERT,
        rank=ESCALATE,
        applies=lambda me, goal: not goal.tried or _chiefs(me, goal) != [],
    )
    def escalate(self, me: Agent, goal: GoalInstance) -> Body:
        """Ask the loop above for the slice: it sees more of it."""
        asked = _chiefs(me, goal)
        if not asked:
            raise PlanFailed("it has no plan, and no loop that it could ask")
        yield from self._pass_on(me, goal, [(name, "up") for name in asked])

    def _pass_on(self, me: Agent, goal: GoalInstance, to: list[tuple[AgentId, str]]) -> Body:
        wanted, failed = goal.goal.predicate, self._failures(me, goal)
        assert isinstance(wanted, OfEntity)
        reason = failed[-1] if failed else f"{me.name} has no plan of its own for it"
        for name, direction in to:
            conversation = me.new_id("pass")
            trail = (*self._trail(goal.goal), me.name)
            tried = tuple(failed[-MOST_TRIED:])
            content = PassedGoal(goal.goal, wanted.slice, reason, trail, tried)
            about = {"conversation": conversation, "goal": str(goal.goal), "slice": wanted.slice}
            more = {"to": name, "direction": direction, "reason": reason, "tried": [*tried]}
            yield Note("loop.passed", {**about, **more})
            self._passing[goal.goal] = name
            try:
                contacts = me.capability(LoopContacts)
                answer = yield from contacts.request(
                    me, conversation, name, content, settles=_settles
                )
            except GeneratorExit:  # of an agent that died nothing is recorded any more
                why = "the goal is no longer pursued"
                me.later(self._end, me, me.cause, {**about, "by": name, "reason": why})
                raise
            finally:
                self._passing.pop(goal.goal, None)
            by, why = name, answer if isinstance(answer, str) else ""
            if isinstance(answer, Message):
                by, said = answer.sender, answer.content
                why = said.reason if isinstance(said, Verdict) else "it has not said so of this"
                for fact in said.facts if isinstance(said, Result) else ():
                    if fact.predicate == wanted:
                        yield Believe(wanted, fact.value)
                if isinstance(said, Result) and me.beliefs.satisfies(goal.goal):
                    yield Note("loop.relieved", {**about, "by": by})
                    return
            ended = {**about, "by": by, "reason": why}
            if isinstance(answer, Message):
                yield Note("loop.returned", ended)
            else:
                self._end(me, me.cause, ended)
            reason = f"{by}: {why}"
            failed.append(reason)
        raise PlanFailed(reason)

    @staticmethod
    def _end(me: Agent, cause: str, about: dict[str, Any]) -> None:
        """Say that a loop has not done it, and tell it to leave it."""
        me.cause = cause
        me.tell(Performative.CANCEL, about["by"], about["conversation"], Verdict(about["reason"]))
        me.record("loop.returned", **about)

    @instead_of(EntityTrouble, Mode.AVERT)
    def unrelieved(self, me: Agent, goal: GoalInstance) -> None:
        """Say that nothing has helped, unless another loop asked: that one is told."""
        wanted = goal.predicate_as(EntityTrouble)
        if not self._of(goal.goal):
            about = {"entity": wanted.entity, "kind": wanted.kind, "slice": wanted.slice}
            me.record("loop.unrelieved", **about, tried=self._failures(me, goal))

    # -- what others pass to this loop ----------------------------------------------------

    @hears(PassedGoal)
    def asked(self, me: Agent, message: Message) -> Steps:
        """Take a goal on and say so, or refuse it; say again what was said before."""
        said, conversation, sender = message.content, message.conversation, message.sender
        assert isinstance(said, PassedGoal)
        for known, performative, content in self._ended:
            if known == conversation:
                me.tell(performative, sender, conversation, content)
                return
        at_work = conversation in self._taken and self._taken[conversation].asker == sender
        direction, objection = self._judge(me, sender, said)
        if not at_work and not objection and self._asked.beyond(sender, me.now):
            objection = f"{ASKED} goals of {sender} in {ASKED_S:g} s are taken on, and no more"
        if not at_work and objection:
            contacts, goal = me.capability(LoopContacts), str(said.goal)
            told = contacts.refuse(me, sender, said.slice, goal, objection)
            if told is not None:
                me.tell(Performative.FAILURE, sender, conversation, Verdict(told, final=True))
            return
        if not at_work:
            mine = me.open_goal(said.goal)
            again = [t.conversation for t in self._of(said.goal) if t.asker == sender]
            if mine is not None and said.goal in self._passing and not again:
                reason = f"{me.name} passes it on itself, to {self._passing[said.goal]}"
                me.tell(Performative.FAILURE, sender, conversation, Verdict(reason))
                return
            own = mine is not None and (not again or self._taken[again[0]].own)
            for earlier in again:  # the asker was started anew
                del self._taken[earlier]
            self._taken[conversation] = TakenGoal(conversation, sender, direction, said, own)
            me.changes += 1
            if said.goal.mode is Mode.AVERT:
                yield Believe(said.goal.predicate)
            afresh = said.goal.mode is Mode.FIND_OUT and mine is None
            if afresh:
                yield Forget(said.goal.predicate)
            goal_taken = me.adopt(Adopt(said.goal, PROTECT))
            goal_taken.waiters.append(partial(self._answer, me, conversation))
        me.tell(Performative.AGREE, sender, conversation, Verdict(running=True))

    def _judge(self, me: Agent, sender: AgentId, said: PassedGoal) -> tuple[str, str]:
        """Return which way a goal comes, and why it is refused; empty: it is not."""
        contacts = me.capability(LoopContacts)
        relation = contacts.relation(me, sender, said.slice)
        if me.name in contacts.heirs(said.instead_of, said.slice):
            home = contacts.settings.loops[said.instead_of]
            relation = contacts.side(home, sender, said.slice) or relation
        direction = DIRECTIONS.get(relation, "")
        wanted = said.goal.predicate
        theirs = contacts.settings.loops.get(sender)
        if not direction:
            return "", f"{sender} is no loop that may ask {me.name} for slice {said.slice}"
        if not contacts.trusts(sender):
            return direction, f"{sender} is not trusted enough"
        if me.name in said.trail or said.trail[-1:] != (sender,):
            return direction, "its trail leads here already, or does not end with its sender"
        if me.draining:
            return direction, f"{me.name} is about to leave"
        undone = said.goal.mode is Mode.AVERT and not isinstance(wanted, EntityTrouble)
        if undone and direction == "down" and any(me.beliefs.matching(EntityTrouble)):
            return direction, "what protects is not taken away while a trouble stands"
        if isinstance(wanted, ClaimHeld):
            return direction, "who acts claims it itself, at the loop of the function"
        asks = isinstance(wanted, EntityTrouble) or said.goal.mode is Mode.FIND_OUT
        if theirs is not None and theirs.scope in MANAGERS and not asks:
            return direction, f"{sender} is a manager, which may have troubles looked into"
        if not isinstance(wanted, OfEntity):
            down = undone and direction == "down"
            return direction, "" if down else f"{said.goal} is nothing of a slice"
        if wanted.slice != said.slice:
            return direction, f"it is about another slice than it says, {said.slice}"
        target, own = getattr(wanted, "target", ""), contacts.addresses(wanted.entity)
        if target and own and target not in own:
            return direction, f"{target} is no address of {wanted.entity}"
        own = contacts.entities(sender)
        if direction != "down" and (said.goal.mode is Mode.ACHIEVE or wanted.entity not in own):
            return direction, f"{sender} does not look after {wanted.entity}"
        return direction, ""

    def _answer(self, me: Agent, conversation: str, end: GoalEnd) -> None:
        """Tell the loop that asked what its goal has come to."""
        taken = self._taken.pop(conversation, None)
        if taken is None:
            return
        me.changes += 1
        me.cause = end.event
        predicate = taken.said.goal.predicate
        content: Result | Verdict = Verdict(end.reason or end.outcome.value, final=end.final)
        if end.achieved:
            content = Result((Fact(predicate, me.beliefs.holds(predicate)),))
        performative = Performative.INFORM if end.achieved else Performative.FAILURE
        self._ended.append((conversation, performative, content))
        me.tell(performative, taken.asker, conversation, content)
        self._forget(me, taken)

    def _forget(self, me: Agent, taken: TakenGoal) -> None:
        """Believe no more in a trouble that is another loop's, and nothing that this one sees."""
        goal = taken.said.goal
        if not taken.own and not self._of(goal) and me.beliefs.holds(goal.predicate):
            me.do_step(Forget(goal.predicate))

    @hears(Verdict)
    def withdrawn(self, me: Agent, message: Message) -> None:
        """Give up what a loop passed to this one and wants no more."""
        taken = self._taken.get(message.conversation)
        if taken is None or message.performative is not Performative.CANCEL:
            return
        if taken.asker == message.sender:
            del self._taken[message.conversation]
            me.changes += 1
            mine, goal = me.open_goal(taken.said.goal), taken.said.goal
            if mine is not None and not taken.own and not self._of(goal):
                reason = f"{message.sender} wants it no more"
                me.end_goal(mine, GoalOutcome.DROPPED, reason)
            self._forget(me, taken)

    def _of(self, goal: Goal) -> list[TakenGoal]:
        return [taken for taken in self._taken.values() if taken.said.goal == goal]

    def _trail(self, goal: Goal) -> tuple[AgentId, ...]:
        """Return the loops that wait for this one to achieve it."""
        through = (name for taken in self._of(goal) for name in taken.said.trail)
        return tuple(dict.fromkeys(through))

    def _passed(self, goal: Goal, name: AgentId) -> bool:
        """Whether a loop waits for this one, or has failed already where the goal came from."""
        texts = (text for taken in self._of(goal) for text in taken.said.tried)
        return name in self._trail(goal) or any(text.startswith(f"{name}: ") for text in texts)

    def _failures(self, me: Agent, goal: GoalInstance) -> list[str]:
        """Return what has failed for a goal, here and where it comes from, in words."""
        if goal.id not in self._failed:
            before = [text for taken in self._of(goal.goal) for text in taken.said.tried]
            own = [name for name in goal.tried if not name.startswith(f"{self.name}.")]
            before += [f"{me.name}: {name.rpartition('.')[2].replace('_', ' ')}" for name in own]
            self._failed[goal.id] = list(dict.fromkeys(before))
            goal.waiters.append(lambda _: self._failed.__delitem__(goal.id))
        return self._failed[goal.id]

    def _directions(self, goal: Goal) -> set[str]:
        """Return which ways it came here; none: this loop wants it by itself."""
        return {taken.direction for taken in self._of(goal)}

    # -- insights -----------------------------------------------------------------------

    def share(self, me: Agent, insight: Insight, step: float = 0.0) -> None:
        """Tell the loops above what is seen, if it differs by more than ``step`` from the last."""
        contacts = me.capability(LoopContacts)
        key = insight.slice, insight.entity, insight.kind
        last = self._shared.get(key, (0.0, 0.0, -AGAIN_S))
        lately = me.now - last[2] < AGAIN_S
        if lately and abs(insight.value - last[0]) <= step and insight.whole == last[1]:
            return
        self._shared[key] = insight.value, insight.whole, me.now
        for name in contacts.serving(contacts.own(me).above, insight.slice):
            me.tell(Performative.INFORM, name, me.new_id("insight"), insight)

    @perceives(Insight)
    def saw(self, me: Agent, insight: Insight) -> None:
        """Tell the loops above what a function of this agent sees."""
        self.share(me, insight)

    @hears(Insight)
    def told(self, me: Agent, message: Message) -> None:
        """Gather what a loop below or beside sees; the first one begins the time for it."""
        insight, sender = message.content, message.sender
        assert isinstance(insight, Insight)
        contacts = me.capability(LoopContacts)
        relation = contacts.relation(me, sender, insight.slice)
        if relation not in ("below", "beside") or not contacts.trusts(sender):
            reason = f"{sender} is no loop whose insights {me.name} asks for"
            contacts.refuse(me, sender, insight.slice, insight.kind, reason)
            return
        if insight.entity not in contacts.entities(sender):
            reason = f"{sender} does not look after {insight.entity}"
            contacts.refuse(me, sender, insight.slice, insight.kind, reason)
            return
        if not self._gathered.get(insight.slice):
            scale = TIMESCALES.get(me.scope.name, "loop_e2e_s")
            when = me.now + me.parameter(self, scale)
            me.call_at(when, partial(self._judge_together, insight.slice))
        gathered = self._gathered.setdefault(insight.slice, {})
        if len(gathered) < MOST_INSIGHTS:
            gathered[insight.entity, insight.kind] = insight, me.cause

    def _judge_together(self, slice_name: str) -> Steps:
        gathered = self._gathered.pop(slice_name, {})
        insights, causes = zip(*(gathered[key] for key in sorted(gathered)), strict=True)
        yield Perceive(Gathered(slice_name, insights, causes))

    # -- the end ------------------------------------------------------------------------

    @drains
    def leave(self, me: Agent) -> None:
        """Leave at once, if this agent is nothing but a loop: who waits for it asks its heir."""
        if Bidder.name in me.capabilities:
            return
        cause, left = me.cause, [str(goal.goal) for goal in me.open_goals()]
        for goal in me.open_goals():
            me.cause = cause
            me.end_goal(goal, GoalOutcome.DROPPED, "its loop leaves")
        me.later(self._left, me, cause, left)  # after what the ends of its goals bring about

    @staticmethod
    def _left(me: Agent, cause: str, ended: list[str]) -> None:
        me.cause = cause
        me.record("agent.left", handed_over=0, ended=ended)
        me.drained = True

    # -- memory -------------------------------------------------------------------------

    @remembers(LoopMemory)
    def remember(self, me: Agent) -> LoopMemory | None:  # noqa: ARG002  # all is its own
        """Return what this loop does for others."""
        return LoopMemory(tuple(self._taken.values())) if self._taken else None

    @recalls
    def recall(self, me: Agent, part: LoopMemory | None, shift: float) -> None:  # noqa: ARG002
        """Answer those that still wait once their goals, which are pursued again, have ended."""
        for taken in part.taken if part is not None else ():
            mine = me.open_goal(taken.said.goal)
            if mine is not None:
                self._taken[taken.conversation] = replace(taken)
                mine.waiters.append(partial(self._answer, me, taken.conversation))


def _settles(message: Message) -> bool:
    return message.performative in (Performative.INFORM, Performative.FAILURE)


def _side(me: Agent, goal: GoalInstance, where: str) -> tuple[AgentId, ...]:
    """Return the loops above, below or beside: this loop's, and those of loops it stands in for."""
    contacts, taken = me.capability(LoopContacts), me.capability(ClosedLoop)._of(goal.goal)
    homes = {t.said.instead_of for t in taken} - {""}
    loops = [contacts.own(me), *(contacts.settings.loops[home] for home in sorted(homes))]
    names = dict.fromkeys(name for loop in loops for name in getattr(loop, where))
    return tuple(name for name in names if name != me.name)


def _chiefs(me: Agent, goal: GoalInstance) -> list[AgentId]:
    """Return the loops above that could be asked; none for what came from above or from beside."""
    loop, wanted = me.capability(ClosedLoop), goal.goal.predicate
    assert isinstance(wanted, OfEntity)
    if loop._directions(goal.goal) - {"up"}:
        return []
    above = me.capability(LoopContacts).serving(_side(me, goal, "above"), wanted.slice)
    return [name for name in above if not loop._passed(goal.goal, name)]


def _helpers(me: Agent, goal: GoalInstance) -> list[tuple[AgentId, str]]:
    """Return the loops below and beside that could achieve a goal, each with the direction.

    Below, those on the way to the entity go first. A goal that came from above, or from beside, is
    passed on downwards alone.
    """
    wanted, loop = goal.goal.predicate, me.capability(ClosedLoop)
    contacts, trail = me.capability(LoopContacts), loop._trail(goal.goal)
    assert isinstance(wanted, OfEntity)
    found = []
    sides = ("down", _side(me, goal, "below")), ("beside", _side(me, goal, "beside"))
    for direction, names in sides:
        if direction == "beside" and loop._directions(goal.goal) - {"up"}:
            continue
        able = [
            name
            for name in contacts.serving(names, wanted.slice)
            if not loop._passed(goal.goal, name) and _offers(me, name, goal.goal, {*trail, me.name})
        ]
        able.sort(key=lambda name: (wanted.entity not in contacts.entities(name), name))
        found += [(name, direction) for name in able]
    return found


def _offers(me: Agent, name: AgentId, goal: Goal, passed: set[AgentId]) -> bool:
    """Whether a loop, or one below it, has a plan of its own for a goal, as far as it declares."""
    loop, contacts = me.capability(ClosedLoop), me.capability(LoopContacts)
    other = contacts.settings.loops.get(name)
    names = loop.functions if other is None else other.capabilities
    for each in names:
        plans: Iterator[Any] = iter(getattr(loop.abilities.get(each), "plans", ()))
        if any(spec.matches(goal) and spec.rank < DELEGATE for spec in plans):
            return True
    below: tuple[AgentId, ...] = ()
    if other is not None:
        below = (*other.below, *((other.pop,) if other.pop else ()))
    return any(
        _offers(me, each, goal, passed | {name})
        for each in contacts.serving(below, goal.predicate.slice)  # type: ignore[attr-defined]
        if each not in passed
    )
