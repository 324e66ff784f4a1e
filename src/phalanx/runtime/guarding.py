"""The environment of one real machine: its own interfaces, no testbed, leases that outlive it.

Site files: one real machine that guards the hosts behind its interfaces.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from phalanx.bus.memory import MemoryBus
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.network import Host, LinkId, Network, PopId, link_ends, link_id
from phalanx.domain.rules import AllowedSources, AllowList, TrafficVerdict
from phalanx.infrastructure.linux import announcer
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.enforcement import offered
from phalanx.infrastructure.linux.journal import LeaseJournal
from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup
from phalanx.infrastructure.linux.repository import build_images
from phalanx.infrastructure.linux.routers import Routers, RouterSpec
from phalanx.infrastructure.linux.vnf_processes import token
from phalanx.loading import Name, parse_as, read_text, refusal
from phalanx.policy.enforcement import PolicyEnforcer
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.rules import (
    PolicyInventory,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleMatch,
    RuleSet,
    Segment,
)
from phalanx.runtime.environment import BuildContext, MetricsAddress, Say
from phalanx.runtime.loading import address_offences, allow_offences, policy_refusals
from phalanx.runtime.processes.spec import Device, Interfaces
from phalanx.runtime.scenario import (
    MONITORS,
    STRATEGIES,
    Address,
    Amount,
    Count,
    FunctionSpec,
    GoalName,
    GoalSpec,
    HostSpec,
    Mode,
    MonitorSpec,
    NetworkSpec,
    ParameterName,
    PopSpec,
    Port,
    Positive,
    Scenario,
    Strategy,
    Timing,
)

LIMITER = FunctionSpec(cores=0.1, memory_gb=0.05, disk_gb=0.01, image_mb=1, boot_s=0, shared=True)
ANALYSER = FunctionSpec(
    cores=0.2, memory_gb=0.1, disk_gb=0.01, image_mb=1, boot_s=0, handles_mb_s=100
)
"""The kernel counts for it: what a process needs grows with the flows, not with the traffic."""

FUNCTIONS = {
    "link-monitor": LIMITER,
    "rate-limiter": LIMITER,
    "syn-proxy": LIMITER,
    "anomaly-detector": ANALYSER,
    "classifier": ANALYSER,
    "service-monitor": FunctionSpec(cores=0.2, memory_gb=0.1, disk_gb=0),
    "edge-filter": FunctionSpec(memory_gb=0.05),
}
PARAMETERS = {
    "monitor_interval_s": 0.1,
    "analysis_s": 0.4,
    "classify_s": 0.4,
    "eager": 1.0,
    "verdict_valid_s": 2.0,
    "alarm_repeat_s": 2.0,
    "quiet_interval_s": 5.0,
    "service_look_s": 0.2,
    "slow_look_s": 4.0,
    "service_memory_s": 5.0,
    "report_repeat_s": 1.0,
    "entry_look_s": 0.2,
}
"""Counters of the kernel can be read often, and a look at them may be short."""
CONTROL = "control"
"""Name of the control socket, in the folder of the run."""
LIMIT = 0.5
"""While the sources are not known yet, this share of a guarded host's bandwidth passes."""


class LimitSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How much may pass to a guarded host, whoever sends it."""

    rate_mb_s: Positive
    protocol: Literal["tcp", "udp"] | None = None
    """None: any."""
    port: Port | None = None
    """At the host, with a protocol; None: all."""

    def __post_init__(self) -> None:
        """Refuse a port without a protocol; raises ValueError."""
        if self.port is not None and self.protocol is None:
            raise ValueError("port needs a protocol, tcp or udp")

    def __str__(self) -> str:
        of = "" if self.protocol is None else f" of {self.protocol}"
        return f"{self.rate_mb_s:g} MB/s{of}{'' if self.port is None else f' port {self.port}'}"


class GuardedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A host that the site guards, and the interface through which packets leave to it."""

    name: Name
    address: Address
    interface: Device
    """The only interfaces that are ever touched are those named here."""
    bandwidth_mb_s: Positive
    """What the link to the host carries."""
    threshold_mb_s: Positive
    """More traffic than this out of the interface, whatever its destination, is looked into."""
    connections: Count | None = None
    """More open TCP connections than this are looked into; None: they are not counted."""
    limits: Annotated[tuple[LimitSpec, ...], Meta(max_length=100)] = ()
    """Always in force, beside what attacks need. Of several that fit a packet the first counts."""


class SiteSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One PoP on a real machine."""

    pop: Name
    """Name of the agent, in its log."""
    cores: Amount
    """What VNFs may book of this machine, by their descriptors; nothing is enforced."""
    memory_gb: Amount
    disk_gb: Amount
    guards: Annotated[tuple[GuardedSpec, ...], Meta(min_length=1, max_length=1000)]
    state: Annotated[str, Meta(min_length=1, max_length=1000)] = "/var/lib/phalanx"
    """Directory in which leases survive restarts."""
    routers: Annotated[tuple[RouterSpec, ...], Meta(max_length=8)] = ()
    """Are told of drops and limits, beside the rules of this machine."""
    functions: dict[Name, FunctionSpec] = field(default_factory=FUNCTIONS.copy)
    strategy: Strategy = "service"
    """As in a [scenario](scenario.md); here all traffic enters at the guarded interface."""
    mode: Mode = "enforce"
    """``observe``: all is decided and nothing enforced; the log says what would have been done."""
    allow: Annotated[tuple[AllowedSources, ...], Meta(max_length=1000)] = ()
    """Sources that are never blocked or limited; read again on SIGHUP."""
    metrics: MetricsAddress | None = None
    """Where Prometheus scrapes it: a port of loopback, such as ``9464``, or ``HOST:PORT``; needs
    the extra ``metrics``. None: nowhere."""
    goals: dict[GoalName, GoalSpec] = {}
    parameters: dict[ParameterName, Annotated[float, Meta(ge=-1e9, le=1e9)]] = {}
    timing: Timing = Timing(auction_deadline_s=0.3)

    def to_scenario(self, duration_s: float) -> Scenario:
        """Return the site as a network of one PoP without traffic of its own."""
        policy = self._limits()
        enforcer = {} if policy is None else {PolicyEnforcer.name: FunctionSpec(memory_gb=0.05)}
        return Scenario(
            name=self.pop,
            duration_s=duration_s,
            network=NetworkSpec(
                (PopSpec(self.pop, self.cores, self.memory_gb, self.disk_gb),), self.pop
            ),
            functions=enforcer | self.functions,
            hosts=tuple(
                HostSpec(g.name, self.pop, g.address, g.bandwidth_mb_s) for g in self.guards
            ),
            monitors=tuple(
                MonitorSpec(
                    f"{self.pop}>{g.name}", self.pop, g.threshold_mb_s, connections=g.connections
                )
                for g in self.guards
            ),
            goals=self.goals,
            strategy=self.strategy,
            mode=self.mode,
            allow=self.allow,
            policy=policy,
            parameters={**self._own_parameters(), **self.parameters},
            timing=self.timing,
        )

    def _limits(self) -> PolicyPlan | None:
        """Return the limits of the guarded hosts as rules of a policy; None: there are none."""
        rules = tuple(
            PolicyRule(
                f"{guarded.name}.limits.{number}",
                RuleAction(PolicyVerdict.PERMIT, limit.rate_mb_s),
                RuleMatch(
                    target=Segment((str(ip_network(guarded.address)),)),
                    protocol=limit.protocol,
                    ports=() if limit.port is None else (PortRange(limit.port, limit.port),),
                ),
            )
            for guarded in self.guards
            for number, limit in enumerate(guarded.limits)
        )
        if not rules:
            return None
        own = ((g.name, (str(ip_network(g.address)),)) for g in self.guards if g.limits)
        return PolicyPlan(rules=RuleSet("limits", rules), members=PolicyInventory(dict(own)))

    def _own_parameters(self) -> dict[str, float]:
        """Return the parameters of the functions where the site's file sets none.

        A limit is one figure for all guarded hosts, so that of the smallest is taken.
        """
        limit = LIMIT * min(guarded.bandwidth_mb_s for guarded in self.guards)
        return {**PARAMETERS, "link_rate_mb_s": limit, "ip_rate_mb_s": limit}


def load_site(path: str | Path) -> SiteSpec:
    """Return the site in the YAML file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    site, tree = parse_as(SiteSpec, read_text(path), str(path))
    guarded = address_offences("guards", (each.address for each in site.guards))
    for field_name, why in (*guarded, *allow_offences(site.allow)):
        raise refusal(str(path), tree, field_name, why)
    scenario = site.to_scenario(1.0)
    for _, why in () if scenario.policy is None else policy_refusals(scenario.policy, scenario):
        raise ScenarioError(f"{path}: guards: limits: {why}")
    twice = (("guards", "name"), ("guards", "address"), ("routers", "name"), ("routers", "socket"))
    for field_name, what in twice:
        values = [getattr(each, what) for each in getattr(site, field_name)]
        if shared := sorted({value for value in values if values.count(value) > 1}):
            raise ScenarioError(f"{path}: {field_name}: two have the {what} {shared[0]}")
    return site


