from __future__ import annotations

import gc

from auction_networks import NEEDS, asked
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.auction import view as view_module
from phalanx.auction.paths import PathResult, download_time_s, lowest_cost_path, published_path
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.network import LinkState
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

IMAGE = Vnfd("function", Resources(1.0, 1.0, 1.0), image_mb=1.0)

TOTAL = Resources(4, 8, 100)
POPS = ("a", "b", "c")

links = st.lists(
    st.builds(
        LinkState,
        to=st.sampled_from(POPS),
        bandwidth_mb_s=st.floats(0, 10),
        latency_ms=st.just(1.0),
        loss=st.just(0.0),
        reserved_mb_s=st.sampled_from((0.0, 1.0)),
        up=st.booleans(),
    ),
    max_size=2,
).map(tuple)
states = st.builds(
    AgentState,
    agent=st.sampled_from((*POPS, "d")),
    pop=st.sampled_from((*POPS, None)),
    incarnation=st.integers(1, 2),
    version=st.integers(1, 3),
    total=st.just(TOTAL),
    free=st.builds(Resources, cores=st.integers(0, 2)),
    links=links,
    alive=st.booleans(),
)


def state(pop: str, version: int = 1, *to: LinkState, alive: bool = True) -> AgentState:
    return AgentState(pop, pop, 1, version, TOTAL, TOTAL, to, alive)


def link(to: str, mb_s: float = 10.0, reserved: float = 0.0, up: bool = True) -> LinkState:
    return LinkState(to, mb_s, 2.0, 0.1, reserved, up)


@given(st.data(), st.lists(states, max_size=8))
def test_order_and_repetition_do_not_matter(data: st.DataObject, heard: list[AgentState]) -> None:
    again = data.draw(st.permutations(heard)) + data.draw(st.permutations(heard))
    one, other = NetworkView.EMPTY, NetworkView.EMPTY
    for news in heard:
        one = one.apply(news)
    for news in again:
        other = other.apply(news)
    assert one is other
    assert NetworkView.EMPTY.apply_all(again) is one
    assert one.states == other.states
    for agent in one.agents:
        best = max(
            (s for s in heard if s.agent == agent),
            key=lambda s: (s.incarnation, s.version, not s.alive),
        )
        known = one.get(agent)
        assert known is not None
        assert (known.stamp, known.alive) == (best.stamp, best.alive)


@given(st.lists(states, max_size=8))
def test_digest_is_that_of_the_content_whatever_came_before(heard: list[AgentState]) -> None:
    view = NetworkView.EMPTY.apply_all(heard)
    assert NetworkView.EMPTY.apply_all(view.states).digest == view.digest


def test_agents_that_heard_the_same_share_one_view_and_its_results() -> None:
    one = NetworkView.EMPTY.apply(state("a")).apply(state("b"))
    other = NetworkView.EMPTY.apply(state("b")).apply(state("a"))
    assert one is other
    assert one.remember("key", 7) == 7
    assert other.memo["key"] == 7


def test_old_and_equal_news_return_the_view_itself() -> None:
    view = NetworkView.EMPTY.apply(state("a", 2))
    assert view.apply(state("a", 2)) is view
    assert view.apply(state("a", 1)) is view
    assert view.apply_all([]) is view
    assert view.apply(state("a", 3)) is not view


def test_a_death_notice_wins_over_the_state_it_is_about_and_a_new_life_over_it() -> None:
    view = NetworkView.EMPTY.apply(state("a", 2)).apply(state("a", 2, alive=False))
    known = view.get("a")
    assert known is not None
    assert not known.alive
    assert view.apply(state("a", 2)) is view
    born_again = view.apply(replace(state("a", 1), incarnation=2)).get("a")
    assert born_again is not None
    assert born_again.alive


def test_equal_stamps_of_different_content_are_different_views() -> None:
    # Two runs in one process number their states alike.
    one = NetworkView.EMPTY.apply(state("a", 1, link("b")))
    other = NetworkView.EMPTY.apply(state("a", 1, link("c")))
    assert one is not other
    assert one.digest != other.digest


