"""A service as it is deployed: what was asked, which agents stand where, and why."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.loading import one_line
from phalanx.orchestration.descriptors import Service, parse_service
from phalanx.orchestration.iml import Kind, Unit
from phalanx.orchestration.mlfo import Need, PipelineAgent, PipelineDescriptor

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

    def service(self, functions: Iterable[str] | None = None) -> Service:
        """Return the service that is asked for.

        Raises:
            ScenarioError: with one line, if a file is not usable.

        """
        known = None if functions is None else tuple(functions)
        return parse_service(self.descriptors, self.sites, self.request, known)


class Member(Struct, frozen=True):
    """A process of a service, and the site that it runs at."""

    key: str
    """What it is called within the service: stays when it moves."""
    site: str
    unit: Unit
    serves: tuple[str, ...] = ()
    """VNF profiles; none for the network."""
    why: tuple[str, ...] = ()
    """Why it stands there, one line for each VNF."""

    @property
    def name(self) -> str:
        """Its identity."""
        return self.unit.name

    @property
    def made(self) -> tuple[object, ...]:
        """What makes it another process if it is different."""
        unit = self.unit
        return self.site, unit.image, unit.digest, unit.capabilities, self.serves


class Deployment(Struct, frozen=True):
    """A service that is deployed."""

    service: str
    asked: Asked
    pipeline: PipelineDescriptor
    network: Member
    agents: tuple[Member, ...]
    pairs: tuple[tuple[str, str], ...]
    """Identities of agents that speak with each other."""
    plan: str = ""
    """The slice's network: a scenario file."""

    @property
    def members(self) -> tuple[Member, ...]:
        """All of its processes, the network first."""
        return self.network, *self.agents

    def member(self, name: str) -> Member | None:
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
    agents: list[Member] = []
    taken = {NETWORK, *(member.key for member in same.values())}
    at: dict[str, str] = {}
    # Those that stay come first and in their order: the numbers of their monitors stay.
    order = {m.key: place for place, m in enumerate(current.agents if current else ())}
    ordered = sorted(
        pipeline.agents,
        key=lambda a: order[same[a.name].key] if a.name in same else len(order),
    )
    for agent in ordered:
        before = same.get(agent.name)
        key = before.key if before is not None else _free_key(agent.serves, taken)
        taken.add(key)
        name = before.name if before is not None else identity_of(service, key, revision)
        unit = Unit(
            name,
            service,
            Kind.AGENT,
            revision,
            agent.image,
            agent.digest,
            agent.capabilities,
        )
        member = Member(key, agent.site, unit, agent.serves, _why(agent, need))
        if before is not None and before.made == member.made:
            member = replace(member, unit=before.unit)
        agents.append(member)
        at[agent.name] = name
    pairs = tuple((at[a], at[b]) for a, b in (c.between for c in pipeline.connections))
    network = _network(service, need, agents[0], current, revision)
    return Deployment(service, asked, pipeline, network, tuple(agents), pairs)


def _same(pipeline: PipelineDescriptor, current: Deployment | None) -> dict[str, Member]:
    """Return which member each agent of a pipeline is already."""
    left = list(current.agents) if current is not None else []
    same: dict[str, Member] = {}
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
    service: str, need: Need, first: Member, current: Deployment | None, revision: int
) -> Member:
    """Return the process of the slice's network: where it was, or beside the first agent."""
    before = None if current is None else current.network
    sites = {site.name: site for site in need.sites if site.name not in need.without}
    name = identity_of(service, NETWORK, revision) if before is None else before.name
    site = before.site if before is not None and before.site in sites else first.site
    image = first.unit.image
    digest = sites[site].images.get(image, first.unit.digest)
    unit = Unit(name, service, Kind.NETWORK, revision, image, digest, ())
    member = Member(NETWORK, site, unit, why=("it simulates the slice's own network",))
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
