"""Record labelled flows for verdicts that learn (docs/flow-models.md says what is in them).

``python -m scripts.flow_data --out DIR`` plays attacks of nine families, and honest traffic that
is like one, on simulated networks, and writes what a recorder at the server's PoP counts of each
source: ``DIR/<network>/<run>.csv``. With ``--on linux`` networks are namespaces, and packets real:
that needs root, and a quarter of an hour. Files that are there are kept.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from phalanx.analytics.flow_models import COLUMNS, rows_of
from phalanx.checking.plans import random_plan
from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import FlowRecords, FlowStats, Observe
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.series import TrafficWindow
from phalanx.domain.traffic import (
    ACK_FLOOD,
    DNS_REFLECTION,
    HTTP,
    NTP_REFLECTION,
    PROFILES,
    SLOW_HTTP,
    SYN_ACK_FLOOD,
    UDP_FLOOD,
    VIDEO,
    Profile,
    Source,
    source_address,
)
from phalanx.domain.traffic import SYN_FLOOD as SYNS
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.vnf.observations import Observations
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.testrange import Testbed, Workload
from phalanx.testrange.processes import NamespaceProcess, end

FAMILIES = {
    "syn flood": SYNS,
    "forged syn flood": replace(SYNS, spoofed=True),
    "udp flood": UDP_FLOOD,
    "forged udp flood": replace(UDP_FLOOD, spoofed=True),
    "ack flood": ACK_FLOOD,
    "syn-ack flood": SYN_ACK_FLOOD,
    "reflection": DNS_REFLECTION,
    "slow http": SLOW_HTTP,
    "http flood": replace(HTTP, name="http-flood", responsive=False, malicious=True),
}
STRENGTHS = {"strong": (200.0, 1500.0, 4, 10), "weak": (4.0, 60.0, 10, 30)}
"""Least and most packets a second of an attacker, fewest and most attackers."""
WINDOWS_S = (0.5, 1.0, 2.0, 4.0)
"""Agents look for so long: all lengths in turn."""
BEGIN_S, END_S = 3.0, 18.0
"""Of an attack; a run ends with it."""
MOST_ROWS = 40
"""Of one label in one window that are kept, drawn at random."""
TRAFFIC = Path(__file__).with_name("flow_traffic.py")

HONEST = {
    "users": HTTP,
    "viewers": VIDEO,
    "bulk download": replace(VIDEO, packet_octets=66.0, syn_share=0.0005, reply_share=1.6),
    "bulk upload": replace(VIDEO, packet_octets=1400.0, syn_share=0.0005, reply_share=0.5),
    "proxy": replace(HTTP, connections=40),
    "calls": replace(UDP_FLOOD, packet_octets=200.0, reply_share=1.0, malicious=False),
    "reports": replace(UDP_FLOOD, packet_octets=400.0, malicious=False),
    "resolver": replace(
        UDP_FLOOD, packet_octets=200.0, reply_share=1.0, source_port=53, malicious=False
    ),
}
"""Honest traffic of the simulated networks: users, and what looks like an attack to one figure or
another. Of a crowd, all is as of users."""
HONEST_S = {
    "users": (40.0, 150.0, 12, 30),
    "viewers": (30.0, 80.0, 3, 10),
    "bulk download": (400.0, 900.0, 1, 3),
    "bulk upload": (200.0, 500.0, 1, 2),
    "proxy": (200.0, 800.0, 1, 3),
    "calls": (30.0, 400.0, 2, 6),
    "reports": (5.0, 150.0, 2, 6),
    "resolver": (5.0, 60.0, 1, 2),
}
"""Least and most packets a second of each, fewest and most sources."""


class Writer:
    """Writes what recorders have seen of one run."""

    def __init__(self, path: Path, labels: dict[str, str], forged: str, seed: str) -> None:
        self._path, self._labels, self._forged = path, labels, forged
        self._rng = random.Random(f"{seed} rows")
        self._rows: list[tuple[Any, ...]] = []

    def add(self, records: FlowRecords, seconds: float) -> None:
        """Keep a window: of each label some rows."""
        window = TrafficWindow(seconds, (), records.flows, records.unlisted)
        found: dict[str, list[tuple[Any, ...]]] = {}
        for source, row in rows_of(window):
            label = self._labels.get(source, self._forged)
            if label:
                found.setdefault(label, []).append((label, *row))
        for rows in found.values():
            self._rows += rows if len(rows) <= MOST_ROWS else self._rng.sample(rows, MOST_ROWS)

    def close(self) -> str:
        """Write the file; return what is in it, as half a line."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        with new.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("label", *COLUMNS))
            writer.writerows(self._rows)
        new.replace(self._path)
        count = Counter(row[0] for row in self._rows)
        return ", ".join(f"{n} {label}" for label, n in sorted(count.items()))


