"""Claims: who acts on a network function claims it at the function's own loop, its SEM.

Two loops may decide what excludes each other: one isolates what another wants to stay available.
Each function has one SEM, and that settles it by what was declared: the precedence of the actions,
then the level nearest to the function, then the name; never by who came last. What protects
(isolate, block, throttle) is done at once and told; a restart or more units are asked for first,
and not had while the SEM does not answer. A claim holds under a lease that its holder renews.

An agent that acts on something without a SEM claims nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from functools import partial
from typing import Any, ClassVar

from msgspec import Struct, field
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, plan, recalls, remembers
from phalanx.bdi.goals import GoalEnd, GoalInstance, GoalOutcome
from phalanx.bdi.steps import Adopt, Await, Believe, Body, Forget, PlanFailed, Step, Steps
from phalanx.coordination.contacts import MANAGERS, LoopContacts
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import PHYSICAL, AgentId, Loop
from phalanx.domain.goals import find_out, want
from phalanx.domain.messages import ActionClaim, Message, Performative, Refusal, Verdict
from phalanx.domain.predicates import AttackLoad, ClaimHeld

ISOLATE, BLOCK, THROTTLE, RESTART, SCALE = "isolate", "block", "throttle", "restart", "scale"
PRECEDENCE = (ISOLATE, BLOCK, THROTTLE, RESTART, SCALE)
"""Which of two actions goes first where they exclude each other, unless a slice says otherwise."""
ASKED_FIRST = frozenset({RESTART, SCALE})
"""Actions that wait for the SEM's word; the others protect, and are told."""
EXCLUDE = frozenset(
    frozenset(pair)
    for pair in (
        (ISOLATE, RESTART),
        (ISOLATE, SCALE),
        (RESTART, SCALE),
        (RESTART,),  # of two loops
        (SCALE,),
    )
)
"""Actions on one function that exclude each other: what isolates it, and what needs it, or what
would be done twice. Whether attackers make its load excludes more of it beside (``AttackLoad``)."""
LEVELS = {"network-function": 0, "sub-slice": 1, "slice": 2, "inter-slice": 3, "domain": 3}
"""How far from a function a scope is; agents of PoPs stand at it, all others are farther."""
FARTHEST = 4
FLAPS, FLAP_S = 3, 60.0
"""A claim that was granted and given back more often than that within so long is held down."""
MOST_HOLD_S = 600.0
MOST_CLAIMS = 64
"""Of one holder, at one function."""


class StandingClaim(Struct, frozen=True):
    """A claim that its holder has not given back, and whose lease has not run out."""

    holder: AgentId
    conversation: str
    claim: ActionClaim
    level: int
    until: float
    """When its lease ends."""
    granted: bool = False
    refused: bool = False
    """Whether it was said that it gives way."""

    def rank(self, precedence: Collection[str]) -> tuple[int, int, AgentId, str]:
        """Return its place among all claims: the first goes first."""
        return [*precedence].index(self.claim.action), self.level, self.holder, self.claim.goal


class _Flaps(Struct):
    """How often a claim was granted and given back."""

    ends: list[float] = field(default_factory=list)
    hold_s: float = 0.0
    until: float = 0.0


class ClaimsMemory(Struct, frozen=True):
    """What is claimed at a SEM."""

    claims: tuple[StandingClaim, ...] = ()


def order_of(declared: Iterable[str]) -> tuple[str, ...]:
    """Return the precedence of all actions: as declared, the rest as by default."""
    return tuple(dict.fromkeys((*declared, *PRECEDENCE)))


