"""One PoP's agent as a process: it joins, discovers, works, remembers, and leaves in order."""

from __future__ import annotations

import contextlib
import gc
import signal
from functools import partial
from typing import Any

from phalanx.auction.outlook import Connected, Outlook
from phalanx.bdi import Agent
from phalanx.bdi.memory import Memory, MemoryUnusable, decode, encode, remember
from phalanx.bus.agents import AgentBus
from phalanx.bus.seal import Seal
from phalanx.clock import Timer
from phalanx.domain.errors import ScenarioError, StoreError
from phalanx.domain.network import PopId
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.directory import RegistryChange
from phalanx.fabric.network import NetworkCalls
from phalanx.fabric.registration import END_TO_END, HealthStatus, ServiceState
from phalanx.identity.names import Role
from phalanx.infrastructure.remote import RemoteInfrastructure
from phalanx.runtime.catalogue import Catalogue
from phalanx.runtime.composition import first_view, installed, planned_site, settings_of, take_up
from phalanx.runtime.environment import faulty
from phalanx.runtime.node import Node, make_agent
from phalanx.runtime.processes.accord import Accord, read_plan
from phalanx.runtime.processes.desk import Desk
from phalanx.runtime.processes.probes import Probes
from phalanx.runtime.processes.shell import Shell
from phalanx.runtime.processes.spec import AgentSpec
from phalanx.runtime.processes.start import bundle_of, shell_of
from phalanx.runtime.scenario import Scenario

PLAINLY = {
    "no-session": "no-session: said again, or before one of the two was restarted",
    "stale": "stale: of an earlier life of its sender, or said again",
}
"""Refusals that replays give rise to, and restarts as well: nobody can tell which it was."""
AGAIN_S = 2.0
"""Before a memory that the disk did not take is written again."""


