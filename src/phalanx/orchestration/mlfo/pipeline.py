"""The pipeline descriptor: what the MLFO returns (figure 2, step 1).

It says where each agent stands, which image it boots, what it shall be able to do, which VNFs
it serves, and who speaks with whom. It goes to and from YAML and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from phalanx.loading import Offence, parse_as, refusal, twice, unknown
from phalanx.orchestration.descriptors.node import Amount, Digest, Id

Cost = Annotated[float, Meta(ge=0, le=1e18)]


class PipelineAgent(Struct, frozen=True, forbid_unknown_fields=True):
    """An agent of the pipeline."""

    name: Id
    """Its identity, which is the name of its PoP: one agent stands at each."""
    site: Id
    image: Id
    digest: Digest
    capabilities: tuple[Id, ...]
    """Functions that it needs, in the order of their names."""
    scope: Id
    """The service instance that it guards."""
    serves: Annotated[tuple[Id, ...], Meta(min_length=1)]
    """VNF profiles."""


class Connection(Struct, frozen=True, forbid_unknown_fields=True):
    """Two agents that speak with each other."""

    between: tuple[Id, Id]
    """Names of the agents."""
    latency_ms: Amount
    """One way, over the links between their sites."""
    why: Literal["neighbours", "joins"] = "neighbours"
    """``neighbours``: they serve VNFs next to each other. ``joins``: only to keep all connected."""


class Placement(Struct, frozen=True, forbid_unknown_fields=True):
    """How good the placement is; costs in the unit of the weights."""

    objective: Cost
    bound: Cost
    """No placement costs less."""
    optimal: bool
    """Whether it is proven that there is nothing cheaper, up to rounding (1e-6)."""
    agents: Cost
    """Part of the objective: of the agents' number."""
    load: Cost
    distrust: Cost
    latency: Cost
    """Of the latencies between VNFs and agents."""
    peer_latency: Cost
    changes: Cost = 0.0
    """Of agents that start and VNFs that are handed over."""

    @property
    def gap(self) -> float:
        """Most that the objective is above the optimum, relative to the bound."""
        if self.objective <= self.bound:
            return 0.0
        return (self.objective - self.bound) / self.bound if self.bound > 0 else float("inf")


class PipelineDescriptor(Struct, frozen=True, forbid_unknown_fields=True):
    """The agents of a service, and their connections."""

    service: Id
    agents: Annotated[tuple[PipelineAgent, ...], Meta(min_length=1)]
    connections: tuple[Connection, ...]
    placement: Placement

    def served_from(self) -> dict[str, str]:
        """Return the site of the agent of each VNF."""
        return {vnf: agent.site for agent in self.agents for vnf in agent.serves}

    def to_json(self) -> bytes:
        """Return the descriptor as JSON."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"

    def to_yaml(self) -> str:
        """Return the descriptor as YAML."""
        return yaml.safe_dump(msgspec.to_builtins(self), sort_keys=False, width=100)


def parse_pipeline(text: str, name: str) -> PipelineDescriptor:
    """Return the pipeline that ``text`` (YAML or JSON) describes; ``name`` is its file's.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    pipeline, tree = parse_as(PipelineDescriptor, text, name)
    for field, why in _offences(pipeline):
        raise refusal(name, tree, field, why)
    return pipeline


def _offences(pipeline: PipelineDescriptor) -> Iterator[Offence]:
    names = [agent.name for agent in pipeline.agents]
    yield from twice("agents", names, ".name")
    yield from twice("agents", (agent.site for agent in pipeline.agents), ".site")
    server: dict[str, str] = {}
    for place, agent in enumerate(pipeline.agents):
        for number, vnf in enumerate(agent.serves):
            if vnf in server:
                yield f"agents[{place}].serves[{number}]", f"is served by {server[vnf]!r} already"
            server[vnf] = agent.name
    for place, connection in enumerate(pipeline.connections):
        for end in connection.between:
            if end not in names:
                yield f"connections[{place}].between", unknown("agent", end, names)
        if connection.between[0] == connection.between[1]:
            yield f"connections[{place}].between", "connects an agent with itself"
    pairs = ("–".join(sorted(connection.between)) for connection in pipeline.connections)
    yield from twice("connections", pairs, ".between")
