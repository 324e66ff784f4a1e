"""What an agent can ask of the infrastructure at its PoP, and what it gets back.

Every action is plain data, so that a driver in another process or on another machine can
carry it out. Whatever an action takes, it takes under a lease (``ttl_s`` seconds, renewed
by ``Renew``): when the agent dies, the lease runs out and the infrastructure undoes it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phalanx.domain.bids import Bid
from phalanx.domain.network import LinkId, LinkState, PopId
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficRule
from phalanx.domain.trust import Evidence
from phalanx.domain.vnf import InstanceId, Vnfd

HoldId = str
MeasureId = str


class Hold(Struct, frozen=True):
    """Keep resources and a path's bandwidth for a proposal. Result: ``Done``.

    Holds of one ``group`` (an auction) exclude each other, since one proposal wins: on a
    shared link they count once, with the largest figure.
    """

    hold: HoldId
    group: str
    resources: Resources
    path: tuple[PopId, ...]
    """PoPs from this PoP to the tap; the traffic comes the other way."""
    mb_s: float
    ttl_s: float
    bids: tuple[Bid, ...] = ()
    """What is proposed with it; others may read it, to tell whether it can be so."""


class Release(Struct, frozen=True):
    """Give a hold back. Unknown holds are no error. Result: ``Done``."""

    hold: HoldId


class Deploy(Struct, frozen=True):
    """Turn a hold into an instance: download, check, boot. Result: ``Done``, late."""

    instance: InstanceId
    hold: HoldId
    vnfd: Vnfd
    units: int
    ttl_s: float


class Prefetch(Struct, frozen=True):
    """Bring an image to this PoP with bandwidth that nothing else uses. Result: ``Done``, at once.

    It is given up where the PoP has no free disk for it.
    """

    vnfd: Vnfd
    reason: str
    """Why it may be needed, as the log tells it."""


class Rechain(Struct, frozen=True):
    """Give a running instance the path of ``hold`` instead of its own. Result: ``Done``."""

    instance: InstanceId
    hold: HoldId


class Scale(Struct, frozen=True):
    """Change the units of an instance, and the bandwidth of its path. Result: ``Done``."""

    instance: InstanceId
    units: int
    mb_s: float


class Transfer(Struct, frozen=True):
    """Move all measures and the path of one instance to another of this PoP. Result: ``Done``."""

    instance: InstanceId
    to: InstanceId


class Stop(Struct, frozen=True):
    """End an instance, its measures and its path. Unknown ones are no error. Result: ``Done``."""

    instance: InstanceId
    reason: str = "stopped"


class Renew(Struct, frozen=True):
    """Extend the leases of instances (with their measures and paths) and holds.

    Result: ``Renewed``, which names those that are gone.
    """

    instances: tuple[InstanceId, ...]
    ttl_s: float


class Enforce(Struct, frozen=True):
    """Put a traffic rule into force through an instance.

    Traffic that the rule matches is steered through the instance's PoP. Result: ``Done``.
    """

    measure: MeasureId
    instance: InstanceId
    rule: TrafficRule
    effect: str
    """What the rule makes true, as the log tells it."""
    reason: str = ""
    """Why, in words for people; empty: the effect says it."""


class Lift(Struct, frozen=True):
    """Undo a measure. Unknown measures are no error. Result: ``Done``."""

    measure: MeasureId


class ReadLink(Struct, frozen=True):
    """Read a link's counters over the last ``seconds``. Result: ``LinkSample``."""

    link: LinkId
    seconds: float = 1.0


class ReadMeasure(Struct, frozen=True):
    """Read what a measure passed and held back lately. Result: ``MeasureSample``."""

    measure: MeasureId


class Observe(Struct, frozen=True):
    """Mirror traffic to an instance and record its flows for a while. Result: ``FlowRecords``.

    Of ``link`` and ``ip`` one is set. ``part``/``parts`` picks a share of the sources, as a
    split divides them. The mirror carries at most the bandwidth that the path holds; flows
    are sampled if there is more traffic than that.
    """

    instance: InstanceId
    seconds: float
    link: LinkId | None = None
    ip: str | None = None
    part: int = 0
    parts: int = 1
    sampling: float = 1.0
    """Share of the packets that the instance looks at."""
    entry: PopId | None = None
    """Of an address: only what enters the network at this PoP."""


