"""A service as it is deployed: what was asked, which agents stand where, and why."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from hashlib import sha256
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.loading import one_line
from phalanx.orchestration.descriptors.service import Service, parse_service
from phalanx.orchestration.iml.unit import Unit, UnitKind
from phalanx.orchestration.mlfo.need import Need
from phalanx.orchestration.mlfo.pipeline import PipelineAgent, PipelineDescriptor
from phalanx.slices.model import loops_of


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
                (``TransientFault``).

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


NETWORK = "network"
"""Key of the slice's own network among the members."""
_LONGEST = 64


class Asked(Struct, frozen=True):
    """What was asked of the orchestrator, whole: nothing else is read when it is resumed."""

    descriptors: dict[str, str]
    """Text of each descriptor file, by its name."""
    sites: tuple[str, str]
    """(name, text) of the file of sites."""
    request: tuple[str, str]
    """(name, text) of the request."""
    without: tuple[str, ...] = ()
    """Sites that may host no agent."""
    slices: tuple[str, str] | None = None
    """(name, text) of the slice descriptor; None: the service is of no slice."""

    def service(self, functions: Iterable[str] | None = None) -> Service:
        """Return the service that is asked for.

        Raises:
            ScenarioError: with one line, if a file is not usable.

        """
        known = None if functions is None else tuple(functions)
        return parse_service(self.descriptors, self.sites, self.request, known, self.slices)


class ServiceMember(Struct, frozen=True):
    """A process of a service, and the site that it runs at."""

    key: str
    """What it is called within the service: stays when it moves."""
    site: str
    unit: Unit
    serves: tuple[str, ...] = ()
    """VNF profiles; none for the network."""
    why: tuple[str, ...] = ()
    """Why it stands there, one line for each VNF."""
    slices: str = ""
    """Digest of the slice descriptor that it was started with; empty: there is none."""

    @property
    def name(self) -> str:
        """Its identity."""
        return self.unit.name

    @property
    def made(self) -> tuple[object, ...]:
        """What makes it another process if it is different."""
        unit = self.unit
        made = (self.site, unit.image, unit.digest, unit.capabilities, self.serves)
        return *made, self.slices


class Deployment(Struct, frozen=True):
    """A service that is deployed."""

    service: str
    asked: Asked
    pipeline: PipelineDescriptor
    network: ServiceMember
    agents: tuple[ServiceMember, ...]
    pairs: tuple[tuple[str, str], ...]
    """Identities of agents that speak with each other."""
    plan: str = ""
    """The slice's network: a scenario file."""
    loops: tuple[ServiceMember, ...] = ()
    """Closed loops of its slices, by their keys; none without a slice descriptor."""

    @property
    def all_agents(self) -> tuple[ServiceMember, ...]:
        """Its agents, and its loops."""
        return *self.agents, *self.loops

    @property
    def members(self) -> tuple[ServiceMember, ...]:
        """All of its processes, the network first."""
        return self.network, *self.all_agents

    def member(self, name: str) -> ServiceMember | None:
        """Return the member with this identity."""
        return next((m for m in self.members if m.name == name), None)


def identity_of(service: str, key: str, revision: int) -> str:
    """Return the name of an identity.

    It carries the number of the change that made it: a name that was revoked cannot be issued
    again before its certificate has run out, and a service may be back before that.

    Raises:
        ScenarioError: if it is too long.

    """
    name = f"{service}.{key}.{revision}"
    if len(name) > _LONGEST:
        raise ScenarioError(
            one_line(
                f"{service}: the agent of {key} would be {name}, which is longer than {_LONGEST} "
                "characters; a shorter name of the service or of the VNF profile is needed"
            )
        )
    return name


