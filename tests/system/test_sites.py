"""Agents that drive their own sites, over real packets: who is blocked where, after which kill."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.process_lab import processes
from tests.system.sites_lab import (
    ATTACKERS,
    ENTRIES,
    SITES,
    USERS,
    SiteDomain,
    Sites,
    Visitors,
    named,
    until,
)
from tests.system.test_three_machines import Walk, chapter

requires = pytest.importorskip("tests.infrastructure.linux.linux_needs")

pytestmark = [
    *processes(pytest.mark.linux),
    requires.requires_root,
    requires.requires("ip", "nft", "nsenter", "unshare", "cc"),
]

RATE = 1000
LEASE_S = 15.0
"""What an agent holds outlives it for so long: the plan's default."""


@pytest.fixture
def domain(tmp_path) -> Iterator[SiteDomain]:
    with begun(tmp_path) as made:
        yield made


@contextlib.contextmanager
def begun(folder: Path, *, six: bool = False) -> Iterator[SiteDomain]:
    """A domain whose agents serve."""
    with Sites(folder, six=six) as sites:
        sites.serve()
        made = SiteDomain(sites)
        for site in SITES:
            made.start(site)
        until(lambda: made.serving() >= {*SITES}, "not all agents serve")
        yield made


def all_blocked(domain: SiteDomain) -> bool:
    """Whether each entry blocks its attackers, all of them and nobody else."""
    return all(domain.sites.blocked(site) == {*ATTACKERS[site]} for site in ENTRIES)


def dropping(domain: SiteDomain) -> bool:
    """Whether rules at both entries drop packets now."""
    before = {site: sum(domain.sites.dropped(site).values()) for site in ENTRIES}
    time.sleep(0.3)
    return all(sum(domain.sites.dropped(site).values()) > before[site] for site in ENTRIES)


def test_a_flood_through_two_sites_is_blocked_at_both_entries_and_nothing_is_left(domain):
    sites = domain.sites
    visitors = Visitors(sites)
    try:
        time.sleep(1.0)
        begun, begun_wall = time.monotonic(), time.time()
        for site in ENTRIES:
            sites.flood(site, 12)
        until(lambda: all_blocked(domain), "not both entries block their attackers")
        assert dropping(domain)
        events = domain.events()
        for site in ENTRIES:
            assert sites.blocked(site).isdisjoint(USERS[site])
        assert visitors.unserved(begun) == {}
    finally:
        visitors.stop()
    limited = {s for e in named(events, "measure.applied") for s in e["data"].get("sources", ())}
    assert limited == {source for site in ENTRIES for source in ATTACKERS[site]}
    alarm = min(e["time"] for e in named(events, "analysis.done") if e["data"]["found"])
    applied = [e["time"] for e in named(events, "measure.applied") if e["agent"] in ENTRIES]
    times = alarm, min(applied), max(applied)
    print(
        "alarm {:.2f} s, first limit {:.2f} s, last block {:.2f} s".format(
            *(each - begun_wall for each in times)
        )
    )

    # No driver acts for another site, and none can be asked to.
    assert {
        e["data"]["pop"] for e in named(events, "measure.applied") if e["agent"] == "north"
    } == {"north"}
    until(lambda: not any(sites.blocked(site) for site in ENTRIES), "blocks outlive the flood", 60)
    for site in SITES:
        sites.do(site, "kill -TERM $(pgrep -f -- --config)")
    for site in SITES:
        until(lambda s=site: not sites[SITES[s]].run("pgrep -f -- --config")[1], f"{site} stays")
        assert sites.tables(site) == []
        assert "nothing to remove" in sites.do(site, "phalanx clean --dry-run")
        assert sites[SITES[site]].run("pgrep -f phalanx-vnf")[1] == ""
        assert "Traceback" not in domain.log(site)


