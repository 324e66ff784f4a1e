"""The VNF repository of a system: which capabilities there are, found by their entry points."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint

from msgspec import Struct

from phalanx.analytics.detectors import DetectorError, detector_class
from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Configured
from phalanx.bdi.capability import Capability, Library
from phalanx.coordination.arbitration import Arbitration
from phalanx.coordination.associations import Associations
from phalanx.coordination.conduct import Conduct
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.drain import Drain
from phalanx.coordination.duties import Duties
from phalanx.coordination.failover import Failover
from phalanx.coordination.lifecycle import VnfLifecycle
from phalanx.coordination.recovery import Recovery
from phalanx.coordination.workload import WorkloadForecaster
from phalanx.domain.agents import SCOPES, AgentId, Scope
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import Goal, Mode, Predicate
from phalanx.domain.rules import TrafficVerdict, listed
from phalanx.domain.vnf import Vnfd
from phalanx.loading import installed, unknown
from phalanx.policy.assessment import SslaAssessment, SslaNegotiation
from phalanx.policy.enforcement import PolicyEnforcer
from phalanx.runtime.scenario import MONITORS, STRATEGIES, DeclaredAgent, Scenario
from phalanx.slices.loop import ClosedLoop
from phalanx.slices.manager import ManagedLoop
from phalanx.trust.attestation import Attestation
from phalanx.trust.keys import KeyKeeping

GROUP = "phalanx.capabilities"
"""Entry point group in which capabilities are found."""
SCOPE_GROUP = "phalanx.scopes"
"""Entry point group in which scopes of agents are found."""

BUILT_IN: tuple[type[Capability], ...] = (
    Outlook,
    Bidder,
    Auctioneer,
    VnfLifecycle,
    Duties,
    Failover,
    Drain,
    Recovery,
)
"""What every agent can do (dissertation, 5.1: the VnfLifecycle and Auction capabilities)."""
LOOPS: tuple[type[Capability], ...] = (LoopContacts, ClosedLoop, Arbitration, ManagedLoop)
"""What every agent can do beside it, where there are slices; loops of slices can do no more than
that and what they bring, so that they cost nothing while they are idle."""
POLICED: tuple[type[Capability], ...] = (LoopContacts, SslaAssessment)
"""What every agent can do beside it, loops too, where there is a policy."""
ATTESTED: tuple[type[Capability], ...] = (Attestation, KeyKeeping)
"""What loops can do beside it, where agents attest each other."""
TRUST: tuple[type[Capability], ...] = (Attestation, Conduct, KeyKeeping, Associations)
"""What every agent can do beside it, where agents attest each other."""


class Catalogue(Struct, frozen=True):
    """The capabilities that a scenario's repository offers."""

    library: Library
    vnfds: dict[str, Vnfd]
    """Descriptors by capability, with what the scenario changes."""
    scopes: dict[str, Scope]
    """Scopes of agents by name, those of installed packages included."""
    brought: dict[str, type[Capability]]
    """Capabilities that some agents bring beside those that all know."""
    loops: frozenset[AgentId] = frozenset()
    """Names of the agents that are loops of slices."""

    def brought_by(self, agent: DeclaredAgent) -> tuple[str, ...]:
        """Return the names of the capabilities that an agent has from its start on."""
        return tuple(dict.fromkeys((*self.scopes[agent.scope].capabilities, *agent.capabilities)))

    def library_of(self, agent: DeclaredAgent) -> Library:
        """Return what an agent knows: what all know, and what it brings."""
        known = self.library.capabilities
        if agent.name in self.loops:
            may = dict.fromkeys((*LOOPS, *ATTESTED, *POLICED))
            own = [each for each in may if each.name in known]
            own += [self.brought[n] for n in self.brought_by(agent) if n not in known]
            return _shared(tuple(own))
        names = [name for name in self.brought_by(agent) if name not in known]
        if not names:
            return self.library
        return Library([*known.values(), *(self.brought[name] for name in names)])

    def goals(self) -> dict[str, Goal]:
        """Return the kinds of goals that can be auctioned, by how they are written.

        The keys are such as ``linkRateLimited`` and ``?anomalousUsage``. The fields of the
        values' predicates are blank: only the kind of the goal is meant.
        """
        found: dict[str, Goal] = {}
        for name in self.vnfds:
            for spec in self.library.capabilities[name].plans:
                if spec.local or spec.mode in (None, Mode.AVERT) or spec.achieves is Predicate:
                    continue
                kind = spec.achieves.__name__
                assert spec.mode is not None
                written = f"{spec.mode.value}{kind[0].lower()}{kind[1:]}"
                found[written] = Goal(_blank(spec.achieves), spec.mode)
        return dict(sorted(found.items()))

    def achievers(self, goal: Goal) -> list[Vnfd]:
        """Return the descriptors of the VNFs that can achieve ``goal``, by name."""
        return [self.vnfds[c.name] for c in self.library.achievers(goal) if c.name in self.vnfds]


@lru_cache(maxsize=64)
def _shared(capabilities: tuple[type[Capability], ...]) -> Library:
    """Return one library for all loops that can do the same."""
    return Library(capabilities)


def _blank(kind: type[Predicate]) -> Predicate:
    """Return a ``kind`` of which only the type matters."""
    fields = kind.__struct_fields__
    return kind(**dict.fromkeys(fields, ""))


def installed_capabilities() -> dict[str, EntryPoint]:
    """Return the capabilities that are installed, by name, not loaded yet."""
    return installed(GROUP)


