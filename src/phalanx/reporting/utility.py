"""Utilities of logged bids, taken apart so that a reader can work them out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from phalanx.auction.terms import BidTerm, load_terms, normalised
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import Preferences
from phalanx.reporting.figures import figure
from phalanx.reporting.log import Data, finite, number

_BISECTIONS = 60


class TermShare(Struct, frozen=True):
    """What one term of a bid adds to its utility."""

    term: str
    value: float
    unit: str
    normalised: float
    """From 0, the best (eq. 3.1, or by the references of the auction)."""
    weight: float

    @property
    def product(self) -> float:
        """What it adds."""
        return self.weight * self.normalised


class Comparison(Struct, frozen=True):
    """The bids of one auction, as its weights compare them.

    Args:
        bids: the value of each term, bid by bid.
        weights: of the terms, by name.
        references: what values are divided by; None: the range of the bids (eq. 3.1).

    """

    bids: tuple[Mapping[str, float], ...]
    weights: Mapping[str, float]
    references: Mapping[str, float] | None = None

    @property
    def scale(self) -> str:
        """How values are normalised, in words; empty: over the range of the bids (eq. 3.1)."""
        if not self.references:
            return ""
        units = {term.name: term.unit for term in self._terms()}
        by = (f"{n} {figure(v)} {units.get(n, '')}".rstrip() for n, v in self.references.items())
        return f"Values are divided by the references {', '.join(by)}; of D, 1 minus that counts."

    def shares(self) -> list[tuple[TermShare, ...]]:
        """Return the weighed terms of each bid; none if a term is not installed here."""
        terms = self._terms()
        return [
            tuple(
                TermShare(term.name, bid[term.name], term.unit, part, self.weights[term.name])
                for term, part in zip(terms, parts, strict=True)
            )
            for bid, parts in zip(self.bids, self._parts(terms), strict=True)
        ]

    def needed(self, at: int, best: int, term: str) -> float | None:
        """Return the value of ``term`` with which bid ``at`` would equal bid ``best``.

        All else is equal, and what is normalised over the range of the bids is so anew. None if
        no value does: one as good as the best of all bids, or 0 where less is better, is too
        little.
        """
        known = {each.name: each for each in self._terms()}
        if term not in known:
            return None
        now = self.bids[at][term]
        ideal = max(bid[term] for bid in self.bids) if known[term].higher_is_better else 0.0
        if self._behind(at, best, term, ideal) > 0:
            return None
        for _ in range(_BISECTIONS):
            middle = (now + ideal) / 2
            if self._behind(at, best, term, middle) > 0:
                now = middle
            else:
                ideal = middle
        return ideal

    def _behind(self, at: int, best: int, term: str, value: float) -> float:
        changed = [*self.bids]
        changed[at] = {**changed[at], term: value}
        shares = structs.replace(self, bids=tuple(changed)).shares()
        return utility(shares[at]) - utility(shares[best])

    def _terms(self) -> list[BidTerm]:
        try:
            terms = load_terms(self.weights)
        except ScenarioError:
            return []
        return [
            term
            for term in terms
            if self.weights.get(term.name) and all(term.name in bid for bid in self.bids)
        ]

    def _parts(self, terms: Sequence[BidTerm]) -> list[tuple[float, ...]]:
        return normalised(self.bids, terms, self.references)


def utility(shares: Sequence[TermShare]) -> float:
    """Return the sum of what the terms add; the least wins."""
    return sum(share.product for share in shares)


def comparison(call: Data, ranking: Sequence[Data]) -> Comparison:
    """Return the comparison behind the ``ranking`` of an auction.

    Args:
        call: data of its ``auction.called``.
        ranking: rows of its award.

    """
    known = structs.fields(Preferences)
    names = {f.name for f in known} - {"terms"}
    given = call.get("preferences")
    given = given if isinstance(given, dict) else {}
    weights = {name: finite(value) for name, value in given.items()}
    further = {name: value for name, value in weights.items() if name not in names}
    preferences = Preferences(**{n: weights.get(n, 0.0) for n in names}, terms=further)
    by_term = preferences.weights()
    bids = tuple({name: number(row, name) for name in by_term if name in row} for row in ranking)
    references = call.get("references")
    if not isinstance(references, dict):
        return Comparison(bids, by_term)
    scale = {name: finite(value) or 1.0 for name, value in references.items()}
    return Comparison(bids, by_term, scale)