def open_agent(spec: AgentSpec) -> AgentProcess:
    """Return the process of an agent, ready to run.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    bundle = bundle_of(spec, Role.AGENT)
    followed = read_plan(spec)
    plan, catalogue = followed.plan, followed.catalogue
    scope = END_TO_END if spec.scope is None else spec.scope
    shell = shell_of(
        spec,
        bundle,
        capabilities=tuple(sorted(catalogue.vnfds)),
        scope=scope,
        silence_s=plan.timing.silence_s,
    )
    shell.registrar.update(plan=followed.mark)
    seal = Seal(bundle.credentials, shell.incarnation)
    bundle.live.on_change(seal.use)
    return AgentProcess(spec, plan, catalogue, shell, seal)


class AgentProcess:
    """An agent, its memory on disk, and its place among the others.

    It asks others for proposals that are registered as agents of the same scope. SIGTERM lets
    it hand over what it does and leave; SIGINT and SIGHUP end it at once, so that its leases
    and its memory bridge the gap until it is started again.
    """

    def __init__(
        self, spec: AgentSpec, plan: Scenario, catalogue: Catalogue, shell: Shell, seal: Seal
    ) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            plan: the network, the functions and the terms of auctions.
            catalogue: the functions that this agent knows.
            shell: what it shares with every process.
            seal: protects its messages.

        Raises:
            ScenarioError: if the plan has no PoP of the agent's name.

        """
        self.shell = shell
        self.plan = plan
        self.spec = spec
        self._name: PopId = shell.identity.name
        network = plan.to_network()
        pops = {pop.name: pop for pop in network.pops}
        if self._name not in pops:
            raise ScenarioError(
                f"{spec.plan}: network.pops: there is no {self._name}, which is this agent's name"
            )
        self.settings = settings_of(plan, (self._name,), catalogue)
        self._library = catalogue.library
        clock = shell.clock
        self.bus = AgentBus(shell.exchange, clock, seal, on_refused=self._refused)
        self.infrastructure = RemoteInfrastructure(
            NetworkCalls(shell.exchange, clock, shell.incarnation, shell.registry),
            shell.identity.name,
            self._name,
            shell.incarnation,
            clock,
            on_refused=partial(self._refused, speaker=Role.NETWORK.value),
        )
        self.agent = make_agent(
            self._name,
            catalogue.library,
            self.settings,
            shell.stream,
            parameters=plan.parameters,
            incarnation=shell.incarnation,
            pop=self._name,
        )
        self._outlook: Outlook = self.agent.capability(Outlook)
        sites = [(pop.name, planned_site(network, pop)) for pop in network.pops]
        self._outlook.view = first_view(sites)
        seed = plan.seed if spec.run is None or spec.run.seed is None else spec.run.seed
        self.probes = Probes(
            faulty(self.bus, clock, plan, seed), self._name, clock, shell.incarnation, shell.cause
        )
        self.node = Node(
            self.agent,
            clock,
            self.probes,
            self.infrastructure,
            keep=self._keep,
            on_left=self._left,
        )
        self._unkept: str | None = None
        """Why the memory could not be written; None: it was."""
        self._again: Timer | None = None
        self._lost_at = clock.now()
        shell.checks.add("memory", lambda: self._unkept, HealthStatus.DEGRADED)
        shell.checks.add("events", self._unsent)
        shell.on_signal(signal.SIGTERM, self.drain)
        shell.on_signal(signal.SIGINT, partial(shell.end, "interrupted"))
        shell.on_signal(signal.SIGHUP, partial(shell.end, "to be started again"))
        shell.figures = self._figures
        self.accord = Accord(self)
        Desk(self)
        shell.registry.watch(self._discovered)
        clock.call_at(max(clock.now(), 0.0), self._begin)
        if spec.run is not None:
            clock.call_at(plan.duration_s, self._finish)

    def run(self) -> None:
        """Live until the process is told to end."""
        gc.collect()
        gc.freeze()  # what was imported stays: looking through it takes 40 ms, maybe in an attack
        self.shell.run()

    def drain(self) -> None:
        """Hand over and leave; what cannot be handed over in time is given up."""
        if self.agent.draining:
            return
        self.shell.registrar.update(state=ServiceState.DRAINING)
        self.node.drain(self.shell.cause)

    # -- the beginning ----------------------------------------------------------------------

    def _begin(self) -> None:
        """Live, as soon as there is a connection; with the memory of an earlier life."""
        shell = self.shell
        if shell.stopping is not None:
            return
        if not shell.exchange.connected:
            shell.clock.call_at(shell.clock.now() + 0.1, self._begin)
            return
        memory = self._memory()
        if memory is None:
            self._begin_anew()
        else:
            self.node.restore(memory, shell.cause)
        shell.exchange.on_change(self._connected)
        shell.serving()

    def _begin_anew(self) -> None:
        """Live without a past, with the monitors that the plan has installed here."""
        agent, shell = self.agent, self.shell
        monitors = [
            take_up(agent, installed(number, monitor), monitor, self.settings)
            for number, monitor in enumerate(self.plan.monitors, 1)
            if monitor.at == self._name
        ]
        self.node.start(shell.cause)
        for pursue in monitors:
            agent.cause = shell.cause
            self.node.carry_out(pursue(shell.clock.now()))

    def _memory(self) -> Memory | None:
        """Return what an earlier life left behind, if it can be used."""
        try:
            found = self.shell.state.load()
            if found is None or not found.octets:  # it left in order: nothing is open
                return None
            return decode(found.octets, self._library)
        except (StoreError, MemoryUnusable) as error:
            self.shell.recorder.record("memory.unusable", self.shell.cause, reason=str(error))
            return None

    # -- the others -------------------------------------------------------------------------

    def _discovered(self, change: RegistryChange) -> None:
        """Speak with whoever registered as an agent of this scope; forget who has left."""
        entry = change.entry
        found = entry.registration
        if found.role is not Role.AGENT or found.area != self.shell.registrar.registration.area:
            return
        peers = {*self.settings.peers}
        if entry.state is ServiceState.LEFT and entry.owner != self._name:
            peers.discard(entry.owner)
        else:
            peers.add(entry.owner)
        if peers != {*self.settings.peers}:
            self.settings.peers = tuple(sorted(peers))
            self.agent.changes += 1  # it remembers them, for a start without a registry

    def _connected(self, up: bool) -> None:
        """Let the agent know that it hears nobody, or somebody again."""
        now, record = self.shell.clock.now(), self.shell.recorder.record
        if not up:
            self._lost_at = now
            cause = record("connection.lost", self.shell.cause)
        else:
            seconds = round(now - self._lost_at, 3)
            cause = record("connection.regained", self.shell.cause, seconds=seconds)
        self.node.tell(Connected(up), cause)

    def _refused(self, reason: str, subject: str, speaker: str) -> None:
        why = PLAINLY.get(reason, reason)
        self.shell.audit(AccessRefusal(speaker, subject, self._name, why))

    # -- what is kept -----------------------------------------------------------------------

    def _keep(self, agent: Agent) -> None:
        """Write events and memory before anything is said that follows from them."""
        self.shell.outbox.flush()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self.shell.state.save(encode(remember(agent)))
            self._unkept = None
        except StoreError as error:
            self._unkept = str(error)
            clock = self.shell.clock
            self._again = clock.call_at(clock.now() + AGAIN_S, partial(self._keep_again, agent))

    def _keep_again(self, agent: Agent) -> None:
        self._again = None
        if self.node.alive:
            self._keep(agent)

    def _unsent(self) -> str | None:
        outbox = self.shell.outbox
        if outbox.last_failure is not None:
            return f"the disk does not take events: {outbox.last_failure}"
        return None

    def _figures(self) -> dict[str, Any]:
        return {
            "messages": {p.value: count for p, count in self.bus.sent.items()},
            "shed": sum(self.bus.shed.values()),
        }

    # -- the end ----------------------------------------------------------------------------

    def _left(self) -> None:
        with contextlib.suppress(StoreError):  # then it remembers that it has left
            self.shell.state.save(b"")
        self.shell.end("it has left")

    def _finish(self) -> None:
        """End what is still open: the run is over."""
        if self.node.alive:
            self.agent.stop(self.shell.clock.now(), self.shell.cause)
            self.node.crash()
        self.shell.end("the run is over")
