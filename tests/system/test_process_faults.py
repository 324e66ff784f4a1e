"""Processes, brokers, connections and disks that fail under attack: nothing twice, nothing lost."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phalanx.bus import subjects
from phalanx.bus.nats.audit import BrokerAudit
from phalanx.fabric.registration import HealthStatus
from phalanx.identity.credentials import Files, tls_context
from phalanx.store.sql import SqlEventStore
from tests.store.small_disk import fill, small_disk
from tests.system.process_checks import check_in_order
from tests.system.process_lab import Lab, processes
from tests.system.process_log import Heard
from tests.system.process_plan import LEASE_S

pytestmark = processes()

ATTACKERS = 2
HOLD_S = 10.0
"""A hold outlives the deadline of its auction by 5 s."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        made.start_all()
        yield made


def blocked(lab: Lab) -> float:
    """Wait until each attacker is blocked; return when that was so."""
    lab.until(
        lambda: len([m for m in lab.in_force() if "flowRateLimited" in m]) == ATTACKERS,
        "each attacker is blocked",
    )
    return lab.last


STAGES: dict[str, tuple[str, Callable[[Heard], str]]] = {
    "auction.called": ("it calls for proposals", lambda h: h.event.agent),
    "auction.bid": ("it has bid", lambda h: h.event.agent),
    "auction.awarded": ("it has won", lambda h: h.event.data["winner"]),
    "instance.downloading": ("it downloads", lambda h: h.event.data["pop"]),
    "measure.applied": ("its measure is just applied", lambda h: h.event.data["pop"]),
}


@pytest.mark.parametrize("again", [True, False], ids=["and is started again", "for good"])
@pytest.mark.parametrize("kind", STAGES, ids=[text for text, _ in STAGES.values()])
def test_an_agent_is_killed_while(lab: Lab, kind: str, again: bool) -> None:
    lab.until(lambda: lab.of(kind), kind)
    found = lab.of(kind)[0]
    victim = STAGES[kind][1](found)
    lab.testbed.kill(victim)
    if again:
        lab.restart(victim)
    check_in_order(lab, found.at, gone=() if again else (victim,))


def test_the_duty_of_an_agent_that_is_killed_with_its_guardian_is_another_s(lab: Lab) -> None:
    home, guardian = "south", "west"
    for victim in (home, guardian):
        lab.testbed.kill(victim)
    left = [pop for pop in lab.pops if pop not in (home, guardian)]

    def owners() -> list[str]:
        return [pop for pop in left if any(lab.status(pop).duties.values())]

    lab.eventually(lambda: len(owners()) == 1, "one of those who live sees to it")
    for victim in (guardian, home):
        lab.restart(victim)
    lab.eventually(
        lambda: any(lab.status(home).duties.values()) and not owners(),
        "its home sees to it again, alone",
    )


def test_the_brokers_lose_their_leader_and_then_one_that_comes_back(tmp_path: Path) -> None:
    with Lab(tmp_path, brokers=3) as lab:
        lab.start_all()
        since = blocked(lab)
        leader = lab.broker(lab.leader())
        assert leader.pid is not None
        os.kill(leader.pid, signal.SIGKILL)
        victim = lab.holder()
        lab.testbed.kill(victim)  # what follows takes auctions, over two brokers
        lab.restart(victim)
        check_in_order(lab, since)
        lab.until(lambda: leader.pid is None, "the broker is gone")
        leader.start(detached=True)
        lab.until(lambda: lab.leader() != leader.settings.name, "another leads")
        other = lab.broker(lab.leader())
        assert other.pid is not None
        os.kill(other.pid, signal.SIGSTOP)  # as if it was cut off from the other two
        lab.rest(8.0)
        os.kill(other.pid, signal.SIGCONT)
        check_in_order(lab, since)


