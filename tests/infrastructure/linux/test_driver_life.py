"""The driver by hand: how instances begin and end, and what it does about faults."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from itertools import pairwise

import pytest
from driver_bench import (
    CLIENT,
    IMAGE_MB,
    OFFICE,
    OTHER,
    PAYLOAD,
    POPS,
    SERVER,
    VNFDS,
    Bench,
    drop,
    enforce,
    limit,
    refused,
    watch,
)
from linux_needs import requires_root
from msgspec.structs import replace

from phalanx.domain.actions import (
    Deploy,
    Done,
    Enforce,
    Hold,
    InstanceLost,
    Observe,
    ReadMeasure,
    Rechain,
    Renew,
    Renewed,
    Scale,
    SiteState,
    Stop,
)
from phalanx.domain.resources import Resources
from phalanx.testrange.processes import end

pytestmark = [pytest.mark.linux, requires_root]


# -- images -------------------------------------------------------------------------------


def test_an_image_comes_over_the_link_and_runs_until_it_is_stopped(bench: Bench) -> None:
    before = bench.sent("pop2", "pop3")
    instance = bench.deploy("pop3", "rate-limiter")
    assert bench.sent("pop2", "pop3") - before >= IMAGE_MB * 1e6
    assert bench.programs() == 1
    assert bench.driver.site("pop3").free.cores == 7
    assert isinstance(bench.do("pop3", Stop(instance)), Done)
    bench.wait(lambda: bench.programs() == 0)
    assert bench.tables("pop3") == []
    assert bench.driver.leases() == []
    assert all(free.cores == 8 for free in bench.driver.free().values())


def test_an_image_with_a_wrong_digest_never_runs(bench: Bench) -> None:
    for pop in ("pop3", "pop2"):  # by the network, and at the repository itself
        path = bench.images["rate-limiter"].path
        image = bytearray(path.read_bytes())
        image[-1000] ^= 1
        path.write_bytes(image)
        reason = refused(bench.do(pop, bench.ask(pop, "rate-limiter")))
        assert "rate-limiter" in reason
        assert bench.programs() == 0
        assert bench.driver.leases() == []
        assert not list((bench.folder / "images" / pop).glob("*"))
        image[-1000] ^= 1
        path.write_bytes(image)
        bench.do(pop, Stop(bench.deploy(pop, "rate-limiter")))
        bench.wait(lambda: bench.programs() == 0)


def test_an_image_that_does_not_come_fails_in_one_line(bench: Bench) -> None:
    bench.driver.repository_away(True)
    assert "away" in refused(bench.do("pop3", bench.ask("pop3", "rate-limiter")))
    bench.driver.repository_away(False)
    end([bench.server])
    reason = refused(bench.do("pop3", bench.ask("pop3", "rate-limiter")))
    assert "refused" in reason
    bench.testbed.set_link("pop2", "pop3", up=False)
    bench.testbed.set_link("pop1", "pop2", up=False)
    assert refused(bench.do("pop3", bench.ask("pop3", "rate-limiter")))
    assert bench.programs() == 0
    assert bench.driver.leases() == []


def test_a_download_that_is_stopped_midway_leaves_nothing(bench: Bench) -> None:
    order = bench.ask("pop3", "rate-limiter")
    deployed, _ = bench.do_all(("pop3", order), ("pop3", Stop(order.instance)))
    assert refused(deployed) == "stopped"
    bench.rest(0.5)
    assert bench.programs() == 0
    assert bench.driver.leases() == []


def test_an_image_that_is_here_is_used_again_and_serves_others(bench: Bench) -> None:
    bench.do("pop3", Stop(bench.deploy("pop3", "rate-limiter")))
    bench.driver.repository_away(True)
    before = bench.sent("pop2", "pop3")
    bench.deploy("pop3", "rate-limiter")
    assert bench.sent("pop2", "pop3") - before < IMAGE_MB * 1e5, "nothing was downloaded"
    before = bench.sent("pop3", "pop1")
    bench.deploy("pop1", "rate-limiter")
    assert bench.sent("pop3", "pop1") - before >= IMAGE_MB * 1e6, "pop3 has sent it"
    assert "away" in refused(bench.do("pop3", bench.ask("pop3", "classifier")))


def test_a_damaged_image_is_fetched_anew(bench: Bench) -> None:
    bench.do("pop3", Stop(bench.deploy("pop3", "rate-limiter")))
    (file,) = (bench.folder / "images" / "pop3").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000] + bytes(1000))
    before = bench.sent("pop2", "pop3")
    bench.deploy("pop3", "rate-limiter")
    assert bench.sent("pop2", "pop3") - before >= IMAGE_MB * 1e6
    assert file.read_bytes() == whole
    assert any("digest" in e.data["reason"] for e in bench.log if e.kind == "image.evicted")


def test_a_source_that_sends_something_else_is_not_used(bench: Bench) -> None:
    bench.deploy("pop3", "rate-limiter")
    (file,) = (bench.folder / "images" / "pop3").iterdir()
    file.write_bytes(bytes(len(file.read_bytes())))
    bench.deploy("pop1", "rate-limiter")  # from the repository, though pop3 is as near
    (fetched,) = (bench.folder / "images" / "pop1").iterdir()
    assert fetched.read_bytes() == bench.images["rate-limiter"].path.read_bytes()


def test_an_image_gives_way_to_what_needs_its_disk(bench: Bench) -> None:
    bench.do("pop3", Stop(bench.deploy("pop3", "rate-limiter")))
    big = replace(VNFDS["edge-filter"], requires=Resources(1, 1, 99.9999))
    hold = Hold("big", "big", big.requires, ("pop3",), 0.0, 30.0)
    assert isinstance(bench.do("pop3", hold), Done)
    assert isinstance(bench.do("pop3", Deploy("pop3/big", "big", big, 1, 30.0)), Done)
    assert bench.driver.site("pop3").images == ()
    assert not list((bench.folder / "images" / "pop3").iterdir())


def test_images_that_are_not_used_give_way_when_the_disk_itself_is_full(bench: Bench) -> None:
    folder = bench.folder / "images" / "pop3"
    folder.mkdir(parents=True)
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=400k", "images", folder], check=True)
    try:
        bench.do("pop3", Stop(bench.deploy("pop3", "rate-limiter")))
        instance = bench.deploy("pop3", "classifier")
        assert bench.driver.site("pop3").images == ("classifier 1.0",)
        assert "No space" in refused(bench.do("pop3", bench.ask("pop3", "rate-limiter")))
        bench.do("pop3", Stop(instance))
        bench.wait(lambda: bench.programs() == 0)
    finally:
        subprocess.run(["/bin/umount", "--lazy", folder], check=True)


# -- paths and leases ---------------------------------------------------------------------


def test_an_instance_can_be_given_another_path_and_another_size(bench: Bench) -> None:
    classifier = bench.deploy("pop2", "classifier", "pop2", "pop3", mb_s=2)
    assert bench.driver.reserved_mb_s() == 2
    hold = bench.hold("pop2", "pop2", "pop1", "pop3", mb_s=3)
    assert isinstance(bench.do("pop2", Rechain(classifier, hold)), Done)
    assert bench.driver.reserved_mb_s() == 6
    before = bench.sent("pop3", "pop1"), bench.sent("pop3", "pop2")
    watch(bench, classifier, ip=SERVER)
    assert bench.sent("pop3", "pop1") - before[0] > 20 * PAYLOAD
    assert bench.sent("pop3", "pop2") - before[1] < 20 * PAYLOAD
    assert isinstance(bench.do("pop2", Scale(classifier, 3, 1)), Done)
    assert bench.driver.reserved_mb_s() == 2
    assert bench.driver.site("pop2").free.cores == 5
    assert isinstance(bench.do("pop2", Stop(classifier)), Done)
    assert bench.driver.reserved_mb_s() == 0
    assert bench.driver.site("pop2").free.cores == 8


def test_a_lease_that_runs_out_ends_process_and_rules(bench: Bench) -> None:
    kept = bench.deploy("pop3", "rate-limiter", ttl_s=1.2)
    lost = bench.deploy("pop3", "rate-limiter", ttl_s=1.2)
    enforce(bench, kept, drop(OTHER, SERVER))
    enforce(bench, lost, drop(CLIENT, SERVER))
    assert bench.do("pop3", Renew((kept, "nobody"), 20.0)) == Renewed(("nobody",))
    bench.wait(lambda: any(isinstance(p, InstanceLost) for p in bench.percepts))
    (told,) = [p for p in bench.percepts if isinstance(p, InstanceLost)]
    assert (told.instance, told.reason) == (lost, "lease ran out")
    bench.wait(lambda: bench.programs() == 1)
    assert bench.udp(20, source=CLIENT) == 20
    assert bench.udp(20, source=OTHER) == 0
    assert any(lost in e.data.values() for e in bench.log if e.kind == "lease.expired")


# -- faults -------------------------------------------------------------------------------


def test_a_killed_vnf_is_told_of_and_its_rules_end(bench: Bench) -> None:
    limiter = bench.deploy("pop2", "rate-limiter", "pop2", "pop3")
    enforce(bench, limiter, drop(CLIENT, SERVER))
    assert bench.udp(20) == 0
    os.kill(bench.pid(limiter), signal.SIGKILL)
    bench.wait(lambda: any(isinstance(p, InstanceLost) for p in bench.percepts))
    bench.wait(lambda: bench.tables("pop2") == [])
    bench.wait(lambda: bench.udp(20) == 20)
    assert bench.programs() == 0
    assert bench.driver.leases() == []
    assert any(e.kind == "vnf.crashed" and "signal 9" in e.data["how"] for e in bench.log)
    bench.deploy("pop2", "rate-limiter", "pop2", "pop3")


def test_a_vnf_that_is_killed_while_it_observes_leaves_no_table(bench: Bench) -> None:
    classifier = bench.deploy("pop2", "classifier", "pop2", "pop3")
    pid = bench.pid(classifier)
    killed = bench.once_watched(classifier, "pop2", lambda: os.kill(pid, signal.SIGKILL))
    assert refused(bench.do("pop2", Observe(classifier, 5.0, ip=SERVER)))
    killed.result()
    bench.wait(lambda: all(bench.tables(pop) == [] for pop in POPS))


def test_a_vnf_that_hangs_fails_what_is_asked_of_it_and_holds_up_nothing(bench: Bench) -> None:
    limiter = bench.deploy("pop3", "rate-limiter")
    name = enforce(bench, limiter, drop(CLIENT, SERVER))
    os.kill(bench.pid(limiter), signal.SIGSTOP)
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) < 300:
            bench.clock.call_later(0.02, tick)

    tick()
    begin = time.monotonic()
    for outcome in bench.do_all(
        ("pop3", Enforce("m", limiter, limit(1.0, target=SERVER), "limited")),
        ("pop3", ReadMeasure(name)),
        ("pop3", Enforce("n", limiter, limit(1.0, target=OFFICE), "limited")),
    ):
        assert "does not answer" in refused(outcome)
    assert time.monotonic() - begin < 9  # not one after the other
    assert max(b - a for a, b in pairwise(ticks)) < 2.5
    assert isinstance(bench.do("pop3", Stop(limiter)), Done)
    bench.wait(lambda: bench.programs() == 0)
    bench.wait(lambda: bench.udp(20) == 20)


def test_traffic_takes_another_way_round_a_link_that_is_cut(bench: Bench) -> None:
    assert bench.talks()
    before = bench.sent("pop1", "pop2")
    bench.driver.fail_link("pop1", "pop3")
    bench.wait(lambda: bench.udp(1) == 1)
    assert bench.udp(20) == 20
    assert bench.sent("pop1", "pop2") - before >= 20 * PAYLOAD
    bench.rest(0.05)
    states = [p for p in bench.percepts if isinstance(p, SiteState)]
    assert any(link.to == "pop3" and not link.up for state in states for link in state.links)
    bench.driver.restore_link("pop1", "pop3")
    bench.wait(lambda: bench.udp(1) == 1)  # the kernel puts a link to use after a while
    before = bench.sent("pop1", "pop2")
    assert bench.udp(20) == 20
    assert bench.sent("pop1", "pop2") - before < 20 * PAYLOAD
    with pytest.raises(ValueError, match="no link joins"):
        bench.driver.fail_link("pop1", "server")


def test_steered_traffic_goes_round_a_link_that_is_cut_and_back_again(bench: Bench) -> None:
    limiter = bench.deploy("pop1", "rate-limiter", "pop1", "pop3")
    enforce(bench, limiter, limit(5.0, target=SERVER))
    assert bench.udp(20) == 20
    for change in (bench.driver.fail_link, bench.driver.restore_link):
        change("pop1", "pop3")
        bench.rest(0.3)
        detours = bench.sent("pop1", "pop2")
        assert bench.udp(20) == 20
        cut = change == bench.driver.fail_link
        assert (bench.sent("pop1", "pop2") - detours >= 20 * PAYLOAD) == cut


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_vnf_that_is_stopped_by_a_signal_is_killed_at_the_end(
    bench: Bench, asked_before: bool
) -> None:
    instance = bench.deploy("pop3", "rate-limiter")
    enforce(bench, instance, drop(CLIENT, SERVER))
    os.kill(bench.pid(instance), signal.SIGSTOP)
    if asked_before:  # it is being ended already when the driver ends all
        assert isinstance(bench.do("pop3", Stop(instance)), Done)
    bench.driver.shutdown()
    assert bench.programs() == 0
    assert bench.tables("pop3") == []
