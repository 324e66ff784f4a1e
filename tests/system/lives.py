"""What a log must show of agents that crash and go on, or leave: nothing twice, no gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import RunResult, System
from tests.published import load_published
from tests.system.process_log import Heard, allocated_twice, enforced_twice

RESILIENCE = load_published(Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml")


def restored(agent: str, at_s: float, for_s: float) -> FaultSpec:
    """Return the crash of an agent that goes on with its memory ``for_s`` later."""
    return FaultSpec(at_s, "crash", agent=agent, for_s=for_s, memory=True)


def noise(at_s: float, for_s: float, share: float) -> tuple[FaultSpec, ...]:
    """Return faults that lose and double messages."""
    return tuple(FaultSpec(at_s, k, share=share, for_s=for_s) for k in ("lose", "duplicate"))


def run(faults: Iterable[FaultSpec], scenario: Scenario = RESILIENCE) -> tuple[System, RunResult]:
    """Run with ``faults``; the books are checked every second."""
    system = System(replace(scenario, faults=tuple(faults)))
    result = system.run(on_progress=lambda _: system.infrastructure.check())
    system.infrastructure.check()
    return system, result


def heard(events: Sequence[Event]) -> list[Heard]:
    """Return events as a stream tells them that is never late."""
    return [Heard(event, event.time, 0) for event in events]


def doubled(events: Sequence[Event]) -> list[tuple[str, float]]:
    """Return what two VNFs were at work for, or made, at the same time, and for how long."""
    return allocated_twice(heard(events)) + enforced_twice(heard(events))


def gaps(events: Sequence[Event], since: float, until: float) -> list[tuple[str, float, float]]:
    """Return (effect, start, end) of limits that lapsed and were put into force again."""
    found = []
    in_force: dict[str, int] = defaultdict(int)
    lapsed: dict[str, float] = {}
    for event in events:
        if event.kind not in ("measure.applied", "measure.lifted"):
            continue
        effect = event.data["effect"]
        if effect.startswith("split"):
            continue
        if event.kind == "measure.lifted":
            in_force[effect] -= 1
            lapsed[effect] = event.time
            continue
        start = lapsed.get(effect)
        if not in_force[effect] and start is not None and since <= start <= until:
            found.append((effect, start, event.time))
        in_force[effect] += 1
    return found


def blocked(events: Sequence[Event]) -> set[str]:
    """Return the flows that were blocked."""
    effects = (e.data["effect"] for e in events if e.kind == "measure.applied")
    return {effect for effect in effects if effect.startswith("flowRateLimited")}


def left_behind(result: RunResult) -> list[str]:
    """Return the leases at the end; whatever watches links goes on watching."""
    return [x for x in result.events[-1].data["leases"] if not x.endswith("/link-monitor")]
