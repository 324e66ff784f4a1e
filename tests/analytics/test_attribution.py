"""What is taken for traffic that nobody serves."""

from phalanx.analytics.attribution import LinkLook, unserved
from phalanx.domain.actions import FlowRecords, FlowStats, LinkSample


def flow(source: str, protocol: str = "tcp", **counts: int) -> FlowStats:
    known = {"packets": 5000, "octets": 5_000_000, "syn": 0, "established": 0, "replies": 0}
    return FlowStats(source, "10.0.0.10", 443, protocol, **{**known, **counts})


def seen(*looks: tuple[FlowStats, ...]) -> LinkLook:
    sample = LinkSample("pop1>server", 0.0, 10.0, 0)
    return LinkLook(1.0, [FlowRecords(flows, 1.0) for flows in looks], sample, ())


def sources(*flows: FlowStats, heard: bool = True) -> list[str]:
    targets = {"10.0.0.10"} if heard else set[str]()
    return [one.source for one in unserved(seen(flows), targets, ())]


def test_uploads_whose_answers_take_another_way_are_not_in_vain() -> None:
    """A recorder may see one direction alone."""
    uploads = [flow(f"10.1.0.{n}") for n in range(4)]
    assert sources(*uploads, heard=False) == []
    assert sources(*uploads) == [u.source for u in uploads]
    answered = flow("10.1.0.9", replies=4000)
    assert sources(*uploads, answered) == [u.source for u in uploads]
    refused = flow("10.1.0.1", resets=900, replies=900, packets=900)
    assert sources(refused, heard=False) == ["10.1.0.1"]
    assert sources(flow("10.1.0.1", "icmp", syn=5000), heard=False) == ["10.1.0.1"]


def in_vain(*looks: tuple[FlowStats, ...], hurt: bool) -> list[tuple[str, str]]:
    known = {"10.0.0.10"}
    found = unserved(seen(*looks), known, known if hurt else ())
    return [(one.source, one.protocol) for one in found]


def test_few_packets_are_in_vain_by_all_looks_together_and_fewer_while_users_suffer() -> None:
    weak = (flow("10.1.0.1", packets=40),)
    assert in_vain(weak, weak, hurt=False) == []
    assert in_vain(weak, weak, weak, weak, weak, hurt=False) == [("10.1.0.1", "tcp")]
    assert in_vain(weak, hurt=True) == [("10.1.0.1", "tcp")]
    assert in_vain((flow("10.1.0.1", packets=10),), hurt=True) == []


def test_who_was_served_in_an_earlier_look_is_not_in_vain_for_a_few_packets() -> None:
    starved = flow("10.1.0.1", packets=40)
    assert in_vain((flow("10.1.0.1", packets=40, replies=9),), (starved,), hurt=True) == []
    echoes = flow("10.1.0.1", "icmp", packets=40)
    served = flow("10.1.0.1", packets=40, replies=30)
    assert in_vain((served, echoes), hurt=True) == [("10.1.0.1", "icmp")]
