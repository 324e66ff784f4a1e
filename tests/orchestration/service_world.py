"""A domain, sites and a bus in memory that crash and fail where they are told to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.orchestration.descriptors.service import Service
from phalanx.orchestration.iml.unit import ImlError, Running, Unit, UnitKind
from phalanx.orchestration.journal import Claim, ServiceJournal, StepStage
from phalanx.orchestration.service import ServiceOrchestrator
from phalanx.orchestration.workflow.context import (
    Pair,
    Probed,
    Seen,
    StepRetryPolicy,
    TransientFault,
    WorkflowContext,
)
from phalanx.orchestration.workflow.model import (
    Asked,
    Deployment,
    NotAvailableError,
    NoTrustServices,
    ServiceMember,
    TrustStep,
)
from phalanx.store.database import Database

SERVICE = Path(__file__).parents[2] / "scenarios" / "services" / "edge-video"
NAME = "edge-video-1"


class Crash(BaseException):
    """The orchestrator's process ends here."""


Hook = Callable[[str, str], None]
"""Called with ``before`` and ``begun`` around the intention of a step, with ``within`` and
``after`` around its result; of a step that is taken back the name begins with ``undo``."""


class WatchedJournal(ServiceJournal):
    def __init__(self, database: Database, hook: Hook) -> None:
        super().__init__(database)
        self.hook = hook

    def claim(self, name: str) -> Claim:
        claim, hook = super().claim(name), self.hook
        write = claim.step

        def step(
            revision: int, name: str, stage: StepStage, result: Any = None, note: Any = None
        ) -> None:
            begins = stage in (StepStage.INTENDED, StepStage.UNDOING)
            first, last = ("before", "begun") if begins else ("within", "after")
            undo = "undo " if stage in (StepStage.UNDOING, StepStage.UNDONE) else ""
            hook(first, f"{undo}{name}")
            write(revision, name, stage, result, note)
            hook(last, f"{undo}{name}")

        vars(claim).update(step=step)
        return claim


def asked(request: str = "request.yaml", without: tuple[str, ...] = ()) -> Asked:
    descriptors = {
        path.name: path.read_text()
        for path in sorted(SERVICE.glob("*.yaml"))
        if "vnfd" in path.name or "nsd" in path.name
    }
    sites = (SERVICE / "sites.yaml").read_text().replace("trust: 0.8\n", "trust: 0.9\n")
    return Asked(
        descriptors, ("sites.yaml", sites), (request, (SERVICE / request).read_text()), without
    )


