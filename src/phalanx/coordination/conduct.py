"""Conduct: whether an agent does what it says, as its peers can see it from outside.

A liar passes every measurement of its program. But what its PoP enforces is no secret: whoever
carries rules out tells which are in force, and each effect names what its rule is. So a verifier
compares the two, with the code of the function that owns the effect.

An agent that names what it enforces, and should not enforce it, is not found so: a filter of
innocent sources is what it says it is. That costs users their service, and those who watch the
service see it.
"""

from __future__ import annotations

from functools import partial

from phalanx.auction.outlook import Outlook
from phalanx.bdi import Agent, Capability, starts
from phalanx.domain.actions import Outcome, ReadRules, RuleInForce, RulesInForce
from phalanx.domain.agents import AgentId
from phalanx.domain.trust import Deviation
from phalanx.trust.attestation import Attestation, Audited


class Conduct(Capability):
    """Compares what agents have put in force with what they say of it."""

    name = "conduct"

    @starts
    def begin(self, me: Agent) -> None:
        """Have the doings of agents looked at together with their evidence."""
        me.capability(Attestation).audit = self._audit

    def _audit(self, me: Agent, agent: AgentId, audited: Audited) -> None:
        state = me.capability(Outlook).view.get(agent)
        if me.pop is None or state is None or state.pop is None:
            audited(())
        else:
            me.perform(ReadRules(state.pop), partial(self._compare, me, agent, audited))

    def _compare(self, me: Agent, agent: AgentId, audited: Audited, outcome: Outcome) -> None:
        rules = outcome.rules if isinstance(outcome, RulesInForce) else ()
        audited(tuple(d for rule in rules if (d := self._deviation(me, agent, rule)) is not None))

    def _deviation(self, me: Agent, agent: AgentId, there: RuleInForce) -> Deviation | None:
        life, _, rest = there.instance.partition("/")
        function = me.library.capabilities.get(rest.rpartition("/")[2])
        if life.rpartition(".")[0] != agent or function is None:
            return None
        if function.confirms(there.effect, there.rule) is not False:
            return None
        match, verdict = there.rule.match, there.rule.verdict.value
        sources = f" of {len(match.sources)} sources" if match.sources else ""
        what = f"in force is to {verdict} what goes to {match.target or match.link}{sources}"
        return Deviation("rule-other", there.effect, what)
