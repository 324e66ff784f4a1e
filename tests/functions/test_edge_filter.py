"""At which ports an edge filter drops forged UDP."""

from types import SimpleNamespace
from typing import Any

import pytest

from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.domain.actions import FlowRecords, FlowStats
from phalanx.domain.predicates import AttackFiltered, EntryScreened
from phalanx.functions.edge_filter import UDP_TO, EdgeFilter

SERVER = "10.0.0.10"


def flow(source: str, port: int, packets: int = 1, replies: int = 0) -> FlowStats:
    return FlowStats(source, SERVER, port, "udp", packets, 100 * packets, 0, 0, replies)


def forged(*ports: int) -> list[FlowStats]:
    """Return a packet of each of a thousand sources, to one of the ports in turn."""
    return [flow(f"172.16.{i // 250}.{i % 250}", ports[i % len(ports)]) for i in range(1000)]


def ports(flows: list[FlowStats], *, over_udp: bool = False, before: int | None = None) -> Any:
    beliefs = BeliefBase()
    if before is not None:
        what = f"{UDP_TO}{before} that nobody answers"
        beliefs.put(AttackFiltered(SERVER, "pop1", what), Belief(True, None, "", 0.0))
    me: Any = SimpleNamespace(beliefs=beliefs)
    records = FlowRecords(tuple(flows), 1.0)
    return EdgeFilter._ports(me, EntryScreened(SERVER, "pop1"), records, over_udp=over_udp)


CLIENT = flow("10.1.0.1", 53, packets=20)
"""It got no answer in this look, as everything is full of forged UDP."""


@pytest.mark.parametrize(("over_udp", "dropped"), [(False, [None]), (True, [])])
def test_without_a_flooded_port_all_is_dropped_unless_others_are_answered(over_udp, dropped):
    assert ports([CLIENT], over_udp=over_udp) == dropped


def test_who_asks_at_another_port_is_left_alone():
    assert ports([CLIENT, *forged(443)]) == [443]


def test_a_flood_to_many_ports_is_dropped_at_all():
    assert ports(forged(*range(1000, 1100))) == [None]


@pytest.mark.parametrize(("over_udp", "dropped"), [(False, [None]), (True, [8443])])
def test_a_flood_that_goes_to_another_port_is_dropped_at_all(over_udp, dropped):
    assert ports(forged(8443), over_udp=over_udp, before=443) == dropped
    assert ports(forged(443), before=443) == [443]
