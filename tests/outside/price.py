"""Two terms of the bid in one file outside the package: what a PoP charges, and trust."""

from __future__ import annotations

from phalanx.auction.terms import BidTerm, Offer

RATES = {"north": 9.0, "east": 2.0, "south": 5.0, "west": 1.0}
"""Price of one unit at each PoP."""


def price(offer: Offer) -> float:
    """Return what the bidder charges."""
    return RATES[offer.pop] * offer.units


TRUST = BidTerm(
    "trust",
    lambda offer: offer.view.properties(offer.bidder).get("trust", 0.5),
    higher_is_better=True,
    by_auctioneer=True,
)
"""How far the auctioneer trusts the bidder."""


def broken(offer: Offer) -> float:
    """Fail for every offer."""
    raise LookupError(offer.pop)
