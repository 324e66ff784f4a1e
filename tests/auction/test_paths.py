from __future__ import annotations

import random
from itertools import pairwise

import pytest
from auction_networks import NEEDS, asked, measured, network, random_network, simple_paths
from hypothesis import example, given
from hypothesis import strategies as st

from phalanx.auction.cost import Pricing
from phalanx.auction.paths import (
    PathResult,
    download_time_s,
    hop_costs,
    lowest_cost_path,
    published_path,
    throughputs,
)
from phalanx.auction.view import NetworkView
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

IMAGE = Vnfd("function", Resources(1.0, 1.0, 1.0), image_mb=500.0)

ROOM = Resources(4, 4, 4)
"""Total and free alike: passing such a PoP costs 1."""


def plain(*links: tuple[str, str, float, float]) -> NetworkView:
    """A network of empty PoPs from links (a, b, MB/s, ms) without loss."""
    names = sorted({end for link in links for end in link[:2]})
    return network(
        [(name, ROOM, ROOM) for name in names],
        [(a, b, mb_s, ms, 0.0, 0.0, 0.0) for a, b, mb_s, ms in links],
    )


def within(goal: ConstrainedGoal, figures: tuple[float, float, float, float], hops: int) -> bool:
    _, latency, loss, free = figures
    c = goal.constraints
    return (
        (c.latency_ms is None or latency <= c.latency_ms + 1e-9)
        and (c.loss is None or loss <= c.loss + 1e-9)
        and (c.hops is None or hops <= c.hops)
        and (goal.traffic_mb_s == 0 or free >= goal.traffic_mb_s - 1e-9)
    )


def random_goal(rng: random.Random, view: NetworkView, source: str, tap: str) -> ConstrainedGoal:
    """A goal whose limits some path just keeps, if there is a path at all."""
    paths = list(simple_paths(view, source, tap)) or [(source,)]
    _, latency, loss, _ = measured(view, rng.choice(paths), 0.0)
    return asked(
        tap,
        traffic_mb_s=rng.choice((0.0, 0.0, 3.0)),
        latency_ms=rng.choice((None, latency, latency * 0.9)),
        loss=rng.choice((None, measured(view, rng.choice(paths), 0.0)[2], loss)),
        hops=rng.choice((None, None, len(rng.choice(paths)) - 1)),
    )


@given(
    st.integers(0, 2**32),
    st.integers(1, 7),
    st.integers(0, 9),
    st.sampled_from(("published", "capacity", "scarcity")),
)
def test_exact_search_agrees_with_looking_at_every_path(
    seed: int, size: int, extra: int, pricing: Pricing
) -> None:
    rng = random.Random(seed)
    view = random_network(rng, size, extra)
    tap = rng.choice(view.pops)
    goal = random_goal(rng, view, rng.choice(view.pops), tap)
    for source in view.pops:
        # The last is what only an outdated view can suggest: dearer than passing.
        passing = hop_costs(view, NEEDS, pricing)[source]
        for source_cost in (0.0, passing / 3, passing, passing + 0.25):
            best = min(
                (
                    figures[0]
                    for path in simple_paths(view, source, tap)
                    if within(
                        goal,
                        figures := measured(view, path, source_cost, pricing),
                        len(path) - 1,
                    )
                ),
                default=None,
            )
            found = lowest_cost_path(view, source, source_cost, goal, NEEDS, pricing)
            if best is None:
                assert isinstance(found, str)
                continue
            assert isinstance(found, PathResult)
            assert found.cost == pytest.approx(best, rel=1e-9, abs=1e-9)
            assert (found.path[0], found.path[-1]) == (source, tap)
            assert len(set(found.path)) == len(found.path) == found.hops + 1
            figures = measured(view, found.path, source_cost, pricing)
            assert (found.cost, found.latency_ms, found.loss) == pytest.approx(figures[:3])
            assert within(goal, figures, found.hops)


@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(0, 9))
def test_widest_path_agrees_with_looking_at_every_path(seed: int, size: int, extra: int) -> None:
    rng = random.Random(seed)
    view = random_network(rng, size, extra)
    repository = rng.choice(view.pops)
    rooms = {(pop, arc[0]): arc[4] for pop in view.pops for arc in view.outgoing[pop]}
    for pop in view.pops:
        width = max(
            min((rooms[hop] for hop in pairwise(path)), default=float("inf"))
            for path in simple_paths(view, repository, pop)
        )
        assert throughputs(view, repository)[pop] == width
        assert download_time_s(view, repository, pop, IMAGE) == 500.0 / width


