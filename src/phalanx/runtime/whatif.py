"""What every agent would bid if a goal were auctioned, at the start or later in a run."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct, structs

from phalanx.auction.bidder import DRAINING, PAUSED, Bidder
from phalanx.auction.outlook import Outlook
from phalanx.auction.references import for_goal
from phalanx.auction.terms import BidTerm, judged, load_terms, rank
from phalanx.bdi.capability import Capability
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import ConstrainedGoal, Goal
from phalanx.domain.messages import CallForProposals
from phalanx.loading.refusals import nearest, show
from phalanx.runtime.catalogue import Catalogue
from phalanx.runtime.composition import references_of
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System

_SETTLED_S = 0.1
"""By then all agents know what the monitors hold."""


class WhatIf(Struct, frozen=True):
    """The answers to a call for proposals, best bid first."""

    goal: ConstrainedGoal
    ranking: tuple[RankedBid, ...]
    terms: tuple[BidTerm, ...]
    """What the bids are compared by."""
    refusals: dict[str, str]
    """Agent to reason, in the order of the scenario's PoPs."""

    def sentences(self) -> tuple[str, ...]:
        """Return who would win, who would come next, and who would refuse, and why."""
        words = []
        for place, ranked in enumerate(self.ranking):
            bid = ranked.bid
            figures = (f"{t.name} {bid.terms[t.name]:.4g} {t.unit}".strip() for t in self.terms)
            wins = f"would be number {place + 1}," if place else "would run it"
            units = bid.vnf if bid.units == 1 else f"{bid.units} × {bid.vnf}"
            over = f", over {' → '.join(bid.path)}" if len(bid.path) > 1 else ""
            says = f"utility {ranked.utility:.3f} ({', '.join(figures)})"
            words.append(f"{ranked.bidder} {wins} with {units}{over}: {says}.")
        if not words:
            words.append(f"No agent could achieve {self.goal.goal} now.")
        refusals = (f"{agent} would refuse: {reason}." for agent, reason in self.refusals.items())
        return (*words, *refusals)


def what_if(
    scenario: Scenario,
    goal: str,
    auctioneer: str,
    traffic_mb_s: float = 0.0,
    functions: Sequence[type[Capability]] = (),
    at_s: float = 0.0,
) -> WhatIf:
    """Return what the agents would bid in ``scenario`` at a time of its run.

    Args:
        scenario: the network and what happens in it.
        goal: name of a predicate such as ``linkRateLimited`` or ``?anomalousUsage``, or a goal as
            the log prints it.
        auctioneer: PoP of the asking agent, where the traffic is taken.
        traffic_mb_s: traffic that the goal is about.
        functions: capabilities beside the installed ones.
        at_s: when, in seconds of the run; until then it is run. 0: at its start.

    Raises:
        ScenarioError: if the goal or the auctioneer is unknown.

    """
    system = System(scenario, functions=functions)
    wanted = _constrained(system, goal, auctioneer, traffic_mb_s)
    answers: list[WhatIf] = []
    asked_at = max(at_s, _SETTLED_S)
    system.clock.call_at(asked_at, lambda: answers.append(_ask(system, wanted)))
    system.run(asked_at)
    return answers[0]


def what_now(system: System, goal: str, auctioneer: str, traffic_mb_s: float = 0.0) -> WhatIf:
    """Return what the agents of a run would bid now; nothing is said, held or done.

    To be called in the thread of its clock; arguments and errors as of ``what_if``.
    """
    return _ask(system, _constrained(system, goal, auctioneer, traffic_mb_s))


def _constrained(
    system: System, goal: str, auctioneer: str, traffic_mb_s: float
) -> ConstrainedGoal:
    scenario = system.scenario
    pops = [pop.name for pop in scenario.network.pops]
    if auctioneer not in pops:
        raise ScenarioError(
            f"there is no PoP {show(auctioneer)}{nearest(auctioneer, pops)}; "
            f"known are {', '.join(pops[:12])}"
        )
    wanted = _goal(scenario, system.catalogue, goal)
    constraints, preferences = scenario.terms(type(wanted.predicate).__name__)
    return ConstrainedGoal(wanted, constraints, preferences, traffic_mb_s, auctioneer)


def _ask(system: System, goal: ConstrainedGoal) -> WhatIf:
    """Return what the agents that live would bid now."""
    now, scenario = system.clock.now(), system.scenario
    call = CallForProposals(goal, now)
    terms = load_terms(goal.named_terms())
    bids: list[tuple[str, Bid]] = []
    refusals: dict[str, str] = {}
    vnfds = system.catalogue.vnfds
    for name, composed in system.agents.items():
        me = composed.agent
        if not composed.node.alive:
            refusals[name] = "does not run"
            continue
        outlook, bidder = me.capability(Outlook), me.capability(Bidder)
        if me.draining or bidder.paused:
            refusals[name] = DRAINING if me.draining else PAUSED
            continue
        offered = bidder.offer(me, call, outlook.free)
        if isinstance(offered, str):
            refusals[name] = offered
            continue
        answers = [judged(terms, outlook.view, name, goal, bid, vnfds) for bid in offered]
        made = [(name, bid) for bid in answers if isinstance(bid, Bid)]
        bids += made
        if not made:
            refusals[name] = str(answers[0])
    scale = for_goal(references_of(scenario, system.catalogue), goal.constraints)
    return WhatIf(goal, tuple(rank(bids, goal.preferences, terms, scale)), terms, refusals)


def _goal(scenario: Scenario, catalogue: Catalogue, text: str) -> Goal:
    goals = {written.lstrip("?"): goal for written, goal in catalogue.goals().items()}
    word, _, arguments = text.strip().lstrip("?¬").partition("(")
    goal = goals.get(word[:1].lower() + word[1:])
    if goal is None:
        raise ScenarioError(
            f"no function of this scenario achieves {show(text)}{nearest(word, goals)}; "
            f"known goals are {', '.join(goals)}"
        )
    kind, fields = type(goal.predicate), goal.predicate.__struct_fields__
    # Of bids, only the kind of a goal matters; these make it readable.
    address = next((host.address for host in scenario.hosts), "any")
    link = next((monitor.link for monitor in scenario.monitors), "any")
    about = {"link": link, "ip": address, "source": "any", "target": address, "part": 0, "parts": 1}
    given: dict[str, object] = {f: about[f] for f in fields if f in about}
    if not arguments:
        return structs.replace(goal, predicate=structs.replace(goal.predicate, **given))
    given |= dict(zip(fields, arguments.removesuffix(")").split(", "), strict=False))
    try:
        predicate = msgspec.convert({"type": kind.__name__} | given, kind, strict=False)
    except msgspec.ValidationError:
        raise ScenarioError(f"{show(text)}: expected {word}({', '.join(fields)})") from None
    return structs.replace(goal, predicate=predicate)
