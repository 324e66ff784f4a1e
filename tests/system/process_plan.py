"""A small network under attack: four PoPs in a ring, a shop, a flood that lasts."""

from __future__ import annotations

from typing import Any

from tests.system.rings import FUNCTIONS, POPS, attack, document, users

__all__ = ["ATTACK_S", "FIRST", "LEASE_S", "NETWORK", "POPS", "plan"]

NETWORK = "network"
FIRST = ("south/installed1/link-monitor",)
"""What the plan installs has a lease of a minute, in which its agent may come."""
ATTACK_S = 2.0
"""When the flood begins, in seconds of the network's clock."""
LEASE_S = 2.0


def plan(**changes: Any) -> dict[str, Any]:
    """Return the ring with a flood that lasts, and times in which tests need not wait long."""
    sizes = {"cores": 1, "memory_gb": 1, "disk_gb": 1, "image_mb": 2, "boot_s": 0.2}
    return (
        document(
            name="ring-of-processes",
            duration_s=3600,
            traffic=[users(count=6, demand_mb_s=0.15), attack(ATTACK_S, None, demand_mb_s=4)],
            functions=dict.fromkeys(FUNCTIONS, sizes),
            goals={"default": {"preferences": {"time": 0.5, "cost": 0.2, "decentralisation": 0.3}}},
            parameters={
                "monitor_interval_s": 0.5,
                "analysis_s": 1,
                "classify_s": 1,
                "quiet_s": 600,
                "alarm_repeat_s": 3,
            },
            timing={
                "auction_deadline_s": 0.7,
                "lease_s": LEASE_S,
                "heartbeat_s": 0.4,
                "silence_s": 1.6,
                "probe_s": 1.0,
                "gossip_s": 1.0,
                "drain_s": 8,
                "tick_s": 0.1,
            },
        )
        | changes
    )
