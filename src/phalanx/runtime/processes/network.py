"""The simulated network as a process: what the agents of a plan perceive and act on."""

from __future__ import annotations

import signal
import time
from functools import partial

from msgspec import Struct
from msgspec.structs import asdict, replace

from phalanx.bus.permissions import Role
from phalanx.domain.events import Recorder
from phalanx.fabric.invocation import Call
from phalanx.fabric.network import NetworkService
from phalanx.fabric.network.admin import serve_network
from phalanx.fabric.operations import Operation
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import MONITOR, installed
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.shell import Shell
from phalanx.runtime.processes.spec import NetworkSpec, RunSpec
from phalanx.runtime.processes.start import bundle_of, shell_of
from phalanx.runtime.scenario import Scenario

FIRST_LEASE_S = 60.0
"""How long the plan's monitors wait for their agents, from the begin of the run on."""


class BooksRequest(Struct, frozen=True):
    """Asks what is held and what is free."""


class Books(Struct, frozen=True):
    """What is held and what is free, over the whole network."""

    free: dict[str, dict[str, float]]
    """Cores, memory and disk (GB) by PoP."""
    reserved_mb_s: float
    """Bandwidth reserved on all links together."""
    leases: tuple[str, ...]
    """Ids of holds, instances and measures."""
    given_back: bool
    """Whether as much is free as at the start, when only the plan's monitors ran."""


BOOKS = Operation("books", BooksRequest, Books, False, "what is held and what is free")


def open_network(spec: NetworkSpec) -> NetworkProcess:
    """Return the process that serves a plan's simulated network, ready to run.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    if spec.run is None:  # seconds of the plan count from the start of the process
        spec = replace(spec, run=RunSpec(time.time()))
    bundle = bundle_of(spec, Role.NETWORK)
    plan = load_scenario(spec.plan)
    return NetworkProcess(spec, plan, shell_of(spec, bundle, capabilities=("network",)))


class NetworkProcess:
    """Serves the plan's network, with its traffic, to the agents of its PoPs.

    It exists only as long as the process does: started again, it begins with nothing held, and
    with the traffic of the run's present second; without a run, with that of second 0.
    """

    def __init__(self, spec: NetworkSpec, plan: Scenario, shell: Shell) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            plan: the network and its traffic.
            shell: what it shares with every process.

        """
        self.shell = shell
        self._plan = plan
        self._vnfds = load_catalogue(plan).vnfds
        seed = plan.seed if spec.run is None or spec.run.seed is None else spec.run.seed
        timing = plan.timing
        self.network = SimulatedNetwork(
            plan.to_network(),
            plan.to_sources(seed),
            shell.clock,
            Recorder(
                shell.identity.name,
                shell.sink,
                shell.clock.now,
                f"{shell.identity.name}.{shell.incarnation}",
            ),
            seed=seed,
            cause=shell.cause,
            tick_s=timing.tick_s,
            sample_s=timing.sample_s,
            watched=tuple(monitor.link for monitor in plan.monitors),
        )
        self.service = NetworkService(
            shell.exchange, self.network, shell.clock, incarnation=shell.incarnation
        )
        shell.provider.serve(BOOKS, self._books)
        serve_network(shell.provider, self.network, shell.clock)
        for ending in (signal.SIGTERM, signal.SIGINT):
            shell.on_signal(ending, partial(shell.end, "interrupted"))
        lease_s = FIRST_LEASE_S + max(0.0, -shell.clock.now())
        for number, monitor in enumerate(plan.monitors, 1):
            self.network.install(
                monitor.at,
                installed(number, monitor),
                self._vnfds[MONITOR],
                units=1,
                ttl_s=max(lease_s, timing.lease_s),
                cause=shell.cause,
            )
        self._free_at_start = self.network.free()
        shell.clock.call_soon(shell.serving)

    def run(self) -> None:
        """Serve until the process is told to end."""
        try:
            self.shell.run()
        finally:
            self.network.shutdown()

    def _books(self, call: Call[BooksRequest, Books]) -> None:
        self.network.check()
        free = self.network.free()
        call.done(
            Books(
                {pop: asdict(resources) for pop, resources in free.items()},
                self.network.reserved_mb_s(),
                tuple(self.network.leases()),
                free == self._free_at_start,
            )
        )
