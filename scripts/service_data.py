"""Record labelled metrics of simulated services (docs/service-models.md says what is in them).

``python scripts/service_data.py --out DIR`` plays services on five simulated networks, each with a
load and users of its own, and writes ``DIR/<network>/<run>.csv``: what agents read of the service
each second. Nobody does anything about its troubles. Files that are there are kept.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from phalanx.analytics.datasets import NORMAL
from phalanx.analytics.metrics import MetricTable, write_table
from phalanx.analytics.model_detector import RTT_MS
from phalanx.analytics.service_rules import (
    FULL,
    HIGH_MEMORY,
    LOAD_STEP,
    NETWORK_DELAY,
    TRAFFIC_SPIKE,
)
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import ReadService, ServiceSample
from phalanx.domain.events import Recorder
from phalanx.domain.network import HostLimits, Network
from phalanx.domain.traffic import HTTP, HTTP_FLOOD, SLOW_HTTP, Profile, Shape, Source
from phalanx.domain.traffic import source_address as address
from phalanx.infrastructure.simulated import SimulatedNetwork

KINDS = (TRAFFIC_SPIKE, LOAD_STEP, FULL, NETWORK_DELAY, HIGH_MEMORY)
WORLDS = {
    "ddos-resilience": (0.30, "thinking"),
    "quickstart-ring": (0.20, "waves"),
    "plan-4": (0.40, "sessions"),
    "plan-11": (0.50, "bursts"),
    "plan-23": (0.25, "heavy"),
}
"""Each network's load, as a share of what its service can answer, and how its users behave."""
RUNS = 10
"""Of each network with troubles, and as many without."""
CALM_S, TROUBLE_S, REST_S = 150.0, (25.0, 70.0), (50.0, 80.0)
"""Until the first trouble, how long one lasts, and until the next."""
END_S = 480.0
MOST_OPEN = 512
"""Connections that a service serves at a time."""


def users(rng: random.Random, sort: str, pops: list[str], target: str) -> Iterator[Source]:
    """Yield who uses a service all the time: all together make about 150 requests/s."""
    count = 8 if sort == "heavy" else 60
    for n in range(1, count + 1):
        shape, start_s, end_s, more = Shape(), 2 * rng.random(), None, 1.0
        if sort == "thinking":
            shape, more = Shape(on_s=rng.uniform(4, 12), off_s=rng.uniform(2, 8)), 1.6
        elif sort == "waves":
            on, off = rng.uniform(60, 120), rng.uniform(10, 40)
            shape, start_s, more = Shape(ramp_s=40.0, on_s=on, off_s=off), 20 * rng.random(), 1.2
        elif sort == "sessions" and n > count // 2:
            start_s = rng.uniform(0, END_S)
            end_s, more = start_s + rng.uniform(60, 240), 2.0
        elif sort == "bursts" and rng.random() < 0.2:
            shape, more = Shape(on_s=rng.uniform(3, 6), off_s=rng.uniform(15, 40)), 2.0
        requests = more * 150 / count * rng.uniform(0.5, 1.5)
        yield source(f"user-{n}", rng.choice(pops), (1, n), target, requests, start_s, end_s, shape)


def source(
    name: str, at: str, number: tuple[int, int], target: str, requests_s: float,
    start_s: float, end_s: float | None, shape: Shape, profile: Profile = HTTP,
) -> Source:  # fmt: skip
    """Return what makes so many requests a second."""
    mb_s = requests_s * profile.packet_octets / profile.syn_share / 1e6
    return Source(
        name, name.rpartition("-")[0], at, address(*number), target, 443, profile, mb_s,
        start_s, end_s, shape,
    )  # fmt: skip


