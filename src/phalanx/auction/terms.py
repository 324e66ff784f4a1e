"""The terms of a bid: what bids are compared by (definitions 7 and 8, eq. 3.1), an open set.

T, C and D are built in. Any installed distribution adds a term by an entry point in the group
``phalanx.bid_terms``, which names a ``BidTerm``, or a function of an ``Offer`` whose least value
is best::

    def price(offer: Offer) -> float:
        return RATES[offer.pop] * offer.units

A goal decides what counts: its preferences weigh terms, its constraints set hard limits to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from math import isfinite

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.paths import TOLERANCE
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import ConstrainedGoal, Preferences
from phalanx.domain.network import PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.series import INDICATORS
from phalanx.domain.vnf import Vnfd
from phalanx.loading import installed

GROUP = "phalanx.bid_terms"
"""Entry point group in which terms are found."""

_NOISE = 1e-9
"""Values this close, relative to the larger, are one value: arithmetic, not a difference."""
_SHOWN = 1e-6
"""So are values that the log shows alike: beside 0 all of them are far apart, relatively."""
_DIGITS = 12
"""Digits of a utility that count when two are compared."""
NO_EXPERIENCE = 0.5
"""Trust in an agent of which no ledger tells anything."""
_RESERVED = frozenset({"agent", "utility", *Bid.__struct_fields__})
"""What stands beside the terms in a row of the log."""


class Offer(Struct, frozen=True):
    """What the value of a term is worked out from."""

    view: NetworkView
    """The network, and what is known of agents, as the agent that works it out believes."""
    bidder: AgentId
    pop: PopId
    """Where the bidder stands."""
    goal: ConstrainedGoal
    vnf: str
    """Name of the VNF that would do the work."""
    units: int
    path: tuple[PopId, ...]
    """PoPs from the bidder to the tap, both included."""
    time_s: float
    """Seconds until the VNF is downloaded; 0 if it is deployed."""
    cost: float
    """Computational and network cost of the path (eq. 4.3, 4.4), in MB/s."""
    latency_ms: float
    """Accumulated latency of the path."""
    requires: Resources = NOTHING
    """What it would take at the bidder's PoP beside what is in use there."""


class BidTerm(Struct, frozen=True):
    """One term: its name, how its value is found, and which of two values is better."""

    name: str
    value: Callable[[Offer], float | str]
    """Returns the value, or why there can be no bid."""
    higher_is_better: bool = False
    unit: str = ""
    reference: float = 1.0
    """Difference of its values that counts as 1 where utilities have fixed references."""
    by_auctioneer: bool = False
    """Whether the auctioneer works the value out from its own view: what a bidder cannot be
    asked about itself, such as how far it is trusted."""
    least: Callable[[Offer], float] | None = None
    """Returns the best that the auctioneer believes, from its own view, of what a bidder says;
    a better value counts as that. None: all is believed."""

    def beyond(self, value: float, limit: float) -> str | None:
        """Return how ``value`` breaks the hard ``limit``; None if it keeps it."""
        excess, bound = (
            (limit - value, "least") if self.higher_is_better else (value - limit, "most")
        )
        if excess <= TOLERANCE:
            return None
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {value:.6g}{unit}, at {bound} {limit:g} wanted"


BUILT_IN = (
    BidTerm("T", lambda offer: offer.time_s, unit="s"),
    BidTerm("C", lambda offer: offer.cost, unit="MB/s"),
    BidTerm("D", lambda offer: offer.latency_ms, higher_is_better=True, unit="ms"),
)
"""Download time, cost and decentralisation (section 4.2.2)."""

TRUST = BidTerm(
    "trust",
    lambda offer: offer.view.properties(offer.bidder).get("trust", NO_EXPERIENCE),
    higher_is_better=True,
    by_auctioneer=True,
)
"""How far the bidder is trusted, from 0 to 1, as its auctioneer knows from the ledger."""

IDLE_W, BUSY_W = 100.0, 200.0
"""Power of a PoP's servers, in W, where the scenario says nothing: a server without work takes
about half of what it takes at full load (Fan, Weber and Barroso, ISCA 2007)."""


def allocated_load(offer: Offer) -> float:
    """Return the share of the PoP's scarcest resource that would be allocated with the offer."""
    site = offer.view.site(offer.pop)
    if site is None:
        return 0.0
    return max((site.total - site.free + offer.requires).shares(site.total).values())


def expected_load(offer: Offer) -> float:
    """Return the share of the PoP's scarcest resource that will be in use while the VNF runs.

    From T on until as far as the PoP's forecast looks; where there is none, what is allocated.
    So a forecast may make a PoP look fuller, and no emptier than it is going to be by T.
    """
    known, site = offer.view.properties(offer.pop), offer.view.site(offer.pop)
    ahead_s = known.get("ahead_s", 0.0)
    until = min(offer.time_s / ahead_s, 1.0) if ahead_s > 0 else 1.0
    new = {} if site is None else offer.requires.shares(site.total)
    loads = [allocated_load(offer)]
    for name in INDICATORS:
        now, then = known.get(name, 0.0), known.get(f"{name}_expected", 0.0)
        loads.append(max(now + (then - now) * until, then) + new.get(name, 0.0))
    return max(loads)


