"""A small network under attack: four PoPs in a ring, a shop, a flood that lasts."""

from __future__ import annotations

from typing import Any

NETWORK = "network"
POPS = ("north", "east", "south", "west")
FIRST = ("south/installed1/link-monitor",)
"""What the plan installs has a lease of a minute, in which its agent may come."""
ATTACK_S = 2.0
"""When the flood begins, in seconds of the network's clock."""
LEASE_S = 2.0


def plan(**changes: Any) -> dict[str, Any]:
    """Return four PoPs in a ring, a shop in the south and a flood that lasts, as a scenario."""
    functions = ("link-monitor", "rate-limiter", "anomaly-detector", "classifier", "load-balancer")
    sizes = {"cores": 1, "memory_gb": 1, "disk_gb": 1, "image_mb": 2, "boot_s": 0.2}
    return {
        "name": "ring-of-processes",
        "duration_s": 3600,
        "network": {
            "repository": "north",
            "pops": [{"name": p, "cores": 4, "memory_gb": 8, "disk_gb": 200} for p in POPS],
            "links": [
                {"between": [a, b], "bandwidth_mb_s": 50, "latency_ms": ms}
                for a, b, ms in (
                    ("north", "east", 4),
                    ("east", "south", 5),
                    ("south", "west", 4),
                    ("west", "north", 6),
                )
            ],
        },
        "hosts": [{"name": "shop", "at": "south", "address": "10.0.0.10", "bandwidth_mb_s": 6}],
        "traffic": [
            {
                "name": "users",
                "profile": "http",
                "count": 6,
                "at": ["north", "east", "west"],
                "target": "shop",
                "port": 443,
                "demand_mb_s": 0.15,
            },
            {
                "name": "attackers",
                "profile": "syn-flood",
                "count": 2,
                "at": ["east", "west"],
                "target": "shop",
                "port": 443,
                "demand_mb_s": 4,
                "start_s": ATTACK_S,
            },
        ],
        "monitors": [{"link": "south>shop", "at": "south", "threshold_mb_s": 4.5}],
        "functions": dict.fromkeys(functions, sizes),
        "goals": {"default": {"preferences": {"time": 0.5, "cost": 0.2, "decentralisation": 0.3}}},
        "parameters": {
            "monitor_interval_s": 0.5,
            "analysis_s": 1,
            "classify_s": 1,
            "quiet_s": 600,
            "alarm_repeat_s": 3,
        },
        "timing": {
            "auction_deadline_s": 0.7,
            "idle_timeout_s": 30,
            "lease_s": LEASE_S,
            "heartbeat_s": 0.4,
            "silence_s": 1.6,
            "probe_s": 1.0,
            "gossip_s": 1.0,
            "drain_s": 8,
            "tick_s": 0.1,
            "sample_s": 1,
        },
    } | changes
