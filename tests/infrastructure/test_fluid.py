from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nightly import examples

from phalanx.infrastructure.simulated.fluid import QUEUE_S, SEGMENT_MB, Fluid, pftk_mb_s

DT = 0.1


def stages(fluid: Fluid, *capacities: float, loss: float = 0.0, queued: bool = True) -> list[int]:
    size = len(capacities)
    added = fluid.add_stages(
        np.array(capacities), np.full(size, loss), np.full(size, 0.01), queued=queued
    )
    return [int(stage) for stage in added]


def flows(fluid: Fluid, count: int, demand: float, route: list[int], kind: str = "") -> list[int]:
    rows = fluid.add_rows(
        np.full(count, demand), np.full(count, kind == "tcp"), bulk=kind == "bulk"
    )
    for row in rows:
        fluid.route(int(row), route)
    fluid.active[rows] = True
    return [int(row) for row in rows]


def settle(fluid: Fluid, steps: int = 2000) -> None:
    for _ in range(steps):
        if not fluid.step(DT):
            return
    pytest.fail("the fluid does not come to rest")


def test_a_link_passes_its_capacity_in_proportion_and_drops_the_rest() -> None:
    fluid = Fluid()
    route = stages(fluid, 6.0)
    light, heavy = flows(fluid, 1, 2.0, route) + flows(fluid, 1, 6.0, route)
    settle(fluid)
    assert fluid.delivering[light] == pytest.approx(1.5)
    assert fluid.delivering[heavy] == pytest.approx(4.5)
    assert fluid.passing[route[0]] == pytest.approx(6.0)
    assert fluid.queue[route[0]] == pytest.approx(QUEUE_S * 6.0)


def test_a_queue_fills_before_anything_is_dropped_and_drains_afterwards() -> None:
    fluid = Fluid()
    route = stages(fluid, 6.0)
    rows = flows(fluid, 1, 7.0, route)
    fluid.step(DT)
    assert fluid.queue[route[0]] == pytest.approx(0.1)
    assert fluid.dropping[route[0]] == 0.0
    settle(fluid)
    assert fluid.dropping[route[0]] == pytest.approx(1 / 7)
    fluid.active[rows] = False
    fluid.step(DT)
    assert fluid.passing[route[0]] == pytest.approx(6.0)
    settle(fluid)
    assert fluid.queue[route[0]] == 0.0
    assert fluid.passing[route[0]] == 0.0


def test_a_policer_caps_the_aggregate_without_delay() -> None:
    fluid = Fluid()
    policer = stages(fluid, 4.0, queued=False)
    rows = flows(fluid, 4, 2.0, policer)
    settle(fluid)
    assert fluid.delivering[rows] == pytest.approx([1.0] * 4)
    assert fluid.queue[policer[0]] == 0.0
    assert fluid.dropping[policer[0]] == pytest.approx(0.5)
    closed = Fluid()
    blocked = flows(closed, 1, 2.0, stages(closed, 0.0, queued=False))
    settle(closed)
    assert closed.delivering[blocked] == [0.0]


def test_random_loss_adds_up_along_the_way() -> None:
    fluid = Fluid()
    rows = flows(fluid, 1, 1.0, stages(fluid, 10.0, 10.0, loss=0.1))
    settle(fluid)
    assert fluid.delivering[rows[0]] == pytest.approx(0.81)


def test_tcp_yields_and_a_flood_does_not() -> None:
    fluid = Fluid()
    route = stages(fluid, 50.0, 6.0)
    users = flows(fluid, 50, 0.02, route, "tcp")
    settle(fluid)
    assert fluid.delivering[users].sum() == pytest.approx(1.0)
    bots = flows(fluid, 8, 1.5, route)
    settle(fluid)
    assert fluid.sending[bots] == pytest.approx([1.5] * 8)
    assert fluid.delivering[users].sum() < 0.2
    fluid.active[bots] = False
    settle(fluid)
    assert fluid.delivering[users].sum() == pytest.approx(1.0, rel=1e-3)


def test_light_users_reach_their_demand_despite_some_loss() -> None:
    for loss, share in ((0.05, 1.0), (0.3, 0.25)):
        fluid = Fluid()
        users = flows(fluid, 50, 0.02, stages(fluid, 50.0, loss=loss), "tcp")
        settle(fluid)
        reached = fluid.delivering[users].sum()
        assert reached == pytest.approx(1.0, rel=1e-3) if share == 1.0 else reached < share


def test_bulk_transfers_take_what_is_left_and_share_it() -> None:
    fluid = Fluid()
    narrow, wide = stages(fluid, 8.0, 20.0, loss=0.02)
    flows(fluid, 1, 3.0, [narrow])
    first, second = flows(fluid, 2, 0.0, [wide, narrow], "bulk")
    settle(fluid)
    assert fluid.passing[narrow] == pytest.approx(8.0, rel=1e-3)
    assert fluid.delivering[first] == pytest.approx(fluid.delivering[second])
    flows(fluid, 1, 30.0, [narrow])
    settle(fluid)
    assert 0.05 < fluid.delivering[first] < 0.4


def test_priority_traffic_is_served_first() -> None:
    fluid = Fluid()
    route = stages(fluid, 6.0)
    rows = flows(fluid, 1, 6.0, route)
    fluid.priority[route[0]] = 4.0
    settle(fluid)
    assert fluid.delivering[rows[0]] == pytest.approx(2.0)
    assert fluid.passing[route[0]] == pytest.approx(6.0)