def more_power(offer: Offer) -> float:
    """Return how much more power the PoP would take, in W: P = idle + (busy - idle) * use.

    A PoP in which nothing runs is taken to be asleep, and would have to be woken.
    """
    known, site = offer.view.properties(offer.pop), offer.view.site(offer.pop)
    if site is None or offer.requires == NOTHING:
        return 0.0
    idle, busy = known.get("idle_w", IDLE_W), known.get("busy_w", BUSY_W)
    more = (busy - idle) * offer.requires.shares(site.total)["cores"]
    return more + (idle if site.free == site.total else 0.0)


LOAD = BidTerm("load", expected_load, least=allocated_load)
"""How full the PoP will be, from 0 to 1. The bidder says it, since it alone sees its links; but
nothing below what it advertised as allocated is believed."""
ENERGY = BidTerm("energy", more_power, unit="W", reference=100.0, by_auctioneer=True)
"""Power that the PoP would take more, as follows from the plan and from what it advertised."""


# -- terms that are installed -----------------------------------------------------------------


def installed_terms() -> dict[str, EntryPoint]:
    """Return the installed terms beside the built-in ones, by name, not loaded yet."""
    return installed(GROUP)


def load_terms(names: Iterable[str]) -> tuple[BidTerm, ...]:
    """Return the built-in terms, and those of ``names`` by their entry points.

    Raises:
        ScenarioError: if a term is unknown, cannot be loaded, or is no term of that name.

    """
    own = {term.name for term in BUILT_IN}
    wanted = sorted({*names} - own)
    points = installed_terms() if wanted else {}
    return (*BUILT_IN, *(_load(name, points.get(name)) for name in wanted))


def _load(name: str, point: EntryPoint | None) -> BidTerm:
    if point is None:
        raise ScenarioError(f"bid term {name!r}: there is none in the entry points {GROUP}")
    try:
        loaded = point.load()
    except Exception as fault:
        raise ScenarioError(
            f"bid term {name!r}: cannot load {point.value}: {type(fault).__name__}: {fault}"
        ) from fault
    if callable(loaded) and not isinstance(loaded, BidTerm | type):
        loaded = BidTerm(name, loaded)
    if not isinstance(loaded, BidTerm) or loaded.name != name or name in _RESERVED:
        raise ScenarioError(f"bid term {name!r}: {point.value} is no bid term of that name")
    return loaded


# -- the values of one bid --------------------------------------------------------------------


def bid_values(terms: Sequence[BidTerm], offer: Offer) -> dict[str, float] | str:
    """Return the values that a bidder's offer has, by term; or the reason to refuse.

    They are those of the built-in terms, and of all others that the goal weighs or limits and
    that are the bidder's to say.
    """
    asked = _asked_for(terms, offer.goal)
    if isinstance(asked, str):
        return asked
    values: dict[str, float] = {}
    for term in asked:
        if not term.by_auctioneer:
            value = _value(term, offer)
            if isinstance(value, str):
                return value
            values[term.name] = value
    return _beyond(terms, offer.goal, values) or values


def judged(
    terms: Sequence[BidTerm],
    view: NetworkView,
    bidder: AgentId,
    goal: ConstrainedGoal,
    bid: Bid,
    catalogue: Mapping[str, Vnfd] = {},
) -> Bid | str:
    """Return a bid that came in with the terms that are the auctioneer's to say; or a refusal.

    What a bidder says is taken for no better than can be (``BidTerm.least``); what its VNF
    requires is known from the ``catalogue``. A bid that lacks a value which the goal asks for is
    refused, and so are one beyond a limit and one whose path does not lead to the tap.
    """
    asked = _asked_for(terms, goal)
    if isinstance(asked, str):
        return asked
    if bid.path[-1:] != (goal.tap,):
        return f"its path does not lead to {goal.tap}"
    values: dict[str, float] = {}
    offer: Offer | None = None
    for term in asked:
        said = bid.terms.get(term.name, float("nan"))
        if not (term.by_auctioneer or isfinite(said)):
            return f"its bid does not say {term.name}"
        value: float | str = said
        if term.by_auctioneer or term.least:
            offer = offer or _offer_of(view, bidder, goal, bid, catalogue.get(bid.vnf))
            value = _value(term if term.least is None else replace(term, value=term.least), offer)
        if isinstance(value, str):
            return value
        if term.least:
            value = min(said, value) if term.higher_is_better else max(said, value)
        values[term.name] = value
    return _beyond(terms, goal, values) or (bid if offer is None else replace(bid, terms=values))


