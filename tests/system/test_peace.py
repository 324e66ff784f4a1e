"""Plans without an attack: whatever users do by chance, and whatever comes, nobody is blamed."""

import random

import pytest

from phalanx.checking.plans import ATTACKS, Document, random_plan
from phalanx.cli.fuzz import run_plan
from tests.nightly import sample

ONCE_BLAMED = (7, 9, 21, 23, 27, 45, 56, 61, 73, 75, 91, 92, 106, 1014, 1057, 1061, 1104, 1116)
"""Numbers of plans in which a feed was blocked: it came as users got less by chance."""
OF_LINKS = ("link-down", "degrade")
"""Faults that take from users what they ask for."""
ASKED_MB_S = (0.0002, 0.0005, 0.001, 0.003, 0.01, 0.05, 0.2)
PLENTY = {"packets_s": 1_000_000, "connections": 100_000, "backlog": 10_000}


def peaceful(number: int) -> Document:
    """Return a random plan in which feeds come that nobody answers, and that fit."""
    plan, rng = random_plan(number), random.Random(f"peace/{number}")
    plan |= {"strategy": "service", "duration_s": 200.0}
    for name in ("edge-filter", "service-monitor"):
        plan["functions"].setdefault(name, {"image_mb": 0.2, "boot_s": 0.1})
    for host in plan["hosts"]:
        host["limits"] = PLENTY
    for monitor in plan["monitors"]:
        monitor.pop("service", None)
    users = [g for g in plan["traffic"] if g["profile"] not in ATTACKS and g["name"] != "crowd"]
    least_mb_s = min(each["bandwidth_mb_s"] for each in plan["network"]["links"] + plan["hosts"])
    for group in users:
        group["profile"] = rng.choice(["dns", "http", "http", "video"])
        group["port"] = 53 if group["profile"] == "dns" else 80
        group["count"] = count = rng.choice([1, 2, 3, 5, 10, 30, 100])
        most_mb_s = 0.5 * least_mb_s / len(users) / count
        group["demand_mb_s"] = round(min(rng.choice(ASKED_MB_S), most_mb_s), 5)
        group.pop("spread_s", None)
        group.pop("end_s", None)
        if rng.random() < 0.4:
            group["jitter"] = rng.choice([0.2, 0.5, 0.9])
    feeds = []
    for feed in range(rng.randint(1, 3)):
        mb_s, count = rng.choice([0.02, 0.05, 0.1]) * least_mb_s, rng.choice([1, 2, 5])
        feeds.append(
            {
                "name": f"feed{feed}",
                "profile": rng.choice(["udp-flood", "udp-fragments"]),
                "count": count,
                "at": [rng.choice([pop["name"] for pop in plan["network"]["pops"]])],
                "target": rng.choice(plan["hosts"])["name"],
                "port": 9999,
                "demand_mb_s": round(mb_s / count, 5),
                "start_s": round(rng.uniform(0, 120), 2),
                "end_s": 200.0,
            }
        )
    plan["traffic"] = users + feeds
    plan["faults"] = [f for f in plan.get("faults", ()) if f["kind"] not in OF_LINKS]
    return {name: what for name, what in plan.items() if name not in ("allow", "mode", "trust")}


@pytest.mark.parametrize("number", sample(ONCE_BLAMED[::-1], 18))
def test_a_feed_that_comes_is_not_blamed_for_what_chance_does(number: int) -> None:
    events = run_plan(peaceful(number)).events
    assert not [e.data["effect"] for e in events if e.kind == "measure.applied"]
