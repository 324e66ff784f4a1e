"""Conduct: whether an agent does what it says, as its peers can see it from outside.

A liar passes every measurement of its program. But what its PoP enforces, and what was bid for
what it has, is no secret: whoever carries rules out and grants holds tells of them. So a verifier
compares the rules in force with their names, and both with what the agent itself says that it
keeps in force; and it holds bids against what cannot have been otherwise at the bidder's PoP. An
auctioneer looks at its winners in the same way, and an agent whose service suffers at all; what
they find is proof for nobody else, so they have those look who are drawn to verify the agent.

An agent that names what it enforces, and should not enforce it, is not found so: a filter of
innocent sources is what it says it is. That costs users their service, and those who watch the
service see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.bidding import contradiction
from phalanx.auction.contracts import Contract
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, hears, starts, when
from phalanx.domain.actions import HeldBids, Outcome, ReadRules, RuleInForce, RulesInForce
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.messages import Fact, Message, Result
from phalanx.domain.network import PopId
from phalanx.domain.predicates import ServiceBreached
from phalanx.domain.trust import Deviation, SignedReport
from phalanx.trust.attestation import RULE_MISSING, Attestation, Audited

MOST_KEPT = 1_024
"""Effects that an agent names to its verifiers."""

_Found = tuple[Deviation, ...] | None
"""What an agent does otherwise than it says; None: nobody tells what it does."""
_Told = Callable[[_Found, RulesInForce], None]


class Conduct(Configured, Capability):
    """Compares what agents do with what they say."""

    name = "conduct"

    @starts
    def begin(self, me: Agent) -> None:
        """Have the doings of agents looked at together with their evidence, and when they win."""
        me.capability(Attestation).audit = self._audit
        me.capability(Attestation).kept = self._kept
        me.capability(Auctioneer).awarded = self._awarded
        me.capability(Auctioneer).accepts = self._accepts
        me.capability(Bidder).signed = self._signed

    def _kept(self, me: Agent) -> tuple[str, ...]:
        kept = (str(effect) for each in me.capability(Bidder).inventory for effect in each.measures)
        return tuple(sorted(kept)[:MOST_KEPT])

    def _signed(self, me: Agent, contract: Contract) -> SignedReport | None:
        """Stand by so much of what was achieved as is still in force."""
        effects = _kept_by(me.name, contract.facts) & {*self._kept(me)}
        return me.capability(Attestation).stand_by(me, contract.conversation, sorted(effects))

    def _accepts(self, me: Agent, message: Message) -> bool:
        """Whether a winner stands by all that it says it keeps in force: so others can be shown."""
        result, agent = message.content, message.sender
        assert isinstance(result, Result)
        effects, report = _kept_by(agent, result.facts), result.report
        if not effects or agent == me.name:
            return True
        stands_by = report is not None and effects <= {*report.effects}
        return stands_by and me.capability(Attestation).is_signed(agent, report, 1)

    # -- as a verifier ----------------------------------------------------------------------

    def _audit(self, me: Agent, agent: AgentId, kept: tuple[str, ...], audited: Audited) -> None:
        self._look(me, agent, kept, lambda found, _: audited(found))

    # -- as an auctioneer, or as one that suffers -------------------------------------------

    def _awarded(self, me: Agent, conversation: str, winner: RankedBid) -> None:
        self._look(me, winner.bidder, (), partial(self._compare_award, me, conversation, winner))

    @hears(Result)
    def heard_result(self, me: Agent, message: Message) -> None:
        """Look whether what an agent says that it keeps in force is there."""
        result, agent = message.content, message.sender
        assert isinstance(result, Result)
        effects = _kept_by(agent, result.facts)
        if effects and agent != me.name:
            suspect, report = me.capability(Attestation).suspect, result.report
            self._look(me, agent, effects, lambda found, _: suspect(me, agent, found, report))

    @when(ServiceBreached)
    def service_breached(self, me: Agent, breached: ServiceBreached) -> None:  # noqa: ARG002
        """Look at what all others have in force."""
        for agent in me.capability(Outlook).alive():
            self._look(me, agent, (), partial(self._suspect, me, agent))

    def _suspect(self, me: Agent, agent: AgentId, found: _Found, _: RulesInForce) -> None:
        if found and agent != me.name:
            me.capability(Attestation).suspect(me, agent, found)

    def _compare_award(
        self, me: Agent, conversation: str, winner: RankedBid, found: _Found, there: RulesInForce
    ) -> None:
        """Take an award back if another bid was held for than the one that was heard."""
        self._suspect(me, winner.bidder, found, there)
        mine = (o for o in there.bids if o.hold.endswith(f"@{conversation}"))
        held = [bid for offer in mine if _of(offer, winner.bidder) for bid in offer.bids]
        auction = me.capability(Auctioneer).auctions.get(conversation)
        wanted = "" if auction is None else str(auction.call.goal.goal.predicate)
        reason = ""
        if held and not any(_same(bid, winner.bid) for bid in held):
            reason = "its PoP knows of another bid"
        elif winner.bid.kept and not any(wanted == rule.effect for rule in there.rules):
            reason = "what it says that it keeps so is not in force"
        if reason:
            me.capability(Auctioneer).reject_winner(me, conversation, winner.bidder, reason)

    # -- what is compared -------------------------------------------------------------------

    def _look(self, me: Agent, agent: AgentId, kept: Collection[str], told: _Told) -> None:
        """Compare what an agent does with what it says; ``told`` that, and what there is."""
        state = me.capability(Outlook).view.get(agent)
        if me.pop is None or state is None or (pop := state.pop) is None:
            told((), RulesInForce())
            return

        def compare(outcome: Outcome) -> None:
            if isinstance(outcome, RulesInForce):
                told(tuple(self._deviations(me, agent, pop, kept, outcome)), outcome)
            else:
                told(None, RulesInForce())

        me.perform(ReadRules(pop), compare)

    def _deviations(
        self, me: Agent, agent: AgentId, pop: PopId, kept: Collection[str], there: RulesInForce
    ) -> Iterator[Deviation]:
        own = [rule for rule in there.rules if _life(rule.instance.partition("/")[0]) == agent]
        for rule in own:
            yield from self._of_rule(me, rule)
        for effect in sorted({*kept} - {rule.effect for rule in own}):
            yield Deviation(RULE_MISSING, effect, "said to be in force, and is not")
        attestation = me.capability(Attestation)
        since_s = me.now - attestation.openings[0]
        known = {*(rule.effect for rule in own), *there.ended}
        for effect in sorted(attestation.reported(agent) - known):
            if 0.0 < since_s < there.remembers_s:
                yield Deviation("report-false", effect, "signed as in force, and it never was")
        enrolled_s = me.now - me.capability(Attestation).enrolled.get(agent, me.now)
        for offer in there.bids:
            if _of(offer, agent) and offer.age_s < enrolled_s:
                yield from self._of_bids(offer, pop, there)

    def _of_rule(self, me: Agent, there: RuleInForce) -> Iterator[Deviation]:
        function = me.library.capabilities.get(there.instance.rpartition("/")[2])
        if function is not None and function.confirms(there.effect, there.rule) is False:
            match, verdict = there.rule.match, there.rule.verdict.value
            sources = f" of {len(match.sources)} sources" if match.sources else ""
            what = f"in force is to {verdict} what goes to {match.target or match.link}{sources}"
            yield Deviation("rule-other", there.effect, what)

    def _of_bids(self, offer: HeldBids, pop: PopId, there: RulesInForce) -> Iterator[Deviation]:
        settings, conversation = self.settings, offer.hold.partition("@")[2]
        catalogue = tuple(settings.catalogue.values())
        for instance in offer.unknown:
            what = f"{instance} was to be used again, and was not there"
            yield Deviation("bid-false", conversation, what)
        for bid in offer.bids:
            vnfd = settings.catalogue.get(bid.vnf)
            if there.site is None or vnfd is None:
                continue
            figures = settings.repository, settings.pricing
            wrong = contradiction(bid, pop, there.site, vnfd, catalogue, *figures)
            if wrong is not None:
                yield Deviation("bid-false", conversation, wrong)


def _kept_by(agent: AgentId, facts: tuple[Fact, ...]) -> set[str]:
    """Return what an agent keeps true, as it says."""
    return {str(fact.predicate) for fact in facts if fact.value and fact.holder == agent}


def _life(name: str) -> AgentId:
    """Return the agent of a life, as ids begin with."""
    return name.rpartition(".")[0]


def _of(offer: HeldBids, agent: AgentId) -> bool:
    return _life(offer.hold.partition("@")[0]) == agent


def _same(held: Bid, heard: Bid) -> bool:
    """Whether a bid is the one that was heard, but for the terms that are the auctioneer's."""
    return held.terms.items() <= heard.terms.items() and replace(heard, terms=held.terms) == held
