"""Managers of closed loops, and what a loop takes from them: they inform, and command nothing.

A manager of a domain, or the one end to end, is told of the troubles that its loops see, and issues
policies to them; so may any loop to those below it. A loop judges each policy by itself: by who
issues it, for which slice, how far that one is trusted, and whether it would take protection away.
So loops go on without managers, and one with real keys that was taken over can do little.

Source: seed 002, II.B: "the security policies defined by an external entity [...] or dynamically
issued by the DEs"; "Given the vital role played by TSMs, [...] their compromise can be detrimental
to the security and functioning of the entire network".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives, plan, recalls, remembers, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Believe, Body, Forget, Note, PlanFailed, Steps
from phalanx.coordination.arbitration import (
    ASKED_FIRST,
    EXCLUDE,
    PRECEDENCE,
    Arbitration,
    level_of,
    order_of,
)
from phalanx.coordination.contacts import LoopContacts, Quota
from phalanx.coordination.measures import TIDY_UP
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Predicate, want
from phalanx.domain.messages import (
    Message,
    Performative,
    Refusal,
    SecurityPolicy,
    TroubleReport,
    Verdict,
)
from phalanx.domain.predicates import EntityTrouble
from phalanx.slices.loop import ClosedLoop

LIMITS = {**LoopContacts.parameters, **ClosedLoop.parameters, **Arbitration.parameters}
"""Figures of loops that a policy may set, with their defaults."""
FACTOR = 4.0
"""So many times more or less than its default a figure may be; beyond that it would turn off what
it limits."""
ORDERS, ORDERS_S = 8, 60.0
"""Orders of one sender that are read within so long, in seconds."""
MOST_REPORTS = 256
"""Troubles of one loop that a manager keeps."""


class PolicyIssued(Predicate, frozen=True):
    """The loops that a policy is for have answered it."""

    slice: str
    number: int


class PolicyMemory(Struct, frozen=True):
    """The policies of each issuer, the latest for each slice."""

    policies: tuple[tuple[AgentId, SecurityPolicy], ...] = ()


class ManagedLoop(Capability):
    """Tells managers of troubles, keeps to policies, issues some, and refuses what would harm."""

    name = "managed-loop"

    def __init__(self) -> None:
        self._policies: dict[tuple[AgentId, str], SecurityPolicy] = {}
        """By issuer and slice."""
        self._orders = Quota(ORDERS, ORDERS_S)
        self._declared: tuple[tuple[str, ...], dict[str, float]] | None = None
        """Precedence and figures without a policy."""
        self._told: set[EntityTrouble] = set()
        """Troubles that managers know of."""
        self._issued: dict[int, SecurityPolicy] = {}
        self._number = 0

    # -- what is told -------------------------------------------------------------------------

    @when(EntityTrouble, always=True)
    def began(self, me: Agent, trouble: EntityTrouble) -> None:
        """Tell managers of a trouble that stands for longer than the slowest loop's timescale."""
        wait_s = me.parameter(me.capability(ClosedLoop), "loop_e2e_s")
        me.call_at(me.now + wait_s, partial(self._report, me, trouble))

    @when(EntityTrouble, False, always=True)
    @when(EntityTrouble, None, always=True)
    def over(self, me: Agent, trouble: EntityTrouble) -> None:
        """Tell them that it is over, if they know of it."""
        self._report(me, trouble)

    def _report(self, me: Agent, trouble: EntityTrouble) -> None:
        contacts, slice_name = me.capability(LoopContacts), trouble.slice
        stands = me.beliefs.holds(trouble) is True
        if stands == (trouble in self._told):
            return
        (self._told.add if stands else self._told.remove)(trouble)
        held = (policy for (_, of), policy in self._policies.items() if of == slice_name)
        more = (name for policy in held for name in policy.inform)
        report = TroubleReport(slice_name, trouble.entity, trouble.kind, stands)
        told = tuple(dict.fromkeys((*contacts.own(me).managers, *more)))
        for name in contacts.serving(told, slice_name):
            me.tell(Performative.INFORM, name, me.new_id("report"), report)

    # -- what is issued -----------------------------------------------------------------------

    def issue(self, me: Agent, policy: SecurityPolicy) -> Adopt:
        """Return the goal that the loops below, or those that this one manages, take a policy."""
        self._number += 1
        number = me.incarnation << 32 | self._number  # what was said in an earlier life is less
        self._issued[number] = replace(policy, number=number)
        me.changes += 1
        return Adopt(want(PolicyIssued(policy.slice, number)), TIDY_UP)

    @plan(PolicyIssued)
    def tell_all(self, me: Agent, goal: GoalInstance) -> Body:
        """Say it to each loop until that has answered, or is taken for gone."""
        wanted, contacts = goal.goal.predicate, me.capability(LoopContacts)
        assert isinstance(wanted, PolicyIssued)
        policy = self._issued.pop(wanted.number, None)
        if policy is None:
            raise PlanFailed("what was to be issued is not known any more")
        loops = contacts.settings.loops
        managed = tuple(x.name for x in loops.values() if me.name in x.managers)
        managed = managed or tuple(name for name in contacts.own(me).below if name in loops)
        refused: dict[AgentId, str] = {}
        below = [*contacts.serving(managed, policy.slice)]
        for name in below:
            answer = yield from contacts.request(
                me, me.new_id("policy"), name, policy, settles=lambda _: True
            )
            said = answer if isinstance(answer, str) else answer.content
            if not isinstance(said, Verdict):
                refused[name] = said.reason if isinstance(said, Refusal) else str(said)
        about = {"slice": policy.slice, "number": wanted.number, "reason": policy.reason}
        yield Note("policy.issued", {**about, "to": len(below), "refused": refused})
        yield Believe(wanted)

    # -- what is ordered ----------------------------------------------------------------------

    @hears(SecurityPolicy)
    def ordered(self, me: Agent, message: Message) -> None:
        """Keep to a policy from now on, or refuse it; of a flood only the first are read."""
        policy, sender = message.content, message.sender
        assert isinstance(policy, SecurityPolicy)
        contacts = me.capability(LoopContacts)
        beyond = self._orders.beyond(contacts.known(sender), me.now)
        if beyond > 1:
            return
        if beyond:
            objection = f"{ORDERS} orders in {ORDERS_S:g} s are read; what follows is not"
        elif self._policies.get((sender, policy.slice)) == policy:
            objection = ""  # its answer was lost
        else:
            objection = next(self._objections(me, sender, policy), "")
        if objection:
            contacts.refuse(me, sender, policy.slice, f"policy {policy.number}", objection)
            me.tell(Performative.REFUSE, sender, message.conversation, Refusal(objection))
            return
        if self._policies.get((sender, policy.slice)) != policy:
            self._policies[sender, policy.slice] = policy
            me.cause = me.record(
                "policy.taken",
                sender=sender,
                slice=policy.slice,
                number=policy.number,
                precedence=[*policy.precedence],
                limits=dict(policy.limits),
                inform=[*policy.inform],
                reason=policy.reason,
            )
            self._apply(me)
        me.tell(Performative.AGREE, sender, message.conversation, Verdict())

    def _objections(self, me: Agent, sender: AgentId, policy: SecurityPolicy) -> Iterator[str]:
        """Yield what forbids a policy: who issues it, trust, isolation, what it would turn off."""
        contacts, slice_name = me.capability(LoopContacts), policy.slice
        loops = contacts.settings.loops
        if me.name not in loops or contacts.relation(me, sender, slice_name) != "above":
            yield f"{sender} may issue no policy to {me.name} for slice {slice_name}"
        if not contacts.trusts(sender):
            yield f"{sender} is not trusted enough"
        last = self._policies.get((sender, slice_name))
        if last is not None and policy.number <= last.number:
            yield f"policy {policy.number} is no newer than {last.number}, which holds"
        changes = policy.precedence or policy.limits
        trouble = next(iter(me.beliefs.matching(EntityTrouble, slice=slice_name)), None)
        if changes and trouble is not None:
            yield f"nothing that protects is changed while {trouble} stands"
        yield from _disorder(policy.precedence)
        for name, value in policy.limits:
            if name not in LIMITS:
                yield f"{name} is no figure of a loop; allowed are {', '.join(sorted(LIMITS))}"
                continue
            low, high = LIMITS[name] / FACTOR, LIMITS[name] * FACTOR
            if not low <= value <= high:
                yield f"{name} {value:g} would turn off what it limits; {low:g} to {high:g} may be"
        for name in policy.inform:
            if name not in loops or slice_name not in loops[name].slices:
                yield f"{name} may know nothing of slice {slice_name}"
            elif not contacts.trusts(name):
                yield f"{name} is not trusted enough to know of slice {slice_name}"

    def _apply(self, me: Agent) -> None:
        """Go by all policies: of two that differ that of the issuer nearest to the loop counts.

        As with claims the level decides, then the name; never which was issued last.
        """
        contacts = me.capability(LoopContacts)
        settings, own = contacts.settings, contacts.own(me)
        if self._declared is None:
            self._declared = own.precedence, {**me.parameters}
        precedence, figures = self._declared
        ranked = sorted(self._policies, key=lambda key: (level_of(contacts, key[0]), key))
        for key in reversed(ranked):
            precedence = self._policies[key].precedence or precedence
            figures = {**figures, **dict(self._policies[key].limits)}
        me.parameters = figures
        mine = replace(settings.loops[me.name], precedence=precedence)
        settings.loops = {**settings.loops, me.name: mine}

    # -- memory -------------------------------------------------------------------------------

    @remembers(PolicyMemory)
    def remember(self, me: Agent) -> PolicyMemory | None:  # noqa: ARG002  # all is its own
        """Return the policies that hold: old ones stay refused after a restart, too."""
        held = tuple((issuer, policy) for (issuer, _), policy in self._policies.items())
        return PolicyMemory(held) if held else None

    @recalls
    def recall(self, me: Agent, part: PolicyMemory | None, shift: float) -> None:  # noqa: ARG002
        """Go by them again."""
        for issuer, policy in part.policies if part is not None else ():
            self._policies[issuer, policy.slice] = policy
        if self._policies:
            self._apply(me)


