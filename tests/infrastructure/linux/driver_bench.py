"""The driver over a small testbed, driven by hand, with real packets to see what it did."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from vnf_lab import call

from phalanx.clock.wall import WallClock
from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    Enforce,
    Failed,
    FlowRecords,
    Hold,
    Observe,
    Outcome,
    Percept,
)
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import PROFILES, Source
from phalanx.functions.classifier import Classifier
from phalanx.functions.edge_filter import EdgeFilter
from phalanx.functions.gateway import Gateway
from phalanx.functions.link_monitor import LinkMonitor
from phalanx.functions.rate_limiter import RateLimiter
from phalanx.functions.service_monitor import ServiceMonitor
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.journal import LeaseJournal
from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay
from phalanx.infrastructure.linux.overlay_node import OverlaySite
from phalanx.infrastructure.linux.repository import build_images
from phalanx.infrastructure.linux.vnf.nft import Nft
from phalanx.infrastructure.linux.vnf_processes import token
from phalanx.store.memory import EventLog
from phalanx.testrange import Testbed
from phalanx.testrange.processes import end, serve_images

POPS = ("pop1", "pop2", "pop3")
SERVER, OFFICE = "10.0.3.10", "10.0.3.20"
CLIENT, OTHER = "10.1.0.1", "10.1.0.2"
UNIT = Resources(1, 1, 1)
IMAGE_MB = 0.3
PAYLOAD = 972
"""Octets of a datagram's payload: 1,000 with its headers."""
HEADERS, ETHERNET = 28, 14
PATIENCE_S = 15.0
SO_RCVBUFFORCE = 33
VNFDS = {
    kind.name: replace(kind.vnfd, requires=UNIT, image_mb=min(IMAGE_MB, kind.vnfd.image_mb))
    for kind in (RateLimiter, Classifier, LinkMonitor, EdgeFilter, ServiceMonitor, Gateway)
    if kind.vnfd is not None
}


def network() -> Network:
    """Return a triangle: clients at pop1, the repository at pop2, both hosts at pop3."""
    return Network(
        tuple(Pop(name, Resources(8, 8, 100)) for name in POPS),
        (
            Link("pop1", "pop2", 50, 0.2),
            Link("pop2", "pop3", 50, 0.2),
            Link("pop1", "pop3", 50, 0.1),
        ),
        (Host("server", "pop3", SERVER, 50), Host("office", "pop3", OFFICE, 50)),
        "pop2",
    )


