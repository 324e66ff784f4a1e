"""The traffic of a scenario, made by real programs, and measured.

Attacks with real tools, each bounded in time and in packets or connections.

hping3 makes what it does well: it spends about 80 µs of processor time on a packet and waits
about 100 µs longer than told, so that it serves up to 1,000 packets a second. Faster streams
of connection requests come from ``flood.c``, compiled at need (20 µs a packet, at an even
rate). curl asks for pages, a connection each. slowhttptest holds connections open with headers
that never end.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from phalanx.clock import Timer
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, Network, PopId, link_id
from phalanx.domain.traffic import DNS, Source
from phalanx.infrastructure.linux.kernel import KernelError, cgroups
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup
from phalanx.infrastructure.linux.kernel.wire import compiled
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.testrange.exporter import FunctionExporter
from phalanx.testrange.processes import NamespaceProcess, NginxServer, end
from phalanx.testrange.sampler import Arrivals, Devices, MeasuredLink, TrafficSampler
from phalanx.testrange.testbed import Testbed
from phalanx.testrange.users import Users

HPING_PACKETS_S = 1000.0
"""Up to this rate in packets a second hping3 is used."""
LONGEST_S = 3600.0
"""An attack without an end ends after this long, in seconds."""

_HPING_LATE_US = 100
_HEADERS = 42  # Ethernet, IP and UDP
_SPARE_S = 5.0  # ``timeout`` is the last resort: the workload ends an attack, or its own count
_OPENING_S = 1.0  # a slow attack has all its connections after this long
_FLOOD = Path(__file__).with_name("flood.c")


def packets_s(source: Source) -> float:
    """Return the packets a second that make up the demand of ``source``."""
    return source.demand_mb_s * 1e6 / source.profile.packet_octets


def length_s(source: Source) -> float:
    """Return how long ``source`` attacks, in seconds."""
    if source.end_s is None:
        return LONGEST_S
    return min(source.end_s - source.start_s, LONGEST_S)


def tool(source: Source) -> str:
    """Return the name of the program that plays ``source``.

    Raises:
        KernelError: if there is none.

    """
    if source.profile.holds:
        return "slowhttptest"
    if source.profile.establishes and source.profile.syn_share and not source.profile.responsive:
        return "curl"
    if source.profile.establishes or source.profile is DNS:
        raise KernelError(f"nothing here plays {source.profile.name} with real packets")
    if source.profile.syn_share and packets_s(source) > HPING_PACKETS_S:
        return "flood"
    return "hping3"


def command(source: Source, program: str) -> list[str]:
    """Return the words that start the attack of ``source`` with ``program``."""
    seconds = length_s(source)
    words = ["timeout", "--kill-after=1", f"{seconds + _SPARE_S:.1f}", program]
    if source.profile.holds:
        return words + _slow(source, seconds)
    rate = packets_s(source)
    if tool(source) == "curl":
        return words + _asking(source, rate * source.profile.syn_share, seconds)
    if tool(source) == "flood":
        origin = "random" if source.profile.spoofed else source.address
        return [*words, origin, source.target, str(source.port), f"{rate:.1f}", f"{seconds:.1f}"]
    return words + _hping(source, rate, seconds)


def _hping(source: Source, rate: float, seconds: float) -> list[str]:
    profile = source.profile
    kind = "--syn" if profile.syn_share else "--syn --ack" if profile.syn_acks else "--ack"
    kind = "--icmp" if profile.protocol == "icmp" else "--rst" if profile.aborts else kind
    if profile.protocol == "udp":
        kind = f"--udp --data {max(0, round(profile.packet_octets) - _HEADERS)}"
        kind += " --frag" * profile.bare
    if profile.source_port:
        kind += f" --baseport {profile.source_port} --keep"
    origin = "--rand-source" if profile.spoofed else f"--spoof {source.address}"
    pause_us = max(1, round(1e6 / rate) - _HPING_LATE_US)
    return (
        f"{kind} --quiet --numeric --destport {source.port} {origin} --interval u{pause_us}"
        f" --count {math.ceil(rate * seconds)} {source.target}"
    ).split()


def _slow(source: Source, seconds: float) -> list[str]:
    count = source.profile.connections
    return (
        f"-H -c {count} -r {math.ceil(count / _OPENING_S)} -i 1 -x 24 -p 1"
        f" -l {math.ceil(seconds)} -u http://{source.target}:{source.port}/"
    ).split()


def _asking(source: Source, rate: float, seconds: float) -> list[str]:
    pages = f"http://{source.target}:{source.port}/?[1-{math.ceil(rate * seconds)}]"
    pace = f"--rate {math.ceil(rate)}/s --interface {source.address}"
    return f"-s -o /dev/null -m 2 {pace} -H Connection:close {pages}".split()


def programs(sources: Sequence[Source], folder: Path) -> dict[str, str]:
    """Return the path of each tool that ``sources`` need; ``flood`` is compiled to ``folder``.

    Raises:
        KernelError: if one is missing.

    """
    return {
        name: str(compiled(_FLOOD, folder / "flood", "fast floods"))
        if name == "flood"
        else _installed(name)
        for name in sorted({tool(source) for source in sources})
    }


def _installed(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        raise KernelError(f"no {name} here: install it (Debian: apt install {name})")
    return path


class Attack:
    """The attack of one source, from its start on.

    Args:
        source: who attacks.
        tools: paths of the tools, from ``programs``.
        run: mark of the run.
        namespace: where the source lives.
        group: limits of what attackers may take of this machine.
        sent: counters of that namespace.
        folder: where the tool's complaints go.

    """

    def __init__(
        self,
        source: Source,
        tools: Mapping[str, str],
        *,
        run: str,
        namespace: str,
        group: Cgroup,
        sent: Devices,
        folder: Path,
    ) -> None:
        self.source = source
        self._sent = sent
        self._before = self._packets()
        self.process = NamespaceProcess(
            group.words(command(source, tools[tool(source)])),
            run=run,
            namespace=namespace,
            complaints=folder / f"{source.name}.stderr",
        )

    @property
    def sending(self) -> bool:
        """Whether packets have left; one alone may be the kernel's, asking for a neighbour."""
        return self._packets() - self._before > 1

    def _packets(self) -> int:
        return sum(sent.packets for name, sent in self._sent.read().items() if name != "lo")


