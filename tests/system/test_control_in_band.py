"""Messages of agents beside the traffic: they wait behind it, and cross no link that is down."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import System
from tests.system.lives import left_behind

RING = load_scenario(Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml")


def system(control: str, *, mb_s: float = 50.0) -> System:
    links = tuple(replace(link, bandwidth_mb_s=mb_s) for link in RING.network.links)
    network = replace(RING.network, links=links)
    traffic = tuple(replace(group, start_s=0.0, end_s=None) for group in RING.traffic)
    plan: Scenario = replace(RING, control=control, network=network, traffic=traffic, monitors=())
    made = System(plan)
    made.bus.detach("south")
    return made


def arrivals(made: System, at: float, count: int = 1) -> list[tuple[float, str]]:
    """Send some messages from west to south at a time; return how late they came, in s."""
    got: list[tuple[float, str]] = []
    made.bus.attach("south", lambda message: got.append((made.clock.now() - at, message.id)))

    def send() -> None:
        for i in range(count):
            made.bus.send(
                Message(
                    f"probe{i}", Performative.INFORM, "west", "south", "talk", Verdict(), "run-1"
                )
            )

    made.clock.call_at(at, send)
    made.clock.run(until=at + 10.0)
    return [(late, name) for late, name in got if name.startswith("probe")]


PAIRS = (("east", "south"), ("south", "west"))


def test_a_message_takes_the_latency_of_the_links() -> None:
    assert arrivals(system("in-band"), 1.5)[0][0] == pytest.approx(0.005, abs=1e-4)


def test_a_message_waits_behind_a_queue_and_loss_sends_it_again_in_order() -> None:
    late = arrivals(system("in-band", mb_s=2.0), 8.0, 50)
    assert late[0][0] > 0.1
    assert [name for _, name in late] == [f"probe{i}" for i in range(len(late))]
    assert late[-1][0] > late[0][0] + 0.2
    assert arrivals(system("out-of-band", mb_s=2.0), 8.0)[0][0] == pytest.approx(0.005, abs=1e-4)


@pytest.mark.parametrize(("control", "reached"), [("in-band", 0), ("out-of-band", 1)])
def test_a_cut_stops_messages_unless_they_have_a_network_of_their_own(
    control: str, reached: int
) -> None:
    made = system(control)
    for pair in PAIRS:
        made.infrastructure.fail_link(*pair)
    assert len(arrivals(made, 5.0)) == reached
    assert made.bus.lost_on_path == 1 - reached


def test_a_partition_heals_and_the_defence_goes_on() -> None:
    faults = tuple(FaultSpec(20.0, "link-down", link=pair, for_s=30.0) for pair in PAIRS)
    made = System(replace(RING, control="in-band", faults=faults))
    result = made.run(on_progress=lambda _: made.infrastructure.check())
    assert made.bus.lost_on_path > 0
    assert [lease for lease in left_behind(result) if not lease.endswith("-monitor")] == []