class Bench:
    """A driver at work. Its clock runs while an answer is waited for, and not otherwise."""

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted
        self._stack = ExitStack()
        self._count = itertools.count(1)
        self._threads = self._stack.enter_context(ThreadPoolExecutor(1))
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def _build(self) -> None:
        stack = self._stack
        self.run = runs.new_run()
        stack.callback(runs.remove, runs.folder(self.run))
        profile = PROFILES["http"]
        sources = [
            Source(f"c-{n}", "c", "pop1", address, SERVER, 80, profile, 0.1)
            for n, address in enumerate((CLIENT, OTHER), 1)
        ]
        self.testbed = Testbed(self.run, network(), sources)
        stack.callback(self.testbed.destroy)
        self.testbed.build()
        self.folder = runs.folder(self.run)
        self.clock = WallClock()
        stack.callback(self.clock.close)
        images = build_images(VNFDS, self.folder / "repository")
        self.images = {name: image for (name, _), image in images.items()}
        space, address = self.testbed.namespace("pop2"), self.testbed.underlay("pop2")
        self.server = serve_images(self.run, space, address, self.folder / "repository")
        stack.callback(end, [self.server])
        journal = LeaseJournal(self.folder / "leases.db")
        stack.callback(journal.close)
        self.log = EventLog()
        recorder = Recorder("network", self.log, self.clock.now)
        self.root = recorder.record("run.started", None)
        self.overlay = self._overlay() if self._encrypted else None
        self.driver = LinuxNetwork(
            network(),
            self.clock,
            recorder,
            linux=self.testbed,
            images=images,
            journal=journal,
            cause=self.root,
            keep_images=True,
            encryption=self.overlay,
        )
        stack.callback(self.driver.shutdown)
        self.percepts: list[Percept] = []
        for pop in POPS:
            self.driver.attach(pop, pop, self.percepts.append)
        homes = {name: self.testbed.home(name) for name in ("c-1", "server", "office")}
        self.inside = {
            name: Inside(full)
            for name, full in {**{p: self.testbed.namespace(p) for p in POPS}, **homes}.items()
        }
        for inside in self.inside.values():
            stack.callback(inside.close)

    def _overlay(self) -> Overlay:
        places, made = self.testbed, []
        for number, pop in enumerate(POPS, 1):
            underlay, entry = places.underlay(pop), places.entry(pop)
            made.append(
                OverlaySite(pop, places.namespace(pop), underlay, f"10.255.0.{number}", entry)
            )
        overlay = Overlay(self.folder, 4242, made, LocalKeys(POPS))
        self._stack.callback(overlay.down)
        overlay.up()
        return overlay

    # -- the agent's side -------------------------------------------------------------

    def do(self, pop: str, action: Action) -> Outcome:
        """Have an action carried out and return the answer."""
        (outcome,) = self.do_all((pop, action))
        return outcome

    def do_all(self, *actions: tuple[str, Action]) -> list[Outcome]:
        """Have actions carried out at the same time; return the answers in their order."""
        answers: list[Outcome | None] = [None] * len(actions)
        for number, (pop, action) in enumerate(actions):

            def answer(outcome: Outcome, number: int = number) -> None:
                assert answers[number] is None, "answered twice"
                answers[number] = outcome

            self.driver.perform(pop, action, self.root, answer)
        self.wait(lambda: None not in answers)
        return [outcome for outcome in answers if outcome is not None]

    def wait(self, until: Callable[[], bool]) -> None:
        """Let the clock run until something is true."""
        if not until():
            self.clock.run(self.clock.now() + PATIENCE_S, until)
        assert until(), f"not within {PATIENCE_S:g} s"

    def rest(self, seconds: float) -> None:
        """Let the clock run for a while."""
        self.clock.run(self.clock.now() + seconds)

    def hold(self, pop: str, *path: str, mb_s: float = 1.0) -> str:
        """Get a hold at ``pop`` for a unit and a path to the tap."""
        name = f"h{next(self._count)}"
        outcome = self.do(pop, Hold(name, name, UNIT, path or (pop,), mb_s, 30.0))
        assert isinstance(outcome, Done), outcome
        return name

    def ask(
        self, pop: str, role: str, *path: str, mb_s: float = 1.0, ttl_s: float = 30.0
    ) -> Deploy:
        """Return the order to turn a new hold into an instance."""
        hold = self.hold(pop, *path, mb_s=mb_s)
        return Deploy(f"{pop}/{role}-{next(self._count)}", hold, VNFDS[role], 1, ttl_s)

    def deploy(
        self, pop: str, role: str, *path: str, mb_s: float = 1.0, ttl_s: float = 30.0
    ) -> str:
        """Get an instance of ``role`` to run and return its id."""
        order = self.ask(pop, role, *path, mb_s=mb_s, ttl_s=ttl_s)
        outcome = self.do(pop, order)
        assert isinstance(outcome, Done), outcome
        return order.instance

    # -- the machine's side -----------------------------------------------------------

    def pid(self, instance: str) -> int:
        """Return the id of the process of an instance."""
        path = self.folder / "vnf" / f"{token(instance)}.sock"
        return int(call(path, "GET", "/health")[1]["pid"])

    def measure(self, instance: str, name: str) -> dict[str, Any]:
        """Return the counters of a measure, as its process tells them."""
        path = self.folder / "vnf" / f"{token(instance)}.sock"
        return dict(call(path, "GET", f"/measures/{name}")[1])

    def programs(self) -> int:
        """Return how many VNF processes of this run there are."""
        images = (str(self.folder / "images"), str(self.folder / "repository"))
        lines = []
        for process in runs.find(self.run).processes:
            with contextlib.suppress(OSError):  # it has just ended
                lines.append(Path(f"/proc/{process.pid}/cmdline").read_text())
        words = [word for line in lines for word in line.split("\0")]
        return sum(word.startswith(images) and word.endswith(".pyz") for word in words)

    def tables(self, pop: str) -> list[str]:
        """Return the nftables tables at a PoP."""
        listed = self.inside[pop].call(lambda: Nft().json("list tables"))["nftables"]
        return sorted(
            item["table"]["name"]
            for item in listed
            if "table" in item and item["table"]["name"].startswith("phx_")
        )

    def sent(self, pop: str, to: str) -> int:
        """Return the octets that have left ``pop`` by its link to ``to``."""
        device = self.testbed.device(f"{pop}>{to}")
        return int(self.inside[pop].call(counters, device)[8])

    # -- the packets ------------------------------------------------------------------

    def udp(
        self, count: int, *, source: str = CLIENT, host: str = "server", over_s: float = 0.0
    ) -> int:
        """Send datagrams of 1,000 octets to a host, and return how many arrive."""
        address = {"server": SERVER, "office": OFFICE}[host]
        with self._datagrams(host) as receiver, self._datagrams("c-1") as sender:
            receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
            receiver.bind((address, 5000))
            sender.bind((source, 0))
            for _ in range(count):
                sender.sendto(bytes(PAYLOAD), (address, 5000))
                time.sleep(over_s / count)
            receiver.settimeout(0.3)
            got = 0
            try:
                while got < count:
                    receiver.recv(2000)
                    got += 1
            except TimeoutError:
                pass
            return got

    def talks(self, source: str = CLIENT, host: str = "server", timeout_s: float = 1.0) -> bool:
        """Whether a TCP connection from ``source`` comes about and carries words both ways."""
        address = {"server": SERVER, "office": OFFICE}[host]
        listener = self.inside[host].call(socket.socket)
        client = self.inside["c-1"].call(socket.socket)
        with listener, client:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, 80))
            listener.listen()
            client.settimeout(timeout_s)
            client.bind((source, 0))
            try:
                client.connect((address, 80))
            except TimeoutError:
                return False
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(timeout_s)
                client.sendall(b"question")
                assert connection.recv(100) == b"question"
                connection.sendall(b"answer")
                return client.recv(100) == b"answer"

    def once_watched(self, instance: str, pop: str, work: Callable[[], None]) -> Future[None]:
        """Do ``work`` in a thread as soon as an observation of ``instance`` has begun."""
        table = f"phx_{token(instance)}_"

        def begin() -> None:
            nft, until = Nft(), time.monotonic() + PATIENCE_S
            while table not in str(nft.json("list tables netdev")):
                assert time.monotonic() < until, "no observation begins"
                time.sleep(0.01)

        def follow() -> None:
            self.inside[pop].call(begin)
            work()

        return self._threads.submit(follow)

    def _datagrams(self, name: str) -> socket.socket:
        return self.inside[name].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)


