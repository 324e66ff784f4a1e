"""What the agents of a service shall guard: our extension ``phalanx`` of an NSD's flavour."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from phalanx.domain.resources import Resources
from phalanx.orchestration.descriptors.node import Amount, Fraction, Id, Node


class Share(Node, frozen=True):
    """Resources that each served VNF costs its agent on top."""

    cores: Amount = 0.0
    memory_gb: Amount = 0.0
    disk_gb: Amount = 0.0

    def resources(self) -> Resources:
        """Return them as the domain's word."""
        return Resources(self.cores, self.memory_gb, self.disk_gb)


class AgentSpec(Node, frozen=True):
    """What every agent of the pipeline boots, and what it takes of its site."""

    image: Id
    """Name of the image; a site without it cannot host an agent."""
    cores: Amount
    memory_gb: Amount
    disk_gb: Amount = 0.0
    each_vnf: Share = Share()
    most_vnfs: Annotated[int, Meta(ge=1, le=200)] = 200
    """An agent serves at most so many VNFs."""

    def resources(self) -> Resources:
        """Return what an agent takes before it serves a VNF."""
        return Resources(self.cores, self.memory_gb, self.disk_gb)


class Guard(Node, frozen=True):
    """A VNF that an agent shall guard; limits left out are those of the service."""

    vnf_profile_id: Id
    functions: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=50)]
    """Capabilities that the VNF's agent needs, such as ``rate-limiter``."""
    latency_ms: Amount | None = None
    """Most latency between the VNF's site and its agent's, one way."""
    least_trust: Fraction | None = None
    """Least trust score of the site of its agent."""


class Security(Node, frozen=True):
    """The security needs of a service."""

    agent: AgentSpec
    guards: Annotated[tuple[Guard, ...], Meta(min_length=1, max_length=200)]
    latency_ms: Amount = 1000.0
    """Most latency between a VNF and its agent, one way."""
    peer_latency_ms: Amount = 1000.0
    """Most latency between agents that speak with each other, one way."""
    least_trust: Fraction = 0.0
    bandwidth_mb_s: Amount = 0.0
    """Links with less bandwidth carry no agents' traffic."""
