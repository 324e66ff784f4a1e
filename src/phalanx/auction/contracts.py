"""What a bidder has to keep count of: its conversations, and the VNF instances that it runs.

What is remembered beyond a crash stands beside what it is made from.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Predicate
from phalanx.domain.messages import CallForProposals, Content, Fact, InstanceInfo, Performative
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import InstanceId, Vnfd

NOTICE = "notice"
"""Conversation in which a holder says that something that it kept true no longer is."""
RESTARTED = "its agent was restarted"

MEMORY = 512
"""Ended conversations that are kept in mind, so that late and doubled messages find theirs."""
LASTING = 64
"""Those of them, the latest, that are remembered beyond a crash."""


class ContractFulfilled(Predicate, frozen=True):
    """The goal that the contract of ``conversation`` is about was achieved."""

    conversation: str


# -- conversations ----------------------------------------------------------------------------


class ContractStage(Enum):
    """How far a conversation has come at the bidder."""

    BIDDING = "bidding"
    WAITING = "waiting"
    REFUSED = "refused"
    PROPOSED = "proposed"
    WORKING = "working"
    DONE = "done"
    OVER = "over"


class LastReply(Struct, frozen=True):
    """The last answer in a conversation: repeated if the question is."""

    performative: Performative
    content: Content


class Contract(Struct):
    """One conversation as its bidder knows it."""

    conversation: str
    initiator: AgentId
    call: CallForProposals
    cause: str
    stage: ContractStage = ContractStage.BIDDING
    bids: tuple[Bid, ...] = ()
    seen: dict[str, Any] = {}
    """What the bids were priced by, as the log shows it; until it does."""
    bid: Bid | None = None
    """The bid that was accepted."""
    digest: str = ""
    """Of what the award has fixed beside it."""
    deadline: float = 0.0
    """When the auction is decided, in seconds of the bidder's clock."""
    holds: Resources | None = None
    """What the infrastructure holds for the proposal."""
    evicts: tuple[InstanceId, ...] = ()
    """Idle instances that are stopped for it if it is awarded; nothing is held until then."""
    heard: float = 0.0
    """When the initiator was last heard of."""
    facts: tuple[Fact, ...] = ()
    reply: LastReply | None = None

    def memory(self) -> Contract:
        """Return what is to be remembered of a conversation that was won."""
        call = replace(self.call, context=())  # which has become beliefs
        return replace(self, call=call, bids=(), evicts=(), deadline=0.0, holds=None, heard=0.0)

    @property
    def age(self) -> tuple[float, str]:
        """Order among auctions: the elder comes first."""
        return self.call.since, self.conversation


class Contracts:
    """All conversations of one bidder; ended ones are forgotten in the order of their end."""

    def __init__(self) -> None:
        self._open: dict[str, Contract] = {}
        self._ended: dict[str, Contract] = {}

    def get(self, conversation: str) -> Contract | None:
        """Return a conversation; None if it was never heard of or is forgotten."""
        return self._open.get(conversation) or self._ended.get(conversation)

    def add(self, contract: Contract) -> None:
        """Begin to remember a conversation, or take an ended one up again."""
        self._ended.pop(contract.conversation, None)
        self._open[contract.conversation] = contract

    def end(self, contract: Contract, stage: ContractStage) -> None:
        """Note that a conversation came to its end."""
        contract.stage, contract.holds = stage, None
        if stage is ContractStage.DONE:  # nothing can be awarded any more
            contract.bids, contract.call = (), replace(contract.call, context=())
        self._open.pop(contract.conversation, None)
        self._ended.pop(contract.conversation, None)
        self._ended[contract.conversation] = contract
        if len(self._ended) > MEMORY:
            del self._ended[next(iter(self._ended))]

    def at(self, *stages: ContractStage) -> list[Contract]:
        """Return those not ended that have come to one of the ``stages``; all if none is named."""
        return [each for each in self._open.values() if not stages or each.stage in stages]

    def working(self) -> list[Contract]:
        """Return the contracts that are being worked on."""
        return self.at(ContractStage.WORKING)

    def holding(self) -> list[Contract]:
        """Return the conversations for which the infrastructure holds something."""
        return [contract for contract in self._open.values() if contract.holds is not None]

    def won(self) -> tuple[Contract, ...]:
        """Return what to remember: the contracts at work, and the latest that are done."""
        done = [c for c in self._ended.values() if c.stage is ContractStage.DONE]
        return tuple(contract.memory() for contract in (*done[-LASTING:], *self.working()))


# -- instances --------------------------------------------------------------------------------


class InstanceState(Enum):
    """Where an instance is in its life."""

    DEPLOYING = "deploying"
    BUSY = "busy"
    IDLE = "idle"


class MeasureMemory(Struct, frozen=True):
    """Something that an instance keeps true."""

    effect: Predicate
    measure: str


class InstanceMemory(Struct, frozen=True):
    """A ``VnfInstance`` as it is remembered."""

    id: InstanceId
    vnfd: Vnfd
    units: int
    running: bool
    jobs: dict[str, str] = {}
    measures: tuple[MeasureMemory, ...] = ()
    temporary: tuple[MeasureMemory, ...] = ()


