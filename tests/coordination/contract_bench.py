"""One agent on a bench: its messages are read, its actions carried out by a small fake."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Settings
from phalanx.auction.view import NetworkView
from phalanx.bdi.agent import Instruction, Perform
from phalanx.bdi.capability import Capability, Library
from phalanx.coordination.lifecycle import VnfLifecycle
from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    Enforce,
    Failed,
    FlowRecords,
    Hold,
    Lift,
    LinkSample,
    MeasureSample,
    Observe,
    Outcome,
    ReadLink,
    ReadMeasure,
    Rechain,
    Release,
    Renew,
    Renewed,
    SiteState,
    Stop,
    Transfer,
)
from phalanx.domain.agents import AgentState
from phalanx.domain.bids import Bid
from phalanx.domain.events import Event
from phalanx.domain.goals import ConstrainedGoal, Constraints, Goal, Preferences, find_out, want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Content,
    Message,
    Performative,
    Proposal,
    Refusal,
    Result,
    Verdict,
)
from phalanx.domain.network import LinkState
from phalanx.domain.predicates import AnomalousUsage, IpRateLimited
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import Vnfd
from phalanx.functions.anomaly_detector import AnomalyDetector
from phalanx.functions.link_monitor import LinkMonitor
from phalanx.functions.rate_limiter import RateLimiter
from phalanx.runtime.composition import make_agent

ME, PEERS = "a", ("a", "b", "c")
LIMITED = IpRateLimited("10.0.0.1")
LIMIT = want(LIMITED)
OTHER = want(IpRateLimited("10.0.0.2"))
ANALYSE = find_out(AnomalousUsage("a>b"))
FUNCTIONS = (RateLimiter, AnomalyDetector, LinkMonitor)


class FakeSite:
    """What the agent holds and runs at its PoP; what is slow is answered when told to."""

    def __init__(self, total: Resources) -> None:
        self.total = total
        self.holds: dict[str, Hold] = {}
        self.instances: dict[str, Deploy] = {}
        self.measures: dict[str, Enforce] = {}
        self.slow: set[type[Action]] = {Deploy, Observe}
        self.refused: dict[type[Action], str | Failed] = {}
        self.done: list[Action] = []

    @property
    def free(self) -> Resources:
        used = (d.vnfd.scaled(d.units) for d in self.instances.values())
        return self.total - sum(used, NOTHING)

    @property
    def unheld(self) -> Resources:
        return self.free - sum((hold.resources for hold in self.holds.values()), NOTHING)

    def perform(self, action: Action) -> Outcome:
        self.done.append(action)
        refusal = self.refused.get(type(action))
        if refusal is not None:
            return refusal if isinstance(refusal, Failed) else Failed(refusal)
        for carry_out in (self._hold_or_run, self._measure):
            outcome = carry_out(action)
            if outcome is not None:
                return outcome
        return Done()

    def _hold_or_run(self, action: Action) -> Outcome | None:
        match action:
            case Hold():
                lacking = action.resources.lacking(self.unheld)
                if lacking is not None:
                    return Failed(lacking)
                self.holds[action.hold] = action
            case Release() | Rechain():
                self.holds.pop(action.hold, None)
            case Deploy():
                if self.holds.pop(action.hold, None) is None:
                    return Failed(f"no hold {action.hold}")
                self.instances[action.instance] = action
            case Stop():
                self.instances.pop(action.instance, None)
                kept = self.measures.items()
                self.measures = {n: m for n, m in kept if m.instance != action.instance}
            case Renew():
                return Renewed(tuple(i for i in action.instances if i not in self.instances))
        return None

    def _measure(self, action: Action) -> Outcome | None:
        match action:
            case Enforce():
                self.measures[action.measure] = action
            case Lift():
                self.measures.pop(action.measure, None)
            case Transfer():
                for name, measure in self.measures.items():
                    if measure.instance == action.instance:
                        self.measures[name] = replace(measure, instance=action.to)
            case ReadMeasure():
                return MeasureSample(1.0, 1.0)
            case ReadLink():
                return LinkSample(action.link, 0.0, 10.0)
        return None


class Bench:
    """The agent of PoP ``a`` between ``b`` and ``c``, with a rate limiter and an analyser."""

    def __init__(
        self,
        cores: float = 4,
        functions: Sequence[type[Capability]] = FUNCTIONS,
        parameters: dict[str, float] | None = None,
        name: str = ME,
        pop: str | None = ME,
    ) -> None:
        self.now = 0.0
        self.events: list[Event] = []
        self.sent: list[Message] = []
        self.waiting: list[tuple[int, Action]] = []
        self.site = FakeSite(Resources(cores, 16, 100))
        catalogue: dict[str, Vnfd] = {f.name: f.vnfd for f in functions if f.vnfd is not None}
        self.settings = Settings(PEERS, "b", catalogue)
        built_in = (Outlook, Auctioneer, Bidder, VnfLifecycle)
        self.agent = make_agent(
            name,
            Library([*built_in, *functions]),
            self.settings,
            self.events.append,
            parameters=parameters or {},
            pop=pop,
        )
        self.bidder: Bidder = self.agent.capability(Bidder)
        total = self.site.total
        self.agent.capability(Outlook).view = NetworkView.EMPTY.apply_all(
            AgentState(pop, pop, 1, 0, total, total, _links(pop)) for pop in PEERS
        )
        self.carry_out(self.agent.start(0.0, "root"))
        self.look()

    # -- time and the network ----------------------------------------------------------

    def look(self) -> None:
        """Let the agent perceive its site."""
        site = self.site
        percept = SiteState(site.total, site.free, _links(ME))
        self.carry_out(self.agent.perceive(percept, self.now, "root"))

    def at(self, when: float) -> None:
        """Let time pass; holds run out as at the infrastructure."""
        while (due := self.agent.next_timer()) is not None and due <= when:
            self.now = max(self.now, due)
            self.carry_out(self.agent.tick(self.now))
        self.now = when

    def finish(self, kind: type[Action], outcome: Outcome | None = None) -> None:
        """Answer all actions of ``kind`` that were slow."""
        due = [entry for entry in self.waiting if isinstance(entry[1], kind)]
        self.waiting = [entry for entry in self.waiting if not isinstance(entry[1], kind)]
        for token, action in due:
            if isinstance(outcome, Failed) and isinstance(action, Deploy):
                self.site.instances.pop(action.instance, None)
            answer = outcome or (
                FlowRecords((), action.seconds) if isinstance(action, Observe) else Done()
            )
            self.carry_out(self.agent.answer(token, answer, self.now))

    def observe(self, records: FlowRecords | None = None) -> None:
        """Answer observations until none is under way."""
        while any(isinstance(action, Observe) for _, action in self.waiting):
            self.finish(Observe, records)

    def carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if not isinstance(instruction, Perform):
                self.sent.append(instruction)
                continue
            action = instruction.action
            before = self.site.free
            outcome = self.site.perform(action)
            if type(action) in self.site.slow and not isinstance(outcome, Failed):
                self.waiting.append((instruction.token, action))
            else:
                self.carry_out(self.agent.answer(instruction.token, outcome, self.now))
            if self.site.free != before:
                self.look()

    # -- messages ----------------------------------------------------------------------

    def hear(
        self, performative: Performative, conversation: str, content: Content, sender: str = "b"
    ) -> None:
        message = Message(
            f"{len(self.events)}",
            performative,
            sender,
            self.agent.name,
            conversation,
            content,
            "root",
        )
        self.carry_out(self.agent.receive(message, self.now))

    def cfp(
        self,
        conversation: str,
        goal: Goal = LIMIT,
        *,
        since: float = 0.0,
        traffic_mb_s: float = 0.0,
    ) -> CallForProposals:
        constrained = ConstrainedGoal(goal, Constraints(), Preferences(), traffic_mb_s, ME)
        call = CallForProposals(constrained, self.now + 2.0, since)
        self.hear(Performative.CFP, conversation, call)
        return call

    def offer(self, conversation: str) -> tuple[CallForProposals, Bid]:
        """Call, and return the call with the first bid."""
        call = self.cfp(conversation)
        return call, self.bids(conversation)[0]

    def accept(self, conversation: str, call: CallForProposals, bid: Bid | None = None) -> None:
        bid = bid or self.bids(conversation)[0]
        self.hear(Performative.ACCEPT, conversation, Award(bid, call))

    def reject(self, conversation: str) -> None:
        self.hear(Performative.REJECT, conversation, Verdict("another proposal was accepted"))

    def cancel(self, conversation: str) -> None:
        self.hear(Performative.CANCEL, conversation, Verdict("no longer wanted"))

    def win(self, conversation: str, goal: Goal, **options: float) -> CallForProposals:
        """Call, accept, and let the VNF start."""
        call = self.cfp(conversation, goal, **options)
        self.accept(conversation, call)
        self.finish(Deploy)
        return call

    def said(self, conversation: str) -> list[str]:
        """Return the performatives that the agent answered with."""
        return [m.performative.value for m in self.sent if m.conversation == conversation]

    def last(self, conversation: str) -> Content:
        return [m.content for m in self.sent if m.conversation == conversation][-1]

    def bids(self, conversation: str) -> tuple[Bid, ...]:
        content = self.last(conversation)
        assert isinstance(content, Proposal), content
        return content.bids

    def refusal(self, conversation: str) -> Refusal:
        content = self.last(conversation)
        assert isinstance(content, Refusal), content
        return content

    def facts(self, conversation: str) -> Result:
        """Return the facts of the last answer without their mandates."""
        content = self.last(conversation)
        assert isinstance(content, Result), content
        return Result(tuple(replace(fact, mandate="") for fact in content.facts))


def deployed(bench: Bench) -> list[str]:
    """Return the names of the VNFs that the agent had deployed."""
    return [action.vnfd.name for action in bench.site.done if isinstance(action, Deploy)]


def nothing_is_left(bench: Bench) -> bool:
    """Whether the agent holds and runs nothing, and all its resources are free."""
    site = bench.site
    held = (site.holds, site.instances, site.measures, list(bench.bidder.inventory))
    return not any(held) and site.free == site.total


def _links(pop: str) -> tuple[LinkState, ...]:
    return tuple(LinkState(to, 10.0, 5.0, 0.0) for to in PEERS if to != pop)
