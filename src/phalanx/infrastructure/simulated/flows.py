"""The sources as flows: which way each goes past the rules that match it, and its connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import inf
from zlib import crc32

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from phalanx.domain.network import Host, LinkId, Network, PopId, link_ends, link_id
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.domain.traffic import Source, SourcePlace
from phalanx.infrastructure.reservations.topology import Topology
from phalanx.infrastructure.simulated.fluid import NOWHERE, Floats, Fluid, alike

Rows = NDArray[np.intp]

_LAST = 9
_STEADY = 1e-6
"""Share by which what is asked for may change without being a change."""
_BLOCKING = (TrafficVerdict.DROP, TrafficVerdict.PROXY)
OFFERED = frozenset(TrafficVerdict) - {TrafficVerdict.MIRROR}
"""Verdicts that the simulated network offers; copies are made for observations alone."""


def _rank(rule: TrafficRule) -> int:
    """Return where a rule stands in the order in which traffic meets them.

    What blocks a single flow or a forged handshake comes before what throttles many, so that
    what is blocked uses up no one's limit. What is dropped where it enters comes before all, so
    that it makes no way to another filter.
    """
    verdict, match = rule.verdict, rule.match
    if verdict is TrafficVerdict.SERVE:  # where its way ends
        return _LAST
    if match.entry is not None and verdict in _BLOCKING:
        return -1
    if match.source is not None or verdict in _BLOCKING:
        return 0
    throttles = verdict in (TrafficVerdict.LIMIT, TrafficVerdict.DELAY)
    return 1 + (match.link is not None) + 2 * throttles


def part_of(address: str, parts: int) -> int:
    """Return which of ``parts`` shares of the sources ``address`` belongs to, 0 to parts - 1."""
    return crc32(address.encode()) % parts


def _part_of(source: Source, parts: int) -> int:
    return 0 if parts == 1 else part_of(source.dealt_by or source.address, parts)


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """A measure as traffic meets it: a way-point, and a policer there."""

    rule: TrafficRule
    pop: PopId
    stage: int
    order: tuple[int, int]
    named: Callable[[str], bool]
    """Whether an address is one of the rule's sources."""


@dataclass(frozen=True, slots=True)
class Route:
    """Stages that a flow passes, and how many of them it has behind it when it leaves a PoP."""

    stages: tuple[int, ...]
    behind: dict[PopId, int]
    before_access: int = 0
    """How many stages come before the access link of the target."""
    exposed: tuple[LinkId, ...] = ()
    """Links that are not trusted and that it passes in the clear."""
    refused: tuple[LinkId, ...] = ()
    """Those that it would have passed so if it was led around: it must not, and is not."""