def limit(rate: float = 0.05, *, link: str | None = None, target: str | None = None) -> TrafficRule:
    match = TrafficMatch(link=link, target=target)
    return TrafficRule(match, TrafficVerdict.LIMIT, {"rate_mb_s": rate})


def drop(source: str, target: str) -> TrafficRule:
    return TrafficRule(TrafficMatch(source=source, target=target), TrafficVerdict.DROP)


def enforce(bench: Bench, instance: str, rule: TrafficRule) -> str:
    """Enforce a measure through an instance and return its name."""
    name = f"m {rule.match.link or rule.match.target} {rule.match.source}"
    outcome = bench.do(instance.partition("/")[0], Enforce(name, instance, rule, name))
    assert isinstance(outcome, Done), outcome
    return name


def refused(outcome: Outcome) -> str:
    """Return why an action was not carried out, in one line."""
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason
    assert "\n" not in outcome.reason
    return outcome.reason


def watch(bench: Bench, instance: str, **how: Any) -> FlowRecords:
    """Observe the server while 20 datagrams and two connections reach it."""
    pop = instance.partition("/")[0]

    def traffic() -> None:
        assert bench.udp(20) == 20
        assert bench.talks(CLIENT)
        assert bench.talks(OTHER)
        assert bench.talks(OTHER, host="office")

    sent = bench.once_watched(instance, pop, traffic)
    records = bench.do(pop, Observe(instance, 1.0, **how))
    sent.result()
    assert isinstance(records, FlowRecords), records
    return records


def counters(device: str) -> list[str]:
    """Return what the kernel counts of a device: octets and packets received, octets sent at 8."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == device:
            return figures.split()
    raise AssertionError(f"no device {device}")
