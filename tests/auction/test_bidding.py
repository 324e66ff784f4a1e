from __future__ import annotations

import pytest
from auction_networks import (
    ANOMALY_DETECTOR,
    CATALOGUE,
    CLASSIFIER,
    NEEDS,
    RATE_LIMITER,
    REPOSITORY,
    asked,
    dissertation,
    network,
)
from msgspec.structs import replace

from phalanx.auction.bidding import Method, Reusable, make_bids
from phalanx.auction.cost import Pricing, cons_rsc_util
from phalanx.auction.paths import hop_costs
from phalanx.auction.view import NetworkView
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Constraints
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

LITE = replace(CLASSIFIER, name="classifier-lite", requires=Resources(1, 2, 10), accuracy=0.8)
PLENTY = Resources(64, 64, 999)


def ask(
    pop: str,
    goal: ConstrainedGoal,
    *candidates: Vnfd,
    unheld: Resources = PLENTY,
    reuse: dict[str, Reusable] | None = None,
    view: NetworkView | None = None,
    method: Method = "exact",
    pricing: Pricing = "published",
    repository: str = REPOSITORY,
) -> tuple[Bid, ...] | str:
    return make_bids(
        view or dissertation(),
        pop,
        goal,
        CATALOGUE,
        candidates,
        unheld,
        reuse or {},
        repository,
        method=method,
        pricing=pricing,
    )


def one(answer: tuple[Bid, ...] | str) -> Bid:
    assert not isinstance(answer, str), answer
    assert len(answer) == 1
    return answer[0]


def test_a_bid_carries_the_components_of_definition_7() -> None:
    view = dissertation()
    bid = one(ask("1", asked("5", traffic_mb_s=4), ANOMALY_DETECTOR, view=view))
    assert (bid.vnf, bid.units, bid.reuse, bid.accuracy) == ("anomaly-detector", 2, None, 1.0)
    assert bid.path == ("1", "5")
    assert bid.terms["T"] == 50.0
    assert bid.terms["D"] == 10.0
    consumed = cons_rsc_util(Resources(6, 6, 700), ANOMALY_DETECTOR.scaled(2))
    assert bid.terms["C"] == pytest.approx(10 * (consumed + hop_costs(view, NEEDS)["5"]))


def test_a_bidder_at_the_tap_bids_nothing_but_the_download() -> None:
    bid = one(ask("6", asked("6"), RATE_LIMITER))
    assert (bid.terms["T"], bid.terms["C"], bid.terms["D"], bid.path) == (62.5, 0.0, 0.0, ("6",))


def test_a_running_instance_needs_no_download_and_no_resources() -> None:
    nothing = Resources()
    answer = ask(
        "1",
        asked("5", traffic_mb_s=4),
        ANOMALY_DETECTOR,
        unheld=nothing,
        reuse={"anomaly-detector": Reusable("ad-1", 2)},
    )
    bid = one(answer)
    assert (bid.terms["T"], bid.reuse, bid.units) == (0.0, "ad-1", 2)
    assert bid.terms["C"] == pytest.approx(10 * 1.0), "its own end of the link costs nothing"


def test_a_running_instance_that_is_too_small_takes_the_difference() -> None:
    reuse = {"anomaly-detector": Reusable("ad-1", 1)}
    goal = asked("5", traffic_mb_s=6)
    exactly = ANOMALY_DETECTOR.scaled(2)
    bid = one(ask("1", goal, ANOMALY_DETECTOR, unheld=exactly, reuse=reuse))
    assert (bid.terms["T"], bid.reuse, bid.units) == (0.0, "ad-1", 3)
    consumed = cons_rsc_util(Resources(6, 6, 700), exactly)
    assert bid.terms["C"] == pytest.approx(10 * (consumed + 1.0))
    less = exactly - Resources(1, 0, 0)
    answer = ask("1", goal, ANOMALY_DETECTOR, unheld=less, reuse=reuse)
    assert answer == "needs 2 cores, 1 free"


def test_what_is_held_for_other_proposals_is_not_offered_twice() -> None:
    goal = asked("5")
    assert isinstance(ask("1", goal, RATE_LIMITER, unheld=Resources(1, 1, 2)), tuple)
    answer = ask("1", goal, RATE_LIMITER, unheld=Resources(1, 0.5, 2))
    assert answer == "needs 1 GB memory, 0.5 free"


def test_accuracy_is_a_constraint() -> None:
    goal = asked("5", traffic_mb_s=1, accuracy=0.9)
    assert ask("1", goal, LITE) == "accuracy 0.8, at least 0.9 wanted"
    assert one(ask("1", goal, LITE, CLASSIFIER)).vnf == "classifier"
    assert one(ask("1", asked("5", accuracy=0.8), LITE)).accuracy == 0.8


def test_the_best_bid_comes_first() -> None:
    goal = asked("5", traffic_mb_s=1)
    answer = ask("1", goal, CLASSIFIER, LITE)
    assert [bid.vnf for bid in answer if isinstance(bid, Bid)] == ["classifier-lite", "classifier"]
    reuse = {"classifier": Reusable("cl-1", 1)}
    answer = ask("1", goal, LITE, CLASSIFIER, reuse=reuse)
    assert [bid.vnf for bid in answer if isinstance(bid, Bid)] == ["classifier", "classifier-lite"]
    twin = replace(RATE_LIMITER, name="a-limiter")
    answer = ask("1", asked("5"), RATE_LIMITER, twin)
    assert [bid.vnf for bid in answer if isinstance(bid, Bid)] == ["a-limiter", "rate-limiter"]