def arranged(
    asked: Asked,
    need: Need,
    pipeline: PipelineDescriptor,
    current: Deployment | None,
    revision: int,
) -> Deployment:
    """Return the members that ``pipeline`` makes of a service, without the plan of its network.

    An agent is the same as before if one stood at its site, or else if one served most of its
    VNFs: that one moves, and keeps its name and its memory. The others are new.
    """
    service = need.service
    same = _same(pipeline, current)
    agents: list[ServiceMember] = []
    taken = {NETWORK, *(member.key for member in same.values())}
    at: dict[str, str] = {}
    # Those that stay come first and in their order: the numbers of their monitors stay.
    order = {m.key: place for place, m in enumerate(current.agents if current else ())}
    ordered = sorted(
        pipeline.agents, key=lambda a: order[same[a.name].key] if a.name in same else len(order)
    )
    for agent in ordered:
        before = same.get(agent.name)
        key = before.key if before is not None else _free_key(agent.serves, taken)
        taken.add(key)
        name = before.name if before is not None else identity_of(service, key, revision)
        unit = Unit(
            name, service, UnitKind.AGENT, revision, agent.image, agent.digest, agent.capabilities
        )
        member = ServiceMember(
            key, agent.site, unit, agent.serves, _why(agent, need), _digest(asked)
        )
        agents.append(_unless_same(member, before))
        at[agent.name] = name
    pairs = tuple((at[a], at[b]) for a, b in (c.between for c in pipeline.connections))
    network = _network(service, need, agents[0], current, revision)
    spec = asked.service().slices if asked.slices is not None else None
    if spec is None:
        return Deployment(service, asked, pipeline, network, tuple(agents), pairs)
    loops: dict[str, ServiceMember] = {}
    known = {member.key: member for member in (current.loops if current else ())}
    for loop in loops_of(spec):
        # The loop of a function stands where its VNF is looked after, the others by the first.
        near = next((agent for agent in agents if loop.host in agent.serves), agents[0])
        before = known.get(loop.name)
        name = before.name if before else identity_of(service, loop.name, revision)
        image = (near.unit.image, near.unit.digest)
        unit = Unit(name, service, UnitKind.AGENT, revision, *image, loop.capabilities)
        why = (f"beside {near.key}",)
        member = ServiceMember(loop.name, near.site, unit, (), why, _digest(asked))
        loops[loop.name] = _unless_same(member, before)
    above = ((loop.name, name) for loop in loops_of(spec) for name in loop.above)
    pairs += tuple((loops[a].name, loops[b].name) for a, b in above)
    members = (tuple(agents), pairs, "", tuple(loops.values()))
    return Deployment(service, asked, pipeline, network, *members)


def _digest(asked: Asked) -> str:
    return "" if asked.slices is None else sha256(asked.slices[1].encode()).hexdigest()


def _unless_same(member: ServiceMember, before: ServiceMember | None) -> ServiceMember:
    """Return a member that is not to be started anew if it is what it was."""
    same = before is not None and before.made == member.made
    return replace(member, unit=before.unit) if before is not None and same else member


def _same(pipeline: PipelineDescriptor, current: Deployment | None) -> dict[str, ServiceMember]:
    """Return which member each agent of a pipeline is already."""
    left = list(current.agents) if current is not None else []
    same: dict[str, ServiceMember] = {}
    for agent in pipeline.agents:
        here = next((m for m in left if m.site == agent.site), None)
        if here is not None:
            same[agent.name] = here
            left.remove(here)
    for agent in pipeline.agents:
        shares = [(len({*m.serves} & {*agent.serves}), m) for m in left]
        most = max(shares, key=lambda share: share[0], default=None)
        if agent.name not in same and most is not None and most[0] > 0:
            same[agent.name] = most[1]
            left.remove(most[1])
    return same


def _free_key(serves: tuple[str, ...], taken: set[str]) -> str:
    free = next((vnf for vnf in serves if vnf not in taken), None)
    number = 2
    while free is None:
        candidate = f"{serves[0]}-{number}"
        free = None if candidate in taken else candidate
        number += 1
    return free


def _network(
    service: str, need: Need, first: ServiceMember, current: Deployment | None, revision: int
) -> ServiceMember:
    """Return the process of the slice's network: where it was, or beside the first agent."""
    before = None if current is None else current.network
    sites = {site.name: site for site in need.sites if site.name not in need.without}
    name = identity_of(service, NETWORK, revision) if before is None else before.name
    site = before.site if before is not None and before.site in sites else first.site
    image = first.unit.image
    digest = sites[site].images.get(image, first.unit.digest)
    unit = Unit(name, service, UnitKind.NETWORK, revision, image, digest, ())
    member = ServiceMember(NETWORK, site, unit, why=("it simulates the slice's own network",))
    if before is not None and before.made == member.made:
        return before
    return member


def _why(agent: PipelineAgent, need: Need) -> tuple[str, ...]:
    latencies = need.latencies()
    site = next(site for site in need.sites if site.name == agent.site)
    lines = []
    for vnf in need.vnfs:
        if vnf.name in agent.serves:
            ms = latencies.between(vnf.site, site.name)
            lines.append(
                f"{vnf.name} at {vnf.site}: {ms:g} ms away (at most {vnf.latency_ms:g}), "
                f"trust {site.trust:g} (at least {vnf.least_trust:g}), load {site.load:g}"
            )
    return tuple(lines)


