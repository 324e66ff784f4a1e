"""What the auction's capabilities remember beyond a crash of their agent."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.goals import ConstrainedGoal, Goal, Predicate
from phalanx.domain.messages import CallForProposals, Content, Fact, Performative
from phalanx.domain.network import PopId
from phalanx.domain.vnf import InstanceId, Vnfd


class LifeMemory(Struct, frozen=True):
    """What is known of the life of another agent."""

    agent: AgentId
    pop: PopId | None
    incarnation: int
    alive: bool
    left: bool


class OutlookMemory(Struct, frozen=True):
    """Of the view, only what changes beliefs; the rest is heard again."""

    lives: tuple[LifeMemory, ...] = ()
    peers: tuple[AgentId, ...] = ()
    """Who was asked for proposals: a registry that cannot be read at the start says nothing."""


class JobMemory(Struct, frozen=True):
    """A goal that an instance works on."""

    conversation: str
    goal: str


class MeasureMemory(Struct, frozen=True):
    """Something that an instance keeps true."""

    effect: Predicate
    measure: str


class InstanceMemory(Struct, frozen=True):
    """An instance; see ``auction.estate.Instance``."""

    id: InstanceId
    vnfd: Vnfd
    units: int
    running: bool
    jobs: tuple[JobMemory, ...] = ()
    measures: tuple[MeasureMemory, ...] = ()
    passing: tuple[MeasureMemory, ...] = ()


class CustomerMemory(Struct, frozen=True):
    """Who relies on something that is kept true, and the goal that was auctioned for it."""

    effect: Predicate
    customer: AgentId
    goal: ConstrainedGoal


class ReplyMemory(Struct, frozen=True):
    """The last answer in a conversation."""

    performative: Performative
    content: Content


class ContractMemory(Struct, frozen=True):
    """A conversation that was won; see ``auction.participant.Contract``."""

    conversation: str
    initiator: AgentId
    call: CallForProposals
    """Without its context, which has become beliefs."""
    cause: str
    done: bool
    bid: Bid | None = None
    facts: tuple[Fact, ...] = ()
    reply: ReplyMemory | None = None


class BidderMemory(Struct, frozen=True):
    """The estate, those who rely on it, and the contracts."""

    instances: tuple[InstanceMemory, ...] = ()
    customers: tuple[CustomerMemory, ...] = ()
    contracts: tuple[ContractMemory, ...] = ()


class RefusalMemory(Struct, frozen=True):
    """Why a bidder did not bid."""

    bidder: AgentId
    reason: str


class AuctionMemory(Struct, frozen=True):
    """An auction whose winner is at work; see ``auction.initiator.Initiator``."""

    conversation: str
    call: CallForProposals
    """Without its context; its times are those of the auctioneer's clock."""
    bidders: tuple[AgentId, ...]
    ranking: tuple[RankedBid, ...]
    winner: RankedBid
    failed: tuple[AgentId, ...] = ()
    refusals: tuple[RefusalMemory, ...] = ()
    turn: int = 1


class DelegatedMemory(Struct, frozen=True):
    """A goal that another agent keeps achieved."""

    effect: Predicate
    holder: AgentId
    goal: Goal
    priority: int
    scope: str | None
    traffic_mb_s: float
    tap: PopId


class AuctioneerMemory(Struct, frozen=True):
    """What others do for this agent."""

    delegated: tuple[DelegatedMemory, ...] = ()
    auctions: tuple[AuctionMemory, ...] = ()
    undecided: tuple[str, ...] = ()
    """Conversations of auctions without a winner."""
