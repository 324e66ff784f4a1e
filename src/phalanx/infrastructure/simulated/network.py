"""The simulated network: flows as a fluid, VNFs as accounts, everything told in the log.

Limits, blocks and splits that instances enforce.

What the exporters of a simulated service tell: computed from the flows that reach its host.

A service with ``requests_s`` is one queue with exponential times (M/M/1): its mean latency grows
as 1 / (1 - load), up to a queue of ``MOST_WAITING`` requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from phalanx.clock import Clock
from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    Enforce,
    EntrySample,
    Failed,
    Lift,
    LinkSample,
    MeasureSample,
    Observe,
    Outcome,
    Prefetch,
    ReadEntry,
    ReadLink,
    ReadMeasure,
    ReadRules,
    ReadService,
    RestartService,
    ServiceSample,
)
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Recorder
from phalanx.domain.network import Link, LinkId, Network, PopId, link_id
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.domain.traffic import Source
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.infrastructure import Answer
from phalanx.infrastructure.reservations.instances import (
    Instance,
    MeasureHits,
    MeasureLedger,
    Volume,
    applied,
)
from phalanx.infrastructure.reservations.lifecycle import Lifecycle
from phalanx.infrastructure.reservations.network import NetworkDriver
from phalanx.infrastructure.simulated.downloads import SimulatedDownloads, Transfers
from phalanx.infrastructure.simulated.engine import HISTORY_S, TrafficEngine
from phalanx.infrastructure.simulated.flows import OFFERED, RESTART_S, Connections, Flows
from phalanx.infrastructure.simulated.fluid import Floats, Fluid
from phalanx.infrastructure.simulated.observations import SimulatedObserver
from phalanx.infrastructure.simulated.sources import (
    AdaptiveSources,
    GroundTruthSampler,
    Signalling,
    SourceSchedule,
    call_sources,
)

MOST_WAITING = 100
"""Requests that wait for a service at most; of more it refuses the rest."""
_DIGITS = 6
_LEAST = 1e-9


class ServiceMetrics:
    """Carries out ``ReadService``."""

    def __init__(self, flows: Flows, fluid: Fluid, connections: Connections) -> None:
        self._flows = flows
        self._fluid = fluid
        self._connections = connections

    def read(self, address: str, now: float) -> Outcome:
        """Return the metrics of the service at ``address`` as they are now."""
        host = self._flows.hosts.get(address)
        limits = None if host is None else host.limits
        if limits is None or limits.requests_s is None:
            return Failed(f"no service at {address} tells its metrics")
        self._flows.prepare()
        fluid, stage = self._fluid, self._flows.processors[address]
        rows = self._flows.towards(address, 0, 1)
        rows = rows[(fluid.delivering[rows] > 0) & ~self._flows.away[rows]]
        delivered = fluid.delivering[rows]
        served = float(np.sum(delivered * self._connections.requests[rows]))
        # Units that were added take so many MB/s, whatever a request's size is.
        added = self._flows.added_mb_s(address) * served / max(float(np.sum(delivered)), _LEAST)
        most = limits.requests_s + added
        load, refused = served / most, float(fluid.dropping[stage])
        opened = int(self._connections.at_home()[rows].sum())
        waits = min(MOST_WAITING, 1.0 / max(1.0 - load, 1.0 / MOST_WAITING))
        figures = {
            "cpu_share": min(load, 1.0),
            "requests_s": served / max(1.0 - refused, 1.0 / MOST_WAITING),
            "refused_share": refused,
            "latency_ms": waits * 1e3 / most,
            "memory_share": self._connections.memory_share(address, now),
            "connections_share": opened / limits.connections,
            "restarts": self._connections.restarts[address],
            "receive_mb_s": float(np.sum(delivered)),
        }
        metrics = {name: round(value, _DIGITS) for name, value in figures.items()}
        return ServiceSample(address, metrics, self._entries(rows, delivered))

    def _entries(self, rows: np.ndarray, delivered: Floats) -> dict[PopId, tuple[float, float]]:
        fluid, ways = self._fluid, self._flows.ways(rows)
        room = np.maximum(fluid.capacity[ways], _LEAST)  # a filter that was just made has none
        queues = fluid.queue[ways] / room
        rtt_ms = 1e3 * np.sum(2.0 * fluid.latency_s[ways] + queues, axis=0)
        at = np.array([self._flows.sources[row].at for row in rows])
        means = {
            pop: (delivered[at == pop].sum(), rtt_ms[at == pop].mean()) for pop in np.unique(at)
        }
        return {
            str(pop): (round(float(mb_s), _DIGITS), round(float(ms), _DIGITS))
            for pop, (mb_s, ms) in means.items()
        }


_LATELY_S = 2.0
"""Seconds over which ``ReadMeasure`` averages at least."""


@dataclass(slots=True, eq=False)
class _Measure:
    instance: Instance
    rule: TrafficRule
    effect: str
    reason: str
    stage: int
    since: float
    hits: MeasureHits
    read: float = inf
    """When it was read last; inf: never."""


class SimulatedMeasures(MeasureLedger[_Measure]):
    """The measures in force; each belongs to an instance and ends with it."""

    def __init__(
        self, clock: Clock, flows: Flows, engine: TrafficEngine, recorder: Recorder, cause: str
    ) -> None:
        super().__init__(recorder, clock, cause)
        self._flows = flows
        self._engine = engine

    def enforce(self, action: Enforce, instance: Instance, cause: str) -> Outcome:
        """Put a measure into force."""
        if action.measure in self._measures:
            return Failed(f"measure {action.measure} exists already")
        admitted = self._admit(action)
        if isinstance(admitted, Failed):
            return admitted
        action, rule = admitted, admitted.rule
        problem = rule.problem(OFFERED)
        if problem is not None:
            return Failed(problem, final=True)
        if rule.match.link is not None and rule.match.link not in self._flows.stages:
            return Failed(f"no link {rule.match.link}", final=True)
        host = self._flows.hosts.get(rule.match.target or "")
        if rule.verdict is TrafficVerdict.ENLARGE and (host is None or host.at != instance.pop):
            return Failed(f"{rule.match.target} is no host at {instance.pop}")
        if self._flows.cut_off(rule, instance.pop):
            return Failed(f"{instance.pop} is cut off: no traffic can be led there")
        stage = self._flows.apply(action.measure, rule, instance.pop)
        if rule.parameters.get("encrypted"):
            rows = self._flows.towards(rule.match.target or "", 0, 1, rule.match.entry)
            if read := {link for way in self._flows.routes(rows) for link in way.refused}:
                self._flows.lift(action.measure)
                return Failed(f"it would pass {', '.join(sorted(read))} in the clear, and may not")
        # The stage may have served other measures before.
        hits = MeasureHits(read=self._engine.totals(stage))
        now = self._clock.now()
        measure = _Measure(instance, rule, action.effect, action.reason, stage, now, hits)
        self._keep(action.measure, measure)
        self._engine.wake()
        return Done(
            self._recorder.record("measure.applied", cause, **applied(action, instance.pop))
        )

    def move(self, instance: Instance, to: Instance) -> None:
        """Hand the measures of one instance to another of the same PoP; traffic is not told."""
        for measure in instance.measures:
            self._measures[measure].instance = to
        to.measures.update(instance.measures)
        instance.measures.clear()

    def read(self, measure: str, pop: PopId) -> Outcome:
        """Return what a measure of ``pop`` passed and held back since it was last read.

        Or over the last 2 s, or its life: of two readings 5 s apart none misses a short burst.
        """
        found = self._at(measure, pop)
        if found is None:
            return Failed(f"no measure {measure} at {pop}")
        if not self._flows.is_applied(measure):
            return Failed(f"{found.effect} is not in force any more")
        now = self._clock.now()
        span = min(now - found.since, max(now - found.read, _LATELY_S))
        found.read = now
        passed, held_back = self._engine.averages(found.stage, span)
        return MeasureSample(passed, held_back, self._flows.cut_off(found.rule, pop))

    def tamper(self, effect: str) -> list[str]:
        """Take rules out of force whose effect begins so, without a word to anybody."""
        found = [name for name, each in self._measures.items() if each.effect.startswith(effect)]
        for name in found:
            self._flows.lift(name)
        self._engine.wake()
        return found

    def _read_counters(self) -> None:
        self._record_hits(self._readings(self._measures.items()))

    def _readings(
        self, measures: Iterable[tuple[str, _Measure]]
    ) -> Iterator[tuple[str, _Measure, Volume]]:
        for name, measure in measures:
            if self._flows.is_applied(name):  # nobody took it away behind the agents' backs
                yield name, measure, self._engine.totals(measure.stage)

    def _undo(self, name: str, measure: _Measure, *, process_ends: bool = False) -> None:  # noqa: ARG002
        self._record_hits(self._readings([(name, measure)]))
        self._flows.lift(name)
        self._engine.wake()


class SimulatedNetwork(NetworkDriver):
    """Implements ``Infrastructure`` for a network that exists only as figures.

    Args:
        network: what stands still.
        sources: the traffic, with its times.
        clock: when things happen.
        recorder: where events go; its agent should be ``network``.
        seed: of the noise in flow records.
        cause: the event that is the root cause of the run.
        tick_s: step of the traffic model, in seconds.
        sample_s: period of ``network.sample``, in seconds.
        watched: links that every sample shows, busy or not.
        keep_images: whether PoPs keep the images that they downloaded, for each other too.

    Raises:
        ValueError: if network and sources do not fit together.

    """

    def __init__(
        self,
        network: Network,
        sources: Sequence[Source],
        clock: Clock,
        recorder: Recorder,
        *,
        seed: int,
        cause: str,
        tick_s: float = 0.1,
        sample_s: float = 1.0,
        watched: Sequence[LinkId] = (),
        keep_images: bool = False,
    ) -> None:
        super().__init__(network, clock, recorder, cause, keep_images=keep_images)
        if not (0 < tick_s < inf and 0 < sample_s < inf):
            raise ValueError(f"a tick of {tick_s} s, samples of {sample_s} s are not possible")
        if network.repository not in self._topology.pops:
            raise ValueError(f"the repository's PoP {network.repository} is not in the network")
        self._fluid = Fluid()
        sources = [*sources, *call_sources(network)]
        self._flows = Flows(network, self._topology, sources, self._fluid)
        self._connections = Connections(self._flows, self._fluid, clock.now())
        self._signalling = Signalling(
            self._flows, self._fluid, network, self._connections.requests, clock.now()
        )
        unknown = [link for link in watched if link not in self._flows.stages]
        if unknown:
            raise ValueError(f"no link {unknown[0]} to watch")
        self._services = ServiceMetrics(self._flows, self._fluid, self._connections)
        self._engine = TrafficEngine(clock, self._fluid, tick_s, self._prepare, self._react)
        self._transfers = Transfers(clock, self._fluid, self._engine, self._flows)
        self._downloads = SimulatedDownloads(
            clock,
            recorder,
            topology=self._topology,
            links=self._links,
            images=self._images,
            transfers=self._transfers,
            repository=network.repository,
        )
        self._ledger = self._measures = SimulatedMeasures(
            clock, self._flows, self._engine, recorder, cause
        )
        self._observer = SimulatedObserver(
            clock, self._topology, self._engine, self._flows, self._connections, seed
        )
        self._lifecycle = Lifecycle(
            clock,
            recorder,
            reservations=self._reservations,
            downloads=self._downloads,
            measures=self._measures,
            observer=self._observer,
            percepts=self._percepts,
            images=self._images,
        )
        self._memory_limits: dict[str, tuple[RestartService, str]] = {}
        """Of services that were started anew, with the event that tells of it."""
        self._schedule = SourceSchedule(clock, self._flows, self._engine, recorder, cause)
        self._adaptive = AdaptiveSources(clock, self._flows, self._fluid, self._engine)
        self._sampler = GroundTruthSampler(
            clock,
            fluid=self._fluid,
            engine=self._engine,
            flows=self._flows,
            signalling=self._signalling,
            transfers=self._transfers,
            recorder=recorder,
            cause=cause,
            period_s=sample_s,
            watched=watched,
        )

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out ``action`` at ``pop``, as ``phalanx.domain.actions`` says.

        ``Deploy`` and ``Observe`` are answered later, unless they are refused; everything
        else before this returns.
        """
        if pop not in self._topology.pops:
            answer(Failed(f"no PoP {pop}"))
            return
        match action:
            case Deploy():
                self._lifecycle.deploy(pop, action, cause, answer)
            case Observe():
                self._observe(pop, action, answer)
            case Prefetch():
                answer(self._downloads.prefetch(pop, action, cause))
            case _:
                answer(self._reserved(pop, action, cause) or self._of_traffic(pop, action, cause))

    def repository_away(self, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""
        fault = "repository-away" if away else "repository-back"
        event = self._recorder.record("fault.injected", self._cause, fault=fault)
        if away:
            self._downloads.go_away(event)
        else:
            self._downloads.away = False

    def kill_instance(self, instance: str) -> None:
        """Let an instance that there is crash."""
        about = {"fault": "instance-killed", "instance": instance}
        event = self._recorder.record("fault.injected", self._cause, **about)
        self._lifecycle.kill(instance, event)

    def install(
        self, pop: PopId, instance: InstanceId, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> None:
        """Put an instance in place that runs from the start, without a download.

        Raises:
            ScenarioError: if the PoP has no room for it.

        """
        refusal = self._lifecycle.install(
            pop, instance, vnfd, units=units, ttl_s=ttl_s, cause=cause
        )
        if refusal is not None:
            raise ScenarioError(f"monitors: {vnfd.name} cannot be installed at {pop}: {refusal}")

    def denied_mb_s(self) -> dict[str, float]:
        """Return what measures keep from honest sources now, in MB/s by host: the truth."""
        return self._sampler.denied_mb_s()

    def way(self, a: PopId, b: PopId) -> tuple[float, float]:
        """Return how a packet fares from PoP ``a`` to ``b`` now, beside the traffic of the links.

        Returns:
            its latency in seconds, queues included, and the chance that it arrives.

        """
        path = self._topology.route(a, b)
        if path is None:
            return inf, 0.0
        fluid = self._fluid
        stages = [self._flows.stages[link_id(*hop)] for hop in pairwise(path)]
        queues = fluid.queue[stages] / fluid.capacity[stages]
        kept = (1.0 - fluid.loss[stages]) * (1.0 - fluid.dropping[stages])
        return float(np.sum(fluid.latency_s[stages] + queues)), float(np.prod(kept))

    def degrade(self, a: PopId, b: PopId, share: float, latency_ms: float, loss: float) -> None:
        """Leave a link a share of its bandwidth, with more latency and loss; 1, 0, 0: its own.

        Nobody is told: reservations, prices and paths go by what the link is meant to be.
        """
        link = self._topology.neighbours[a][b]
        stages = [self._flows.stages[link_id(*ends)] for ends in ((a, b), (b, a))]
        kept = (1.0 - link.loss) * (1.0 - loss)
        latency_s = (link.latency_ms + latency_ms) / 1e3
        self._fluid.reshape(stages, link.bandwidth_mb_s * share, 1.0 - kept, latency_s)
        self._engine.wake()

    def remove_rules(self, effect: str) -> list[str]:
        """Take rules out of force whose effect begins so, behind the agents' backs; name them."""
        return self._measures.tamper(effect)

    def shutdown(self) -> None:
        """Stop all timers; what is under way is never answered."""
        self._schedule.stop()
        self._adaptive.stop()
        self._sampler.stop()
        self._measures.stop_counting()
        self._observer.stop()
        self._transfers.stop()
        self._lifecycle.shutdown()
        self._engine.stop()

    def _of_traffic(self, pop: PopId, action: Action, cause: str) -> Outcome:
        match action:
            case Enforce():
                instance = self._lifecycle.running(action.instance, pop)
                if isinstance(instance, str):
                    return Failed(instance)
                return self._measures.enforce(action, instance, cause)
            case Lift():
                return self._measures.lift(action.measure, pop, cause)
            case ReadMeasure():
                return self._measures.read(action.measure, pop)
            case ReadLink():
                return self._read(action)
            case ReadRules():
                return self._deeds(action.pop, self._measures.rules(action.pop))
            case ReadService():
                return self._services.read(action.target, self._clock.now())
            case RestartService():
                return self._restart(pop, action, cause)
            case ReadEntry():
                rows = self._flows.towards(action.target, 0, 1, pop)
                self._engine.sync()
                return EntrySample(action.target, float(self._fluid.sending[rows].sum()))
            case _:
                return Failed(f"cannot carry out {type(action).__name__}")

    def _restart(self, pop: PopId, action: RestartService, cause: str, **reason: str) -> Outcome:
        address = action.target
        host = self._flows.hosts.get(address)
        if host is None or host.at != pop:
            return Failed(f"{address} is no host at {pop}")
        if self._connections.restarts[address] >= action.most:
            return Failed(f"it was started anew {action.most} times, no more are allowed")
        self._connections.restart(address, self._clock.now())
        self._clock.call_at(self._clock.now() + RESTART_S, self._engine.wake)
        event = self._recorder.record("host.restarted", cause, host=host.name, pop=pop, **reason)
        self._memory_limits[address] = action, event
        return Done(event)

    def _limit_memory(self) -> None:
        """Start services anew that take more than their limit, as a kernel and its cgroup do."""
        now = self._clock.now()
        for address, (action, event) in self._memory_limits.items():
            taken = self._connections.memory_share(address, now)
            if taken >= action.memory_share and self._connections.restarts[address] < action.most:
                at, why = self._flows.hosts[address].at, f"it takes {taken:.0%} of its memory"
                self._restart(at, action, event, reason=why)

    def _observe(self, pop: PopId, action: Observe, answer: Answer) -> None:
        instance = self._lifecycle.running(action.instance, pop)
        if isinstance(instance, str):
            answer(Failed(instance))
        else:
            self._observer.begin(action, instance, answer)

    def _read(self, action: ReadLink) -> Outcome:
        stage = self._flows.stages.get(action.link)
        if stage is None:
            return Failed(f"no link {action.link}")
        if not 0 < action.seconds <= HISTORY_S:
            return Failed(f"counters go back {HISTORY_S:g} s, not {action.seconds:g} s")
        rate, _ = self._engine.averages(stage, action.seconds)
        bandwidth = float(self._fluid.capacity[stage])
        return LinkSample(action.link, rate, bandwidth, self._connections.over(action.link))

    def _switched(self, link: Link, event: str, *, up: bool) -> None:
        self._flows.relink()
        self._engine.wake()
        if not up:
            self._downloads.cut(link.a, link.b, event)

    def _prepare(self) -> bool:
        self._limit_memory()
        filling = self._connections.settle(self._clock.now())
        filling |= self._signalling.settle(self._clock.now())
        self._flows.prepare()
        self._observer.prepare()
        return filling

    def _react(self) -> None:
        self._transfers.react()
