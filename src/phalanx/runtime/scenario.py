"""Scenario files as typed data: what is simulated, and what the operator prefers.

The structs below are the schema of the YAML files in ``scenarios/``: every field stands
there under the same name. Ranges are part of the types; what one field says about another
(names that must exist, weights that must sum to 1) is in ``phalanx.runtime.loading``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from phalanx.auction.cost import Pricing
from phalanx.auction.settings import ForecastTerms
from phalanx.domain.agents import POP, Loop
from phalanx.domain.goals import Constraints, Preferences
from phalanx.domain.network import Host, HostLimits, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.rules import AllowedSources, PrefixSet
from phalanx.domain.traffic import PROFILES, Shape, Source, SourcePlace, source_address
from phalanx.domain.trust import ServiceLevel
from phalanx.domain.vnf import Vnfd
from phalanx.loading import Name
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.traffic import PolicedFunction
from phalanx.slices.agreements import TrustAgreement, Trusted
from phalanx.slices.model import SlicesSpec, loops_of

DetectorName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(:[^\s:]+)?\Z", max_length=256)
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^(?!0+\.|22[4-9]\.|2[3-5][0-9]\.|::|f[ef])"
        r"(((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.(?!\Z)|\Z)){4}|[0-9a-f]+:[0-9a-f:]+\Z)"
    ),
]
LinkName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+>[A-Za-z0-9._-]+\Z", max_length=129)]
GoalName = Annotated[str, Meta(pattern=r"^([A-Z][A-Za-z0-9]*|default)\Z", max_length=64)]
ParameterName = Annotated[str, Meta(pattern=r"^[a-z_]+\Z", max_length=64)]
Version = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*\Z", max_length=32)]
Text = Annotated[str, Meta(max_length=4000)]
Amount = Annotated[float, Meta(ge=0, le=1e9)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Loss = Annotated[float, Meta(ge=0, lt=1)]
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Seconds = Annotated[float, Meta(ge=0, le=604_800)]
Count = Annotated[int, Meta(ge=1, le=10_000)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Seed = Annotated[int, Meta(ge=0, le=2**53)]

Mode = Literal["enforce", "observe"]
Strategy = Literal["service", "published"]
MONITORS = {"service": "service-monitor", "published": "link-monitor"}
"""The function that watches a link, by strategy."""
ANALYST = "service-analyst"
"""The function that watches the metrics of a service."""
SIGNALLING = "signalling-watch"
"""The function that counts what devices ask for at gNBs of slices."""
STRATEGIES: dict[str, tuple[str, ...]] = {
    "service": ("edge-filter", "service-monitor"),
    "published": (),
}
"""Functions that a strategy brings beside those that the scenario lists."""

_ADDRESSES = 65_535
"""Addresses that a group of sources has."""
_OCTETS = 8
"""Length of a plan's fingerprint: enough to tell plans apart by accident; it proves nothing."""


class PopSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A PoP and its resources; ``x`` and ``y`` are degrees or drawing positions."""

    name: Name
    cores: Amount
    memory_gb: Amount
    disk_gb: Amount
    x: Coordinate | None = None
    y: Coordinate | None = None
    agent: bool = True
    """Whether an agent of the PoP's name stands here; without it, those of ``agents`` alone."""
    idle_w: Amount | None = None
    """Power of its servers when they are up and have no work, in W; None: 100."""
    busy_w: Amount | None = None
    """Power of its servers when all cores are in use, in W; None: 200."""
    jurisdiction: Name | None = None
    """Whose law holds there, such as ``FI``; None: as the trust level agreement says."""

    def power(self) -> dict[str, float]:
        """Return what is said of its power, by field."""
        given = {"idle_w": self.idle_w, "busy_w": self.busy_w}
        return {name: watts for name, watts in given.items() if watts is not None}


class LinkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A full-duplex link between two PoPs; ``loss`` defaults to the network's."""

    between: tuple[Name, Name]
    bandwidth_mb_s: Positive
    latency_ms: Annotated[float, Meta(ge=0, le=1e6)]
    loss: Loss | None = None
    trusted: bool = True
    """Whether traffic may be led over it in the clear, where a goal wants it ``encrypted``."""


class NetworkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """PoPs, links, and the PoP whose switch the VNF repository hangs on."""

    pops: Annotated[tuple[PopSpec, ...], Meta(min_length=1, max_length=10_000)]
    repository: Name
    links: Annotated[tuple[LinkSpec, ...], Meta(max_length=100_000)] = ()
    default_link_loss: Loss = 0.0


class HostLimitsSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a server can take before a flood exhausts it."""

    backlog: Annotated[int, Meta(ge=1, le=10_000_000)] = 4096
    """Connections that may be half open at a time: ``net.core.somaxconn`` since Linux 5.4. One
    that is never completed is given up after 63 s (five times the SYN-ACK is sent again)."""
    syn_cookies: bool = True
    """Whether connections are opened without the backlog once it is full, as Linux does by
    default; if not, users get nothing through while it is full (RFC 4987)."""
    connections: Annotated[int, Meta(ge=1, le=10_000_000)] = 512
    """Connections served at a time: what nginx gives a worker by default."""
    packets_s: Positive = 300_000.0
    """Packets a second that its processor handles, of whatever size (assumed)."""
    requests_s: Positive | None = None
    """Requests a second that its application serves; the rest waits, and then is dropped. None:
    any number, and nothing is known of its metrics."""
    leak_share_s: Fraction = 0.0
    """Share of its memory that its application loses in a second, of the 80 % that it has left
    when it starts. Once there is none left it stops, and nobody but an agent starts it again."""
    leak_share_request: Fraction = 0.0
    """Share of its memory that it loses by each request that it answers."""


class HostSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A machine on a PoP's switch. Its access link is named ``pop>host``."""

    name: Name
    at: Name
    address: Address
    bandwidth_mb_s: Positive
    latency_ms: Annotated[float, Meta(ge=0, le=1e6)] = 0.1
    limits: HostLimitsSpec | None = None
    """None: floods exhaust its link alone, and slow clients its 512 connections."""
    calls: Annotated[dict[Name, Share], Meta(max_length=16)] | None = None
    """Names of other hosts that it asks as well, each with the share of the requests answered here
    for which it does: an AMF asks an SMF for the session. A request that they do not answer is not
    answered here."""


class ShapeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How what a source sends changes over time, counted from its start."""

    ramp_s: Seconds = 0.0
    """Grows to its full strength for this long, in steps of a second."""
    on_s: Seconds = 0.0
    """Sends for this long, then rests for ``off_s``, and again; 0: never rests."""
    off_s: Seconds = 0.0


class TrafficSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A group of sources that start and stop together."""

    name: Name
    profile: Literal[
        "video",
        "http",
        "dns",
        "syn-flood",
        "syn-flood-spoofed",
        "udp-flood",
        "udp-flood-spoofed",
        "dns-reflection",
        "ntp-reflection",
        "ack-flood",
        "ack-flood-spoofed",
        "syn-ack-flood",
        "syn-ack-flood-spoofed",
        "rst-flood",
        "rst-flood-spoofed",
        "udp-fragments",
        "udp-fragments-spoofed",
        "icmp-flood",
        "icmp-flood-spoofed",
        "slow-http",
        "http-flood",
        "signalling",
        "signalling-storm",
    ]
    count: Count
    at: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """PoPs that the sources stand at, dealt round robin."""
    target: Name | Annotated[tuple[Name, ...], Meta(min_length=1, max_length=256)]
    """Name of a host; of several, each source sends an equal part to all of them."""
    port: Port | Annotated[tuple[Port, ...], Meta(min_length=1, max_length=100)]
    """Of several, each serves an equal block of the sources, in order."""
    demand_mb_s: Amount
    """Of each source."""
    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    """None: never stops."""
    spread_s: Seconds = 0.0
    """Sources start within this long after ``start_s``, drawn by the seed."""
    jitter: Fraction = 0.0
    """Each source wants up to this share more or less than ``demand_mb_s``, drawn by the seed."""
    shape: ShapeSpec = ShapeSpec()
    adapt: Literal["quiet", "move"] | None = None
    """What a source does once less than half of its best gets through for 3 s: it sends nothing
    for 30 s, or moves, up to 16 times, to a new address at the next PoP of ``at``, and to the
    next port of ``port``."""
    asymmetric: bool = False
    """Answers take another way back: only recorders at the target's PoP see them."""
    tunnels: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """GTP-U tunnels that each source has open."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of hosts, one or several."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports, one or several."""
        return (self.port,) if isinstance(self.port, int) else self.port


class MonitorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A Link Monitor that runs at ``at`` from the start, and the limit that it guards."""

    link: LinkName
    """A directed link between PoPs or an access link, such as ``pop6>server``."""
    at: Name
    threshold_mb_s: Positive
    connections: Count | None = None
    """More open TCP connections than this are a crowd; None: they are not counted."""
    agent: Name | None = None
    """The agent that watches, of those at the PoP; None: the one that has the PoP's name."""
    service: bool = False
    """Whether the metrics of the host behind the link are watched, too, by ``service-analyst``."""


class FunctionSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What differs from the capability's own VNF descriptor; None: nothing."""

    cores: Amount | None = None
    memory_gb: Amount | None = None
    disk_gb: Amount | None = None
    image_mb: Amount | None = None
    handles_mb_s: Positive | None = None
    version: Version | None = None
    boot_s: Seconds | None = None
    accuracy: Fraction | None = None
    shared: bool | None = None
    detector: DetectorName | None = None
    """Name of an installed detector, for a function that uses one. ``model:NAME`` is a trained
    model that comes with Phalanx, ``model:FOLDER/`` one's own."""

    def applied_to(self, own: Vnfd) -> Vnfd:
        """Return ``own`` with everything replaced that this says."""
        given = {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) is not None}
        requires = structs.replace(
            own.requires, **{f: given.pop(f) for f in Resources.__struct_fields__ if f in given}
        )
        return structs.replace(own, requires=requires, **given)


class PreferencesSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the bid components (table 5.7); they sum to 1."""

    time: Fraction
    cost: Fraction
    decentralisation: Fraction
    terms: dict[Name, Fraction] = {}
    """Weights of further terms, by the name of their entry point in ``phalanx.bid_terms``."""


class ConstraintsSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Hard constraints of a goal (definition 6); None: no limit."""

    latency_ms: Amount | None = None
    loss: Fraction | None = None
    hops: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    accuracy: Fraction | None = None
    time_s: Amount | None = None
    """Deadline: most seconds of a bid's T."""
    terms: dict[Name, Annotated[float, Meta(ge=-1e9, le=1e9)]] = {}
    """Worst values of the terms of bids; a bid beyond one is refused."""
    encrypted: bool | None = None
    """Of Rerouted: whether what is led around must cross links that are not trusted encrypted."""


class GoalSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How a goal is auctioned."""

    preferences: PreferencesSpec = PreferencesSpec(1 / 3, 1 / 3, 1 / 3)
    constraints: ConstraintsSpec = ConstraintsSpec()


class Timing(Struct, frozen=True, forbid_unknown_fields=True):
    """How long agents wait for each other."""

    auction_deadline_s: Positive = 2.0
    """An auctioneer reads proposals for this long, or until all have answered."""
    lease_s: Positive = 15.0
    """How long what an agent holds outlives it."""
    idle_timeout_s: Positive = 90.0
    """An instance without work for this long is stopped."""
    heartbeat_s: Positive = 2.0
    """Pause between two signs of life to an agent's guardian."""
    silence_s: Positive = 7.0
    """An agent not heard of for this long is believed dead."""
    probe_s: Positive = 5.0
    """Pause between two questions to a winner whether it is at work."""
    gossip_s: Positive = 5.0
    """Pause between two comparisons of an agent's view with a peer's."""
    drain_s: Positive = 120.0
    """An agent that leaves keeps its measures in force for at most this long."""
    message_latency_ms: Amount = 1.0
    """What a message takes from agent to agent beside the links' latency."""
    tick_s: Annotated[float, Meta(ge=0.001, le=10)] = 0.1
    """Step of the simulated network."""
    sample_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0
    """Pause between two ``network.sample`` events."""


class FaultSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that the test bench breaks."""

    at_s: Seconds
    kind: Literal[
        "crash",
        "restart",
        "drain",
        "link-down",
        "link-up",
        "repository-away",
        "repository-back",
        "lose",
        "duplicate",
        "delay",
        "reorder",
        "partition",
        "degrade",
        "drift",
        "slow-disk",
        "full-disk",
        "broker-down",
        "infect",
        "lie",
        "remove-rule",
        "stale",
        "blind",
    ]
    agent: Name | None = None
    """The agent that is hit, or whose messages alone are hit; None: the messages of all."""
    link: tuple[Name, Name] | None = None
    broker: Annotated[int, Meta(ge=1, le=3)] | None = None
    """Of three, which is killed, and started again after ``for_s``; in a run over processes."""
    share: Fraction | None = None
    """Share of the messages that are hit; of a degraded link, of its bandwidth that is left."""
    for_s: Seconds | None = None
    """Undone after this long (not of a restart or a drain); None: never."""
    delay_s: Seconds = 1.0
    """How late a delayed message is; of a slow disk, how long each write takes."""
    groups: Annotated[tuple[tuple[Name, ...], ...], Meta(min_length=1, max_length=100)] | None = (
        None
    )
    """Of a partition: agents that reach those of their own group alone. All agents that are in
    none are one more group."""
    latency_ms: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Of a degraded link: added to its latency."""
    loss: Loss = 0.0
    """Of a degraded link: loss beside its own."""
    rate: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    """Of a drift: seconds of the agent's clock in a second."""
    jump_s: Seconds = 0.0
    """Of a drift: how far the agent's clock jumps ahead at its begin; no clock goes back."""
    effect: Annotated[str, Meta(max_length=256)] | None = None
    """Of a rule that is removed behind the agents' backs: how the log writes what it makes true;
    all whose text begins so. They are not put back by themselves."""
    memory: bool | None = None
    """Of a restart, or a crash with ``for_s``: whether the agent goes on with what it remembers."""


class UpdateSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The repository offers a new version; running instances are replaced."""

    at_s: Seconds
    function: Name
    version: Version


class DeclaredAgent(Struct, frozen=True, forbid_unknown_fields=True):
    """An agent beside the one that stands at each PoP."""

    name: Name
    scope: Name = POP.name
    """What it looks after: pop, network-function, sub-slice, slice, inter-slice, domain,
    end-to-end, or a scope that an installed package brings."""
    capabilities: tuple[Name, ...] = ()
    """What it can do beside what every agent can; they work from its start."""
    pop: Name | None = None
    """Where it stands; None: at no PoP, so that it bids for nothing and has its goals auctioned."""


class TrustSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How agents attest each other."""

    ledger: Text = "memory:"
    """URL of the ledger (``phalanx.ledger``)."""
    period_s: Annotated[float, Meta(ge=1, le=86_400)] = 20.0
    """Of a round, in which each agent is verified once by each of its verifiers."""
    verifiers: Annotated[int, Meta(ge=2, le=100)] = 3
    """Drawn for each agent in each round; a majority of them, two at least, decides."""
    misses: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Rounds without evidence after which an agent has to be enrolled anew; 0: none does."""
    least: Fraction = 0.2
    """Trust score below which no bid of an agent is taken."""
    service_levels: ServiceLevel | None = None
    """Agreed and watched by each two agents of which one verifies the other; None: nothing is."""


class ForecastSpec(ForecastTerms, frozen=True, forbid_unknown_fields=True):
    """How agents forecast the load of their PoPs, for bids and for who listens."""

    under_anomaly: dict[GoalName, PreferencesSpec] = msgspec.field(default_factory=dict)
    """Weights in place of those of ``goals``, by the predicate's name, while one is likely."""


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a run needs but the code."""

    name: Name
    duration_s: Annotated[float, Meta(gt=0, le=604_800)]
    network: NetworkSpec
    functions: Annotated[dict[Name, FunctionSpec], Meta(min_length=1, max_length=1000)]
    """The VNFs in the repository, each with what differs from its own descriptor."""
    description: Text = ""
    seed: Seed = 1
    hosts: Annotated[tuple[HostSpec, ...], Meta(max_length=10_000)] = ()
    traffic: Annotated[tuple[TrafficSpec, ...], Meta(max_length=200)] = ()
    monitors: Annotated[tuple[MonitorSpec, ...], Meta(max_length=10_000)] = ()
    goals: dict[GoalName, GoalSpec] = {}
    """By the predicate's name, such as ``LinkRateLimited``; ``default`` for all others."""
    parameters: dict[ParameterName, Annotated[float, Meta(ge=-1e9, le=1e9)]] = {}
    """Settings of functions, which know the names and the defaults."""
    allow: Annotated[tuple[AllowedSources, ...], Meta(max_length=1000)] = ()
    """Sources that are never blocked or limited."""
    mode: Mode = "enforce"
    """``observe``: all is decided and nothing enforced; the log says what would have been done."""
    timing: Timing = Timing()
    agents: Annotated[tuple[DeclaredAgent, ...], Meta(max_length=10_000)] = ()
    """Agents beside those that have the name of their PoP."""
    faults: Annotated[tuple[FaultSpec, ...], Meta(max_length=10_000)] = ()
    updates: Annotated[tuple[UpdateSpec, ...], Meta(max_length=1000)] = ()
    strategy: Strategy = "service"
    """``service``: attacks are told from the service that users get, and filtered where they
    enter the network. ``published``: the strategy of the dissertation, chapter 5."""
    bidding: Literal["exact", "published"] = "exact"
    """``exact`` path search, or algorithm 1 as published."""
    pricing: Pricing | None = None
    """Prices of bids by eq. 4.3 and 4.4; or by total ``capacity``; or so, and dearer the fuller
    (``scarcity``). None given: ``published`` with the published strategy or bidding, else
    ``scarcity``."""
    utility: Literal["published", "reference"] | None = None
    """Utilities by eq. 3.1, or against fixed references, so that losing bids do not matter; none
    given: ``published`` with the published strategy, else ``reference``."""
    control: Literal["out-of-band", "in-band"] = "out-of-band"
    """Whether messages of agents have a network of their own, or take the links beside the
    traffic: there they wait and are lost with it, and cross no link that is down."""
    trust: TrustSpec | None = None
    """How agents attest each other; None: they do not."""
    agreement: TrustAgreement | None = None
    """Trust Level Agreement by which they score each other; None: they go by the ledger alone."""
    forecast: ForecastSpec | None = None
    """How agents forecast the load of their PoPs; None: they do not."""
    slices: SlicesSpec | None = None
    """Network slices, each part of which a closed loop looks after; None: there are none."""
    policy: PolicyPlan | None = None
    """Agreements that are watched, rules that are enforced, members of slices; None: there is
    none."""
    notes: tuple[Text, ...] = ()
    """What was assumed; shown at the start of a run."""

    def all_agents(self) -> tuple[DeclaredAgent, ...]:
        """Return the agents that have the name of their PoP, the declared ones, and the loops."""
        standing = (DeclaredAgent(p.name, pop=p.name) for p in self.network.pops if p.agent)
        loops = (DeclaredAgent(x.name, x.scope, x.capabilities, x.pop) for x in self.loops())
        return tuple(sorted((*standing, *self.agents, *loops), key=lambda agent: agent.name))

    def loops(self) -> tuple[Loop, ...]:
        """Return the loops that look after the slices, by name."""
        return () if self.slices is None else loops_of(self.slices, self.to_network().hosts)

    def standing(self) -> dict[str, str | None]:
        """Return at which PoP each agent stands; None: at none."""
        return {agent.name: agent.pop for agent in self.all_agents()}

    def trusted(self) -> Trusted:
        """Return what an agreement gives scores to, and what it stands on."""
        spec, hosts = self.slices, {host.name: host.at for host in self.hosts}
        if spec is None:
            return Trusted(self.standing())
        subnets = {each.name: each.functions for each in spec.subnets}
        services = {
            each.name: tuple(name for subnet in each.subnets for name in subnets[subnet])
            for each in spec.slices
        }
        functions = {each.name: hosts[each.host] for each in spec.functions}
        return Trusted(self.standing(), functions, services)

    def policed(self) -> tuple[PolicedFunction, ...]:
        """Return what the policy is about: the functions of slices, each once for each slice.

        Without ``slices:`` these are the hosts whose addresses are members of a slice.
        """
        if self.policy is None:
            return ()
        if self.slices is not None:
            users, at = self.slices.users(), {host.name: host for host in self.hosts}
            return tuple(
                PolicedFunction(name, each.name, at[each.host].address, at[each.host].at)
                for each in self.slices.functions
                for name in users[each.name]
            )
        members = self.policy.members.slices.items()
        return tuple(
            PolicedFunction(name, host.name, host.address, host.at)
            for name, prefixes in members
            for host in self.hosts
            if host.address in PrefixSet(prefixes)
        )

    def jurisdictions(self) -> dict[str, str]:
        """Return whose law holds at each PoP, where that is known."""
        said = {each.name: each.jurisdiction for each in self.network.pops if each.jurisdiction}
        agreed = () if self.agreement is None else self.agreement.pops
        return said | {each.name: each.jurisdiction for each in agreed}

    def to_network(self) -> Network:
        """Return what stands still: PoPs, links, hosts and the repository's place."""
        spec = self.network
        pops = (
            Pop(p.name, Resources(p.cores, p.memory_gb, p.disk_gb), p.x, p.y) for p in spec.pops
        )
        links = (
            Link(
                *link.between,
                link.bandwidth_mb_s,
                link.latency_ms,
                spec.default_link_loss if link.loss is None else link.loss,
                link.trusted,
            )
            for link in spec.links
        )
        hosts = (
            Host(
                *(h.name, h.at, h.address, h.bandwidth_mb_s, h.latency_ms),
                None if h.limits is None else HostLimits(*structs.astuple(h.limits)),
                h.calls,
            )
            for h in self.hosts
        )
        return Network(tuple(pops), tuple(links), tuple(hosts), spec.repository)

    def to_sources(self, seed: int | None = None) -> tuple[Source, ...]:
        """Return every sender, with an address of its own and its start drawn by ``seed``.

        Source ``i`` of group ``g`` (both from 1) is ``10.<g>.<i / 256>.<i % 256>``. Who forges
        sources (``syn-flood-spoofed``) has that address too, and never shows it.
        """
        addresses = {host.name: host.address for host in self.hosts}
        return tuple(
            source
            for number, group in enumerate(self.traffic, 1)
            for source in _sources(group, number, addresses, self.seed if seed is None else seed)
        )

    def prices(self) -> Pricing:
        """Return how bids are priced."""
        published = "published" in (self.strategy, self.bidding)
        return self.pricing or ("published" if published else "scarcity")

    def utilities(self) -> Literal["published", "reference"]:
        """Return how utilities are scaled."""
        default: Literal["published", "reference"] = "reference"
        return self.utility or ("published" if self.strategy == "published" else default)

    def terms(self, predicate: str) -> tuple[Constraints, Preferences]:
        """Return the constraints and preferences of goals over ``predicate`` (a class name)."""
        spec = self.goals.get(predicate) or self.goals.get("default") or GoalSpec()
        limits = {"trust": self.trust.least} if self.trust is not None else {}
        constraints = structs.replace(spec.constraints, terms={**limits, **spec.constraints.terms})
        return (
            Constraints(*structs.astuple(constraints)),
            Preferences(*structs.astuple(spec.preferences)),
        )

    def under_anomaly(self, predicate: str) -> Preferences | None:
        """Return the preferences while an anomaly is likely; None: they stay as they are."""
        given = {} if self.forecast is None else self.forecast.under_anomaly
        spec = given.get(predicate) or given.get("default")
        return None if spec is None else Preferences(*structs.astuple(spec))