class DependantMemory(Struct, frozen=True):
    """An agent that relies on something that is kept true, and the goal that it auctioned."""

    effect: Predicate
    agent: AgentId
    goal: ConstrainedGoal


class BidderMemory(Struct, frozen=True):
    """The VNF inventory, the agents that depend on it, the contracts, and an operator's wish."""

    instances: tuple[InstanceMemory, ...] = ()
    dependants: tuple[DependantMemory, ...] = ()
    contracts: tuple[Contract, ...] = ()
    paused: bool = False


class VnfInstance:
    """One VNF instance of this agent."""

    def __init__(
        self, instance_id: InstanceId, vnfd: Vnfd, units: int, *, running: bool = False
    ) -> None:
        self.id = instance_id
        self.vnfd = vnfd
        self.units = units
        self.running = running
        self.due = 0.0
        """When it is expected to run."""
        self.awaited: list[str] = []
        """Keys to resume once it runs, or will never run: the plans that are to share it."""
        self.jobs: dict[str, str] = {}
        """Goals that it works on, by conversation."""
        self.measures: dict[Predicate, str] = {}
        """What it keeps true, with the id of the measure."""
        self.temporary: dict[Predicate, str] = {}
        """Measures that stand only while a plan runs: those not yet confirmed, and splits."""
        self.idle_since: float | None = None

    @property
    def state(self) -> InstanceState:
        """Return where it is in its life."""
        if not self.running:
            return InstanceState.DEPLOYING
        return InstanceState.BUSY if self.jobs or self.measures else InstanceState.IDLE

    @property
    def available(self) -> bool:
        """Whether it can take on another goal: one to be shared even before it runs."""
        return self.vnfd.shared or self.state is InstanceState.IDLE

    def memory(self) -> InstanceMemory:
        """Return what is to be remembered of it."""
        return InstanceMemory(
            self.id,
            self.vnfd,
            self.units,
            self.running,
            dict(self.jobs),
            tuple(MeasureMemory(*measure) for measure in self.measures.items()),
            tuple(MeasureMemory(*measure) for measure in self.temporary.items()),
        )

    @classmethod
    def recalled(cls, old: InstanceMemory) -> VnfInstance:
        """Return the instance as it is remembered."""
        instance = cls(old.id, old.vnfd, old.units, running=old.running)
        instance.jobs = dict(old.jobs)
        instance.measures = {m.effect: m.measure for m in old.measures}
        instance.temporary = {m.effect: m.measure for m in old.temporary}
        return instance

    def info(self) -> InstanceInfo:
        """Return what a query is told."""
        made = tuple(map(str, self.measures))
        goals = (*self.jobs.values(), *made)
        return InstanceInfo(
            self.id, self.vnfd.name, self.vnfd.version, self.units, self.state.value, goals, made
        )


class VnfInventory:
    """All VNF instances of one agent, in the order in which they came."""

    def __init__(self) -> None:
        self._instances: dict[InstanceId, VnfInstance] = {}

    def add(self, instance: VnfInstance) -> None:
        """Note a new instance."""
        self._instances[instance.id] = instance

    def get(self, instance_id: InstanceId | None) -> VnfInstance | None:
        """Return an instance; None if it is gone."""
        return self._instances.get(instance_id) if instance_id is not None else None

    def remove(self, instance_id: InstanceId) -> VnfInstance | None:
        """Forget an instance and return it."""
        return self._instances.pop(instance_id, None)

    def available(self, vnfd: Vnfd, offered: Container[InstanceId] = ()) -> VnfInstance | None:
        """Return the instance of ``vnfd`` to use again: the first that can take a goal.

        One that is ``offered`` to another auction counts only if it serves several goals.
        """
        for instance in self._instances.values():
            own = instance.vnfd
            if (
                (own.name, own.version) == (vnfd.name, vnfd.version)
                and instance.available
                and (own.shared or instance.id not in offered)
            ):
                return instance
        return None

    def idle(self, but: Container[InstanceId] = ()) -> list[VnfInstance]:
        """Return the idle instances, the longest idle first, without those in ``but``."""
        idle = (i for i in self if i.state is InstanceState.IDLE and i.id not in but)
        return sorted(idle, key=lambda i: (i.idle_since is None, i.idle_since or 0.0, i.id))

    def holder(self, effect: Predicate) -> VnfInstance | None:
        """Return the instance that keeps ``effect`` true."""
        return next((i for i in self._instances.values() if effect in i.measures), None)

    def at_work(self, conversation: str) -> VnfInstance | None:
        """Return the instance that runs for the contract of ``conversation`` already."""
        return next((i for i in self if i.running and conversation in i.jobs), None)

    def release(self, conversation: str, now: float) -> None:
        """Note that nothing works for ``conversation`` any more."""
        for instance in self._instances.values():  # another version may have taken the job over
            if instance.jobs.pop(conversation, None) is not None:
                instance.idle_since = now if instance.state is InstanceState.IDLE else None

    def runs(self, vnf: str) -> bool:
        """Whether an instance of ``vnf`` is running."""
        return any(i.running and i.vnfd.name == vnf for i in self._instances.values())

    def __iter__(self) -> Iterator[VnfInstance]:
        return iter(list(self._instances.values()))

    def __len__(self) -> int:
        return len(self._instances)