class SecurityManager(Capability):
    """Keeps what its loops report, and issues what an operator wants."""

    name = "security-manager"

    def __init__(self) -> None:
        self._reports: dict[EntityTrouble, set[AgentId]] = {}
        """Which loops say that a trouble stands."""

    @hears(TroubleReport)
    def informed(self, me: Agent, message: Message) -> Steps:
        """Believe in a trouble for as long as a loop that this one manages says that it stands."""
        report, sender = message.content, message.sender
        assert isinstance(report, TroubleReport)
        contacts = me.capability(LoopContacts)
        loops = contacts.settings.loops
        loop, told = loops.get(sender), f"report of {report.kind}"
        if loop is None or report.slice not in loop.slices or not contacts.trusts(sender):
            reason = f"{sender} is no loop of slice {report.slice}, or not trusted enough"
            contacts.refuse(me, sender, report.slice, told, reason)
            return
        serving = (each for each in loops.values() if report.slice in each.slices)
        if all(each.entity != report.entity for each in serving):
            reason = f"slice {report.slice} has no part {report.entity}"
            contacts.refuse(me, sender, report.slice, told, reason)
            return
        trouble = EntityTrouble(report.slice, report.entity, report.kind)
        if report.stands and sum(sender in by for by in self._reports.values()) >= MOST_REPORTS:
            reason = f"{MOST_REPORTS} reports of {sender} stand already"
            contacts.refuse(me, sender, report.slice, told, reason)
            return
        by = self._reports.setdefault(trouble, set())
        if report.stands:
            by.add(sender)
            yield Believe(trouble)
            return
        by.discard(sender)
        if not by:
            del self._reports[trouble]
            yield Forget(trouble)

    @perceives(SecurityPolicy)
    def wanted(self, me: Agent, policy: SecurityPolicy) -> Steps:
        """Issue what an operator wants."""
        yield me.capability(ManagedLoop).issue(me, policy)


def _disorder(precedence: tuple[str, ...]) -> Iterator[str]:
    """Yield what forbids an order of actions."""
    for action in set(precedence) - {*PRECEDENCE}:
        yield f"{action} is no action; allowed are {', '.join(PRECEDENCE)}"
    ranked = order_of(precedence)
    for rank, action in enumerate(ranked):
        for later in ranked[rank:] if action in ASKED_FIRST else ():
            if later not in ASKED_FIRST and frozenset((action, later)) in EXCLUDE:
                yield f"{action} would go before {later}, which protects"