def fingerprint(plan: Scenario) -> str:
    """Return 16 hexadecimal digits: the same for plans by which agents bid alike.

    Agents do not tell each other by which terms they bid: they have them from their plans. So
    everything that bids rest on is in the fingerprint: PoPs, links and the repository's place,
    the functions, the goals' terms, parameters, timing, the path search; and the duties, which
    any agent may have to take up. What only one process acts on (hosts, traffic and faults of
    the network) is not in it, nor is text for people.

    How a file is laid out does not count, nor whether it states a default, nor the order of
    PoPs and links.
    """
    network = plan.to_network()
    pops = sorted((pop.name, *structs.astuple(pop.total)) for pop in network.pops)
    links = sorted(
        (*sorted((link.a, link.b)), link.bandwidth_mb_s, link.latency_ms, link.loss)
        for link in network.links
    )
    common = (
        pops,
        links,
        network.repository,
        plan.functions,
        plan.goals,
        plan.parameters,
        plan.timing,
        plan.strategy,
        plan.bidding,
        plan.prices(),
        plan.utilities(),
        sorted(plan.monitors, key=lambda monitor: (monitor.link, monitor.at)),
    )
    power = sorted((p.name, p.idle_w, p.busy_w) for p in plan.network.pops if p.power())
    further = (plan.trust, plan.forecast, power or None, plan.slices, plan.agreement, plan.policy)
    agreed = (*common, *(each for each in further if each is not None))
    octets = msgspec.json.encode(agreed, order="deterministic")
    return blake2b(octets, digest_size=_OCTETS).hexdigest()


