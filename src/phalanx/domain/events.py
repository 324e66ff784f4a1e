"""The log of causes: everything that happens is an event that names its cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

KINDS: dict[str, str] = {
    "run.started": "the root of all causes: scenario, seed, network",
    "run.ended": "outcome: goodput, leases, resources, counters",
    "network.sample": "traffic over watched links and to servers, true shares of legitimate "
    "and attack traffic included (no agent can see these)",
    "traffic.changed": "a group of sources starts, stops or changes (ground truth)",
    "repository.changed": "the repository offers another version of a VNF",
    "fault.injected": "the test bench breaks something",
    "resources.changed": "free resources of a PoP",
    "hold.granted": "a PoP holds resources and a path for what an agent offers",
    "hold.ended": "a hold was used, released or expired",
    "link.changed": "a link went down or came back",
    "lease.expired": "a hold, an instance or a measure whose owner did not renew it",
    "lease.recovered": "a rule that an earlier run left holds until its lease runs out",
    "instance.downloading": "an image is on its way, or waits for a PoP that is about to have it",
    "image.prefetching": "an image is on its way with idle bandwidth, before it is wanted",
    "image.cached": "a PoP keeps an image that it downloaded, for itself and others",
    "image.evicted": "a PoP does not keep an image, or only got a part of it",
    "instance.started": "a VNF runs",
    "instance.scaled": "a VNF has more or fewer units",
    "instance.replaced": "another version took over",
    "instance.stopped": "a VNF ended and gave its resources back",
    "vnf.crashed": "the process of a VNF ended by itself (noted by its host)",
    "driver.failed": "the machine did not do what the driver asked of it",
    "measure.applied": "a limit, block or split is in force",
    "measure.withheld": "a limit, block or split was decided on and is not enforced, since the run "
    "only observes",
    "measure.unneeded": "what would have been in force would be lifted now",
    "measure.lifted": "a limit, block or split is gone",
    "measures.counted": "what measures passed and held back since each is in force, of those that "
    "did anything lately",
    "route.announced": "a router has been told of a measure by BGP",
    "route.withdrawn": "a router has been told that a measure is over",
    "route.refused": "a measure is not told to a router, and why; it is in force at its gateway",
    "router.changed": "routers cannot be told of measures, or can again",
    "host.restarted": "the service of a host is started anew",
    "trouble.diagnosed": "a detector finds from its metrics what troubles a service",
    "trouble.unrelieved": "nothing that an agent may do helps a service",
    "diagnosis.limited": "a detector cannot say all that it could of a service, or can again",
    "scaling.refused": "a service gets no replica, since an attack makes its load",
    "source.spared": "sources attack, and are not blocked, since they are in the allow list",
    "measure.withdrawn": "a measure cost users their service, and its agent lifts it",
    "chain.opened": "traffic is steered or mirrored over a path to a VNF",
    "chain.closed": "a path is free again",
    "agent.started": "an agent begins its life",
    "agent.restored": "an agent goes on with what it remembers of its earlier life",
    "agent.draining": "an agent is about to leave: it takes no new work and hands over its own",
    "agent.left": "an agent has left in order",
    "agent.crashed": "an agent died (noted by its host)",
    "agent.gone": "an agent is believed dead by its guardian",
    "agent.returned": "an agent believed dead is heard of again",
    "agent.differs": "an agent was started with another plan than the one who tells of it",
    "belief.changed": "an agent revised a belief",
    "goal.adopted": "an agent took on a goal",
    "goal.ended": "a goal was achieved, failed, dropped or taken over",
    "goal.taken_over": "a guardian adopts the goal of an agent that it takes for dead",
    "duty.taken_up": "an agent sees to a duty that fell to it",
    "loop.passed": "a closed loop asks another to see to what it cannot or may not do itself",
    "loop.relieved": "a loop that was asked has done it",
    "loop.returned": "a loop that was asked has not done it, or does not answer",
    "loop.refused": "a loop does not take in what another says or asks for",
    "loop.replaced": "a loop does not answer: its heir is asked",
    "loop.unrelieved": "no loop that may be asked could end a trouble",
    "policy.issued": "a manager or a loop has said a policy to those that it is for",
    "policy.taken": "a loop goes by a policy from now on",
    "policy.enforced": "a rule of the policy is in force for what goes to a function",
    "policy.unenforced": "a rule of the policy cannot be put in force",
    "policy.lost": "rules of the policy are in force no more, though no agent lifted them",
    "policy.withdrawn": "a rule of the policy is in force no more, since it is not wanted",
    "ssla.measured": "a figure that an agreement is about has changed",
    "ssla.breached": "a term of an agreement is broken: what was measured, and where",
    "ssla.restored": "it is kept again: how long that took, what was done, and what is owed",
    "ssla.conceded": "a consumer asks for less of an agreement: for what a provider can hold",
    "ssla.agreed": "a provider and a consumer have concluded an agreement: on which objectives",
    "claim.granted": "the loop of a function agrees that an agent acts on it",
    "claim.refused": "the loop of a function does not agree",
    "claim.overruled": "what was agreed to gives way to what goes first",
    "claim.ended": "what was agreed to was given back, or its lease ran out",
    "claim.held": "a claim that comes and goes is held down for a while",
    "plan.started": "an agent chose a plan for a goal",
    "plan.ended": "a plan succeeded or failed",
    "function.failed": "code of a network function raised an error, which was contained",
    "action.failed": "the infrastructure refused or failed an action",
    "auction.called": "an auctioneer asks for proposals",
    "auction.bid": "a bidder offers",
    "auction.refused": "a bidder refuses, with its reason",
    "auction.awarded": "an auctioneer chose a winner; all bids with their utility",
    "auction.failed": "nobody could achieve the auctioned goal",
    "auction.waiting": "a goal is not given up: it waits for what could change the answer",
    "contract.accepted": "a winner begins its work",
    "contract.ended": "a winner reports success or failure",
    "analysis.done": "an analyser looked at traffic; what it saw and concluded",
    "workload.forecast": "what an agent expects of its PoP's load, how odd that is, and its advice",
    "message.shed": "a full queue dropped a message",
    "service.requested": "a change of a service was asked for: the root of its causes",
    "service.step": "a step of the orchestrator's workflow came to something",
    "service.deployed": "a service runs as it was asked for",
    "service.reconfigured": "a service runs as it was asked to be changed to",
    "service.rolled_back": "a change of a service failed, and all is as it was before",
    "service.restarted": "a process of a service had died, and was started again",
    "service.given_up": "a process of a service died too often in a row to be started again",
    "service.removed": "a service is gone",
    "trust.enrolled": "an agent was deployed from a protected image, and is to be enrolled",
    "trust.changed": "the ledger changes what an agent is trusted with",
    "trust.suspected": "an agent asks verifiers to look at another, which does otherwise than said",
    "attestation.result": "a verifier appraised the evidence of an agent",
    "association.agreed": "two agents have recorded the same service level for what they say",
    "association.breached": "an agent sees that the service level with another is not kept",
    "association.kept": "an agent sees that it is kept again",
    "key.installed": "an agent uses the secret of an epoch, handed out by way of the ledger",
    "key.unusable": "what was handed out to an agent is no secret for it",
    "overlay.keyed": "pairs of PoPs are protected by what was handed out in an epoch",
    "overlay.revoked": "all PoPs shut one out of the overlay",
    "overlay.readmitted": "a PoP that was shut out takes part in the overlay again",
    "overlay.failed": "the overlay's keys could not be changed everywhere; it is tried again",
    "ledger.refused": "the rules of the ledger forbid an entry",
    "process.started": "a process of a domain begins; the cause of what follows no other",
    "process.ended": "a process of a domain ends in order",
    "certificate.holds": "a process uses a certificate, from its start or from now on",
    "certificate.ends": "the certificate of a process ends soon, or has ended",
    "certificate.unused": "the files of a process hold a certificate or list that is not used",
    "revocations.known": "a process knows a newer list of revoked certificates",
    "identity.admitted": "a broker lets a key in from now on",
    "identity.revoked": "a broker lets a key in no more",
    "memory.unusable": "a process begins anew: what an earlier life left cannot be used",
    "connection.lost": "a process can speak with nobody: its connection is gone",
    "connection.regained": "a process can speak with the others again",
    "outbox.shed": "events were let go that no stream had acknowledged yet",
    "history.gap": "events stood here that the disk did not take",
    "audit.sealed": "the heads of what was recorded so far: no later change of it goes unseen",
    "operator.acted": "an operator has an agent, or the network, do something",
    "access.refused": "a call, a message or a registry entry was refused or not believed",
}
"""Every kind of event, with what it says. Functions may add kinds of their own."""


class Event(Struct, frozen=True):
    """Something that happened."""

    id: str
    """Unique in the run: who recorded it, and a count."""
    time: float
    """Seconds since the start of the run."""
    agent: str
    """Who recorded it: a PoP's agent, or ``network`` or ``run`` for what agents cannot see."""
    kind: str
    """One of ``KINDS``, or a function's own."""
    cause: str | None
    """Id of the event that caused it; None for ``run.started`` alone."""
    data: dict[str, Any]
    """What there is to say, in JSON types, quantities with their unit in the name."""


