"""The environment of real packets: a testbed on this machine, and the wall clock; needs root.

The ledger's keys for the overlay of a run, brought in beside the run's loop.

A pair of PoPs is protected by what both ends were handed out in the present epoch. Until they
have it, as in the chain of trust and after a deployment anew, the pair has a local secret: of
whoever enrols the agents, and new in each epoch, so that nobody knows it who was expelled. What
was in use when an epoch ends may stay for ``GRACE_S``, in which the next keys arrive; then it is
replaced, and where that cannot be, nothing passes.

A PoP takes part while one of the agents that stand there is neither expelled nor retired: it is
the PoP's kernel that encrypts, for all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from hmac import compare_digest
from pathlib import Path

from phalanx.bus.sockets import SocketBus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.network import Network, PopId
from phalanx.domain.rules import TrafficVerdict
from phalanx.domain.trust import GroupKeys
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.enforcement import offered
from phalanx.infrastructure.linux.features import tool
from phalanx.infrastructure.linux.journal import LeaseJournal
from phalanx.infrastructure.linux.kernel import KernelError, runs
from phalanx.infrastructure.linux.kernel.namespaces import entered
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay, PairKey
from phalanx.infrastructure.linux.overlay_node import OverlaySite
from phalanx.infrastructure.linux.repository import build_images
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.runtime.environment import BuildContext, Say
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.trusting import SECAAS
from phalanx.testrange import Testbed, Workload
from phalanx.testrange.processes import end, serve_images
from phalanx.trust.keys import pair_secret

GRACE_S = 10.0
"""For how long what an epoch was protected by may be used once it has ended."""
RETRY_S = 2.0
"""Before what could not be done is tried again."""


class LedgerKeys:
    """Secrets of pairs of PoPs from the epochs of a ledger; implements ``KeyProvider``.

    Args:
        agents: by each agent the PoP at which it stands.

    """

    def __init__(self, agents: Mapping[AgentId, PopId]) -> None:
        self._agents = dict(agents)
        self._pops = frozenset(agents.values())
        self._local = LocalKeys(self._pops)
        self._group = GroupKeys(1)
        self._settled = 1

    def take(self, group: GroupKeys) -> bool:
        """Take in what protects the group from now on; return whether another epoch began."""
        turned = group.epoch > self._group.epoch
        if turned:
            self._local.rotate()
        self._group = group
        self._authorise()
        return turned

    def settle(self, epoch: int) -> None:
        """Let nothing of the epochs before ``epoch`` be used any more."""
        self._settled = max(self._settled, epoch)
        self._authorise()

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that take part."""
        return self._local.members()

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now; see ``KeyProvider``."""
        group, least = self._group, 2 * self._settled
        local = self._local.secret(a, b)
        one, other = self._held(group, a), self._held(group, b)
        # A keeper that hands out different keys leaves pairs with local ones.
        if not one or not other or not compare_digest(one, other):
            return PairKey(2 * group.epoch, local, late=True, least=least)
        secret = pair_secret(one, f"overlay {a}", f"overlay {b}")
        return PairKey(2 * group.epoch + 1, secret, least=least)

    def _held(self, group: GroupKeys, pop: PopId) -> bytes:
        held = (group.secrets.get(name) for name, at in self._agents.items() if at == pop)
        return next((secret for secret in held if secret is not None), b"")

    def _authorise(self) -> None:
        group = self._group
        out = group.expelled | (group.retired if self._settled >= group.epoch else frozenset())
        stay = frozenset(pop for agent, pop in self._agents.items() if agent not in out)
        for pop in self.members() - stay:
            self._local.revoke(pop)
        for pop in stay - self.members():
            self._local.admit(pop)


Aside = Callable[[Callable[[], str], Callable[[str], None]], None]
"""Does what blocks beside the clock's calls, and makes one of these with what it returned."""
Record = Callable[..., str]
"""Records an event: kind, cause, data."""


