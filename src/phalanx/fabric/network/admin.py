"""What operators and orchestrators may ask of a network: operations beside those of agents.

They are served by a ``Provider``, whose ``check`` lets in who may. Refusals of the network
itself (no such link, no room) are answers ``Failed``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from msgspec import Meta, Struct

from phalanx.clock import Clock
from phalanx.domain.actions import SiteState
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Call, Provider

Positive = Annotated[float, Meta(gt=0)]


class Administered(Protocol):
    """A network as who runs it sees it; what it refuses is a ``ValueError``."""

    def install(
        self, pop: PopId, instance: InstanceId, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> None:
        """Put an instance in place that runs from the start."""

    def site(self, pop: PopId) -> SiteState:
        """Return the state of a PoP."""

    def free(self) -> dict[PopId, Resources]:
        """Return what is not allocated at each PoP."""

    def reserved_mb_s(self) -> float:
        """Return the bandwidth that is reserved on all links together."""

    def leases(self) -> list[str]:
        """Return the ids of all holds, instances and measures."""

    def fail_link(self, a: PopId, b: PopId) -> None:
        """Cut a link."""

    def restore_link(self, a: PopId, b: PopId) -> None:
        """Mend a link."""

    def repository_away(self, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""


class Nothing(Struct, frozen=True):
    """No more is to be said."""


class InstallRequest(Struct, frozen=True):
    """Puts an instance in place that runs from the start, without a download."""

    pop: PopId
    instance: InstanceId
    vnfd: Vnfd
    units: Annotated[int, Meta(ge=1)]
    ttl_s: Positive
    """Seconds until its lease runs out, unless its agent renews it."""
    cause: str


class SiteRequest(Struct, frozen=True):
    """Asks for the state of a PoP."""

    pop: PopId


class FreeAnswer(Struct, frozen=True):
    """What is not allocated at each PoP."""

    free: dict[PopId, Resources]


class LeasesAnswer(Struct, frozen=True):
    """Ids of all holds, instances and measures."""

    leases: tuple[str, ...]


class ReservedAnswer(Struct, frozen=True):
    """Bandwidth that is reserved on all links together."""

    mb_s: float


class LinkRequest(Struct, frozen=True):
    """Names the link between two PoPs."""

    a: PopId
    b: PopId


class RepositoryRequest(Struct, frozen=True):
    """Whether the VNF repository shall be away."""

    away: bool


class ClockAnswer(Struct, frozen=True):
    """The network's time, in seconds since its run began; nobody else's clock need agree."""

    now_s: float


INSTALL = Operation("install", InstallRequest, Nothing, True, "put an instance in place")
SITE = Operation("site", SiteRequest, SiteState, False, "the state of a PoP")
FREE = Operation("free", Nothing, FreeAnswer, False, "what is not allocated at each PoP")
LEASES = Operation("leases", Nothing, LeasesAnswer, False, "all holds, instances and measures")
RESERVED = Operation("reserved", Nothing, ReservedAnswer, False, "bandwidth reserved on all links")
FAIL_LINK = Operation("fail-link", LinkRequest, Nothing, True, "cut a link")
RESTORE_LINK = Operation("restore-link", LinkRequest, Nothing, True, "mend a link")
REPOSITORY_AWAY = Operation(
    "repository-away", RepositoryRequest, Nothing, True, "take the VNF repository off, or back"
)
CLOCK = Operation("clock", Nothing, ClockAnswer, False, "the network's time")

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    INSTALL,
    SITE,
    FREE,
    LEASES,
    RESERVED,
    FAIL_LINK,
    RESTORE_LINK,
    REPOSITORY_AWAY,
    CLOCK,
)
"""What ``serve_network`` serves."""

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


def serve_network(provider: Provider, network: Administered, clock: Clock) -> None:
    """Let ``provider`` serve ``OPERATIONS``.

    Args:
        provider: of the network's identity; lets in who may.
        network: what is asked.
        clock: the network's.

    Raises:
        ValueError: if the provider serves one of them already.

    """

    def install(ask: InstallRequest) -> Nothing:
        network.install(
            ask.pop, ask.instance, ask.vnfd, units=ask.units, ttl_s=ask.ttl_s, cause=ask.cause
        )
        return Nothing()

    def site(ask: SiteRequest) -> SiteState:
        if ask.pop not in network.free():
            raise ValueError(f"no PoP {ask.pop}")
        return network.site(ask.pop)

    def link(change: Callable[[PopId, PopId], None], ask: LinkRequest) -> Nothing:
        change(ask.a, ask.b)
        return Nothing()

    def repository(ask: RepositoryRequest) -> Nothing:
        network.repository_away(ask.away)
        return Nothing()

    _serve(provider, INSTALL, install)
    _serve(provider, SITE, site)
    _serve(provider, FREE, lambda _: FreeAnswer(network.free()))
    _serve(provider, LEASES, lambda _: LeasesAnswer(tuple(network.leases())))
    _serve(provider, RESERVED, lambda _: ReservedAnswer(network.reserved_mb_s()))
    _serve(provider, FAIL_LINK, partial(link, network.fail_link))
    _serve(provider, RESTORE_LINK, partial(link, network.restore_link))
    _serve(provider, REPOSITORY_AWAY, repository)
    _serve(provider, CLOCK, lambda _: ClockAnswer(clock.now()))


def _serve(provider: Provider, operation: Operation[Q, A], carry_out: Callable[[Q], A]) -> None:
    def handle(call: Call[Q, A]) -> None:
        try:
            answer = carry_out(call.request)
        except ValueError as error:
            call.fail(str(error))
        else:
            call.done(answer)

    provider.serve(operation, handle)