def _offer_of(
    view: NetworkView, bidder: AgentId, goal: ConstrainedGoal, bid: Bid, vnfd: Vnfd | None
) -> Offer:
    figures = (bid.terms["T"], bid.terms["C"], bid.terms["D"])
    needs = NOTHING if vnfd is None or bid.reuse is not None else vnfd.scaled(bid.units)
    return Offer(view, bidder, bid.path[0], goal, bid.vnf, bid.units, bid.path, *figures, needs)


def _asked_for(terms: Sequence[BidTerm], goal: ConstrainedGoal) -> Sequence[BidTerm] | str:
    """Return the built-in terms and those that ``goal`` names; a reason if one is unknown here."""
    further = goal.named_terms()
    if not further:
        return BUILT_IN
    known = {term.name: term for term in terms}
    names = {**dict.fromkeys(term.name for term in BUILT_IN), **further}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        return f"does not know the bid term {unknown!r}"
    return [known[name] for name in names]


def _value(term: BidTerm, offer: Offer) -> float | str:
    try:
        value = term.value(offer)
        if isinstance(value, str):
            return value
        number = float(value)
    except Exception as fault:  # a term's fault must not end the agent
        return f"fault in the bid term {term.name!r}: {type(fault).__name__}: {fault}"
    return number if isfinite(number) else f"bid term {term.name!r}: {number} is no finite number"


def _beyond(
    terms: Sequence[BidTerm], goal: ConstrainedGoal, values: dict[str, float]
) -> str | None:
    limits = goal.constraints.term_limits()
    for term in terms if limits else ():
        if term.name in limits and term.name in values:
            refusal = term.beyond(values[term.name], limits[term.name])
            if refusal is not None:
                return refusal
    return None


# -- the comparison of all bids ---------------------------------------------------------------


def rank(
    bids: Sequence[tuple[AgentId, Bid]],
    preferences: Preferences,
    terms: Sequence[BidTerm] = BUILT_IN,
    references: Mapping[str, float] | None = None,
) -> list[RankedBid]:
    """Return all bids with their utility, the winner (least utility) first.

    Without ``references`` by eq. 3.1: each term is normalised to [0, 1] between its least and
    its largest value among all ``bids``; one of which more is better counts the other way round,
    as (1 - D) does. A term in which all bids are equal cannot tell them apart and adds 0, so a
    lone bid has utility 0.

    With them each value is divided by its term's reference, and counts 1 minus that where more
    is better. So a utility depends on its own bid alone, and no losing bid changes the winner.

    Ties go to the bid that is better in T, then in C, D and the further terms in their order,
    then to the largest accuracy, and then to the bidder and the VNF that come first by name.
    """
    if not bids:
        return []
    weights = preferences.weights()
    weighed = [term for term in terms if term.name in weights]
    rows = _signed([bid.terms for _, bid in bids], weighed)
    columns = _normalised(rows, weighed, references)
    factors = [weights[term.name] for term in weighed]
    ranked = []
    for (bidder, bid), row, parts in zip(bids, rows, columns, strict=True):
        utility = sum(factor * part for factor, part in zip(factors, parts, strict=True))
        entry = RankedBid(bidder, bid, round(utility, _DIGITS))
        ranked.append((entry.utility, row, -bid.accuracy, bidder, bid.vnf, entry))
    ranked.sort(key=lambda line: line[:-1])
    return [line[-1] for line in ranked]


def normalised(
    bids: Sequence[Mapping[str, float]],
    terms: Sequence[BidTerm],
    references: Mapping[str, float] | None = None,
) -> list[tuple[float, ...]]:
    """Return what ``rank`` multiplies with the weights: the terms of each bid, less being better.

    Args:
        bids: the values of each bid, by the name of the term.
        terms: those that are weighed.
        references: as in ``rank``.

    """
    return _normalised(_signed(bids, terms), terms, references)


def _signed(bids: Sequence[Mapping[str, float]], terms: Sequence[BidTerm]) -> list[list[float]]:
    signs = [-1.0 if term.higher_is_better else 1.0 for term in terms]
    return [
        [sign * bid[term.name] for term, sign in zip(terms, signs, strict=True)] for bid in bids
    ]


def _normalised(
    rows: Sequence[Sequence[float]],
    terms: Sequence[BidTerm],
    references: Mapping[str, float] | None,
) -> list[tuple[float, ...]]:
    if references is None or not rows:
        columns = [_scale(column) for column in zip(*rows, strict=True)]
    else:
        columns = [
            [
                term.higher_is_better + value / references.get(term.name, term.reference)
                for value in column
            ]
            for term, column in zip(terms, zip(*rows, strict=True), strict=True)
        ]
    return list(zip(*columns, strict=True)) or [()] * len(rows)


def _scale(values: Sequence[float]) -> list[float]:
    least, most = min(values), max(values)
    spread = most - least
    if spread <= max(_SHOWN, _NOISE * max(abs(least), abs(most))):
        return [0.0] * len(values)
    return [(value - least) / spread for value in values]