Sink = Callable[[Event], None]


class Recorder:
    """Gives events their ids and times, and hands them on."""

    __slots__ = ("_count", "_now", "_sink", "agent", "prefix")

    def __init__(self, agent: str, sink: Sink, now: Callable[[], float], prefix: str = "") -> None:
        self.agent = agent
        self.prefix = prefix or agent
        self._sink = sink
        self._now = now
        self._count = 0

    def record(self, kind: str, cause: str | None, /, **data: Any) -> str:
        """Record an event now and return its id."""
        self._count += 1
        event_id = f"{self.prefix}-{self._count}"
        self._sink(Event(event_id, self._now(), self.agent, kind, cause, data))
        return event_id


def numbered(event_id: str) -> tuple[str, int]:
    """Return who recorded an event, and its number there; number 0 if the id has none."""
    prefix, _, number = event_id.rpartition("-")
    return (prefix, int(number)) if number.isdecimal() else (event_id, 0)


def in_causal_order(events: Iterable[Event]) -> list[Event]:
    """Return events as they stand, but each after its cause and what its recorder said before.

    A log that was merged from several processes has the events of each in the order in which they
    arrived, or by clocks that differ a little.
    """
    known: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        known[event.id].append(event)
    before: dict[str, str] = {}
    last: dict[str, str] = {}
    for event_id in sorted(known, key=numbered):
        recorder = numbered(event_id)[0]
        if recorder in last:
            before[event_id] = last[recorder]
        last[recorder] = event_id
    ordered: dict[str, None] = {}
    for event_id in known:
        line = {event_id: None}  # each waits for the next
        while line:
            at = next(reversed(line))
            for needed in (known[at][0].cause, before.get(at)):
                if needed in known and needed not in ordered and needed not in line:
                    line[needed] = None
                    break
            else:
                del line[at]
                ordered[at] = None
    return [event for event_id in ordered for event in known[event_id]]
