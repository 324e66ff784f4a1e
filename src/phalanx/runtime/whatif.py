"""What every agent would bid if a goal were auctioned at the start. Nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

from phalanx.auction.bidding import make_bids
from phalanx.auction.references import for_goal
from phalanx.auction.terms import BidTerm, judged, load_terms, rank
from phalanx.bdi import Capability
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import ConstrainedGoal, Goal
from phalanx.domain.resources import Resources
from phalanx.loading.refusals import nearest, show
from phalanx.runtime.catalogue import Catalogue, load_catalogue
from phalanx.runtime.composition import first_view, planned_sites, references_of
from phalanx.runtime.scenario import MONITORS, Scenario


class WhatIf(Struct, frozen=True):
    """The answers to a call for proposals, best bid first."""

    goal: ConstrainedGoal
    ranking: tuple[RankedBid, ...]
    terms: tuple[BidTerm, ...]
    """What the bids are compared by."""
    refusals: dict[str, str]
    """Agent to reason, in the order of the scenario's PoPs."""


def what_if(
    scenario: Scenario,
    goal: str,
    auctioneer: str,
    traffic_mb_s: float = 0.0,
    functions: Sequence[type[Capability]] = (),
) -> WhatIf:
    """Return what the agents would bid at the start of ``scenario``.

    Args:
        scenario: the network as it stands, with nothing running but the Link Monitors.
        goal: name of a predicate such as ``linkRateLimited`` or ``?anomalousUsage``.
        auctioneer: PoP of the asking agent, where the traffic is taken.
        traffic_mb_s: traffic that the goal is about.
        functions: capabilities beside the installed ones.

    Raises:
        ScenarioError: if the goal or the auctioneer is unknown.

    """
    catalogue = load_catalogue(scenario, functions)
    pops = [pop.name for pop in scenario.network.pops]
    if auctioneer not in pops:
        raise ScenarioError(
            f"there is no PoP {show(auctioneer)}{nearest(auctioneer, pops)}; "
            f"known are {', '.join(pops[:12])}"
        )
    wanted = _goal(scenario, catalogue, goal)
    constraints, preferences = scenario.terms(type(wanted.predicate).__name__)
    constrained = ConstrainedGoal(wanted, constraints, preferences, traffic_mb_s, auctioneer)
    sites = planned_sites(scenario.to_network())
    watching = catalogue.vnfds.get(MONITORS[scenario.strategy])
    taken = Resources() if watching is None else watching.requires
    for monitor in scenario.monitors:
        free = sites[monitor.at].free - taken
        sites[monitor.at] = structs.replace(sites[monitor.at], free=free)
    view = first_view(scenario, sites)
    vnfds = tuple(catalogue.vnfds.values())
    candidates = catalogue.achievers(wanted)
    terms = load_terms(constrained.named_terms())
    bids: list[tuple[str, Bid]] = []
    refusals: dict[str, str] = {}
    for pop in pops:
        state = view.site(pop)
        answer = make_bids(
            view,
            pop,
            constrained,
            vnfds,
            candidates,
            state.free if state else Resources(),
            {},
            scenario.network.repository,
            scenario.bidding,
            pricing=scenario.prices(),
            terms=terms,
        )
        if isinstance(answer, str):
            refusals[pop] = answer
            continue
        answers = [judged(terms, view, pop, constrained, bid) for bid in answer]
        made = [(pop, bid) for bid in answers if isinstance(bid, Bid)]
        bids += made
        if not made:
            refusals[pop] = str(answers[0])
    scale = for_goal(references_of(scenario, catalogue), constraints)
    return WhatIf(constrained, tuple(rank(bids, preferences, terms, scale)), terms, refusals)


def _goal(scenario: Scenario, catalogue: Catalogue, text: str) -> Goal:
    goals = {written.lstrip("?"): goal for written, goal in catalogue.goals().items()}
    word = text.strip().lstrip("?¬")
    goal = goals.get(word[:1].lower() + word[1:])
    if goal is None:
        raise ScenarioError(
            f"no function of this scenario achieves {show(text)}{nearest(word, goals)}; "
            f"known goals are {', '.join(goals)}"
        )
    # Of bids, only the kind of a goal matters; these make it readable.
    address = next((host.address for host in scenario.hosts), "any")
    link = next((monitor.link for monitor in scenario.monitors), "any")
    about = {"link": link, "ip": address, "source": "any", "target": address, "part": 0, "parts": 1}
    given = {f: about[f] for f in goal.predicate.__struct_fields__ if f in about}
    return structs.replace(goal, predicate=structs.replace(goal.predicate, **given))