def test_downloads_from_nowhere_over_nothing_and_at_home() -> None:
    view = network(
        [("a", ROOM, ROOM), ("b", ROOM, ROOM), ("c", ROOM, ROOM)],
        [("a", "b", 4.0, 1.0, 0.0, 4.0, 0.0)],
    )
    assert download_time_s(view, "a", "a", IMAGE) == 0.0
    assert download_time_s(view, "a", "b", IMAGE) is None, "all of a>b is reserved"
    assert download_time_s(view, "b", "a", IMAGE) == 125.0, "b>a is free"
    assert download_time_s(view, "a", "c", IMAGE) is None
    assert download_time_s(view, "gone", "a", IMAGE) is None


def test_the_path_at_the_tap_is_empty() -> None:
    view = plain(("a", "b", 5, 1))
    limits = asked("a", traffic_mb_s=99, latency_ms=0, loss=0, hops=0)
    assert lowest_cost_path(view, "a", 0.5, limits, NEEDS) == PathResult(("a",), 0, 0, 0, 0)
    assert published_path(view, "a", 0.5, limits, NEEDS) == PathResult(("a",), 0, 0, 0, 0)


def test_equal_costs_go_to_the_least_latency_then_the_first_name() -> None:
    view = plain(("a", "x", 5, 2), ("a", "y", 5, 1), ("x", "d", 5, 2), ("y", "d", 5, 2))
    found = lowest_cost_path(view, "a", 0.5, asked("d"), NEEDS)
    assert isinstance(found, PathResult)
    assert found.path == ("a", "y", "d")
    view = plain(("a", "y", 5, 1), ("a", "x", 5, 1), ("y", "d", 5, 1), ("x", "d", 5, 1))
    found = lowest_cost_path(view, "a", 0.5, asked("d"), NEEDS)
    assert isinstance(found, PathResult)
    assert found.path == ("a", "x", "d")


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (asked("gone"), "gone cannot be reached"),
        (asked("island"), "island cannot be reached"),
        (asked("island", traffic_mb_s=1), "island cannot be reached"),
        (asked("c", traffic_mb_s=4), "no path to c with 4 MB/s free"),
        (asked("c", latency_ms=7.5), "no path to c within 7.5 ms"),
        (asked("c", loss=0.08), "no path to c within 8 % loss"),
        (asked("c", hops=1), "no path to c within 1 hop"),
        (asked("c", latency_ms=1, hops=1), "no path to c within 1 ms and 1 hop"),
        (asked("c", traffic_mb_s=2, hops=1), "no path to c with 2 MB/s free within 1 hop"),
        (asked("d", latency_ms=5, loss=0.03), "no path to d within 5 ms and 3 % loss"),
    ],
)
def test_refusals_say_what_is_missing(goal: ConstrainedGoal, reason: str) -> None:
    view = network(
        [(name, ROOM, ROOM) for name in ("a", "b", "c", "d", "island")],
        [
            ("a", "b", 5.0, 4.0, 0.02, 0.0, 0.0),
            ("b", "c", 5.0, 4.0, 0.07, 1.0, 1.0),
            # Two ways to d, one fast and one clean: each limit can be kept, not both.
            ("a", "d", 5.0, 3.0, 0.05, 0.0, 0.0),
            ("b", "d", 5.0, 4.0, 0.0, 0.0, 0.0),
        ],
    )
    assert lowest_cost_path(view, "a", 0.5, goal, NEEDS) == reason


@pytest.mark.parametrize(
    "goal", [asked("d", hops=3), asked("d", latency_ms=3), asked("d", loss=1 - 0.99**3)]
)
def test_the_cheapest_way_to_the_middle_need_not_be_on_the_cheapest_path(
    goal: ConstrainedGoal,
) -> None:
    links = [("s", "x", 1), ("x", "a", 1), ("s", "a", 5), ("a", "d", 99), ("a", "y", 1)]
    view = network(
        [(name, ROOM, ROOM) for name in "sxayd"],
        [(a, b, float(mb_s), 1.0, 0.01, 0.0, 0.0) for a, b, mb_s in [*links, ("y", "d", 1)]],
    )
    found = lowest_cost_path(view, "s", 0.5, goal, NEEDS)
    assert isinstance(found, PathResult)
    assert found.path == ("s", "a", "y", "d")