@pytest.mark.parametrize("how", ["is cut off", "stands still"])
def test_an_agent_at_work(tmp_path: Path, how: str) -> None:
    with Lab(tmp_path) as lab:
        lab.relay(*lab.pops)
        lab.start_all()
        since = blocked(lab)
        victim = lab.holder()
        if how == "is cut off":
            lab.relays[victim].cut()
        else:
            lab.testbed.signal(victim, signal.SIGSTOP)
        lab.rest(10.0)
        assert lab.holder() != victim, lab.story()
        if how == "is cut off":
            lab.relays[victim].heal()
        else:
            lab.testbed.signal(victim, signal.SIGCONT)
        lab.until(lambda: lab.serving(victim), f"{victim} is back")
        lab.eventually(lambda: lab.status(victim).events_waiting == 0, "its events are kept")
        check_in_order(lab, since)


def test_who_does_not_read_holds_nobody_up(lab: Lab) -> None:
    (server,) = lab.testbed.brokers.servers
    context = tls_context(Files.of(lab.testbed.bus("operator").parent))
    with socket.create_connection(server.address) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with context.wrap_socket(plain, server_hostname=server.address[0]) as deaf:
            deaf.sendall(
                b"CONNECT {}\r\nSUB in_operator.phx.run.evt.*.> 1\r\n"
                b"SUB in_operator.phx.run.pub.*.> 2\r\nPING\r\n"
            )
            lab.rest(0.5)
            noise = subjects.announcement("run", "lab", "noise")
            log = BrokerAudit(server.settings.log)
            for _ in range(60):
                lab.exchange.publish(noise, b"x" * 500_000)
                lab.rest(0.02)
            since = blocked(lab)
            lab.eventually(lambda: any(r.what == "slow" for r in log.read()), "the broker cuts it")
            log.close()
    check_in_order(lab, since)


def test_full_disks_lose_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 << 20) as disk, Lab(tmp_path) as lab:
        lab.testbed.state("north").parent.mkdir()
        lab.testbed.state("north").symlink_to(disk)
        store = f"sqlite:///{disk / 'history.db'}"
        lab.testbed.start("recorder", "recorder", {"store": store})
        lab.start_all()
        since = blocked(lab)
        filler = fill(disk)
        victim = next(pop for pop in lab.pops if pop not in ("north", lab.holder()))
        lab.testbed.kill(victim)  # so that there is something to say, and to remember
        lab.restart(victim)

        def healths() -> list[HealthStatus]:
            entries = map(lab.registry.get, ("north", "recorder"))
            return [entry.registration.health.status for entry in entries if entry is not None]

        lab.eventually(lambda: healths() == [HealthStatus.DEGRADED] * 2, "both say what they lack")
        filler.unlink()
        lab.eventually(lambda: healths() == [HealthStatus.OK] * 2, "both have recovered")
        lab.testbed.kill("north")
        lab.restart("north")
        check_in_order(lab, since)
        lab.rest(1.0)
        lab.testbed.signal("recorder", signal.SIGINT)
        assert lab.testbed.wait("recorder", 60.0)
        with SqlEventStore(store) as history:
            kept = {event.id for event in history.events("run")}
        assert {one.event.id for one in lab.heard if one.at < lab.last - 2.0} <= kept


def test_clocks_that_are_five_minutes_off(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        lab.start_all(south=300.0, west=-300.0)
        lab.until(lambda: lab.of("auction.called", agent="south"), "it calls for proposals")
        since = lab.last
        lab.testbed.kill("south")  # what others hold for it runs out, by their clocks
        lab.restart("south", skew_s=-300.0)
        blocked(lab)
        lab.rest(3 * LEASE_S)
        check_in_order(lab, since)
        expired = lab.of("lease.expired", what="hold")
        assert all(one.at - since < HOLD_S for one in expired)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ended", "drained"])
def test_each_agent_is_restarted_in_turn(lab: Lab, number: signal.Signals) -> None:
    since = blocked(lab)
    for pop in lab.pops:
        lab.testbed.signal(pop, number)
        lab.until(lambda pop=pop: not lab.testbed.lives(pop), f"{pop} ends")
        lab.restart(pop)
        lab.until(lab.held_off, "the attack is held off")
    check_in_order(lab, since)
