"""Random scenarios and random fault plans, all drawn from one seed."""

from __future__ import annotations

import random

import msgspec
from msgspec.structs import replace

from phalanx.runtime.scenario import Scenario

ATTACK_ENDS_S = 60.0
FAULTS_END_S = 90.0
DURATION_S = 420.0
LATE_ATTACK_ENDS_S = 220.0


def random_plan(seed: int) -> Scenario:
    """Return a scenario of 2 to 8 PoPs under attack, with up to 6 faults on top."""
    rng = random.Random(seed)
    count = rng.randint(2, 8)
    pops = [f"pop{i}" for i in range(1, count + 1)]
    pairs = {tuple(sorted((pops[i], rng.choice(pops[:i])))) for i in range(1, count)}
    for _ in range(rng.randint(0, count)):
        pairs.add(tuple(sorted(rng.sample(pops, 2))))
    links = sorted(pairs)
    server = rng.choice(pops)
    capacity = rng.choice([2.0, 6.0, 10.0])
    attackers = rng.randint(0, 8)
    document = {
        "name": "random-plan",
        "duration_s": DURATION_S,
        "seed": seed,
        "network": {
            "repository": rng.choice(pops),
            "default_link_loss": rng.choice([0.0, 0.005, 0.025]),
            "pops": [
                {
                    "name": pop,
                    "cores": rng.randint(1, 8),
                    "memory_gb": rng.randint(2, 12),
                    "disk_gb": rng.choice([20, 100, 1000]),
                }
                for pop in pops
            ],
            "links": [
                {
                    "between": list(pair),
                    "bandwidth_mb_s": rng.choice([3, 5, 10, 20]),
                    "latency_ms": rng.uniform(1, 30),
                }
                for pair in links
            ],
        },
        "hosts": [
            {"name": "server", "at": server, "address": "10.0.0.10", "bandwidth_mb_s": capacity}
        ],
        "traffic": [
            {
                "name": "users",
                "profile": rng.choice(["http", "video"]),
                "count": rng.randint(1, 20),
                "at": pops,
                "target": "server",
                "port": 80,
                "demand_mb_s": rng.uniform(0.005, 0.05),
            },
            *(
                [
                    {
                        "name": "attackers",
                        "profile": rng.choice(["syn-flood", "syn-flood", "udp-flood"]),
                        "count": attackers,
                        "at": rng.sample(pops, rng.randint(1, count)),
                        "target": "server",
                        "port": 80,
                        "demand_mb_s": rng.uniform(0.2, 2.0),
                        "start_s": rng.uniform(5, 20),
                        "end_s": ATTACK_ENDS_S,
                    }
                ]
                if attackers
                else []
            ),
        ],
        "strategy": "published",
        "monitors": [{"link": f"{server}>server", "at": server, "threshold_mb_s": 0.75 * capacity}],
        "functions": {
            name: {"image_mb": rng.choice([1, 10, 40]), "boot_s": rng.uniform(0, 2)}
            for name in (
                "link-monitor",
                "rate-limiter",
                "anomaly-detector",
                "classifier",
                "classifier-lite",
                "load-balancer",
            )
        },
        "goals": {
            "default": {
                "preferences": rng.choice(
                    [
                        {"time": 0.8, "cost": 0.1, "decentralisation": 0.1},
                        {"time": 0.0, "cost": 0.2, "decentralisation": 0.8},
                        {"time": 0.3, "cost": 0.7, "decentralisation": 0.0},
                    ]
                ),
                "constraints": rng.choice([{}, {"latency_ms": 60}, {"loss": 0.08, "hops": 4}]),
            }
        },
        "parameters": {
            "link_rate_mb_s": 0.6 * capacity,
            "ip_rate_mb_s": 0.3 * capacity,
            "analysis_s": 4,
            "classify_s": 4,
            "quiet_s": 6,
        },
        "timing": {"idle_timeout_s": 15, "lease_s": 9, "tick_s": 0.2, "sample_s": 10},
        "bidding": rng.choice(["exact", "published"]),
        "faults": [_fault(rng, pops, links) for _ in range(rng.randint(0, 6))],
    }
    return msgspec.convert(document, Scenario)


def service_plan(seed: int) -> Scenario:
    """Return the same with the service strategy, and an attack that outlasts all faults."""
    plan = random_plan(seed)
    traffic = [
        replace(group, end_s=LATE_ATTACK_ENDS_S) if group.name == "attackers" else group
        for group in plan.traffic
    ]
    return replace(
        plan,
        strategy="service",
        traffic=tuple(traffic),
        duration_s=LATE_ATTACK_ENDS_S,
        timing=replace(plan.timing, sample_s=1.0),
    )


def _fault(rng: random.Random, pops: list[str], links: list[tuple[str, str]]) -> dict[str, object]:
    at_s = round(rng.uniform(0, 60), 3)
    for_s = round(rng.uniform(0.5, FAULTS_END_S - at_s), 3)
    kind = rng.choice(
        ["crash", "crash", "link-down", "repository-away", "lose", "duplicate", "delay", "reorder"]
    )
    fault: dict[str, object] = {"at_s": at_s, "kind": kind}
    if kind != "crash" or rng.random() < 0.5:
        fault["for_s"] = for_s
    if kind == "crash":
        fault["agent"] = rng.choice(pops)
    elif kind == "link-down":
        fault["link"] = list(rng.choice(links))
    elif kind in ("lose", "duplicate", "delay", "reorder"):
        fault["share"] = rng.choice([0.05, 0.3, 1.0])
        if rng.random() < 0.3:
            fault["agent"] = rng.choice(pops)
    return fault