def test_a_switch_outlives_the_agent_beside_it() -> None:
    view = plain(("a", "b", 5, 1))
    tap = view.get("b")
    assert tap is not None
    dead = view.apply(type(tap)("b", "b", 1, 2, tap.total, tap.free, tap.links, alive=False))
    for search in (lowest_cost_path, published_path):
        assert search(dead, "a", 0.5, asked("b"), NEEDS) == search(
            view, "a", 0.5, asked("b"), NEEDS
        )
    assert published_path(dead, "a", 0.5, asked("gone"), NEEDS) == "gone cannot be reached"


# What algorithm 1 does as it is printed, one small network for each fault.


def test_published_misses_the_only_path() -> None:
    # a is reached cheaply over x; its one label forgets that going there directly is faster.
    view = plain(("s", "x", 1, 5), ("x", "a", 1, 5), ("s", "a", 9, 1), ("a", "d", 1, 5))
    goal = asked("d", latency_ms=10)
    assert published_path(view, "s", 0.5, goal, NEEDS) == "no path to d within 10 ms"
    found = lowest_cost_path(view, "s", 0.5, goal, NEEDS)
    assert isinstance(found, PathResult)
    assert (found.path, found.latency_ms) == (("s", "a", "d"), 6.0)


def test_published_reports_a_latency_that_is_not_its_paths() -> None:
    # Line 21 overwrites a's latency when it looks at x>a, although that is no improvement.
    view = plain(("s", "x", 1, 5), ("x", "a", 9, 5), ("s", "a", 2, 1), ("a", "d", 1, 5))
    found = published_path(view, "s", 0.5, asked("d"), NEEDS)
    assert isinstance(found, PathResult)
    assert (found.path, found.latency_ms) == (("s", "a", "d"), 15.0)
    exact = lowest_cost_path(view, "s", 0.5, asked("d"), NEEDS)
    assert isinstance(exact, PathResult)
    assert (exact.path, exact.latency_ms) == (("s", "a", "d"), 6.0)


def test_published_breaks_a_limit() -> None:
    # The same with a slow link on the path and a fast one that is looked at later.
    view = plain(("s", "x", 1, 1), ("x", "a", 9, 1), ("s", "a", 2, 9), ("a", "d", 1, 5))
    found = published_path(view, "s", 0.5, asked("d", latency_ms=10), NEEDS)
    assert isinstance(found, PathResult)
    assert found.path == ("s", "a", "d")
    assert measured(view, found.path, 0.5)[1] == 14.0
    exact = lowest_cost_path(view, "s", 0.5, asked("d", latency_ms=10), NEEDS)
    assert isinstance(exact, PathResult)
    assert exact.path == ("s", "x", "a", "d")


@given(st.integers(0, 2**32), st.integers(2, 7), st.integers(0, 9))
@example(seed=1, size=7, extra=9)
def test_published_is_right_where_nothing_is_limited(seed: int, size: int, extra: int) -> None:
    rng = random.Random(seed)
    view = random_network(rng, size, extra)
    tap, goal = view.pops[0], asked(view.pops[0], traffic_mb_s=rng.choice((0.0, 3.0)))
    for source in view.pops:
        cost = hop_costs(view, NEEDS)[source] / 2
        exact = lowest_cost_path(view, source, cost, goal, NEEDS)
        found = published_path(view, source, cost, goal, NEEDS)
        if isinstance(exact, str):
            assert found == exact
            continue
        assert isinstance(found, PathResult)
        assert found.cost == pytest.approx(exact.cost)
        assert (found.path[0], found.path[-1]) == (source, tap)


def test_published_misses_paths_in_random_networks_and_is_never_cheaper() -> None:
    rng = random.Random(5)
    missed = feasible = 0
    for _ in range(60):
        view = random_network(rng, 24, 24)
        source, tap = rng.sample(view.pops, 2)
        free = lowest_cost_path(view, source, 0.0, asked(tap), NEEDS)
        assert isinstance(free, PathResult)
        goal = asked(tap, latency_ms=free.latency_ms * 0.8, loss=max(0.03, free.loss * 0.8))
        exact = lowest_cost_path(view, source, 0.0, goal, NEEDS)
        if isinstance(exact, str):
            continue
        feasible += 1
        found = published_path(view, source, 0.0, goal, NEEDS)
        if isinstance(found, str):
            missed += 1
        elif within(goal, measured(view, found.path, 0.0), len(found.path) - 1):
            assert found.cost >= exact.cost - 1e-9
    assert feasible >= 20
    assert missed >= 3