ATTACK_CORES = 1.2
"""Attackers are machines of their own: all together may take this much of the one that plays
them, so that the cost of an attack (slowhttptest spins) is not taken from the defenders."""
_WATCH_S = 0.002
"""Pause between two looks whether an attack tool has begun to send, in seconds."""
_SILENT_S = 3.0
"""A tool that sends nothing for this long after its start does not work, in seconds."""
_DIGITS = 6


class Workload:
    """Servers, users and attackers on a testbed.

    Records ``traffic.changed`` and ``network.sample`` as the simulated network does; agents
    see neither. Errors during the run end it: they are raised by the clock.

    Args:
        testbed: where; it is built.
        network: hosts and links.
        sources: users and attackers.
        clock: when; it runs in real time.
        recorder: where events go.
        cause: id of the event that began the run.
        folder: of the run; a folder ``workload`` is made in it.
        sample_s: pause between two samples, in seconds.

    """

    def __init__(
        self,
        testbed: Testbed,
        network: Network,
        sources: Sequence[Source],
        *,
        clock: WallClock,
        recorder: Recorder,
        cause: str,
        folder: Path,
        sample_s: float,
    ) -> None:
        self._testbed = testbed
        self._network = network
        self._clock = clock
        self._recorder = recorder
        self._cause = cause
        self._tasks = Tasks(clock)
        self._folder = folder / "workload"
        self._sample_s = sample_s
        self._sources = [s for s in sources if s.end_s is None or s.end_s > s.start_s]
        self._hosts = {host.address: host for host in network.hosts}
        self._processes: list[NamespaceProcess] = []
        self._users: list[Users] = []
        self._devices: dict[str, Devices] = {}
        self._senders: dict[str, Devices] = {}
        self._arrivals: dict[str, Arrivals] = {}
        self._timers: list[Timer] = []
        self._sampler: TrafficSampler | None = None
        self._tools: dict[str, str] = {}
        self._attackers: cgroups.Cgroup = cgroups.Cgroup()
        self._running: dict[str, dict[str, Source]] = {s.group: {} for s in self._sources}
        self._attacks: dict[str, Attack] = {}
        self._exporters: dict[str, FunctionExporter] = {}
        self._replicas: dict[str, NginxServer] = {}

    def prepare(self) -> None:
        """Start the servers, the users (who wait) and the counters; blocking.

        Raises:
            KernelError: if a tool is missing or a server does not answer.

        """
        self._folder.mkdir(parents=True)
        attackers = [source for source in self._sources if source.profile.malicious]
        self._attackers = cgroups.create(self._testbed.run, "attackers", ATTACK_CORES, 0)
        self._tools = programs(attackers, self._folder)
        targets = {source.target for source in self._sources}
        servers = [self._serve(self._hosts[address]) for address in sorted(targets)]
        homes: dict[str, list[tuple[int, Source]]] = {}
        for number, source in enumerate(self._sources):
            if not source.profile.malicious:
                homes.setdefault(self._testbed.home(source.name), []).append((number, source))
        for namespace, inhabitants in homes.items():
            users = Users(self._testbed.run, namespace, inhabitants, self._folder)
            self._users.append(users)
            self._processes.append(users.process)
        for pop in self._network.pops:
            self._devices[pop.name] = Devices(self._testbed.namespace(pop.name))
        for source in attackers:
            self._senders[source.name] = Devices(self._testbed.home(source.name))
        for server in servers:
            server.wait()

    def start(self) -> None:
        """Let the traffic of the scenario begin with the clock; ``prepare`` comes first.

        Users keep their times themselves; an attack counts from its first packets on.
        """
        changes: dict[float, list[tuple[Source, bool]]] = {}
        for source in self._sources:
            changes.setdefault(source.start_s, []).append((source, True))
            if source.end_s is not None:
                changes.setdefault(source.end_s, []).append((source, False))
        for when, change in sorted(changes.items(), key=lambda item: item[0]):
            self._timers.append(self._clock.call_at(when, partial(self._change, change)))
        self._timers.append(self._clock.call_at(0.0, self._begin))

    def stop(self) -> None:
        """End all processes and counters; blocking, once the clock has stopped. Idempotent."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._processes += [attack.process for attack in self._attacks.values()]
        self._attacks.clear()
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        self._tasks.stop()
        for users in self._users:
            users.stop()
        end(self._processes)
        self._processes.clear()
        self._users.clear()
        for exporter in self._exporters.values():
            exporter.close()
        self._exporters.clear()
        for counters in (self._devices, self._senders, self._arrivals):
            for counter in counters.values():
                counter.close()
            counters.clear()

    def metrics(self, address: str, now: float) -> dict[str, float] | None:
        """Return the metrics of a service, as ``ServicePrograms`` says.

        Its processor is as busy as its requests are many: nginx itself hardly is.
        """
        limits = self._hosts[address].limits if address in self._exporters else None
        if limits is None or limits.requests_s is None:
            return None
        row = self._exporters[address].sample(now)
        asked = row["requests_per_s"] + row["errors_per_s"]
        metrics = {
            "cpu_share": min(1.0, asked / limits.requests_s),
            "requests_s": asked,
            "refused_share": row["errors_per_s"] / asked if asked else 0.0,
            "latency_ms": 1e3 * row["latency_p50_s"],
            "connections_share": row["connections_open"] / limits.connections,
            "receive_mb_s": row["network_rx_bytes_per_s"] / 1e6,
        }
        return {name: round(v, _DIGITS) for name, v in metrics.items() if math.isfinite(v)}

    def replicate(self, name: str, address: str, pop: PopId, first: int) -> dict[int, int]:
        """Start another nginx at a PoP, as ``ServicePrograms`` says."""
        at = self._testbed.underlay(pop)
        ports = {port: first + n for n, port in enumerate(self._ports(address))}
        folder = self._folder / f"replica-{first}"
        namespace = self._testbed.namespace(pop)
        server = NginxServer(self._testbed.run, namespace, at, ports.values(), folder)
        self._replicas[name] = server
        self._processes.append(server.process)
        server.wait()
        return ports

    def end(self, name: str) -> None:
        """End a replica, as ``ServicePrograms`` says."""
        if (server := self._replicas.pop(name, None)) is not None:
            end([server.process])

    def _ports(self, address: str) -> list[int]:
        here = [source for source in self._sources if source.target == address]
        return sorted({source.port for source in here if source.profile.protocol == "tcp"})

    def _serve(self, host: Host) -> NginxServer:
        here = [source for source in self._sources if source.target == host.address]
        namespace = self._testbed.home(host.name)
        self._arrivals[host.name] = Arrivals(
            namespace, [source.address for source in here if not source.profile.malicious]
        )
        ports, folder = self._ports(host.address), self._folder / host.name
        most = None if host.limits is None else host.limits.requests_s
        server = NginxServer(self._testbed.run, namespace, host.address, ports, folder, most)
        self._processes.append(server.process)
        if most is not None:
            (folder / "access.log").touch()
            self._exporters[host.address] = FunctionExporter(ports, folder / "access.log")
            self._exporters[host.address].roots.append(server.process.pid)
        return server

    def _begin(self) -> None:
        zero = time.monotonic() - self._clock.now()
        for users in self._users:
            users.begin(zero, self._clock.loop, self._fail_soon)
        self._sampler = TrafficSampler(
            self._clock,
            self._tasks,
            self._recorder,
            self._cause,
            period_s=self._sample_s,
            hosts={host.name: host.address for host in self._network.hosts},
            devices=self._devices,
            links=self._links(),
            arrivals=self._arrivals,
            users=self._users,
            wanted=self._wanted_mb_s,
            failed=self._fail,
        )

    def _wanted_mb_s(self, address: str) -> float:
        """Return what the running users want of a host, in MB/s."""
        return sum(
            source.demand_mb_s
            for group in self._running.values()
            for source in group.values()
            if source.target == address and not source.profile.malicious
        )

    def _change(self, changes: Sequence[tuple[Source, bool]]) -> None:
        attackers: dict[str, list[Attack]] = {}
        changed: dict[str, None] = {}
        for source, running in changes:
            if not running:
                changed[source.group] = None
                self._end(source)
            elif source.profile.malicious:
                attack = self._attacks[source.name] = self._launch(source)
                attackers.setdefault(source.group, []).append(attack)
            else:
                changed[source.group] = None
                self._running[source.group][source.name] = source
        for group in changed:
            self._record(group)
        for group, attacks in attackers.items():
            self._tasks.forget(self._watch(group, attacks), self._fail)

    def _end(self, source: Source) -> None:
        self._running[source.group].pop(source.name, None)
        attack = self._attacks.pop(source.name, None)
        if attack is not None:
            attack.process.signal()
            self._processes.append(attack.process)

    async def _watch(self, group: str, attacks: list[Attack]) -> None:
        """Record a group when the first of its new attacks sends, and when all of them do.

        Raises:
            KernelError: if one does not.

        """
        deadline = self._clock.now() + _SILENT_S
        while attacks:
            count = len(self._running[group])
            quiet = []
            for attack in attacks:
                source = attack.source
                if self._attacks.get(source.name) is not attack:
                    continue  # its time is over
                if attack.sending:
                    self._running[group][source.name] = source
                elif attack.process.ended or self._clock.now() > deadline:
                    raise KernelError(
                        f"{source.name} does not attack: {attack.process.complaint()}"
                    )
                else:
                    quiet.append(attack)
            now = len(self._running[group])
            if now > count and (count == 0 or not quiet):
                self._record(group)
            attacks = quiet
            await asyncio.sleep(_WATCH_S)

    def _record(self, group: str) -> None:
        sources = self._running[group].values()
        profile = next(s.profile for s in self._sources if s.group == group)
        self._recorder.record(
            "traffic.changed",
            self._cause,
            group=group,
            profile=profile.name,
            count=len(sources),
            active=bool(sources),
            demand_mb_s=round(sum(source.demand_mb_s for source in sources), _DIGITS),
            malicious=profile.malicious,
        )

    def _launch(self, source: Source) -> Attack:
        return Attack(
            source,
            self._tools,
            run=self._testbed.run,
            namespace=self._testbed.home(source.name),
            group=self._attackers,
            sent=self._senders[source.name],
            folder=self._folder,
        )

    def _links(self) -> list[MeasuredLink]:
        links = []
        for link in self._network.links:
            for name in (link_id(link.a, link.b), link_id(link.b, link.a)):
                device = self._testbed.device(name)
                links.append(MeasuredLink(name, device, link.bandwidth_mb_s, access=False))
        for host in self._network.hosts:
            name = link_id(host.at, host.name)
            device = self._testbed.device(name)
            links.append(MeasuredLink(name, device, host.bandwidth_mb_s, access=True))
        return links

    def _fail(self, reason: str) -> None:
        raise KernelError(reason)

    def _fail_soon(self, reason: str) -> None:
        """Fail where the clock notices: in a call of its own."""
        self._clock.call_soon(partial(self._fail, reason))
