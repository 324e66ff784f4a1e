"""The driver by hand: limits and observations, and what real packets make of them."""

from __future__ import annotations

import time

import pytest
from driver_bench import (
    CLIENT,
    ETHERNET,
    HEADERS,
    OTHER,
    PAYLOAD,
    SERVER,
    Bench,
    drop,
    enforce,
    limit,
    refused,
    watch,
)
from linux_needs import requires_root

from phalanx.domain.actions import (
    Done,
    Enforce,
    FlowRecords,
    Lift,
    LinkSample,
    MeasureSample,
    Observe,
    ReadLink,
    ReadMeasure,
    Stop,
    Transfer,
)

pytestmark = [pytest.mark.linux, requires_root]

ALL = 300
"""Datagrams of a test of a limit: 0.3 MB, at once."""


# -- limits -------------------------------------------------------------------------------


@pytest.mark.parametrize("pop", ["pop3", "pop2"])
def test_a_limit_of_an_address_holds_its_traffic_alone(bench: Bench, pop: str) -> None:
    limiter = bench.deploy(pop, "rate-limiter", *dict.fromkeys((pop, "pop3")))
    name = enforce(bench, limiter, limit(target=SERVER))
    assert 0 < bench.udp(ALL) < ALL / 2
    assert bench.udp(ALL, host="office") == ALL
    assert isinstance(bench.do(pop, Lift(name)), Done)
    bench.wait(lambda: bench.udp(ALL) == ALL)


@pytest.mark.parametrize("pop", ["pop3", "pop2"])
def test_a_block_of_a_flow_is_for_that_source_alone(bench: Bench, pop: str) -> None:
    limiter = bench.deploy(pop, "rate-limiter", *dict.fromkeys((pop, "pop3")))
    assert bench.talks(CLIENT)
    enforce(bench, limiter, drop(CLIENT, SERVER))
    assert not bench.talks(CLIENT)
    assert bench.udp(ALL, source=CLIENT) == 0
    assert bench.talks(CLIENT, host="office")
    assert bench.talks(OTHER)
    assert bench.udp(ALL, source=OTHER) == ALL
    assert isinstance(bench.do(pop, Stop(limiter)), Done)
    bench.wait(bench.talks)


@pytest.mark.parametrize("pop", ["pop3", "pop2"])
def test_a_limit_of_a_link_holds_what_passes_it(bench: Bench, pop: str) -> None:
    limiter = bench.deploy(pop, "rate-limiter", *dict.fromkeys((pop, "pop3")))
    enforce(bench, limiter, limit(link="pop3>server"))
    assert 0 < bench.udp(ALL) < ALL / 2
    assert bench.udp(ALL, host="office") == ALL


def test_what_a_limit_passes_and_holds_can_be_read(bench: Bench) -> None:
    limiter = bench.deploy("pop3", "rate-limiter")
    name = enforce(bench, limiter, limit(target=SERVER))
    assert bench.do("pop3", ReadMeasure(name)) == MeasureSample(0, 0)
    begin = time.monotonic()
    got = bench.udp(ALL, over_s=0.5)
    sample = bench.do("pop3", ReadMeasure(name))
    span = time.monotonic() - begin
    assert isinstance(sample, MeasureSample)
    octets = PAYLOAD + HEADERS + ETHERNET
    assert sample.passed_mb_s * 1e6 == pytest.approx(got * octets / span, rel=0.3)
    assert sample.held_back_mb_s * 1e6 == pytest.approx((ALL - got) * octets / span, rel=0.3)
    assert "no measure" in refused(bench.do("pop1", ReadMeasure(name)))
    assert "no measure" in refused(bench.do("pop3", ReadMeasure("other")))


def test_what_measures_pass_and_hold_is_in_the_log(bench: Bench) -> None:
    limiter = bench.deploy("pop3", "rate-limiter")
    limited = enforce(bench, limiter, limit(target=SERVER))
    enforce(bench, limiter, drop(OTHER, SERVER))  # through which nothing comes

    def told() -> dict[str, float]:
        events = [e for e in bench.log if e.kind == "measures.counted"]
        assert all(e.data["measures"].keys() == {limited} for e in events)
        figures: dict[str, float] = events[-1].data["measures"][limited] if events else {}
        return figures

    mb = (PAYLOAD + HEADERS + ETHERNET) / 1e6
    got = bench.udp(ALL)
    bench.wait(lambda: bool(told()))
    assert told() == pytest.approx({"passed_mb": got * mb, "held_mb": (ALL - got) * mb}, abs=2e-3)
    got += bench.udp(ALL)
    assert isinstance(bench.do("pop3", Lift(limited)), Done)
    whole = {"passed_mb": got * mb, "held_mb": (2 * ALL - got) * mb}
    bench.wait(lambda: told() == pytest.approx(whole, abs=2e-3))


def test_what_cannot_be_enforced_is_refused(bench: Bench) -> None:
    limiter = bench.deploy("pop3", "rate-limiter")
    name = enforce(bench, limiter, limit(target=SERVER))
    for action, why in (
        (Enforce(name, limiter, limit(target=SERVER), "limited"), "exists already"),
        (Enforce("n", limiter, limit(target="10.9.9.9"), "limited"), "no host"),
        (Enforce("n", limiter, limit(link="pop3>nobody"), "limited"), "no link"),
        (Enforce("n", limiter, limit(link="pop1>pop2"), "limited"), "only be kept true at pop1"),
        (Enforce("n", limiter, limit(-1.0, target=SERVER), "limited"), "cannot limit"),
        (Enforce("n", "nobody", limit(target=SERVER), "limited"), "no instance"),
    ):
        assert why in refused(bench.do("pop3", action))
    classifier = bench.deploy("pop3", "classifier")
    assert refused(bench.do("pop3", Enforce("n", classifier, limit(target=SERVER), "limited")))
    assert refused(bench.do("pop3", Observe(limiter, 0.1, ip=SERVER)))
    assert [lease for lease in bench.driver.leases() if lease.startswith("n")] == []