class ReadEntry(Struct, frozen=True):
    """Read the traffic that enters the network at this PoP. Result: ``EntrySample``.

    It is what the ports towards users count; no VNF is needed for it.
    """

    target: str
    """Address that the traffic goes to."""


class ReadService(Struct, frozen=True):
    """Read what the exporters of a service tell now. Result: ``ServiceSample``."""

    target: str
    """Address of the service."""


class RestartService(Struct, frozen=True):
    """Start the service of a host of this PoP anew. Result: ``Done``, at once.

    From then on the PoP does so by itself as soon as it takes more than ``memory_share``.
    """

    target: str
    """Address of the service."""
    most: int
    """How often it may have been started anew, since the beginning; its metric ``restarts``."""
    memory_share: float = 1.0
    """Share of its memory that it may take."""


class ReadRules(Struct, frozen=True):
    """Read what agents do at a PoP, also at another: rules and bids. Result: ``RulesInForce``."""

    pop: PopId


Action = (
    Hold
    | Release
    | Deploy
    | Prefetch
    | Rechain
    | Scale
    | Transfer
    | Stop
    | Renew
    | Enforce
    | Lift
    | ReadLink
    | ReadMeasure
    | ReadEntry
    | ReadService
    | RestartService
    | ReadRules
    | Observe
)


class Invoke(Struct, frozen=True):
    """Invoke an operation of the best service registered with a capability. Result: ``Invoked``.

    It is not about a PoP: the agent's shell makes the call, over the fabric.
    """

    capability: str
    operation: Any
    """A ``phalanx.fabric.operations.Operation``."""
    request: Struct
    slice: str = ""
    """Slice that the request tells of; no loop is asked that does not serve it."""
    timeout_s: float = 2.0


class Invoked(Struct, frozen=True):
    """What an invocation was answered with."""

    by: str
    """The service that answered."""
    answer: Any


class Done(Struct, frozen=True):
    """The action was carried out."""

    event: str | None = None
    """The event that tells of it, where there is one."""


class Renewed(Struct, frozen=True):
    """Leases were extended."""

    gone: tuple[str, ...] = ()
    """Ids asked for that no longer exist."""


class LinkSample(Struct, frozen=True):
    """Counters of a link."""

    link: LinkId
    rate_mb_s: float
    bandwidth_mb_s: float
    connections: int = 0
    """TCP connections open towards the link's end, as far as they are counted."""


class EntrySample(Struct, frozen=True):
    """What enters the network at a PoP towards an address, before any measure."""

    target: str
    rate_mb_s: float


class ServiceSample(Struct, frozen=True):
    """Metrics of a service."""

    target: str
    metrics: dict[str, float]
    """By name, with the unit in the name."""
    entries: dict[PopId, tuple[float, float]] = {}
    """What comes in at each PoP, in MB/s, and how long it is on its way there and back, queues
    included, in ms."""


class PacketAlert(Struct, frozen=True, array_like=True):
    """A packet that an instance looked into, and that matches a rule of its own."""

    number: int
    """From 1, without gaps as the instance finds them: what is missing was lost since."""
    source: str
    target: str
    protocol: str
    rule: int
    signature: str
    """What the rule is for, as half a sentence."""


class MeasureSample(Struct, frozen=True):
    """Counters of a limit."""

    passed_mb_s: float
    held_back_mb_s: float
    cut_off: bool = False
    """Whether the PoP is cut off, so that the traffic goes on without the measure."""
    alerts: tuple[PacketAlert, ...] = ()
    """Of an instance that gets copies: the latest."""


