"""Operations: what may be invoked, with typed requests and answers; those of every agent.

The structs are the contract between ``phalanx status`` (and other callers) and the
process of an agent, which carries the operations out.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct

from phalanx.domain.actions import RuleInForce
from phalanx.domain.agents import Loop
from phalanx.domain.messages import SecurityPolicy
from phalanx.domain.series import WorkloadForecast
from phalanx.fabric.registration import END_TO_END, Area, Health, Name, ServiceState
from phalanx.identity.names import Role

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


class Operation(Struct, Generic[Q, A], frozen=True):
    """Something that may be invoked of a service."""

    name: str
    request: type[Q]
    answer: type[A]
    changes: bool
    """Whether it changes anything; what does is denied unless a rule allows it."""
    summary: str
    open_to: tuple[Role, ...] = ()
    """Roles that may invoke it without a rule, though it changes something."""


class AgentCounters(Struct, frozen=True):
    """What went through one agent since it started."""

    sent: int = 0
    delivered: int = 0
    shed: dict[str, int] = {}
    """Dropped by a full queue, by queue."""
    refused: dict[str, int] = {}
    """Not let in or out, by reason."""
    lost: int = 0
    reconnects: int = 0


class StatusRequest(Struct, frozen=True):
    """Asks how the agent is."""


class StatusAnswer(Struct, frozen=True):
    """What an agent says of itself now."""

    agent: str
    incarnation: int
    state: ServiceState
    health: Health
    up_s: float
    """Since its process started."""
    area: Area = END_TO_END
    load: float | None = None
    """Share of the PoP's resources that is allocated."""
    goals: int = 0
    """Open goals of its own."""
    instances: int = 0
    """VNFs that it keeps."""
    counters: AgentCounters = AgentCounters()
    events_waiting: int = 0
    """Recorded, and not acknowledged by the stream yet."""
    clock_s: float = 0.0
    """Its clock, to be read beside its events; says nothing about any other clock."""
    duties: dict[str, bool] = {}
    """Standing goals of its plan that some agent must see to; whether it is the one."""
    loop: Loop | None = None
    """What it looks after, as a closed loop of slices."""


class DrainRequest(Struct, frozen=True):
    """Take no new work, hand over, and leave."""

    within_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """After that the rest is given up."""


class StopRequest(Struct, frozen=True):
    """End the process now; what it holds stays under its leases, for a restart to take up."""

    reason: Annotated[str, Meta(max_length=200)] = ""


class ReloadRequest(Struct, frozen=True):
    """Read the plan again; nothing changes if it is not usable, or needs another start."""


class ProbeRequest(Struct, frozen=True):
    """Asks whether the agent reaches another one, as messages between the two go: sealed."""

    peer: Name
    within_s: Annotated[float, Meta(gt=0, le=60)] = 2.0
    """How long the other may take to answer."""


class ProbeAnswer(Struct, frozen=True):
    """Whether the other answered; then both have the other's keys, and both are let through."""

    round_trip_ms: float | None
    """From the first word to its answer, by the prober's clock; None: none came."""
    reason: str = ""
    """Why none came, in words."""


class Accepted(Struct, frozen=True):
    """It is being done; the registry and the events tell how it goes."""

    detail: str = ""


class BeliefsRequest(Struct, frozen=True):
    """Asks what the agent believes."""

    predicate: Annotated[str, Meta(max_length=200)] = ""
    """Only those whose text begins with it."""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class BeliefInfo(Struct, frozen=True):
    """One belief."""

    predicate: str
    """Its text, such as ``overloaded(pop6>server)``."""
    value: bool
    holder: str | None = None
    """The agent whose measure makes it true."""
    cause: str | None = None
    """Id of the event that made the agent believe it."""


class BeliefsAnswer(Struct, frozen=True):
    """Beliefs in the order of their text."""

    beliefs: tuple[BeliefInfo, ...]
    more: int = 0
    """How many were left out because of the limit."""


class InventoryRequest(Struct, frozen=True):
    """Asks which VNFs run and which measures are in force."""


class InstanceEntry(Struct, frozen=True):
    """One VNF instance."""

    instance: str
    vnf: str
    version: str
    units: int
    state: str
    goals: tuple[str, ...] = ()


class MeasureEntry(Struct, frozen=True):
    """One measure in force."""

    measure: str
    instance: str
    target: str
    """What it limits, blocks or splits, in words."""
    lease_left_s: float | None = None
    rule: RuleInForce | None = None
    """As the network carries it out; None: it does not say."""


class InventoryAnswer(Struct, frozen=True):
    """What an agent runs and keeps in force."""

    instances: tuple[InstanceEntry, ...]
    measures: tuple[MeasureEntry, ...] = ()
    observed_only: bool = False
    """Whether the measures would be in force, and nothing is enforced."""


class ReleaseRequest(Struct, frozen=True):
    """Asks to take back a measure that the agent keeps in force."""

    measure: Annotated[str, Meta(min_length=1, max_length=400)]
    session: Annotated[str, Meta(max_length=100)] = ""
    """Who asked the caller for it, as the caller says."""


class PauseRequest(Struct, frozen=True):
    """Asks to bid for nothing and enforce nothing new, or to bid again; what runs stays."""

    paused: bool
    session: Annotated[str, Meta(max_length=100)] = ""
    """Who asked the caller for it, as the caller says."""


class ForecastRequest(Struct, frozen=True):
    """Asks what the agent expects of its PoP's load."""


STATUS = Operation("status", StatusRequest, StatusAnswer, False, "how the agent is")
BELIEFS = Operation("beliefs", BeliefsRequest, BeliefsAnswer, False, "what the agent believes")
INVENTORY = Operation(
    "inventory", InventoryRequest, InventoryAnswer, False, "the VNFs and measures that it keeps"
)
FORECAST = Operation(
    "forecast", ForecastRequest, WorkloadForecast, False, "what it expects of its PoP's load"
)
DRAIN = Operation("drain", DrainRequest, Accepted, True, "hand over and leave")
STOP = Operation("stop", StopRequest, Accepted, True, "end the process now")
RELOAD = Operation("reload", ReloadRequest, Accepted, True, "read the plan again")
RELEASE = Operation("release", ReleaseRequest, Accepted, True, "take a measure back")
PAUSE = Operation("pause", PauseRequest, Accepted, True, "bid for nothing, or bid again")
PROBE = Operation("probe", ProbeRequest, ProbeAnswer, True, "whether it reaches another agent")
"""It makes the agent speak: so it is no mere read, and agents do not have each other do it."""
POLICY = Operation("policy", SecurityPolicy, Accepted, True, "issue a policy to the loops it has")
"""Of managers of closed loops alone."""
