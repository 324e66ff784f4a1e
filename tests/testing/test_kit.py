"""The public kit runs functions, breaks things, and stands in for a site."""

from __future__ import annotations

from phalanx import testing
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, Library, starts
from phalanx.bdi.steps import Note, Steps
from phalanx.domain.actions import LinkSample, ReadLink
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec
from phalanx.testing import FakeSite, FunctionBench, MemoryBus, VirtualClock


class Greeter(Capability):
    """Says that it began."""

    name = "greeter"

    @starts
    def begin(self, me: Agent) -> Steps:
        """Leave a note."""
        yield Note("greeter.began", {"where": me.pop})


def test_the_kit_names_what_it_offers() -> None:
    assert all(getattr(testing, name) is not None for name in testing.__all__)


def test_a_bench_runs_functions_on_a_small_network_under_attack() -> None:
    bench = FunctionBench(
        Greeter,
        agents=[DeclaredAgent("extra", pop="a", capabilities=("greeter",))],
        faults=[FaultSpec(at_s=100.0, kind="crash", agent="b")],
    )
    result = bench.run()
    (began,) = bench.of_kind("greeter.began", where="a")
    assert began.agent == "extra"
    (applied,) = bench.of_kind("measure.applied")
    assert applied.data["sources"] == ["10.2.0.1", "10.2.0.2"]
    assert bench.of_kind("agent.crashed", pop="b")
    assert result.defects == ()
    assert bench.events == result.events


def test_a_fake_site_notes_actions_and_tells_percepts() -> None:
    done: list[object] = []

    class Reader(Capability):
        """Reads a link once."""

        name = "reader"

        @starts
        def begin(self, me: Agent) -> None:
            """Ask, and keep the answer."""
            me.perform(ReadLink("a>b"), done.append)

    clock = VirtualClock()
    site = FakeSite(outcome=lambda _: LinkSample("a>b", 2.0, 50.0))
    agent = Agent("one", Library([Reader]), lambda _: None, pop="a")
    Node(agent, clock, MemoryBus(clock), site).start("cause")
    clock.run(1.0)
    assert site.actions == [("a", ReadLink("a>b"))]
    assert done == [LinkSample("a>b", 2.0, 50.0)]
