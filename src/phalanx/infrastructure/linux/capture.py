"""Traffic capture and link rates: traffic counted in the kernel, or mirrored to an analyser.

Both directions are observed where the traffic's host or link is, so that completed handshakes
and answers can be told apart, and before limits hold anything back: a flood shows only in what
is offered. An analyser at another PoP gets copies through a tunnel; the copies are limited to
the bandwidth that the path holds, and the share that was left out is known.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

from phalanx.domain.actions import Failed, FlowRecords, FlowStats, LinkSample, Observe, ReadLink
from phalanx.domain.network import LinkId, PopId, link_ends, link_id
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.tunnels import Detours, Tunnel, Tunnels
from phalanx.infrastructure.linux.vnf.links import LARGEST_RATE, LONGEST_S, SHORTEST_S
from phalanx.infrastructure.linux.vnf.nft import HELD_MARK, share
from phalanx.infrastructure.linux.vnf.server import LINKS
from phalanx.infrastructure.linux.vnf_processes import VnfProcesses, token
from phalanx.infrastructure.linux.workers import DriverContext
from phalanx.infrastructure.reservations.instances import Instance, observe_refusal

TOLD_EVERY_S = 0.5
"""An agent that reads more often than this gets an unchanged rate only so often, in seconds."""
SAME = 0.1
"""Share of a link's bandwidth by which a rate may change and count as unchanged."""
_GRACE_S = 5.0
"""A request of a VNF may take this much longer than the observation, in seconds."""
_BEFORE = -20
"""Priority of the chains that copy: limits have -10, blocks -30."""
_BOTH_WAYS = 2
"""A path holds bandwidth for the traffic towards an address; copies of its answers come on top."""
_LEAST_MB_S = 1.0
"""Copies of so little traffic are not worth a limit: slow attacks show in it as a whole only."""
_BARE = 100
"""Length of an IP packet, in octets, below which it carries hardly any data."""
_TUPLE = "ip daddr . tcp dport . ip saddr . tcp sport"
_TOLD = "type ipv4_addr . inet_service . ipv4_addr . inet_service; size 16384; flags dynamic"


class Recorded(Struct, frozen=True):
    """What a VNF answers to an observation."""

    seconds: float
    octets: int
    packets: int
    unlisted: int
    flows: tuple[FlowStats, ...]
    tunnels: dict[str, int] = {}


class Tap(Struct, frozen=True):
    """Where traffic passes."""

    pop: PopId
    towards: tuple[str, ...]
    """Devices whose egress it passes on its way, before any limit."""
    back: str
    """Device whose ingress the answers pass."""
    address: str | None
    """Where it goes to; None for the link between two PoPs."""
    enters: bool = False
    """Whether it is met where it enters the network: ingress and egress change places."""

    def hooks(self) -> list[tuple[str, str, bool]]:
        """Return each device, the hook that sees the traffic, and whether that is answers."""
        towards, back = ("ingress", "egress") if self.enters else ("egress", "ingress")
        return [*((device, towards, False) for device in self.towards), (self.back, back, True)]