def test_users_that_were_kept_out_do_not_get_more_than_they_want_afterwards() -> None:
    fluid = Fluid()
    processor = stages(fluid, 10.0, queued=False)
    (user,) = flows(fluid, 1, 0.002, processor, "tcp")
    settle(fluid)
    (flood,) = flows(fluid, 1, 12.0, processor)
    settle(fluid)
    assert fluid.sending[user] > fluid.demand[user], "it sends again what was lost"
    fluid.active[flood] = False
    fluid.step(DT)
    for _ in range(50):
        fluid.step(DT)
        assert fluid.delivering[user] <= fluid.demand[user] * (1 + 1e-9)
    assert fluid.delivering[user] == pytest.approx(0.002)


def test_the_tcp_formula() -> None:
    """Against figures worked out by hand from Padhye et al. (1998), eq. 30, b = 1."""
    rate = pftk_mb_s(np.array([0.01, 0.1]), np.array([0.1, 0.2]))
    packets = rate / SEGMENT_MB
    assert packets == pytest.approx(
        [1 / (0.0081650 + 0.0005528), 1 / (0.0516398 + 0.0306713)], rel=1e-4
    )


plan = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True),
        st.floats(0.0, 20.0),
        st.sampled_from(["", "tcp", "bulk"]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(16))
@given(plan, st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6), st.floats(0.0, 0.1))
def test_nothing_appears_and_nothing_vanishes(
    plan: list[tuple[list[int], float, str]], capacities: list[float], loss: float
) -> None:
    """What is sent is delivered, lost, dropped or waits; no link passes more than it can."""
    fluid = Fluid()
    links = stages(fluid, *capacities[:4], loss=loss)
    links += stages(fluid, *capacities[4:], queued=False)
    for route, demand, kind in plan:
        flows(fluid, 1, demand, [links[i] for i in route], kind)
    for _ in range(20):
        queue = fluid.queue
        fluid.step(DT)
        through = fluid.fitting * (1.0 - fluid.loss)
        assert fluid.sending.sum() == pytest.approx(
            fluid.delivering.sum() + (fluid.arriving * (1.0 - through)).sum(), abs=1e-6
        )
        assert fluid.arriving == pytest.approx(
            fluid.passing + fluid.arriving * fluid.dropping + (fluid.queue - queue) / DT, abs=1e-6
        )
        assert (fluid.passing[1:] <= fluid.capacity[1:] * (1 + 1e-6)).all()
        assert (fluid.delivering >= 0).all()


loops = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.floats(0.0, 20.0)),
    min_size=2,
    max_size=8,
)


@given(loops, st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6))
def test_routes_that_cross_or_return_send_no_more_than_links_carry(
    plan: list[tuple[list[int], float]], capacities: list[float]
) -> None:
    """Way-points lead flows over the same stages in opposite order, and twice over one."""
    fluid = Fluid()
    links = stages(fluid, *capacities[:4]) + stages(fluid, *capacities[4:], queued=False)
    ends = np.zeros(len(fluid.capacity))
    rows = [flows(fluid, 1, demand, [links[i] for i in route])[0] for route, demand in plan]
    for _ in range(30):
        fluid.step(DT)
        ends[:] = 0.0
        for row, (route, _) in zip(rows, plan, strict=True):
            ends[links[route[-1]]] += fluid.delivering[row]
        assert (ends[1:] <= fluid.capacity[1:] * (1 + 1e-6)).all()
        assert (fluid.arriving * fluid.fitting <= fluid.capacity * (1 + 1e-6))[1:].all()


def test_two_flows_in_opposite_order_share_both_links() -> None:
    fluid = Fluid()
    first, second = stages(fluid, 10.0, 10.0)
    there = flows(fluid, 1, 40.0, [first, second])
    back = flows(fluid, 1, 40.0, [second, first])
    settle(fluid)
    # x arrives behind the other's first link: 10 x / (40 + x) = x, with x = 10 * 40 / (40 + x).
    behind = (np.sqrt(40.0**2 + 4 * 400.0) - 40.0) / 2
    share = 10.0 / (40.0 + behind)
    assert fluid.delivering[there + back] == pytest.approx([behind * share] * 2)
    assert fluid.passing[[first, second]] == pytest.approx([10.0] * 2)


def test_compiled_routes_agree_with_a_plain_walk() -> None:
    rng = np.random.default_rng(7)
    fluid = Fluid()
    links = stages(fluid, *rng.uniform(1, 4, 12), loss=0.03)
    routes = [[links[i] for i in rng.permutation(12)[: 1 + n % 6]] for n in range(40)]
    rows = [flows(fluid, 1, float(rng.uniform(0, 1)), route)[0] for route in routes]
    settle(fluid)
    arriving = np.zeros_like(fluid.arriving)
    for row, route in zip(rows, routes, strict=True):
        rate = fluid.sending[row]
        for stage in route:
            arriving[stage] += rate
            rate *= fluid.fitting[stage] * (1 - fluid.loss[stage])
        assert fluid.delivering[row] == pytest.approx(rate)
    assert fluid.arriving == pytest.approx(arriving)
    assert (fluid.fitting[links] < 1).any()