def test_another_instance_takes_a_limit_over(bench: Bench) -> None:
    old, new = (bench.deploy("pop3", "rate-limiter") for _ in range(2))
    enforce(bench, old, drop(CLIENT, SERVER))
    assert isinstance(bench.do("pop3", Transfer(old, new)), Done)
    bench.rest(0.2)
    assert isinstance(bench.do("pop3", Stop(old)), Done)
    bench.wait(lambda: bench.programs() == 1)
    assert bench.udp(20) == 0
    assert isinstance(bench.do("pop3", Stop(new)), Done)
    bench.wait(lambda: bench.udp(20) == 20)


def test_measures_lifted_while_they_are_put_in_force_leave_no_trace(bench: Bench) -> None:
    limiter = bench.deploy("pop2", "rate-limiter", "pop2", "pop3")
    enforce(bench, limiter, drop(CLIENT, SERVER))
    for number in range(12):
        name = f"hasty {number}"
        answers: list[object] = []
        hasty = Enforce(name, limiter, drop(OTHER, SERVER), "dropped")
        bench.driver.perform("pop2", hasty, bench.root, answers.append)
        bench.rest(number * 0.003)
        bench.do("pop2", Lift(name))
        bench.wait(lambda answers=answers: bool(answers))
    bench.rest(0.3)
    assert [tunnel.users for tunnel in bench.driver._tunnels._tunnels.values()] == [1]
    assert bench.udp(20) == 0
    assert bench.udp(20, source=OTHER) == 20


# -- observations -------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"ip": SERVER}, {"link": "pop3>server"}])
@pytest.mark.parametrize("pop", ["pop3", "pop2"])
def test_an_observation_counts_what_passes(bench: Bench, pop: str, how: dict[str, str]) -> None:
    classifier = bench.deploy(pop, "classifier", *dict.fromkeys((pop, "pop3")))
    records = watch(bench, classifier, **how)
    flows = {(flow.source, flow.port): flow for flow in records.flows}
    assert set(flows) == {(CLIENT, 5000), (CLIENT, 80), (OTHER, 80)}
    assert {flow.target for flow in records.flows} == {SERVER}
    datagrams = flows[CLIENT, 5000]
    assert (datagrams.protocol, datagrams.packets, datagrams.replies) == ("udp", 20, 0)
    least = 20 * (PAYLOAD + HEADERS)
    assert least <= datagrams.octets <= least + 20 * ETHERNET
    for source in (CLIENT, OTHER):
        flow = flows[source, 80]
        assert (flow.protocol, flow.syn, flow.established) == ("tcp", 1, 1)
        assert (flow.answered, flow.open) == (1, 0)
        assert flow.replies >= 2
    assert records.coverage == pytest.approx(1)
    assert records.unlisted == 0
    assert records.seconds >= 1
    bench.wait(lambda: len(bench.tables(pop)) == 0)


def test_sources_are_divided_among_observers(bench: Bench) -> None:
    classifier = bench.deploy("pop3", "classifier")
    seen = [
        {flow.source for flow in watch(bench, classifier, ip=SERVER, part=n, parts=2).flows}
        for n in range(2)
    ]
    assert seen[0] | seen[1] == {CLIENT, OTHER}
    assert seen[0] & seen[1] == set()


def test_a_mirror_takes_no_more_than_its_path_holds_and_says_what_is_left_out(
    bench: Bench,
) -> None:
    offered = 4000  # 4 MB within a second; even the narrowest path takes 1 MB/s
    classifier = bench.deploy("pop2", "classifier", "pop2", "pop3", mb_s=0.05)

    def flood() -> None:
        for _ in range(10):
            bench.udp(offered // 10)

    sent = bench.once_watched(classifier, "pop2", flood)
    records = bench.do("pop2", Observe(classifier, 2.0, ip=SERVER))
    sent.result()
    assert isinstance(records, FlowRecords)
    (flow,) = records.flows
    assert 0 < flow.packets < 0.9 * offered
    assert records.coverage == pytest.approx(flow.packets / offered, rel=0.2)


def test_an_observer_sees_what_is_sent_not_what_a_limit_passes(bench: Bench) -> None:
    limiter = bench.deploy("pop2", "rate-limiter", "pop2", "pop3")
    classifier = bench.deploy("pop1", "classifier", "pop1", "pop3", mb_s=10)
    enforce(bench, limiter, drop(CLIENT, SERVER))
    sent = bench.once_watched(classifier, "pop1", lambda: bench.udp(100) and None)
    records = bench.do("pop1", Observe(classifier, 1.0, ip=SERVER))
    sent.result()
    assert isinstance(records, FlowRecords)
    assert [(flow.source, flow.packets) for flow in records.flows] == [(CLIENT, 100)]


def test_a_link_is_read_where_its_monitor_runs(bench: Bench) -> None:
    read = ReadLink("pop3>server", 5.0)
    assert "has no end at pop1" in refused(bench.do("pop1", read))
    bench.deploy("pop3", "link-monitor")
    assert bench.do("pop3", read) == LinkSample("pop3>server", 0, 50, 0)
    begin = time.monotonic()
    assert bench.udp(ALL, over_s=0.3) == ALL
    sample = bench.do("pop3", read)
    assert isinstance(sample, LinkSample)
    octets = ALL * (PAYLOAD + HEADERS + ETHERNET)
    span = time.monotonic() - begin
    assert sample.rate_mb_s * 1e6 == pytest.approx(octets / span, rel=0.3)
