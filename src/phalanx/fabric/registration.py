"""What a service says of itself to those who look for one, and how far it is believed.

A registration is one value of the table ``registry``, written by its owner alone. It holds
durations and counts, never moments: clocks of two machines need not agree.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from phalanx.domain.errors import PhalanxError
from phalanx.fabric.scope import END_TO_END, Scope
from phalanx.identity.names import Role

MAX_OCTETS = 1 << 16
"""Largest registration."""

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Annotated[str, Meta(max_length=300)]
Words = Annotated[tuple[Word, ...], Meta(max_length=256)]


class RegistrationError(PhalanxError):
    """Octets are no registration; the text is one line."""


class State(Enum):
    """Where a service is in its life, as its owner says or a watcher finds."""

    STARTING = "starting"
    """Not ready for calls yet."""
    SERVING = "serving"
    DRAINING = "draining"
    """Ends what it does, and takes nothing new."""
    LEFT = "left"
    """Withdrew its registration: an end in order."""
    STALE = "stale"
    """Its lease ran out, or the watcher is cut off itself: it may be alive."""
    GONE = "gone"
    """Nothing was heard of it for several leases while the watcher was connected."""


DECLARED = (State.STARTING, State.SERVING, State.DRAINING)
"""What an owner may say of itself; the others are found by whoever watches."""


class HealthStatus(Enum):
    """How well a service does its work, best first."""

    OK = "ok"
    DEGRADED = "degraded"
    """It works, with less than it should have."""
    FAILING = "failing"
    """It does not do its work."""


class Health(Struct, frozen=True):
    """A health check's result, with reasons for a person to read."""

    status: HealthStatus = HealthStatus.OK
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=32)] = ()


class Tier(Enum):
    """What a verifier says of an agent, least trusted first.

    The tiers of attestation results in the RATS architecture (RFC 9334; their names are those
    of the IETF draft AR4SI, whose "none" is called ``unattested`` here).
    """

    CONTRAINDICATED = "contraindicated"
    UNATTESTED = "unattested"
    WARNING = "warning"
    AFFIRMING = "affirming"

    @property
    def rank(self) -> int:
        """Its place in the order, 0 for the least trusted."""
        return list(Tier).index(self)


_TRUST_WORDS = {
    Tier.CONTRAINDICATED: "contraindicated: a verifier found code or settings that must not be",
    Tier.UNATTESTED: "unattested: nobody has checked this agent's code yet",
    Tier.WARNING: "warning: a verifier found something that needs a look",
    Tier.AFFIRMING: "affirming: a verifier found the code that is expected",
}


class Trust(Struct, frozen=True):
    """How far a watcher trusts a service; never what the service says of itself."""

    tier: Tier = Tier.UNATTESTED
    verifier: str = ""
    """Who appraised its evidence; nobody for ``unattested``."""

    def __str__(self) -> str:
        return _TRUST_WORDS[self.tier] + (f" (says {self.verifier})" if self.verifier else "")


class Registration(Struct, frozen=True):
    """One service as its owner describes it. Unknown fields are passed over: later ones may come.

    Raises:
        ValueError: if the state is one that an owner cannot say of itself.

    """

    owner: Name
    """The identity that provides the service, and the key of the table."""
    role: Role
    incarnation: Annotated[int, Meta(ge=0)]
    """How often the owner was started; a higher one always wins."""
    capabilities: Words = ()
    """What it can do: names of network functions, or of management services."""
    scope: Scope = END_TO_END
    operations: Words = ()
    """The operations that may be invoked."""
    state: State = State.STARTING
    health: Health = Health()
    lease_s: Annotated[float, Meta(ge=0.1, le=3600)] = 6.0
    """How long this holds from when it is heard; the owner renews it every third of that."""
    load: Annotated[float, Meta(ge=0)] | None = None
    """Share of what it can do that it does, 1 for all; None: it does not say."""
    attestation: Annotated[str, Meta(max_length=8192)] = "unattested"
    """An attestation result to present (RFC 9334, passport model); the watcher judges it."""
    version: Annotated[str, Meta(max_length=64)] = ""
    addresses: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    """Hints where it runs, for a person; nothing is ever sent there because of them."""
    plan: Annotated[str, Meta(max_length=64)] = ""
    """Fingerprint of what agents of one plan must agree on; empty: it says nothing of a plan."""
    beat: Annotated[int, Meta(ge=0)] = 0
    """Counts what was written in this incarnation, so that an old value is no renewal."""

    def __post_init__(self) -> None:
        if self.state not in DECLARED:
            allowed = ", ".join(state.value for state in DECLARED)
            raise ValueError(f"state {self.state.value!r} cannot be declared, only {allowed}")

    @property
    def stamp(self) -> tuple[int, int]:
        """Order of this value among all that the owner ever wrote."""
        return self.incarnation, self.beat


_decoder = msgspec.json.Decoder(Registration)


def encode(registration: Registration) -> bytes:
    """Return ``registration`` as octets (JSON).

    Raises:
        RegistrationError: if no reader would take it.

    """
    octets = msgspec.json.encode(registration)
    decode(octets)
    return octets


def decode(octets: bytes) -> Registration:
    """Return the registration that ``octets`` are.

    Raises:
        RegistrationError: if they are none, or longer than ``MAX_OCTETS``.

    """
    if len(octets) > MAX_OCTETS:
        raise RegistrationError(f"{len(octets)} octets are no registration, at most {MAX_OCTETS}")
    try:
        return _decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RegistrationError(f"no registration: {error}") from error