def settle(
    claims: Iterable[StandingClaim], precedence: Collection[str], *, attacked: bool = False
) -> dict[StandingClaim, StandingClaim | None]:
    """Return each claim with the one that it gives way to; None: it is in force.

    The answer depends on which claims there are, and on nothing else. While attackers make the
    load no claim to scale is in force, whatever goes first: it gives way to itself.
    """
    outcome: dict[StandingClaim, StandingClaim | None] = {}
    for claim in sorted(claims, key=lambda each: each.rank(precedence)):
        stronger: StandingClaim | None = None
        if attacked and claim.claim.action == SCALE:
            stronger = claim
        for other, against in outcome.items():
            pair = frozenset((claim.claim.action, other.claim.action))
            if against is None and pair in EXCLUDE and stronger is None:
                stronger = other
        outcome[claim] = stronger
    return outcome


class Arbitration(Capability):
    """At a SEM: settles what is claimed there. At all others: claims, and keeps to the answer."""

    name = "arbitration"
    parameters: ClassVar = {"claim_lease_s": 15.0}

    def __init__(self) -> None:
        self._claims: dict[tuple[AgentId, str, str], StandingClaim] = {}
        """By holder, action and what it is for."""
        self._judged: dict[tuple[AgentId, str, str], StandingClaim] = {}
        """Wishes to scale of which it is being found out whether attackers make the load."""
        self._attacked = False
        self.denied: dict[tuple[str, str], str] = {}
        """Why a SEM never agrees, by entity and action, as it has told this agent."""
        self._flaps: dict[tuple[AgentId, str], _Flaps] = {}
        self._timer = 0.0
        """When this agent looks for leases that have run out."""

    # -- who claims -----------------------------------------------------------------------

    @plan(ClaimHeld)
    def hold(self, me: Agent, goal: GoalInstance) -> Body:
        """ActionClaim, and renew it for as long as the goal stands."""
        held = goal.predicate_as(ClaimHeld)
        contacts, lease_s = me.capability(LoopContacts), me.parameter(self, "claim_lease_s")
        sems = contacts.settings.loops.values()
        sem = next((s for s in sems if s.entity == held.entity and _is_sem(s)), None)
        if sem is None:
            raise PlanFailed(f"no loop of {held.entity} is known")
        level = level_of(contacts, me.name)
        claim = ActionClaim(held.entity, held.action, held.slice, held.because, level, held.effect)
        acts = held.action not in ASKED_FIRST
        try:
            while True:
                answer: Message | str | None
                answer = yield from contacts.request(me, goal.id, sem.name, claim, settles=_decides)
                granted = not isinstance(answer, str)
                while isinstance(answer, Message):
                    said = answer.content
                    if answer.performative is not Performative.AGREE:
                        reason = said.reason if isinstance(said, Verdict | Refusal) else ""
                        if isinstance(said, Refusal) and said.final:
                            self.denied[held.entity, held.action] = reason
                        if acts:
                            yield Believe(held, value=False)  # what was done is to be undone
                        raise PlanFailed(reason or "it is over")
                    acts = True
                    yield Believe(held)
                    me.resume(f"granted {goal.id}", True)
                    answer = yield from contacts.listen(me, goal.id, sem.name, lease_s / 3)
                if not granted:
                    if held.action in ASKED_FIRST:
                        raise PlanFailed(f"{answer}, so it cannot be asked")
                    answer = yield from contacts.listen(me, goal.id, sem.name, lease_s / 3)
        finally:  # later: of an agent that died nothing is recorded any more
            me.later(self._give_back, me, me.cause, held, sem.name, goal.id)

    @staticmethod
    def _give_back(me: Agent, cause: str, held: ClaimHeld, sem: AgentId, conversation: str) -> None:
        me.cause = cause
        me.do_step(Forget(held))
        me.tell(Performative.CANCEL, sem, conversation, Verdict("it is not wanted any more"))

    # -- the SEM ------------------------------------------------------------------------

    @hears(ActionClaim)
    def claimed(self, me: Agent, message: Message) -> Steps:
        """Settle what is claimed, or renew it."""
        claim, sender = message.content, message.sender
        assert isinstance(claim, ActionClaim)
        key = sender, claim.action, claim.goal
        contacts, lease_s = me.capability(LoopContacts), me.parameter(self, "claim_lease_s")
        known, level = self._claims.get(key), level_of(contacts, sender)
        standing = StandingClaim(sender, message.conversation, claim, level, me.now + lease_s)
        objection = self._objection(me, sender, claim)
        if objection:
            self._refuse(me, standing, objection, final=_physical(contacts.own(me), claim.action))
            return
        me.changes += 1
        if known is not None and known.granted:
            self._claims[key] = replace(standing, granted=True)
            me.tell(Performative.AGREE, sender, message.conversation, Verdict())
            return
        loop = contacts.own(me)
        own_pop = sender == loop.pop  # it has looked itself, and claims for users
        if claim.action == SCALE and not own_pop and known is None:
            self._judged[key] = standing
            me.tell(Performative.AGREE, sender, message.conversation, Verdict(running=True))
        else:
            self._claims[key] = standing
        asks = any(each.claim.action == SCALE and each.holder != loop.pop for each in self._all())
        if asks and (key in self._judged or claim.action not in ASKED_FIRST):
            wanted = find_out(AttackLoad(loop.slices[0], loop.entity))
            if me.open_goal(wanted) is None:
                yield Forget(wanted.predicate)
                me.adopt(Adopt(wanted, PROTECT)).waiters.append(partial(self._found_out, me))
        if key not in self._judged:
            self._settle(me)
        self._watch(me)

    def _all(self) -> list[StandingClaim]:
        return [*self._claims.values(), *self._judged.values()]

    def _objection(self, me: Agent, sender: AgentId, claim: ActionClaim) -> str:
        contacts = me.capability(LoopContacts)
        mine, theirs = contacts.own(me), contacts.settings.loops.get(sender)
        if not _is_sem(mine) or claim.entity != mine.entity:
            return f"{me.name} is not the loop of {claim.entity}"
        if claim.action not in PRECEDENCE:
            return f"{claim.action} is no action; allowed are {', '.join(PRECEDENCE)}"
        unknown = theirs is None and sender not in contacts.settings.peers
        if (
            unknown
            or claim.slice not in mine.slices
            or (theirs and claim.slice not in theirs.slices)
        ):
            return f"{sender} has nothing to do with {claim.entity} for slice {claim.slice}"
        if _physical(mine, claim.action):
            return f"{mine.entity} is a physical function: it cannot be scaled"
        if theirs and not (claim.entity in contacts.entities(sender) or sender in mine.managers):
            return f"{sender} does not look after {claim.entity}"
        if not contacts.trusts(sender):
            return f"{sender} is not trusted enough"
        if theirs and theirs.scope in MANAGERS and claim.action not in ASKED_FIRST:
            return f"{sender} is a manager, which may ask for more or less, and cuts nothing off"
        flaps = self._flaps.get((sender, claim.action))
        if claim.action in ASKED_FIRST and flaps is not None and me.now < flaps.until:
            return f"it was given back {FLAPS + 1} times; held down for {flaps.hold_s:g} s"
        key = sender, claim.action, claim.goal
        if (
            key not in self._claims
            and sum(one.holder == sender for one in self._all()) >= MOST_CLAIMS
        ):
            return f"{MOST_CLAIMS} claims of {sender} stand already"
        return ""

    def _found_out(self, me: Agent, end: GoalEnd) -> None:
        """Settle the wishes to scale, now that it is known what makes the load."""
        me.cause = end.event
        loop = me.capability(LoopContacts).own(me)
        judged, self._judged = self._judged, {}
        if not end.achieved:
            for each in judged.values():
                self._refuse(me, each, f"nobody can tell what makes the load: {end.reason}")
            judged = {}
        else:
            self._attacked = me.beliefs.holds(AttackLoad(loop.slices[0], loop.entity))
        self._claims |= judged
        self._settle(me)

    def _settle(self, me: Agent) -> None:
        """Grant, refuse and overrule, as the claims that there are have it."""
        precedence = order_of(me.capability(LoopContacts).own(me).precedence)
        outcome = settle(self._claims.values(), precedence, attacked=self._attacked)
        cause = me.cause
        for key, each in list(self._claims.items()):
            stronger = outcome[each]
            me.cause = cause
            if stronger is None:
                if not each.granted:
                    self._claims[key] = replace(each, granted=True, refused=False)
                    self._record(me, "granted", each)
                    me.tell(Performative.AGREE, each.holder, each.conversation, Verdict())
                continue
            reason = "attackers make the load"
            if stronger is not each:
                reason = f"{stronger.claim.action} {self._whose(me, stronger, each)}"
            if each.granted:
                self._record(me, "overruled", each, reason)
                me.tell(Performative.CANCEL, each.holder, each.conversation, Verdict(reason))
            elif not each.refused:
                self._refuse(me, each, reason)
            self._claims[key] = replace(each, granted=False, refused=True)

    @staticmethod
    def _whose(me: Agent, stronger: StandingClaim, told: StandingClaim) -> str:
        """Return what the holder of a claim may know of one that goes first."""
        loops = me.capability(LoopContacts).settings.loops
        both = [loops[each.holder].slices for each in (stronger, told) if each.holder in loops]
        if len(both) == 2 and not {*both[0]} & {*both[1]}:
            return "of another slice goes first"
        return f"of {stronger.holder} goes first: {stronger.claim.because}"

    def _refuse(self, me: Agent, each: StandingClaim, reason: str, *, final: bool = False) -> None:
        self._record(me, "refused", each, reason)
        refusal = Refusal(reason, final=final)
        me.tell(Performative.REFUSE, each.holder, each.conversation, refusal)

    @staticmethod
    def _record(me: Agent, what: str, each: StandingClaim, reason: str = "") -> None:
        claim = each.claim
        about = {"conversation": each.conversation, "holder": each.holder, "entity": claim.entity}
        more = {"action": claim.action, "slice": claim.slice, "reason": reason or claim.because}
        me.cause = me.record(f"claim.{what}", **about, **more)

    @hears(Verdict)
    def given_back(self, me: Agent, message: Message) -> None:
        """Let what gave way have its turn."""
        if message.performative is not Performative.CANCEL:
            return
        for claims in self._claims, self._judged:
            for key, each in list(claims.items()):
                if (each.conversation, each.holder) == (message.conversation, message.sender):
                    del claims[key]
                    self._end(me, each, "given back")

    def _end(self, me: Agent, each: StandingClaim, reason: str) -> None:
        me.changes += 1
        if each.granted:
            self._record(me, "ended", each, reason)
            self._count(me, each)
        if not any(c.claim.action == SCALE for c in self._all()):
            self._attacked = False
        self._settle(me)

    def _count(self, me: Agent, each: StandingClaim) -> None:
        """Hold a claim down that comes and goes: twice as long each time."""
        flaps = self._flaps.setdefault((each.holder, each.claim.action), _Flaps())
        flaps.ends = [*(at for at in flaps.ends if at > me.now - FLAP_S), me.now]
        if len(flaps.ends) > FLAPS:
            flaps.hold_s = min(max(2 * flaps.hold_s, FLAP_S), MOST_HOLD_S)
            flaps.until, flaps.ends = me.now + flaps.hold_s, []
            reason = f"it came and went {FLAPS + 1} times in {FLAP_S:g} s: for {flaps.hold_s:g} s"
            self._record(me, "held", each, reason)
            if each.claim.action not in ASKED_FIRST:
                # What protects comes at once, so what it excludes has to wait until it settles.
                key = each.holder, each.claim.action, each.claim.goal
                self._claims[key] = replace(each, until=flaps.until)
                self._watch(me)

    def _watch(self, me: Agent) -> None:
        """Look for leases that run out, while there is any."""
        due = min((each.until for each in self._all()), default=0.0)
        if due and not me.now < self._timer <= due:
            self._timer = due
            me.call_at(due, partial(self._run_out, me))

    def _run_out(self, me: Agent) -> None:
        if me.now >= self._timer:
            self._timer = 0.0
        for claims in self._claims, self._judged:
            for key, each in list(claims.items()):
                if each.until <= me.now:
                    del claims[key]
                    self._end(me, each, "its lease ran out")
        self._watch(me)

    # -- memory -------------------------------------------------------------------------

    @remembers(ClaimsMemory)
    def remember(self, me: Agent) -> ClaimsMemory | None:  # noqa: ARG002  # all is its own
        """Return what is claimed here."""
        return ClaimsMemory(tuple(self._claims.values())) if self._claims else None

    @recalls
    def recall(self, me: Agent, part: ClaimsMemory | None, shift: float) -> None:
        """Go on with what was claimed; claim anew what this agent holds elsewhere."""
        for held, _ in list(me.beliefs):
            if isinstance(held, ClaimHeld):
                me.beliefs.remove(held)
        for each in part.claims if part is not None else ():
            key = each.holder, each.claim.action, each.claim.goal
            self._claims[key] = replace(each, until=each.until + shift)
        self._watch(me)