def runs_of(families: Iterable[str] = FAMILIES) -> Iterator[tuple[str, str, str]]:
    """Yield name, family and strength of each run on a network."""
    for family, strength in itertools.product(families, STRENGTHS):
        yield f"{family.replace(' ', '-')}-{strength}", family, strength
    yield "flash-crowd", "flash crowd", ""
    yield "calm", "", ""


# -- simulated ------------------------------------------------------------------------------


def networks() -> dict[str, Network]:
    """Return the simulated networks: two that are shipped, and three drawn ones."""
    folder = Path(__file__).parents[1] / "scenarios"
    found = {
        name: load_scenario(folder / f"{name}.yaml")
        for name in ("ddos-resilience", "quickstart-ring")
    }
    for seed in (4, 11, 23):
        found[f"plan-{seed}"] = parse_scenario(json.dumps(random_plan(seed)), f"plan {seed}")
    return {name: plan.to_network() for name, plan in found.items()}


def varied(rng: random.Random, profile: Profile) -> Profile:
    """Return a profile with its shares changed by up to a half: applications differ."""
    reply = profile.reply_share * rng.uniform(0.6, 1.4)
    if profile.unconnected:
        reply = rng.uniform(0.5, 1.0)
    elif profile.malicious and profile.syn_share == 1.0:
        reply = rng.uniform(0.0, 1.0)  # a full backlog answers nothing, SYN cookies all
    return replace(
        profile,
        packet_octets=profile.packet_octets * rng.uniform(0.7, 1.3),
        syn_share=min(1.0, profile.syn_share * rng.uniform(0.5, 1.5))
        if profile.syn_share < 1
        else 1.0,
        reply_share=reply,
        connections=round(profile.connections * rng.uniform(0.5, 1.5))
        or min(1, profile.connections),
    )


def group(
    rng: random.Random,
    number: int,
    label: str,
    profile: Profile,
    host: Host,
    pops: Sequence[str],
    rates: tuple[float, float, int, int],
    span: tuple[float, float | None],
) -> Iterator[Source]:
    """Yield the sources of one kind."""
    least, most, fewest, many = rates
    for n in range(rng.randint(fewest, many)):
        own = varied(rng, profile)
        rate = least * (most / least) ** rng.random()
        port = 53 if profile.source_port == 53 else 443
        yield Source(
            f"{label}-{n}", label, rng.choice(list(pops)), source_address(number, n + 1),
            host.address, port, own, rate * own.packet_octets / 1e6, *span,
        )  # fmt: skip


def attack(
    rng: random.Random, family: str, strength: str
) -> tuple[Profile, tuple[float, float, int, int]]:
    """Return the profile of attackers, and their rates."""
    profile, rates = FAMILIES[family], STRENGTHS[strength]
    if family == "reflection" and rng.random() < 0.5:
        profile = NTP_REFLECTION
    if family == "slow http":
        profile = replace(profile, connections=100 if strength == "strong" else 15)
        rates = (2.0, 20.0, 4, 10)
    if family == "http flood":
        profile = replace(profile, syn_share=rng.uniform(0.08, 0.2))
        rates = (150.0, 600.0, 4, 10) if strength == "strong" else (40.0, 150.0, 10, 30)
    return profile, rates


