"""Where a run takes place: a clock, a network and a bus that belong together.

``SimulatedEnvironment`` (``simulation``) has flows as figures, ``LinuxEnvironment``
(``linux_environment``) namespaces and real packets, ``GuardEnvironment`` (``guarding``) the
interfaces of one real machine. Nothing else of a run knows where it takes place.

An infrastructure of another package is a callable that makes such an environment
(``OpenEnvironment``), under the entry point group ``phalanx.infrastructures``; its name is what
``phalanx run --on`` and a process's ``on`` take::

    [project.entry-points."phalanx.infrastructures"]
    lab = "my_package.lab:LabEnvironment"
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from msgspec import Meta, Struct

from phalanx.bus import Bus
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.domain.actions import SiteState
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Recorder
from phalanx.domain.messages import Message, Performative
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.domain.rules import AllowList, TrafficVerdict
from phalanx.domain.trust import GroupKeys
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.infrastructure import Infrastructure
from phalanx.infrastructure.observe_only import ObserveOnly
from phalanx.loading import installed
from phalanx.runtime.scenario import FaultSpec, Scenario

if TYPE_CHECKING:
    from phalanx.reporting.metrics import ProcessMetrics

MetricsAddress = Annotated[str, Meta(pattern=r"^(([0-9.]+|\[[0-9a-fA-F:]+\]):)?[0-9]{1,5}\Z")]
Say = Callable[[str], None]
"""Told in one line what is found or made."""

GROUP = "phalanx.infrastructures"
"""Of the entry points that name infrastructures."""
LINUX_LEAD_S = 6.0
"""How long it may take to make a testbed of a few PoPs and some dozen sources, in seconds."""


class RunClock(Clock, Protocol):
    """A clock that drives a run."""

    def run(self, until: float | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Make calls until the time ``until``, or until ``stop`` says true."""


