"""Contacts of closed loops: who may ask whom, and what is done where nobody answers.

A loop gives no signs of life: idle it costs nothing. Whether it is there shows when it is asked.
A request is said again until it is answered; a loop that does not answer three times is gone, and
its duty falls to an heir, which all who know the same loops compute alike (``Duty``). Once the
loop answers again, its duty is its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, ClassVar

from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.settings import Configured, GoalPolicy
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives
from phalanx.bdi.steps import Await, Step
from phalanx.domain.agents import POP, AgentId, Loop
from phalanx.domain.goals import Duty, want
from phalanx.domain.messages import (
    ActionClaim,
    Insight,
    Inventory,
    Message,
    PassedGoal,
    Performative,
    Query,
    Refusal,
    Result,
    SecurityPolicy,
    Verdict,
)
from phalanx.domain.predicates import Managed
from phalanx.domain.trust import Scored

MANAGERS = frozenset({"domain", "end-to-end"})
"""Scopes whose loops deploy and inform; they inherit no duty, and leave none."""
HEIRS = 2
"""So many are asked in place of a loop."""
GONE_S = 30.0
"""So long after it did not answer a loop is passed over."""
REFUSALS, REFUSALS_S = 32, 60.0
"""Refusals that are told to, and of, one sender within so long, in seconds."""

Answer = Generator[Step, Any, Message | str]


class _Request:
    """A request that is not settled yet."""

    __slots__ = ("asked", "key")

    def __init__(self) -> None:
        self.asked: set[AgentId] = set()
        self.key = ""
        """What its plan waits for now."""


class Quota:
    """Counts what each sender says, so that a flood costs little and is told of once.

    Args:
        most: what counts of one sender within ``per_s``.
        per_s: in seconds.

    """

    def __init__(self, most: int, per_s: float) -> None:
        self._most = most
        self._per_s = per_s
        self._heard: dict[AgentId, deque[float]] = {}

    def beyond(self, sender: AgentId, now: float) -> int:
        """Count one more; return 0 within the quota, 1 for the first beyond it, 2 for others."""
        heard = self._heard.setdefault(sender, deque(maxlen=self._most + 1))
        if len(heard) > self._most and heard[0] > now - self._per_s:
            return 2
        heard.append(now)
        return int(len(heard) > self._most and heard[0] > now - self._per_s)


class LoopContacts(Configured, Capability):
    """Knows which loops this agent may deal with, asks them, and finds their heirs."""

    name = "loop-contacts"
    parameters: ClassVar = {
        "loop_tries": 3.0,
        "loop_again_s": 1.0,
        "loop_probe_s": 5.0,
        "loop_patience_s": 120.0,
    }

    def __init__(self) -> None:
        self._scores: dict[AgentId, float] = {}
        """Trust scores, where agents attest each other."""
        self._open: dict[str, _Request] = {}
        """By conversation."""
        self._gone: dict[AgentId, float] = {}
        """When each loop last did not answer."""
        self._heard: dict[AgentId, float] = {}
        """When each loop was heard of last."""
        self._refusals = Quota(REFUSALS, REFUSALS_S)

    @perceives(Scored)
    def scored(self, me: Agent, percept: Scored) -> None:  # noqa: ARG002  # says it all
        """Note how far agents are to be trusted."""
        self._scores |= percept.scores

    def trusts(self, name: AgentId) -> bool:
        """Whether what an agent asks for counts: its score is not below the least of a bid."""
        policy = self.settings.policies.get("default") or GoalPolicy()
        return self._scores.get(name, 1.0) >= policy.constraints.terms.get("trust", 0.0)

    def known(self, sender: AgentId) -> AgentId:
        """Return the name of a loop or an agent of a PoP; of all others the empty one."""
        return sender if sender in self.settings.loops or sender in self.settings.peers else ""

    def refuse(
        self, me: Agent, sender: AgentId, slice_name: str, goal: str, reason: str
    ) -> str | None:
        """Record that what another says or asks for is not taken in; return what to tell it.

        None: it has been refused so much lately that nothing is recorded or told any more.
        """
        beyond = self._refusals.beyond(self.known(sender), me.now)
        if beyond == 1:
            reason = f"{REFUSALS} refusals in {REFUSALS_S:g} s are told; what follows is not"
        if beyond > 1:
            return None
        me.record("loop.refused", sender=sender, slice=slice_name, goal=goal, reason=reason)
        return reason

    def own(self, me: Agent) -> Loop:
        """Return this agent as a loop; of a PoP's agent, that below the functions' there."""
        loops = self.settings.loops
        if me.name in loops:
            mine = loops[me.name]
            return replace(mine, below=(*mine.below, mine.pop)) if mine.pop else mine
        here = [each for each in loops.values() if me.pop is not None and each.pop == me.pop]
        slices = sorted({name for each in here for name in each.slices})
        above = tuple(sorted(each.name for each in here))
        return Loop(me.name, POP.name, me.name, tuple(slices), me.pop, above=above)

    def relation(self, me: Agent, other: AgentId, slice_name: str) -> str:
        """Return from where another may ask this agent: above, below, beside; empty: it may not.

        Managers ask from above. All have to serve the slice. An heir asks from where the loop
        stands whose duty fell to it, unless that was heard of lately.
        """
        mine = self.own(me)
        direct = self.side(mine, other, slice_name)
        if direct or other not in self.settings.loops:
            return direct
        for name in (*mine.above, *mine.below, *mine.beside):
            lately = me.now - self._heard.get(name, -GONE_S) < GONE_S
            if not lately and other in self.heirs(name, slice_name):
                return self.side(mine, name, slice_name)
        return ""

    def side(self, loop: Loop, other: AgentId, slice_name: str) -> str:
        """Return where another stands that serves a slice with ``loop``; empty: nowhere."""
        theirs = self.settings.loops.get(other)
        if slice_name not in loop.slices or (theirs and slice_name not in theirs.slices):
            return ""
        if other in loop.managers:
            return "above"
        return next((w for w in ("above", "below", "beside") if other in getattr(loop, w)), "")

    def serving(self, names: tuple[AgentId, ...], slice_name: str) -> Iterator[AgentId]:
        """Yield those of some loops that serve a slice; agents of PoPs serve all."""
        for name in names:
            loop = self.settings.loops.get(name)
            if loop is None or slice_name in loop.slices:
                yield name

    def entities(self, name: AgentId) -> set[str]:
        """Return what a loop and all loops below it look after."""
        loop = self.settings.loops.get(name)
        if loop is None:  # an agent of a PoP speaks for the functions there
            return {each.entity for each in self.settings.loops.values() if each.pop == name}
        return {loop.entity}.union(*(self.entities(below) for below in loop.below))

    def addresses(self, entity: str) -> set[str]:
        """Return the addresses of the functions that an entity is, or is made of."""
        loops = self.settings.loops.values()
        parts = (self.entities(loop.name) for loop in loops if loop.entity == entity)
        held: set[str] = set().union(*parts)
        return {loop.address for loop in loops if loop.entity in held and loop.address}

    def heirs(self, home: AgentId, slice_name: str) -> list[AgentId]:
        """Return who sees to a loop's duty for a slice without it, the first one first.

        It is a loop above or beside it, or below it if there are none, that serves that slice; of
        these one that can do all that it can, if there is any.
        """
        loops = self.settings.loops
        gone = loops.get(home)
        if gone is None or gone.scope in MANAGERS:
            return []
        near = [*gone.above, *gone.beside], [*gone.below]
        known = ([loops[n] for n in names if n in loops] for names in near)
        serving = ([each for each in some if slice_name in each.slices] for some in known)
        others: list[Loop] = next(filter(None, serving), [])
        able = [each for each in others if set(gone.capabilities) <= set(each.capabilities)]
        left = [each.name for each in able or others if self.trusts(each.name)]
        duty = Duty(want(Managed(slice_name, gone.entity)), home, gone.pop or "", tuple(left))
        found: list[AgentId] = []
        while left and len(found) < HEIRS:
            found.append(duty.heir(left))
            left.remove(found[-1])
        return found

    def request(
        self,
        me: Agent,
        conversation: str,
        to: AgentId,
        content: PassedGoal | ActionClaim | SecurityPolicy,
        *,
        settles: Callable[[Message], bool],
    ) -> Answer:
        """Ask a loop, then its heirs; return the answer that settles it, or why there is none.

        A goal's request is said again while the loop is at work for it, since it may die then. A
        claim has no heirs: only the entity's own loop knows what is in force there; nor has a
        policy.
        """
        request = self._open[conversation] = _Request()
        until = me.now + me.parameter(self, "loop_patience_s")
        try:
            for owner in self._owners(me, to, content):
                instead = "" if owner == to else to
                if instead:
                    of = content.slice
                    me.cause = me.record("loop.replaced", loop=to, by=owner, slice=of)
                    assert isinstance(content, PassedGoal)
                    content = replace(content, instead_of=instead)
                request.asked.add(owner)
                answer = yield from self._ask(me, conversation, owner, content, settles, until)
                if answer is not None:
                    return answer
                self._gone[owner] = me.now
            return f"{to} does not answer"
        finally:
            del self._open[conversation]

    def listen(
        self, me: Agent, conversation: str, to: AgentId, seconds: float
    ) -> Generator[Step, Any, Message | None]:
        """Wait for what a loop that was asked says further; None: nothing in that time."""
        request = self._open[conversation] = _Request()
        request.asked.add(to)
        try:
            return (yield from self._await(me, request, seconds))
        finally:
            del self._open[conversation]

    def _owners(
        self, me: Agent, to: AgentId, content: PassedGoal | ActionClaim | SecurityPolicy
    ) -> Iterator[AgentId]:
        """Yield whom to ask: a loop, unless it did not answer lately, then its heirs."""
        if not isinstance(content, PassedGoal):
            yield to
            return
        owners = [to, *self.heirs(to, content.slice)]
        owners = [name for name in owners if name != me.name and name not in content.trail]
        lately = [n for n in owners if me.now - self._gone.get(n, -GONE_S) < GONE_S]
        yield from [name for name in owners if name not in lately]
        yield from lately

    def _ask(
        self,
        me: Agent,
        conversation: str,
        owner: AgentId,
        content: PassedGoal | ActionClaim | SecurityPolicy,
        settles: Callable[[Message], bool],
        until: float,
    ) -> Generator[Step, Any, Message | str | None]:
        request, silent, wait_s = self._open[conversation], 0, 0.0
        while silent < me.parameter(self, "loop_tries"):
            if me.now >= until:
                return f"{owner} has not done it in time"
            me.tell(Performative.REQUEST, owner, conversation, content)
            wait_s = me.parameter(self, "loop_again_s")
            silent += 1
            while (answer := (yield from self._await(me, request, wait_s))) is not None:
                if settles(answer):
                    return answer
                if answer.sender == owner:  # at work
                    silent, wait_s = 0, me.parameter(self, "loop_probe_s")
        return None

    def _await(
        self, me: Agent, request: _Request, wait_s: float
    ) -> Generator[Step, Any, Message | None]:
        request.key = key = me.new_id("answer")
        me.call_at(me.now + wait_s, partial(me.resume, key, None))
        answer: Message | None = yield Await(key)
        return answer

    @hears(Verdict)
    @hears(Result)
    @hears(Refusal)
    def answered(self, me: Agent, message: Message) -> None:
        """Take in what one of those says that were asked."""
        request = self._open.get(message.conversation)
        if request is not None and message.sender in request.asked:
            self.spoke(me, message)
            me.resume(request.key, message)

    @hears(Query)
    def here(self, me: Agent, message: Message) -> None:
        """Answer who asks whether this agent is there; what runs at a PoP its own agent tells."""
        if Bidder.name not in me.capabilities:
            kept = Inventory((), tuple(map(str, me.beliefs.held_by(me.name))))
            me.tell(Performative.INFORM, message.sender, message.conversation, kept)

    @hears(PassedGoal)
    @hears(Insight)
    @hears(ActionClaim)
    def spoke(self, me: Agent, message: Message) -> None:
        """Note that a loop is there: its duty is its own."""
        self._gone.pop(message.sender, None)
        if message.sender in self.settings.loops:
            self._heard[message.sender] = me.now
