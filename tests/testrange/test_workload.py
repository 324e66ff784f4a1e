"""The whole workload on a small testbed: what is recorded is what was sent and received."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
from tests.infrastructure.linux.linux_needs import requires, requires_root

from phalanx.clock.wall import WallClock
from phalanx.domain.events import Event, Recorder
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import PROFILES, Source
from phalanx.infrastructure.linux.kernel import KernelError, runs
from phalanx.runtime.loading import load_scenario
from phalanx.testrange import Testbed, Workload, workload

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SERVER = "10.0.2.10"

needs = [pytest.mark.linux, requires_root, requires("nginx", "hping3", "cc")]


def network() -> Network:
    size = Resources(2, 4, 100)
    return Network(
        (Pop("pop1", size), Pop("pop2", size)),
        (Link("pop1", "pop2", 10.0, 0.2),),
        (Host("server", "pop2", SERVER, 0.2),),
        "pop1",
    )


def source(number: int, group: str, profile: str, mb_s: float, **more: float) -> Source:
    return Source(
        f"{group}-{number}",
        group,
        "pop1",
        f"10.{len(group)}.0.{number}",
        SERVER,
        8080 if profile == "video" else 8000,
        PROFILES[profile],
        mb_s,
        **more,
    )


USERS = (
    *(source(n, "web", "http", 0.01) for n in range(1, 9)),
    *(source(n, "viewers", "video", 0.01) for n in range(1, 3)),
)


class Bench:
    """A testbed with a workload on it, and the log of its run."""

    def __init__(self, sources: tuple[Source, ...]) -> None:
        self.events: list[Event] = []
        self.clock = WallClock()
        self.testbed = Testbed(runs.new_run(), network(), sources)
        self.workload = Workload(
            self.testbed,
            network(),
            sources,
            clock=self.clock,
            recorder=Recorder("network", self.events.append, self.clock.now),
            cause="run-1",
            folder=self.testbed.folder,
            sample_s=0.1,
        )

    def run(self, seconds: float) -> None:
        try:
            self.testbed.build()
            self.workload.prepare()
            self.workload.start()
            self.clock.run(until=seconds)
        finally:
            self.workload.stop()

    def server(self, begin: float, end: float, field: str) -> list[float]:
        return [
            event.data["hosts"]["server"][field]
            for event in self.events
            if event.kind == "network.sample" and begin < event.time <= end
        ]

    def changes(self, group: str) -> list[Event]:
        return [
            event
            for event in self.events
            if event.kind == "traffic.changed" and event.data["group"] == group
        ]

    def close(self) -> None:
        self.workload.stop()
        self.testbed.destroy()
        runs.remove(self.testbed.folder)
        self.clock.close()


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    try:
        yield made
    finally:
        for bench in made:
            bench.close()


def marked(run: str) -> list[int]:
    """Return the processes that carry the mark of ``run``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"PHALANX_RUN={run}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture
def attacked(benches: list[Bench]) -> Bench:
    flood = (source(n, "attackers", "syn-flood", 0.12, start_s=2.0, end_s=4.0) for n in range(1, 3))
    bench = Bench((*USERS, *flood))
    benches.append(bench)
    bench.run(5.5)
    return bench


class TestWorkload:
    pytestmark = needs

    def test_a_flood_is_recorded_as_it_was(self, attacked: Bench) -> None:
        before = fmean(attacked.server(0.5, 2.0, "legitimate_mb_s"))
        during = fmean(attacked.server(2.5, 4.0, "legitimate_mb_s"))
        assert before == pytest.approx(0.1, rel=0.15)
        assert during < 0.8 * before
        assert attacked.server(0.0, 1.9, "wanted_mb_s")[-1] == pytest.approx(0.1)
        assert max(attacked.server(0.5, 2.0, "malicious_mb_s")) < 0.005
        assert 0.1 < fmean(attacked.server(2.5, 4.0, "malicious_mb_s")) < 0.25

        begun, *_, ended = attacked.changes("attackers")
        assert begun.data["malicious"]
        assert begun.time >= 2.0
        assert ended.data["count"] == 0
        assert attacked.changes("web")[-1].data == {
            "group": "web",
            "profile": "http",
            "count": 8,
            "active": True,
            "demand_mb_s": 0.08,
            "malicious": False,
        }
        links = [e.data["links"] for e in attacked.events if e.kind == "network.sample"]
        assert all(figures["pop2>server"]["bandwidth_mb_s"] == 0.2 for figures in links)
        assert max(figures["pop2>server"]["mb_s"] for figures in links) == pytest.approx(
            0.2, rel=0.2
        )
        assert marked(attacked.testbed.run) == []

    def test_an_attack_tool_that_fails_ends_the_run(
        self, benches: list[Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            workload, "command", lambda *_: ["sh", "-c", "echo no route >&2; exit 1"]
        )
        bench = Bench((*USERS[:1], source(1, "attackers", "udp-flood", 0.1, start_s=0.3)))
        benches.append(bench)
        with pytest.raises(KernelError, match="attackers-1 does not attack: no route"):
            bench.run(5.0)
        assert marked(bench.testbed.run) == []

    def test_a_server_that_does_not_start_is_told_of(
        self, benches: list[Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = "phalanx.testrange.processes.configuration"
        monkeypatch.setattr(server, lambda *_: "nonsense;")
        bench = Bench(USERS[:1])
        benches.append(bench)
        with pytest.raises(KernelError, match=r'nginx does not start: .*"nonsense"'):
            bench.run(1.0)
        assert marked(bench.testbed.run) == []


@pytest.mark.parametrize(
    "path", ["ddos-linux", *(f"linux/{p.stem}" for p in sorted(SCENARIOS.glob("linux/*.yaml")))]
)
def test_a_scenario_for_real_packets_fits_one_machine(path: str) -> None:
    scenario = load_scenario(SCENARIOS / f"{path}.yaml")
    sources = scenario.to_sources()
    attack = [s for s in sources if s.profile.malicious]
    wanted = sum(s.demand_mb_s for s in sources if not s.profile.malicious and s.start_s < 5)
    links = {host.address: host.bandwidth_mb_s for host in scenario.hosts}
    assert scenario.duration_s <= 40
    assert wanted < sum(links.values())
    assert sum(map(workload.packets_s, attack)) <= 20_000
    assert all(s.start_s == 5 and s.end_s in (20, 25) for s in attack)