def test_every_reason_is_given_once() -> None:
    goal = asked("5", traffic_mb_s=1, accuracy=0.9)
    little = Resources(1, 1, 100)
    assert ask("1", goal, CLASSIFIER, LITE, unheld=little) == (
        "classifier: needs 2 cores, 1 free; classifier-lite: accuracy 0.8, at least 0.9 wanted"
    )
    far = asked("5", latency_ms=1)
    assert ask("1", far, CLASSIFIER, RATE_LIMITER) == "no path to 5 within 1 ms"


def test_an_image_that_cannot_be_downloaded() -> None:
    own = Resources(4, 4, 400)
    links = dissertation().get("1")
    assert links is not None
    view = dissertation().apply(replace(links, version=2, links=(), total=own, free=own))
    answer = ask("1", asked("1"), RATE_LIMITER, view=view)
    assert answer == "rate-limiter cannot be downloaded: no bandwidth free from 5"
    reuse = {"rate-limiter": Reusable("rl", 1)}
    assert isinstance(ask("1", asked("1"), RATE_LIMITER, view=view, reuse=reuse), tuple)


def test_an_agent_that_can_do_nothing_about_it() -> None:
    assert ask("1", asked("5")) == "no capability achieves linkRateLimited(a>b)"
    assert ask("9", asked("5"), RATE_LIMITER) == "nothing is known of 9"


def test_both_searches_can_be_asked() -> None:
    goal = asked("6", latency_ms=100, loss=0.08)
    exact = one(ask("3", goal, RATE_LIMITER))
    published = one(ask("3", goal, RATE_LIMITER, method="published"))
    assert exact.path == published.path == ("3", "4", "6")
    assert exact.terms["C"] == pytest.approx(published.terms["C"])


def test_bids_of_one_view_do_not_depend_on_who_asks_first() -> None:
    goal = asked("5", traffic_mb_s=1, loss=0.06, latency_ms=40)
    view = dissertation()
    forwards = {pop: ask(pop, goal, CLASSIFIER, view=view) for pop in view.pops}
    view.memo.clear()
    backwards = {pop: ask(pop, goal, CLASSIFIER, view=view) for pop in reversed(view.pops)}
    assert forwards == backwards


def test_a_loaded_link_and_a_used_pop_make_a_bid_dearer_by_scarcity_alone() -> None:
    empty, goal = dissertation(), asked("6")
    loaded = dissertation(reserved={("6", "5"): 6.0})
    used = dissertation(used={"5": Resources(2, 3, 200)})

    def cost(view: NetworkView, pricing: Pricing) -> float:
        return one(ask("5", goal, RATE_LIMITER, view=view, pricing=pricing)).terms["C"]

    assert cost(loaded, "published") < cost(empty, "published")
    assert cost(loaded, "scarcity") > cost(empty, "scarcity")
    assert cost(used, "scarcity") > cost(empty, "scarcity")


def test_a_path_avoids_a_full_pop_by_scarcity_and_seeks_it_by_the_published_prices() -> None:
    pops = [(name, PLENTY, PLENTY) for name in ("a", "c", "z")]
    view = network(
        [*pops, ("b", PLENTY, Resources(0, 0, 0))],
        [(u, v, 5.0, 1.0, 0.0, 0.0, 0.0) for u, v in ("ab", "bz", "ac", "cz")],
    )
    through: tuple[tuple[Pricing, str], ...] = (("published", "b"), ("scarcity", "c"))
    for pricing, passed in through:
        bid = one(ask("a", asked("z"), RATE_LIMITER, view=view, pricing=pricing, repository="a"))
        assert bid.path == ("a", passed, "z")


def test_a_bid_that_comes_after_the_deadline_is_refused_with_the_reason() -> None:
    goal = asked("5")
    late = replace(goal, constraints=Constraints(time_s=40))
    in_time = replace(goal, constraints=Constraints(time_s=50, terms={"T": 60}))
    assert ask("1", late, RATE_LIMITER) == "T 50 s, at most 40 wanted"
    assert one(ask("1", in_time, RATE_LIMITER)).terms["T"] == 50
    running = {"rate-limiter": Reusable("x", 1)}
    assert one(ask("1", late, RATE_LIMITER, reuse=running)).terms["T"] == 0
    assert late.constraints.row() == {"time_s": 40}


def test_what_is_steered_must_have_room_on_every_link_of_the_path() -> None:
    thin = network(
        [(name, PLENTY, PLENTY) for name in "abc"],
        [("a", "b", 0.25, 1.0, 0.0, 0.0, 0.0), ("b", "c", 9.0, 1.0, 0.0, 0.0, 0.0)],
    )
    for traffic, bids in ((0.2, ["a", "b", "c"]), (6.0, ["b", "c"])):
        goal = asked("c", traffic_mb_s=traffic)
        asks = {p: ask(p, goal, RATE_LIMITER, view=thin, repository=p) for p in "abc"}
        assert [pop for pop, answer in asks.items() if not isinstance(answer, str)] == bids
    assert ask("a", asked("c", traffic_mb_s=6), RATE_LIMITER, view=thin, repository="a") == (
        "no path to c with 6 MB/s free"
    )
