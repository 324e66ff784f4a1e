"""The log of the DDoS scenario (dissertation, sections 5.3 and 5.4), cut and widened as asked."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal

from msgspec import structs

from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario

SCENARIO = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"


@cache
def _run(strategy: Literal["service", "published"]) -> tuple[Event, ...]:
    scenario = structs.replace(load_scenario(SCENARIO), strategy=strategy)
    return tuple(run_scenario(scenario).events)


def ddos_log(
    pops: int = 6,
    *,
    until: float | None = None,
    positions: bool = True,
    strategy: Literal["service", "published"] = "published",
) -> list[Event]:
    """Return the log of the run.

    Args:
        pops: PoPs of its network; those beyond six take no part.
        until: breaks it off then, as a killed run would, in seconds.
        positions: whether it says where the PoPs stand.
        strategy: of the run.

    """
    first, *rest = _run(strategy)
    known = list(first.data["pops"])
    known += [known[at % 6] | {"name": f"pop{at + 1}"} for at in range(6, pops)]
    for at, pop in enumerate(known[6:], 6):
        pop |= {"x": math.cos(at * 2.4) * at, "y": math.sin(at * 2.4) * at}
    if not positions:
        known = [{k: v for k, v in pop.items() if k not in "xy"} for pop in known]
    links = list(first.data["links"])
    links += [
        links[at % 5] | {"a": f"pop{at + 1}", "b": f"pop{other + 1}"}
        for at in range(6, pops)
        for other in (at // 3, at - 3)[: 1 + (at % 4 == 0)]
    ]
    started = structs.replace(first, data=first.data | {"pops": known, "links": links})
    return [event for event in (started, *rest) if until is None or event.time <= until]
