"""VNF instances, the holds that become instances, and what a driver does for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import floor, inf
from typing import Any, Generic, Protocol, TypeVar

from msgspec.structs import replace

from phalanx.clock import Clock, Timer
from phalanx.domain.actions import (
    Deploy,
    Done,
    Enforce,
    Failed,
    Hold,
    Observe,
    RuleInForce,
    RulesInForce,
)
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.rules import AllowList, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.infrastructure import Answer
from phalanx.infrastructure.reservations.topology import Path


@dataclass(slots=True, eq=False)
class Held:
    """A hold that was granted."""

    hold: Hold
    pop: PopId
    cause: str


@dataclass(frozen=True, slots=True)
class ReservedPath:
    """The path of an instance and what is reserved on it, from the far end to the instance."""

    id: str
    group: str
    path: Path
    mb_s: float
    event: str | None = None
    """The event that tells of it; None for a path without links, which is not told of."""


@dataclass(slots=True, eq=False)
class Instance:
    """A VNF instance, from the start of its download to its end."""

    id: InstanceId
    pop: PopId
    vnfd: Vnfd
    units: int
    chain: ReservedPath
    cause: str
    """The event that last changed its state; what ends it without being asked names this."""
    answer: Answer | None
    """Called once it runs, or has failed; None after that."""
    asked: float
    """When it was asked for, in seconds."""
    downloaded_s: float = 0.0
    measures: dict[str, None] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether the download and the boot are over."""
        return self.answer is None

    @property
    def handles_mb_s(self) -> float:
        """Traffic that all its units can process in MB/s."""
        each = self.vnfd.handles_mb_s
        return inf if each is None else each * self.units


def applied(action: Enforce, pop: PopId) -> dict[str, Any]:
    """Return what ``measure.applied`` says of a rule that is in force at ``pop``."""
    rule = action.rule
    figures: dict[str, float] = {"rate_mb_s": rule.rate_mb_s, **rule.parameters}
    match = rule.match
    if rule.verdict is TrafficVerdict.SPLIT:
        figures["parts"] = match.parts
    concerned: dict[str, Any] = {}
    passes = {"serve", "enlarge", "steer", "mirror"}
    if match.entry is not None or match.sources or match.outside or rule.verdict.value in passes:
        named = {"target": match.target, "protocol": match.protocol, "port": match.port}
        concerned = {key: value for key, value in named.items() if value is not None}
        concerned |= {"entry": match.entry or "", "verdict": rule.verdict.value}
    for kind in ("sources", "outside"):
        if named_sources := getattr(match, kind):
            concerned[kind] = list(named_sources)
    return {
        "measure": action.measure,
        "instance": action.instance,
        "pop": pop,
        "effect": action.effect,
        **({"reason": action.reason} if action.reason else {}),
        **figures,
        **concerned,
    }


def hold_refusal(hold: Hold) -> str | None:
    """Return what is wrong with the figures of ``hold``; None if nothing is."""
    wanted = hold.resources
    if not (
        0 <= wanted.cores < inf
        and 0 <= wanted.memory_gb < inf
        and 0 <= wanted.disk_gb < inf
        and 0 <= hold.mb_s < inf
    ):
        return "a hold needs amounts of 0 or more"
    return ttl_refusal(hold.ttl_s)


def deploy_refusal(deploy: Deploy, held: Held) -> str | None:
    """Return why ``held`` cannot become what ``deploy`` asks for; None if it can."""
    vnfd = deploy.vnfd
    if deploy.units < 1:
        return f"cannot deploy {deploy.units} units"
    if not (0 <= vnfd.image_mb < inf and 0 <= vnfd.boot_s < inf):
        return "a VNF needs an image size and a boot time of 0 or more"
    lacking = vnfd.scaled(deploy.units).lacking(held.hold.resources)
    if lacking is not None:
        return f"hold {deploy.hold} is too small: {lacking.replace('free', 'held')}"
    return ttl_refusal(deploy.ttl_s)