class OverlayKeying:
    """Brings an overlay to what its group's ledger says; none of its methods blocks."""

    def __init__(
        self, overlay: Overlay, keys: LedgerKeys, clock: Clock, aside: Aside, record: Record
    ) -> None:
        """Do nothing before ``take``; ``keys`` are those of the overlay."""
        self._overlay = overlay
        self._keys = keys
        self._clock = clock
        self._aside = aside
        self._record = record
        self._cause = ""
        self._busy = self._again = False
        self._told: tuple[int, int] | None = None
        self._why = ""
        self._epoch = 1

    def take(self, group: GroupKeys, cause: str) -> None:
        """Bring in what protects the group from now on; ``cause`` is the event that led to it."""
        self._cause, self._epoch = cause, group.epoch
        before = self._keys.members()
        if self._keys.take(group):
            until = self._clock.now() + GRACE_S
            self._clock.call_at(until, partial(self._settle, group.epoch))
        self._follow(before)

    def _settle(self, epoch: int) -> None:
        before = self._keys.members()
        self._keys.settle(epoch)
        self._follow(before)

    def _follow(self, before: frozenset[PopId]) -> None:
        for pop in sorted(before - self._keys.members()):
            self._revoke(pop, self._cause)
        self._bring()

    def _revoke(self, pop: PopId, cause: str) -> None:
        if pop not in self._keys.members():
            work = partial(_failure, partial(self._overlay.revoke, pop))
            self._aside(work, partial(self._revoked, pop, cause))

    def _revoked(self, pop: PopId, cause: str, failure: str) -> None:
        if failure:
            self._failed(failure, partial(self._revoke, pop, cause))
        else:
            self._record("overlay.revoked", cause, pop=pop)
            self._bring()  # it may have been enrolled anew meanwhile

    def _bring(self) -> None:
        """Rekey and readmit; what came meanwhile is seen to as soon as that has ended."""
        self._again = self._busy
        if not self._busy:
            self._busy = True
            self._aside(self._work, partial(self._brought, self._overlay.revoked))

    def _work(self) -> str:
        back = sorted(self._overlay.revoked & self._keys.members())
        works: list[Callable[[], None]] = [self._overlay.rotate]
        works += [partial(self._overlay.readmit, pop) for pop in back]
        return "; ".join(failure for work in works if (failure := _failure(work)))

    def _brought(self, revoked: frozenset[PopId], failure: str) -> None:
        self._busy = False
        if not failure:
            self._why = ""
        for pop in sorted(revoked - self._overlay.revoked):
            self._record("overlay.readmitted", self._cause, pop=pop)
        keyed = self._overlay.generations().count(2 * self._epoch + 1)
        if keyed and (self._epoch, keyed) != self._told:
            self._told = self._epoch, keyed
            self._record("overlay.keyed", self._cause, epoch=self._epoch, pairs=keyed)
        if self._again:
            self._bring()
        elif failure:
            self._failed(failure, self._bring)

    def _failed(self, failure: str, again: Callable[[], None]) -> None:
        if failure != self._why:  # what lasts is told once
            self._why = failure
            self._record("overlay.failed", self._cause, reason=failure)
        self._clock.call_at(self._clock.now() + RETRY_S, again)


def _failure(work: Callable[[], None]) -> str:
    try:
        work()
    except PhalanxError as error:
        return str(error)
    return ""


BUS_PORT = 7400
VNI = 7
JOURNAL = "leases.db"
"""File among those of a run: what the driver holds under leases."""
_MADE = "testbed"
"""File below a process's state: the mark of its testbed, then a line for each thing made."""


