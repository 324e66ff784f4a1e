"""Runs of one scenario, with and without a defence, and how its users fare in each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import inf
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.events import Event, Sink
from phalanx.domain.traffic import PROFILES
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.reporting.traffic import Traffic, judge
from phalanx.runtime.course import RunResult
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System

WINDOW_S = 5
"""Length in seconds of the windows in which a defence is compared with none."""
GRACE_S = 5
"""Seconds from the start of an attack in which it may be below it."""
TOLERANCE = 0.01
"""A share of the service that counts as no difference."""
SERVED = 0.9
"""Share of the oracle's service from which users count as served."""
STEADY_S = 10
"""Seconds for which they must be."""
Span: TypeAlias = tuple[float, float]


def without_defence(plan: Scenario) -> Scenario:
    """Return the plan with agents that watch nothing, and so do nothing."""
    return replace(plan, monitors=())


def published(plan: Scenario) -> Scenario:
    """Return the plan with the strategy of the dissertation."""
    return replace(plan, strategy="published")


def phalanx(plan: Scenario) -> Scenario:
    """Return the plan with the strategy that puts the users' service first."""
    return replace(plan, strategy="service")


def oracle(plan: Scenario) -> Scenario:
    """Return the plan as it is for an oracle, which knows each attacker by its label.

    It blocks the source at its entry at the instant at which it begins, so that nothing of the
    attack enters the network; faults happen as ever.
    """
    honest = (group for group in plan.traffic if not PROFILES[group.profile].malicious)
    return without_defence(replace(plan, traffic=tuple(honest)))


ARMS: dict[str, Callable[[Scenario], Scenario]] = {
    "none": without_defence,
    "published": published,
    "phalanx": phalanx,
    "oracle": oracle,
}
"""What defends a scenario, by name. Sources that two of them share are the same in both."""


class Trace(Struct, frozen=True):
    """What honest users wanted and got in a run, in MB/s by host, a figure a second."""

    times: tuple[float, ...]
    """When each second ended."""
    got: dict[str, tuple[float, ...]]
    wanted: dict[str, tuple[float, ...]]
    denied: tuple[float, ...]
    """What measures kept from users, in MB/s over all hosts."""
    defects: tuple[str, ...]
    verdict: str
    """What is said of the attack at the end."""
    mitigated_s: float | None
    """From when on it was held off, in seconds; None: it was not."""

    def rows(self, hosts: Sequence[str] = ()) -> list[tuple[float, float, float]]:
        """Return (time, got, wanted) of each second, summed over ``hosts`` or over all."""
        chosen = hosts or list(self.got)
        return [
            (time, sum(self.got[h][i] for h in chosen), sum(self.wanted[h][i] for h in chosen))
            for i, time in enumerate(self.times)
        ]


def attack_span(plan: Scenario) -> Span:
    """Return when malicious sources begin and end; without any, when the crowd does.

    With neither it is the whole run.
    """
    groups = [g for g in plan.traffic if PROFILES[g.profile].malicious] or [
        g for g in plan.traffic if g.name == "crowd"
    ]
    ends = [plan.duration_s if g.end_s is None else g.end_s for g in groups]
    return min((g.start_s for g in groups), default=0.0), max(ends, default=plan.duration_s)


def run_arm(plan: Scenario, arm: str, sinks: Sequence[Sink] = ()) -> Trace:
    """Run a scenario on virtual time with one of ``ARMS``, and return how users fared."""
    plan = ARMS[arm](replace(plan, timing=replace(plan.timing, sample_s=1.0)))
    system = System(plan, sinks=sinks)
    network = system.infrastructure
    assert isinstance(network, SimulatedNetwork)
    denied: list[float] = []
    result = system.run(on_progress=lambda _: denied.append(sum(network.denied_mb_s().values())))
    return _trace(plan, result, denied)


def _trace(plan: Scenario, result: RunResult, denied: list[float]) -> Trace:
    samples = [event for event in result.events if event.kind == "network.sample"]
    outcome = judge(_traffic(result.events), plan.duration_s)

    def column(field: str) -> dict[str, tuple[float, ...]]:
        return {
            host.name: tuple(sample.data["hosts"][host.name][field] for sample in samples)
            for host in plan.hosts
        }

    return Trace(
        tuple(sample.time for sample in samples),
        column("legitimate_mb_s"),
        column("wanted_mb_s"),
        tuple(denied[: len(samples)]),
        result.defects,
        outcome.sentence,
        outcome.mitigated_s,
    )


def _traffic(events: Iterable[Event]) -> Traffic:
    traffic = Traffic()
    for event in events:
        traffic.add(event)
    return traffic


