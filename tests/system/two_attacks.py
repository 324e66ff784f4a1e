"""The small network of ``process_plan`` with two hosts that are attacked at once."""

from __future__ import annotations

from typing import Any

from phalanx.domain.events import Event
from tests.system.process_plan import plan

ATTACKED = {"south": "10.0.0.10", "north": "10.0.0.20"}
"""The address of the host that is attacked, by the PoP that sees it."""


def two_attacks() -> dict[str, Any]:
    """Return the plan with a second host, in the north, that is attacked at the same time."""
    document = plan()
    document["hosts"].append(
        {"name": "till", "at": "north", "address": ATTACKED["north"], "bandwidth_mb_s": 6}
    )
    document["traffic"].append(
        document["traffic"][1] | {"name": "raiders", "at": ["south", "west"], "target": "till"}
    )
    document["monitors"].append({"link": "north>till", "at": "north", "threshold_mb_s": 4.5})
    return document


def alarm(event: Event) -> bool:
    """Whether an agent sees that a link is overused: what a mitigation begins with."""
    found = str(event.data.get("belief", "")).startswith("overUsage")
    return event.kind == "belief.changed" and found and event.data["value"] is True
