"""A whole system whose agents talk over sockets."""

from __future__ import annotations

from pathlib import Path

from socket_bench import address, descriptors
from tests.published import parse_published

from phalanx.bus.sockets import SocketBus
from phalanx.clock.wall import WallClock
from phalanx.domain.messages import Performative
from phalanx.runtime.environment import BuildContext
from phalanx.runtime.simulation import SimulatedEnvironment
from phalanx.runtime.system import System

ROOT = Path(__file__).parents[2]


class SocketEnvironment(SimulatedEnvironment):
    """The simulated network in real time, with agents that talk over loopback."""

    def __init__(self, speed: float) -> None:
        self.clock: WallClock
        super().__init__(clock=WallClock(speed))
        self.buses: list[SocketBus] = []

    def bus(self, context: BuildContext) -> SocketBus:  # type: ignore[override]
        pops = sorted(pop.name for pop in context.scenario.network.pops)
        addresses = {pop: address(number) for number, pop in enumerate(pops, 1)}
        bus = SocketBus(self.clock, addresses, peers=pops, on_shed=context.shed)
        self.buses.append(bus)
        return bus

    def close(self) -> None:
        for bus in self.buses:
            bus.close()
        self.clock.close()


def test_agents_that_talk_over_sockets_block_the_attackers() -> None:
    text = (ROOT / "scenarios" / "quickstart-ring.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("start_s: 15", "start_s: 1"),
        ("image_mb: 100", "image_mb: 10"),
        ("analysis_s: 10", "analysis_s: 2"),
        ("spread_s: 3", "spread_s: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    before = descriptors()
    environment = SocketEnvironment(speed=6)
    system = System(parse_published(text, "short-ring.yaml"), environment=environment)
    blocked = set[str]()

    def done() -> bool:
        return len(blocked) == 2

    system.log.listen(
        lambda event: (
            blocked.add(event.data["effect"])
            if event.kind == "measure.applied" and "flowRateLimited" in event.data["effect"]
            else None
        )
    )
    system.run(until=40, should_stop=done)
    (bus,) = environment.buses
    assert blocked == {f"flowRateLimited(10.2.0.{n}, 10.0.0.10)" for n in (1, 2)}
    assert {Performative.CFP, Performative.PROPOSE, Performative.ACCEPT} <= bus.sent.keys()
    assert (bus.shed, bus.refused) == ({}, {})
    assert bus.delivered > 50
    assert descriptors() == before