def observe_refusal(observe: Observe) -> str | None:
    """Return what is wrong with the figures of ``observe``; None if nothing is."""
    if (observe.link is None) == (observe.ip is None):
        return "an observation needs either a link or an address"
    if not 0 < observe.seconds < inf:
        return f"cannot observe for {observe.seconds:g} s"
    if not 0 < observe.sampling <= 1:
        return f"cannot sample a share of {observe.sampling:g}"
    if not 0 <= observe.part < observe.parts:
        return f"no part {observe.part} of {observe.parts}"
    return None


def ttl_refusal(ttl_s: float) -> str | None:
    """Return what is wrong with the length of a lease; None if nothing is."""
    return None if 0 < ttl_s < inf else f"a lease of {ttl_s:g} s is not possible"


Ready = Callable[[Instance], None]
Fail = Callable[[Instance, str, str], object]
"""Told the instance, the reason, and the event that caused the failure."""


class Downloads(Protocol):
    """Brings images from the repository and starts what is in them."""

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download and boot ``instance``, then call ``ready``, or ``fail`` on the way.

        Returns:
            Why there can be no download; None if it began.

        """

    def abort(self, instance: Instance) -> None:
        """End whatever there is of ``instance``: its download, its boot, what runs."""


class Measures(Protocol):
    """Keeps the measures of instances in force."""

    def lift_all(self, instance: Instance, reason: str, cause: str) -> None:
        """Lift what ``instance`` enforces."""

    def move(self, instance: Instance, to: Instance) -> None:
        """Hand the measures of one instance to another of the same PoP."""


class Observer(Protocol):
    """Carries out observations."""

    def lost(self, instance: Instance, reason: str) -> None:
        """Fail what ``instance`` was observing."""


Volume = tuple[float, float]
"""What a measure passed and held back, in MB."""


@dataclass(slots=True, eq=False)
class MeasureHits:
    """What a measure did since it was put in force."""

    total: Volume = (0.0, 0.0)
    read: Volume = (0.0, 0.0)
    """The last reading of the driver's counters, which begin anew where a rule is put again."""
    told: Volume = (0.0, 0.0)
    """The total as the log has it."""
    since: float = 0.0
    """When the measure was put in force, in seconds."""

    def take(self, reading: Volume) -> float:
        """Add what was counted since the last reading; return the MB that are not told yet."""
        pairs = zip(reading, self.read, strict=True)
        new = [now - then if now >= then else now for now, then in pairs]
        self.total = self.total[0] + new[0], self.total[1] + new[1]
        self.read = reading
        return sum(self.total) - sum(self.told)


class _InForce(Protocol):
    instance: Instance
    effect: str
    rule: TrafficRule
    reason: str
    hits: MeasureHits


def _told(name: str, measure: _InForce, now: float) -> RuleInForce:
    hits = measure.hits
    about = measure.instance.id, measure.effect, measure.rule, name, measure.reason
    return RuleInForce(*about, now - hits.since, None, *hits.total)


M = TypeVar("M", bound=_InForce)
ENDED_MEASURES = 256
"""Measures of a PoP that are remembered after their end."""
COUNT_S = 5.0
"""Pause between two ``measures.counted``, in seconds."""
MOST_COUNTED = 64
"""Measures of one such event: those that did most since it was told of them; others wait."""
LEAST_COUNTED_MB = 1e-3
"""A measure that did less since then is idle."""


