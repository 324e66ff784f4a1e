"""Messages between agents: FIPA performatives, typed contents."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId, AgentState
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Goal, Predicate
from phalanx.domain.network import PopId
from phalanx.domain.trust import Challenge, EvidenceReply, SignedReport, Suspicion


class Performative(Enum):
    """The communicative acts in use (FIPA00037, FIPA contract net FIPA00029)."""

    CFP = "cfp"
    PROPOSE = "propose"
    REFUSE = "refuse"
    ACCEPT = "accept-proposal"
    REJECT = "reject-proposal"
    AGREE = "agree"
    INFORM = "inform"
    FAILURE = "failure"
    REQUEST = "request"
    CANCEL = "cancel"
    QUERY = "query-ref"


class Fact(Struct, frozen=True):
    """A belief as it travels: a predicate, whether it holds, and who keeps it so."""

    predicate: Predicate
    value: bool = True
    holder: AgentId | None = None
    """The agent whose measure makes it true and who can undo it; None: plain knowledge."""
    mandate: str = ""
    """What the holder asks for before it undoes it. A call for proposals, which goes to many,
    leaves it out; the award and the result have it."""


class CallForProposals(Struct, frozen=True, tag=True):
    """Content of a cfp: the constrained goal and what is already known about it."""

    goal: ConstrainedGoal
    deadline: float
    """Time until which replies are read, in seconds of the auctioneer's clock."""
    since: float = 0.0
    """When this goal was first auctioned: of auctions that want the same, the elder goes first."""
    context: tuple[Fact, ...] = ()
    """Measures in force that the winner may have to undo."""


class Proposal(Struct, frozen=True, tag=True):
    """Content of a propose: one bid for each VNF that the bidder could use, best first."""

    bids: tuple[Bid, ...]


class Refusal(Struct, frozen=True, tag=True):
    """Content of a refuse: why the agent does not bid, or does not agree to a claim."""

    reason: str
    transient: bool = False
    """Whether the reason is what the agent holds for other proposals, and will pass."""
    final: bool = False
    """Of a claim: the reason will never pass, so asking again is useless."""
    nearest: dict[str, float] = {}
    """Of a call that states limits: by the names of the terms that fall short, the nearest value
    that the agent can hold."""


class Award(Struct, frozen=True, tag=True):
    """Content of an accept-proposal: which bid won; carries all that a late winner needs."""

    bid: Bid
    cfp: CallForProposals
    digest: str = ""
    """Of what both sides hold from now on, where the goal says what that is."""


class Verdict(Struct, frozen=True, tag=True):
    """Content of a reject-proposal, of an agree or of a failure."""

    reason: str = ""
    final: bool = False
    """Of a failure: no other bidder would fare better."""
    running: bool = False
    """Of an agree: the winner's VNF runs."""


class Result(Struct, frozen=True, tag=True):
    """Content of an inform: the facts that achieving the goal brought about."""

    facts: tuple[Fact, ...] = ()
    report: SignedReport | None = None
    """Of a winner, where agents attest each other: what of that it keeps in force."""


class UndoRequest(Struct, frozen=True, tag=True):
    """Content of a request: bring about a goal that only the receiver can (undo a measure)."""

    goal: Goal
    mandate: str = ""


class Advertisement(Struct, frozen=True, tag=True):
    """Content of an inform: states of agents and PoPs as the sender knows them."""

    states: tuple[AgentState, ...]


class Digest(Struct, frozen=True, tag=True):
    """Content of a query-ref: a fingerprint of the sender's view, to find out who is behind."""

    digest: int
    stamps: tuple[tuple[AgentId, int, int], ...] = ()
    """(agent, incarnation, version) of each entry; empty in the first exchange."""


class OpenGoal(Struct, frozen=True):
    """A goal that another agent should take over if its owner falls."""

    id: str
    """The goal's id at its owner."""
    goal: Goal
    priority: int
    tap: PopId
    traffic_mb_s: float
    standing: bool
    cause: str
    holder: AgentId | None = None
    """Who keeps it achieved; None: nobody does yet."""
    mandate: str = ""
    """Of the fact that a third agent keeps."""


