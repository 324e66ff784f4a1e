"""Observations: traffic that is mirrored to an instance, and the records that it makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from itertools import pairwise
from math import prod

import numpy as np
from msgspec.structs import replace

from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Failed, FlowRecords, FlowStats, Observe
from phalanx.domain.network import PopId, link_ends, link_id
from phalanx.domain.traffic import Profile, Source
from phalanx.infrastructure import Answer
from phalanx.infrastructure.reservations.instances import Instance, observe_refusal
from phalanx.infrastructure.reservations.topology import Topology
from phalanx.infrastructure.simulated.engine import Meter, TrafficEngine
from phalanx.infrastructure.simulated.flows import SYN_RETRY_S, Connections, Flows, Rows
from phalanx.infrastructure.simulated.fluid import Floats

SYN_OCTETS = 60
ROOM = 16_384
"""Flows that a recorder has room for; it counts the packets of any others together."""
_ROUNDING = 1e-9
_LOWEST, _HIGHEST = int(IPv4Address("11.0.0.0")), int(IPv4Address("224.0.0.0"))
"""Between these lie forged addresses."""


def record(
    rng: np.random.Generator,
    seen: Iterable[tuple[Source, float, float]],
    looked_at: float,
) -> tuple[tuple[FlowStats, ...], int]:
    """Return the flow records of an observation, and the packets of flows not listed.

    Args:
        rng: source of the sampling noise.
        seen: of each flow its source, the MB that passed the recorder, and the share of
            those that got through to the target.
        looked_at: share of the packets that the recorder looked at, 0 to 1.

    Returns:
        Records of the flows of which at least one packet was looked at. Counters are those
        of the packets looked at, not scaled up. Forged packets are flows of one packet each;
        those that share the room of the list are a sample of all.

    """
    flows: list[FlowStats] = []
    forged: list[tuple[Source, int, float]] = []
    for source, mb, delivered in seen:
        packets = _packets(rng, source.profile, mb, looked_at)
        if packets and source.profile.spoofed:
            forged.append((source, packets, delivered))
        elif packets:
            flows.append(_flow(rng, source, packets, delivered, looked_at))
    total = sum(packets for _, packets, _ in forged)
    share = min(1.0, max(0, ROOM - len(flows)) / total) if total else 0.0
    listed = 0
    for source, packets, delivered in forged:
        own = int(packets * share)
        flows += _forged(rng, source, own, delivered)
        listed += own
    return tuple(flows), total - listed


def _packets(rng: np.random.Generator, profile: Profile, mb: float, looked_at: float) -> int:
    sent = rng.poisson(mb * 1e6 / profile.packet_octets)
    return int(rng.binomial(sent, looked_at))


def _flow(
    rng: np.random.Generator, source: Source, packets: int, delivered: float, looked_at: float
) -> FlowStats:
    profile = source.profile
    syn = int(rng.binomial(packets, profile.request_share))
    established = int(rng.binomial(syn, delivered)) if profile.establishes else 0
    still_open = round(profile.connections * looked_at) if delivered > 0 else 0
    replies = int(rng.poisson(packets * delivered * profile.reply_share))
    unseen = source.asymmetric
    replies = 0 if unseen else replies
    return FlowStats(
        source=source.address,
        target=source.target,
        port=0 if profile.bare else source.port,
        protocol=profile.protocol,
        packets=packets,
        octets=round(packets * profile.packet_octets),
        syn=syn,
        established=established,
        replies=replies,
        answered=0 if profile.holds or unseen else max(established, still_open),
        open=still_open,
        source_port=profile.source_port,
        resets=replies if profile.unconnected else 0,
        syn_acks=packets if profile.syn_acks else 0,
        aborts=packets if profile.aborts else 0,
    )


def _forged(
    rng: np.random.Generator, source: Source, packets: int, delivered: float
) -> list[FlowStats]:
    profile = source.profile
    addresses = rng.integers(_LOWEST, _HIGHEST, packets)
    syn = rng.binomial(1, profile.request_share, packets)
    replies = rng.poisson(0.0 if source.asymmetric else delivered * profile.reply_share, packets)
    return [
        FlowStats(
            source=str(IPv4Address(address)),
            target=source.target,
            port=0 if profile.bare else source.port,
            protocol=profile.protocol,
            packets=1,
            octets=round(profile.packet_octets),
            syn=asks,
            established=0,
            replies=replied,
            source_port=profile.source_port,
            resets=replied if profile.unconnected else 0,
            syn_acks=1 if profile.syn_acks else 0,
            aborts=1 if profile.aborts else 0,
        )
        for address, asks, replied in zip(
            addresses.tolist(), syn.tolist(), replies.tolist(), strict=True
        )
    ]


@dataclass(slots=True, eq=False)
class _Observation:
    action: Observe
    instance: Instance
    path: tuple[PopId, ...]
    """PoPs from the instance to the tap, both included."""
    answer: Answer
    meter: Meter
    intact: float
    """Share of the copies that the links of the mirror do not lose."""
    began: float
    delivered: Floats
    """What each flow had delivered when the observation began, MB."""
    refused: Floats
    """For how long each had been kept out by then, s."""
    timer: Timer | None = None


class SimulatedObserver:
    """Carries out ``Observe``.

    Of a link it sees what reaches that link, of an address what leaves the tap towards it:
    both as the measures on the way have throttled them. Of what avoids the tap it sees what
    reaches the target's PoP, copied from there.
    """

    def __init__(
        self,
        clock: Clock,
        topology: Topology,
        engine: TrafficEngine,
        flows: Flows,
        connections: Connections,
        seed: int,
    ) -> None:
        self._clock = clock
        self._topology = topology
        self._engine = engine
        self._flows = flows
        self._connections = connections
        self._seed = seed
        self._count = 0
        self._version = 0
        self._active: list[_Observation] = []
        self._seen = lru_cache(64)(self._look)  # as long as routes stay

    def begin(self, action: Observe, instance: Instance, answer: Answer) -> None:
        """Observe for a while and answer then, or refuse at once."""
        refusal = self._refusal(action)
        if refusal is not None:
            answer(Failed(refusal))
            return
        path, kept = instance.chain.path, True
        if action.entry not in (None, path[-1]):  # the instance serves several goals
            path, kept = self._topology.route(instance.pop, action.entry) or (), False
        if not path:
            answer(Failed(f"no path from {instance.pop} to {action.entry}"))
            return
        hops = list(pairwise(path))
        mirror = [self._flows.stages[link_id(b, a)] for a, b in reversed(hops)]
        losses = [self._topology.neighbours[a][b].loss for a, b in hops]
        reserved = kept and bool(hops) and instance.chain.mb_s > 0
        limit = instance.chain.mb_s if reserved else instance.handles_mb_s
        meter = Meter(len(self._flows.sources), mirror, limit, reserved=reserved)
        observation = _Observation(
            action,
            instance,
            path,
            answer,
            meter,
            prod(1.0 - loss for loss in losses),
            self._clock.now(),
            self._delivered(),
            self._connections.refused_s(self._clock.now()),
        )
        self._aim(observation)
        self._engine.install(meter)
        self._active.append(observation)
        observation.timer = self._clock.call_at(
            self._clock.now() + action.seconds, lambda: self._finish(observation)
        )

    def prepare(self) -> None:
        """Follow the traffic if routes changed; to be called before each tick's step."""
        if self._version != self._flows.version:
            self._version = self._flows.version
            for observation in self._active:
                self._aim(observation)

    def lost(self, instance: Instance, reason: str) -> None:
        """Fail what ``instance`` was observing."""
        for observation in [o for o in self._active if o.instance is instance]:
            self._end(observation)
            observation.answer(Failed(reason))

    def stop(self) -> None:
        """End all observations without an answer: the network is shut down."""
        for observation in list(self._active):
            self._end(observation)

    def _refusal(self, action: Observe) -> str | None:
        if action.link is not None and action.link not in self._flows.stages:
            return f"no link {action.link}"
        return observe_refusal(action)

    def _aim(self, observation: _Observation) -> None:
        meter, tap, flows = observation.meter, observation.path[-1], self._flows
        flows.prepare()
        rows, routes, leg = self._seen(flows.version, tap, observation.action)
        meter.aim(rows, routes, [flows.stages[link_id(a, b)] for a, b in pairwise(leg)])
        if not meter.reserved:
            copied = (self._topology.unreserved(way) for way in (leg, observation.path))
            meter.limit = min(meter.most, *copied)

    def _look(self, _: int, tap: PopId, action: Observe) -> tuple[Rows, Rows, tuple[PopId, ...]]:
        """Return who is seen, what their traffic has behind it, and the way of its copies.

        What goes another way is copied where the link begins, or at the target's PoP.
        """
        flows = self._flows
        if action.link is not None:
            seen = flows.over(action.link, action.part, action.parts)
            ends = link_ends(action.link)
            here, start = seen if tap in ends else seen[:0], ends[0]
        else:
            seen = flows.towards(action.ip or "", action.part, action.parts, action.entry)
            host = flows.hosts.get(action.ip or "")
            here, start = flows.passing(seen, tap), tap if host is None else host.at
        leg = (self._topology.route(start, tap) or ()) if len(here) < len(seen) else ()
        rows = seen if leg else here
        routes = flows.until_link(rows, action.link) if action.link else flows.until_pop(rows, tap)
        return rows, routes, leg

    def _finish(self, observation: _Observation) -> None:
        self._end(observation)
        seen, action = observation.meter.volume, observation.action
        seconds = self._clock.now() - observation.began
        traffic = float(np.sum(seen)) / seconds
        limit = observation.meter.limit
        arrived = 1.0 - observation.meter.lost_s / seconds
        if arrived < _ROUNDING:
            path = "-".join(observation.path)
            observation.answer(Failed(f"no copies arrived over {path}: a link is down or full"))
            return
        coverage = observation.intact * arrived * (limit / traffic if traffic > limit else 1.0)
        delivered = self._delivered() - observation.delivered
        rng = np.random.default_rng((self._seed, self._count))
        self._count += 1
        flows, unlisted = record(
            rng,
            [
                (
                    self._as_seen(row, observation),
                    seen[row],
                    min(1.0, float(delivered[row] / seen[row])),
                )
                for row in map(int, np.flatnonzero(seen > 0))
            ],
            coverage * action.sampling,
        )
        flows += self._refusals(rng, observation, coverage * action.sampling)
        rows = [*map(int, np.flatnonzero(seen > 0))]
        senders = [self._flows.sources[row] for row in rows]
        if self._flows.untrusted:
            ways = zip(senders, self._flows.routes(rows), strict=True)
            clear = {(s.address, s.target, s.port) for s, way in ways if way.exposed}
            flows = tuple(
                replace(f, clear=f.packets) if (f.source, f.target, f.port) in clear else f
                for f in flows
            )
        tunnels = {s.address: s.tunnels for s in senders if s.tunnels}
        observation.answer(FlowRecords(flows, seconds, coverage, unlisted, tunnels=tunnels))

    def _as_seen(self, row: int, observation: _Observation) -> Source:
        """Return a source, whose answers are seen at its target whatever way they take."""
        source = self._flows.sources[row]
        if source.asymmetric and self._flows.hosts[source.target].at == observation.path[-1]:
            return replace(source, asymmetric=False)
        return source

    def _refusals(
        self, rng: np.random.Generator, observation: _Observation, looked_at: float
    ) -> tuple[FlowStats, ...]:
        """Return the requests of users that a full backlog keeps out."""
        rows = observation.meter.rows
        out = (self._connections.refused_s(self._clock.now()) - observation.refused)[rows]
        tries = {
            int(row): int(rng.poisson(s / SYN_RETRY_S * looked_at))
            for row, s in zip(rows[out > 0], out[out > 0], strict=True)
        }
        sources = [(self._flows.sources[row], count) for row, count in tries.items() if count]
        return tuple(
            FlowStats(s.address, s.target, s.port, "tcp", n, n * SYN_OCTETS, n, 0, 0)
            for s, n in sources
        )

    def _delivered(self) -> Floats:
        self._engine.sync()
        return self._engine.delivered[: len(self._flows.sources)].copy()

    def _end(self, observation: _Observation) -> None:
        self._active.remove(observation)
        self._engine.remove(observation.meter)
        if observation.timer is not None:
            observation.timer.cancel()