class Figures(Struct, frozen=True):
    """How one case ended; shares are of what users wanted, 0 to 1."""

    service: dict[str, float]
    """Share that users got during the attack, by what defended them."""
    worst_1_s: float
    """The least difference between Phalanx and no defence in a second after the first five."""
    worst_5_s: float
    """The same in windows of five seconds, in the whole run."""
    served_after_s: float
    """From when on users had 90 % of the oracle's service for ten seconds; infinite: never."""
    denied: float
    """Share of honest traffic that Phalanx's measures dropped, over the whole run."""
    violations: tuple[str, ...]
    """Where Phalanx was worse than no defence, or a function has a defect."""
    mitigated: bool
    verdict: str
    """What Phalanx's report says of the attack."""

    @property
    def of_oracle(self) -> float:
        """Phalanx's service relative to the oracle's."""
        best = self.service["oracle"]
        return self.service["phalanx"] / best if best else 1.0


def figures(plan: Scenario, traces: dict[str, Trace]) -> Figures:
    """Return what the runs of one scenario with all ``ARMS`` come to."""
    span = attack_span(plan)
    ours, none = traces["phalanx"], traces["none"]
    service = {arm: _share(_during(trace.rows(), span)) for arm, trace in traces.items()}
    found = [f"defect: {defect}" for defect in ours.defects]
    found += _harm(ours, none, span, ()) or [
        reason for host in plan.hosts for reason in _harm(ours, none, span, (host.name,))
    ]
    denied = _share([(t, d, w) for d, (t, _, w) in zip(ours.denied, ours.rows(), strict=False)])
    if denied > TOLERANCE and not any(PROFILES[g.profile].malicious for g in plan.traffic):
        found.append(f"measures dropped {denied:.1%} of honest traffic though nobody attacked")
    differences = _differences(ours.rows(), none.rows(), span, 1)
    return Figures(
        service,
        min((d for t, d, _, _ in differences if t <= span[1]), default=0.0),
        min(
            (d for _, d, _, _ in _differences(ours.rows(), none.rows(), span, WINDOW_S)),
            default=0.0,
        ),
        _served_after(ours.rows(), traces["oracle"].rows(), span),
        denied,
        tuple(found),
        ours.mitigated_s is not None,
        ours.verdict,
    )


def _during(rows: list[tuple[float, float, float]], span: Span) -> list[tuple[float, float, float]]:
    return [row for row in rows if span[0] < row[0] <= span[1]]


def _share(rows: Sequence[tuple[float, float, float]]) -> float:
    """Return what was got of what was wanted, over all seconds."""
    wanted = sum(row[2] for row in rows)
    return sum(row[1] for row in rows) / wanted if wanted else 0.0


def _differences(
    ours: list[tuple[float, float, float]],
    none: list[tuple[float, float, float]],
    span: Span,
    seconds: int,
) -> list[tuple[float, float, float, float]]:
    """Return (end, difference, share, share without defence) of each window of so many seconds.

    Windows that overlap the first ``GRACE_S`` of the attack are left out, and those in which
    nobody wants anything. Who starved and catches up gets more than is wanted now: that is no
    service which the others lack.
    """
    sums = [
        [0.0, *accumulate(column)]
        for column in ((r[1] for r in ours), (r[1] for r in none), (r[2] for r in none))
    ]
    found = []
    for first in range(len(none) - seconds + 1):
        last = first + seconds
        end = none[last - 1][0]
        if end > span[0] and end - seconds < span[0] + GRACE_S:
            continue
        got, had, wanted = (column[last] - column[first] for column in sums)
        if wanted > 0:
            had = min(had, wanted)
            found.append((end, (got - had) / wanted, got / wanted, had / wanted))
    return found


def _harm(ours: Trace, none: Trace, span: Span, hosts: Sequence[str]) -> list[str]:
    """Return in one line where ``hosts`` (none: all) had worse service than without defence."""
    windows = _differences(ours.rows(hosts), none.rows(hosts), span, WINDOW_S)
    worse = [window for window in windows if window[1] < -TOLERANCE]
    if not worse:
        return []
    end, _, share, without = min(worse, key=lambda window: window[1])
    whose = f"users of {hosts[0]}" if hosts else "users"
    return [
        f"{whose} below no defence in {len(worse)} windows from {worse[0][0] - WINDOW_S:g} s; "
        f"worst at {end - WINDOW_S:g} s: {share:.0%}, {without:.0%} without"
    ]


def _served_after(
    ours: list[tuple[float, float, float]], best: list[tuple[float, float, float]], span: Span
) -> float:
    """Return how long after its start users had 90 % of the oracle's service for 10 s."""
    steady = 0
    for (time, got, _), (_, possible, _) in zip(ours, best, strict=True):
        if span[0] < time <= span[1]:
            steady = steady + 1 if got >= SERVED * possible else 0
            if steady == STEADY_S:
                return time - STEADY_S - span[0]
    return inf