class LinuxEnvironment:
    """Namespaces for PoPs and hosts, real servers, users, attackers and VNFs.

    In one process, the agents' messages go over an encrypted overlay among the PoPs. Where a
    process serves the network alone, they go over the domain's brokers, and ``bus`` is not
    asked for. What such a process has left when it was killed is cleared by the next one with
    the same state, before it builds its own.
    """

    def __init__(
        self,
        say: Say = lambda _: None,
        *,
        clock: WallClock | None = None,
        state: Path | None = None,
    ) -> None:
        """Make nothing yet.

        Args:
            say: told in one line what is being made.
            clock: of the process; None takes one of its own.
            state: directory of the process that serves the network, in which the mark of the
                testbed is kept; None where agents live in this process as well.

        """
        self.clock = WallClock() if clock is None else clock
        self.run = ""
        self.overlay: Overlay | None = None
        self._keying: OverlayKeying | None = None
        self._say = say
        self._made = None if state is None else state / _MADE
        self._stack = ExitStack()
        if clock is None:
            self._stack.callback(self.clock.close)
        self._testbed: Testbed

    @property
    def verdicts(self) -> frozenset[TrafficVerdict]:
        """The verdicts of traffic rules that its network carries out."""
        return offered(services=True)

    def build(self, context: BuildContext) -> LinuxNetwork:
        """Make the testbed, the VNF repository, the traffic and the driver; takes some seconds.

        Sources whose time is over by the clock are left out.

        Raises:
            KernelError: if the machine does not allow it.

        """
        try:
            return self._build(context)
        except BaseException:
            self.close()
            raise

    def bus(self, context: BuildContext) -> SocketBus:
        """Make the bus over the overlay."""
        testbed, overlay = self._testbed, self.overlay
        assert overlay is not None
        places = _places(context.scenario)
        peers = tuple(places)
        places[SECAAS] = context.scenario.network.repository
        bus = SocketBus(
            self.clock,
            {
                agent: (overlay.address(pop), BUS_PORT + (number if agent != pop else 0))
                for number, (agent, pop) in enumerate(places.items(), 1)
            },
            peers=peers,
            enter=lambda agent: entered(testbed.namespace(places[agent])),
            on_shed=context.shed,
        )
        self._stack.callback(bus.close)
        return bus

    def rekey(self, keys: GroupKeys, cause: str) -> None:
        """Protect what agents say to each other with ``keys`` from now on, beside the run."""
        if self._keying is not None:
            self._keying.take(keys, cause)

    def close(self) -> None:
        """Stop everything and leave nothing behind; signals are not heard meanwhile."""
        if self._made is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def _build(self, context: BuildContext) -> LinuxNetwork:
        scenario, stack, clock = context.scenario, self._stack, self.clock
        network, sources = scenario.to_network(), scenario.to_sources(context.seed)
        if scenario.control == "in-band":
            raise KernelError("messages of agents have a network of their own on a testbed")
        if any(s.profile.retry_s for s in sources) or any(h.calls for h in network.hosts):
            raise KernelError("signalling load and calls between hosts are simulated alone")
        for vnfd in context.vnfds.values():
            for lacking in (name for name in vnfd.needs if tool(name) is None):
                why = f"{lacking} is not installed; see phalanx doctor"
                raise KernelError(f"functions.{vnfd.name}: {why}")
        self.run = runs.new_run()
        home = runs.folder(self.run)
        if self._made is not None:
            if (cleared := clear(self._made.parent)) is not None:
                self._say(cleared)
            stack.callback(self._made.unlink, missing_ok=True)
            self._made.write_text(f"{self.run}\n")
        stack.callback(runs.remove, home)
        self._tell(f"testbed {self.run}: {len(network.pops)} PoPs, {len(sources)} sources")
        self._testbed = testbed = Testbed(self.run, network, sources)
        stack.callback(testbed.destroy)
        testbed.build()
        if self._made is None:
            self.overlay = self._overlay(network, context)
        images = build_images(context.vnfds, home / "repository")
        at = network.repository
        folder = home / "repository"
        server = serve_images(self.run, testbed.namespace(at), testbed.underlay(at), folder)
        stack.callback(end, [server])
        workload = Workload(
            testbed,
            network,
            [s for s in sources if s.end_s is None or s.end_s > clock.now()],
            clock=clock,
            recorder=context.recorder.part("workload"),
            cause=context.cause,
            folder=home,
            sample_s=scenario.timing.sample_s,
        )
        stack.callback(workload.stop)
        workload.prepare()
        now = clock.now()
        self._tell("server and users are ready" + (f" at second {now:.1f}" if now > 0 else ""))
        journal = stack.enter_context(closing(LeaseJournal(home / JOURNAL)))
        driver = LinuxNetwork(
            network,
            clock,
            context.recorder,
            linux=testbed,
            images=images,
            journal=journal,
            cause=context.cause,
            keep_images=scenario.strategy != "published",
            programs=workload,
            encryption=self.overlay,
        )
        stack.callback(driver.shutdown)
        workload.start()
        return driver

    def _overlay(self, network: Network, context: BuildContext) -> Overlay:
        """Make the encrypted overlay among the PoPs, or among those at which agents stand."""
        pops = sorted(pop.name for pop in network.pops)
        sites = [
            OverlaySite(
                pop,
                self._testbed.namespace(pop),
                self._testbed.underlay(pop),
                f"10.255.{i // 250}.{i % 250 + 1}",
                self._testbed.entry(pop) or "",
            )
            for i, pop in enumerate(pops)
        ]
        places = _places(context.scenario)
        if network.repository not in places.values():
            places[SECAAS] = network.repository  # it alone stands there, and is never expelled
        keys = LedgerKeys(places)
        overlay = Overlay(runs.folder(self.run), VNI, sites, keys)
        self._stack.callback(overlay.down)
        overlay.up()
        tasks = Tasks(self.clock)
        self._stack.callback(tasks.stop)

        def aside(work: Callable[[], str], done: Callable[[str], None]) -> None:
            tasks.start(tasks.thread(work), done, done)

        record = context.recorder.part("overlay").record
        self._keying = OverlayKeying(overlay, keys, self.clock, aside, record)
        self._say(f"overlay: VXLAN, {overlay.engine.value}")
        return overlay

    def _tell(self, line: str) -> None:
        if self._made is not None:
            with self._made.open("a") as file:
                file.write(f"{line}\n")
        self._say(line)


