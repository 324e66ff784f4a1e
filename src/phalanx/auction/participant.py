"""The bidder's side of NFV-A: one record a conversation, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from msgspec.structs import replace

from phalanx.auction.memory import ContractMemory, ReplyMemory
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid
from phalanx.domain.messages import CallForProposals, Content, Fact, Performative
from phalanx.domain.resources import NOTHING, Resources

NOTICE = "notice"
"""Conversation in which a holder tells that something it kept true is so no more."""
MEMORY = 512
"""Ended conversations that are kept in mind, so that late and doubled messages find theirs."""

LASTING = 64
"""Those of them, the latest, that are remembered beyond a crash."""


class Stage(Enum):
    """How far a conversation has come at the bidder."""

    BIDDING = "bidding"
    WAITING = "waiting"
    REFUSED = "refused"
    PROPOSED = "proposed"
    WORKING = "working"
    DONE = "done"
    OVER = "over"


class Contract:
    """One conversation as its bidder knows it."""

    __slots__ = (
        "bid",
        "bids",
        "call",
        "cause",
        "conversation",
        "deadline",
        "facts",
        "heard",
        "holds",
        "initiator",
        "reply",
        "stage",
    )

    def __init__(
        self, conversation: str, initiator: AgentId, call: CallForProposals, cause: str
    ) -> None:
        self.conversation = conversation
        self.initiator = initiator
        self.call = call
        self.cause = cause
        self.stage = Stage.BIDDING
        self.bids: tuple[Bid, ...] = ()
        self.bid: Bid | None = None
        """The bid that was accepted."""
        self.deadline = call.deadline
        """When the auction is decided, by the bidder's clock."""
        self.holds = False
        """Whether the infrastructure holds something for the proposal."""
        self.heard = 0.0
        """When the initiator was last heard of."""
        self.facts: tuple[Fact, ...] = ()
        self.reply: tuple[Performative, Content] | None = None
        """The last answer: repeated if the question is."""

    def memory(self) -> ContractMemory:
        """Return what is to be remembered of a conversation that was won."""
        return ContractMemory(
            self.conversation,
            self.initiator,
            replace(self.call, context=()),
            self.cause,
            self.stage is Stage.DONE,
            self.bid,
            self.facts,
            None if self.reply is None else ReplyMemory(*self.reply),
        )

    @classmethod
    def recalled(cls, old: ContractMemory) -> Contract:
        """Return the conversation as it is remembered."""
        contract = cls(old.conversation, old.initiator, old.call, old.cause)
        contract.stage = Stage.DONE if old.done else Stage.WORKING
        contract.bid = old.bid
        contract.facts = old.facts
        if old.reply is not None:
            contract.reply = old.reply.performative, old.reply.content
        return contract

    @property
    def age(self) -> tuple[float, str]:
        """Order among auctions: the elder comes first."""
        return self.call.since, self.conversation


class Contracts:
    """All conversations of one bidder; ended ones are forgotten in the order of their end."""

    __slots__ = ("_all", "_ended", "_held", "_waiting")

    def __init__(self) -> None:
        self._held: dict[str, Resources] = {}
        self._waiting: dict[str, Contract] = {}
        self._all: dict[str, Contract] = {}
        self._ended: dict[str, None] = {}

    def get(self, conversation: str) -> Contract | None:
        """Return a conversation; None if it was never heard of or is forgotten."""
        return self._all.get(conversation)

    def add(self, contract: Contract) -> None:
        """Begin to remember a conversation."""
        self._all[contract.conversation] = contract
        self._ended.pop(contract.conversation, None)

    def end(self, contract: Contract, stage: Stage) -> None:
        """Note that a conversation came to its end."""
        contract.stage = stage
        self.let_go(contract)
        self._waiting.pop(contract.conversation, None)
        self._ended[contract.conversation] = None
        while len(self._ended) > MEMORY:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._all.pop(oldest, None)

    def won(self) -> list[Contract]:
        """Return the conversations to remember: those at work, and the latest that are done."""
        done = [c for name in self._ended if (c := self._all[name]).stage is Stage.DONE]
        return [*done[-LASTING:], *self.working()]

    def recall(self, contract: Contract) -> None:
        """Take a conversation in that is remembered."""
        self.add(contract)
        if contract.stage is Stage.DONE:
            self.end(contract, Stage.DONE)

    def revive(self, contract: Contract) -> None:
        """Take an ended conversation up again: its initiator came back to this bidder."""
        self._ended.pop(contract.conversation, None)

    def hold(self, contract: Contract, resources: Resources) -> None:
        """Note that the infrastructure holds ``resources`` for a conversation."""
        contract.holds = True
        self._held[contract.conversation] = resources

    def let_go(self, contract: Contract) -> None:
        """Note that nothing is held for it any more."""
        contract.holds = False
        self._held.pop(contract.conversation, None)

    def holding(self) -> Iterator[Contract]:
        """Yield the conversations for which something is held."""
        return (self._all[conversation] for conversation in self._held)

    def wait(self, contract: Contract) -> None:
        """Let a conversation wait until others let go of what they hold."""
        self._waiting[contract.conversation] = contract

    def waiting(self) -> list[Contract]:
        """Return those that wait, the eldest first; they wait no more unless told so again."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, {}
        return sorted(waiting.values(), key=lambda contract: contract.age)

    def held(self) -> Resources:
        """Return what all open proposals hold together."""
        return sum(self._held.values(), NOTHING) if self._held else NOTHING

    def unfinished(self) -> list[Contract]:
        """Return those that are not decided yet."""
        stages = (Stage.BIDDING, Stage.WAITING, Stage.PROPOSED)
        return [c for c in self._all.values() if c.stage in stages]

    def working(self) -> Iterator[Contract]:
        """Yield the contracts that are being worked on."""
        return (c for c in list(self._all.values()) if c.stage is Stage.WORKING)