@dataclass
class World:
    """What an orchestrator acts on, and which moment of it ends or fails.

    A moment is each step before and after it is written down, and before and after each effect.
    """

    crashes: list[int] = field(default_factory=list)
    """Moments from the (re)start of the orchestrator on; each is used once, in order."""
    faults: dict[str, PhalanxError] = field(default_factory=dict)
    """What an effect raises, by its name, such as ``start edge-video-1.origin.1``."""
    passing: dict[str, int] = field(default_factory=dict)
    """How often an effect fails before it works."""
    moment: int = 0
    effects: list[str] = field(default_factory=list)
    identities: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    let_in: set[str] = field(default_factory=set)
    """Whom the brokers know."""
    entries: set[str] = field(default_factory=set)
    """The registry."""
    folders: dict[tuple[str, str], Unit] = field(default_factory=dict)
    """Units by site and name."""
    processes: dict[tuple[str, str], int] = field(default_factory=dict)
    """Incarnations of those that run."""
    memories: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last incarnation that a folder knows of."""
    started: dict[str, int] = field(default_factory=dict)
    """The last incarnation that ran, by name."""
    plans: dict[str, str] = field(default_factory=dict)
    """What those that run follow, by name."""
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    """The plan that a folder holds."""
    cut: set[str] = field(default_factory=set)
    """Whom no other agent reaches."""
    now: float = 0.0
    """Passes while the orchestrator sleeps."""
    asleep: Callable[[float], None] | None = None
    """Called with the time after each sleep."""
    probed: list[tuple[str, str]] = field(default_factory=list)
    trusted: list[tuple[int, str]] = field(default_factory=list)
    sent: list[Event] = field(default_factory=list)
    database: Database = field(default_factory=lambda: Database("sqlite://"))

    def copy(self) -> World:
        """Return another world that is just so."""
        fields = {k: copy.deepcopy(v) for k, v in vars(self).items() if k != "database"}
        other = World(**fields)
        raw, into = (d.engine.raw_connection() for d in (self.database, other.database))
        into.driver_connection.deserialize(raw.driver_connection.serialize())  # type: ignore[union-attr]
        into.close()
        raw.close()
        return other

    def tick(self, _moment: str = "", _step: str = "") -> None:
        self.moment += 1
        if self.crashes and self.moment == self.crashes[0]:
            self.crashes.pop(0)
            raise Crash

    def effect(self, name: str, work: Callable[[], None]) -> None:
        self.tick()
        if self.passing.get(name, 0) > 0:
            self.passing[name] -= 1
            raise TransientFault(f"{name}: not now")
        if name in self.faults:
            raise self.faults[name]
        self.effects.append(name)
        work()
        self.tick()

    def orchestrator(self) -> ServiceOrchestrator:
        self.moment = 0
        context = WorkflowContext(
            lambda site: FakeIml(self, site),
            FakeMembership(self),
            FakeWriter(),
            FakeWatcher(self),
            FakeTrust(self),
            StepRetryPolicy(attempts=3, pause_s=0.0, ready_s=0.5),
            sleep=self.sleep,
            monotonic=lambda: self.now,
        )
        return ServiceOrchestrator(context, WatchedJournal(self.database, self.tick))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.asleep is not None:
            self.asleep(self.now)

    def kill(self, name: str) -> None:
        """End a process as it ends by itself: its entry in the registry stays."""
        (at,) = (place for place in self.processes if place[1] == name)
        del self.processes[at]

    def until_done(self, command: Callable[[ServiceOrchestrator], object]) -> str | None:
        """Give the command again after each crash; return why it did not do what it should."""
        while True:
            try:
                command(self.orchestrator())
            except Crash:
                continue
            except PhalanxError as error:
                return str(error)
            return None

    def standing(self) -> dict[str, object]:
        """What there is in the end, but how often what was started."""
        return {
            "identities": sorted(self.identities),
            "let in": sorted(self.let_in & self.identities),
            "entries": sorted(self.entries),
            "folders": sorted((site, name, u.revision) for (site, name), u in self.folders.items()),
            "processes": sorted(self.processes),
        }


class FakeIml:
    def __init__(self, world: World, site: str) -> None:
        self.world, self.site = world, site

    def start(
        self, unit: Unit, files: dict[str, bytes], *, fence: int, state: bytes | None = None
    ) -> Running:
        world, at = self.world, (self.site, unit.name)
        assert files["identity/key.pem"] == b"key of " + unit.name.encode()

        def work() -> None:
            if at in world.processes:
                assert world.folders[at] == unit, "another revision runs"
                return
            twins = [place for place in world.processes if place[1] == unit.name]
            assert not twins, f"{unit.name} runs at {twins} and would run at {self.site}"
            assert unit.name in world.let_in, f"the brokers do not know {unit.name}"
            if state is not None and world.folders.get(at) != unit:
                world.memories[at] = int(state)
            world.folders[at] = unit
            life = world.memories.get(at, 0) + 1
            assert life > world.started.get(unit.name, 0), f"{unit.name} forgot a life"
            world.processes[at] = world.memories[at] = world.started[unit.name] = life
            world.entries.add(unit.name)
            world.files[at] = world.plans[unit.name] = files["plan.yaml"].decode()

        world.effect(f"start {unit.name}", work)
        return Running(unit, 1)

    def stop(self, name: str, *, fence: int, gracefully: bool, within_s: float) -> None:
        def work() -> None:
            if self.world.processes.pop((self.site, name), None) is not None:
                self.world.entries.discard(name)

        self.world.effect(f"stop {name}", work)

    def state(self, name: str) -> bytes | None:
        assert (self.site, name) not in self.world.processes
        life = self.world.memories.get((self.site, name))
        return None if life is None else str(life).encode()

    def update(self, name: str, files: dict[str, bytes], *, fence: int) -> None:
        def work() -> None:
            if (self.site, name) in self.world.folders and "plan.yaml" in files:
                self.world.files[self.site, name] = files["plan.yaml"].decode()

        self.world.effect(f"update {name}", work)

    def clear(self, name: str, *, fence: int) -> None:
        def work() -> None:
            if (self.site, name) in self.world.processes:
                raise ImlError(f"{name} still runs")
            self.world.folders.pop((self.site, name), None)
            self.world.memories.pop((self.site, name), None)

        self.world.effect(f"clear {name}", work)

    def running(self) -> tuple[Running, ...]:
        return tuple(
            Running(unit, 1 if (site, name) in self.world.processes else None)
            for (site, name), unit in sorted(self.world.folders.items(), key=lambda i: i[0])
            if site == self.site
        )

    def logs(self, name: str, lines: int = 100) -> str:
        return f"{name} said this"


class FakeMembership:
    def __init__(self, world: World) -> None:
        self.world = world

    def issue(self, name: str, kind: UnitKind) -> None:
        def work() -> None:
            assert name not in self.world.revoked, f"{name} was revoked"
            self.world.identities.add(name)

        self.world.effect(f"issue {name}", work)

    def revoke(self, name: str) -> None:
        def work() -> None:
            assert name not in {n for _, n in self.world.processes}, f"{name} still runs"
            if name in self.world.identities:
                self.world.identities.discard(name)
                self.world.revoked.add(name)
            self.world.let_in = set(self.world.identities)

        self.world.effect(f"revoke {name}", work)

    def reload(self) -> None:
        def work() -> None:
            self.world.let_in = set(self.world.identities)

        self.world.effect("reload", work)

    def files(self, name: str) -> dict[str, bytes]:
        assert name in self.world.identities
        return {"key.pem": b"key of " + name.encode()}

    def revocations(self) -> dict[str, bytes]:
        return {"crl.pem": b"list"}


class FakeWriter:
    def functions(self) -> tuple[str, ...]:
        return ("anomaly-detector", "classifier", "link-monitor", "rate-limiter", "syn-proxy")

    def plan(self, service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
        return repr([(m.name, m.site, m.serves) for m in (*target.agents, *leaving)])

    def files(self, member: ServiceMember, deployment: Deployment) -> dict[str, bytes]:
        return {"config.toml": b"", "plan.yaml": deployment.plan.encode()}


class FakeWatcher:
    def __init__(self, world: World) -> None:
        self.world = world

    def look(self, members: Iterable[ServiceMember], within_s: float) -> dict[str, Seen]:
        running = {name: life for (_, name), life in self.world.processes.items()}
        return {m.name: Seen(running[m.name], True, 1) for m in members if m.name in running}

    def probe(self, pairs: Iterable[Pair], within_s: float) -> dict[Pair, Probed]:
        running = {name for _, name in self.world.processes}
        found = {}
        for pair in pairs:
            self.world.probed.append(pair)
            reached = {*pair} <= running and not {*pair} & self.world.cut
            found[pair] = Probed(1.0) if reached else Probed(None, "no answer within 2 s")
        return found

    def reload(self, name: str) -> str:
        def work() -> None:
            (at,) = (place for place in self.world.processes if place[1] == name)
            self.world.plans[name] = self.world.files[at]

        self.world.effect(f"reload {name}", work)
        return "it follows the plan"

    def close(self) -> None:
        pass

    def forget(self, name: str) -> None:
        self.world.effect(f"forget {name}", lambda: self.world.entries.discard(name))

    def send(self, events: list[Event]) -> list[Event]:
        self.world.sent += events
        return events


class FakeTrust(NoTrustServices):
    """Does one step, so that there is something to be taken back."""

    def __init__(self, world: World) -> None:
        self.world = world

    def perform(self, step: TrustStep, service: str, agents: tuple[str, ...]) -> str:
        if step.name != "accounts":
            raise NotAvailableError(f"not available: {step.words}")
        for agent in agents:
            entry = (step.number, agent)
            self.world.effect(f"account {agent}", lambda entry=entry: self._add(entry))
        return "done"

    def revert(self, step: TrustStep, service: str, agents: tuple[str, ...]) -> None:
        for agent in agents:
            if (step.number, agent) in self.world.trusted:
                self.world.trusted.remove((step.number, agent))

    def _add(self, entry: tuple[int, str]) -> None:
        if entry not in self.world.trusted:
            self.world.trusted.append(entry)
