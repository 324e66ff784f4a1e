"""The plan of a testbed: names and addresses, nothing made."""

from __future__ import annotations

from itertools import pairwise

import pytest

from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import HTTP, SYN_FLOOD, Source
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.testrange.testbed import draw

TOTAL = Resources(1.0, 1.0, 1.0)


def network(*pops: str, hosts: tuple[Host, ...] = ()) -> Network:
    links = tuple(Link(a, b, 10.0, 5.0) for a, b in pairwise(pops))
    return Network(tuple(Pop(name, TOTAL) for name in pops), links, hosts, pops[0])


def user(name: str, group: str, at: str, address: str) -> Source:
    return Source(name, group, at, address, "10.0.0.1", 80, HTTP, 0.1)


def attacker(name: str, at: str, address: str) -> Source:
    return Source(name, "attackers", at, address, "10.0.0.1", 80, SYN_FLOOD, 0.1)


def test_users_of_a_group_at_a_pop_share_a_namespace_and_attackers_do_not() -> None:
    plan = draw(
        "00000a",
        network("a", "b"),
        [
            user("u-1", "u", "a", "10.1.0.1"),
            user("u-2", "u", "a", "10.1.0.2"),
            user("u-3", "u", "b", "10.1.0.3"),
            attacker("x-1", "a", "10.9.0.1"),
            attacker("x-2", "a", "10.9.0.2"),
        ],
    )
    assert plan.homes == {
        "u-1": "phx-00000a-u-a",
        "u-2": "phx-00000a-u-a",
        "u-3": "phx-00000a-u-b",
        "x-1": "phx-00000a-x-1",
        "x-2": "phx-00000a-x-2",
    }
    assert next(port.addresses for port in plan.at("a")) == ("10.1.0.1", "10.1.0.2")


def test_no_name_stands_twice_and_each_is_fit_for_a_file() -> None:
    host = Host("a", "a", "10.0.0.1", 1.0)
    plan = draw("00000a", network("a", "b/../c", "ü x", hosts=(host,)), [])
    names = [*plan.namespaces.values(), *plan.homes.values()]
    assert names == [
        "phx-00000a-a",
        "phx-00000a-b_.._c",
        "phx-00000a-__x",
        "phx-00000a-a.2",
    ]
    assert plan.devices["a>a"].startswith("h")


def test_underlay_addresses_go_on_beyond_a_block() -> None:
    plan = draw("00000a", network(*(f"p{i}" for i in range(1, 503))), [])
    assert plan.underlay["p1"] == "10.254.0.1"
    assert plan.underlay["p250"] == "10.254.0.250"
    assert plan.underlay["p251"] == "10.254.1.1"
    assert plan.underlay["p502"] == "10.254.2.2"
    assert len(set(plan.underlay.values())) == 502
    macs = [mac for join in plan.joins for mac in (join.mac_a, join.mac_b)]
    assert len(set(macs)) == len(macs)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.254.3.4", "reserved"),
        ("127.0.0.1", "reserved"),
        ("2001:db8::1", "no IPv4 address"),
        ("10.0.0.1", "both have 10.0.0.1"),
    ],
)
def test_unusable_addresses_are_refused(address: str, said: str) -> None:
    host = Host("server", "a", "10.0.0.1", 1.0)
    with pytest.raises(KernelError, match=said):
        draw("00000a", network("a", hosts=(host,)), [user("u", "u", "a", address)])
