"""The network of a plan as a process: what its agents perceive and act on."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.fabric.network import serve_infrastructure
from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Call, Provider
from phalanx.identity.names import Role
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import FIRST_LEASE_S, install_monitors
from phalanx.runtime.course import (
    RESERVATIONS,
    ReservationsAnswer,
    ReservationsRequest,
    reservations_of,
)
from phalanx.runtime.environment import (
    LINUX_LEAD_S,
    BuildContext,
    DegradableNetwork,
    RunNetwork,
    Say,
    acting_on,
    check_linux,
    open_environment,
)
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.process import Process, bundle_of
from phalanx.runtime.processes.spec import NetworkProcessSpec, RunSpec
from phalanx.runtime.processes.trusting import ProcessTrust
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.trusting import ExpelledAgents, end_doings

ALONE_S = 60.0
"""After the end of its run nobody needs the network for longer than this, in real seconds."""


class LinkRequest(Struct, frozen=True):
    """Cuts the link between two PoPs, or restores it, or makes it worse."""

    a: PopId
    b: PopId
    up: bool
    figures: tuple[float, float, float] | None = None
    """Share of its bandwidth, latency beside its own in ms, loss; None: it is as good as before."""


class RepositoryRequest(Struct, frozen=True):
    """Takes the VNF repository off the network, or brings it back."""

    away: bool


class Changed(Struct, frozen=True):
    """It is done."""


LINK = Operation("link", LinkRequest, Changed, True, "cut or restore a link")
REPOSITORY = Operation(
    "repository", RepositoryRequest, Changed, True, "take the VNF repository off, or bring it back"
)


def open_network(spec: NetworkProcessSpec, say: Say = lambda _: None) -> NetworkProcess:
    """Return the process that serves a plan's network, ready to run.

    Args:
        spec: what it is started with.
        say: told in one line what is made of real packets.

    Raises:
        PhalanxError: with one line, if a file is not usable, the state is another's, or this
            machine cannot do what is asked of it.

    """
    bundle = bundle_of(spec, Role.NETWORK)
    plan = load_scenario(spec.plan)
    if spec.on == "linux" and spec.run is not None and spec.run.speed != 1:
        raise PhalanxError(f"real packets keep real time; the run's speed is {spec.run.speed:g}")
    if spec.on == "linux":
        check_linux()
    if spec.run is None:  # seconds of the plan count from the start of the process
        lead_s = LINUX_LEAD_S if spec.on == "linux" else 0.0
        spec = replace(spec, run=RunSpec(time.time() + lead_s))
    process = Process(spec, bundle, capabilities=("network",), silence_s=plan.timing.silence_s)
    return NetworkProcess(spec, plan, process, say)


class NetworkProcess:
    """Serves the plan's network, with its traffic, to the agents of its PoPs.

    It exists only as long as the process does: started again, it begins with nothing held, and
    with the traffic of the run's present second; without a run, with that of second 0. Of a run
    whose beginner does not end it, it ends by itself some time after the plan's last second.
    """

    def __init__(
        self, spec: NetworkProcessSpec, plan: Scenario, process: Process, say: Say
    ) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            plan: the network and its traffic.
            process: what it shares with every process.
            say: told in one line what is made of real packets.

        """
        self.process = process
        self._plan = plan
        self._environment = open_environment(
            spec.on, say, clock=process.clock, state=Path(spec.state)
        )
        self._vnfds = load_catalogue(plan, offered=self._environment.verdicts).vnfds
        self._seed = plan.seed if spec.run is None or spec.run.seed is None else spec.run.seed
        self._network: RunNetwork
        self._free_at_start: dict[PopId, Resources]
        self._trust: ProcessTrust | None = None
        if spec.trust is not None:
            self._trust = ProcessTrust(spec.trust, process.clock, process.state, self._unusable)
        if self._trust is not None:
            process.on_close(self._trust.close)
        # What stands on the clock's loop has to go before the clock, which the process closes.
        process.on_close(self._environment.close)
        for ending in (signal.SIGTERM, signal.SIGINT):
            process.on_signal(ending, partial(process.end, "interrupted"))
        if spec.run is not None and spec.run.cause is not None:
            alone_s = ALONE_S * spec.run.speed
            process.clock.call_at(
                plan.duration_s + alone_s, partial(process.end, "the run is over")
            )
        process.clock.call_soon(self._begin)

    def run(self) -> None:
        """Serve until the process is told to end."""
        self.process.run()

    def _begin(self) -> None:
        """Make the network, then serve it."""
        process, plan = self.process, self._plan
        life = f"{process.identity.name}.{process.incarnation}"
        recorder = Recorder(process.identity.name, process.stream, process.clock.now, life)
        context = BuildContext(plan, self._seed, self._vnfds, recorder, process.cause)
        network = self._network = self._environment.build(context)
        acting = acting_on(network, plan, process.clock, recorder.part("observe"))
        lease_s = FIRST_LEASE_S + max(0.0, -process.clock.now())
        install_monitors(network, plan, self._vnfds, process.cause, lease_s)
        self._free_at_start = network.free()
        standing = {agent.name: agent.pop for agent in plan.all_agents()}

        def expel(agent: AgentId, cause: str) -> None:
            if (pop := standing.get(agent)) is not None:
                end_doings(acting, agent, pop, cause)

        expelled = ExpelledAgents(expel, process.cause)
        serve_infrastructure(
            process.fabric.provider,
            process.clock,
            acting,
            process.incarnation,
            lambda agent, pop: standing.get(agent) == pop and not expelled.out(agent),
            expelled.may,
        )
        if self._trust is not None:
            self._trust.follow(expelled.read, expelled.resume, lambda: expelled.register)
        process.fabric.provider.serve(RESERVATIONS, self._reservations)
        serve_faults(process.fabric.provider, network)
        process.fabric.serving()

    def _unusable(self, reason: str) -> None:
        self.process.recorder.record("memory.unusable", self.process.cause, reason=reason)

    def _reservations(self, call: Call[ReservationsRequest, ReservationsAnswer]) -> None:
        self._network.check()
        call.done(reservations_of(self._network, self._free_at_start))


def serve_faults(provider: Provider, network: RunNetwork) -> None:
    """Let callers that the policy admits cut links and take the repository away."""

    def link(call: Call[LinkRequest, Changed]) -> None:
        ask = call.request
        try:
            if ask.figures is None:
                (network.restore_link if ask.up else network.fail_link)(ask.a, ask.b)
            elif isinstance(network, DegradableNetwork):
                network.degrade(ask.a, ask.b, *ask.figures)
            else:
                raise ValueError("links of real packets cannot be made worse")
        except ValueError as error:
            call.fail(str(error))
        else:
            call.done(Changed())

    def repository(call: Call[RepositoryRequest, Changed]) -> None:
        network.repository_away(call.request.away)
        call.done(Changed())

    provider.serve(LINK, link)
    provider.serve(REPOSITORY, repository)