def load_catalogue(
    scenario: Scenario,
    extra: Sequence[type[Capability]] = (),
    offered: Collection[TrafficVerdict] | None = None,
) -> Catalogue:
    """Return the capabilities that ``scenario`` lists, with its changes to their descriptors.

    Args:
        scenario: its ``functions`` are what the repository holds.
        extra: capabilities beside the installed ones; they are in the repository even if the
            scenario does not list them.
        offered: verdicts of traffic rules that the network's driver carries out; None: it is
            not known where the functions will run.

    Raises:
        ScenarioError: if a function, capability or scope is unknown or cannot be used, or a
            function asks for a verdict that is not offered.

    """
    given = {capability.name: capability for capability in extra}
    chosen: dict[str, type[Capability]] = {}
    listed_names = {*scenario.functions, *given, *STRATEGIES[scenario.strategy]}
    if scenario.policy is not None:
        listed_names.add(PolicyEnforcer.name)
    others = {name for strategy, name in MONITORS.items() if strategy != scenario.strategy}
    for name in sorted(listed_names - others):
        chosen[name] = _find(name, f"functions.{name}", given)
    vnfds: dict[str, Vnfd] = {}
    detector_class.cache_clear()  # a model may have been trained anew
    for name, capability in chosen.items():
        if capability.vnfd is None:
            if name not in scenario.functions:
                continue  # of an agent that brings it
            raise ScenarioError(f"functions.{name}: it is no network function of that name")
        spec = scenario.functions.get(name)
        vnfds[name] = capability.vnfd if spec is None else spec.applied_to(capability.vnfd)
        if vnfds[name].detector:
            try:
                detector_class(vnfds[name].detector)
            except DetectorError as error:
                raise ScenarioError(f"functions.{name}.detector: {error}") from None
        for verdict in capability.enforces:
            if offered is not None and verdict not in offered:
                raise ScenarioError(
                    f"functions.{name}: nothing here can {verdict.value} traffic; "
                    f"offered are {listed(offered)}"
                )
    trusting = TRUST if scenario.trust is not None else ()
    forecasting = () if scenario.forecast is None else (WorkloadForecaster,)
    looping = () if scenario.slices is None else LOOPS
    policed = () if scenario.policy is None else POLICED
    negotiating = (SslaNegotiation,) if policed else ()
    own_abilities = (*BUILT_IN, *trusting, *forecasting, *looping, *policed, *negotiating)
    library = Library([*dict.fromkeys(own_abilities), *(chosen[name] for name in vnfds)])
    scopes = _scopes()
    loops = frozenset(loop.name for loop in scenario.loops())
    brought = _brought(scenario, library, scopes, loops, given)
    return Catalogue(library, vnfds, scopes, brought, loops)


def _brought(
    scenario: Scenario,
    library: Library,
    scopes: Mapping[str, Scope],
    loops: Collection[AgentId],
    given: Mapping[str, type[Capability]],
) -> dict[str, type[Capability]]:
    """Return the capabilities that some agents bring.

    Raises:
        ScenarioError: if one, or a scope, is unknown, or a loop would have to deploy a function.

    """
    brought: dict[str, type[Capability]] = {}
    paths = {agent.name: f"agents[{index}]" for index, agent in enumerate(scenario.agents)}
    paths |= {name: f"slices: {name}" for name in loops}
    for agent in (each for each in scenario.all_agents() if each.name in paths):
        path = paths[agent.name]
        if agent.scope not in scopes:
            raise ScenarioError(f"{path}.scope: {unknown('scope', agent.scope, scopes)}")
        for name in (*scopes[agent.scope].capabilities, *agent.capabilities):
            if name not in library.capabilities:
                brought[name] = _find(name, f"{path}.capabilities", given)
            found = brought.get(name) or library.capabilities[name]
            if agent.name in loops and found.vnfd is not None:
                why = "it has a VNF, and loops deploy none; the agent of a PoP does"
                raise ScenarioError(f"{path}.capabilities: {name}: {why}")
    return brought


def _find(name: str, path: str, own: Mapping[str, type[Capability]]) -> type[Capability]:
    """Return the capability of a name, from ``own`` or the installed ones.

    Raises:
        ScenarioError: if there is none, or it cannot be used.

    """
    points = installed_capabilities()
    if name in own:
        found = own[name]
    elif name in points:
        found = _load(points[name], path)
    else:
        known = ", ".join(sorted({*points, *own}))
        raise ScenarioError(f"{path}: no such capability; known are {known}")
    if found.name != name:
        raise ScenarioError(f"{path}: {found.__qualname__} has the name {found.name!r}")
    if "settings" in found.__annotations__ and not issubclass(found, Configured):
        raise ScenarioError(
            f"{path}: {found.__qualname__} is given no settings; derive it from "
            "phalanx.auction.settings.Configured"
        )
    return found


def _scopes() -> dict[str, Scope]:
    scopes = dict(SCOPES)
    for point in installed(SCOPE_GROUP).values():
        try:
            loaded = point.load()
        except Exception as fault:
            line = f"scope {point.name}: cannot load {point.value}: {fault}"
            raise ScenarioError(line) from fault
        if not isinstance(loaded, Scope):
            raise ScenarioError(f"scope {point.name}: {point.value} is no Scope")
        scopes[loaded.name] = loaded
    return scopes


def _load(point: EntryPoint, path: str) -> type[Capability]:
    try:
        loaded = point.load()
    except Exception as fault:
        raise ScenarioError(
            f"{path}: cannot load {point.value}: {type(fault).__name__}: {fault}"
        ) from fault
    if not (isinstance(loaded, type) and issubclass(loaded, Capability)):
        raise ScenarioError(f"{path}: {point.value} is no Capability")
    return loaded
