"""What a service says of itself to those who look for one, and how far it is believed.

A registration is one value of the table ``registry``, written by its owner alone. It holds
durations and counts, never moments: clocks of two machines need not agree.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.network import PopId
from phalanx.identity.names import Role

AreaName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z|^\Z")]
"""The name of one part; empty if the area is not narrowed to one."""


class Area(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of the network that a service manages; each name narrows it, none is end to end.

    The levels are those of the closed loops of INSPIRE-5Gplus: end to end, domain, slice
    (NSI), sub-slice (NSSI), network function.
    """

    domain: AreaName = ""
    slice: AreaName = ""
    subslice: AreaName = ""
    function: AreaName = ""

    @property
    def level(self) -> str:
        """The narrowest part that it names: ``end-to-end``, ``domain``, … ``function``."""
        named = [field for field in self.__struct_fields__ if getattr(self, field)]
        return named[-1] if named else "end-to-end"

    @property
    def depth(self) -> int:
        """How narrow it is: 0 for end to end, 4 for one function."""
        return 0 if self.level == "end-to-end" else self.__struct_fields__.index(self.level) + 1

    def contains(self, other: Area) -> bool:
        """Whether ``other`` lies within this area; an area contains itself."""
        return all(
            not (own := getattr(self, field)) or own == getattr(other, field)
            for field in self.__struct_fields__
        )

    def __str__(self) -> str:
        parts = (f"{f}:{name}" for f in self.__struct_fields__ if (name := getattr(self, f)))
        return "/".join(parts) or "end-to-end"


END_TO_END = Area()


MAX_OCTETS = 1 << 16
"""Largest registration."""

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Annotated[str, Meta(max_length=300)]
Words = Annotated[tuple[Word, ...], Meta(max_length=256)]


class RegistrationError(PhalanxError):
    """Octets are no registration; the text is one line."""


class ServiceState(Enum):
    """Where a service is in its life, as its owner says or a watcher finds."""

    STARTING = "starting"
    """Not ready for calls yet."""
    SERVING = "serving"
    DRAINING = "draining"
    """Ends what it does, and takes nothing new."""
    LEFT = "left"
    """Withdrew its registration: an end in order."""
    STALE = "stale"
    """Its lease ran out, it did not answer, or the watcher is cut off itself: it may be alive."""
    GONE = "gone"
    """Nothing was heard of it for several leases while the watcher was connected."""


DECLARED = (ServiceState.STARTING, ServiceState.SERVING, ServiceState.DRAINING)
"""What an owner may say of itself; the other states are found by those that watch."""


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


_TRUST_WORDS = {
    Tier.CONTRAINDICATED: "contraindicated: a verifier found code or settings that must not be",
    Tier.UNATTESTED: "unattested: nobody has checked this agent's code yet",
    Tier.WARNING: "warning: a verifier found something that needs a look",
    Tier.AFFIRMING: "affirming: a verifier found the code that is expected",
}


class Appraisal(Struct, frozen=True):
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

    owner: Annotated[AgentId, Meta(min_length=1, max_length=255)]
    """The identity that provides the service, and the key of the table."""
    role: Role
    incarnation: Annotated[int, Meta(ge=0)]
    """How often the owner was started; a higher one always wins."""
    capabilities: Words = ()
    """What it can do: names of network functions, or of management services."""
    area: Area = END_TO_END
    """The part of the network that it manages."""
    scope: Annotated[str, Meta(max_length=64)] = ""
    """Name of the scope of an agent, such as ``pop`` or ``slice``; empty if it is no agent."""
    pop: PopId | None = None
    """Where an agent stands; None if at no PoP."""
    operations: Words = ()
    """The operations that may be invoked."""
    state: ServiceState = ServiceState.STARTING
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


Check = Callable[[], str | None]
"""Returns what is wrong, in words; None: nothing."""


class HealthChecks:
    """The health checks of one service; an instance is what a ``Registrar`` asks."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[Check, HealthStatus]] = {}

    def add(self, name: str, check: Check, status: HealthStatus = HealthStatus.DEGRADED) -> None:
        """Ask ``check`` from now on; ``status`` is how the service is when it finds something.

        Raises:
            ValueError: if there is a check of that name.

        """
        if name in self._checks:
            raise ValueError(f"there is a health check {name!r} already")
        self._checks[name] = (check, status)

    def __call__(self) -> Health:
        """Return how the service is: as the worst of what its checks find."""
        found = [
            (status, f"{name}: {reason}"[:300])
            for name, (check, status) in self._checks.items()
            if (reason := check()) is not None
        ]
        worst = max((status for status, _ in found), key=list(HealthStatus).index, default=None)
        return Health(worst or HealthStatus.OK, tuple(reason for _, reason in found[:32]))
