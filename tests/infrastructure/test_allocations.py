from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)
from small_network import AT_HAND, SMALL, TOTAL, VNFD, World, line
from tests.nightly import examples

from phalanx.domain.actions import (
    Deploy,
    Done,
    Failed,
    Hold,
    Rechain,
    Release,
    Renew,
    Scale,
    Stop,
    Transfer,
)
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.infrastructure.reservations.allocations import ComputeAllocations, LinkAllocations
from phalanx.infrastructure.reservations.topology import Topology
from phalanx.infrastructure.simulated import InvariantError


class Books(RuleBasedStateMachine):
    """Anything that agents may ask for, in any order, against what must always hold."""

    holds = Bundle("holds")
    instances = Bundle("instances")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(line(4))
        self.asked = 0

    def name(self) -> str:
        self.asked += 1
        return f"name{self.asked}"

    @rule(
        target=holds,
        group=st.sampled_from("abc"),
        ends=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        cores=st.sampled_from([0.0, 0.1, 1.0, 2.5]),
        mb_s=st.sampled_from([0.0, 0.1, 3.3, 6.0, 11.0]),
        ttl=st.sampled_from([2.0, 50.0]),
    )
    def hold(
        self, group: str, ends: tuple[int, int], cores: float, mb_s: float, ttl: float
    ) -> tuple[PopId, str]:
        start, end = ends
        step = 1 if end >= start else -1
        path = tuple(f"pop{i}" for i in range(start, end + step, step))
        name = self.name()
        amount = Resources(cores, cores, cores)
        self.world.do(path[0], Hold(name, group, amount, path, mb_s, ttl))
        return path[0], name

    @rule(hold=consumes(holds))
    def release(self, hold: tuple[PopId, str]) -> None:
        assert self.world.do(hold[0], Release(hold[1])) == Done()

    @rule(target=instances, hold=holds, cores=st.sampled_from([0.1, 1.0]))
    def deploy(self, hold: tuple[PopId, str], cores: float) -> tuple[PopId, str]:
        name = self.name()
        vnfd = type(VNFD)("vnf", Resources(cores, cores, cores), image_mb=20.0, boot_s=0.5)
        self.world.ask(hold[0], Deploy(name, hold[1], vnfd, 1, 30.0))
        return hold[0], name

    @rule(instance=instances, units=st.integers(1, 9), mb_s=st.sampled_from([0.0, 0.7, 5.0]))
    def scale(self, instance: tuple[PopId, str], units: int, mb_s: float) -> None:
        self.world.do(instance[0], Scale(instance[1], units, mb_s))

    @rule(instance=instances, hold=holds)
    def rechain(self, instance: tuple[PopId, str], hold: tuple[PopId, str]) -> None:
        self.world.do(instance[0], Rechain(instance[1], hold[1]))

    @rule(instance=instances, to=instances)
    def transfer(self, instance: tuple[PopId, str], to: tuple[PopId, str]) -> None:
        self.world.do(instance[0], Transfer(instance[1], to[1]))

    @rule(instance=consumes(instances))
    def stop(self, instance: tuple[PopId, str]) -> None:
        assert isinstance(self.world.do(*_stop(instance)), Done)

    @rule(instance=instances)
    def renew(self, instance: tuple[PopId, str]) -> None:
        self.world.do(instance[0], Renew((instance[1],), 40.0))

    @rule(link=st.integers(1, 3), up=st.booleans())
    def switch(self, link: int, up: bool) -> None:
        change = self.world.net.restore_link if up else self.world.net.fail_link
        change(f"pop{link}", f"pop{link + 1}")

    @rule(away=st.booleans())
    def repository(self, away: bool) -> None:
        self.world.net.repository_away(away)

    @precondition(lambda self: self.world.clock.now() < 1000)
    @rule(seconds=st.sampled_from([0.05, 1.0, 25.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(self.world.clock.now() + seconds)

    @invariant()
    def nothing_is_over_committed(self) -> None:
        self.world.net.check()

    def teardown(self) -> None:
        self.world.run(self.world.clock.now() + 100.0)
        assert self.world.net.leases() == []
        assert self.world.net.free() == dict.fromkeys(self.world.net.free(), TOTAL)
        for pop in self.world.net.free():
            state = self.world.net.site(pop)
            everything = Hold(f"all of {pop}", "all", TOTAL, (pop,), 0.0, 1.0)
            assert self.world.ask(pop, everything) == [Done()]
            assert [link.reserved_mb_s for link in state.links] == [0.0] * len(state.links)
        told = [event.data["chain"] for event in self.world.of_kind("chain.opened")]
        assert sorted(told) == sorted(
            event.data["chain"] for event in self.world.of_kind("chain.closed")
        )


def _stop(instance: tuple[PopId, str]) -> tuple[PopId, Stop]:
    return instance[0], Stop(instance[1])


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=examples(16), stateful_step_count=30)


def test_refusals_name_what_lacks() -> None:
    world = World(line())
    assert world.do("pop5", Hold("a", "g", Resources(5, 1, 1), (), 0, 9)) == Done()
    assert world.do("pop5", Hold("b", "g", Resources(2, 1, 1), (), 0, 9)) == Failed(
        "needs 2 cores, 1 free"
    )
    path = ("pop5", "pop6")
    assert world.do("pop5", Hold("c", "g", SMALL, path, 7.0, 9)) == Done()
    assert world.do("pop6", Hold("d", "h", SMALL, ("pop6", "pop5"), 4.0, 9)) == Failed(
        "link pop5-pop6 has 3 MB/s free, needs 4"
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("pop4", "pop5"), "the path begins at pop4, not at pop5"),
        (("pop5", "pop3"), "no link joins pop5 and pop3"),
        (("pop5", "pop6", "pop5"), "the path passes a PoP twice"),
    ],
)
def test_paths_that_are_none_are_refused(path: tuple[str, ...], reason: str) -> None:
    assert World(line()).do("pop5", Hold("a", "g", SMALL, path, 1.0, 9)) == Failed(reason)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_impossible_amounts_are_refused(amount: float) -> None:
    world = World(line())
    for hold in (
        Hold("a", "g", Resources(amount), (), 0.0, 9.0),
        Hold("a", "g", SMALL, ("pop5", "pop6"), amount, 9.0),
        Hold("a", "g", SMALL, (), 0.0, amount),
    ):
        assert isinstance(world.do("pop5", hold), Failed)
    assert world.net.leases() == []