def test_views_that_nobody_holds_are_forgotten_at_once() -> None:
    gc.disable()
    try:
        view = NetworkView.EMPTY.apply_all(
            [state("here", 77, link("b")), state("b", 1, link("here"))]
        )
        assert isinstance(lowest_cost_path(view, "here", 0.0, asked("b"), NEEDS), PathResult)
        assert isinstance(published_path(view, "here", 0.0, asked("b"), NEEDS), PathResult)
        assert download_time_s(view, "b", "here", IMAGE) == 0.1
        digest = view.digest
        assert digest in NetworkView._views
        del view
        assert digest not in NetworkView._views
    finally:
        gc.enable()


def test_links_count_when_both_ends_agree() -> None:
    def arcs(*news: AgentState) -> dict[str, list[str]]:
        view = NetworkView.EMPTY.apply_all(news)
        return {pop: [arc[0] for arc in view.outgoing[pop]] for pop in view.pops}

    assert arcs(state("a", 1, link("b")), state("b", 1, link("a"))) == {"a": ["b"], "b": ["a"]}
    assert arcs(state("a", 1, link("b")), state("b")) == {"a": [], "b": []}
    assert arcs(state("a", 1, link("b"))) == {"a": []}
    assert arcs(state("a", 1, link("b", up=False)), state("b", 1, link("a"))) == {"a": [], "b": []}
    dead = state("b", 1, link("a"), alive=False)
    assert arcs(state("a", 1, link("b")), dead) == {"a": ["b"], "b": ["a"]}
    assert arcs(state("a", 1, link("a"))) == {"a": []}


def test_reservations_count_against_the_link_but_only_one_way_against_a_download() -> None:
    view = NetworkView.EMPTY.apply_all(
        [state("a", 1, link("b", 8, reserved=4)), state("b", 1, link("a", 8, reserved=1))]
    )
    assert view.outgoing["a"] == [("b", 3.0, 2.0, 0.1, 4.0, 8.0)]
    assert view.outgoing["b"] == [("a", 3.0, 2.0, 0.1, 7.0, 8.0)]
    assert view.incoming["b"] == [("a", 3.0, 2.0, 0.1, 4.0, 8.0)]


def test_contradictory_states_never_yield_less_than_nothing() -> None:
    view = NetworkView.EMPTY.apply_all(
        [state("a", 1, link("b", 8, reserved=9)), state("b", 1, link("a", 8, reserved=4))]
    )
    assert view.outgoing["a"] == [("b", 0.0, 2.0, 0.1, 0.0, 8.0)]
    assert view.outgoing["b"] == [("a", 0.0, 2.0, 0.1, 4.0, 8.0)]


def test_of_several_agents_at_a_pop_a_living_one_tells_of_it() -> None:
    second = replace(state("z", 5, link("b")), pop="a")
    view = NetworkView.EMPTY.apply_all([state("a", 1), second, state("b", 1, link("a"))])
    assert view.agents == ("a", "b", "z")
    assert view.pops == ("a", "b")
    site = view.site("a")
    assert site is not None
    assert site.agent == "a"
    view = view.apply(state("a", 2, alive=False))
    site = view.site("a")
    assert site is not None
    assert site.agent == "z"
    assert [arc[0] for arc in view.outgoing["a"]] == ["b"]


def test_an_agent_without_a_pop_is_known_and_no_part_of_the_network() -> None:
    view = NetworkView.EMPTY.apply_all([state("a"), AgentState("slice", None, 1, 1)])
    assert view.get("slice") is not None
    assert view.pops == ("a",)
    assert view.site("slice") is None
    assert "slice" not in view.outgoing


def test_stamps_and_pops_are_sorted_also_after_growth() -> None:
    view = NetworkView.EMPTY.apply(state("b", 3))
    assert view.pops == ("b",)
    view = view.apply(state("a", 2))
    assert view.pops == ("a", "b")
    assert view.stamps() == (("a", 1, 2), ("b", 1, 3))
    assert view.apply(state("a", 4)).agents is view.agents
    assert len(view) == 2
    assert "a" in view.agents
    assert "c" not in view.agents


def test_the_memo_is_bounded() -> None:
    view = NetworkView.EMPTY.apply(state("memo", 1))
    for i in range(2 * view_module.MEMO_LIMIT + 1):
        assert view.remember(i, i) == i
    assert len(view.memo) <= view_module.MEMO_LIMIT
