"""Images that PoPs keep: where a download comes from, and what gives way to what."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import SERVER, VNFD, World, line
from tests.nightly import examples

from phalanx.auction.paths import download_time_s
from phalanx.auction.view import NetworkView
from phalanx.domain.actions import Deploy, Done, Failed, Hold, Prefetch, Release, Stop
from phalanx.domain.agents import AgentState
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import UDP_FLOOD, Source
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.simulated.fluid import BACKGROUND_MOST

NEED = Resources(1.0, 1.0, 2.0)


def image(name: str, mb: float = 500.0, disk_gb: float = 2.0) -> Vnfd:
    return Vnfd(name, Resources(0.1, 0.1, disk_gb), image_mb=mb)


def ran(world: World, pop: str, name: str, vnfd: Vnfd, until: float = 1e4) -> float:
    """Deploy an instance and return how long its download took."""
    answers = world.deploy(pop, name, vnfd=vnfd)
    world.clock.run(until=world.clock.now() + until, stop=lambda: bool(answers))
    assert isinstance(answers[0], Done), answers
    return float(world.of_kind("instance.started")[-1].data["downloaded_s"])


def sources(world: World, instance: str) -> list[str]:
    events = world.of_kind("instance.downloading")
    return [e.data["source"] for e in events if e.data["instance"] == instance]


def away(world: World) -> None:
    world.net.repository_away(away=True)


def view_of(world: World) -> NetworkView:
    """Return what an agent knows that heard of every PoP."""
    sites = {pop.name: world.net.site(pop.name) for pop in world.network.pops}
    return NetworkView.EMPTY.apply_all(
        AgentState(p, p, 1, 1, s.total, s.free, s.links, images=s.images) for p, s in sites.items()
    )


def test_an_image_stays_after_its_instance_and_is_used_again() -> None:
    world = World(line(), keep_images=True)
    assert ran(world, "pop1", "first", VNFD) == pytest.approx(50.0, abs=0.15)
    world.do("pop1", Stop("first"))
    assert world.net.site("pop1").images == (VNFD.image,)
    assert world.net.site("pop1").free == world.net.site("pop1").total, "it is in nobody's way"
    assert ran(world, "pop1", "second", VNFD) == 0.0
    assert sources(world, "second") == [], "nothing is downloaded"


def test_another_version_is_another_image() -> None:
    world = World(line(), keep_images=True)
    ran(world, "pop1", "first", VNFD)
    newer = Vnfd(VNFD.name, VNFD.requires, VNFD.image_mb, version="1.1")
    assert ran(world, "pop1", "second", newer) == pytest.approx(50.0, abs=0.15)


def test_nothing_is_kept_where_images_are_not_kept() -> None:
    world = World(line())
    ran(world, "pop1", "first", VNFD)
    world.do("pop1", Stop("first"))
    assert world.net.site("pop1").images == ()
    assert ran(world, "pop1", "second", VNFD) == pytest.approx(50.0, abs=0.15)
    assert isinstance(world.do("pop2", Prefetch(VNFD, "test")), Failed)


def thin() -> Network:
    """Return a - b - c with 20 MB/s, and the repository at depot behind 1 MB/s at b."""
    total = Resources(8.0, 8.0, 10.0)
    pops = tuple(Pop(name, total) for name in ("a", "b", "c", "depot"))
    links = (Link("a", "b", 20, 2), Link("b", "c", 20, 2), Link("b", "depot", 1, 2))
    return Network(pops, links, (Host("server", "c", SERVER, 50.0),), "depot")


def test_the_quickest_source_is_taken() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    assert ran(world, "a", "first", vnfd) == pytest.approx(20.0, abs=0.15)
    assert ran(world, "c", "second", vnfd) == pytest.approx(1.0, abs=0.15)
    assert sources(world, "second") == ["a"]
    (event,) = [e for e in world.of_kind("instance.downloading") if e.data["pop"] == "c"]
    assert event.data["others"] == ["depot in 20 s"], "the log says why"


def test_one_copy_passes_a_thin_link_for_all_who_want_it() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    answers = [world.deploy(pop, f"at {pop}", vnfd=vnfd) for pop in ("a", "b", "c")]
    world.run(60.0)
    assert all(isinstance(one[0], Done) for one in answers)
    took = [e.data["downloaded_s"] for e in world.of_kind("instance.started")]
    assert max(took) < 23.0, "shared, the thin link would take 60 s"
    assert world.of_kind("instance.downloading")[1].data["awaits"] == "a"


def test_two_instances_at_one_pop_share_a_download() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    world.deploy("a", "one", vnfd=vnfd)
    world.run(5.0)
    world.deploy("a", "two", vnfd=vnfd)
    world.run(30.0)
    assert [e.time for e in world.of_kind("instance.started")] == pytest.approx(
        [20.0] * 2, abs=0.15
    )


def test_a_holder_makes_up_for_the_repository() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    ran(world, "a", "first", vnfd)
    away(world)
    assert ran(world, "c", "second", vnfd) == pytest.approx(1.0, abs=0.15)
    (refused,) = world.deploy("c", "third", vnfd=image("g"))
    assert isinstance(refused, Failed)
    assert refused.reason == "no PoP has the image, and the VNF repository is away"


def test_a_download_goes_on_elsewhere_when_its_source_is_cut_off() -> None:
    network = thin()
    world = World(
        Network(network.pops, (*network.links, Link("c", "depot", 2, 2)), network.hosts, "depot"),
        keep_images=True,
    )
    vnfd = image("f", 100.0)
    ran(world, "a", "first", vnfd)
    answers = world.deploy("c", "second", vnfd=vnfd)
    began = world.clock.now()
    world.run(began + 2.5)  # 48 MB came from a: it begins with a tick
    world.net.fail_link("a", "b")
    world.run(began + 60.0)
    assert isinstance(answers[0], Done)
    assert sources(world, "second") == ["a", "depot"]
    took = world.of_kind("instance.started")[-1].data["downloaded_s"]
    assert took == pytest.approx(2.5 + 52.0 / 2.0, abs=0.3), "only the rest is fetched anew"


def test_a_download_goes_on_from_a_holder_when_the_repository_goes_away() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    first = world.deploy("a", "first", vnfd=vnfd)
    second = world.deploy("c", "second", vnfd=vnfd)
    world.run(10.0)
    world.net.repository_away(away=True)
    assert isinstance(first[0], Failed), "nobody else has it"
    assert isinstance(second[0], Failed)
    assert not world.net.leases()


def test_who_waits_for_a_download_that_ends_goes_on() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    world.deploy("a", "first", vnfd=vnfd)
    second = world.deploy("c", "second", vnfd=vnfd)
    world.run(5.0)
    world.do("a", Stop("first"))
    world.run(40.0)
    assert isinstance(second[0], Done)
    assert sources(world, "second") == ["a", "depot"]


def test_reservations_win_over_images_and_the_least_needed_goes_first() -> None:
    world = World(thin(), keep_images=True)
    for name in ("f", "g", "h"):  # 3 GB each, of 10
        ran(world, "depot", name, image(name, 3000.0, 3.0))
        world.run(world.clock.now() + 1.0)
    for name in ("f", "g", "h"):
        world.do("depot", Stop(name))
        world.run(world.clock.now() + 1.0)
    assert world.net.site("depot").images == ("f 1.0", "g 1.0", "h 1.0")
    ran(world, "depot", "again", image("f", 3000.0, 3.0))  # needed anew
    hold = Hold("room", "room", Resources(0.0, 0.0, 5.0), (), 0.0, 100.0)
    assert world.do("depot", hold) == Done(), "images are no reason to refuse"
    assert len(world.net.site("depot").images) == 3, "a hold is a promise; it may not come true"
    world.do("depot", Release("room"))
    world.deploy("depot", "big", vnfd=Vnfd("big", Resources(1.0, 1.0, 4.0), image_mb=0.0))
    assert world.net.site("depot").images == ("f 1.0", "h 1.0"), "g was needed least, f is in use"
    world.net.check()
    (event,) = world.of_kind("image.evicted")
    assert event.data["vnf"] == "g"


def test_images_never_exceed_the_free_disk() -> None:
    world = World(thin(), keep_images=True)
    rng = random.Random(7)
    alive: list[str] = []
    for step in range(60):
        if alive and rng.random() < 0.5:
            world.do("depot", Stop(alive.pop(rng.randrange(len(alive)))))
        else:
            name, gb = f"vnf{step}", rng.choice((0.5, 2.0, 4.0))
            vnfd = image(f"f{rng.randrange(5)}", rng.choice((300.0, 2500.0)), gb)
            hold = Hold(f"{name}-hold", name, vnfd.requires, (), 0.0, 1e6)
            if world.do("depot", hold) == Done():
                world.do("depot", Release(hold.hold))
                world.deploy("depot", name, vnfd=vnfd)
                alive.append(name)
        world.run(world.clock.now() + 5.0)
        world.net.check()


def test_a_prefetch_uses_what_is_idle_and_gives_way_at_once() -> None:
    network = thin()
    world = World(network, keep_images=True)
    vnfd = image("f", 200.0)
    ran(world, "a", "first", vnfd)
    alone = world.clock.now()
    flood = Source(
        "f", "f", "a", "10.1.0.1", SERVER, 80, UDP_FLOOD, 18.0, start_s=alone + 5, end_s=alone + 9
    )
    samples: list[list[float]] = []
    for prefetch in (False, True):
        world = World(network, [flood], keep_images=True)
        ran(world, "a", "first", vnfd)
        if prefetch:
            assert world.do("c", Prefetch(vnfd, "a test wants it")) == Done()
        world.run(alone + 40.0)
        samples.append([e.data["hosts"] for e in world.of_kind("network.sample")])
    assert any(hosts["server"]["malicious_mb_s"] for hosts in samples[0]), "there is other traffic"
    assert samples[0] == samples[1], "other traffic does not notice it"
    (event,) = world.of_kind("image.prefetching")
    assert event.data["reason"] == "a test wants it"
    (cached,) = [e for e in world.of_kind("image.cached") if e.data["pop"] == "c"]
    pause_s = 4.0  # 18 of 20 MB/s are more than what background transfers leave
    assert cached.time - alone == pytest.approx(200.0 / (20 * BACKGROUND_MOST) + pause_s, abs=0.3)


def test_a_wanted_download_takes_a_prefetch_over() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    world.do("a", Prefetch(vnfd, "test"))
    world.run(10.0)  # 8 MB at 80 % of 1 MB/s
    assert ran(world, "a", "wanted", vnfd) == pytest.approx(12.0, abs=0.3)
    assert sources(world, "wanted") == ["depot"]


def test_a_wanted_download_does_not_wait_for_a_prefetch_nor_suffer_from_it() -> None:
    world = World(thin(), keep_images=True)
    world.do("a", Prefetch(image("g", 500.0), "test"))
    world.run(5.0)
    assert ran(world, "c", "wanted", image("f", 20.0)) == pytest.approx(20.0, abs=0.3)


def test_a_prefetch_needs_free_disk_and_evicts_nothing() -> None:
    world = World(thin(), keep_images=True)
    ran(world, "depot", "first", image("f", 6000.0, 6.0))
    world.do("depot", Stop("first"))
    refused = world.do("depot", Prefetch(image("g", 5000.0), "test"))
    assert isinstance(refused, Failed)
    assert refused.reason == "an image of 5000 MB, 4000 MB of disk free"
    assert world.net.site("depot").images == ("f 1.0",)


def test_a_prefetch_without_a_source_is_dropped_and_said() -> None:
    world = World(thin(), keep_images=True)
    world.do("a", Prefetch(image("f", 20.0), "test"))
    world.run(5.0)
    away(world)
    (event,) = world.of_kind("image.evicted")
    assert "repository went away" in event.data["reason"]
    world.run(60.0)
    assert world.net.site("a").images == ()


@settings(max_examples=examples(16))
@given(st.integers(0, 10**6))
def test_t_of_a_bid_is_the_time_that_the_download_takes(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"p{i}" for i in range(rng.randint(2, 9))]
    joined = {(names[rng.randrange(i)], names[i]) for i in range(1, len(names))}
    joined |= {(a, b) for a, b in pairwise(sorted(names)) if rng.random() < 0.4}
    joined = {tuple(sorted(ends)) for ends in joined}
    links = tuple(
        Link(a, b, rng.choice((0.5, 2.0, 5.0, 10.0)), rng.uniform(1, 20)) for a, b in sorted(joined)
    )
    pops = tuple(Pop(name, Resources(8.0, 8.0, 50.0)) for name in names)
    world = World(Network(pops, links, (), rng.choice(names)), keep_images=True)
    vnfd = image("f", 20.0)
    for number, pop in enumerate(rng.sample(names, k=rng.randint(1, len(names)))):
        expected = download_time_s(view_of(world), world.network.repository, pop, vnfd)
        assert expected is not None
        took = ran(world, pop, f"vnf{number}", vnfd)
        assert took == pytest.approx(expected, abs=0.15), "a tick of the traffic model"
        if rng.random() < 0.5:
            world.do(pop, Stop(f"vnf{number}"))


def test_knowledge_that_is_too_old_costs_time_and_nothing_else() -> None:
    world = World(thin(), keep_images=True)
    vnfd = image("f", 20.0)
    ran(world, "a", "first", vnfd)
    world.do("a", Stop("first"))
    old = view_of(world)
    hold = Hold("all", "all", Resources(1.0, 1.0, 10.0), (), 0.0, 1e4)
    assert world.do("a", hold) == Done()
    world.ask("a", Deploy("big", "all", Vnfd("big", hold.resources, image_mb=0.0), 1, 1e4))
    assert world.net.site("a").images == ()
    assert download_time_s(old, "depot", "c", vnfd) == 1.0
    assert ran(world, "c", "second", vnfd) == pytest.approx(20.0, abs=0.15)