class TrafficCapture:
    """Carries out ``Observe``; implements ``Observer``."""

    def __init__(
        self, context: DriverContext, processes: VnfProcesses, tunnels: Tunnels, detours: Detours
    ) -> None:
        self._tasks = context.tasks
        self._linux = context.linux
        self._workers = context.workers
        self._topology = context.topology
        self._processes = processes
        self._tunnels = tunnels
        self._detours = detours
        self._active: dict[int, tuple[Instance, asyncio.Task[None], Answer]] = {}
        self._count = 0
        self._mirrors = 0

    def begin(self, action: Observe, instance: Instance, answer: Answer) -> None:
        """Observe for a while and answer then, or refuse at once."""
        place = self._place(action)
        if isinstance(place, str):
            answer(Failed(place))
            return
        self._count += 1
        number = self._count

        def done(records: FlowRecords) -> None:
            if self._active.pop(number, None) is not None:
                answer(records)

        def failed(reason: str) -> None:
            if self._active.pop(number, None) is not None:
                answer(Failed(reason))

        task = self._tasks.start(self._observe(action, instance, place), done, failed)
        self._active[number] = (instance, task, answer)

    def lost(self, instance: Instance, reason: str) -> None:
        """Fail what ``instance`` was observing."""
        for number, (whose, task, answer) in list(self._active.items()):
            if whose is instance:
                del self._active[number]
                task.cancel()
                answer(Failed(reason))

    def _place(self, action: Observe) -> Tap | str:
        """Return where the traffic passes; as text why that is nowhere."""
        refusal = observe_refusal(action)
        if refusal is not None:
            return refusal
        ip = action.ip
        if action.link is not None:
            pop, end = link_ends(action.link)
            try:
                device = self._linux.device(action.link)
            except KeyError:
                return f"no link {action.link}"
            ip = self._linux.address(end)
            if ip is None:
                return Tap(pop, (device,), device, None)
        assert ip is not None
        at = self._linux.host_at(ip)
        if at is None:
            return f"no host has the address {ip}"
        if action.entry is not None:
            entry = self._linux.entry(action.entry)
            if entry is not None:
                return Tap(action.entry, (entry,), entry, ip, enters=True)
        if at not in self._topology.pops:
            return f"{at} is another site: traffic is not led between sites"
        device = self._linux.host_device(ip)
        entries, all_of_it = self._detours.entries(ip)
        return Tap(at, tuple(entries if all_of_it else [*entries, device]), device, ip)

    async def _observe(self, action: Observe, instance: Instance, tap: Tap) -> FlowRecords:
        body: dict[str, object] = {
            "seconds": action.seconds,
            "address": tap.address,
            "part": action.part,
            "parts": action.parts,
            "sampling": action.sampling,
        }
        if tap.pop == instance.pop:
            devices = [{"device": device, "hook": hook} for device, hook, _ in tap.hooks()]
            body |= {"devices": devices, "enters": tap.enters}
            if untrusted := self._untrusted(tap.pop):
                body["untrusted"] = untrusted
            return _records(await self._ask(instance, body), 1.0)
        tunnel = await self._tunnels.acquire(self._path(instance, tap.pop))
        try:
            return await self._mirrored(action, instance, tap, tunnel, body)
        finally:
            await asyncio.shield(self._tunnels.release(tunnel))

    def _untrusted(self, pop: PopId) -> list[str]:
        """Return the devices by which a PoP gets what comes over links that are not trusted."""
        links = (x for x in self._topology.links if pop in (x.a, x.b) and not x.trusted)
        return [self._linux.device(link_id(pop, x.b if pop == x.a else x.a)) for x in links]

    async def _mirrored(
        self, action: Observe, instance: Instance, tap: Tap, tunnel: Tunnel, body: dict[str, object]
    ) -> FlowRecords:
        self._mirrors += 1
        table = f"phx_{token(f'mirror {instance.id} {self._mirrors}')}"
        path, limit = self._path(instance, tap.pop), _BOTH_WAYS * instance.chain.mb_s
        if path != instance.chain.path or not limit:
            limit = min(instance.handles_mb_s, self._topology.unreserved(path))
        pop, limit = tunnel.far.pop, max(limit, _LEAST_MB_S)
        script = mirror(table, tap, tunnel.far.device, action, limit)
        await self._tasks.thread(self._workers.nft, pop, script)
        try:
            devices = [{"device": tunnel.near.device, "hook": "ingress"}]
            recorded = await self._ask(instance, {**body, "devices": devices})
            offered, copied = await self._tasks.thread(
                self._workers.packets, pop, table, "offered", "copied"
            )
        finally:
            await asyncio.shield(
                self._tasks.thread(self._workers.nft, pop, f"delete table netdev {table}")
            )
        return _records(recorded, copied / offered if offered else 1.0)

    async def _ask(self, instance: Instance, body: dict[str, object]) -> Recorded:
        assert isinstance(body["seconds"], float | int)
        timeout_s = body["seconds"] + _GRACE_S
        answer = await self._processes.ask(instance.id, "POST", "/observations", body, timeout_s)
        try:
            return msgspec.convert(answer, Recorded)
        except msgspec.ValidationError as error:
            raise TaskError(f"the VNF answered an observation with nonsense: {error}") from error

    def _path(self, instance: Instance, pop: PopId) -> tuple[PopId, ...]:
        if instance.chain.path[-1] == pop:
            return instance.chain.path
        found = self._topology.route(instance.pop, pop)
        if found is None:
            raise TaskError(f"no path from {instance.pop} to {pop}")
        return found


def mirror(table: str, tap: Tap, to: str, action: Observe, limit_mb_s: float) -> str:
    """Return nftables commands that copy what passes ``tap``, both ways, to the device ``to``.

    Of TCP answers only those are copied that tell something: handshakes, ends, bare
    acknowledgements, and the first data of a connection. The rest would fill the path.

    The rules end by themselves some time after the observation, whatever happens to us.
    """
    until = f"{int(action.seconds + _GRACE_S) + 1}s"
    rate = max(1, round(limit_mb_s * 1e6)) if limit_mb_s < inf else 0
    within = f"limit rate {rate} bytes/second burst {max(rate // 4, 16384)} bytes " if rate else ""
    lines = [
        f"table netdev {table} {{",
        f"set lease {{ type ether_type; flags timeout; elements = {{ ip timeout {until} }}; }}",
        f"set told {{ {_TOLD}; }}",
        "counter offered { }",
        "counter copied { }",
        f'chain copy {{ counter name offered {within}counter name copied dup to "{to}"; }}',
        "chain answers { "
        "meta l4proto != tcp goto copy; "
        "tcp flags & (syn | fin | rst) != 0 goto copy; "
        f"ip length < {_BARE} goto copy; "
        f"{_TUPLE} != @told add @told {{ {_TUPLE} }} goto copy; }}",
    ]
    fresh = f"meta protocol @lease meta mark != {HELD_MARK}"
    for number, (device, hook, answers) in enumerate(tap.hooks()):
        address, source, then = (
            ("saddr", "daddr", "answers") if answers else ("daddr", "saddr", "copy")
        )
        match = f"ip {address} {tap.address} " if tap.address is not None else ""
        match += share(f"ip {source}", action.parts, action.part)
        lines.append(
            f'chain tap{number} {{ type filter hook {hook} device "{device}" priority {_BEFORE}; '
            f"policy accept; {fresh} {match} goto {then}; }}"
        )
    return "\n".join([*lines, "}"])


