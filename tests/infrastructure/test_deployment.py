from __future__ import annotations

import msgspec
import pytest
from small_network import AT_HAND, SERVER, SMALL, TOTAL, VNFD, World, limit, line, users

from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    Enforce,
    Failed,
    Hold,
    InstanceLost,
    Observe,
    Outcome,
    Rechain,
    Scale,
    Stop,
    Transfer,
)
from phalanx.domain.resources import Resources
from phalanx.infrastructure.reservations.topology import Topology


def outcome_times(world: World, answers: list[Outcome], until: float) -> float:
    """Run until an answer is there and return when that was."""
    world.clock.run(until=until, stop=lambda: bool(answers))
    return world.clock.now()


@pytest.mark.parametrize("pop", ["pop1", "pop4", "pop6"])
def test_a_download_takes_size_over_bandwidth(pop: str) -> None:
    world = World(line())
    answers = world.deploy(pop, vnfd=VNFD)
    assert outcome_times(world, answers, 100.0) == pytest.approx(50.0, abs=0.1)
    (started,) = world.of_kind("instance.started")
    assert answers == [Done(started.id)]
    assert started.data["downloaded_s"] == pytest.approx(50.0, abs=0.1)
    assert started.cause == world.of_kind("instance.downloading")[0].id


def test_lost_packets_are_sent_again() -> None:
    world = World(line(loss=0.025))
    answers = world.deploy("pop6", vnfd=VNFD)
    assert outcome_times(world, answers, 100.0) == pytest.approx(50.0 / 0.975, abs=0.1)


def test_downloads_share_a_link_and_yield_to_users() -> None:
    world = World(line(), users(demand=0.02))
    first = world.deploy("pop4", "first", vnfd=VNFD)
    second = world.deploy("pop3", "second", vnfd=VNFD)
    # Traffic goes the other way, so the two downloads have the link to themselves.
    assert outcome_times(world, first, 300.0) == pytest.approx(100.0, abs=0.2)
    assert outcome_times(world, second, 300.0) == pytest.approx(100.0, abs=0.2)
    third = world.deploy("pop6", "third", vnfd=VNFD)
    # 50 users send 1 MB/s over the link to pop6.
    assert outcome_times(world, third, 300.0) == pytest.approx(100.0 + 500.0 / 9.0, abs=1.0)


def test_a_download_inherits_nothing_from_the_one_before() -> None:
    world = World(line())
    world.deploy("pop1", vnfd=VNFD)
    world.run(10.05)
    world.do("pop1", Stop("vnf"))
    answers = world.deploy("pop1", "next", vnfd=VNFD)
    # It begins with the next tick.
    assert outcome_times(world, answers, 100.0) == pytest.approx(60.1, abs=1e-6)


def test_the_repositorys_pop_downloads_at_once_and_boots() -> None:
    world = World(line())
    answers = world.deploy("pop5", vnfd=msgspec.structs.replace(VNFD, boot_s=3.0))
    assert outcome_times(world, answers, 10.0) == 3.0
    assert isinstance(answers[0], Done)


def test_the_widest_path_wins_over_the_fastest() -> None:
    network = msgspec.structs.replace(
        line(4),
        links=(
            *(msgspec.structs.replace(link, latency_ms=50.0) for link in line(4).links),
            msgspec.structs.replace(line(4).links[0], b="pop4", bandwidth_mb_s=4.0),
        ),
    )
    topology = Topology(network)

    def width(a: str, b: str) -> float:
        link = topology.link(a, b)
        return 0.0 if link is None else link.bandwidth_mb_s

    assert topology.route("pop4", "pop1") == ("pop4", "pop1")
    assert topology.widest("pop4", "pop1", width) == ("pop4", "pop3", "pop2", "pop1")
    topology.switch(network.links[1], up=False)
    assert topology.widest("pop4", "pop1", width) == ("pop4", "pop1")
    topology.switch(network.links[3], up=False)
    assert topology.widest("pop4", "pop1", width) is None
    assert topology.route("pop4", "pop1") is None


@pytest.mark.parametrize("fault", ["away", "link", "stop", "kill", "lease"])
def test_a_download_that_cannot_go_on_fails_and_gives_all_back(fault: str) -> None:
    world = World(line())
    answers = world.deploy("pop2", path=("pop2", "pop3"), mb_s=2.0, vnfd=VNFD, ttl_s=20.0)
    world.run(10.0)
    assert answers == []
    assert world.of_kind("network.sample")[-1].data["downloads"] == 1
    match fault:
        case "away":
            world.net.repository_away(True)
        case "link":
            world.net.fail_link("pop4", "pop3")
        case "stop":
            world.do("pop2", Stop("vnf"))
        case "kill":
            world.net.kill_instance("vnf")
        case _:
            world.run(20.0)
    assert len(answers) == 1
    assert isinstance(answers[0], Failed)
    assert world.net.free()["pop2"] == TOTAL
    assert world.net.site("pop3").links[0].reserved_mb_s == 0.0
    assert world.net.leases() == []
    world.run(100.0)
    assert not world.of_kind("instance.started")
    assert world.of_kind("network.sample")[-1].data["downloads"] == 0


def test_without_repository_nothing_is_downloaded() -> None:
    world = World(line())
    world.net.repository_away(True)
    assert world.deploy("pop2", vnfd=VNFD) == [Failed("the VNF repository is away")]
    assert world.net.free()["pop2"] == TOTAL
    world.net.repository_away(False)
    answers = world.deploy("pop2", vnfd=VNFD)
    world.run(60.0)
    assert isinstance(answers[0], Done)


def test_a_pop_that_is_cut_off_downloads_nothing() -> None:
    world = World(line())
    world.net.fail_link("pop5", "pop6")
    assert world.deploy("pop6", vnfd=VNFD) == [
        Failed("no path from the VNF repository at pop5 to pop6")
    ]


