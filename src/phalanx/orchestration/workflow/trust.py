"""Steps 3 to 14 of figure 2: hardening, attestation, keys. Their place, and who does them.

====  ==============  ===========================================================================
step  name            what happens
====  ==============  ===========================================================================
3     harden          SECaaS adds measurement, verification and communication to the agents
4     reference       their reference measurements are stored
5     wrapped         their wrapped images are deployed
6     contracts       contracts for attestation and for keys are created
7     accounts        the agents get accounts, which are registered
8     credentials     they are given the credentials of their accounts
9     trigger         the configuration is complete: the initial attestation is asked for
10    plan            who measures and verifies whom, and in which order
11    measure         the agents measure themselves and verify each other
12    record          the results, and the root of trust, are recorded
13    keys            the keys of the agents' network go to the contract
14    key-exchange    the agents take them, and speak encrypted
====  ==============  ===========================================================================
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError


class NotAvailableError(PhalanxError):
    """Nobody here does this step; the text says what that means, in plain words."""


class TrustStep(Struct, frozen=True):
    """A step of figure 2 that makes agents trustworthy."""

    number: int
    """In the figure."""
    name: str
    words: str


TRUST_STEPS = (
    TrustStep(3, "harden", "hardening the agents"),
    TrustStep(4, "reference", "storing reference measurements"),
    TrustStep(5, "wrapped", "deploying wrapped images"),
    TrustStep(6, "contracts", "creating contracts"),
    TrustStep(7, "accounts", "registering the agents' accounts"),
    TrustStep(8, "credentials", "distributing credentials"),
    TrustStep(9, "trigger", "asking for the initial attestation"),
    TrustStep(10, "plan", "planning the attestation"),
    TrustStep(11, "measure", "measuring and verifying the agents"),
    TrustStep(12, "record", "recording results and the root of trust"),
    TrustStep(13, "keys", "handing in keys"),
    TrustStep(14, "key-exchange", "handing the agents their keys"),
)


class TrustServices(Protocol):
    """Hardens, attests and gives keys; each call may be repeated without harm."""

    def perform(self, step: TrustStep, service: str, agents: tuple[str, ...], /) -> str:
        """Do one step for some agents of a service, and return in a few words what came of it.

        Args:
            step: which one.
            service: the service.
            agents: the identities that are new, or changed.

        Raises:
            NotAvailableError: if nobody does it here; the workflow goes on.
            PhalanxError: if it failed: then all is rolled back, or tried again
                (``PassingFault``).

        """

    def revert(self, step: TrustStep, service: str, agents: tuple[str, ...], /) -> None:
        """Take back what ``perform`` did, or may have done in part.

        Raises:
            PhalanxError: if it failed.

        """

    def standing(self, agent: str, /) -> str:
        """Return how far an agent is trusted, such as ``unattested``, and why."""


class NoTrustServices:
    """The trust work that is not there yet: each step is left out, and says so."""

    def perform(self, step: TrustStep, _service: str, _agents: tuple[str, ...]) -> str:
        """Say what is not done."""
        raise NotAvailableError(f"not available: nothing here does it yet ({step.words})")

    def revert(self, step: TrustStep, service: str, agents: tuple[str, ...]) -> None:
        """Do nothing: nothing was done."""

    def standing(self, _agent: str) -> str:
        """Return what holds for every agent."""
        return "unattested: nobody has checked this agent's code yet"