def simulate(network: Network, name: str, family: str, strength: str, path: Path) -> str:
    """Play one run on virtual time; return what was written."""
    rng = random.Random(f"{path.parent.name} {name}")
    host = network.hosts[0]
    pops = [pop.name for pop in network.pops]
    sources: list[Source] = []
    for number, (label, profile) in enumerate(HONEST.items(), 1):
        sources += group(rng, number, label, profile, host, pops, HONEST_S[label], (0.0, None))
    if family == "flash crowd":
        span = (BEGIN_S, END_S)
        sources += group(rng, 40, family, HTTP, host, pops, (40.0, 150.0, 120, 200), span)
    elif family:
        profile, rates = attack(rng, family, strength)
        entries = rng.sample(pops, rng.randint(1, min(4, len(pops))))
        sources += group(rng, 50, family, profile, host, entries, rates, (BEGIN_S, END_S))
    forged = family if family.startswith("forged") else ""
    writer = Writer(
        path, {s.address: s.group for s in sources}, forged, f"{path.parent.name} {name}"
    )
    clock = VirtualClock()
    simulated = SimulatedNetwork(
        network, sources, clock, Recorder("network", lambda _: None, clock.now),
        seed=rng.randrange(2**31), cause="run-1",
    )  # fmt: skip
    vnfd = Vnfd("recorder", Resources(0.1, 0.1, 0.0), image_mb=0.0, handles_mb_s=1e6, shared=True)
    simulated.install(host.at, "recorder", vnfd, units=1, ttl_s=1e6, cause="run-1")

    def taken(outcome: Any) -> None:
        if isinstance(outcome, FlowRecords):
            writer.add(outcome, effective_s(outcome))

    at = 1.0
    for seconds in itertools.cycle(WINDOWS_S):
        if at + seconds > END_S:
            break
        action = Observe("recorder", seconds, ip=host.address)
        clock.call_at(at, partial(simulated.perform, host.at, action, "run-1", taken))
        at += seconds + 0.1
    clock.run(until=END_S)
    simulated.shutdown()
    return writer.close()


# -- real packets ---------------------------------------------------------------------------

TESTBEDS = {
    "testbed-near": Network(
        tuple(Pop(f"pop{n}", Resources(2, 4, 100)) for n in (1, 2, 3)),
        (Link("pop1", "pop2", 12.5, 0.2), Link("pop2", "pop3", 12.5, 0.2)),
        (Host("server", "pop2", "10.0.2.10", 4.0),),
        "pop1",
    ),
    "testbed-far": Network(
        tuple(Pop(f"pop{n}", Resources(2, 4, 100)) for n in (1, 2)),
        (Link("pop1", "pop2", 2.0, 8.0, 0.01),),
        (Host("server", "pop2", "10.0.2.10", 1.0),),
        "pop1",
    ),
}
"""Networks of namespaces: one with room, one with delay, loss and a server that is soon full."""
REAL = {
    # label: (verb or profile, least and most MB/s or packets/s, fewest and most sources)
    "users": ("http", (0.003, 0.02), (10, 24)),
    "viewers": ("video", (0.003, 0.02), (4, 8)),
    "bulk download": ("video", (0.2, 0.5), (1, 2)),
    "proxy": ("http", (0.05, 0.1), (1, 2)),
    "bulk upload": ("upload", (1e5, 3e5), (1, 2)),
    "calls": ("calls", (30.0, 250.0), (2, 4)),
    "reports": ("reports", (5.0, 120.0), (2, 4)),
}
"""Honest traffic of the testbed. A proxy is one fast user: five pages on a connection."""
PORT, SERVICE = 8000, 9000


def real_sources(rng: random.Random, network: Network, family: str, strength: str) -> list[Source]:
    """Draw who sends what on a testbed; ``demand_mb_s`` of what is no user is a rate."""
    host, pops = network.hosts[0], [pop.name for pop in network.pops]
    groups = [(*entry, label) for label, entry in REAL.items()]
    if family == "flash crowd":
        groups.append(("http", (0.003, 0.01), (80, 120), family))
    elif family == "http flood":
        rates = ((30.0, 60.0), (3, 5)) if strength == "strong" else ((6.0, 20.0), (6, 10))
        groups.append(("http-flood", *rates, family))
    elif family:
        _, (least, most, fewest, many) = attack(rng, family, strength)
        groups.append(("", (least, min(most, 900.0)), (fewest, min(many, 14)), family))
    found = []
    for number, (verb, (least, most), (fewest, many), label) in enumerate(groups, 1):
        for n in range(rng.randint(fewest, many)):
            profile, rate = PROFILES.get(verb, VIDEO), least * (most / least) ** rng.random()
            span: tuple[float, float | None] = (0.0, END_S)
            if label == family:
                span = (BEGIN_S, END_S)
            port = {"video": 8080, "http": PORT}.get(verb, SERVICE)
            if not verb:
                profile, _ = attack(rng, family, strength)
                profile = replace(
                    profile, packet_octets=max(60.0, min(profile.packet_octets, 400.0))
                )
                rate, port = rate * profile.packet_octets / 1e6, PORT
                if family == "udp flood":
                    port = SERVICE + 9
            found.append(
                Source(
                    f"g{number}-{n}",
                    label,
                    rng.choice(pops),
                    source_address(number, n + 1),
                    host.address,
                    port,
                    profile,
                    rate,
                    *span,
                )
            )
    return found