class Flows:
    """The sources as rows of the fluid, the links as stages, and the measures between them."""

    def __init__(
        self, network: Network, topology: Topology, sources: Sequence[Source], fluid: Fluid
    ) -> None:
        self.sources = list(sources)
        self.hosts = {host.address: host for host in network.hosts}
        self._topology = topology
        ends = [end for k in network.links if not k.trusted for end in _both(k.a, k.b)]
        self.untrusted = frozenset(ends)
        """Links that are not trusted, in both directions."""
        self._fluid = fluid
        self._check(network)
        self.stages = self._links(network)
        self.names: dict[int, LinkId] = {stage: name for name, stage in self.stages.items()}
        limited = [host for host in network.hosts if host.limits is not None]
        added = fluid.add_stages(*np.full((3, len(limited)), [[inf], [0], [0]]), queued=False)
        self.processors = {
            host.address: int(stage) for host, stage in zip(limited, added, strict=True)
        }
        """Stages behind the access links of hosts with limits, by address."""
        self.policers: list[int] = []
        self._spare: list[int] = []
        """Policers of measures that were lifted, for the next ones."""
        self.demand = np.array([source.demand_mb_s for source in sources])
        self._row_of = fluid.add_rows(
            self.demand,
            np.array([source.profile.responsive for source in sources], dtype=bool),
        )
        self.level = np.zeros(len(self.sources))
        """How strongly each source wants to send now, 0 (not at all) to 1."""
        self.extra = np.zeros(len(self.sources))
        """What each asks for beside its own demand, in MB/s (``Signalling``)."""
        self._asked, self._asked_at = np.zeros(len(self.sources)), 0.0
        self._resting = np.zeros(len(self.sources), dtype=bool)
        self._kept_out = np.zeros(len(self.sources), dtype=bool)
        self._routes: list[Route | None] = [None] * len(self.sources)
        self._steered: list[list[AppliedRule]] = [[] for _ in self.sources]
        self._applied: dict[str, AppliedRule] = {}
        self._count = 0
        self.away = np.zeros(len(self.sources), dtype=bool)
        """Which sources a replica answers, so that their traffic does not come to the host."""
        self.version = 0
        """Counts the times that routes, links, or where sources are changed."""
        self._stale: dict[int, None] = dict.fromkeys(range(len(self.sources)))
        self._direct: dict[tuple[PopId, str], Route | None] = {}

    def start(self, row: int, level: float, now: float) -> None:
        """Let a source send at this share of its demand from now on; 0 ends it."""
        self.asked(now)
        self.level[row] = level
        if level > 0:
            demand = self.sources[row].demand_mb_s * level + self.extra[row]
            self._fluid.demand[self._row_of[row]] = demand
        self._stale[row] = None

    def ask(self, rows: Rows, extra_mb_s: Floats, now: float) -> bool:
        """Let sources ask for so much beside their demand; return whether that is a change."""
        self.asked(now)
        changed = not alike(self.extra[rows], extra_mb_s, _STEADY, _STEADY**2)
        self._fluid.demand[self._row_of[rows]] += extra_mb_s - self.extra[rows]
        self.extra[rows] = extra_mb_s
        return changed

    def asked(self, now: float) -> Floats:
        """Return what each source has wanted to get across up to ``now``, in MB."""
        if now > self._asked_at:
            asking = self.demand * self.level + self.extra
            self._asked, self._asked_at = self._asked + asking * (now - self._asked_at), now
        return self._asked

    def rest(self, row: int, *, resting: bool) -> None:
        """Let a source send nothing for a while, whatever it wants, or end that."""
        self._resting[row] = resting
        self._stale[row] = None

    def move(self, row: int, place: SourcePlace) -> None:
        """Let a source send from another place, which no rule of its old address matches."""
        source = structs.replace(
            self.sources[row], at=place.at, address=place.address, port=place.port
        )
        self.sources[row] = source
        self._steered[row] = [
            steering for steering in self._applied.values() if self._concerns(steering, source)
        ]
        self._stale[row] = None
        self.version += 1

    def is_running(self, row: int) -> bool:
        """Whether a source wants to send now."""
        return bool(self.level[row] > 0)

    def keep_out(self, rows: NDArray[np.bool_]) -> None:
        """Keep the sources whose rows are true, and no others, from sending."""
        self._stale |= dict.fromkeys(np.flatnonzero(rows != self._kept_out).tolist())
        self._kept_out = rows

    def apply(self, measure: str, rule: TrafficRule, pop: PopId) -> int:
        """Steer the traffic that ``rule`` matches through ``pop``; return the stage there."""
        rate = rule.parameters.get("rate_mb_s", 0.0 if rule.verdict in _BLOCKING else inf)
        rate = inf if rule.verdict is TrafficVerdict.ENLARGE else rate
        # The way back takes as long as the way there, in this model: half of the delay each.
        latency_s = rule.parameters.get("delay_ms", 0.0) / 2e3
        if self._spare:
            stage = self._spare.pop()
            self._fluid.reshape([stage], rate, 0.0, latency_s)
        else:
            added = self._fluid.add_stages(
                np.array([rate]), np.zeros(1), np.array([latency_s]), queued=False
            )
            stage = int(added[0])
            self.policers.append(stage)
        self._count += 1
        steering = AppliedRule(rule, pop, stage, (_rank(rule), self._count), rule.match.of_source())
        self._applied[measure] = steering
        self._match(steering)
        return stage

    def cut_off(self, rule: TrafficRule, pop: PopId) -> bool:
        """Whether no links that are up join ``pop`` and where the traffic of ``rule`` goes."""
        match = rule.match
        if match.link is not None:
            end = link_ends(match.link)[0]
        elif match.target in self.hosts:
            end = self.hosts[match.target].at
        else:
            return False
        return self._topology.route(pop, end) is None

    def part(self, row: int, parts: int) -> int:
        """Return which of ``parts`` shares of the sources one belongs to."""
        return _part_of(self.sources[row], parts)

    def routes(self, rows: Iterable[int]) -> list[Route]:
        """Return how the traffic of each row goes now; where it does not, an empty way."""
        self.prepare()
        return [self._routes[row] or Route((), {}) for row in rows]

    def added_mb_s(self, address: str) -> float:
        """Return what a host answers beyond its limits, for the units that it was given."""
        here = (a.rule for a in self._applied.values() if a.rule.match.target == address)
        return sum(rule.rate_mb_s for rule in here if rule.verdict is TrafficVerdict.ENLARGE)

    def is_applied(self, measure: str) -> bool:
        """Whether traffic meets a measure."""
        return measure in self._applied

    def lift(self, measure: str) -> None:
        """Undo ``apply``."""
        steering = self._applied.pop(measure, None)
        if steering is None:  # it was removed behind the agents' backs
            return
        self._spare.append(steering.stage)
        for row, steered in enumerate(self._steered):
            if steering in steered:
                steered.remove(steering)
                self._stale[row] = None

    def relink(self) -> None:
        """Find all routes anew: a link went down, with what waited there, or came back."""
        for link in self._topology.links:
            for a, b in _both(link.a, link.b):
                stage, up = self.stages[link_id(a, b)], self._topology.is_up(link)
                self._fluid.up[stage] = up
                self._fluid.queue[stage] *= up
                self._fluid.priority[stage] *= up
        self._direct.clear()
        self._stale = dict.fromkeys(range(len(self.sources)))
        self.version += 1
        for steered in self._steered:
            steered.clear()
        for steering in self._applied.values():
            self._match(steering)

    def prepare(self) -> None:
        """Hand the routes that changed to the fluid."""
        if not self._stale:
            return
        changed, stale, self._stale = False, self._stale, {}
        known: dict[tuple[PopId, str, tuple[int, ...]], Route | None] = {}
        for row in stale:
            source, steered = self.sources[row], self._steered[row]
            key = (source.at, source.target, tuple(steering.stage for steering in steered))
            if key not in known:
                known[key] = self._route(source.at, self.hosts[source.target], steered)
            changed |= known[key] != self._routes[row]
            route = self._routes[row] = known[key]
            self.away[row] = route is not None and route.before_access == len(route.stages)
            self._fluid.route(row, () if route is None else route.stages)
            wants = self.is_running(row) and not (self._kept_out[row] or self._resting[row])
            self._fluid.active[row] = wants and route is not None
        self.version += changed

    def towards(self, ip: str, part: int, parts: int, entry: PopId | None = None) -> Rows:
        """Return the rows of the traffic towards ``ip`` from a share of the sources.

        ``entry``: only of those that stand at this PoP.
        """
        return np.array(
            [
                row
                for row, source in enumerate(self.sources)
                if source.target == ip
                and entry in (None, source.at)
                and self.part(row, parts) == part
            ],
            dtype=np.intp,
        )

    def over(self, link: LinkId, part: int, parts: int) -> Rows:
        """Return the rows of the traffic over ``link``, as it is routed now."""
        self.prepare()
        stage = self.stages[link]
        return np.array(
            [
                row
                for row, route in enumerate(self._routes)
                if route is not None and stage in route.stages and self.part(row, parts) == part
            ],
            dtype=np.intp,
        )

    def ways(self, rows: Rows) -> NDArray[np.intp]:
        """Return all stages that the flows of ``rows`` pass (hops x rows)."""
        return _matrix([self._stages(row) for row in rows])

    def until_link(self, rows: Rows, link: LinkId) -> NDArray[np.intp]:
        """Return the stages before ``link`` (hops x rows)."""
        stage = self.stages[link]
        routes = [self._stages(row) for row in rows]
        return _matrix([route[: route.index(stage)] for route in routes])

    def until_pop(self, rows: Rows, pop: PopId) -> NDArray[np.intp]:
        """Return the stages up to ``pop`` or, where a route avoids it, up to the target.

        What stands at ``pop`` itself counts: what leaves the PoP is seen, throttled as it is.
        """
        self.prepare()
        routes = []
        for row in rows:
            route = self._routes[row]
            stages = self._stages(row)
            end = 0 if route is None else route.behind.get(pop, route.before_access)
            routes.append(stages[:end])
        return _matrix(routes)

    def passing(self, rows: Rows, pop: PopId) -> Rows:
        """Return those of ``rows`` that pass ``pop`` as they are routed now."""
        self.prepare()
        routes = [(row, self._routes[row]) for row in rows]
        return np.array([row for row, r in routes if r and pop in r.behind], dtype=np.intp)

    def _stages(self, row: int) -> tuple[int, ...]:
        route = self._routes[row]
        return () if route is None else route.stages

    def _route(self, at: PopId, host: Host, steered: list[AppliedRule]) -> Route | None:
        stages: list[int] = []
        behind: dict[PopId, int] = {}
        exposed: list[LinkId] = []
        secured = {s.pop for s in steered if s.rule.parameters.get("encrypted")}
        steered = sorted(steered, key=lambda steering: steering.order)
        serving = [s for s in steered if s.rule.verdict is TrafficVerdict.SERVE]
        if serving:  # one answers; a replica that is cut off leaves its share to the host
            reached = [s for s in serving if self._topology.route(at, s.pop) is not None][:1]
            steered = [s for s in steered if s not in serving] + reached
            serving = reached
        end = serving[0].pop if serving else host.at
        if host.at in secured:  # it is led on to a replica encrypted as well
            secured.add(end)

        def arrive(pop: PopId) -> None:
            if pop not in behind:
                stages.extend(steering.stage for steering in steered if steering.pop == pop)
                behind[pop] = len(stages)

        arrive(at)
        here = at
        for pop in (*(steering.pop for steering in steered), end):
            if pop in behind and pop != end:
                continue
            leg = self._topology.route(here, pop)
            if leg is None:
                if pop == end:
                    return None
                continue  # A way-point that is cut off is passed over: traffic goes on without it.
            for a, b in pairwise(leg):
                stages.append(self.stages[link_id(a, b)])
                if (a, b) in self.untrusted:
                    exposed.append(link_id(a, b))
                arrive(b)
            if pop in secured:  # whatever it passed on the way there
                exposed.clear()
            here = pop
        if exposed and secured:  # rather the direct way
            clear = [s for s in steered if not s.rule.parameters.get("encrypted")]
            direct = self._route(at, host, clear)
            return None if direct is None else replace(direct, refused=tuple(exposed))
        before_access = len(stages)
        if serving:
            return Route(tuple(stages), behind, before_access, tuple(exposed))
        stages.append(self.stages[link_id(host.at, host.name)])
        if host.address in self.processors:
            stages.append(self.processors[host.address])
        return Route(tuple(stages), behind, before_access, tuple(exposed))

    def _match(self, steering: AppliedRule) -> None:
        for row, source in enumerate(self.sources):
            if self._concerns(steering, source):
                self._steered[row].append(steering)
                self._stale[row] = None

    def _concerns(self, steering: AppliedRule, source: Source) -> bool:
        rule, profile = steering.rule, source.profile
        match = rule.match
        # Forged addresses come from anywhere.
        forged = profile.spoofed and bool(match.sources or match.outside)
        return (
            match.target in (None, source.target)
            and match.entry in (None, source.at)
            and match.source in (None, source.address)
            and match.port in (None, 0 if profile.bare else source.port)
            and match.protocol in (None, profile.protocol)
            and (not match.sources if forged else steering.named(source.address))
            and (match.parts == 1 or _part_of(source, match.parts) == match.part)
            and not (
                rule.verdict is TrafficVerdict.PROXY
                and (profile.protocol != "tcp" or profile.establishes)
            )
            and (match.link is None or self._uses(source, match.link))
        )

    def _uses(self, source: Source, link: LinkId) -> bool:
        """Whether the source's traffic would pass ``link`` if nothing steered it."""
        key = (source.at, source.target)
        if key not in self._direct:
            self._direct[key] = self._route(source.at, self.hosts[source.target], [])
        route = self._direct[key]
        return route is not None and self.stages[link] in route.stages

    def _links(self, network: Network) -> dict[LinkId, int]:
        ends = [(link, a, b) for link in network.links for a, b in _both(link.a, link.b)]
        trunks = self._fluid.add_stages(
            np.array([link.bandwidth_mb_s for link, _, _ in ends]),
            np.array([link.loss for link, _, _ in ends]),
            np.array([link.latency_ms / 1e3 for link, _, _ in ends]),
        )
        access = self._fluid.add_stages(
            np.array([host.bandwidth_mb_s for host in network.hosts]),
            np.zeros(len(network.hosts)),
            np.array([host.latency_ms / 1e3 for host in network.hosts]),
        )
        names = [link_id(a, b) for _, a, b in ends]
        names += [link_id(host.at, host.name) for host in network.hosts]
        return dict(zip(names, map(int, (*trunks, *access)), strict=True))

    def _check(self, network: Network) -> None:
        if len(self.hosts) != len(network.hosts):
            raise ValueError("two hosts have the same address")
        for host in network.hosts:
            if host.at not in self._topology.pops or host.name in self._topology.pops:
                raise ValueError(f"host {host.name} does not stand at a PoP, or is named like one")
        for source in self.sources:
            if source.at not in self._topology.pops or source.target not in self.hosts:
                raise ValueError(f"source {source.name} has no PoP, or its target is no host")