LOOPBACK = "127.0.0.1"
USERS = "users"
"""Stands in the log for what is before an ingress."""
LOOK_S = 1.0
"""Between looks at the interfaces, in seconds."""


class HostTopology:
    """Implements ``LinuxTopology`` for the machine itself and the interfaces that a site names."""

    def __init__(self, run: str, pop: PopId, hosts: Iterable[Host], interfaces: Interfaces) -> None:
        """Know what stands where.

        Args:
            run: the mark of this run.
            pop: the PoP of this machine.
            hosts: that agents guard, here and at other sites.
            interfaces: of this machine.

        """
        self.run = run
        self.folder = runs.folder(run)
        self._pop = pop
        self._interfaces = interfaces
        self._hosts = {host.name: host.address for host in hosts}
        self._by_address = {host.address: host for host in hosts}

    def namespace(self, pop: PopId) -> str | None:  # noqa: ARG002
        """Return None: the machine's own."""
        return None

    def underlay(self, pop: PopId) -> str:  # noqa: ARG002
        """Return the loopback address: no traffic is led to another PoP."""
        return LOOPBACK

    def device(self, link: LinkId) -> str:
        """Return the interface towards a host of this PoP."""
        here, host = link_ends(link)
        if here != self._pop:
            raise KeyError(link)
        return self._interfaces.hosts[host]

    def host_at(self, address: str) -> PopId | None:
        """Return the PoP of an address that agents guard."""
        host = self._by_address.get(address)
        return None if host is None else host.at

    def address(self, host: str) -> str | None:
        """Return the address of a guarded host."""
        return self._hosts.get(host)

    def host_device(self, address: str) -> str:
        """Return the interface towards a guarded address; empty for one at another site."""
        return self._interfaces.hosts.get(self._by_address[address].name, "")

    def entry(self, pop: PopId) -> str | None:
        """Return the interface by which users' packets enter here, if the site names one.

        Else they are met as they leave to guarded hosts, by whatever interface they came.
        """
        return self._interfaces.ingress if pop == self._pop else None

    def cgroup(self, pop: PopId) -> Cgroup:  # noqa: ARG002
        """Return a group that limits nothing: the machine's operator does that."""
        return Cgroup()

    def set_link(self, a: PopId, b: PopId, *, up: bool) -> None:
        """Refuse: the links between sites are not theirs."""
        raise PhalanxError(f"the link {a}-{b} is not this site's to switch {'on' if up else 'off'}")


