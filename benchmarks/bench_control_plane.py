"""What the control plane says while nothing happens, by the number of agents.

Every agent tells its guardian that it is alive, compares what it knows with one other, and keeps
its entry in the registry, which all of them watch. Entries whose leases grow with the number of
agents stand beside entries that all hold 6 s, in one run.

*simulated*: whole agents on virtual time, in a ring, for a minute after the first; the registry by
itself, over the broker in memory, for as long as two leases. Deliveries are messages between
agents, and each renewal once for each agent: so many a broker has to make.

*processes*: agents that are processes over NATS, on this machine. Deliveries are counted by the
broker. Processor time is that of all agents, and that of the broker, by the second.

Run it with ``python benchmarks/bench_control_plane.py [--quick]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

import defence_cases as cases
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.bus.subjects import REGISTRY
from phalanx.clock.virtual import VirtualClock
from phalanx.fabric import registry
from phalanx.fabric.join import LEASE_S
from phalanx.fabric.registration import Registration, ServiceState
from phalanx.fabric.registry import Registrar, Registry
from phalanx.identity.names import Identity, Role
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.processes.testbed import HOST, PHALANX, free_ports
from phalanx.runtime.system import System
from tables import QUICK, console, show

SIZES = (24, 100) if QUICK else (24, 100, 1_000, 3_000, 10_000)
WHOLE = 3_000
"""Of more agents the messages are taken to be as many for each as of so many: 10,000 agents that
all know each other take 14 GB in one process."""
PROCESSES = 6 if QUICK else 100
SETTLED_S, WATCHED_S = (20.0, 10.0) if QUICK else (60.0, 60.0)
"""Of processes: until they are watched, and for how long, in seconds."""
FIXED = sys.maxsize
"""As ``registry.CROWD``: leases never grow."""
PATIENCE_S = 600.0


def messages(size: int) -> float:
    """Return how many messages a second agents say among each other while nothing happens."""
    plan = cases.scenario(cases.named(f"calm/steady/ring-{size}"), 1)
    system = System(replace(plan, traffic=(), faults=(), monitors=(), duration_s=120.0))
    first: list[int] = []
    system.clock.call_at(60.0, lambda: first.append(sum(system.bus.sent.values())))
    system.run()
    return (sum(system.bus.sent.values()) - first[0]) / 60.0


def renewals(size: int, crowd: int) -> float:
    """Return how many renewals a second who watches the registry of so many agents is told."""
    registry.CROWD, before = crowd, registry.CROWD
    clock = VirtualClock()
    broker = MemoryBroker(clock)
    directory = Registry(broker.join(Identity("watcher", Role.OBSERVER, "d")), clock)
    told: list[float] = []
    counter = broker.join(Identity("counter", Role.OBSERVER, "d"))
    counter.watch(REGISTRY, lambda _key, _value: told.append(clock.now()))
    for number in range(size):
        name = f"pop{number}"
        entry = Registration(name, Role.AGENT, 1, state=ServiceState.SERVING, lease_s=LEASE_S)
        exchange = broker.join(Identity(name, Role.AGENT, "d"))
        Registrar(exchange, clock, entry, directory).start()
    lease_s = LEASE_S * max(1.0, size / crowd)
    begin, end = lease_s, 2 * lease_s
    clock.run(until=end)
    registry.CROWD = before
    assert all(entry.available for entry in directory.entries())
    return sum(begin < at for at in told) / (end - begin)


def simulated() -> None:
    """Show how many deliveries there are, by number of agents."""
    rows, said, before = [], 0.0, 1
    for size in SIZES:
        with console.status(f"{size} agents"):
            said = messages(size) if size <= WHOLE else said / before * size
            before = size
            fixed, growing = renewals(size, FIXED), renewals(size, registry.CROWD)
        totals = [said + each * size for each in (fixed, growing)]
        rows.append(
            (
                f"{size:,}",
                f"{said:,.0f}",
                f"{fixed:,.1f}",
                f"{growing:,.1f}",
                *(f"{total:,.0f}" for total in totals),
                f"{totals[0] / totals[1]:,.1f}",
                f"{totals[1] / size:.0f}",
            )
        )
    show(
        "While nothing happens, each second (simulated)",
        (
            "agents",
            "messages",
            "renewals, fixed",
            "growing",
            "deliveries, fixed",
            "growing",
            "ratio",
            "for each",
        ),
        rows,
        "renewals: those that one watcher is told of. for each: deliveries to an agent.",
    )


class Crowd:
    """So many agents as processes, with a broker that counts."""

    def __init__(self, folder: Path, crowd: int) -> None:
        self._port, monitor = free_ports(2)
        self._monitor = f"http://{HOST}:{monitor}/varz"
        broker = BrokerSpec("broker1", HOST, self._port, monitor_port=monitor)
        domain = Domain.create(folder / "domain", DomainSpec("crowd", (broker,)))
        self.names = [f"p{number}" for number in range(PROCESSES)]
        for name in self.names:
            domain.add(name, Role.AGENT)
        domain.add("network", Role.NETWORK)
        pops = [{"name": n, "cores": 4, "memory_gb": 8, "disk_gb": 9} for n in self.names]
        links = [
            {"between": [a, b], "bandwidth_mb_s": 50, "latency_ms": 1}
            for a, b in zip(self.names, [*self.names[1:], self.names[0]], strict=True)
        ]
        plan = {
            "name": "crowd",
            "duration_s": 3600,
            "functions": {"classifier": {}},
            "network": {"repository": "p0", "pops": pops, "links": links},
        }
        (folder / "plan.yaml").write_text(json.dumps(plan))
        self._brokers = Brokers(domain)
        self._brokers.start()
        self._brokers.prepare()
        say = f"from phalanx.fabric import registry; registry.CROWD = {crowd}; "
        program = (PHALANX[0], "-c", say + "from phalanx.cli.main import main; main()")
        self.processes = []
        for name in ("network", *self.names):
            config = folder / f"{name}.toml"
            bus = domain.bundle(name) / "bus.toml"
            config.write_text(
                f'bus = "{bus}"\nplan = "{folder}/plan.yaml"\nstate = "{folder}/state/{name}"\n'
            )
            verb = "network" if name == "network" else "agent"
            with (folder / f"{name}.log").open("wb") as log:
                started = subprocess.Popen(  # noqa: S603
                    [*program, verb, "--config", str(config)], stdout=log, stderr=log
                )
            self.processes.append(started)

    def wait(self) -> None:
        """Return when all are connected.

        Raises:
            RuntimeError: if they are not in time.

        """
        end = time.monotonic() + PATIENCE_S
        while self.counts()["connections"] < len(self.processes):
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes):
                raise RuntimeError("not all agents run")
            time.sleep(1.0)

    def counts(self) -> dict[str, float]:
        """Return what the broker has counted, and the processor time of all in seconds."""
        with urllib.request.urlopen(self._monitor) as answer:  # noqa: S310  # our own broker
            counted = json.load(answer)
        return {
            "time": time.monotonic(),
            "connections": counted["connections"],
            "deliveries": counted["out_msgs"],
            "agents": sum(_processor_s(process.pid) for process in self.processes[1:]),
            "broker": sum(_processor_s(server.pid or 0) for server in self._brokers.servers),
        }

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self._brokers.stop()


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def over_processes() -> None:
    """Show what agents that are processes cost while nothing happens."""
    rows = []
    for title, crowd in (("fixed leases", FIXED), ("growing leases", registry.CROWD)):
        with TemporaryDirectory() as folder, console.status(f"{PROCESSES} processes, {title}"):
            running = Crowd(Path(folder), crowd)
            try:
                running.wait()
                time.sleep(SETTLED_S)
                before = running.counts()
                time.sleep(WATCHED_S)
                after = running.counts()
            finally:
                running.close()
        took = after["time"] - before["time"]
        each = [(after[k] - before[k]) / took for k in ("deliveries", "agents", "broker")]
        rows.append((title, f"{each[0]:,.0f}", f"{each[1]:.2f}", f"{each[2]:.2f}"))
    show(
        f"While nothing happens, each second: {PROCESSES} processes over NATS",
        ("", "deliveries", "processor of all agents, s", "of the broker, s"),
        rows,
        f"Load of the {os.cpu_count()} cores in the last minute: {os.getloadavg()[0]:.1f}.",
    )


if __name__ == "__main__":
    simulated()
    over_processes()