class Heartbeat(Struct, frozen=True, tag=True):
    """Content of an inform to the guardian: I live, and these goals are open."""

    incarnation: int
    goals: tuple[OpenGoal, ...] = ()
    remembers: int = 0
    """As in ``AgentState``."""


class Return(Struct, frozen=True, tag=True):
    """Content of a query-ref: I am back with my memory; what of it is yours now."""

    goals: tuple[OpenGoal, ...] = ()
    """What the sender pursues, unless another agent took it over."""
    contracts: tuple[str, ...] = ()
    """Conversations in which it works for the receiver, unless that gave the work to another."""
    measures: tuple[Fact, ...] = ()
    """What it keeps true for the receiver, unless another does so now."""


class Welcome(Struct, frozen=True, tag=True):
    """Content of the inform that answers a return: what the receiver is to leave alone."""

    goals: tuple[str, ...] = ()
    """Ids of goals that the sender goes on with, or has achieved."""
    contracts: tuple[str, ...] = ()
    """Conversations in which others work now, or nobody has to."""
    measures: tuple[Predicate, ...] = ()
    """What others keep true now."""


class Handover(Struct, frozen=True, tag=True):
    """Content of a request: I leave; see to these goals.

    A goal without a holder is to be pursued; one that the sender holds needs another holder,
    and stays in force until there is one; one that a third agent holds is to be watched over.
    """

    goals: tuple[OpenGoal, ...]


class Taken(Struct, frozen=True, tag=True):
    """Content of the inform that answers a handover, by ids of its goals."""

    goals: tuple[str, ...] = ()
    """Those that the sender has seen to: the receiver need not any more."""
    under_way: tuple[str, ...] = ()
    """Those for which it looks for another holder."""
    declined: tuple[str, ...] = ()
    """Those that it cannot see to."""


class Pursued(Struct, frozen=True, tag=True):
    """Duties that the sender sees to.

    As a query-ref to whose duties they are: are you at work for them? As the inform that answers
    it: for these I am.
    """

    goals: tuple[Goal, ...]


class Query(Struct, frozen=True, tag=True):
    """Content of a query-ref: which VNFs run at the receiver."""


class InstanceInfo(Struct, frozen=True):
    """One VNF instance as its agent answers a query."""

    instance: str
    vnf: str
    version: str
    units: int
    state: str
    goals: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    """Those of them that are in force, and not only worked at."""


class Inventory(Struct, frozen=True, tag=True):
    """Content of the inform that answers a query."""

    instances: tuple[InstanceInfo, ...]
    kept: tuple[str, ...] = ()
    """All that the sender keeps true, as what an agreement fixes, which no instance does."""


class AttackReport(Struct, frozen=True, tag=True):
    """Content of an inform: what attacks an address, as seen where its service is watched.

    The receiver blocks nothing on this word alone: it looks at what enters the network at its
    own PoP.
    """

    target: str
    kinds: tuple[str, ...] = ()
    """Kinds of attacks that were found; empty: the service suffers, and it is not known why."""
    sources: tuple[str, ...] = ()
    """Addresses that were convicted and still arrive."""
    shared: tuple[str, ...] = ()
    """Those of them behind which users are, too: the target answered some of what they asked."""
    over_udp: bool = False
    """Whether the target answered anybody over UDP lately: not all of that may be dropped."""
    crowd: tuple[str, ...] = ()
    """Addresses that came and take more of its full link than its users get. The agent that says
    so may hold them to what users leave, by its own word."""
    rest_mb_s: float = 0.0
    """That rate, of all of them together."""
    usual: tuple[str, ...] = ()
    """Sources of UDP that its users were served beside, and that are not among the ``sources``."""


UserRate = Annotated[float, Meta(ge=0, le=1e9)]
"""In KB/s."""


class UsualService(Struct, frozen=True, tag=True):
    """Content of an inform: what users of an address get while nothing is wrong.

    Who takes over the watch in the middle of an attack could not learn it any more.
    """

    target: str
    usual: tuple[UserRate, ...]
    """What one of them got in the last looks."""
    served: tuple[tuple[str, UserRate], ...]
    """Those that get most, with how much."""