_MOVES = 16
"""Places to which an attacker that adapts may move."""


def _sources(
    group: TrafficSpec, number: int, addresses: Mapping[str, str], seed: int
) -> Iterator[Source]:
    # A generator of its own: another group's size does not shift this one's starts.
    rng = random.Random(f"{seed}/{group.name}")
    shape = Shape(*structs.astuple(group.shape))
    several = len(group.targets) > 1
    for i in range(group.count):
        name = f"{group.name}-{i + 1}"
        start_s = round(group.start_s + rng.uniform(0.0, group.spread_s), 3)
        demand = group.demand_mb_s
        if group.jitter:
            spread = random.Random(f"{seed}/{name}").uniform(-group.jitter, group.jitter)
            demand *= 1.0 + spread
        for target in group.targets:
            yield Source(
                name=f"{name}@{target}" if several else name,
                group=group.name,
                at=group.at[i % len(group.at)],
                address=source_address(number, i + 1),
                target=addresses[target],
                port=group.ports[i * len(group.ports) // group.count],
                profile=PROFILES[group.profile],
                demand_mb_s=demand / len(group.targets),
                start_s=start_s,
                end_s=group.end_s,
                shape=shape,
                adapt=group.adapt or "",
                places=_places(group, number, i) if group.adapt == "move" else (),
                asymmetric=group.asymmetric,
                tunnels=group.tunnels,
            )


def _places(group: TrafficSpec, number: int, i: int) -> tuple[SourcePlace, ...]:
    """Return where source ``i`` of a group moves to: addresses that no other source has."""
    moves = min(_MOVES, _ADDRESSES // group.count - 1)
    return tuple(
        SourcePlace(
            at=group.at[(i + move) % len(group.at)],
            address=source_address(number, i + 1 + move * group.count),
            port=group.ports[(i * len(group.ports) // group.count + move) % len(group.ports)],
        )
        for move in range(1, moves + 1)
    )