def _both(a: PopId, b: PopId) -> tuple[tuple[PopId, PopId], tuple[PopId, PopId]]:
    return (a, b), (b, a)


def _matrix(routes: Sequence[Sequence[int]]) -> NDArray[np.intp]:
    """Return routes as columns of equal length."""
    matrix = np.full((max(map(len, routes), default=0), len(routes)), NOWHERE, dtype=np.intp)
    for column, route in enumerate(routes):
        matrix[: len(route), column] = route
    return matrix


ROOM = 512
"""Connections that a host serves at a time if it states no limits."""
HALF_OPEN_S = 63.0
"""Time until a host gives up a connection that is never completed: five SYN-ACKs more, after
1, 2, 4, 8 and 16 s, and 32 s of waiting for the last (Linux, RFC 4987)."""
SYN_RETRY_S = 2.0
"""Mean pause of a user between two requests for a connection that is not answered."""
RESTART_S = 2.0
"""Time that a service takes to start."""
MEMORY_AT_FIRST = 0.2
"""Share of its memory that a service takes then."""
_SERVED = 0.2
"""Share of requests that find room in a full backlog, from which on users are served: with
three tries each one of two gets through."""


class Connections:
    """Counts the TCP connections of the flows; follows the fluid one tick behind.

    A host has room for ``ROOM`` connections at a time. Honest ones come and go; a source whose
    profile ``holds`` its own never finishes a request, so that they stay. While such sources
    hold all the room of a host, honest TCP sources get nothing across. Connections end at once
    when nothing of their source gets through any more.

    Of a host with limits, requests that are never completed fill the backlog, too, with the same
    effect unless it has SYN cookies; and its processor drops packets that are too many for it.
    """

    def __init__(self, flows: Flows, fluid: Fluid, now: float) -> None:
        self._flows = flows
        self._fluid = fluid
        profiles = [source.profile for source in flows.sources]
        hosts = list(flows.hosts)
        limits = [host.limits for host in flows.hosts.values()]
        self._open = np.array([profile.connections for profile in profiles], dtype=np.int64)
        self._holds = np.array([profile.holds for profile in profiles], dtype=bool)
        self._kept_out = ~self._holds & np.array(
            [p.protocol == "tcp" and not p.unconnected for p in profiles], bool
        )
        self._host = np.array([hosts.index(s.target) for s in flows.sources], dtype=np.intp)
        self._over = lru_cache(256)(lambda _, link: flows.over(link, 0, 1))
        """Rows over a link, by the version of the routes for which that is so."""
        self._room = np.array([ROOM if each is None else each.connections for each in limits])
        self._backlog = np.array(
            [inf if each is None or each.syn_cookies else each.backlog for each in limits]
        )
        self._completes = np.array([profile.establishes for profile in profiles], dtype=bool)
        self._packets = np.array([1e6 / profile.packet_octets for profile in profiles])
        asks = self._packets * [profile.syn_share for profile in profiles]
        self._asks = asks * ~self._completes
        self.requests: Floats = asks * self._completes
        """Requests that each source makes in a MB; of other packets there is no answer."""
        self._half_open = np.zeros(len(hosts))
        self._full = np.zeros(len(hosts), dtype=bool)
        self._limited = [
            (index, each, flows.processors[address])
            for index, (address, each) in enumerate(zip(hosts, limits, strict=True))
            if each is not None
        ]
        self._started = dict.fromkeys(hosts, now)
        self._spent = dict.fromkeys(hosts, 0.0)
        """Share of the memory that requests took since then."""
        self.restarts = dict.fromkeys(hosts, 0)
        self._settled = now
        self._refused = np.zeros(len(profiles))

    def settle(self, now: float) -> bool:
        """Keep honest sources out where there is no room; to be called before each tick.

        Returns:
            Whether a backlog fills or empties, so that this changes without the fluid.

        """
        refused = self.refused_s(now)
        filling = self._limited and self._exhaust(now)
        self._refused, self._settled = refused, now
        if self._holds.any() or self._limited:
            held = np.bincount(self._host, self.at_home() * self._holds, len(self._room))
            full = (held >= self._room) | self._full
            out = full[self._host] & self._kept_out & self._completes & ~self._flows.away
            self._flows.keep_out(out)
        return bool(filling)

    def refused_s(self, now: float) -> Floats:
        """Return for how long each source was kept out by a full backlog so far, in s."""
        out = self._full[self._host] & self._kept_out & self._completes & (self._flows.level > 0)
        out &= ~self._flows.away
        return np.asarray(self._refused + out * (now - self._settled), dtype=np.float64)

    def memory_share(self, address: str, now: float) -> float:
        """Return what share of its memory the service at ``address`` has taken."""
        limits = self._flows.hosts[address].limits
        leak = 0.0 if limits is None else limits.leak_share_s
        leaked = leak * max(0.0, now - self._started[address]) + self._spent[address]
        return float(min(1.0, MEMORY_AT_FIRST + leaked))

    def restart(self, address: str, now: float) -> None:
        """Start the service at ``address`` anew; it answers nothing for ``RESTART_S``."""
        self._started[address], self._spent[address] = now + RESTART_S, 0.0
        self.restarts[address] += 1

    def _exhaust(self, now: float) -> bool:
        """Bring the backlogs up to date, and the processors' shares of what arrives."""
        elapsed = now - self._settled
        delivering = self._fluid.delivering[: len(self._open)] * ~self._flows.away
        asked = np.bincount(self._host, delivering * self._asks, len(self._room))
        steady = np.minimum(asked * HALF_OPEN_S, self._backlog)
        grown = asked * HALF_OPEN_S
        grown += (self._half_open - grown) * np.exp(-elapsed / HALF_OPEN_S)
        self._half_open = np.minimum(grown, self._backlog)
        finite = np.isfinite(self._backlog)
        crowded = asked * HALF_OPEN_S * _SERVED > self._backlog
        self._full = finite & crowded & (self._half_open >= 0.999 * self._backlog)
        mb = np.bincount(self._host, delivering, len(self._room))
        packets = np.bincount(self._host, delivering * self._packets, len(self._room))
        requests = np.bincount(self._host, delivering * self.requests, len(self._room))
        hosts, leaks = list(self._flows.hosts), False
        for index, limits, stage in self._limited:
            most = limits.packets_s * mb[index] / packets[index] if packets[index] > 0 else inf
            if limits.requests_s is not None and requests[index] > 0:
                most = min(most, limits.requests_s * mb[index] / requests[index])
            address = hosts[index]
            most += self._flows.added_mb_s(address)
            self._spent[address] += limits.leak_share_request * requests[index] * elapsed
            runs = self._started[address] <= now and self.memory_share(address, now) < 1.0
            self._fluid.capacity[stage] = most if runs else 0.0
            leaks |= limits.leak_share_s + limits.leak_share_request > 0
        return leaks or bool((finite & (np.abs(self._half_open - steady) > 1.0)).any())

    def over(self, link: LinkId) -> int:
        """Return how many connections are open over ``link``."""
        self._flows.prepare()
        return int(self._now_open()[self._over(self._flows.version, link)].sum())

    def at_home(self) -> np.ndarray:
        """Return how many connections each source has open to its host, and not to a replica."""
        return self._now_open() * ~self._flows.away

    def _now_open(self) -> np.ndarray:
        return self._open * (self._fluid.delivering[: len(self._open)] > 0)