class PassedGoal(Struct, frozen=True, tag=True):
    """Content of a request: see to this, which the sender alone cannot or may not.

    Upwards it is an escalation, downwards a delegation. It is said again until it is answered: by
    an agree, then by an inform with a result or by a failure.
    """

    goal: Goal
    slice: str
    """The slice that it is about; nobody hears of it who does not serve that slice."""
    reason: str
    """Why it is passed on, in words."""
    trail: tuple[AgentId, ...] = ()
    """The loops that it came through, the sender last; it is passed to none of them again."""
    tried: tuple[str, ...] = ()
    """What has failed so far, in words."""
    instead_of: AgentId = ""
    """The loop that does not answer, whose duty falls to the receiver; empty: the receiver's."""


class Insight(Struct, frozen=True, tag=True):
    """Content of an inform: what a loop sees that is no trouble of its own, such as a rate."""

    slice: str
    entity: str
    kind: str
    """Such as ``signalling-requests``; the set is open."""
    value: float
    unit: str = ""
    reason: str = ""
    """What it means, in words; empty: the figure says it all."""
    whole: float = 0.0
    """What the figure is a part of, such as requests of which so many were answered; 0: nothing."""


class ActionClaim(Struct, frozen=True, tag=True):
    """Content of a request to the loop of an entity: the sender acts on it, or wants to.

    It is said again until it is answered, and while it is in force: that renews its lease. The
    answer is an agree or a refuse; a cancel withdraws it, or tells its holder that it is over.
    """

    entity: str
    action: str
    slice: str
    because: str
    """Why, in words."""
    level: int = 0
    """How far from the entity the loop stands that wants it: 0 at the entity itself."""
    goal: str = ""
    """What it is for, as the log writes goals."""


class SecurityPolicy(Struct, frozen=True, tag=True):
    """Content of a request to a loop: go by this for a slice, until its issuer says otherwise.

    The answer is an agree or a refuse. What is left out stays as the issuer's last one had it not.
    """

    slice: str
    number: int = 0
    """Of the issuer, growing; none is taken after a later one."""
    precedence: tuple[str, ...] = ()
    """Order of actions on what the loop looks after; empty: as it is declared."""
    limits: tuple[tuple[str, float], ...] = ()
    """Figures of loops, each with its name; others are as they are declared."""
    inform: tuple[AgentId, ...] = ()
    """Who is told of the slice's troubles beside the managers."""
    reason: str = ""


class TroubleReport(Struct, frozen=True, tag=True):
    """Content of an inform to a manager: a trouble stands, or is over."""

    slice: str
    entity: str
    kind: str
    stands: bool


Content = (
    CallForProposals
    | Proposal
    | Refusal
    | Award
    | Verdict
    | Result
    | UndoRequest
    | Advertisement
    | Digest
    | Heartbeat
    | Return
    | Welcome
    | Handover
    | Taken
    | Pursued
    | Query
    | Inventory
    | AttackReport
    | UsualService
    | PassedGoal
    | Insight
    | ActionClaim
    | SecurityPolicy
    | TroubleReport
    | Challenge
    | EvidenceReply
    | Suspicion
)


ANY = ""
"""The receiver of a message that is sealed for many: each of them."""


C = TypeVar("C", bound=Struct)


class Message(Struct, frozen=True):
    """One message. Its id is unique, so that a doubled one can be told."""

    id: str
    performative: Performative
    sender: AgentId
    receiver: AgentId
    conversation: str
    content: Content
    cause: str
    """Id of the event that made the sender send it."""

    def content_as(self, kind: type[C]) -> C:
        """Return what it says, of the kind that its reader is for."""
        assert isinstance(self.content, kind)
        return self.content


def rebased(message: Message, by_s: float) -> Message:
    """Return ``message`` with every time in it ``by_s`` seconds later.

    Clocks of agents do not agree: a content that names a time by its sender's clock is sent
    with the seconds from the sending instead, and means the same by the receiver's clock.
    """
    match message.content:
        case CallForProposals():
            return replace(message, content=_rebased_call(message.content, by_s))
        case Award():
            award = replace(message.content, cfp=_rebased_call(message.content.cfp, by_s))
            return replace(message, content=award)
        case _:
            return message


def _rebased_call(call: CallForProposals, by_s: float) -> CallForProposals:
    return replace(call, deadline=call.deadline + by_s, since=call.since + by_s)