def claims_at(me: Agent, address: str) -> list[Loop]:
    """Return the SEMs of the functions at an address; none: nothing there has to be claimed."""
    if Arbitration.name not in me.capabilities:
        return []
    loops = me.capability(LoopContacts).settings.loops.values()
    return [loop for loop in loops if _is_sem(loop) and loop.address == address]


def holding(sem: Loop, action: str, because: str, effect: str = "") -> ClaimHeld:
    """Return what to want, or to drop, to claim an action at a SEM, or to give it back."""
    return ClaimHeld(sem.slices[0], sem.entity, action, effect, because)


def address_of(me: Agent, entity: str) -> str:
    """Return the address of a function; empty: it has no loop that is known here."""
    loops = me.capability(LoopContacts).settings.loops.values()
    return next((x.address for x in loops if _is_sem(x) and x.entity == entity), "")


def denied(me: Agent, sems: Iterable[Loop], action: str) -> str:
    """Return why one of some SEMs will never agree, as it has said; empty: none has said so."""
    for sem in sems:
        if reason := me.capability(Arbitration).denied.get((sem.entity, action)):
            return _refusal(sem, action, reason)
    return ""


def while_claimed(
    me: Agent, sems: Iterable[Loop], action: str, because: str, body: Body
) -> Generator[Step, Any, None]:
    """Run a part of a plan while all of some SEMs agree to it.

    Raises:
        PlanFailed: if one refuses, or cannot be asked.

    """
    goals: list[GoalInstance] = []
    try:
        for sem in sems:
            if reason := denied(me, [sem], action):
                raise PlanFailed(reason, final=True)
            goal = me.adopt(Adopt(want(holding(sem, action, because)), PROTECT))
            goal.child = True  # it lives and dies with this plan
            goals.append(goal)
            key = f"granted {goal.id}"
            goal.waiters.append(partial(_not_granted, me, key))
            answer = yield Await(key)
            if answer is not True:
                raise PlanFailed(_refusal(sem, action, answer))
        yield from body
    finally:
        for goal in goals:
            me.later(me.end_goal, goal, GoalOutcome.DROPPED, "it is done")


def _not_granted(me: Agent, key: str, end: GoalEnd) -> None:
    me.resume(key, end.reason)


def _refusal(sem: Loop, action: str, reason: str) -> str:
    return f"{sem.name} refuses a claim to {action} {sem.entity}: {reason}"


def _physical(loop: Loop, action: str) -> bool:
    return loop.form == PHYSICAL and action == SCALE


def _is_sem(loop: Loop) -> bool:
    return loop.scope == "network-function"


def level_of(contacts: LoopContacts, name: AgentId) -> int:
    """Return how far from a function an agent stands that asks for something."""
    loop = contacts.settings.loops.get(name)
    return 0 if loop is None else LEVELS.get(loop.scope, FARTHEST)


def _decides(message: Message) -> bool:
    said = message.content
    return not (isinstance(said, Verdict) and said.running)
