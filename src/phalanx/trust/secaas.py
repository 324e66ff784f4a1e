"""SECaaS: whoever hardens agents enrols them, and verifies the first of the chain.

Source: Gonzalez et al., *Deployment of Genuine Multi-Agent Pipelines*, 3.B, steps 4 to 10: the
reference goes to a repository, agents are registered with the contracts, and the first
attestation is made from here, so that a group of infected agents cannot begin by vouching for
each other. Afterwards the group goes on by itself.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, when
from phalanx.domain.actions import Failed, Outcome
from phalanx.domain.agents import AgentId
from phalanx.domain.trust import Distrusted, Submit
from phalanx.ledger.entries import Enrolled, Entry, Planned, Revoked
from phalanx.trust.attestation import Attestation
from phalanx.trust.register import TrustStanding


class Deployed(Struct, frozen=True):
    """Percept: an agent was deployed from a protected image, and is to be enrolled."""

    enrolled: Enrolled


class Secaas(Capability):
    """Enrols what was deployed, says how the group attests itself, and revokes."""

    name = "secaas"

    @perceives(Planned)
    def planned(self, me: Agent, plan: Planned) -> None:
        """Say how the group attests itself from now on."""
        self._submit(me, plan)

    @perceives(Deployed)
    def deployed(self, me: Agent, percept: Deployed) -> None:
        """Enrol an agent; a life that is enrolled still ends with that."""
        entry = percept.enrolled
        standing = me.capability(Attestation).register.standing(entry.agent)
        if standing in (TrustStanding.ENROLLED, TrustStanding.TRUSTED, TrustStanding.SILENT):
            self._submit(me, Revoked(entry.agent, "is deployed anew"))
        me.record("trust.enrolled", agent=entry.agent, software=entry.software)
        self._submit(me, entry)

    @when(Distrusted)
    def distrusted(self, me: Agent, belief: Distrusted) -> None:
        """Revoke what was found not to be genuine before it was ever trusted."""
        member = me.capability(Attestation).register.members[belief.agent]
        if member.standing is TrustStanding.QUARANTINED and not member.revoked:
            self._submit(me, Revoked(belief.agent, "found not genuine"), quietly=True)

    def _submit(self, me: Agent, entry: Entry, *, quietly: bool = False) -> None:
        me.perform(Submit(entry), partial(self._submitted, me, type(entry).__name__, quietly))

    def _submitted(self, me: Agent, entry: AgentId, quietly: bool, outcome: Outcome) -> None:
        if isinstance(outcome, Failed) and not quietly:
            me.record("ledger.refused", entry=entry, reason=outcome.reason)