class SiteDriver:
    """Opens the driver of this machine's PoP, which takes over what an earlier process left.

    ``phalanx guard`` and the agent of a site open it alike. A process that is killed leaves its
    VNFs and rules, the journal of their leases, and in its state directory the mark of its run.
    """

    def __init__(self, clock: WallClock, state: Path, say: Say = lambda _: None) -> None:
        """Make nothing yet.

        Args:
            clock: of the process.
            state: its directory; nobody else uses it.
            say: told in one line what is found and made.

        """
        self._clock = clock
        self._state = state
        self._say = say
        self._stack = ExitStack()
        self._former = ""
        """The run of an earlier process with this state, which was killed."""
        self._gone: set[str] = set()
        """Interfaces that have disappeared."""

    def claim(self) -> None:
        """Kill what an earlier process has left running, before it could take its rules along.

        Raises:
            PhalanxError: with one line, if that process lives.

        """
        run = _text(self._state / "run")
        if run and runs.is_run(run):
            if runs.owner(run) is not None:
                raise PhalanxError(f"{self._state}: a guard with this state is running")
            runs.kill(run)
            self._former = run

    def open(
        self,
        context: BuildContext,
        pop: PopId,
        interfaces: Interfaces,
        least_s: float = 0.0,
        routers: Routers | None = None,
    ) -> LinuxNetwork:
        """Return the driver of ``pop``, of whose network the other PoPs and links are no part.

        Its VNF repository is its own, built from this package.

        Args:
            context: the plan, and what the network is built from.
            pop: the PoP of this machine.
            interfaces: of this machine.
            least_s: see ``LinuxNetwork.recover``.
            routers: are told of drops and limits; None: there are none.

        Raises:
            PhalanxError: with one line, if the machine does not allow it.

        """
        with ExitStack() as failed:
            failed.callback(self.close)
            stack, scenario = self._stack, context.scenario
            whole = scenario.to_network()
            run = runs.new_run()
            stack.callback(runs.remove, runs.folder(run))
            stack.callback(lambda: runs.remove_tables(runs.noted(run)))
            former = runs.noted(self._former) if self._former else set()
            for table in former:  # what the one before has made is ours to remove from here on
                runs.note(run, table)
            _write(self._state / "run", run)
            if self._former:
                runs.remove(runs.folder(self._former))
            topology = HostTopology(run, pop, whole.hosts, interfaces)
            images = build_images(context.vnfds, topology.folder / "repository")
            try:
                self._journal = journal = LeaseJournal(self._state / "leases.db")
            except ValueError as error:
                raise PhalanxError(f"{error}; remove it to begin anew") from None
            stack.callback(journal.close)
            self._driver = driver = LinuxNetwork(
                Network(tuple(p for p in whole.pops if p.name == pop), (), whole.hosts, pop),
                self._clock,
                context.recorder,
                linux=topology,
                images=images,
                journal=journal,
                cause=context.cause,
                keep_images=scenario.strategy != "published",
                routers=routers,
                revive=True,
            )
            stack.callback(_forget, journal)  # once the VNFs have taken their rules along
            stack.callback(driver.shutdown)
            # What only observes leaves none of them in force.
            remaining = journal.remaining() if scenario.mode == "enforce" else []
            driver.allow = AllowList(scenario.allow)
            kept_tables = {f"phx_{token(kept.entry.instance)}" for kept in remaining}
            runs.remove_tables({t for t in former if t.partition(" ")[2] not in kept_tables})
            driver.recover(remaining, context.vnfds, least_s)
            names = {link_id(pop, host): each for host, each in interfaces.hosts.items()}
            if interfaces.ingress is not None:
                names[link_id(USERS, pop)] = interfaces.ingress
            self._watch_interfaces(names, context)
            held = driver.leases()
            for kept in (each for each in remaining if each.entry.measure in held):
                self._say(f"still in force for {kept.seconds:.0f} s: {kept.entry.measure}")
            failed.pop_all()
            return driver

    def close(self) -> None:
        """End the VNFs and lift their rules; calling it again has no effect."""
        self._stack.close()

    def suspend(self) -> None:
        """End, and leave VNFs and rules to the next process with this state, under their leases."""
        self._stack.pop_all()
        self._driver.suspend()
        self._journal.close()

    def _watch_interfaces(self, names: dict[LinkId, str], context: BuildContext) -> None:
        """Tell when an interface disappears, and when it is back."""
        here = {name for _, name in socket.if_nameindex()}
        for link, interface in names.items():
            up = interface in here
            if up == (link in self._gone):
                self._gone ^= {link}
                there = "is back" if up else f"is gone: {link} is not guarded"
                self._say(f"interface {interface} {there}")
                context.recorder.record("link.changed", context.cause, link=link, up=up)
        again = partial(self._watch_interfaces, names, context)
        self._clock.call_at(self._clock.now() + LOOK_S, again)


def check_interfaces(named: Mapping[str, str]) -> None:
    """Check that interfaces are there, by the field that names each.

    Raises:
        PhalanxError: with one line, if one is not.

    """
    # Not /sys/class/net, which shows the namespace in which it was mounted.
    here = sorted(name for _, name in socket.if_nameindex())
    for where, interface in named.items():
        if interface not in here:
            raise PhalanxError(f"{where}: no interface {interface}; there are {', '.join(here)}")


