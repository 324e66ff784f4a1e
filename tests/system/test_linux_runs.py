"""Runs on real packets, from end to end, each scenario once.

They keep real time and load the machine, so they run one after the other: ``pytest -m linux
-n 0``. What users get is what their own processes received, and beside them a visitor who is
no part of the run asks for the page with curl.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.linux_runs import (
    Observed,
    Process,
    clean,
    lacking,
    machine,
    observe,
    traces,
)

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

SERVED = 0.9
"""Of before: from this share on, the service counts as back."""
WITHIN_S = 10.0
SPAN_S = 2.0
"""Length of the spans over which users are looked at."""
SETTLED_S = 2.0
"""When all users have come."""
FILTERED = "ddos-linux.yaml"
LIMITED = "ddos-linux.yaml --strategy published"
FLOODS = [FILTERED, LIMITED, "linux/udp-flood.yaml"]
NAMED = [*FLOODS, "linux/slow-http.yaml"]
ATTACKS = [*NAMED, "linux/spoofed.yaml"]
CROWD = "linux/flash-crowd.yaml"


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """Skip all unless the machine can do it."""
    reason = lacking("nginx", "curl", "cc", "ip", "nft", "slowhttptest")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Observed]]:
    """The runs that took place already, by their scenario."""
    return {}


@pytest.fixture
def run(request: pytest.FixtureRequest, runs: dict[str, Observed], tmp_path: Path) -> Observed:
    """The run of the scenario that the test names."""
    scenario = request.param
    if scenario not in runs:
        begins = "crowd" if scenario == CROWD else "attackers"
        file, *options = scenario.split()
        runs[scenario] = observe(file, begins, tmp_path, *options)
    return runs[scenario]


def of(*scenarios: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", scenarios, indirect=True)


def spans(begin: float, end: float) -> Iterator[tuple[float, float]]:
    while begin + SPAN_S <= end:
        yield begin, begin + SPAN_S
        begin += SPAN_S


@of(*ATTACKS)
def test_the_attack_reaches_the_server_and_hurts(run: Observed) -> None:
    (host,) = (host for host in run.summary.hosts if host.host == "server")
    assert host.attack_peak_mb_s > 0
    least = min(run.share(at, at + 0.5) for at in (run.begins + n / 2 for n in range(12)))
    assert least < SERVED


@of(*ATTACKS)
def test_users_are_served_again_within_ten_seconds_and_remain_so(run: Observed) -> None:
    before = run.share(SETTLED_S, run.begins)
    shares = [run.share(*span) for span in spans(run.begins + WITHIN_S, run.ends)]
    assert shares
    assert min(shares) >= SERVED * before, shares
    after = [run.share(*span) for span in spans(run.ends, run.events[-1].time)]
    assert min(after) >= SERVED * before, after


@of(*ATTACKS)
def test_a_visitor_is_served_again_within_ten_seconds(run: Observed) -> None:
    assert run.served(0, run.begins) >= SERVED
    assert run.served(run.begins + WITHIN_S, run.ends) >= SERVED
    assert run.served(run.ends, run.events[-1].time) >= SERVED


@of(*NAMED)
def test_each_attacker_is_blocked_and_no_user_is_held_back_at_the_end(run: Observed) -> None:
    response = run.summary.response
    assert (response.attackers, response.attackers_limited) == (8, 8)
    assert response.users >= 40
    assert response.users_limited == 0


@of(FILTERED)
def test_each_attacker_is_dropped_where_it_enters_and_users_are_not_limited(run: Observed) -> None:
    applied = [e.data for e in run.events if e.kind == "measure.applied"]
    assert {data["verdict"] for data in applied} == {"drop"}
    assert all(data["pop"] == data["entry"] for data in applied)
    entries = {source: data["entry"] for data in applied for source in data["sources"]}
    assert entries == {f"10.4.0.{n}": f"pop{(n - 1) % 4 + 1}" for n in range(1, 9)}
    assert run.count("measure.lifted") == 0 or run.ends < min(
        e.time for e in run.events if e.kind == "measure.lifted"
    )


@of("linux/spoofed.yaml")
def test_against_forged_sources_handshakes_are_answered_by_a_proxy(run: Observed) -> None:
    applied = [e.data for e in run.events if e.kind == "measure.applied"]
    assert {data["verdict"] for data in applied} == {"proxy"}
    assert {data["pop"] for data in applied} == {f"pop{n}" for n in range(1, 5)}
    assert run.summary.response.users_limited == 0


@of(FILTERED, LIMITED)
def test_a_neighbour_of_the_target_feels_nothing(run: Observed) -> None:
    shares = [run.share(*span, "office") for span in spans(SETTLED_S, run.events[-1].time)]
    assert min(shares) >= 0.8  # four users: one page is 2 % of a span
    assert run.share(run.begins, run.ends, "office") >= 0.95


@of(CROWD)
def test_a_crowd_is_served_and_nobody_is_blocked(run: Observed) -> None:
    assert run.share(run.begins + SPAN_S, run.ends) >= 0.95
    assert run.served(run.begins, run.ends) >= 0.95
    assert run.count("measure.applied") == 0
    assert run.summary.response.users_limited == 0
    samples = [e.data["hosts"]["server"] for e in run.events if e.kind == "network.sample"]
    failed = sum(sample["failed"] for sample in samples)
    assert failed <= 0.01 * sum(sample["answered"] for sample in samples)


@of(*ATTACKS, CROWD)
def test_what_is_in_force_at_the_end_is_under_lease(run: Observed) -> None:
    end = run.events[-1]
    assert (end.kind, end.data["reason"]) == ("run.ended", "finished")
    assert set(end.data["leases"]) == run.in_force()
    assert end.data["shed"] == 0
    for kind in ("driver.failed", "vnf.crashed", "agent.crashed", "lease.expired"):
        assert run.count(kind) == 0, kind


@of(*ATTACKS, CROWD)
def test_nothing_is_left_of_a_run(run: Observed) -> None:
    assert run.left == []


# -- runs that are killed -----------------------------------------------------------------


def killed(earliest_s: float, latest_s: float) -> str:
    """Kill a run some time after it has begun to build, and return its mark."""
    with Process("ddos-linux.yaml") as process:
        run = process.run()
        time.sleep(random.uniform(earliest_s, latest_s))
        process.process.kill()
        process.process.wait()
    return run


@pytest.mark.parametrize("moment", [(0, 2), (2, 7), (7, 15)])
def test_a_run_that_is_killed_is_removed_to_the_last_trace(moment: tuple[float, float]) -> None:
    before = machine()
    run = killed(*moment)
    try:
        assert traces(run)
    finally:
        said = clean(run)
    assert traces(run) == []
    assert re.search(rf"removed .*{run}", said)
    assert machine() == before


def test_after_a_run_that_was_killed_another_one_starts_at_once() -> None:
    run = killed(3, 6)
    try:
        with Process("ddos-linux.yaml", "--until", "2") as process:
            other = process.run()
            assert process.wait() == 0, process.text()
        assert traces(other) == []
        assert traces(run)  # nobody has taken it for their own
    finally:
        clean(run)
    assert traces(run) == []