def play(network: Network, name: str, family: str, strength: str, path: Path) -> str:
    """Play one run with real packets; return what was written."""
    rng = random.Random(f"{path.parent.name} {name}")
    sources = real_sources(rng, network, family, strength)
    host = network.hosts[0]
    verbs = {label: verb for label, (verb, *_) in REAL.items()} | {"http flood": "http-flood"}
    ours = [
        s for s in sources if verbs.get(s.group, "http") not in PROFILES and not s.profile.malicious
    ]
    forged = family if family.startswith("forged") else ""
    labels = {s.address: s.group for s in sources}
    writer = Writer(path, labels, forged, f"{path.parent.name} {name}")
    clock = WallClock()
    testbed = Testbed(runs.new_run(), network, sources)
    workload = Workload(
        testbed, network, [s for s in sources if s not in ours], clock=clock,
        recorder=Recorder("network", lambda _: None, clock.now), cause="run-1",
        folder=testbed.folder, sample_s=1.0,
    )  # fmt: skip
    played: list[NamespaceProcess] = []

    def launch(home: str, *words: object) -> None:
        played.append(
            NamespaceProcess(
                [sys.executable, "-I", "-S", str(TRAFFIC), *map(str, words)],
                run=testbed.run,
                namespace=testbed.home(home),
                complaints=testbed.folder / f"{home}.stderr",
            )
        )

    try:
        testbed.build()
        workload.prepare()
        launch(host.name, "serve", host.address, SERVICE, END_S + 5)
        time.sleep(0.5)
        workload.start()
        for one in ours:
            verb = verbs[one.group].removesuffix("-flood")
            port = PORT if verb == "http" else SERVICE
            words = (verb, one.target, port, END_S - one.start_s, one.demand_mb_s, one.address)
            clock.call_at(one.start_s, partial(launch, one.name, *words))
        with Inside(testbed.namespace(host.at)) as inside:
            observations = inside.call(Observations, "phx_flows")
            device = testbed.host_device(host.address)
            devices = [{"device": device, "hook": hook} for hook in ("egress", "ingress")]
            look = inside.submit(watch, observations, devices, host.address)
            clock.run(until=END_S + 0.5)
            for seconds, flows in look.result():
                writer.add(FlowRecords(flows, seconds), seconds)
    finally:
        end(played)
        workload.stop()
        testbed.destroy()
        runs.remove(testbed.folder)
        clock.close()
    return writer.close()


def watch(observations: Observations, devices: list[Any], address: str) -> list[tuple[float, Any]]:
    """Observe again and again, for as long as a run takes."""
    found: list[tuple[float, Any]] = []
    began = time.monotonic()
    for seconds in itertools.cycle(WINDOWS_S):
        if time.monotonic() - began + seconds > END_S - 0.2:
            return found
        body = {"seconds": seconds, "address": address, "devices": devices}
        told = observations.observe(body)
        flows = msgspec.convert(told["flows"], tuple[FlowStats, ...])
        found.append((told["seconds"], flows))
    raise AssertionError


Play = Callable[[str, str, str, Path], str]
"""Plays the run of a name, a family and a strength to a file; returns what was written."""


def record(out: Path, only: str, plays: dict[str, Play], families: Iterable[str]) -> int:
    """Make the runs of some networks that are not there yet; return the exit code."""
    try:
        for network, make in plays.items():
            for name, family, strength in runs_of(families):
                path = out / network / f"{name}.csv"
                if only in f"{network}/{name}" and not path.exists():
                    print(f"{network}/{name}: {make(name, family, strength, path)}", flush=True)
    except (PhalanxError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Return a parser of what all that make flows are told."""
    made = argparse.ArgumentParser()
    made.add_argument("--out", type=Path, required=True, help="folder of the data set")
    made.add_argument("--only", default="", help="only runs whose network/name holds this")
    return made


def main() -> int:
    """Make the data; return the exit code."""
    options = parser()
    options.add_argument("--on", choices=["simulation", "linux"], default="simulation")
    given = options.parse_args()
    run, on = (simulate, networks()) if given.on == "simulation" else (play, TESTBEDS)
    return record(given.out, given.only, {n: partial(run, on[n]) for n in on}, FAMILIES)


if __name__ == "__main__":
    sys.exit(main())