class GuardEnvironment:
    """One agent, its VNFs and its rules on this machine; needs root."""

    def __init__(self, site: SiteSpec, say: Say = lambda _: None) -> None:
        """Make nothing yet.

        Args:
            site: what to guard.
            say: told in one line what is found and made.

        """
        self.clock = WallClock()
        self.site = site
        self._state = Path(site.state)
        self._driver = SiteDriver(self.clock, self._state, say)
        self.incarnation = 1

    @property
    def verdicts(self) -> frozenset[TrafficVerdict]:
        """The verdicts of traffic rules that its network carries out."""
        return offered()

    def build(self, context: BuildContext) -> LinuxNetwork:
        """Take over the interfaces, and what an earlier guard has left in force.

        Raises:
            PhalanxError: with one line, if the machine does not allow it.

        """
        guards = self.site.guards
        try:
            check_interfaces({f"guards.{g.name}": g.interface for g in guards})
            interfaces = Interfaces(None, {g.name: g.interface for g in guards})
            addresses = {guarded.address for guarded in guards}
            routers = Routers(self.site.pop, self.site.routers, addresses, self.incarnation)
            return self._driver.open(context, self.site.pop, interfaces, routers=routers)
        except BaseException:
            self.close()
            raise

    def open_state(self) -> None:
        """Claim the state directory: one guard at a time, each with a higher incarnation.

        Raises:
            PhalanxError: with one line, if it cannot be used or another guard lives.

        """
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._driver.claim()
            self.incarnation = int(_text(self._state / "incarnation") or 0) + 1
            _write(self._state / "incarnation", str(self.incarnation))
        except (OSError, ValueError) as error:
            raise PhalanxError(f"{self._state} cannot keep the guard's state: {error}") from None

    def close(self) -> None:
        """End the VNFs and lift their rules; calling it again has no effect."""
        self._driver.close()
        self.clock.close()

    def bus(self, context: BuildContext) -> MemoryBus:
        """Make the bus of the only agent."""
        return MemoryBus(self.clock, on_shed=context.shed, peers=(self.site.pop,))


def control_of(site: SiteSpec) -> Path:
    """Return the control socket of the guard that runs with a site's state.

    Raises:
        PhalanxError: with one line, if none does.

    """
    try:
        run = _text(Path(site.state) / "run")
    except OSError as error:
        raise PhalanxError(f"{site.state}: {error.strerror}") from None
    if not runs.is_run(run) or runs.owner(run) is None:
        raise PhalanxError(f"no guard runs with the state {site.state}")
    return runs.folder(run) / CONTROL


def plan(site: SiteSpec) -> list[str]:
    """Return in words what a guard would touch and what it might do."""
    interfaces = sorted({guarded.interface for guarded in site.guards})
    others = set(MONITORS.values()) - {MONITORS[site.strategy]}
    functions = sorted({*site.to_scenario(1.0).functions, *STRATEGIES[site.strategy]} - others)
    lines = [
        f"state directory {site.state}, run-time files below {runs.ROOT}",
        f"VNF processes, at most {site.cores:g} cores' worth: {', '.join(functions)}",
        "nftables tables named phx_<8 hexadecimal digits> of the families netdev and inet, "
        "every rule under a lease of "
        f"{site.timing.lease_s:g} s that the kernel itself ends",
    ]
    lines += [f"counters on {name}, both directions" for name in interfaces]
    if site.metrics is not None:
        lines.append(f"metrics for Prometheus at {site.metrics}")
    if site.mode == "observe":
        observes = "nothing is limited, blocked or answered; the log says what would have been"
        return [*lines, f"mode is observe: {observes}"]
    lines += [f"never blocks or limits {each.prefix} ({each.reason})" for each in site.allow]
    for guarded in site.guards:
        when = f"as attacks on {guarded.address} are found: "
        if site.strategy != "service":
            when = f"above {guarded.threshold_mb_s:g} MB/s towards {guarded.address}"
            when += f" or {guarded.connections} connections" if guarded.connections else ""
            when += ": limits, "
        lines.append(f"{when}blocks of sources or a SYN proxy at {guarded.interface}")
        lines += [f"always at most {limit} to {guarded.address}" for limit in guarded.limits]
    lines.append(
        "from the first SYN proxy until its VNF ends: chains at prerouting, forward and output for "
        "the guarded address, net.ipv4.tcp_syncookies=1, "
        "net.ipv4.tcp_timestamps=1, net.netfilter.nf_conntrack_tcp_loose=0"
    )
    lines.append(
        "for some milliseconds when a limit begins: a chain at the egress of lo, and datagrams to "
        "127.0.0.1 port 9, which fill its bucket"
    )
    for router in site.routers:
        whole = ", of all traffic to a guarded address, too" if router.victim else ""
        begin = (
            f"BGP to {router.name}: at most {router.most} routes ({router.speaks}){whole}, each "
        )
        run = f"python3 -I -S {announcer.__file__} {router.socket}"
        lines.append(f"{begin}under the lease of its rule, by an ExaBGP that runs {run}")
    lines.append("nothing else: no other interface, address, route, table or setting")
    return lines


def _forget(journal: LeaseJournal) -> None:
    """What was lifted in order must not come back with the next start."""
    journal.drop([kept.entry.measure for kept in journal.remaining()])


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _write(path: Path, text: str) -> None:
    """Write a small file as a whole or not at all, on the disk before this returns."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