def test_what_cannot_be_deployed_is_refused() -> None:
    world = World(line())
    world.deploy("pop5")
    world.do("pop5", Hold("h", "g", SMALL, (), 0.0, 99.0))
    for action, reason in (
        (Deploy("vnf", "h", AT_HAND, 1, 9.0), "instance vnf exists already"),
        (Deploy("new", "none", AT_HAND, 1, 9.0), "no hold none at pop5"),
        (Deploy("new", "h", AT_HAND, 2, 9.0), "hold h is too small: needs 2 cores, 1 held"),
        (Deploy("new", "h", AT_HAND, 0, 9.0), "cannot deploy 0 units"),
        (Deploy("new", "h", AT_HAND, 1, 0.0), "a lease of 0 s is not possible"),
    ):
        assert world.ask("pop5", action) == [Failed(reason)]
    assert world.ask("pop4", Deploy("new", "h", AT_HAND, 1, 9.0)) == [Failed("no hold h at pop4")]
    assert world.ask("nowhere", Stop("vnf")) == [Failed("no PoP nowhere")]


@pytest.mark.parametrize(
    "action",
    [
        Scale("vnf", 2, 0.0),
        Rechain("vnf", "h"),
        Transfer("vnf", "vnf"),
        Enforce("m", "vnf", limit(0.0, target=SERVER), "limited"),
        Observe("vnf", 1.0, ip=SERVER),
    ],
)
def test_only_what_runs_at_the_pop_can_work(action: Action) -> None:
    world = World(line())
    world.deploy("pop5")
    assert world.ask("pop5", action) == [Failed("instance vnf does not run yet")]
    assert world.ask("pop4", action) == [Failed("no instance vnf at pop4")]


def test_scaling_needs_resources_and_bandwidth() -> None:
    world = World(line())
    world.deploy("pop5", path=("pop5", "pop6"), mb_s=4.0)
    world.do("pop5", Hold("h", "g", Resources(2, 2, 2), ("pop5", "pop6"), 3.0, 99.0))
    world.run(1.0)
    assert world.do("pop5", Scale("vnf", 5, 4.0)) == Failed("needs 5 cores, 4 free")
    assert world.do("pop5", Scale("vnf", 2, 8.0)) == Failed(
        "link pop5-pop6 has 7 MB/s free, needs 8"
    )
    assert world.net.free()["pop5"].cores == 5.0
    assert isinstance(world.do("pop5", Scale("vnf", 4, 7.0)), Done)
    assert world.net.free()["pop5"].cores == 2.0
    (scaled,) = world.of_kind("instance.scaled")
    assert (scaled.data["from_units"], scaled.data["to_units"]) == (1, 4)
    assert world.net.site("pop6").links[0].reserved_mb_s == 7.0
    assert isinstance(world.do("pop5", Scale("vnf", 1, 0.5)), Done)
    assert world.net.free()["pop5"].cores == 5.0


def test_a_new_path_replaces_the_old_one() -> None:
    world = World(line())
    world.deploy("pop5", path=("pop5", "pop6"), mb_s=4.0)
    world.run(1.0)
    world.do("pop5", Hold("h", "g", Resources(), ("pop5", "pop4"), 2.0, 99.0))
    assert isinstance(world.do("pop5", Rechain("vnf", "h")), Done)
    assert world.net.site("pop6").links[0].reserved_mb_s == 0.0
    assert world.net.site("pop4").links[1].reserved_mb_s == 2.0
    assert world.net.leases() == ["vnf"]
    assert [event.data["path"] for event in world.of_kind("chain.opened")] == [
        ["pop5", "pop6"],
        ["pop5", "pop4"],
    ]
    assert len(world.of_kind("chain.closed")) == 1


def test_an_update_hands_measures_and_path_over() -> None:
    world = World(line(), users())
    world.deploy("pop5", path=("pop5", "pop6"), mb_s=4.0)
    world.deploy("pop5", "new", vnfd=msgspec.structs.replace(AT_HAND, version="2.0"))
    world.run(1.0)
    world.enforce("limit", limit(0.5, target=SERVER))
    world.run(10.0)
    assert isinstance(world.do("pop5", Transfer("vnf", "new")), Done)
    world.do("pop5", Stop("vnf"))
    world.run(20.0)
    assert world.rate() == pytest.approx(0.5)
    assert not world.of_kind("measure.lifted")
    assert world.net.site("pop6").links[0].reserved_mb_s == 4.0
    (replaced,) = world.of_kind("instance.replaced")
    assert replaced.data == {"instance": "vnf", "by": "new", "pop": "pop5", "version": "2.0"}
    world.do("pop5", Stop("new"))
    world.run(60.0)
    assert world.rate() == pytest.approx(1.0, rel=0.01)
    assert world.net.site("pop6").links[0].reserved_mb_s == 0.0


def test_a_crash_is_perceived() -> None:
    world = World(line())
    percepts = world.attach("pop5")
    world.deploy("pop5")
    world.run(1.0)
    world.net.kill_instance("vnf")
    (fault,) = world.of_kind("fault.injected")
    (stopped,) = world.of_kind("instance.stopped")
    assert stopped.cause == fault.id
    assert percepts[-1] == InstanceLost("vnf", "crashed", stopped.id)


def test_shutdown_leaves_no_timer() -> None:
    world = World(line(), users())
    world.deploy("pop2", vnfd=VNFD, ttl_s=30.0)
    world.deploy("pop5")
    world.run(1.0)
    world.ask("pop5", Observe("vnf", 20.0, ip=SERVER))
    world.net.shutdown()
    world.clock.run()
    assert world.clock.now() == 1.0
    assert world.clock.pending == 0
