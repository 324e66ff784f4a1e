"""Measures in the kernel: limits, blocks, proxies and splits, kept by VNFs under leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from phalanx.domain.actions import Done, Enforce, Failed, MeasureSample, PacketAlert
from phalanx.domain.network import PopId, link_ends
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.journal import LeasedMeasure, LeaseJournal, RuleBatcher
from phalanx.infrastructure.linux.routers import Routers, Routes
from phalanx.infrastructure.linux.services import Services
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.tunnels import Detour, Detours, Tunnel, Tunnels
from phalanx.infrastructure.linux.vnf_processes import VnfProcesses
from phalanx.infrastructure.linux.workers import DriverContext
from phalanx.infrastructure.reservations.instances import (
    Instance,
    MeasureHits,
    MeasureLedger,
    Volume,
    applied,
)

ENCRYPTED = "phx-tr"
"""Device at each PoP by which traffic comes that was led there encrypted."""
_TUN = Path("/dev/net/tun")
"""What holds delayed packets needs it."""
_LATELY_S = 2.0
"""Seconds over which ``ReadMeasure`` averages at least."""

Body = dict[str, str | int | float | list[str]]


class EncryptedWay(Struct, frozen=True):
    """What goes to an address, and how it gets there so that nobody reads it on the way."""

    address: str
    to: PopId
    """Where the address is."""
    entry: PopId | None = None
    """What enters there alone; None: what enters anywhere else than at ``to``."""
    over: PopId | None = None
    """By way of this PoP; with ``entry`` alone."""


class TrafficEncryption(Protocol):
    """What carries traffic between PoPs encrypted; its methods block."""

    def carry(self, way: EncryptedWay) -> None:
        """Lead it there encrypted from now on; the same way may be asked for several times.

        Raises:
            PhalanxError: if that cannot be done for all of it.

        """

    def carry_no_more(self, way: EncryptedWay) -> None:
        """Let it go as it does without this way; one that is not led is no error."""

    def carries(self, way: EncryptedWay) -> bool:
        """Whether all of it is still led so."""


class RulePlace(Struct, frozen=True):
    """Where a rule is carried out, and which traffic must make a detour for it."""

    at: PopId
    """PoP where the traffic is."""
    device: str
    """Device there that the traffic leaves by."""
    enters: bool
    """Whether it is met as it comes in by the device instead."""
    detour: Detour | None
    """How to bring it to another PoP; None: that cannot be done."""
    address: str | None = None
    """Where all of it goes; None: to several."""


@dataclass(slots=True, eq=False)
class _Measure:
    id: str
    instance: Instance
    effect: str
    rule: TrafficRule
    reason: str
    body: Body
    tunnel: Tunnel | None
    detour: Detour | None
    way: EncryptedWay | None = None
    routes: Routes = field(default_factory=dict)
    readings: deque[tuple[float, float, float]] = field(default_factory=deque)
    """(time, octets passed, octets held back), cumulative."""
    hits: MeasureHits = field(default_factory=MeasureHits)


class Enforcement(MeasureLedger[_Measure]):
    """Implements ``Measures``."""

    def __init__(
        self,
        context: DriverContext,
        processes: VnfProcesses,
        tunnels: Tunnels,
        detours: Detours,
        journal: LeaseJournal,
        services: Services | None,
        encryption: TrafficEncryption | None,
        routers: Routers,
    ) -> None:
        super().__init__(context.recorder, context.clock, context.cause)
        self._context = context
        self._tasks = context.tasks
        self._linux = context.linux
        self._topology = context.topology
        self._processes = processes
        self._tunnels = tunnels
        self._detours = detours
        self._journal = journal
        self._rules = RuleBatcher(context.tasks, processes, journal)
        self._services = services
        self._encryption = encryption
        self._routers = routers
        self._offered = offered(services=services is not None)
        self._ttl_s: dict[str, float] = {}
        self._problem: str | None = None
        """Of the journal, as it was told last."""

    def lease(self, instance: str, ttl_s: float) -> None:
        """Note how long the measures of an instance outlive its agent, in seconds."""
        self._ttl_s[instance] = ttl_s

    def enforce(self, action: Enforce, instance: Instance, cause: str, answer: Answer) -> None:
        """Put a measure into force and answer then."""
        admitted = self._admit(action)
        if isinstance(admitted, Failed):
            answer(admitted)
            return
        action = admitted
        target = self._refuse_or_place(action, instance)
        if isinstance(target, Failed):
            answer(target)
            return
        rule = action.rule
        about = action.measure, instance, action.effect, rule, action.reason
        measure = _Measure(*about, _body(rule), None, None)
        self._keep(action.measure, measure)
        measure.routes = self._routers.plan(action.measure, rule, target.address, cause)

        def done(_: None) -> None:
            if self._measures.get(action.measure) is not measure:
                self._undo(action.measure, measure)
                answer(Failed("it was lifted before it was in force"))
                return
            event = self._recorder.record("measure.applied", cause, **applied(action, instance.pop))
            self._tell_of_journal(measure.instance.pop)
            ttl_s = self._ttl_s.get(measure.instance.id, 1.0)
            self._routers.announce(action.measure, measure.routes, ttl_s, event)
            answer(Done(event))

        def failed(reason: str) -> None:
            if self._measures.get(action.measure) is measure:
                del self._measures[action.measure]
                measure.instance.measures.pop(action.measure, None)
            self._undo(action.measure, measure)
            answer(Failed(reason))

        self._tasks.start(self._put(measure, target), done, failed)

    def lift_all(self, instance: Instance, reason: str, cause: str) -> None:
        """Lift what ``instance`` enforces; its process has been told to end already."""
        self._ttl_s.pop(instance.id, None)
        super().lift_all(instance, reason, cause)

    def move(self, instance: Instance, to: Instance) -> None:
        """Hand the measures of one instance to another: first there, then no longer here."""
        for name in instance.measures:
            measure = self._measures[name]
            measure.instance = to
            measure.hits.read = (0.0, 0.0)  # its counters begin anew there
            self._tasks.forget(self._hand_over(measure, instance.id, to.id), self._note(measure))
        to.measures.update(instance.measures)
        instance.measures.clear()

    def renew(self, instance: Instance, ttl_s: float) -> None:
        """Extend the leases of what ``instance`` enforces, in the kernel and on disk."""
        self._ttl_s[instance.id] = ttl_s
        names = list(instance.measures)
        self._routers.renew(names, ttl_s)
        if not names:
            return

        async def work() -> None:
            await self._processes.change(instance.id, "POST", "/lease", lambda: {"ttl_s": ttl_s})
            await self._tasks.thread(self._journal.renew, names, ttl_s)

        self._tasks.forget(work(), self._note(self._measures[names[0]]))

    def read(self, measure: str, pop: PopId, answer: Answer) -> None:
        """Answer with what a measure passed and held back lately, MB/s."""
        found = self._at(measure, pop)
        if found is None:
            answer(Failed(f"no measure {measure} at {pop}"))
            return

        async def ask() -> dict[str, Any]:
            by, way = self._encryption, found.way
            if by is not None and way and not await self._tasks.thread(by.carries, way):
                raise TaskError(f"{found.effect} is not in force any more")
            counters: dict[str, Any] = await self._processes.ask(
                found.instance.id, "GET", _resource(measure)
            )
            return counters

        def done(counters: dict[str, Any]) -> None:
            now, readings = self._clock.now(), found.readings
            readings.append((now, counters["passed_octets"], counters["held_octets"]))
            while len(readings) > 2 and now - readings[1][0] >= _LATELY_S:
                readings.popleft()
            then, passed, held = readings[0]
            span = max(now - then, 1e-9)
            answer(
                MeasureSample(
                    (readings[-1][1] - passed) / span / 1e6,
                    (readings[-1][2] - held) / span / 1e6,
                    alerts=msgspec.convert(counters.get("alerts", ()), tuple[PacketAlert, ...]),
                )
            )

        self._tasks.start(ask(), done, lambda reason: answer(Failed(reason)))

    async def put_again(
        self, entry: LeasedMeasure, instance: Instance, ttl_s: float, cause: str
    ) -> None:
        """Put a measure of an earlier driver in force for ``ttl_s`` seconds, and keep it.

        What is allowed by now is left out, and a rule that hits nothing else ends.

        Raises:
            TaskError: if its VNF refuses.

        """
        kept, routes, told = entry.rule, entry.routes, entry.body
        spared = None if kept is None else self.allow.spare(kept)
        if spared is not None and spared is not kept:  # the list has more than it had then
            told = {n: v for n, v in told.items() if n not in ("source", "sources", "outside")}
            told |= _body(spared)
            place = self._place(spared)
            address = None if isinstance(place, str) else place.address
            routes = self._routers.plan(entry.measure, spared, address, cause)
        if spared is not None or kept is None:
            body = {**told, "ttl_s": ttl_s}
            resource = _resource(entry.measure)
            await self._processes.change(entry.instance, "PUT", resource, lambda: body)
            self._routers.announce(entry.measure, routes, ttl_s, cause)
        if kept is not None:
            about = entry.measure, instance, entry.effect, spared or kept, entry.reason
            self._keep(entry.measure, _Measure(*about, told, None, None, routes=routes))
            if spared is None:
                self._end(entry.measure, "the allow list has all its sources", cause)

    def _read_counters(self) -> None:
        instances = dict.fromkeys(measure.instance for measure in self._measures.values())
        for instance in instances:
            counted = partial(self._counted, instance)
            # One that does not answer is noticed by its agent; its hits are told the next time.
            ask = self._processes.ask(instance.id, "GET", "/measures")
            self._tasks.start(ask, counted, lambda _: None)

    def _counted(self, instance: Instance, counters: dict[str, Any]) -> None:
        kept = ((name, self._measures.get(name), counts) for name, counts in counters.items())
        self._record_hits(
            (name, measure, _volume(counts))
            for name, measure, counts in kept
            if measure is not None and measure.instance is instance
        )

    # -- where and how ----------------------------------------------------------------

    def _refuse_or_place(self, action: Enforce, instance: Instance) -> RulePlace | Failed:
        if action.measure in self._measures:
            return Failed(f"measure {action.measure} exists already")
        problem = action.rule.problem(self._offered)
        if problem is not None:
            return Failed(problem, final=True)
        encrypted, match = action.rule.parameters.get("encrypted"), action.rule.match
        if encrypted and self._encryption is None:
            return Failed("nothing here encrypts what it leads around", final=True)
        place = self._place(action.rule)
        if isinstance(place, str):
            return Failed(place, final=True)
        if encrypted and match != TrafficMatch(target=match.target, entry=match.entry):
            why = "all that goes to an address, or what of it enters at one PoP"
            return Failed(f"encrypted is {why}", final=True)
        if encrypted and match.entry and (place.at == instance.pop or not place.enters):
            return Failed(f"{instance.pop} is no way around for what enters there", final=True)
        if encrypted and match.entry:
            return place
        if encrypted and place.at != instance.pop:
            return Failed(f"only {place.at}, where it goes, has all of it led there", final=True)
        if place.at not in self._topology.pops:
            why = f"{place.at} is another site: traffic is not led between sites"
            return Failed(why, final=True)
        if place.at != instance.pop and place.detour is None:
            return Failed(f"{action.effect} can only be kept true at {place.at}")
        return place

    def _place(self, rule: TrafficRule) -> RulePlace | str:
        """Return where the traffic that a rule matches can be met; as text why nowhere."""
        match = rule.match
        target, at = match.target, None
        if match.link is not None:
            try:
                device = self._linux.device(match.link)
            except KeyError:
                return f"no link {match.link}"
            at, end = link_ends(match.link)
            target = target or self._linux.address(end)
        else:
            assert target is not None
            at = self._linux.host_at(target)
            if at is None:
                return f"no host has the address {target}"
            device = self._linux.host_device(target)
        entry: tuple[PopId, str] | None = None
        if match.entry is not None and (enters := self._linux.entry(match.entry)) is not None:
            at, device = entry = match.entry, enters
        # Both directions, which a proxy and a mirror need, pass only where one of the ends is.
        bound = target is None or rule.verdict in (TrafficVerdict.PROXY, TrafficVerdict.MIRROR)
        detour = None if bound else Detour(str(target), match.source, entry)
        return RulePlace(at, device, entry is not None, detour, target)

    async def _put(self, measure: _Measure, target: RulePlace) -> None:
        instance = measure.instance
        device = target.device
        if self._encryption is not None and measure.rule.parameters.get("encrypted"):
            way = self._way(measure.rule.match, instance.pop)
            await self._tasks.thread(self._encryption.carry, way)
            measure.way = way
            if way.entry is not None:  # what comes here so is counted as it does
                measure.body |= {"devices": [ENCRYPTED], "hook": "ingress"}
                await self._tell(measure, instance.id)
                return
        if measure.rule.verdict is TrafficVerdict.SERVE and self._services is not None:
            where = instance.pop, target.at, device if target.enters else ""
            await self._tasks.thread(self._services.serve, measure.id, measure.rule, *where)
            return
        if target.at != instance.pop:
            path = instance.chain.path
            if path[-1] != target.at:
                found = self._topology.route(instance.pop, target.at)
                if found is None:
                    raise TaskError(f"no path from {instance.pop} to {target.at}")
                path = found
            measure.tunnel = await self._tunnels.acquire(path)
            device = measure.tunnel.near.device
        elif target.enters:
            measure.body["hook"] = "ingress"
        measure.body["devices"] = [device]
        await self._tell(measure, instance.id)
        if measure.tunnel is not None and target.detour is not None:
            measure.detour = target.detour
            await self._detours.add(target.detour, measure.tunnel)

    def _way(self, match: TrafficMatch, pop: PopId) -> EncryptedWay:
        """Return how what matches is led encrypted to or over ``pop``."""
        address = match.target or ""
        if match.entry is None:
            return EncryptedWay(address, pop)
        return EncryptedWay(address, self._linux.host_at(address) or pop, match.entry, pop)

    async def _tell(self, measure: _Measure, instance: str) -> None:
        if measure.rule.verdict is TrafficVerdict.SERVE:
            return  # a program of its own does that
        kept = measure.instance
        what = measure.body, measure.rule, measure.effect, kept.units, measure.reason
        about = measure.id, instance, kept.vnfd.name, kept.pop, *what
        entry = LeasedMeasure(*about, measure.routes)
        await self._rules.put(entry, self._ttl_s.get(instance, 1.0))

    def _tell_of_journal(self, pop: PopId) -> None:
        """Record that leases are not kept on disk, once."""
        before, self._problem = self._problem, self._journal.problem
        if self._problem not in (None, before):
            note = self._context.failure(pop, "writing the journal of leases")
            note(f"{self._problem}; what is in force is known in memory alone")

    async def _hand_over(self, measure: _Measure, instance: str, to: str) -> None:
        await self._tell(measure, to)
        await self._processes.change(instance, "DELETE", _resource(measure.id))

    def _undo(self, name: str, measure: _Measure, *, process_ends: bool = False) -> None:
        instance = measure.instance.id
        self._routers.withdraw(name)
        # Taken out at once: a measure that is lifted while it is put in force is undone twice.
        tunnel, measure.tunnel = measure.tunnel, None
        detour, measure.detour = measure.detour, None
        way, measure.way = measure.way, None

        async def work() -> dict[str, Any]:
            counters: dict[str, Any] = {}
            try:
                if self._encryption is not None and way is not None:
                    await self._tasks.thread(self._encryption.carry_no_more, way)
                if tunnel is not None and detour is not None:
                    await self._detours.remove(detour, tunnel)
                if measure.rule.verdict is TrafficVerdict.SERVE and self._services is not None:
                    await self._tasks.thread(self._services.end, name)
                elif not process_ends:
                    counters = await self._processes.change(instance, "DELETE", _resource(name))
            finally:
                if tunnel is not None:
                    await self._tunnels.release(tunnel)
                await self._tasks.thread(self._journal.drop, [name])
            return counters

        def done(counters: dict[str, Any]) -> None:
            if counters:
                self._record_hits([(name, measure, _volume(counters))])

        self._tasks.start(work(), done, self._note(measure))

    def _note(self, measure: _Measure) -> Callable[[str], None]:
        return self._context.failure(measure.instance.pop, f"measure {measure.id}")


def offered(*, services: bool = False) -> frozenset[TrafficVerdict]:
    """Return the verdicts that this machine can carry out; ``services``: it runs those itself."""
    verdicts = frozenset(TrafficVerdict) - {TrafficVerdict.ENLARGE}
    verdicts -= frozenset() if services else {TrafficVerdict.SERVE, TrafficVerdict.MIRROR}
    return verdicts if _TUN.exists() else verdicts - {TrafficVerdict.DELAY}


def _body(rule: TrafficRule) -> Body:
    """Return what a VNF is told of a rule; the link is told by devices."""
    match = {name: value for name, value in asdict(rule.match).items() if value is not None}
    for place in ("link", "entry"):
        match.pop(place, None)
    for several in ("sources", "outside"):
        if named := match.pop(several):
            match[several] = list(named)
    figures = {name: value for name, value in rule.parameters.items() if name != "encrypted"}
    return {"verdict": rule.verdict.value, **match, **figures}


def _volume(counters: Mapping[str, Any]) -> Volume:
    return counters["passed_octets"] / 1e6, counters["held_octets"] / 1e6


def _resource(measure: str) -> str:
    return f"/measures/{quote(measure, safe='')}"