class RuleInForce(Struct, frozen=True):
    """One rule, as the network carries it out."""

    instance: InstanceId
    effect: str
    """What it is said to make true."""
    rule: TrafficRule
    measure: MeasureId = ""
    reason: str = ""
    """As ``Enforce`` gave it."""
    age_s: float = 0.0
    """How long it has been in force, in seconds."""
    lease_left_s: float | None = None
    """How long it stays unless its agent renews it, in seconds; None: unknown."""
    passed_mb: float = 0.0
    held_mb: float = 0.0
    """What it passed and held back in all, in MB, as it was counted last."""


class HeldBids(Struct, frozen=True):
    """Bids for which a PoP held resources."""

    hold: HoldId
    bids: tuple[Bid, ...]
    age_s: float
    """How long ago that was, in seconds."""
    unknown: tuple[InstanceId, ...] = ()
    """Instances that they would use again, and that the PoP did not have."""


class RulesInForce(Struct, frozen=True):
    """The rules that the instances of one PoP have put in force, and what was bid there."""

    rules: tuple[RuleInForce, ...] = ()
    bids: tuple[HeldBids, ...] = ()
    """The latest."""
    site: SiteState | None = None
    """The PoP, with all images that it ever had."""
    ended: tuple[str, ...] = ()
    """Effects of rules that are in force no more, the latest."""
    remembers_s: float = 0.0
    """How far back that goes, in seconds."""
    observed_only: bool = False
    """Whether nothing is enforced there: the rules are those that would be."""


class FlowStats(Struct, frozen=True, gc=False):
    """What a recorder saw of one flow: counters only, no label."""

    source: str
    target: str
    port: int
    protocol: str
    """``tcp``, ``udp``, or ``icmp``: echoes, and fragments of ICMP."""
    packets: int
    octets: int
    syn: int
    """Packets that ask for a connection; of ICMP echo requests."""
    established: int
    """Connections whose handshake the source completed."""
    replies: int
    """Packets that the target sent back."""
    answered: int = 0
    """Connections on which the target sent data."""
    open: int = 0
    """Connections that were established, or used, and not ended while they were watched."""
    source_port: int = 0
    """Port that all its packets came from; 0: several."""
    resets: int = 0
    """Replies that say that the target knows no such connection (TCP RST)."""
    syn_acks: int = 0
    """Packets that accept a connection for which the target was not seen to ask."""
    clear: int = 0
    """Packets that were in the clear on a link that is not trusted."""
    aborts: int = 0
    """Packets of the source that are resets (TCP RST)."""
    sampling: int = 1
    """All counts but ``open`` were scaled up from samples of 1 packet in at most so many."""

    @property
    def fragments(self) -> int:
        """Packets without ports: of a fragmented packet all but the first."""
        return 0 if self.port or self.source_port else self.packets


class FlowRecords(Struct, frozen=True):
    """All flows seen in one observation."""

    flows: tuple[FlowStats, ...]
    seconds: float
    coverage: float = 1.0
    """Share of the traffic that reached the recorder."""
    unlisted: int = 0
    """Packets of flows that the recorder had no room for: too many sources to tell apart."""
    tunnels: dict[str, int] = {}
    """GTP-U tunnels (TEIDs) that each subscriber was seen to use, by its address."""
    event: str | None = None


class Failed(Struct, frozen=True):
    """The action was refused or failed."""

    reason: str
    final: bool = False
    """Whether it would fail wherever it is tried: there is no use in asking another agent."""


Outcome = (
    Done
    | Renewed
    | LinkSample
    | EntrySample
    | ServiceSample
    | MeasureSample
    | RulesInForce
    | FlowRecords
    | Evidence
    | Failed
)


class SiteState(Struct, frozen=True):
    """Percept: the PoP's resources and outgoing links as they are now."""

    total: Resources
    free: Resources
    """Not allocated to instances; holds are not subtracted."""
    links: tuple[LinkState, ...] = ()
    images: tuple[str, ...] = ()
    """Images that it has (``Vnfd.image``), sorted."""


class InstanceLost(Struct, frozen=True):
    """Percept: an instance ended without being asked to (crash, lease run out)."""

    instance: InstanceId
    reason: str
    event: str


Percept = SiteState | InstanceLost
