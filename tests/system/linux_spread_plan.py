"""A small testbed under attack: three PoPs in a ring, a web server, four who flood it."""

from __future__ import annotations

from typing import Any

from tests.system.rings import FUNCTIONS, attack, pop, users

KEEPER = "middle"
"""Its bids win: the images are there, and the traffic passes it."""
ATTACKERS = 4
CRASH_S = 7.0
LEASE_S = 2.0


def plan(**changes: Any) -> dict[str, Any]:
    """Return a flood from second 3 to 9 of a run of 17 seconds, as a scenario."""
    sizes = {"cores": 1, "memory_gb": 1, "disk_gb": 1, "image_mb": 1, "boot_s": 0}
    there = {"target": "server", "port": 8000, "at": ["far", "middle"]}
    return {
        "name": "small-testbed",
        "duration_s": 17,
        "network": {
            "repository": KEEPER,
            "pops": [pop(name) for name in ("far", KEEPER, "near")],
            "links": [
                {"between": ends, "bandwidth_mb_s": mb_s, "latency_ms": 0.2}
                for ends, mb_s in (
                    (["far", "middle"], 10),
                    (["middle", "near"], 10),
                    (["near", "far"], 4),
                )
            ],
        },
        "hosts": [{"name": "server", "at": "near", "address": "10.0.3.10", "bandwidth_mb_s": 0.3}],
        "traffic": [
            users(count=8, demand_mb_s=0.01, **there),
            attack(3, 9, count=ATTACKERS, demand_mb_s=0.135, **there),
        ],
        "strategy": "published",
        "monitors": [{"link": "near>server", "at": "near", "threshold_mb_s": 0.18}],
        "functions": {name: {**sizes, "handles_mb_s": 6} for name in FUNCTIONS},
        "goals": {"default": {"preferences": {"time": 0.5, "cost": 0.4, "decentralisation": 0.1}}},
        "parameters": {
            "link_rate_mb_s": 0.15,
            "ip_rate_mb_s": 0.08,
            "monitor_interval_s": 0.1,
            "analysis_s": 0.6,
            "classify_s": 0.6,
            "eager": 1,
            "verdict_valid_s": 2,
            "alarm_repeat_s": 1,
            "quiet_s": 1,
            "quiet_interval_s": 0.5,
        },
        "timing": {
            "auction_deadline_s": 0.3,
            "lease_s": LEASE_S,
            "idle_timeout_s": 1,
            "heartbeat_s": 0.5,
            "silence_s": 2,
            "sample_s": 0.2,
        },
    } | changes