class MeasureLedger(Generic[M]):
    """The measures in force; each belongs to an instance and ends with it.

    While there are any, what they passed and held back is recorded every ``COUNT_S`` seconds,
    as totals since each began, and a last time as one ends.

    Args:
        recorder: where events go.
        clock: when.
        cause: the event that is the root cause of the run.

    """

    def __init__(self, recorder: Recorder, clock: Clock, cause: str) -> None:
        self._recorder = recorder
        self._clock = clock
        self._root = cause
        self._counting: Timer | None = None
        self._measures: dict[str, M] = {}
        self._ended: dict[PopId, deque[tuple[float, str]]] = {}
        """When the latest measures ended, and what they made true."""
        self._began = clock.now()
        self.allow = AllowList()
        """Sources that no rule here blocks or limits, whatever agents ask for."""

    def names(self) -> list[str]:
        """Return the ids of all measures in force."""
        return sorted(self._measures)

    def rules(self, pop: PopId) -> RulesInForce:
        """Return the rules in force at ``pop``."""
        here = ((n, each) for n, each in self._measures.items() if each.instance.pop == pop)
        ended = self._ended.get(pop, deque())
        since = ended[0][0] if len(ended) == ENDED_MEASURES else self._began
        return RulesInForce(
            tuple(_told(name, measure, self._clock.now()) for name, measure in here),
            ended=tuple(dict.fromkeys(effect for _, effect in ended)),
            remembers_s=self._clock.now() - since,
        )

    def _admit(self, action: Enforce) -> Enforce | Failed:
        """Return what may be enforced of an action: what hits allowed sources leaves them out."""
        if problem := action.rule.match.source_problem():
            return Failed(problem, final=True)
        spared = self.allow.spare(action.rule)
        if spared is None:
            return Failed(f"all sources of {action.effect} are in the allow list", final=True)
        return action if spared is action.rule else replace(action, rule=spared)

    def lift(self, measure: str, pop: PopId, cause: str) -> Done:
        """Lift a measure of ``pop`` because its agent asks to."""
        found = self._at(measure, pop)
        return Done() if found is None else Done(self._end(measure, "lifted", cause))

    def lift_all(self, instance: Instance, reason: str, cause: str) -> None:
        """Lift what ``instance`` enforces; it has been told to end already."""
        for measure in list(instance.measures):
            self._end(measure, f"its instance ended: {reason}", cause, process_ends=True)

    def stop_counting(self) -> None:
        """Record no more of what measures pass and hold back."""
        if self._counting is not None:
            self._counting.cancel()
            self._counting = None

    def _keep(self, name: str, measure: M) -> None:
        """Note a measure, and count what it does."""
        measure.hits.since = self._clock.now()
        self._measures[name] = measure
        measure.instance.measures[name] = None
        self._count_later()

    def _count_later(self) -> None:
        if self._counting is None and self._measures:
            turns = floor((self._clock.now() - self._began) / COUNT_S) + 1
            self._counting = self._clock.call_at(self._began + turns * COUNT_S, self._count)

    def _count(self) -> None:
        self._counting = None
        self._read_counters()
        self._count_later()

    def _read_counters(self) -> None:
        """Read what all measures passed and held back; ``_record_hits`` is told, maybe later."""
        raise NotImplementedError

    def _record_hits(self, readings: Iterable[tuple[str, M, Volume]]) -> None:
        """Record what measures did, as far as they did anything since the last time."""
        told = [(measure.hits.take(volume), name, measure) for name, measure, volume in readings]
        told = [each for each in told if each[0] >= LEAST_COUNTED_MB]
        if not told:
            return
        figures = {}
        for _, name, measure in sorted(told, key=lambda each: each[:2])[-MOST_COUNTED:]:
            passed, held = measure.hits.told = measure.hits.total
            figures[name] = {"passed_mb": round(passed, 3), "held_mb": round(held, 3)}
        self._recorder.record("measures.counted", self._root, measures=figures)

    def _at(self, measure: str, pop: PopId) -> M | None:
        found = self._measures.get(measure)
        return found if found is not None and found.instance.pop == pop else None

    def _end(self, measure: str, reason: str, cause: str, *, process_ends: bool = False) -> str:
        ended = self._measures.pop(measure)
        del ended.instance.measures[measure]
        self._undo(measure, ended, process_ends=process_ends)
        pop, effect = ended.instance.pop, ended.effect
        lately = self._ended.setdefault(pop, deque(maxlen=ENDED_MEASURES))
        lately.append((self._clock.now(), effect))
        return self._recorder.record(
            "measure.lifted", cause, measure=measure, pop=pop, effect=effect, reason=reason
        )

    def _undo(self, name: str, measure: M, *, process_ends: bool = False) -> None:
        """Take the rule of a measure out of force."""
        raise NotImplementedError
