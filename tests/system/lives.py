"""What a log must show of agents that crash and go on, or leave: nothing twice, no gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import RunResult, System

RESILIENCE = load_scenario(Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml")


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


def paid_twice(events: Sequence[Event]) -> list[tuple[float, str, Any]]:
    """Return when two VNFs were at work for the same goal."""
    at_work: dict[str, dict[str, str]] = defaultdict(dict)
    found = []
    for event in events:
        data = event.data
        if event.kind == "contract.accepted":
            contracts = at_work[data["goal"]]
            contracts[data["auction"]] = data["instance"]
            if len(contracts) > 1:
                found.append((event.time, data["goal"], dict(contracts)))
        elif event.kind == "contract.ended":
            at_work[data["goal"]].pop(data["auction"], None)
        elif event.kind == "instance.stopped":
            for contracts in at_work.values():
                for auction, instance in list(contracts.items()):
                    if instance == data["instance"]:
                        del contracts[auction]
    return found


def enforced_twice(events: Sequence[Event]) -> list[tuple[float, str]]:
    """Return when the same effect was made twice."""
    found = []
    in_force: dict[str, int] = defaultdict(int)
    for event in events:
        if event.kind in ("measure.applied", "measure.lifted"):
            effect = event.data["effect"]
            in_force[effect] += 1 if event.kind == "measure.applied" else -1
            if in_force[effect] > 1:
                found.append((event.time, effect))
    return found


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