def test_so_is_a_flood_over_ipv6(tmp_path):
    """Sources are networks of 64 bits."""
    with begun(tmp_path, six=True) as domain:
        sites, most = domain.sites, 3 * 4 * RATE
        hostile = {s: {re.sub("::2$", "::/64", a) for a in sites.attackers[s]} for s in ENTRIES}
        visitors = Visitors(sites)
        try:
            time.sleep(1.0)
            begun_at = time.monotonic()
            for site in ENTRIES:
                sites.flood(site, 12, RATE)
            until(
                lambda: all(sites.blocked(s) == hostile[s] for s in ENTRIES),
                "not both entries block their attackers",
            )
            assert dropping(domain)
            crossed = sites.crossed()
            time.sleep(1.0)
            assert 0 < crossed == sites.crossed() < most
            assert visitors.unserved(begun_at) == {}
        finally:
            visitors.stop()
        limited = named(domain.events(), "measure.applied")
        assert {s for e in limited for s in e["data"].get("sources", ())} == set().union(
            *hostile.values()
        )
        until(lambda: not any(sites.blocked(s) for s in ENTRIES), "blocks outlive the flood", 60)
        assert not any("Traceback" in domain.log(site) for site in SITES)


def test_what_is_in_force_survives_the_kill_of_each_process(domain):
    sites = domain.sites
    for site in ENTRIES:
        sites.flood(site, 120)
    until(lambda: all_blocked(domain), "not both entries block their attackers")
    assert dropping(domain)
    rules = {site: {*sites.dropped(site)} for site in ENTRIES}
    crossed = sites.crossed()
    assert crossed > 0

    for victim in ("north", "south", "east"):
        domain.kill(victim)
        assert all_blocked(domain)  # the kernel keeps the leases
        domain.start(victim)
        back = f"agent {victim} of the domain edge, life 2"
        until(lambda s=victim, b=back: b in domain.log(s), f"{victim} does not come back")
        assert all_blocked(domain)
        assert dropping(domain)
    for program in ("/run/phalanx/.*/edge-filter", "forkserver.py"):  # a VNF; then what started it
        time.sleep(3.0)
        sites.do("north", f"kill -9 $(pgrep -f '{program}')")
        assert all_blocked(domain)
        until(lambda: "phalanx-vnf" in sites[1].run("pgrep -af edge-filter")[1], "no VNF any more")
    assert dropping(domain)

    broker = "nats-server"
    sites.do("north", f"kill -9 $(pgrep {broker})")
    domain.kill("south")  # whose agent has to begin without a broker
    domain.start("south")
    time.sleep(LEASE_S + 2)  # all leases of before have run out
    assert all_blocked(domain)
    domain.start_broker()
    until(lambda: domain.serving() >= {*SITES}, "not all agents serve again")
    assert all_blocked(domain)
    assert dropping(domain)

    assert sites.crossed() == crossed  # not one packet of an attacker has come through since
    recovered = named(domain.events(), "lease.recovered")
    for site in ENTRIES:  # the same rules, never made anew: they have the name of their first life
        assert {*sites.dropped(site)} == rules[site]
        lives = {e["data"]["measure"].partition(":")[0] for e in recovered if e["agent"] == site}
        assert lives == {f"{site}.1"}

    sites.close()  # the flood ends
    until(lambda: not any(sites.blocked(site) for site in ENTRIES), "a block is left behind", 60)
    assert not any("Traceback" in domain.log(site) for site in SITES)


def test_a_site_that_does_not_come_back_leaves_no_rule_behind(domain):
    sites = domain.sites
    time.sleep(3.0)
    sites.do("east", "kill -9 $(pgrep -f '^phalanx-vnf .*service-monitor')")  # it is started again
    until(lambda: "it was started again" in str(domain.events()), "the monitor is gone")
    sites.flood("north", 60)
    attackers = {*ATTACKERS["north"]}
    until(lambda: sites.blocked("north") == attackers, "the entry does not block")
    domain.kill("north")
    killed = time.monotonic()
    assert sites.blocked("north") == attackers
    held = sum(sites.dropped("north").values())
    time.sleep(max(0.0, killed + LEASE_S + 2 - time.monotonic()))
    then = sum(sites.dropped("north").values())
    time.sleep(1.0)
    assert then > held
    assert sum(sites.dropped("north").values()) == then  # the rule has ended with its lease
    said = sites.do("north", "phalanx clean")
    assert re.search(r"table netdev phx_[0-9a-f]{8}", said), said
    assert sites.tables("north") == []


def test_the_page_of_sites_from_its_text(tmp_path):
    with Sites(tmp_path) as sites:
        sites.serve()
        walk = Walk(sites)
        for step in chapter("Each site its own driver"):
            if "attackFiltered" in step.says:
                for site in ENTRIES:
                    sites.flood(site, 20)
            walk.do(step)
        walk.ended(1, 2, 3)
        assert all(sites.tables(site) == [] for site in SITES)