class ChangeKind(Enum):
    """What is done to a service."""

    DEPLOY = "deploy"
    RECONFIGURE = "reconfigure"
    REMOVE = "remove"


class WorkflowStep(Struct, frozen=True):
    """A step of a change."""

    figure: str
    """Its place in figure 2: its number, or ``operation``, or ``end`` for what comes after."""
    kind: str
    """What is done; see ``actions``."""
    subject: str = ""
    """What it concerns: the name of a member, or of a step of trust."""

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return f"{self.figure}.{self.kind}" + (f":{self.subject}" if self.subject else "")


def step_named(name: str) -> WorkflowStep:
    """Return the step with a name of the journal."""
    figure, _, rest = name.partition(".")
    kind, _, subject = rest.partition(":")
    return WorkflowStep(figure, kind, subject)


class Difference(Struct, frozen=True):
    """What tells two deployments apart; the old and the new of those that are in both."""

    added: tuple[ServiceMember, ...]
    altered: tuple[tuple[ServiceMember, ServiceMember], ...]
    """They are started anew, here or elsewhere, and remember."""
    removed: tuple[ServiceMember, ...]


def difference(current: Deployment | None, target: Deployment | None) -> Difference:
    """Return what is to be done to come from one to the other; the network comes first."""
    old = {m.name: m for m in current.members} if current is not None else {}
    new = {m.name: m for m in target.members} if target is not None else {}
    return Difference(
        tuple(m for name, m in new.items() if name not in old),
        tuple((old[n], m) for n, m in new.items() if n in old and old[n].unit != m.unit),
        tuple(m for name, m in old.items() if name not in new),
    )


REQUEST, PIPELINE = WorkflowStep("0", "request"), WorkflowStep("1", "pipeline")
BROKERS, CONNECTIVITY = WorkflowStep("2", "brokers"), WorkflowStep("2", "connectivity")
OPERATION = WorkflowStep("operation", "serving")
COMMIT = WorkflowStep("end", "commit")
"""From here on a change is not rolled back any more: what is left is to clear up."""


def steps_of(
    kind: ChangeKind, current: Deployment | None, target: Deployment | None
) -> tuple[WorkflowStep, ...]:
    """Return the steps of a change; before the pipeline is computed, those up to there."""
    if kind is ChangeKind.REMOVE:
        return (REQUEST, *_removal(current))
    if target is None:
        return REQUEST, PIPELINE
    change = difference(current, target)
    steps = [REQUEST, PIPELINE]
    steps += [WorkflowStep("2", "identity", m.name) for m in change.added]
    if change.added:
        steps.append(BROKERS)
    # The network is left last and entered first: what agents do meanwhile waits for it.
    steps += [WorkflowStep("2", "leave", old.name) for old, _ in reversed(change.altered)]
    network = target.network.name
    fresh = [WorkflowStep("2", "start", m.name) for m in change.added]
    again = [WorkflowStep("2", "arrive", new.name) for _, new in change.altered]
    entering = [*again, *fresh]
    steps += [step for step in entering if step.subject == network]
    # Agents that go on have the new plan before others are started with it: so all have one.
    steps += [WorkflowStep("2", "inform", m.name) for m in _informed(change, current, target)]
    steps += [step for step in entering if step.subject != network]
    if change.added or change.altered:
        steps.append(CONNECTIVITY)
        steps += [WorkflowStep(str(trust.number), "trust", trust.name) for trust in TRUST_STEPS]
        steps.append(OPERATION)
    steps.append(COMMIT)
    steps += [WorkflowStep("end", "drain", m.name) for m in change.removed]
    moved = [old for old, new in change.altered if old.site != new.site]
    steps += [WorkflowStep("end", "clear", m.name) for m in (*moved, *change.removed)]
    steps += [WorkflowStep("end", "revoke", m.name) for m in change.removed]
    if change.removed:
        steps.append(WorkflowStep("end", "revocations"))
    return tuple(steps)


def _informed(
    change: Difference, current: Deployment | None, target: Deployment
) -> tuple[ServiceMember, ...]:
    """Return the agents that are not started anew though the plan is another."""
    if current is None or current.plan == target.plan:
        return ()
    altered = {old.name for old, _ in change.altered}
    return tuple(m for m in current.all_agents if m.name not in altered)


def _removal(current: Deployment | None) -> tuple[WorkflowStep, ...]:
    members = () if current is None else tuple(reversed(current.members))
    return (
        *(WorkflowStep("end", "halt", m.name) for m in members),
        *(WorkflowStep("end", "clear", m.name) for m in members),
        *(WorkflowStep("end", "revoke", m.name) for m in members),
        COMMIT,
    )
