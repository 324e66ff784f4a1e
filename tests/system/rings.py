"""A ring of four PoPs, one server, users and attackers: small scenarios for single questions."""

from __future__ import annotations

from typing import Any

import msgspec

from phalanx.runtime.scenario import Scenario

SERVER = "10.0.0.10"
USERS_MB_S = 1.0
POPS = ("north", "east", "south", "west")
FUNCTIONS = ("link-monitor", "rate-limiter", "anomaly-detector", "classifier", "load-balancer")
PREFERENCES = {"time": 0.6, "cost": 0.3, "decentralisation": 0.1}


def pop(name: str, cores: float = 4, memory_gb: float = 8) -> dict[str, Any]:
    return {"name": name, "cores": cores, "memory_gb": memory_gb, "disk_gb": 200}


def crash(agent: str, at_s: float, for_s: float | None = None) -> dict[str, Any]:
    return {"at_s": at_s, "kind": "crash", "agent": agent, "for_s": for_s}


def attack(start_s: float = 10, end_s: float | None = 130, **changes: Any) -> dict[str, Any]:
    return {
        "name": "attackers",
        "profile": "syn-flood",
        "count": 2,
        "at": ["east", "west"],
        "target": "shop",
        "port": 443,
        "demand_mb_s": 3,
        "start_s": start_s,
        "end_s": end_s,
        **changes,
    }


def users(**changes: Any) -> dict[str, Any]:
    return {
        "name": "users",
        "profile": "http",
        "count": 10,
        "at": ["north", "east", "west"],
        "target": "shop",
        "port": 443,
        "demand_mb_s": USERS_MB_S / 10,
        **changes,
    }


def document(**changes: Any) -> dict[str, Any]:
    """Return the scenario as a file has it, with whole sections replaced by ``changes``.

    ``pops`` stands for the section of that name in ``network``; ``timing`` and ``functions``
    are merged into what is there.
    """
    timing = {"idle_timeout_s": 30, "lease_s": 9, "tick_s": 0.2, "sample_s": 1}
    return {
        "name": "ring",
        "duration_s": 240,
        "network": {
            "repository": "north",
            "pops": changes.pop("pops", [pop(n) for n in POPS]),
            "links": [
                {"between": [a, b], "bandwidth_mb_s": 50, "latency_ms": ms}
                for a, b, ms in zip(POPS, (*POPS[1:], POPS[0]), (4, 5, 4, 6), strict=True)
            ],
        },
        "hosts": [{"name": "shop", "at": "south", "address": SERVER, "bandwidth_mb_s": 6}],
        "traffic": [users(), attack()],
        "strategy": "published",
        "monitors": [{"link": "south>shop", "at": "south", "threshold_mb_s": 4.5}],
        "functions": {f: {"image_mb": 50} for f in FUNCTIONS} | changes.pop("functions", {}),
        "goals": {"default": {"preferences": PREFERENCES}},
        "parameters": {"analysis_s": 4, "classify_s": 4, "quiet_s": 10},
        "timing": timing | changes.pop("timing", {}),
        **changes,
    }


def ring(**changes: Any) -> Scenario:
    """Return the scenario of ``document``."""
    return msgspec.convert(document(**changes), Scenario)


def of(result: Any, kind: str, **data: Any) -> list[Any]:
    """Return the events of ``kind`` whose data has the given values."""
    return [
        e
        for e in result.events
        if e.kind == kind and all(e.data.get(name) == value for name, value in data.items())
    ]


def about(result: Any, kind: str, field: str, start: str) -> list[Any]:
    """Return the events of ``kind`` whose ``field`` begins with ``start``."""
    return [e for e in of(result, kind) if e.data.get(field, "").startswith(start)]


def arriving(result: Any, which: str, start: float, end: float) -> list[float]:
    """Return the samples of traffic that reached the shop, in MB/s."""
    return [
        e.data["hosts"]["shop"][f"{which}_mb_s"]
        for e in of(result, "network.sample")
        if start < e.time < end
    ]


def causes(result: Any, event: Any) -> list[Any]:
    """Return what led to ``event``, the nearest first."""
    known = {e.id: e for e in result.events}
    chain = []
    while event.cause is not None:
        event = known[event.cause]
        chain.append(event)
    return chain