def _places(scenario: Scenario) -> dict[AgentId, PopId]:
    """Return where agents speak and hear: at their PoP, else where the VNF repository is."""
    repository = scenario.network.repository
    return {agent.name: agent.pop or repository for agent in scenario.all_agents()}


def made(state: Path) -> list[str]:
    """Return what the process with this state has told of its testbed so far; it may be nothing."""
    return _lines(state)[1:]


def clear(state: Path) -> str | None:
    """Remove the testbed that a process with this state has left, which does not run any more.

    Returns:
        a line that says what was removed; None: there was nothing.

    Raises:
        KernelError: if something of it cannot be removed.

    """
    run = next(iter(_lines(state)), "")
    if not (runs.is_run(run) and run in runs.marked()):
        return None
    runs.sweep(run)
    home = runs.folder(run)
    in_force = 0
    if (home / JOURNAL).exists():
        with closing(LeaseJournal(home / JOURNAL)) as journal:
            in_force = len(journal.remaining())
    runs.remove(home)
    (state / _MADE).unlink()
    return f"cleared testbed {run} of an earlier life, with {in_force} measures in force"


def _lines(state: Path) -> list[str]:
    try:
        return (state / _MADE).read_text().splitlines()
    except FileNotFoundError:
        return []


def plan(scenario: Scenario) -> list[str]:
    """Return what a run of ``scenario`` would make on this machine, a line for each thing."""
    network, sources = scenario.to_network(), scenario.to_sources()
    attackers = [source for source in sources if source.profile.malicious]
    groups = {(source.group, source.at) for source in sources if not source.profile.malicious}
    spaces = len(network.pops) + len(network.hosts) + len(groups) + len(attackers)
    tools = {source.profile.name for source in attackers}
    return [
        f"{spaces} network namespaces phx-<run>-…: {len(network.pops)} PoPs, "
        f"{len(network.hosts)} hosts, {len(groups)} groups of users, {len(attackers)} attackers",
        f"{len(network.links)} links between PoPs, shaped and delayed, all inside the namespaces",
        f"control groups phalanx/<run>/<pop>: {', '.join(pop.name for pop in network.pops)}",
        f"an encrypted overlay among the PoPs (VXLAN {VNI} over ESP): a charon in each",
        f"a VNF repository at {network.repository} with {len(scenario.functions)} images; "
        "VNFs as processes where auctions place them",
        f"a web server for each attacked or used host, {len(sources) - len(attackers)} users, "
        f"{len(attackers)} attackers ({', '.join(sorted(tools)) or 'none'}) for "
        f"{scenario.duration_s:g} s of real time",
        f"files below {runs.ROOT}/<run>; all of it is removed at the end, and by phalanx clean",
        "nothing in this machine's own network: no interface, address, route, table or setting",
    ]
