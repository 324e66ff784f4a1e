"""Bids held against the bidder's PoP: what cannot be so is found, what was honest never is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.auction.auction_networks import (
    CATALOGUE,
    RATE_LIMITER,
    asked,
    random_network,
)

from phalanx.auction.bidding import contradiction, make_bids
from phalanx.auction.cost import Pricing
from phalanx.domain.actions import SiteState
from phalanx.domain.bids import Bid
from phalanx.domain.network import LinkState
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

TOTAL = Resources(4, 8, 100)
SITE = SiteState(TOTAL, TOTAL, (LinkState("b", 20.0, 5.0, 0.0), LinkState("c", 10.0, 5.0, 0.0)))
HONEST = Bid("rate-limiter", 1, {"T": 25.0, "C": 30.0, "D": 5.0}, ("a", "b"))


def said(bid: Bid, site: SiteState = SITE, pricing: Pricing = "scarcity") -> str | None:
    return contradiction(bid, "a", site, RATE_LIMITER, CATALOGUE, "z", pricing)


def priced(**terms: float) -> Bid:
    return replace(HONEST, terms={**HONEST.terms, **terms})


def test_a_bid_that_may_be_so_is_left_alone() -> None:
    assert said(HONEST) is None
    assert said(priced(C=0.0), pricing="published") is None  # what is full costs nothing there
    assert said(replace(priced(C=0.0), path=("a",))) is None
    assert said(priced(T=0.0), replace(SITE, images=("rate-limiter 0.9",))) is None
    assert said(replace(priced(T=0.0), reuse="a.1/vnf1/rate-limiter")) is None


@pytest.mark.parametrize(
    ("bid", "why"),
    [
        (priced(T=0.0), "T 0 s, its image takes 25 s at least"),
        (priced(T=24.9), "T 24.9 s, its image takes 25 s at least"),
        (priced(T=float("nan")), "T nan s, its image takes 25 s at least"),
        (priced(C=0.0), "C 0, the way to b costs"),
        (priced(C=-1e9), "C -1e+09, the way to b costs"),
        (priced(C=float("nan")), "C nan, the way to b costs"),
        (replace(HONEST, path=("a", "x")), "no link leads to x"),
        (replace(HONEST, path=("b", "a")), "it lacks T, C or a path from a"),
        (replace(HONEST, path=()), "it lacks T, C or a path from a"),
        (replace(HONEST, terms={}), "it lacks T, C or a path from a"),
    ],
)
def test_what_cannot_be_so_is_found(bid: Bid, why: str) -> None:
    assert str(said(bid)).startswith(why)


@given(
    seed=st.integers(0, 10**6),
    pricing=st.sampled_from(["published", "capacity", "scarcity"]),
)
def test_no_honest_bid_is_found_whatever_others_said_of_themselves(
    seed: int, pricing: Pricing
) -> None:
    """All but the bidder's own state may be old or a lie."""
    draw = random.Random(seed)
    view = random_network(draw, 8, 5)
    pop = draw.choice(view.pops)
    own = view.sites[pop]
    tap = draw.choice(view.pops)
    for state in view.states:
        if state.pop != pop:
            wild = tuple(
                replace(
                    link,
                    bandwidth_mb_s=draw.choice([0.001, 5.0, 1e9]),
                    latency_ms=draw.choice([0.0, 50.0]),
                    reserved_mb_s=draw.choice([-1e6, 0.0, 3.0, 1e6]),
                )
                for link in state.links
            )
            free = draw.choice([Resources(), state.total, state.total.times(9)])
            images = draw.choice([(), tuple(vnfd.image for vnfd in CATALOGUE)])
            told = replace(state, version=9, free=free, links=wild, images=images)
            view = view.apply(told)
    site = SiteState(own.total, own.free, own.links, own.images)
    vnfd: Vnfd
    for vnfd in CATALOGUE:
        bids = make_bids(
            view, pop, asked(tap), CATALOGUE, [vnfd], own.free, {}, view.pops[0], pricing=pricing
        )
        for bid in bids if isinstance(bids, tuple) else ():
            assert contradiction(bid, pop, site, vnfd, CATALOGUE, view.pops[0], pricing) is None