def test_holds_of_one_auction_share_a_link() -> None:
    world = World(line())
    for pop in ("pop1", "pop2", "pop3"):
        path = tuple(f"pop{i}" for i in range(int(pop[-1]), 7))
        assert world.do(pop, Hold(pop, "auction", SMALL, path, 8.0, 99.0)) == Done()
    other = Hold("other", "another", SMALL, ("pop5", "pop6"), 3.0, 99.0)
    assert isinstance(world.do("pop5", other), Failed)
    # The winner commits while the losers still hold: the link still counts 8 MB/s once.
    world.ask("pop3", Deploy("vnf", "pop3", AT_HAND, 1, 99.0))
    world.net.check()
    assert isinstance(world.do("pop5", other), Failed)
    # A second winner of the same auction does not fit any more.
    assert world.ask("pop2", Deploy("second", "pop2", AT_HAND, 1, 99.0)) == [
        Failed("link pop3-pop4 has 2 MB/s free, needs 8")
    ]
    world.do("pop1", Release("pop1"))
    world.do("pop3", Stop("vnf"))
    assert world.do("pop5", other) == Done()


def test_reservations_are_told_in_their_own_direction() -> None:
    world = World(line())
    world.deploy("pop4", path=("pop4", "pop5"), mb_s=4.0)
    assert {li.to: li.reserved_mb_s for li in world.net.site("pop5").links}["pop4"] == 4.0
    assert {li.to: li.reserved_mb_s for li in world.net.site("pop4").links}["pop5"] == 0.0
    opened = world.of_kind("chain.opened")[0].data
    assert (opened["purpose"], opened["path"], opened["mb_s"]) == ("mirror", ["pop4", "pop5"], 4.0)


def test_free_amounts_come_back_exactly() -> None:
    book = ComputeAllocations({"pop": Resources(1.0, 1.0, 1.0)})
    for number, amount in enumerate((0.1, 0.2, 0.3)):
        assert book.allocate("pop", str(number), Resources(amount, amount, amount)) is None
    for number in (1, 0, 2):
        book.free_up("pop", str(number))
    assert book.free("pop") == Resources(1.0, 1.0, 1.0)


def test_a_wrong_book_is_noticed() -> None:
    topology = Topology(line(2))
    links = LinkAllocations(topology)
    links.check()
    links.hold("g", ("pop1", "pop2"), 4.0)
    links._claims["pop1", "pop2"]["g"].committed["x"] = 10.5
    with pytest.raises(InvariantError, match="pop1-pop2"):
        links.check()
    compute = ComputeAllocations({"pop": SMALL})
    compute._held["pop"]["x"] = TOTAL
    with pytest.raises(InvariantError, match="pop is over-committed"):
        compute.check()
