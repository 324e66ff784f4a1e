"""A line of PoPs with a server at its end, and an agent's hands on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    Enforce,
    Hold,
    LinkSample,
    Outcome,
    Percept,
    ReadLink,
)
from phalanx.domain.events import Event, Recorder
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import HTTP, SYN_FLOOD, Source
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.simulated import SimulatedNetwork

SERVER = "10.0.6.10"
TOTAL = Resources(6.0, 12.0, 100.0)
SMALL = Resources(1.0, 1.0, 2.0)
VNFD = Vnfd("function", SMALL, image_mb=500.0)
AT_HAND = Vnfd("function", SMALL, image_mb=0.0)


def line(pops: int = 6, *, loss: float = 0.0, mb_s: float = 10.0) -> Network:
    """Return pop1 - pop2 - … with the server at the last and the repository at pop5."""
    return Network(
        tuple(Pop(f"pop{i}", TOTAL) for i in range(1, pops + 1)),
        tuple(Link(f"pop{i}", f"pop{i + 1}", mb_s, 5.0, loss) for i in range(1, pops)),
        (Host("server", f"pop{pops}", SERVER, 6.0),),
        f"pop{min(5, pops)}",
    )


def users(count: int = 50, demand: float = 0.02) -> list[Source]:
    """Return users at pop1 to pop5."""
    return [
        Source(f"user{i}", "users", f"pop{i % 5 + 1}", f"10.1.0.{i}", SERVER, 8000, HTTP, demand)
        for i in range(count)
    ]


def attackers(start_s: float = 20.0, end_s: float | None = None) -> list[Source]:
    """Return eight flooders at pop1 to pop4."""
    return [
        Source(
            f"bot{i}",
            "attack",
            f"pop{i % 4 + 1}",
            f"10.2.0.{i}",
            SERVER,
            8000,
            SYN_FLOOD,
            0.75,
            start_s,
            end_s,
        )
        for i in range(8)
    ]


def limit(rate: float, *, link: str | None = None, target: str | None = None) -> TrafficRule:
    match = TrafficMatch(link=link, target=target)
    return TrafficRule(match, TrafficVerdict.LIMIT, {"rate_mb_s": rate})


def drop(source: str, target: str) -> TrafficRule:
    return TrafficRule(TrafficMatch(source=source, target=target), TrafficVerdict.DROP)


@dataclass
class World:
    """A simulated network with its log."""

    network: Network
    sources: Sequence[Source] = ()
    watched: Sequence[str] = ()
    seed: int = 1
    keep_images: bool = False
    clock: VirtualClock = field(default_factory=VirtualClock)
    events: list[Event] = field(default_factory=list)
    percepts: dict[str, list[Percept]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        recorder = Recorder("network", self.events.append, self.clock.now)
        self.net = SimulatedNetwork(
            self.network,
            self.sources,
            self.clock,
            recorder,
            seed=self.seed,
            cause="run-1",
            watched=self.watched,
            keep_images=self.keep_images,
        )

    def run(self, until: float) -> None:
        self.clock.run(until=until)

    def attach(self, pop: str) -> list[Percept]:
        seen = self.percepts[pop] = []
        self.net.attach(pop, pop, seen.append)
        return seen

    def ask(self, pop: str, action: Action, cause: str = "cause") -> list[Outcome]:
        """Perform an action; the list gets its outcome, maybe later."""
        answers: list[Outcome] = []
        self.net.perform(pop, action, cause, answers.append)
        return answers

    def do(self, pop: str, action: Action) -> Outcome:
        """Perform an action that is answered at once."""
        (answer,) = self.ask(pop, action)
        return answer

    def deploy(
        self,
        pop: str,
        instance: str = "vnf",
        *,
        path: tuple[str, ...] = (),
        mb_s: float = 0.0,
        vnfd: Vnfd = AT_HAND,
        ttl_s: float = 1e6,
        units: int = 1,
    ) -> list[Outcome]:
        """Hold and deploy."""
        hold = Hold(f"{instance}-hold", instance, vnfd.scaled(units), path, mb_s, ttl_s)
        assert self.do(pop, hold) == Done()
        return self.ask(pop, Deploy(instance, hold.hold, vnfd, units, ttl_s))

    def enforce(self, measure: str, rule: TrafficRule, pop: str = "pop5") -> Outcome:
        return self.do(pop, Enforce(measure, "vnf", rule, f"effect of {measure}"))

    def rate(self, link: str = "pop6>server", seconds: float = 1.0) -> float:
        sample = self.do("pop6", ReadLink(link, seconds))
        assert isinstance(sample, LinkSample)
        return sample.rate_mb_s

    def of_kind(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def server(self) -> dict[str, float]:
        """Return the last sample of the server."""
        hosts: dict[str, Any] = self.of_kind("network.sample")[-1].data["hosts"]
        figures: dict[str, float] = hosts["server"]
        return figures
