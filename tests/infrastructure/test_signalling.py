"""Signalling load: devices that ask again, and functions that ask each other."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from small_network import SERVER, World, line
from tests.nightly import at_night

from phalanx.domain.actions import Done, ReadService, ServiceSample
from phalanx.domain.network import Host, HostLimits
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import SIGNALLING, SIGNALLING_STORM, Source

SMF = "10.0.5.10"
REQUEST_MB = 0.0015
"""Ten messages of 150 octets."""


def devices(
    requests_s: float, *, count: int = 20, storm: bool = False, start_s: float = 0.0, end_s=None
) -> list[Source]:
    group = 2 if storm else 1
    profile = SIGNALLING_STORM if storm else SIGNALLING
    each = requests_s * REQUEST_MB / count
    return [
        Source(
            f"device{group}-{i}",
            profile.name,
            f"pop{i % 4 + 1}",
            f"10.{group}.0.{i + 1}",
            SERVER,
            38412,
            profile,
            each,
            start_s,
            end_s,
        )
        for i in range(count)
    ]


def core(
    sources: list[Source],
    amf_s: float | None = 100.0,
    smf_s: float | None = None,
    share: float = 0.6,
) -> World:
    network = line(mb_s=100.0)
    amf = replace(
        network.hosts[0],
        limits=None if amf_s is None else HostLimits(requests_s=amf_s),
        calls={"smf": share},
    )
    smf = Host("smf", "pop5", SMF, 100.0, limits=HostLimits(requests_s=smf_s))
    return World(replace(network, hosts=(amf, smf)), sources)


def sample(made: World, host: str) -> dict[str, float]:
    figures: dict[str, float] = made.of_kind("network.sample")[-1].data["hosts"][host]
    return {name: mb_s / REQUEST_MB for name, mb_s in figures.items()}


def metrics(made: World, address: str) -> dict[str, float]:
    read = made.do("pop6", ReadService(address))
    assert isinstance(read, ServiceSample)
    return read.metrics


def test_devices_are_served_where_there_is_room() -> None:
    made = core(devices(50.0), 100.0, 100.0)
    made.run(30.0)
    assert sample(made, "server")["legitimate_mb_s"] == pytest.approx(50.0, rel=1e-3)
    assert sample(made, "server")["wanted_mb_s"] == pytest.approx(50.0, rel=1e-3)
    assert metrics(made, SERVER)["requests_s"] == pytest.approx(50.0, rel=1e-3)
    assert metrics(made, SMF)["requests_s"] == pytest.approx(30.0, rel=1e-3)


def test_an_overload_feeds_itself_up_to_five_attempts() -> None:
    """Of requests of which a share f is not answered there are 1 + f + f² + f³ + f⁴ as many."""
    made = core(devices(200.0), 100.0)
    made.run(200.0)
    seen = sample(made, "server")
    missed = 1 - seen["legitimate_mb_s"] / seen["wanted_mb_s"]
    assert seen["legitimate_mb_s"] == pytest.approx(100.0, rel=0.01)
    assert seen["wanted_mb_s"] == pytest.approx(200.0 * sum(missed**k for k in range(5)), rel=0.05)
    assert seen["wanted_mb_s"] > 500.0  # though only 200 devices a second ask for something


def test_what_ends_an_overload_ends_the_attempts() -> None:
    storm = devices(400.0, storm=True, start_s=10.0, end_s=40.0)
    made = core([*devices(50.0), *storm], 100.0)
    made.run(39.0)
    assert sample(made, "server")["wanted_mb_s"] > 80.0
    made.run(150.0)
    seen = sample(made, "server")
    assert seen["malicious_mb_s"] == 0
    assert seen["wanted_mb_s"] == pytest.approx(50.0, rel=0.05)
    assert seen["legitimate_mb_s"] == pytest.approx(seen["wanted_mb_s"], rel=1e-3)


@at_night
def test_devices_that_were_cut_off_come_back_as_a_crowd() -> None:
    made = core(devices(50.0), 1000.0)
    made.run(10.0)
    made.net.fail_link("pop5", "pop6")
    made.run(70.0)
    made.net.restore_link("pop5", "pop6")
    made.run(72.0)
    assert sample(made, "server")["legitimate_mb_s"] > 100.0
    made.run(170.0)
    assert sample(made, "server")["legitimate_mb_s"] == pytest.approx(50.0, rel=0.05)


def test_devices_that_start_late_have_missed_nothing() -> None:
    made = core(devices(50.0, start_s=30.0), 1000.0)
    made.run(32.0)
    assert sample(made, "server")["legitimate_mb_s"] == pytest.approx(50.0, rel=0.01)


def test_a_request_needs_all_that_are_asked_for_it() -> None:
    """Of 90 requests 54 ask the SMF, which answers 27: 63 are answered, the others come again."""
    made = core(devices(90.0), 1000.0, 27.0)
    made.run(3.0)
    asked = metrics(made, SERVER)["requests_s"]
    assert sample(made, "server")["legitimate_mb_s"] == pytest.approx(0.4 * asked + 27.0, rel=0.05)
    assert sample(made, "server")["legitimate_mb_s"] < asked * 0.75


@pytest.mark.parametrize(("target", "host"), [(SERVER, SERVER), (SMF, SMF)])
def test_replicas_answer_a_share_of_devices_and_of_calls(target: str, host: str) -> None:
    made = core(devices(160.0, count=200), 100.0 if target == SERVER else None, 50.0)
    made.run(2.0)
    made.deploy("pop3", path=("pop3",))
    made.run(4.0)
    full = metrics(made, host)["requests_s"]
    match = TrafficMatch(target=target, part=1, parts=2)
    rule = TrafficRule(match, TrafficVerdict.SERVE, {"rate_mb_s": 10.0})
    assert isinstance(made.enforce("replica", rule, "pop3"), Done)
    made.run(8.0)
    assert metrics(made, host)["requests_s"] == pytest.approx(full / 2, rel=0.35)
    if target == SERVER:  # the replica's requests ask for sessions, too
        assert metrics(made, SMF)["requests_s"] > 0.6 * 150


def test_the_truth_of_calls_is_that_of_who_asked() -> None:
    made = core([*devices(40.0), *devices(20.0, storm=True)], 100.0, 100.0, share=0.5)
    made.run(5.0)
    seen = sample(made, "smf")
    assert seen["legitimate_mb_s"] == pytest.approx(2 * seen["malicious_mb_s"], rel=1e-3)


def test_calls_that_lead_back_are_refused() -> None:
    network = line()
    amf = replace(network.hosts[0], calls={"smf": 0.5})
    smf = Host("smf", "pop5", SMF, 100.0, calls={"server": 0.5})
    with pytest.raises(ValueError, match="cycle"):
        World(replace(network, hosts=(amf, smf)), [])
    with pytest.raises(ValueError, match="no host smf"):
        World(replace(network, hosts=(amf,)), [])