class RunNetwork(Infrastructure, Protocol):
    """An infrastructure as the process sees it that makes or serves it."""

    allow: AllowList
    """Sources that no rule blocks or limits."""

    def install(
        self, pop: PopId, instance: InstanceId, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> None:
        """Put an instance in place that runs from the start, without a download.

        Raises:
            ValueError: if there is no room.

        """

    def site(self, pop: PopId) -> SiteState:
        """Return the state of a PoP."""

    def free(self) -> dict[PopId, Resources]:
        """Return what is not allocated at each PoP."""

    def reserved_mb_s(self) -> float:
        """Return the bandwidth that is reserved on all links together."""

    def leases(self) -> list[str]:
        """Return the ids of all holds, instances and measures."""

    def fail_link(self, a: PopId, b: PopId) -> None:
        """Cut a link; raises ValueError if no link joins the two."""

    def restore_link(self, a: PopId, b: PopId) -> None:
        """Mend a link; raises ValueError if no link joins the two."""

    def repository_away(self, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""

    def check(self) -> None:
        """Check the reservations.

        Raises:
            InvariantError: if a PoP or a link is over-committed.

        """


def acting_on(
    network: RunNetwork, plan: Scenario, clock: Clock, recorder: Recorder
) -> Infrastructure:
    """Return what performs the agents' actions: the network itself, if the plan has it enforce.

    It blocks and limits nothing that the plan allows, whatever agents ask for.
    """
    network.allow = AllowList(plan.allow)
    return network if plan.mode == "enforce" else ObserveOnly(network, clock, recorder)


def open_metrics(name: str, clock: Clock, *more: Callable[[], Any]) -> ProcessMetrics:
    """Return what counts the events of a process; see ``ProcessMetrics``.

    Raises:
        PhalanxError: with one line, if the extra is not installed.

    """
    try:
        from phalanx.reporting.metrics import ProcessMetrics  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as missing:
        needed = f"{missing.name}: pip install 'phalanx[metrics]'"
        raise PhalanxError(f"metrics need {needed}") from None
    return ProcessMetrics(name, clock, *more)


@runtime_checkable
class DegradableNetwork(Protocol):
    """A network whose links can get worse without going down, and whose rules can be removed."""

    def degrade(self, a: PopId, b: PopId, share: float, latency_ms: float, loss: float) -> None:
        """Leave a link a share of its bandwidth, with more latency and loss; 1, 0, 0: its own."""

    def remove_rules(self, effect: str) -> list[str]:
        """Take rules out of force whose effect begins so, behind the agents' backs."""


@runtime_checkable
class KeyedEnvironment(Protocol):
    """An environment whose bus can be protected by keys that agents hand out."""

    def rekey(self, keys: GroupKeys, cause: str) -> None:
        """Protect what agents say to each other with ``keys`` from now on; does not block."""


class RunBus(Bus, Protocol):
    """A bus that counts."""

    @property
    def sent(self) -> Mapping[Performative, int]:
        """Messages sent, by performative."""

    @property
    def shed(self) -> Mapping[str, int]:
        """Messages dropped by full queues, by receiver."""

    @property
    def queued(self) -> int:
        """Messages that wait or are on their way."""

    @property
    def delivered(self) -> int:
        """Messages handed over."""

    @property
    def lost(self) -> int:
        """Messages to agents that did not live, or that no path led to."""


class BuildContext(Struct, frozen=True):
    """What an environment's network and bus are built from."""

    scenario: Scenario
    seed: int
    vnfds: Mapping[str, Vnfd]
    recorder: Recorder
    """Of the network's events."""
    cause: str
    """Event that is the root of all causes."""
    shed: Callable[[Message], None] = lambda _: None
    """Told of a message that a full queue dropped."""


class Environment(Protocol):
    """A clock, a network and a bus that belong together."""

    @property
    def clock(self) -> RunClock:
        """The clock that drives the run."""

    @property
    def verdicts(self) -> frozenset[TrafficVerdict]:
        """The verdicts of traffic rules that its network carries out."""

    def build(self, context: BuildContext) -> RunNetwork:
        """Make the network; nothing happens in it before the clock runs. It may take seconds.

        Raises:
            PhalanxError: with one line, if the machine does not allow it.

        """

    def bus(self, context: BuildContext) -> RunBus:
        """Make the bus of agents that live in this process, once the network is built.

        Raises:
            PhalanxError: as ``build``.

        """

    def close(self) -> None:
        """Take apart what was built; calling it again has no effect."""


class OpenEnvironment(Protocol):
    """Makes environments of one infrastructure; what an entry point names."""

    def __call__(
        self, say: Say, *, clock: WallClock | None = None, state: Path | None = None
    ) -> Environment:
        """Return an environment of which nothing is made yet.

        Args:
            say: told in one line what is being made.
            clock: of the process that serves the network; None takes one of its own.
            state: directory of that process; None where agents live in this process as well.

        """


def infrastructures() -> dict[str, EntryPoint]:
    """Return the infrastructures that are installed, by the name that ``--on`` takes."""
    return installed(GROUP)


def open_environment(
    on: str, say: Say, *, clock: WallClock | None = None, state: Path | None = None
) -> Environment:
    """Return an environment of the infrastructure ``on``; see ``OpenEnvironment``.

    Raises:
        PhalanxError: with one line, if there is none of that name, or it cannot be loaded.

    """
    found = infrastructures()
    if on not in found:
        known = ", ".join(sorted(found))
        raise PhalanxError(f"no infrastructure {on!r} is installed; there are {known}")
    try:
        make: OpenEnvironment = found[on].load()
    except ModuleNotFoundError as absent:
        hint = ": pip install 'phalanx[linux]'" if on == "linux" else ""
        raise PhalanxError(f"the infrastructure {on} needs {absent.name}{hint}") from None
    except (ImportError, AttributeError) as error:
        reason = f"{found[on].value} cannot be loaded: {error}"
        raise PhalanxError(f"the infrastructure {reason}") from None
    return make(say, clock=clock, state=state)


def check_linux(*, overlay: bool = False) -> None:
    """Refuse real packets where this machine cannot have them, or not the agents' overlay.

    Raises:
        PhalanxError: with one line that says what is missing, and how to get it.

    """
    try:
        # An extra, and only these runs need it.
        from phalanx.infrastructure.linux.features import missing, probe  # noqa: PLC0415
    except ModuleNotFoundError as absent:
        raise PhalanxError(
            f"real packets need {absent.name}: pip install 'phalanx[linux]'"
        ) from None
    if lacking := missing(probe(), overlay=overlay):
        raise PhalanxError(f"no real packets on this machine: {'; '.join(lacking)}")


def faulty(bus: Bus, clock: Clock, scenario: Scenario, seed: int) -> FaultyBus:
    """Return ``bus`` with the message faults of the scenario."""
    rules = [rule for fault in scenario.faults if (rule := _fault_rule(fault)) is not None]
    return FaultyBus(bus, clock, random.Random(f"{seed}/bus"), rules)


def _fault_rule(fault: FaultSpec) -> FaultRule | None:
    if fault.kind not in ("lose", "duplicate", "delay", "reorder", "partition"):
        return None
    kind = "lose" if fault.kind == "partition" else fault.kind
    end = None if fault.for_s is None else fault.at_s + fault.for_s
    share = 1.0 if fault.share is None else fault.share
    groups = fault.groups or ()
    return FaultRule(kind, share, fault.at_s, end, fault.agent, fault.delay_s, groups)
