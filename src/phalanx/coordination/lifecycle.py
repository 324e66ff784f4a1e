"""The life of VNF instances, from download to end (dissertation, 5.1 and 7.2: Orchestrator)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any

from msgspec import Struct

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import Contract, ContractFulfilled, InstanceState, VnfInstance
from phalanx.auction.outlook import Gone, Outlook
from phalanx.auction.paths import download_time_s
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, perceives, plan, starts
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.bdi.steps import Achieve, Act, Adopt, Await, Believe, Body, PlanFailed, Step, Steps
from phalanx.coordination.measures import TIDY_UP
from phalanx.domain.actions import (
    Deploy,
    Hold,
    InstanceLost,
    Prefetch,
    Rechain,
    Release,
    Renew,
    Renewed,
    Scale,
    SiteState,
    Stop,
    Transfer,
)
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.goals import Predicate, avert, want
from phalanx.domain.messages import AttackReport, CallForProposals, Fact, Message
from phalanx.domain.predicates import OfEntity
from phalanx.domain.vnf import InstanceId, Vnfd

RENEWALS = 3
"""Renewals within one lease: two may be lost."""


UNASKED_S = 60.0
"""What was made for agents that are gone stays for so long: others may ask for it as well."""
OFTEN = 2
"""Calls for proposals after which a function is expected to be needed again."""


class NewVersion(Struct, frozen=True):
    """Percept: the repository offers another version of a VNF."""

    vnfd: Vnfd
    event: str = ""


class Updated(Predicate, frozen=True):
    """The work of ``instance`` is done by version ``version`` of its VNF."""

    instance: InstanceId
    version: str


class VnfLifecycle(Configured, Capability):
    """Downloads, starts, scales, replaces and ends the VNFs of its PoP."""

    name = "vnf-lifecycle"

    def __init__(self) -> None:
        self._images: tuple[str, ...] = ()
        """That are at this PoP."""
        self._called: Counter[str] = Counter()
        """How often each function was asked for."""
        self._tried: dict[str, float] = {}
        """When an image may be asked for again, in seconds."""
        self._unasked: dict[Predicate, float] = {}
        """Since when nobody is left who asked for what is made here."""

    @starts
    def begin(self, me: Agent) -> None:
        """Start the rounds in which leases are renewed and idle VNFs ended."""
        self._next_round(me)

    def renew_remembered(self, me: Agent, then: Callable[[], Steps | None]) -> None:
        """Renew at once what was deployed before a crash, whose leases may be about to run out.

        ``then`` is called when it is known what is still there. The rest is given up; an own goal
        that it worked on is auctioned now.
        """

        def renewed(outcome: ActionOutcome) -> Steps:
            if isinstance(outcome, Renewed):
                for goal in me.open_goals():
                    if goal.contract is None and goal.instance in outcome.gone:
                        me.suspend(goal)
                        goal.instance = None
                        me.go_on_with(goal)
            yield from self._renewed(me, outcome) or ()
            yield from then() or ()

        ids = tuple(instance.id for instance in me.capability(Bidder).inventory)
        if ids:
            me.perform(Renew(ids, self.settings.lease_s), renewed)
        else:
            me.do(then())

    @plan(ContractFulfilled)
    def instantiate_vnf(self, me: Agent, goal: GoalInstance) -> Body:
        """Bring the VNF of a won auction to life, and let it achieve what was auctioned."""
        bidder: Bidder = me.capability(Bidder)
        contract = bidder.contracts.get(goal.contract or "")
        if contract is None or contract.bid is None:
            raise PlanFailed("the contract is forgotten")
        call = contract.call
        gone = {me.name, *me.capability(Outlook).out}
        for fact in call.context:
            if fact.holder not in gone and me.beliefs.get(fact.predicate) is None:
                yield Believe(fact.predicate, fact.value, fact.holder, fact.mandate)
        instance = bidder.inventory.at_work(
            contract.conversation
        )  # since before a restart of this agent
        if instance is None:
            instance = self._at_hand(bidder, contract)
            if instance is None:
                instance = yield from self._deploy(me, bidder, contract)
            else:
                yield from self._reuse(me, bidder, contract, instance)
        try:
            end = yield Achieve(
                Adopt(
                    call.goal.goal,
                    traffic_mb_s=call.goal.traffic_mb_s,
                    tap=call.goal.tap,
                    instance=instance.id,
                    contract=contract.conversation,
                )
            )
        finally:
            bidder.inventory.release(contract.conversation, me.now)
        if not end.achieved:
            raise PlanFailed(end.reason or end.outcome.value, final=end.final)
        contract.facts = end.facts
        known = me.beliefs.get(call.goal.goal.predicate)
        if not end.facts and known is not None:
            fact = Fact(call.goal.goal.predicate, known.value, known.holder, known.mandate)
            contract.facts = (fact,)
        yield Believe(ContractFulfilled(contract.conversation))

    def _at_hand(self, bidder: Bidder, contract: Contract) -> VnfInstance | None:
        """Return the instance to use: the offered one, or one to share that came since the bid."""
        bid = contract.bid
        assert bid is not None
        if bid.reuse is None:
            vnfd = self.settings.catalogue[bid.vnf]
            shares = vnfd.shared and contract.call.goal.traffic_mb_s <= 0
            return bidder.inventory.available(vnfd) if shares else None
        instance = bidder.inventory.get(bid.reuse)
        kept = bid.kept and bidder.inventory.holder(contract.call.goal.goal.predicate) is instance
        if instance is None or not (kept if bid.kept else instance.available):
            raise PlanFailed("the instance that was offered is gone or busy")
        return instance

    def _deploy(
        self, me: Agent, bidder: Bidder, contract: Contract
    ) -> Generator[Step, Any, VnfInstance]:
        bid = contract.bid
        assert bid is not None
        vnfd = self.settings.catalogue[bid.vnf]
        instance = VnfInstance(f"{me.new_id('vnf')}/{vnfd.name}", vnfd, bid.units)
        instance.jobs[contract.conversation] = str(contract.call.goal.goal)
        self._accepted(me, contract, instance)
        contract.holds = None  # from here on it is the instance's
        yield from self._start(me, instance, bidder.hold_id(me, contract))
        return instance

    def _start(self, me: Agent, instance: VnfInstance, hold: str) -> Generator[Step, Any, None]:
        """Turn a hold into a running instance; give all back if that fails or is given up."""
        inventory, vnfd = me.capability(Bidder).inventory, instance.vnfd
        view, repository = me.capability(Outlook).view, self.settings.repository
        takes = download_time_s(view, repository, me.pop or "", vnfd)
        instance.due = me.now + (takes or 0.0)
        inventory.add(instance)
        try:
            yield Act(Deploy(instance.id, hold, vnfd, instance.units, self.settings.lease_s))
            instance.running = True
            me.changes += 1
        finally:
            if not instance.running:
                inventory.remove(instance.id)
                me.perform(Release(hold), lambda _: None)
                me.perform(Stop(instance.id), lambda _: None)
            for key in instance.awaited:
                me.resume(key)
        me.active.add(vnfd.name)
        newest = self.settings.catalogue[vnfd.name].version
        if newest != vnfd.version:  # it came out during the download
            yield Adopt(want(Updated(instance.id, newest)), TIDY_UP)

    def _reuse(
        self, me: Agent, bidder: Bidder, contract: Contract, instance: VnfInstance
    ) -> Generator[Step, Any, None]:
        bid = contract.bid
        assert bid is not None
        instance.jobs[contract.conversation] = str(contract.call.goal.goal)
        self._accepted(me, contract, instance)
        if bid.kept:
            return
        prepared = False
        try:
            traffic = contract.call.goal.traffic_mb_s
            hold = bidder.hold_id(me, contract)
            contract.holds = None
            if traffic > 0:
                yield Act(Rechain(instance.id, hold))
            yield Act(Release(hold))
            if not instance.running:
                if bidder.inventory.get(instance.id) is not None:  # its start has not failed yet
                    key = f"{contract.conversation}/{instance.id}"
                    instance.awaited.append(key)
                    yield Await(key)
                if not instance.running:
                    raise PlanFailed("the instance that was to be shared did not start")
            if bid.units > instance.units:
                yield Act(Scale(instance.id, bid.units, traffic))
                instance.units = bid.units
                me.changes += 1
            prepared = True
        finally:
            if not prepared:
                bidder.inventory.release(contract.conversation, me.now)

    def _accepted(self, me: Agent, contract: Contract, instance: VnfInstance) -> None:
        me.record(
            "contract.accepted",
            auction=contract.conversation,
            goal=str(contract.call.goal.goal),
            vnf=instance.vnfd.name,
            instance=instance.id,
            initiator=contract.initiator,
        )

    # -- images that may be needed ----------------------------------------------------

    @perceives(SiteState)
    def site_changed(self, me: Agent, percept: SiteState) -> None:
        """Bring what the strategy needs at an entry, as long as it is not here."""
        self._images = percept.images
        self._foresee(me, self.settings.foreseen or (), "attacks that enter here need it")

    @hears(AttackReport)
    def attack_reported(self, me: Agent, message: Message) -> None:
        """Try again what could not be brought: an attack may come to enter here."""
        assert isinstance(message.content, AttackReport)
        reason = f"an attack on {message.content.target} is reported"
        self._foresee(me, self.settings.foreseen or (), reason)

    @hears(CallForProposals)
    def called(self, me: Agent, message: Message) -> None:
        """Bring what is asked for again and again."""
        assert isinstance(message.content, CallForProposals)
        for function in me.library.achievers(message.content.goal.goal):
            self._called[function.name] += 1
            if self._called[function.name] >= OFTEN:
                reason = f"it was asked for {self._called[function.name]} times"
                self._foresee(me, (function.name,), reason)

    def _foresee(self, me: Agent, functions: Iterable[str], reason: str) -> None:
        if me.pop is None or me.draining or self.settings.foreseen is None:
            return
        for name in functions:
            vnfd = self.settings.catalogue.get(name)
            if vnfd is None or vnfd.image_mb <= 0 or vnfd.image in self._images:
                continue
            if me.now >= self._tried.get(vnfd.image, 0.0):
                self._tried[vnfd.image] = me.now + self.settings.retry_s
                me.perform(Prefetch(vnfd, reason), lambda _: None)

    # -- end of life ------------------------------------------------------------------

    def _next_round(self, me: Agent) -> None:
        me.call_at(me.now + self.settings.lease_s / RENEWALS, partial(self._round, me))

    def _round(self, me: Agent) -> None:
        """Renew what is in use; end what has been idle, or made for who is gone, for long."""
        inventory = me.capability(Bidder).inventory
        self._end_unasked(me)
        for instance in inventory:
            if instance.state is not InstanceState.IDLE:
                instance.idle_since = None
            elif instance.idle_since is None:
                instance.idle_since = me.now
            elif me.now - instance.idle_since >= self.settings.idle_s:
                self._end(me, instance, f"idle for {self.settings.idle_s:g} s")
        ids = tuple(instance.id for instance in inventory)
        if ids:
            me.perform(Renew(ids, self.settings.lease_s), partial(self._renewed, me))
        self._next_round(me)

    def _end_unasked(self, me: Agent) -> None:
        bidder, outlook = me.capability(Bidder), me.capability(Outlook)
        made = [e for instance in bidder.inventory for e in instance.measures]
        since, self._unasked = self._unasked, {}
        for effect in made:
            asked, cause = bidder.dependants.get(effect, {}), me.cause
            if not type(effect).ends_with_asker or asked.keys() - outlook.out:
                continue
            self._unasked[effect] = since.get(effect, me.now)
            if me.now - self._unasked[effect] >= UNASKED_S:
                me.cause = next((b.event for a in asked if (b := me.beliefs.get(Gone(a)))), cause)
                me.adopt(Adopt(avert(effect), TIDY_UP))
                me.cause = cause

    def _renewed(self, me: Agent, outcome: ActionOutcome) -> Steps | None:
        if not isinstance(outcome, Renewed):
            return None
        return [step for gone in outcome.gone for step in self._lost(me, gone, "its lease ended")]

    def end_all(self, me: Agent, reason: str) -> Steps:
        """End all instances: their agent leaves."""
        for instance in me.capability(Bidder).inventory:
            self._end(me, instance, reason)
            for effect in list(instance.measures):
                yield Believe(effect, value=False)

    def _end(self, me: Agent, instance: VnfInstance, reason: str) -> None:
        me.capability(Bidder).stop(me, instance, reason)

    def _retire(self, me: Agent, instance: VnfInstance) -> None:
        if not me.capability(Bidder).inventory.runs(instance.vnfd.name):
            me.active.discard(instance.vnfd.name)

    @perceives(InstanceLost)
    def instance_lost(self, me: Agent, percept: InstanceLost) -> Steps:
        """Give up what a dead instance worked on, and believe no more what it kept true."""
        return self._lost(me, percept.instance, percept.reason)

    def _lost(self, me: Agent, instance_id: InstanceId, reason: str) -> Steps:
        bidder: Bidder = me.capability(Bidder)
        instance = bidder.inventory.remove(instance_id)
        if instance is None:
            return
        instance.running = False
        for goal in me.open_goals():
            if goal.instance == instance_id:
                me.end_goal(goal, GoalOutcome.FAILED, f"its VNF is lost: {reason}")
        self._retire(me, instance)
        for effect in list(instance.measures):
            bidder.lost(me, effect)
            yield Believe(effect, value=False)
            relied = me.capability(Auctioneer).delegations.by_effect.get(effect)
            if relied is not None and isinstance(effect, OfEntity) and not me.draining:
                yield relied.adopt  # it lasts until a loop wants it no more, whatever is seen

    # -- another version --------------------------------------------------------------

    @perceives(NewVersion)
    def new_version(self, me: Agent, percept: NewVersion) -> Steps:
        """Replace the instances of an older version (lifecycle: update)."""
        for instance in me.capability(Bidder).inventory:
            own, newest = instance.vnfd, percept.vnfd
            if instance.running and own.name == newest.name and own.version != newest.version:
                yield Adopt(want(Updated(instance.id, newest.version)), TIDY_UP)

    @plan(Updated)
    def replace_vnf(self, me: Agent, goal: GoalInstance) -> Body:
        """Start the new version beside the old one, hand its work over, end the old one."""
        updated = goal.predicate_as(Updated)
        inventory = me.capability(Bidder).inventory
        old = inventory.get(updated.instance)
        if old is None:
            raise PlanFailed("the instance is gone")
        vnfd = self.settings.catalogue[old.vnfd.name]
        new = VnfInstance(f"{me.new_id('vnf')}/{vnfd.name}", vnfd, old.units)
        hold, resources = f"{new.id}@update", vnfd.scaled(new.units)
        try:
            yield Act(Hold(hold, hold, resources, (me.pop or "",), 0.0, self.settings.lease_s))
        except PlanFailed as refusal:
            reason = f"no room for version {vnfd.version} beside the old one: {refusal}"
            raise PlanFailed(reason) from refusal
        yield from self._start(me, new, hold)
        try:
            yield Act(Transfer(old.id, new.id))
        except PlanFailed:
            self._end(me, new, "it cannot take the old version's work over")
            raise
        new.jobs |= old.jobs
        new.measures |= old.measures
        new.temporary |= old.temporary
        for pursued in me.open_goals():
            if pursued.instance == old.id:
                pursued.instance = new.id
        self._end(me, old, f"replaced by version {vnfd.version}")
        yield Believe(updated)