class Course:
    """What goes on in a run: who asks, and what goes wrong, one after the other."""

    def __init__(self, rng: random.Random, network: Network, name: str, kinds: list[str]) -> None:
        level, sort = WORLDS[name]
        level *= rng.uniform(0.85, 1.15)
        host = network.hosts[0]
        pops = [pop.name for pop in network.pops if pop.name != host.at]
        capacity = 150 / level
        limits = HostLimits(requests_s=capacity, connections=MOST_OPEN)
        hosts = (replace(host, limits=limits, bandwidth_mb_s=20.0), *network.hosts[1:])
        wide = tuple(replace(e, bandwidth_mb_s=e.bandwidth_mb_s + 50) for e in network.links)
        self.network, self.host = replace(network, hosts=hosts, links=wide), host
        self.sources = [*users(rng, sort, pops, host.address)]
        self.spans: list[tuple[str, float, float]] = []
        """Kinds of trouble, and from when to when in seconds."""
        self.leak = 0.0
        """Share of its memory that the service loses in a second."""
        self.slow: list[tuple[float, tuple[str, str, float, float, float]]] = []
        """When links get worse and well again, and how."""
        begin = CALM_S + 20 * rng.random()
        for group, kind in enumerate(kinds, 2):
            lasts = rng.uniform(*TROUBLE_S)
            shape, profile, count = Shape(), rng.choice([HTTP, HTTP_FLOOD]), rng.randint(10, 60)
            more = rng.uniform(0.95, 1.8) - level
            if kind == LOAD_STEP:
                profile, lasts = HTTP, lasts + 30
                shape = Shape(ramp_s=rng.uniform(0.5, 0.8) * lasts)
            if kind == NORMAL:  # a little more than usual, as it happens
                more, profile = min(0.6 - level, 0.5 * level), HTTP
                shape = Shape(ramp_s=rng.choice([0.0, 20.0]))
            if kind == FULL:
                more, profile, count = 0.02, SLOW_HTTP, rng.randint(5, 8)
            if kind == HIGH_MEMORY:
                lasts, self.leak, more = 75.0, rng.uniform(0.006, 0.0095), 0.0
            if kind == NETWORK_DELAY:
                link = rng.choice([e for e in wide if host.at in (e.a, e.b)])
                ms, more = 40 * 5 ** rng.random(), 0.0
                self.slow.append((begin, (link.a, link.b, 1.0, ms, 0.0)))
                self.slow.append((begin + lasts, (link.a, link.b, 1.0, 0.0, 0.0)))
            for n in range(1, count + 1 if more > 0 else 1):
                at = rng.choice(pops)
                start_s = begin + 3 * rng.random() * (profile is HTTP)
                self.sources.append(source(
                    f"more{group}-{n}", at, (group, n), host.address, more * capacity / count,
                    start_s, begin + lasts, shape, profile,
                ))  # fmt: skip
            self.spans.append((kind, begin, begin + lasts))
            begin += lasts + rng.uniform(*REST_S)


def simulate(network: Network, name: str, kinds: list[str], path: Path) -> str:
    """Play one run on virtual time; return what went on in it."""
    rng = random.Random(f"{name} {path.stem}")
    course = Course(rng, network, name, kinds)
    host, clock = course.host, VirtualClock()
    simulated = SimulatedNetwork(
        course.network, course.sources, clock, Recorder("network", lambda _: None, clock.now),
        seed=rng.randrange(2**31), cause="run-1",
    )  # fmt: skip
    for at, degraded in course.slow:
        clock.call_at(at, partial(simulated.degrade, *degraded))
    rows: list[dict[str, float]] = []

    def taken(sample: Any) -> None:
        assert isinstance(sample, ServiceSample)
        way = {RTT_MS: max((ms for _, ms in sample.entries.values()), default=0.0)}
        rows.append(sample.metrics | way)
        rows[-1].pop("restarts", None)  # a count, and part of no trouble here

    read = partial(simulated.perform, host.at, ReadService(host.address), "run-1", taken)
    times = np.arange(10.0, END_S)
    for at in times:
        clock.call_at(float(at), read)
    clock.run(until=END_S)
    simulated.shutdown()
    names = tuple(rows[0])
    values = np.array([[row[each] for each in names] for row in rows])
    labels = [next((k for k, s, e in course.spans if s <= t < e), NORMAL) for t in times]
    for kind, start, end in course.spans:
        inside = (times >= start) & (times < end)
        if kind == HIGH_MEMORY:  # as the simulated service leaks, but not from its start on
            leaked = course.leak * (times[inside] - start)
            values[inside, names.index("memory_share")] += leaked
        way = values[:, names.index(RTT_MS)]
        if kind == NETWORK_DELAY and way[inside].max() < 1.2 * np.median(way):
            labels = [NORMAL if i else label for i, label in zip(inside, labels, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(MetricTable(times, names, values, tuple(labels)), path)
    return ", ".join(f"{kind} from {start:.0f} s" for kind, start, _ in course.spans) or NORMAL


def runs_of(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of a network's runs, and what goes on in each, one after the other."""
    rng = random.Random(name)
    for number in range(1, RUNS + 1):
        yield f"normal-{number:02d}", []
        yield f"trouble-{number:02d}", rng.sample([*KINDS, NORMAL], 3)


def main() -> None:
    """Make the data."""
    from flow_data import networks  # noqa: PLC0415 - beside this file, if it is run as a script

    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, required=True, help="folder of the data set")
    given = options.parse_args()
    for network, plan in networks().items():
        for name, kinds in runs_of(network):
            path = given.out / network / f"{name}.csv"
            if not path.exists():
                print(f"{network}/{name}: {simulate(plan, network, kinds, path)}", flush=True)


if __name__ == "__main__":
    main()
