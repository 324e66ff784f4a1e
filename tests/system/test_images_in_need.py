"""Images that agents bring before they are wanted, and from where they come under faults."""

from __future__ import annotations

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe
from phalanx.runtime.scenario import FaultSpec, FunctionSpec, Scenario
from phalanx.testing import FunctionBench, small_scenario

IMAGE_MB = 100.0


def scenario(*faults: FaultSpec, image_mb: float = IMAGE_MB) -> Scenario:
    """Return the small network with an edge filter that has an image; the attack begins at 10 s."""
    plan = small_scenario()
    functions = {**plan.functions, "edge-filter": FunctionSpec(image_mb=image_mb, disk_gb=0.5)}
    return replace(plan, functions=functions, faults=faults)


def run(plan: Scenario, until: float = 60.0) -> FunctionBench:
    bench = FunctionBench(scenario=plan)
    bench.run(until)
    return bench


def blocked(bench: FunctionBench) -> Event:
    """Return the first filter that names sources."""
    return next(e for e in bench.of_kind("measure.applied") if e.data.get("sources"))


def test_the_filter_is_at_hand_when_an_attack_comes() -> None:
    bench = run(scenario())
    brought = bench.of_kind("image.prefetching")
    assert {e.data["pop"] for e in brought} == {"a", "b", "c"}
    assert {e.data["reason"] for e in brought} >= {"attacks that enter here need it"}
    offers = [bid for e in bench.of_kind("auction.bid") for bid in e.data["bids"]]
    assert offers
    assert all(bid["T"] == 0.0 for bid in offers if bid["vnf"] == "edge-filter")
    assert blocked(bench).time < 15.0
    assert not bench.of_kind("instance.downloading", vnf="edge-filter", pop="a")


def test_the_repository_is_not_missed_once_a_pop_has_the_image() -> None:
    bench = run(scenario(FaultSpec(6.0, "repository-away")))
    assert blocked(bench).time < 15.0


def test_images_outlive_the_agent_of_their_pop() -> None:
    crash = FaultSpec(6.0, "crash", agent="b")
    gone = FaultSpec(6.5, "repository-away")
    plan = scenario(crash, gone, image_mb=400.0)  # 10 s for a prefetch: to a and c while b's has it
    assert blocked(run(plan)).time < 30.0


def test_an_attack_that_comes_too_early_takes_the_prefetch_over() -> None:
    plan = scenario(image_mb=1000.0)  # takes 25 s in the background
    bench = run(plan)
    (wanted,) = bench.of_kind("instance.downloading", pop="a")
    assert wanted.data["left_mb"] < 700.0, "what has come in 10 s is not fetched again"
    assert blocked(bench).time < wanted.time + 20.0
    text = describe(wanted)
    assert text.startswith("edge-filter (1000 MB) is on its way to a over b → a, in ")


def test_the_published_strategy_knows_the_repository_alone() -> None:
    bench = run(replace(small_scenario(), strategy="published"), 120.0)
    downloads = bench.of_kind("instance.downloading")
    assert downloads
    assert all(event.data["path"][0] == "b" for event in downloads)
    assert all("source" not in event.data for event in downloads)
    assert not [event for event in bench.events if event.kind.startswith("image.")]


def test_native_functions_have_no_image_to_bring() -> None:
    assert not run(scenario(image_mb=0.0), 30.0).of_kind("image.prefetching")