def _records(recorded: Recorded, coverage: float) -> FlowRecords:
    flows, seconds, unlisted = recorded.flows, recorded.seconds, recorded.unlisted
    return FlowRecords(flows, seconds, min(1.0, coverage), unlisted, tunnels=recorded.tunnels)


@dataclass(slots=True, eq=False)
class _Meter:
    instance: str
    resource: str
    told: float | None = None
    """The last answer, octets per second; None: there was none."""


class LinkMeters:
    """Carries out ``ReadLink``: through a VNF that observes links where one runs.

    Elsewhere the counter of the device is read twice, which tells the rate alone.

    To ask a process ten times a second is most of what a quiet site costs, so the process holds
    back an answer that brings nothing new.
    """

    def __init__(
        self, context: DriverContext, processes: VnfProcesses, bandwidth_mb_s: dict[LinkId, float]
    ) -> None:
        self._tasks = context.tasks
        self._linux = context.linux
        self._workers = context.workers
        self._processes = processes
        self._bandwidth_mb_s = bandwidth_mb_s
        self._meters: dict[LinkId, _Meter] = {}

    def read(self, pop: PopId, action: ReadLink, answer: Answer) -> None:
        """Answer with the link's rate over the last ``seconds``, MB/s.

        The answer comes as soon as that has changed much since the last, else twice a second.
        """
        begins, ends = link_ends(action.link)
        comes = ends == pop  # what comes in is counted by the device that answers
        try:
            device = self._linux.device(link_id(ends, begins) if comes else action.link)
        except KeyError:
            answer(Failed(f"no link {action.link}"))
            return
        if pop not in (begins, ends):
            answer(Failed(f"link {action.link} has no end at {pop}"))
            return
        if not SHORTEST_S <= action.seconds <= LONGEST_S:
            answer(
                Failed(f"rates are of {SHORTEST_S:g} to {LONGEST_S:g} s, not {action.seconds:g} s")
            )
            return
        count = partial(self._count, _RECEIVED) if comes else self._sample
        work = count(pop, action, device)
        self._tasks.start(work, answer, lambda reason: answer(Failed(reason)))

    async def _sample(self, pop: PopId, action: ReadLink, device: str) -> LinkSample:
        instance = self._processes.that_observes(pop, LINKS)
        if instance is None:
            return await self._count(_SENT, pop, action, device)
        meter = self._meters.get(action.link)
        if meter is None or meter.instance != instance:
            resource = f"/links/{quote(action.link, safe='')}"
            what = {"device": device, "connections": True}
            await self._processes.ask(instance, "PUT", resource, what)
            meter = self._meters[action.link] = _Meter(instance, resource)
        bandwidth = self._bandwidth_mb_s[action.link]
        body = {"seconds": action.seconds}
        if meter.told is not None:
            band = min(SAME * bandwidth * 1e6, LARGEST_RATE)
            hold_s = max(0.0, TOLD_EVERY_S - action.seconds)
            body |= {"told": meter.told, "band": band, "hold_s": hold_s}
        try:
            found = await self._processes.ask(instance, "POST", meter.resource, body)
        except TaskError:
            self._meters.pop(action.link, None)  # a VNF that was started again counts nothing yet
            raise
        meter.told = found["rate"]
        return LinkSample(action.link, found["rate"] / 1e6, bandwidth, found["connections"])

    async def _count(self, way: int, pop: PopId, action: ReadLink, device: str) -> LinkSample:
        count = partial(self._workers.inside(pop).call, _octets, device, way)
        time = asyncio.get_running_loop().time
        before, began = await self._tasks.thread(count), time()
        await asyncio.sleep(action.seconds)
        octets = await self._tasks.thread(count) - before
        rate_mb_s = octets / (time() - began) / 1e6
        return LinkSample(action.link, rate_mb_s, self._bandwidth_mb_s[action.link])


_RECEIVED, _SENT = 0, 8
"""Columns of /proc/net/dev."""


def _octets(device: str, way: int) -> int:
    """Return what a device of this thread's namespace has received or sent."""
    rows = Path("/proc/thread-self/net/dev").read_text().splitlines()
    row = next((row for row in rows if row.strip().startswith(f"{device}:")), None)
    if row is None:
        raise TaskError(f"no device {device}")
    return int(row.partition(":")[2].split()[way])
