from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from bus_messages import message
from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus import Bus
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock


class Bench:
    """A faulty bus over one in memory, and the agents ``a``, ``b`` and ``c``."""

    def __init__(self, *plan: FaultRule, seed: int = 1, capacity: int = 10_000) -> None:
        self.clock = VirtualClock()
        self.inner = MemoryBus(self.clock)
        self.bus = FaultyBus(self.inner, self.clock, Random(seed), plan, capacity=capacity)
        self.arrivals: list[tuple[float, str, str]] = []
        for name in "abc":
            self.bus.attach(
                name, lambda got: self.arrivals.append((self.clock.now(), got.receiver, got.id))
            )

    def send(self, count: int = 1, *, first: int = 0, receiver: str = "b") -> None:
        for number in range(first, first + count):
            self.bus.send(message(number, receiver=receiver))

    @property
    def ids(self) -> list[str]:
        return [got for _, _, got in self.arrivals]


def test_without_rules_it_is_the_bus() -> None:
    bench = Bench()
    bus: Bus = bench.bus
    bench.send(3)
    bench.clock.run()
    assert bench.ids == ["m0", "m1", "m2"]
    assert bus.peers() == ("a", "b", "c")
    bus.detach("b")
    bench.send()
    bench.clock.run()
    assert bench.inner.lost_detached == 1


@pytest.mark.parametrize(("kind", "ids"), [("lose", []), ("duplicate", ["m0", "m0", "m1", "m1"])])
def test_each_message_is_lost_or_doubled(kind: Any, ids: list[str]) -> None:
    bench = Bench(FaultRule(kind, 1.0))
    bench.send(2)
    bench.clock.run()
    assert bench.ids == ids
    assert bench.bus.counts[kind] == 2


def test_delay() -> None:
    bench = Bench(FaultRule("delay", 1.0, delay_s=2.5))
    bench.send()
    assert bench.bus.held == 1
    bench.clock.run()
    assert bench.arrivals == [(2.5, "b", "m0")]
    assert bench.bus.held == 0
    assert bench.bus.counts["delay"] == 1


def test_reorder_lets_the_next_message_to_the_receiver_overtake() -> None:
    bench = Bench(FaultRule("reorder", 1.0, end_s=1.0, delay_s=5.0))
    bench.send()
    bench.clock.run(until=1.0)
    bench.send(first=1, receiver="c")
    bench.send(first=2)
    bench.clock.run()
    assert bench.arrivals == [(1.0, "c", "m1"), (1.0, "b", "m2"), (1.0, "b", "m0")]
    assert bench.bus.counts["reorder"] == 1
    assert bench.clock.now() == 1.0, "the timer of an overtaken message is taken back"


def test_reorder_waits_no_longer_than_its_delay() -> None:
    bench = Bench(FaultRule("reorder", 1.0, delay_s=5.0))
    bench.send()
    bench.clock.run()
    assert bench.arrivals == [(5.0, "b", "m0")]


def test_rules_apply_in_order_to_what_the_others_left() -> None:
    bench = Bench(FaultRule("duplicate", 1.0), FaultRule("delay", 1.0), FaultRule("lose", 1.0))
    bench.send()
    bench.clock.run()
    assert bench.bus.counts == {"lose": 2, "duplicate": 1, "delay": 2, "reorder": 0}


def test_what_was_late_goes_on_with_the_rules_behind() -> None:
    bench = Bench(
        FaultRule("duplicate", 1.0),
        FaultRule("reorder", 1.0, end_s=1.0, delay_s=5.0),
        FaultRule("delay", 1.0, start_s=1.0, delay_s=2.0, agent="b"),
    )
    bench.send(receiver="c")
    bench.send(first=1)
    bench.clock.run(until=1.0)
    bench.send(first=2, receiver="c")
    bench.clock.run()
    assert bench.ids == ["m2", "m0", "m0", "m2", "m1", "m1"]
    assert bench.bus.counts == {"lose": 0, "duplicate": 3, "delay": 2, "reorder": 4}


def test_a_rule_has_a_period_that_excludes_its_end() -> None:
    bench = Bench(FaultRule("lose", 1.0, start_s=1.0, end_s=2.0))
    for at in (0.5, 1.0, 1.5, 2.0):
        bench.clock.run(until=at)
        bench.send(first=int(at * 10))
    bench.clock.run()
    assert bench.ids == ["m5", "m20"]


def test_a_rule_for_an_agent_concerns_what_it_sends_and_gets() -> None:
    bench = Bench(FaultRule("lose", 1.0, agent="c"))
    bench.bus.send(message(1, "a", "c"))
    bench.bus.send(message(2, "c", "a"))
    bench.bus.send(message(3, "a", "b"))
    bench.clock.run()
    assert bench.ids == ["m3"]


def test_when_too_many_are_late_others_are_on_time() -> None:
    bench = Bench(FaultRule("delay", 1.0), capacity=2)
    bench.send(4)
    bench.clock.run()
    assert bench.ids == ["m2", "m3", "m0", "m1"]
    assert bench.bus.counts["delay"] == 2


def test_share_is_a_share() -> None:
    bench = Bench(FaultRule("lose", 0.25))
    bench.send(4_000)
    assert 900 < bench.bus.counts["lose"] < 1_100


RULES = st.builds(
    FaultRule,
    st.sampled_from(["lose", "duplicate", "delay", "reorder"]),
    st.floats(0, 1),
    start_s=st.floats(0, 3),
    agent=st.sampled_from([None, "a", "c"]),
    delay_s=st.floats(0.1, 3),
)


@given(
    plan=st.lists(RULES, max_size=4),
    seed=st.integers(),
    sends=st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), max_size=30),
    capacity=st.integers(0, 5),
)
def test_counts_match_and_the_seed_decides(
    plan: list[FaultRule], seed: int, sends: list[tuple[float, str]], capacity: int
) -> None:
    def run() -> tuple[Bench, dict[str, int]]:
        bench = Bench(*plan, seed=seed, capacity=capacity)
        for number, (pause, receiver) in enumerate(sends):
            bench.clock.run(bench.clock.now() + pause)
            bench.send(first=number, receiver=receiver)
            passed = sum(bench.inner.sent.values())
            counts = bench.bus.counts
            assert number + 1 + counts["duplicate"] == passed + counts["lose"] + bench.bus.held
        bench.clock.run()
        return bench, bench.bus.counts

    bench, counts = run()
    again, counts_again = run()
    assert bench.bus.held == 0
    assert len(bench.arrivals) == len(sends) + counts["duplicate"] - counts["lose"]
    assert (bench.arrivals, counts) == (again.arrivals, counts_again)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "explode"),
        ("share", 1.5),
        ("share", -0.1),
        ("share", float("nan")),
        ("start_s", -1.0),
        ("start_s", float("inf")),
        ("end_s", 0.0),
        ("end_s", float("nan")),
        ("delay_s", 0.0),
        ("delay_s", float("inf")),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"kind": "lose", "share": 0.5, field: value}
    with pytest.raises(ValueError, match=f"^{field} is "):
        FaultRule(**fields)


def test_a_rule_of_a_scenario_knows_no_other_fields() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `chance`"):
        msgspec.convert({"kind": "lose", "share": 0.5, "chance": 1}, FaultRule)
