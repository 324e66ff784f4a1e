"""The estate: the VNF instances that an agent runs, and what each is busy with."""

from __future__ import annotations

from collections.abc import Container, Iterator
from enum import Enum

from phalanx.auction.memory import InstanceMemory, JobMemory, MeasureMemory
from phalanx.domain.goals import Predicate
from phalanx.domain.messages import InstanceInfo
from phalanx.domain.vnf import InstanceId, Vnfd


class State(Enum):
    """Where an instance is in its life."""

    DEPLOYING = "deploying"
    BUSY = "busy"
    IDLE = "idle"


class Instance:
    """One VNF instance of this agent."""

    __slots__ = (
        "awaited",
        "due",
        "id",
        "idle_since",
        "jobs",
        "measures",
        "passing",
        "running",
        "units",
        "vnfd",
    )

    def __init__(self, instance_id: InstanceId, vnfd: Vnfd, units: int) -> None:
        self.id = instance_id
        self.vnfd = vnfd
        self.units = units
        self.running = False
        self.due = 0.0
        """When it is expected to run."""
        self.awaited: list[str] = []
        """What to resume once it runs, or will never run: those who share it."""
        self.jobs: dict[str, str] = {}
        """Goals that it works on, by conversation."""
        self.measures: dict[Predicate, str] = {}
        """What it keeps true, with the id of the measure."""
        self.passing: dict[Predicate, str] = {}
        """Measures that stand only while a plan runs: those not yet confirmed, and splits."""
        self.idle_since: float | None = None

    @property
    def state(self) -> State:
        """Return where it is in its life."""
        if not self.running:
            return State.DEPLOYING
        return State.BUSY if self.jobs or self.measures else State.IDLE

    @property
    def available(self) -> bool:
        """Whether it can take on another goal: one to be shared even before it runs."""
        return self.vnfd.shared or (self.running and not self.jobs)

    def memory(self) -> InstanceMemory:
        """Return what is to be remembered of it."""
        return InstanceMemory(
            self.id,
            self.vnfd,
            self.units,
            self.running,
            tuple(JobMemory(*job) for job in self.jobs.items()),
            tuple(MeasureMemory(*measure) for measure in self.measures.items()),
            tuple(MeasureMemory(*measure) for measure in self.passing.items()),
        )

    @classmethod
    def recalled(cls, old: InstanceMemory) -> Instance:
        """Return the instance as it is remembered."""
        instance = cls(old.id, old.vnfd, old.units)
        instance.running = old.running
        instance.jobs = {job.conversation: job.goal for job in old.jobs}
        instance.measures = {m.effect: m.measure for m in old.measures}
        instance.passing = {m.effect: m.measure for m in old.passing}
        return instance

    def info(self) -> InstanceInfo:
        """Return what a query is told."""
        goals = (*self.jobs.values(), *(str(m) for m in self.measures))
        return InstanceInfo(
            self.id, self.vnfd.name, self.vnfd.version, self.units, self.state.value, goals
        )


class Estate:
    """All instances of one agent, in the order in which they came."""

    __slots__ = ("_instances",)

    def __init__(self) -> None:
        self._instances: dict[InstanceId, Instance] = {}

    def add(self, instance: Instance) -> None:
        """Note a new instance."""
        self._instances[instance.id] = instance

    def get(self, instance_id: InstanceId | None) -> Instance | None:
        """Return an instance; None if it is gone."""
        return self._instances.get(instance_id) if instance_id is not None else None

    def remove(self, instance_id: InstanceId) -> Instance | None:
        """Forget an instance and return it."""
        return self._instances.pop(instance_id, None)

    def available(self, vnfd: Vnfd, offered: Container[InstanceId | None] = ()) -> Instance | None:
        """Return the instance of ``vnfd`` to use again: the first that can take a goal.

        One that is ``offered`` to another auction counts only if it serves several goals.
        """
        for instance in self._instances.values():
            own = instance.vnfd
            if (
                (own.name, own.version) == (vnfd.name, vnfd.version)
                and instance.available
                and (own.shared or instance.id not in offered)
            ):
                return instance
        return None

    def keeper(self, effect: Predicate) -> Instance | None:
        """Return the instance that keeps ``effect`` true."""
        for instance in self._instances.values():
            if effect in instance.measures:
                return instance
        return None

    def release(self, conversation: str, now: float) -> None:
        """Note that nothing works for ``conversation`` any more."""
        for instance in self._instances.values():  # another version may have taken the job over
            if instance.jobs.pop(conversation, None) is not None:
                instance.idle_since = now

    def runs(self, vnf: str) -> bool:
        """Whether an instance of ``vnf`` is running."""
        return any(i.running and i.vnfd.name == vnf for i in self._instances.values())

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self._instances.values()))

    def __len__(self) -> int:
        return len(self._instances)
